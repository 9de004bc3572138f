"""`tacit up`, `run`, `stop`, `status`, `logs`, `down`: a federation of processes, on real machines.

What each command takes is here, what it does in `upping`, `running` and `looking`, loaded when it
is asked for.
"""

from pathlib import Path
from typing import Annotated

import typer

from tacit.app.cli.options import Assign, Config, work
from tacit.app.cli.screen import Json, Quiet, screen_of
from tacit.crypto.errors import ParameterError

DEPLOY = "Deploy"
HERE = Path("federation")

Dir = Annotated[
    Path,
    typer.Option(
        "--dir",
        "-d",
        help="A federation's folder, or a server's.",
        metavar="DIR",
        envvar="TACIT_DIR",
    ),
]
Key = Annotated[
    Path | None,
    typer.Option("--key", help="Your operator's key.", metavar="KEYFILE"),
]
Named = Annotated[str, typer.Argument(help="A run's.", metavar="NAME", show_default=False)]


def up(
    folder: Dir = HERE,
    nodes: Annotated[
        int | None,
        typer.Option("--nodes", help="Devices of a new federation; 4 by default.", min=1, max=1000),
    ] = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay, and end at Ctrl-C: for systemd.")
    ] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Start a federation: SuperLink, its front, and what else there is, kept running.

    In an empty place it is made first: an authority, a server and devices, all on this machine and
    all enrolled. In the folder of tacit server init it is that server, and devices are elsewhere.

    [bold]Example[/]

      tacit up --nodes 4
    """
    work("upping").up(screen_of(quiet, json), folder, nodes, foreground=foreground)


def down(folder: Dir = HERE, quiet: Quiet = False, json: Json = False) -> None:
    """End a federation's processes. Its runs go on at the next tacit up."""
    work("upping").down(screen_of(quiet, json), folder)


def run(
    config: Config = None,
    assign: Assign = None,
    folder: Dir = HERE,
    name: Annotated[
        str, typer.Option(help="What to call it.", metavar="NAME", show_default="run-1, run-2, ...")
    ] = "",
    resume: Annotated[
        str, typer.Option("--resume", help="Go on with this run instead.", metavar="NAME")
    ] = "",
    key: Key = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until it is over, and show it.")] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Order a run of a federation that is up. It takes its turn, and goes on whatever is restarted.

    Settings are those of tacit simulate; data.devices is how many are registered, unless set.

    [bold]Example[/]

      tacit run --set run.rounds=5 --wait
    """
    screen = screen_of(quiet, json)
    if resume:
        if config or assign or name:
            raise ParameterError("--resume goes on with the run's own settings: leave out the rest")
        work("running").resume(screen, folder, resume, key, wait=wait)
    else:
        work("running").run(screen, folder, config, assign or [], name, key, wait=wait)


def stop(
    name: Named, folder: Dir = HERE, key: Key = None, quiet: Quiet = False, json: Json = False
) -> None:
    """Stop a run. tacit run --resume NAME goes on with it."""
    work("running").stop(screen_of(quiet, json), folder, name, key)


def status(folder: Dir = HERE, quiet: Quiet = False, json: Json = False) -> None:
    """Show what runs, which devices are online, and how far runs are.

    The exit code is 1 if the federation is not up, or something is wrong.
    """
    work("looking").status(screen_of(quiet, json), folder)


def logs(
    what: Annotated[
        str, typer.Argument(help="A process, a device or a run.", metavar="WHAT")
    ] = "supervisor",
    folder: Dir = HERE,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="The last ones.", min=0)] = 40,
) -> None:
    """Show what a process printed: superlink, superexec, front, supervisor, a device or a run."""
    work("looking").logs(folder, what, lines, follow=follow)


def add_to(cli: typer.Typer) -> None:
    """Put the commands into `tacit`."""
    for command in (up, run, status, logs, stop, down):
        cli.command(rich_help_panel=DEPLOY)(command)
