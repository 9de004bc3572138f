"""`tacit authority`, `tacit device`, `tacit server`: who is in a federation, from nobody on.

What each command takes is here, what it does in `tacit.app.cli.enrolling`, loaded when it is asked
for.
"""

from pathlib import Path
from typing import Annotated

import typer

from tacit.app.cli.options import work
from tacit.app.cli.screen import Json, Quiet, screen_of
from tacit.crypto.errors import ParameterError

authority = typer.Typer(
    name="authority",
    help="Say who is in a federation: its authority's acts, on a machine without a network.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
device = typer.Typer(
    name="device",
    help="Make a device's keys, and join a federation with them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
server = typer.Typer(
    name="server",
    help="Make a server's TLS key, join a federation with it, and check what it goes by.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Folder = Annotated[Path, typer.Option("--dir", "-d", help="The authority's folder.", metavar="DIR")]
Heard = Annotated[
    list[str] | None,
    typer.Option(
        "--fingerprint", help="As the other side read it out. Repeatable.", metavar="TEXT"
    ),
]
Yes = Annotated[
    bool, typer.Option("--yes", help="The file did not leave your hands: compare nothing.")
]
ApproveBy = Annotated[
    Path | None,
    typer.Option("--approve-by", help="A second person's key: see init.", metavar="KEYFILE"),
]
Requests = Annotated[
    list[Path], typer.Argument(help="Of init.", metavar="REQUEST...", show_default=False)
]
Named = Annotated[str, typer.Argument(help="Number or name.", metavar="NAME", show_default=False)]
Vault = Annotated[
    Path, typer.Argument(help="The device's vault.", metavar="VAULT", show_default=False)
]
ServerFolder = Annotated[
    Path, typer.Argument(help="The server's folder.", metavar="DIR", show_default=False)
]
Answer = Annotated[
    Path, typer.Argument(help="Of the authority.", metavar="ANSWER", show_default=False)
]
AUTHORITY = Path("authority")


@authority.command("init")
def authority_init(
    folder: Annotated[Path, typer.Argument(help="A new folder.", metavar="DIR")] = AUTHORITY,
    approver: Annotated[
        list[str] | None,
        typer.Option("--approver", help="A public key, or its .pub file. Repeatable."),
    ] = None,
    days: Annotated[int, typer.Option(help="How long a membership lasts.", min=1)] = 365,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Make an authority: a key that signs who is in, and one that certifies servers.

    Keep the folder on a machine without a network; whoever can read its keys is the authority.

    With --approver every act takes a second person's key, --approve-by, of any one of those named.
    Servers then refuse a roster that none of them approved; devices know the authority's key alone.
    A machine that has both keys at once can act alone: keep them with two people.

    [bold]Example[/]

      tacit authority approver bob.key

      tacit authority init --approver bob.key.pub
    """
    work("enrolling").authority_init(screen_of(quiet, json), folder, approver or [], days)


@authority.command("approver")
def authority_approver(
    file: Annotated[Path, typer.Argument(help="A new file.", metavar="FILE", show_default=False)],
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Make the key of a second person, who keeps FILE and hands out FILE.pub."""
    work("enrolling").authority_approver(screen_of(quiet, json), file)


@authority.command("enrol")
def authority_enrol(
    requests: Requests,
    folder: Folder = AUTHORITY,
    fingerprint: Heard = None,
    yes: Yes = False,
    approve_by: ApproveBy = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Let in devices and servers, all of these or none, and write an answer for each.

    Asks for each whether its fingerprint is what its owner sees, unless they are named.
    """
    screen = screen_of(quiet, json)
    work("enrolling").authority_enrol(screen, folder, requests, fingerprint or [], yes, approve_by)


@authority.command("revoke")
def authority_revoke(
    named: Named,
    reason: Annotated[str, typer.Option(help="For the log.")] = "",
    folder: Folder = AUTHORITY,
    approve_by: ApproveBy = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Put out a device, or a server, for good. Bring the servers their new answers.

    A device is out of a server's sums when the server has joined with its answer, and its node key
    is to be unregistered there. A server's certificate stays good until it ends, or the authority
    renews with --new-ca.
    """
    work("enrolling").authority_revoke(screen_of(quiet, json), folder, named, reason, approve_by)


@authority.command("rotate")
def authority_rotate(
    named: Named,
    request: Annotated[
        Path, typer.Argument(help="Of tacit device rotate.", metavar="REQUEST", show_default=False)
    ],
    folder: Folder = AUTHORITY,
    fingerprint: Heard = None,
    yes: Yes = False,
    approve_by: ApproveBy = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Give a device new keys under its old number, or a server a new key or address."""
    screen = screen_of(quiet, json)
    work("enrolling").authority_rotate(
        screen, folder, named, request, fingerprint or [], yes, approve_by
    )


@authority.command("renew")
def authority_renew(
    ca: Annotated[bool, typer.Option("--ca", help="A new certificate of the CA.")] = False,
    new_ca: Annotated[bool, typer.Option("--new-ca", help="A new key of the CA, too.")] = False,
    answers: Annotated[bool, typer.Option("--answers", help="Answers for all devices.")] = False,
    serial: Annotated[int, typer.Option(help="Of the roster, at least.", min=0)] = 0,
    folder: Folder = AUTHORITY,
    approve_by: ApproveBy = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Begin all memberships and server certificates anew.

    Devices learn of it from the server. --ca and --new-ca make answers for all devices: with --ca
    they may join in their own time; with --new-ca one that has not joined yet refuses the server,
    and one that has refuses a server whose key was stolen. --serial is for an authority that was
    restored from a backup: what it issued since has numbers of its own.
    """
    if ca and new_ca:
        raise ParameterError("--new-ca makes a new certificate, too: leave out --ca")
    kind = "key" if new_ca else "certificate" if ca else "nothing"
    screen = screen_of(quiet, json)
    work("enrolling").authority_renew(screen, folder, kind, answers, serial, approve_by)


@authority.command("show")
def authority_show(folder: Folder = AUTHORITY, quiet: Quiet = False, json: Json = False) -> None:
    """Who is in, until when, and the authority's fingerprint, to be read out."""
    work("enrolling").authority_show(screen_of(quiet, json), folder)


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


@server.command("init")
def server_init(
    folder: ServerFolder,
    address: Annotated[
        str, typer.Option(help="As devices reach it, the best first.", metavar="HOST[,IP]")
    ],
    port: Annotated[int, typer.Option(help="That SuperNodes connect to.", min=1, max=65535)] = 9092,
    name: Annotated[str, typer.Option(help="What to call it.", show_default="DIR's")] = "",
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Make a server's TLS key, and a request for the authority."""
    screen = screen_of(quiet, json)
    work("enrolling").server_init(screen, folder, name or folder.name, address, port)


@server.command("join")
def server_join(
    folder: ServerFolder,
    answer: Answer,
    fingerprint: Heard = None,
    yes: Yes = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Go by the authority's answer: certificate, roster, and nodes to register in Flower.

    Each act of the authority has a new answer for each server.
    """
    work("enrolling").server_join(screen_of(quiet, json), folder, answer, fingerprint or [], yes)


@server.command("check")
def server_check(folder: ServerFolder, quiet: Quiet = False, json: Json = False) -> None:
    """Say whether all that the server goes by is whole, approved, and in its time.

    The exit code is 1 if anything is wrong.
    """
    work("enrolling").server_check(screen_of(quiet, json), folder)
