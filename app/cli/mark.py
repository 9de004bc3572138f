"""`tacit mark`: keys of marks of ownership, and whether a model bears one."""

from pathlib import Path
from typing import Annotated

import typer

from tacit.app.cli.options import Assign, Config, work
from tacit.app.cli.screen import Json, Quiet, screen_of

mark = typer.Typer(
    name="mark",
    help="Keys of marks of ownership, and whether a model bears one.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


KeyFile = Annotated[Path, typer.Argument(help="The key.", metavar="KEY", show_default=False)]


@mark.command("new")
def mark_new(
    key: KeyFile,
    simulated: Annotated[
        int | None,
        typer.Option(help="The key of simulated device N, which is no secret.", metavar="N", min=1),
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Make the key of a mark, in a file that only its owner may read. Nothing is overwritten.

    [bold]Example[/]

      tacit mark new owner.key

      tacit simulate --set mark.key=owner.key --set mark.bits=40
    """
    work("marking").new(screen_of(quiet, json), key, simulated)


@mark.command("commit")
def mark_commit(
    key: KeyFile,
    config: Config = None,
    assign: Assign = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Print what a key is committed to by: an owner of a device gives it to who runs the server.

    It covers how many triggers or bits there are and where, as the settings of the run have them.
    """
    work("marking").commit(screen_of(quiet, json), key, config, assign or [])


@mark.command("verify")
def mark_verify(
    suspect: Annotated[
        Path,
        typer.Argument(
            help="A run's folder, or a safetensors file.", metavar="SUSPECT", show_default=False
        ),
    ],
    key: Annotated[Path, typer.Option("--key", help="Of tacit mark new.", metavar="KEY")],
    log: Annotated[
        Path | None, typer.Option("--log", help="Audit log of the training.", metavar="FILE")
    ] = None,
    log_key: Annotated[
        str | None, typer.Option("--log-key", help="Who has to have signed it.", metavar="HEX")
    ] = None,
    false_claims: Annotated[
        int, typer.Option(help="Wrong keys that are tried as well.", min=0, max=100_000)
    ] = 100,
    model: Annotated[
        str | None, typer.Option(help="What the file is of.", metavar="NAME", show_default="mlp")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="What it is for.", metavar="NAME", show_default="digits")
    ] = None,
    config: Config = None,
    assign: Assign = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Say whether a model bears the mark of a key, by an exact test, and tries wrong keys too.

    With --log the key has to be one that the log commits to before the first round of training.
    Without, anybody could have found it for a finished model. The exit code is 1 unless it
    verifies. What the marks are is read off the run's folder, or with a file, off the settings that
    the run had.

    [bold]Examples[/]

      tacit mark verify runs/latest --key owner.key --log runs/latest/audit.log

      tacit mark verify stolen.safetensors --model cnn --data digits --key owner.key
    """
    named = {"model.name": model, "data.name": data}
    given = [f"{name}={value}" for name, value in named.items() if value is not None]
    work("marking").verify(
        screen_of(quiet, json), suspect, key, config, [*given, *(assign or [])], log, log_key,
        false_claims,
    )  # fmt: skip
