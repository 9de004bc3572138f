"""`tacit attack`: a matrix of attacks, or the attacks on a run that has ended."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.table import Table

from tacit.app import reporting
from tacit.app.cli.screen import Screen, complain, interruptible
from tacit.app.folder import RunFolder
from tacit.app.lab.finished import attack_run, fitting
from tacit.app.lab.matrix import Matrix, clear, violations
from tacit.app.lab.plan import Plan
from tacit.crypto.errors import ParameterError
from tacit.simulations.pooling import Tried, by_cell
from tacit.simulations.trial import Trial, TrialLog, table

FAILED = 1
SHOWN = 40  # rows of a table on a terminal: the report has all of them


def attack(
    screen: Screen,
    matrix: Path | None,
    out: Path,
    workers: int,
    *,
    quick: bool,
    replace: bool,
) -> None:
    """Try every cell of a matrix that has not been tried, and write the report of all."""
    if matrix is not None and quick:
        raise ParameterError("--quick is a matrix of its own: leave out the file")
    plan = Plan.find(matrix or Path("quick" if quick else "standard"))
    with interruptible("nothing was started"):
        lab = Matrix.open(plan, out, replace=replace)
    for skipped in lab.skipped:
        cell = skipped.cell
        screen.say(f"skipped: {cell.attack} on {cell.model}, {cell.data}: {skipped.reason}")
    with interruptible("the same command goes on where it was"), screen.progress():
        bar = screen.bar("trials")
        bar(len(lab.done()), len(lab.trials))
        failed = lab.run(
            lambda trial, done, total: bar(done, total, trial.cell.attack), workers or _cores()
        )
    for each in failed:  # at first: the report may end the command, as a bound does not hold
        complain(f"not tried: {each}")
    if lab.done():
        _tell(screen, lab.done(), out)
    if failed:
        raise typer.Exit(FAILED)


def attack_finished(screen: Screen, run: Path, attacks: Sequence[str]) -> None:
    """Attack what a run's folder says the server saw."""
    folder = RunFolder.open(run)
    chosen = tuple(attacks)
    if not chosen:
        chosen, unfit = fitting(folder)
        for each in unfit:
            screen.say(f"skipped: {each}")
    total, found = attack_run(folder, chosen)
    target = run / reporting.ATTACKS
    clear(target)
    log = TrialLog(target)
    with interruptible("tacit attack starts over"), screen.progress():
        bar = screen.bar("attacks")
        bar(0, total)
        for done, trial in enumerate(found, 1):
            log.add(trial)
            bar(done, total, trial.cell.attack)
    _tell(screen, list(log.trials()), target)


def _tell(screen: Screen, trials: Sequence[Trial], out: Path) -> None:
    """Table, CSV file and report; and an error, if what cannot be has been."""
    with (out / reporting.CSV).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(table(trials))
    page = reporting.write_trials(out)
    cells = by_cell(trials)
    screen.console.print(_table(cells[:SHOWN]))
    if len(cells) > SHOWN:
        screen.say(f"{SHOWN} of {len(cells)} cells; the report has all")
    screen.say("Floor: what guessing without an update gets.")
    screen.say(f"report: {page}", style="bold")
    broken = list(violations(trials))
    screen.result(report=str(page), cells=[_summary(each) for each in cells], violations=broken)
    for each in broken:
        complain(f"a bound of differential privacy does not hold: {each}")
    if broken:
        raise typer.Exit(FAILED)


def _table(cells: Sequence[Tried]) -> Table:
    shown = Table("attack", "defence", "devices", "found", "floor", "")
    for each in cells:
        cell, main = each.cell, each.main
        shown.add_row(
            _brief(cell.attack),
            _brief(cell.defence),
            str(cell.devices),
            f"{main.score.mean:.2f} {main.name}",
            f"{main.floor:.2f}",
            "stopped" if each.stopped else "at the floor" if each.at_floor else "leaks",
        )
    return shown


def _brief(text: str) -> str:
    """The name, and options or settings without their section: "distributed epsilon=8"."""
    pairs = (each.partition("=") for each in text.split())
    return " ".join(
        f"{key.rpartition('.')[2]}={value}" if equal else key for key, equal, value in pairs
    )


def _summary(each: Tried) -> dict[str, object]:
    return {
        **each.cell.to_json(),
        "measures": {m.name: [m.score.low, m.score.mean, m.score.high] for m in each.measures},
        "floors": {m.name: m.floor for m in each.measures},
        "at_floor": each.at_floor,
        "stopped": list(each.reasons),
        "epsilon": each.epsilon,
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
