"""`tacit`: simulate a federation, attack it, read the report, ask what protection costs and proves.

Exit codes: 0 done; 1 the run failed; 2 a mistake in what was asked, nothing was done; 130 Ctrl-C.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from tacit import __version__
from tacit.app.cli import deployment
from tacit.app.cli.access import release
from tacit.app.cli.audit import audit
from tacit.app.cli.dashboard import dashboard
from tacit.app.cli.devices import device
from tacit.app.cli.doctor import doctor
from tacit.app.cli.enrolment import authority, server
from tacit.app.cli.explain import explain
from tacit.app.cli.gate import gate, serve
from tacit.app.cli.mark import mark
from tacit.app.cli.options import Assign, Config, work
from tacit.app.cli.screen import Json, Quiet, complain, screen_of
from tacit.crypto.errors import ParameterError, TacitError

EXTRA = "this command needs what a device does without: pip install '.[{}]' in Tacit's checkout"
FOR_THE_GATE = ("limits", "prometheus_client", "pyotp", "river")

cli = typer.Typer(
    name="tacit",
    help="Federated learning where the server learns the sum and nothing else.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

log = typer.Typer(
    name="log",
    help="Show an audit log, and whether it is what it was.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

TRY, PROVE, SERVE, ENROL = "Try and measure", "Keep and prove", "Serve", "Enrol"
for panel, groups in {
    TRY: (explain, audit),
    PROVE: (log, mark),
    SERVE: (gate,),
    ENROL: (authority, device, server),
}.items():
    for group in groups:
        cli.add_typer(group, rich_help_panel=panel)

Out = Annotated[Path, typer.Option("--out", "-o", help="The run's folder.", metavar="DIR")]
Replace = Annotated[bool, typer.Option("--replace", help="Start anew where there is a run.")]


@cli.command(rich_help_panel=TRY)
def demo(
    out: Out = Path("runs/demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds and steps.")] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Train ten devices on digits, in the clear and under masks; attack faces both ways; report.

    Two devices fall silent in mid-round. Takes about a minute.
    """
    work("showing").demo(screen_of(quiet, json), out, quick=quick)


