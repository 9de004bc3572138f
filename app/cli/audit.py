"""`tacit audit`: what is private and what is released, attacked, and held against what is said."""

from pathlib import Path
from typing import Annotated

import typer

from tacit.app.cli.options import work
from tacit.app.cli.screen import Json, Quiet, screen_of
from tacit.crypto.errors import ParameterError

audit = typer.Typer(
    name="audit",
    help="Attack what is private, and hold what is proven against what is accounted.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@audit.command("dp")
def audit_dp(
    devices: Annotated[
        int | None,
        typer.Option(
            "--devices", "-n", help="In a sum.", min=2, max=10_000, show_default="6, or 400"
        ),
    ] = None,
    noise: Annotated[float, typer.Option(help="Noise multiplier.")] = 1.0,
    clip: Annotated[float, typer.Option(help="Largest norm of an update.")] = 1.0,
    dropouts: Annotated[int, typer.Option(help="So many drop out of each sum.", min=0)] = 1,
    corrupt: Annotated[int, typer.Option(help="So many tell the server all.", min=0)] = 1,
    length: Annotated[
        int | None,
        typer.Option("--length", "-d", help="Parameters.", min=1, show_default="8, or as many"),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Sums in a run.", min=1)] = 1,
    runs: Annotated[int, typer.Option(help="With the canary, and as many without.", min=4)] = 2000,
    delta: Annotated[float, typer.Option(help="At which epsilon is stated.")] = 1e-5,
    alpha: Annotated[float, typer.Option(help="Chance of a wrong bound.")] = 0.05,
    one_run: Annotated[
        bool, typer.Option("--one-run", help="One run with many canaries instead.")
    ] = False,
    controls: Annotated[
        bool, typer.Option("--controls", help="Audit mechanisms that are broken on purpose.")
    ] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Send canaries through private sums, and prove from what comes out how much it tells at least.

    That has to be below the epsilon that the ledger counts: if not, the exit code is 1.

    [bold]Examples[/]

      tacit audit dp --noise 2 --rounds 5

      tacit audit dp --one-run --devices 1000

      tacit audit dp --controls
    """
    screen, auditing = screen_of(quiet, json), work("auditing")
    if controls:
        if one_run:
            raise ParameterError("--controls and --one-run exclude each other")
        auditing.flag_controls(screen, delta, alpha)
    else:
        auditing.dp(
            screen, devices, noise, clip, dropouts, corrupt, length, rounds, runs, delta, alpha,
            single=one_run,
        )  # fmt: skip


@audit.command("release")
def audit_release(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.", metavar="RUN")],
    quick: Annotated[bool, typer.Option("--quick", help="Fewer shadows, smaller budgets.")] = False,
    shadows: Annotated[
        int | None,
        typer.Option(
            help="Federations to be trained for membership; 0: none.", min=0, show_default="16"
        ),
    ] = None,
    fail_over: Annotated[
        list[str] | None,
        typer.Option(
            help="What may be reached: NAME=NUMBER, or a TOML file with these under \\[fail-over]. "
            "Repeatable.",
            metavar="BOUND",
        ),
    ] = None,
    mark_key: Annotated[
        Path | None,
        typer.Option("--mark-key", help="Of tacit mark new: verify its mark.", metavar="KEY"),
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Attack the model of a finished run with its own data and settings, and sign what came out.

    Writes release.json, signed with the key of the run's audit log, and release.html; the log says
    so. The exit code is 1 if a bound is passed, or what has one could not be measured.

    [bold]Examples[/]

      tacit audit release runs/latest

      tacit audit release runs/latest --fail-over membership=0.05 --fail-over privacy=8
    """
    screen = screen_of(quiet, json)
    work("releasing").release(screen, run, shadows, fail_over or [], mark_key, quick=quick)


@audit.command("check")
def audit_check(
    report: Annotated[Path, typer.Argument(help="A release.json.", metavar="REPORT")],
    key: Annotated[
        str | None, typer.Option("--key", help="Who has to have signed it.", metavar="HEX")
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(
            "--log", help="The run's audit log.", metavar="FILE", show_default="beside it"
        ),
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Hold a report of tacit audit release against its signature, its page and the run's log.

    The exit code is 1 if any of them was altered, whatever the report says of the release.
    """
    work("releasing").check(screen_of(quiet, json), report, key, log)
