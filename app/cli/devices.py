"""`tacit device`: a device's keys, its node, and what its owner sees.

What each command takes is here, what it does in `enrolling`, `noding` and `owning`, loaded when it
is asked for.
"""

from pathlib import Path
from typing import Annotated

import typer

from tacit.app.cli.enrolment import Answer, Heard, Yes
from tacit.app.cli.options import work
from tacit.app.cli.screen import Json, Quiet, screen_of

device = typer.Typer(
    name="device",
    help="Make a device's keys, join a federation with them, and be its node.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
Vault = Annotated[
    Path, typer.Argument(help="The device's vault.", metavar="VAULT", show_default=False)
]


@device.command("init")
def device_init(
    vault: Vault,
    name: Annotated[str, typer.Option(help="What to call it.", show_default="VAULT's")] = "",
    policy: Annotated[
        Path | None,
        typer.Option("--policy", help="A TOML file with a table [policy].", metavar="FILE"),
    ] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", help="As policy.min_cohort=5. Repeatable.", metavar="KEY=VALUE"),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Answer outside secure sums, too.")
    ] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Make a device's vault, its keys, and a request for the authority.

    The policy is what the device's owner agrees to: tacit simulate --keys lists it under policy. No
    server can change it.

    [bold]Example[/]

      tacit device init /var/lib/tacit/vault --name ward-3 --set policy.min_cohort=5
    """
    screen = screen_of(quiet, json)
    work("enrolling").device_init(screen, vault, name or vault.name, policy, assign or [], plain)


@device.command("rotate")
def device_rotate(vault: Vault, quiet: Quiet = False, json: Json = False) -> None:
    """Make new keys in a device's vault, and a request. The old ones hold until it joins anew."""
    work("enrolling").device_rotate(screen_of(quiet, json), vault)


@device.command("join")
def device_join(
    vault: Vault,
    answer: Answer,
    fingerprint: Heard = None,
    yes: Yes = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Become the device that the authority's answer says, and trust that authority from now on.

    Asks the first time whether its fingerprint is what the authority reads out.
    """
    work("enrolling").device_join(screen_of(quiet, json), vault, answer, fingerprint or [], yes)


@device.command("run")
def device_run(
    vault: Vault,
    config: Annotated[
        list[str] | None,
        typer.Option(
            "--config", help="For the app, such as partition-id=3. Repeatable.", metavar="KEY=VALUE"
        ),
    ] = None,
    idle: Annotated[
        float | None,
        typer.Option(
            help="Look for messages at least every so many seconds.",
            min=0.1,
            show_default="node.toml's",
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Kilobytes a second for messages; 0 has no limit.",
            min=0,
            show_default="node.toml's",
        ),
    ] = None,
    linger: Annotated[
        float, typer.Option(help="Keep a run's app for its next message so many seconds.", min=0)
    ] = 60.0,
    preload: Annotated[
        list[str] | None,
        typer.Option(
            help="Load before messages come, such as torch. Repeatable.", metavar="MODULE"
        ),
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Be the device: wait for the server's messages and answer them, until Ctrl-C or SIGTERM.

    It runs the bundles that its owner has allowed, see tacit device allow, and connects again by
    itself. When it may train, how it waits and what it may send stands in the vault's node.toml,
    which its owner writes: see docs/deploy.md. With --preload torch a message is answered sooner,
    and the process is larger.
    """
    screen = screen_of(quiet, json)
    loads = preload or []
    work("noding").device_run(screen, vault, config or [], idle, rate, linger, loads)


@device.command("allow")
def device_allow(
    vault: Vault,
    bundles: Annotated[
        list[str] | None,
        typer.Argument(help="Files of bundles, or their SHA-256.", metavar="[BUNDLE|HASH]..."),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="No longer allow them.")] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Say which bundles the device runs; without any, show which.

    From the start it is the one that holds no code and runs the Tacit that is installed. A bundle
    with code in it can do whatever the device's own user can: read it first.
    """
    work("noding").device_allow(screen_of(quiet, json), vault, bundles or [], remove)


@device.command("status")
def device_status(
    vault: Vault,
    refused: Annotated[
        bool, typer.Option("--refused", help="Show what was refused, and why.")
    ] = False,
    last: Annotated[
        int | None,
        typer.Option("--last", help="Show the last entries of the diary.", metavar="N", min=1),
    ] = None,
    noted: Annotated[
        list[str] | None,
        typer.Option("--noted", help="A head that the diary had. Repeatable.", metavar="HEAD"),
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Show its owner what the device is in, what it did, refused and spent, and what is wrong.

    It reads the vault and writes nothing, whether the node runs or not. The exit code is 1 if
    anything is wrong. With a head of the diary that was written down elsewhere, --noted, it says
    whether all up to it is still there.
    """
    work("owning").device_status(screen_of(quiet, json), vault, refused, last, noted or [])