@cli.command(rich_help_panel=TRY)
def simulate(
    config: Config = None,
    assign: Assign = None,
    out: Out = Path("runs/latest"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    replace: Replace = False,
    keys: Annotated[bool, typer.Option("--keys", help="List every setting and stop.")] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Run a whole federation on this machine.

    Without any setting: ten devices, the digits spread unevenly over them (dirichlet:0.5), an mlp,
    twenty rounds of fedavg over secure sums. --keys lists every setting with its default.

    An interrupted run (Ctrl-C) continues with --resume and ends with the same model.

    [bold]Examples[/]

      tacit simulate --set data.devices=20 --set strategy.name=fedadam

      tacit simulate -c federation.toml --out runs/mine

      tacit simulate --set 'faults=["drop report 3,7 @2-4"]'
    """
    screen = screen_of(quiet, json)
    if keys:
        work("about").list_keys(screen)
    elif resume:
        if config or assign or replace:
            raise ParameterError("--resume goes on with the run's own settings: leave out the rest")
        work("commands").resume(screen, out)
    else:
        work("commands").simulate(screen, config, assign or [], out, replace=replace)


@cli.command(rich_help_panel=TRY)
def attack(
    matrix: Annotated[
        Path | None,
        typer.Argument(
            help="A TOML file, or what comes with Tacit: standard, quick, text.",
            metavar="MATRIX",
            show_default=False,
        ),
    ] = None,
    out: Out = Path("runs/attack"),
    run: Annotated[
        Path | None,
        typer.Option("--run", help="Attack what this run's server saw instead.", metavar="DIR"),
    ] = None,
    named: Annotated[
        list[str] | None,
        typer.Option("--attack", help="With --run: this attack. Repeatable.", metavar="ATTACK"),
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes; 0 is one per core.", min=0)] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A small matrix: minutes.")] = False,
    replace: Replace = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Attack federations: every attack against every defence, with pictures and intervals.

    MATRIX is a TOML file, or what comes with Tacit: standard (by default), quick, text. Each of its
    cells is a federation that runs for real; the attack gets what its server saw. One that was cut
    off goes on where it was, by the same command.

    [bold]Examples[/]

      tacit attack --quick

      tacit attack matrix.toml --out runs/mine --workers 2

      tacit attack --run runs/latest --attack linear-readout
    """
    screen = screen_of(quiet, json)
    if run is not None:
        if matrix or quick:
            raise ParameterError("--run attacks one run: leave out the matrix")
        work("attacking").attack_finished(screen, run, named or [])
    elif named:
        raise ParameterError("--attack goes with --run: a matrix names its own")
    else:
        work("attacking").attack(screen, matrix, out, workers, quick=quick, replace=replace)


@cli.command(rich_help_panel=TRY)
def report(
    run: Annotated[Path, typer.Argument(help="A run's folder.", metavar="DIR", show_default=False)],
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Write report.html of a run again, from what is in its folder."""
    work("commands").report(screen_of(quiet, json), run)


@cli.command(rich_help_panel=TRY)
def data(
    name: Annotated[str | None, typer.Argument(help="A data set.", metavar="NAME")] = None,
    devices: Annotated[int, typer.Option(help="Over how many devices.", min=1)] = 10,
    partition: Annotated[
        str, typer.Option(help="iid, dirichlet:A, shards:N or sites.")
    ] = "dirichlet:0.5",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """List the data sets, or show one and how it would be spread over devices."""
    work("commands").data(screen_of(quiet, json), name, devices, partition, seed)


@log.command("verify")
def log_verify(
    file: Annotated[Path, typer.Argument(help="The log.", metavar="FILE", show_default=False)],
    key: Annotated[
        str | None, typer.Option("--key", help="Who has to have signed it.", metavar="HEX")
    ] = None,
    head: Annotated[
        list[Path] | None,
        typer.Option("--head", help="A head kept from before. Repeatable.", metavar="FILE"),
    ] = None,
    keep: Annotated[
        Path | None, typer.Option("--keep", help="Write its head there.", metavar="FILE")
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Find what was altered, moved, put in, taken out or cut off in an audit log, and where.

    Without --key, all of it may have been signed anew by somebody else. Without --head, its end may
    be missing. The exit code is 1 if anything is wrong.

    [bold]Example[/]

      tacit log verify runs/latest/audit.log --keep latest.head
    """
    work("log").verify(screen_of(quiet, json), file, key, head or [], keep)


@log.command("show")
def log_show(
    file: Annotated[Path, typer.Argument(help="The log.", metavar="FILE", show_default=False)],
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Show what an audit log says, an entry a line, times in UTC.

    Reasons are the words of devices, in quotes: nobody vouches for them. Whether all of it is there
    says tacit log verify. The exit code is 1 if anything is wrong.

    [bold]Example[/]

      tacit log show runs/latest/audit.log
    """
    work("log").show(screen_of(quiet, json), file)


@cli.command("duel", rich_help_panel=TRY)
def duel(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Which: all, if none is named.", metavar="NAME", show_default=False),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A look, in under a minute: looser targets.")
    ] = False,
    data: Annotated[str, typer.Option(help="digits or fashion-mnist.", metavar="NAME")] = "digits",
    file: Annotated[
        Path | None, typer.Option("--json", help="Write all numbers there.", metavar="FILE")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes.", min=0, show_default="one a core")] = 0,
    listed: Annotated[bool, typer.Option("--list", help="List them and stop.")] = False,
    quiet: Quiet = False,
) -> None:
    """Fight every protection of a released model against its attack, with it and without.

    An attack has to succeed where nothing defends, or that it fails elsewhere would show nothing.
    The exit code is 1 if a line is not what it has to be.

    [bold]Examples[/]

      tacit duel --quick

      tacit duel extraction-deep membership --json duels.json
    """
    screen, dueling = screen_of(quiet, False), work("dueling")
    if listed:
        dueling.show(screen)
    else:
        dueling.run(screen, names or [], data, file, workers, quick=quick)


Run = Annotated[int | None, typer.Option("--run", help="The run it belongs to.", min=0)]
Round = Annotated[int | None, typer.Option("--round", help="The round it is of.", min=0)]
Root = Annotated[
    str | None, typer.Option("--root", help="Root of the audit log, then.", metavar="HEX")
]
Over = Annotated[bool, typer.Option("--replace", help="Replace a file that is there.")]


@cli.command(rich_help_panel=PROVE)
def seal(
    file: Annotated[Path | None, typer.Argument(help="To seal.", metavar="FILE")] = None,
    to: Annotated[
        list[str] | None,
        typer.Option("--to", help="A public key, or its .pub file. Repeatable.", metavar="KEY"),
    ] = None,
    new_key: Annotated[
        Path | None,
        typer.Option("--new-key", help="Make a pair of keys, and seal nothing.", metavar="FILE"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="By default FILE.sealed.", metavar="FILE")
    ] = None,
    run: Run = None,
    round: Round = None,
    root: Root = None,
    replace: Over = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Encrypt a file so that only the holders of some keys can read it, or change it unnoticed.

    Run, round and log root go with it, readable by all, and nobody can change them.

    [bold]Examples[/]

      tacit seal --new-key auditor.key

      tacit seal model.safetensors --to auditor.key.pub
    """
    screen, sealing = screen_of(quiet, json), work("sealing")
    if new_key is not None:
        if file is not None or to:
            raise ParameterError("--new-key makes keys and seals nothing: leave out the rest")
        sealing.new_key(screen, new_key)
        return
    if file is None or not to:
        raise ParameterError("name a FILE to seal, and with --to who may open it")
    context = sealing.context_of(run or 0, round, root)
    sealing.seal(screen, file, to, out, context, replace=replace)


@cli.command("open", rich_help_panel=PROVE)
def unseal(
    file: Annotated[Path, typer.Argument(help="Sealed.", metavar="FILE", show_default=False)],
    key: Annotated[Path, typer.Option("--key", help="Of tacit seal --new-key.", metavar="KEYFILE")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="By default FILE without .sealed.", metavar="FILE"),
    ] = None,
    run: Run = None,
    round: Round = None,
    root: Root = None,
    replace: Over = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Open a sealed file. There is a file at the end if every byte is as it was sealed, or none.

    With any of --run, --round and --root it has to have been sealed with just these.
    """
    sealing = work("sealing")
    expected = sealing.context_of(run, round, root)
    sealing.unseal(screen_of(quiet, json), file, key, out, expected, replace=replace)


cli.command(rich_help_panel=SERVE)(serve)
deployment.add_to(cli)
for command in (dashboard, doctor, release):
    cli.command(rich_help_panel=deployment.DEPLOY)(command)


@cli.command()
def version(json: Json = False) -> None:
    """Print the versions that a report of a problem should name."""
    work("about").version(screen_of(False, json), __version__)


def run() -> None:
    """The entry point: every mistake of a user ends in one line and an exit code."""
    # One thread for each numeric library: devices are what runs in parallel, and sums of floats
    # then have one order, so that a seed repeats a run.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    try:
        cli()
    except ParameterError as wrong:
        complain(str(wrong))
        sys.exit(2)
    except TacitError as failed:
        complain(str(failed))
        sys.exit(1)
    except OSError as broken:  # a full disk, a folder that may not be written to
        complain(f"{broken.filename or 'input or output'}: {broken.strerror or broken}")
        sys.exit(1)
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        if package == "tacit":
            raise
        extra = "gate" if package in FOR_THE_GATE else "sim"
        complain(f"{package} is not installed: {EXTRA.format(extra)}")
        sys.exit(2)


if __name__ == "__main__":
    run()
