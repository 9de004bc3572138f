"""`tacit audit release` and `tacit audit check`: a release attacked, and the report held against
its signature."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich.table import Table
from rich.text import Text

from tacit.app import signed
from tacit.app.cli.dueling import bound, figure, number
from tacit.app.cli.log import public_key
from tacit.app.cli.screen import Screen, complain, interruptible
from tacit.app.release import Finished, attacked, checked_gates, gated, plan, report_of
from tacit.crypto.errors import Damaged, ParameterError
from tacit.simulations.duels.base import Fought, Scale, Tell

FAILED = 1
STEPS = 100  # of a bar
SHADOWS, QUICK_SHADOWS = 16, 4


def release(
    screen: Screen,
    run: Path,
    shadows: int | None,
    fail_over: Sequence[str],
    mark_key: Path | None,
    *,
    quick: bool,
) -> None:
    """Attack it, write the report, and end with FAILED if something is over what was allowed."""
    import torch

    torch.set_num_threads(1)
    gates = gates_of(fail_over)
    with interruptible("tacit audit release starts over; nothing was written"):
        finished = Finished.open(run)
        count = (QUICK_SHADOWS if quick else SHADOWS) if shadows is None else shadows
        work = plan(finished, count, Scale(quick, finished.folder.settings.data.name), mark_key)
        with screen.progress():
            found, not_done = attacked(work, {name: _bar(screen, name) for name in work})
        if not count:
            not_done["membership"] = "it was asked for with no shadows"
        found = gated(found, gates)
        report = report_of(finished, found, not_done, gates, quick=quick)
        target, page = signed.write(finished.folder, report)
    _tell(screen, list(found.values()), not_done)
    screen.say(f"signed report: {target}")
    screen.say(f"page: {page}", style="bold")
    screen.result(report=str(target), page=str(page), holds=report["holds"], not_done=not_done)
    if not report["holds"]:
        _complain(found, not_done, gates)
        raise typer.Exit(FAILED)


def check(screen: Screen, report: Path, key: str | None, log: Path | None) -> None:
    """Say what is wrong with a report, or what is right. Ends with FAILED if anything is wrong."""
    by = public_key(key) if key else None
    try:
        found = signed.check(report, by, log)
    except Damaged as wrong:
        complain(f"{report}: {wrong}")
        screen.result(report=str(report), whole=False, fault=str(wrong))
        raise typer.Exit(FAILED) from None
    verdict = "holds" if found.report["holds"] else "does not hold"
    screen.say(f"{report}: as it was signed, and in the log; the release {verdict}")
    screen.say(f"signed by: {found.key.hex()}")
    if by is None:
        screen.say("--key was not given: whoever wrote all of it anew could have made that key")
    if found.later:
        screen.say(f"the release was audited again since: {found.later}", style="yellow")
    if not found.is_current:
        screen.say("another model was released since", style="yellow")
    screen.result(
        report=str(report), whole=True, fault="", holds=found.report["holds"], key=found.key.hex(),
        digest=found.digest, later=found.later, is_current=found.is_current,
    )  # fmt: skip


def gates_of(given: Sequence[str]) -> dict[str, float]:
    """Bounds from NAME=NUMBER, or from TOML files with a table [fail-over]; later ones win."""
    gates: dict[str, float] = {}
    for text in given:
        name, equal, value = text.partition("=")
        if equal:
            gates[name.strip()] = _number(name, value)
        else:
            gates |= _from_file(Path(text))
    checked_gates(gates)
    return gates


def _from_file(path: Path) -> dict[str, float]:
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParameterError(
            f"--fail-over {path}: expected NAME=NUMBER, or a TOML file that is there"
        ) from None
    except OSError as bad:
        raise ParameterError(f"{path}: {bad.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as bad:
        raise ParameterError(f"{path} is no TOML: {bad}") from None
    table = tree.get("fail-over")
    if set(tree) != {"fail-over"} or not isinstance(table, dict):
        raise ParameterError(f"{path}: expected one table, [fail-over], with numbers by name")
    return {name: _number(name, value) for name, value in table.items()}


def _number(name: str, value: Any) -> float:
    try:
        if not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError):
        pass
    raise ParameterError(f"--fail-over {name}: {value!r} is no number")


def _bar(screen: Screen, name: str) -> Tell:
    move = screen.bar(name)
    move(0, STEPS)
    return lambda share: move(round(share * STEPS), STEPS)


def _tell(screen: Screen, found: Sequence[Fought], not_done: dict[str, str]) -> None:
    table = Table("", "setting", "measured", "value", "bound", "")
    for each in found:
        for line in each.lines:
            judged = "" if line.target is None else "holds" if line.holds else "OVER"
            table.add_row(
                each.duel, line.setting, line.what, figure(line.figure), bound(line),
                Text(judged, style="" if line.holds else "bold red"),
            )  # fmt: skip
    screen.console.print(table)
    for name, why in not_done.items():
        screen.say(f"not done: {name}: {why}", style="yellow")


def _complain(found: dict[str, Fought], not_done: dict[str, str], gates: dict[str, float]) -> None:
    for each in found.values():
        for line in each.lines:
            if not line.holds:
                complain(f"{each.duel}: {line.what} is {number(line.figure.value)}, and may be "
                         f"{bound(line)}")  # fmt: skip
    for name in gates:
        if name not in found:
            why = not_done.get(name, "the run is not a private one" if name == "privacy" else "")
            complain(f"{name} was to be held against {gates[name]:g} and was not measured: {why}")
