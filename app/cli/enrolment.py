"""`tacit authority`, `tacit server`: who is in a federation, from nobody on.

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


@server.command("init")
def server_init(
    folder: ServerFolder,
    address: Annotated[
        str, typer.Option(help="As devices reach it, the best first.", metavar="HOST[,IP]")
    ],
    port: Annotated[int, typer.Option(help="That devices connect to.", min=1, max=65535)] = 9092,
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
