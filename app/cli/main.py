"""`tacit`: simulate a federation, attack it, read the report, ask what protection costs and proves.

Exit codes: 0 done; 1 the run failed; 2 a mistake in what was asked, nothing was done; 130 Ctrl-C.
"""

import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

import typer

from tacit import __version__
from tacit.app.cli.screen import Screen, Voice, complain
from tacit.crypto.errors import ParameterError, TacitError

EXTRA = "this command needs what a device does without: pip install '.[sim]' in Tacit's checkout"

cli = typer.Typer(
    name="tacit",
    help="Federated learning where the server learns the sum and nothing else.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

explain = typer.Typer(
    name="explain",
    help="Say what protection of a given size uses, promises and costs. Runs nothing.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
cli.add_typer(explain)

audit = typer.Typer(
    name="audit",
    help="Attack what is private, and hold what is proven against what is accounted.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
cli.add_typer(audit)

log = typer.Typer(
    name="log",
    help="Show an audit log, and whether it is what it was.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
cli.add_typer(log)

gate = typer.Typer(
    name="gate",
    help="Say who may ask a served model, and how much: keys, budgets, states, approvals.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
cli.add_typer(gate)

gate_key = typer.Typer(
    name="key", help="Issue, list, rotate and revoke keys.", no_args_is_help=True
)
gate.add_typer(gate_key)

gate_ask = typer.Typer(
    name="ask", help="Ask for what a second person has to approve.", no_args_is_help=True
)
gate.add_typer(gate_ask)

gate_budget = typer.Typer(
    name="budget", help="Ask for a larger budget; a second person approves.", no_args_is_help=True
)
gate.add_typer(gate_budget)

gate_totp = typer.Typer(name="totp", help="One-time codes for people.", no_args_is_help=True)
gate.add_typer(gate_totp)

mark = typer.Typer(
    name="mark",
    help="Keys of marks of ownership, and whether a model bears one.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
cli.add_typer(mark)

Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="A TOML file of settings.", metavar="FILE")
]
Assign = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="One setting, such as train.epochs=2. Repeatable.", metavar="KEY=VALUE"
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="The run's folder.", metavar="DIR")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on standard output.")]
Replace = Annotated[bool, typer.Option("--replace", help="Start anew where there is a run.")]


@cli.command()
def demo(
    out: Out = Path("runs/demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds and steps.")] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Train ten devices on digits, in the clear and under masks; attack faces both ways; report.

    Two devices fall silent in mid-round. Takes about a minute.
    """
    _load("showing").demo(_screen(quiet, json), out, quick=quick)


@cli.command()
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
    screen = _screen(quiet, json)
    if keys:
        _load("about").list_keys(screen)
    elif resume:
        if config or assign or replace:
            raise ParameterError("--resume goes on with the run's own settings: leave out the rest")
        _load("commands").resume(screen, out)
    else:
        _load("commands").simulate(screen, config, assign or [], out, replace=replace)


@cli.command()
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
    screen = _screen(quiet, json)
    if run is not None:
        if matrix or quick:
            raise ParameterError("--run attacks one run: leave out the matrix")
        _load("attacking").attack_finished(screen, run, named or [])
    elif named:
        raise ParameterError("--attack goes with --run: a matrix names its own")
    else:
        _load("attacking").attack(screen, matrix, out, workers, quick=quick, replace=replace)


@cli.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run's folder.", metavar="DIR", show_default=False)],
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Write report.html of a run again, from what is in its folder."""
    _load("commands").report(_screen(quiet, json), run)


@cli.command()
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
    _load("commands").data(_screen(quiet, json), name, devices, partition, seed)


@explain.command("secagg")
def explain_secagg(
    devices: Annotated[
        int, typer.Option("--devices", "-n", help="Devices in a cohort.", min=1, max=100_000)
    ],
    gamma: Annotated[
        float, typer.Option(help="Fraction that may collude with the server.", show_default="1/3")
    ] = 1 / 3,
    drop: Annotated[float, typer.Option(help="Fraction that may be missing.")] = 0.1,
    roster: Annotated[
        int | None,
        typer.Option(help="Devices enrolled in all.", min=1, max=10_000_000, show_default="-n"),
    ] = None,
    length: Annotated[
        float,
        typer.Option("--length", "-d", help="Parameters of the model.", show_default="1e6"),
    ] = 1e6,
    precision: Annotated[
        int, typer.Option(help="Bits of one device's parameter, under masks.", min=1, max=48)
    ] = 16,
    protocol: Annotated[
        str, typer.Option(help="How it is hidden: pairwise, lattice or auto.", metavar="NAME")
    ] = "pairwise",
    parameters: Annotated[
        str, typer.Option(help="Parameter set of lattice sums.", metavar="SET")
    ] = "4096-64-2",
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Neighbours or parameter set, committee and threshold for a cohort; what may fail; who learns
    what; what a sum costs; what owners have to allow.

    [bold]Examples[/]

      tacit explain secagg -n 1000 --gamma 0.1 --drop 0.2

      tacit explain secagg -n 1000 --gamma 0.1 --drop 0.2 --protocol lattice
    """
    screen = _screen(quiet, json)
    _load("explaining").secagg(
        screen, devices, gamma, drop, roster, length, precision, protocol, parameters
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
    screen, auditing = _screen(quiet, json), _load("auditing")
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
            help="What may be reached: NAME=NUMBER, or a TOML file with these under [fail-over]. "
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
    screen = _screen(quiet, json)
    _load("releasing").release(screen, run, shadows, fail_over or [], mark_key, quick=quick)


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
    _load("releasing").check(_screen(quiet, json), report, key, log)


@explain.command("privacy")
def explain_privacy(
    devices: Annotated[
        int, typer.Option("--devices", "-n", help="Devices in a cohort.", min=2, max=100_000)
    ],
    rounds: Annotated[int, typer.Option(help="Rounds that a device takes part in.", min=1)] = 20,
    epsilon: Annotated[float, typer.Option(help="What all of them may cost it.")] = 8.0,
    delta: Annotated[float, typer.Option(help="At which delta.")] = 1e-5,
    length: Annotated[
        float,
        typer.Option("--length", "-d", help="Parameters of the model.", show_default="1e6"),
    ] = 1e6,
    mode: Annotated[
        str, typer.Option(help="distributed, local or central.", metavar="MODE")
    ] = "distributed",
    gamma: Annotated[
        float, typer.Option(help="Fraction that may collude with the server.", show_default="1/3")
    ] = 1 / 3,
    drop: Annotated[
        float, typer.Option(help="Fraction that may be missing of more than 32 devices.")
    ] = 0.3,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Noise, bytes and epsilon of a private run, and how much noise a trusted server would need.

    [bold]Example[/]

      tacit explain privacy -n 100 --rounds 50 --epsilon 4 -d 1e5
    """
    screen = _screen(quiet, json)
    _load("explaining_privacy").privacy(
        screen, mode, devices, rounds, epsilon, delta, length, gamma, drop
    )


@explain.command("model")
def explain_model(
    name: Annotated[
        str, typer.Argument(help="A built-in model, or package.module:factory.", metavar="NAME")
    ],
    data: Annotated[
        str, typer.Option(help="The data set it is for: shape and classes.", metavar="NAME")
    ] = "digits",
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """The arrays of a model, and the fingerprint by which an owner allows this structure alone.

    [bold]Example[/]

      tacit explain model mlp --data digits
    """
    _load("explaining_model").model(_screen(quiet, json), name, data)


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
    _load("log").verify(_screen(quiet, json), file, key, head or [], keep)


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
    _load("log").show(_screen(quiet, json), file)


@cli.command("duel")
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
    screen, dueling = _screen(quiet, False), _load("dueling")
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


@cli.command()
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
    screen, sealing = _screen(quiet, json), _load("sealing")
    if new_key is not None:
        if file is not None or to:
            raise ParameterError("--new-key makes keys and seals nothing: leave out the rest")
        sealing.new_key(screen, new_key)
        return
    if file is None or not to:
        raise ParameterError("name a FILE to seal, and with --to who may open it")
    context = sealing.context_of(run or 0, round, root)
    sealing.seal(screen, file, to, out, context, replace=replace)


@cli.command("open")
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
    sealing = _load("sealing")
    expected = sealing.context_of(run, round, root)
    sealing.unseal(_screen(quiet, json), file, key, out, expected, replace=replace)


Gate = Annotated[Path, typer.Option("--gate", "-g", help="The gate's folder.", metavar="DIR")]
As = Annotated[
    Path | None,
    typer.Option(
        "--as", help="File with the key of who acts; by default $TACIT_GATE_KEY.", metavar="FILE"
    ),
]
KeyName = Annotated[
    str, typer.Argument(help="A key's public name.", metavar="KEY", show_default=False)
]
KeyOut = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Put the key into this file, unseen.", metavar="FILE"),
]
Reason = Annotated[str, typer.Option("--reason", help="Why: it goes to the log.")]
Recipient = Annotated[
    str, typer.Option("--to", help="A public key, or its .pub file.", metavar="KEY")
]
AT_GATE = Path("gate")


@gate.command("init")
def gate_init(
    gate: Gate = AT_GATE, out: KeyOut = None, quiet: Quiet = False, json: Json = False
) -> None:
    """Make a gate, and the key of its first authority, which is shown once.

    [bold]Examples[/]

      tacit gate init --out authority.key

      tacit gate key issue --as authority.key --organisation house --role operator --out op.key

      tacit gate key issue --as op.key --organisation clinic --out clinic.key
    """
    _load("gating").init(_screen(quiet, json), gate, out)


@gate_key.command("issue")
def gate_key_issue(
    organisation: Annotated[str, typer.Option(help="Whose it is.", metavar="NAME")],
    role: Annotated[
        str, typer.Option(help="client, viewer, operator, releaser or authority.", metavar="ROLE")
    ] = "client",
    days: Annotated[float, typer.Option(help="How long it is good.")] = 90.0,
    detail: Annotated[
        list[str] | None,
        typer.Option(
            help="What it may ask for beyond labels: top1, rounded. Repeatable.", metavar="DETAIL"
        ),
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option(help="From where alone, as 10.0.0.0/8. Repeatable.", metavar="CIDR"),
    ] = None,
    gate: Gate = AT_GATE,
    acting: As = None,
    out: KeyOut = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Make a key. It is shown once, or put into a file: the gate keeps a digest alone.

    Operators make those of clients and viewers, authorities all others. Its budget is the default:
    see tacit gate budget raise.
    """
    _load("gating").issue(
        _screen(quiet, json), gate, acting, organisation, role, days, detail or [], network or [],
        out,
    )  # fmt: skip


@gate_key.command("list")
def gate_key_list(
    gate: Gate = AT_GATE, acting: As = None, quiet: Quiet = False, json: Json = False
) -> None:
    """List all keys: state, risk, answers that are spent (or reserved) and left."""
    _load("gating").keys(_screen(quiet, json), gate, acting)


@gate_key.command("rotate")
def gate_key_rotate(
    key: KeyName,
    overlap: Annotated[
        float, typer.Option(help="Hours that the secret of before goes on.", min=0.0)
    ] = 24.0,
    gate: Gate = AT_GATE,
    acting: As = None,
    out: KeyOut = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Give a key a new secret: its holder, or who may issue it. Name and budget stay."""
    _load("gating").rotate(_screen(quiet, json), gate, acting, key, overlap, out)


@gate_key.command("revoke")
def gate_key_revoke(
    key: KeyName,
    gate: Gate = AT_GATE,
    acting: As = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """End a key, at once and for good."""
    _load("gating").revoke(_screen(quiet, json), gate, acting, key)


@gate.command("suspend")
def gate_suspend(
    key: KeyName,
    reason: Reason,
    gate: Gate = AT_GATE,
    acting: As = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Answer nothing more to a key until somebody restores it."""
    _load("gating").suspend(_screen(quiet, json), gate, acting, key, reason)


@gate.command("restore")
def gate_restore(
    key: KeyName,
    reason: Reason,
    excuse: Annotated[
        float,
        typer.Option(help="Days in which nothing is held against it by itself.", min=0.0),
    ] = 0.0,
    gate: Gate = AT_GATE,
    acting: As = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Take back what is held against a key that is degraded or suspended."""
    _load("gating").restore(_screen(quiet, json), gate, acting, key, reason, excuse)


@gate_budget.command("raise")
def gate_budget_raise(
    answers: Annotated[int, typer.Argument(help="In its whole life.", show_default=False)],
    key: Annotated[
        str | None, typer.Option("--key", help="Of this key, before trust and risk.")
    ] = None,
    organisation: Annotated[
        str | None, typer.Option(help="Of all keys of this one together, before trust.")
    ] = None,
    gate: Gate = AT_GATE,
    acting: As = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Ask for another budget of a key or an organisation. Nothing changes before tacit gate
    approve.

    An answer counts in both: raise both. With time and use, trust makes four times as many of it.
    """
    gating = _load("gating")
    if (key is None) == (organisation is None):
        raise ParameterError("whose budget? --key or --organisation")
    deed = gating.Deed.KEY_BUDGET if key is not None else gating.Deed.ORGANISATION_BUDGET
    subject = key or organisation or ""
    gating.ask(_screen(quiet, json), gate, acting, deed, subject, answers)


@gate_ask.command("full-scores")
def gate_ask_full_scores(
    key: KeyName,
    gate: Gate = AT_GATE,
    acting: As = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """That a key may ask for all scores. Few of them are a whole linear model."""
    gating = _load("gating")
    gating.ask(_screen(quiet, json), gate, acting, gating.Deed.FULL_SCORES, key)


@gate_ask.command("release")
def gate_ask_release(
    model: Annotated[Path, typer.Argument(help="Its file.", metavar="FILE", show_default=False)],
    gate: Gate = AT_GATE,
    acting: As = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """That a model, by the digest of its file, may be released."""
    _load("gating").ask_release(_screen(quiet, json), gate, acting, model)


@gate_ask.command("export")
def gate_ask_export(
    to: Recipient,
    gate: Gate = AT_GATE,
    acting: As = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """That the key that signs the gate's log may be exported to somebody, once."""
    _load("gating").ask_export(_screen(quiet, json), gate, acting, to)


@gate.command("requests")
def gate_requests(
    gate: Gate = AT_GATE, acting: As = None, quiet: Quiet = False, json: Json = False
) -> None:
    """List what waits for somebody of this key's role."""
    _load("gating").requests(_screen(quiet, json), gate, acting)


@gate.command("approve")
def gate_approve(
    number: Annotated[int, typer.Argument(help="Of the request.", show_default=False)],
    gate: Gate = AT_GATE,
    acting: As = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Approve what somebody else asked for, with a one-time code, typed or in $TACIT_GATE_CODE."""
    _load("gating").approve(_screen(quiet, json), gate, acting, number)


@gate.command("export")
def gate_export(
    to: Recipient,
    out: Annotated[Path, typer.Option("--out", "-o", help="Sealed file.", metavar="FILE")],
    gate: Gate = AT_GATE,
    acting: As = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Seal the key that signs the gate's log to whom it was approved for."""
    _load("gating").export(_screen(quiet, json), gate, acting, to, out)


@gate_totp.command("enrol")
def gate_totp_enrol(
    gate: Gate = AT_GATE, acting: As = None, quiet: Quiet = False, json: Json = False
) -> None:
    """Set up one-time codes for the holder of the acting key; the address is shown once."""
    _load("gating").enrol(_screen(quiet, json), gate, acting)


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
    _load("marking").new(_screen(quiet, json), key, simulated)


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
    _load("marking").commit(_screen(quiet, json), key, config, assign or [])


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
    _load("marking").verify(
        _screen(quiet, json), suspect, key, config, [*given, *(assign or [])], log, log_key,
        false_claims,
    )  # fmt: skip


@cli.command()
def version(json: Json = False) -> None:
    """Print the versions that a report of a problem should name."""
    _load("about").version(_screen(False, json), __version__)


def _load(
    module: Literal[
        "about",
        "attacking",
        "auditing",
        "commands",
        "dueling",
        "explaining",
        "explaining_model",
        "explaining_privacy",
        "gating",
        "log",
        "releasing",
        "marking",
        "sealing",
        "showing",
    ],
) -> ModuleType:
    """The work itself, loaded when there is some: help and typing errors need not wait for it."""
    return import_module(f"tacit.app.cli.{module}")


def _screen(quiet: bool, json: bool) -> Screen:
    if quiet and json:
        raise ParameterError("--quiet and --json exclude each other")
    return Screen(Voice.JSON if json else Voice.QUIET if quiet else Voice.NORMAL)


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
        complain(f"{package} is not installed: {EXTRA}")
        sys.exit(2)


if __name__ == "__main__":
    run()
