"""`tacit server key`, `grant`, `withdraw`, `roles`, `share`, `tacit release`: who may do what.

What each command takes is here, what it does in `tacit.app.cli.accessing`, loaded when it is asked
for.
"""

from pathlib import Path
from typing import Annotated

import typer

from tacit.app.cli.enrolment import server
from tacit.app.cli.options import work
from tacit.app.cli.screen import Json, Quiet, screen_of

Dir = Annotated[
    Path,
    typer.Option(
        "--dir",
        "-d",
        help="The server's folder, or federation's.",
        metavar="DIR",
        envvar="TACIT_DIR",
    ),
]
As = Annotated[
    Path | None,
    typer.Option(
        "--as", help="Key of who orders it.", metavar="KEYFILE", show_default="DIR/keys/..."
    ),
]
Named = Annotated[str, typer.Argument(help="An operator.", metavar="NAME", show_default=False)]
FEDERATION = Path("federation")


@server.command("key")
def server_key(
    file: Annotated[Path, typer.Argument(help="A new file.", metavar="FILE", show_default=False)],
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Make an operator's key, where he is: he keeps FILE and hands out FILE.pub."""
    work("accessing").key(screen_of(quiet, json), file)


@server.command("grant")
def server_grant(
    name: Named,
    role: Annotated[str, typer.Option(help="viewer, operator, releaser or authority.")],
    key: Annotated[
        str | None,
        typer.Option("--key", help="His public key, or its .pub file.", metavar="FILE.pub"),
    ] = None,
    needs_audit: Annotated[
        bool, typer.Option("--needs-audit", help="Of a releaser: audited models alone.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Put a viewer's token there, unseen.", metavar="FILE"),
    ] = None,
    folder: Dir = FEDERATION,
    as_file: As = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Order that somebody has a role on a server. It takes the key of an authority.

    A viewer sees the dashboard, by a token that is made here and shown once; an operator runs, goes
    on with and stops runs; a releaser lets models out; an authority grants and withdraws. One key
    has one role, and none again after it was withdrawn.

    [bold]Examples[/]

      tacit server grant ann --role operator --key ann.key.pub --dir DIR --as authority.key

      tacit server grant screen-2 --role viewer --out viewer.token
    """
    screen = screen_of(quiet, json)
    work("accessing").grant(screen, folder, as_file, name, role, key, out, needs_audit=needs_audit)


@server.command("withdraw")
def server_withdraw(
    name: Named,
    folder: Dir = FEDERATION,
    as_file: As = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Order that somebody's key or token is good for nothing any more. It takes an authority's."""
    work("accessing").withdraw(screen_of(quiet, json), folder, as_file, name)


@server.command("roles")
def server_roles(folder: Dir = FEDERATION, quiet: Quiet = False, json: Json = False) -> None:
    """Who has, and who had, a role on a server."""
    work("accessing").roles(screen_of(quiet, json), folder)


@server.command("share")
def server_share(
    group: Annotated[str, typer.Argument(help="A Unix group.", metavar="GROUP")],
    folder: Dir = FEDERATION,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Let other users of this machine, who are in a group, give orders and fetch what is released.

    Whether an order is carried out is still for its signature to say. They can neither see nor
    change anything else in the folder, nor each other's orders.
    """
    work("accessing").share(screen_of(quiet, json), folder, group)


def release(
    run: Annotated[str, typer.Argument(help="A run.", metavar="NAME", show_default=False)],
    folder: Dir = FEDERATION,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key", help="Of a releaser.", metavar="KEYFILE", show_default="DIR/keys/releaser.key"
        ),
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Order that a finished run's model is let out, to DIR/released/NAME.safetensors.

    It has to be the one that the run's own log names; and for a releaser who needs it, one that
    tacit audit release was content with.
    """
    work("accessing").release(screen_of(quiet, json), folder, key, run)
