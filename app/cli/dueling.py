"""`tacit duel`: every protection against its attack, and what each is found to be worth."""

import json
import os
from collections.abc import Iterator, Sequence
from math import isnan
from pathlib import Path

import typer
from rich.table import Table
from rich.text import Text

from tacit.app.cli.screen import Screen, complain, interruptible
from tacit.app.duels import Ended, Progress, all_hold, as_json, fight
from tacit.crypto.errors import ParameterError
from tacit.simulations.duels.base import Figure, Fought, Line, Role, Scale
from tacit.simulations.duels.registry import DUELS, chosen, duel

FAILED = 1
DATA = ("digits", "fashion-mnist")
STEPS = 100  # of a bar


def run(
    screen: Screen, names: Sequence[str], data: str, file: Path | None, workers: int, *, quick: bool
) -> None:
    """Fight them and show the ablation. Ends with FAILED if a line does not hold, or none is."""
    picked, scale = chosen(names), Scale(quick, data)
    if scale.data not in DATA:
        raise ParameterError(f"duels are on {' or '.join(DATA)}, not on {scale.data!r}")
    if file is not None and not file.parent.is_dir():
        raise ParameterError(f"no folder {file.parent} to write {file.name} to")
    ended: list[Ended] = []
    with interruptible("tacit duel starts over"), screen.progress():
        bars = {name: screen.bar(name) for name in picked}
        for name in picked:
            bars[name](0, STEPS)
        for news in fight(picked, scale, workers or _cores()):
            if isinstance(news, Progress):
                bars[news.name](min(round(news.share * STEPS), STEPS - 1), STEPS)
                continue
            bars[news.name](STEPS, STEPS, _brief(news))
            ended.append(news)
    ended.sort(key=lambda each: picked.index(each.name))
    if file is not None:
        file.write_text(json.dumps(as_json(ended, scale), indent=1) + "\n", encoding="utf-8")
    _tell(screen, ended, scale)
    if not all_hold(ended):
        raise typer.Exit(FAILED)


def show(screen: Screen) -> None:
    """What duels there are."""
    table = Table("duel", "attack", "defence")
    for name in DUELS:
        found = duel(name)
        table.add_row(name, found.attack, found.defence)
    screen.console.print(table)


def _tell(screen: Screen, ended: Sequence[Ended], scale: Scale) -> None:
    fought = [each.fought for each in ended if each.fought]
    for each in fought:
        _show(screen, each)
    if fought:
        screen.console.print(_summary(fought))
        what = "quick: a look, on few seeds and with looser targets; " if scale.quick else ""
        screen.say(f"{what}in brackets: 95 % intervals; a price is only judged where it has a "
                   "target")  # fmt: skip
    for one in ended:
        if one.skipped:
            screen.say(f"skipped: {one.name}: {one.skipped}", style="yellow")
        if one.failed:
            complain(f"{one.name} was not fought to its end: {one.failed}")
    for found in fought:
        for line in found.lines:
            if not line.holds:
                complain(f"{found.duel}: {line.setting}: {line.what} is {number(line.figure.value)}"
                         f", and had to be {bound(line)}")  # fmt: skip
    if not fought:
        complain("nothing was fought")


def _show(screen: Screen, fought: Fought) -> None:
    screen.say("")
    screen.say(f"{fought.duel}, on {fought.data}, {fought.seconds:.1f} s", style="bold")
    screen.say(f"  attack:  {fought.attack}")
    screen.say(f"  defence: {fought.defence}")
    table = Table("setting", "measured", "value", "target", "")
    for line in fought.lines:
        judged = "" if line.target is None else "holds" if line.holds else "DOES NOT HOLD"
        table.add_row(
            line.setting, line.what, figure(line.figure), bound(line),
            Text(judged, style="" if line.holds else "bold red"),
        )  # fmt: skip
    screen.console.print(table)
    for limit in fought.limits:
        screen.say(f"  not shown: {limit}", style="dim")


def _summary(fought: Sequence[Fought]) -> Table:
    """What each layer buys, a row each."""
    table = Table("layer", "measured", "without", "with it", "price", "", title="what it buys")
    for each in fought:
        before, after, price = headline(each)
        table.add_row(
            each.duel,
            "" if after is None else after.what,
            _without(before, after),
            "" if after is None else number(after.figure.value),
            "" if price is None else f"{number(price.figure.value)} {price.what}",
            Text("holds" if each.holds else "DOES NOT", style="" if each.holds else "bold red"),
        )
    return table


def headline(fought: Fought) -> tuple[Line | None, Line | None, Line | None]:
    """The attack where nothing defends, the same where something does, and the price.

    The first line of a defence that measures what a line of the attack does; the first, if none.
    """
    attacks, defences, prices = (
        list(_of(fought, role)) for role in (Role.ATTACK, Role.DEFENCE, Role.PRICE)
    )
    pairs = [(a, d) for d in defences for a in attacks if a.what == d.what]
    before, after = pairs[0] if pairs else (_first(attacks), _first(defences))
    return before, after, _first(prices)


def number(value: float) -> str:
    """To three digits that count, and none that do not."""
    if isnan(value):
        return "not measurable"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def figure(found: Figure) -> str:
    """A value and its interval."""
    value = number(found.value)
    return value if isnan(found.low) else f"{value} [{number(found.low)}, {number(found.high)}]"


def bound(line: Line) -> str:
    """What a line is held against."""
    if line.target is None:
        return ""
    return f"{'at most' if line.at_most else 'at least'} {number(line.target)}"


def _without(before: Line | None, after: Line | None) -> str:
    """What the attack got; and what of, where that is not what the defence is measured by."""
    if before is None:
        return ""
    value = number(before.figure.value)
    return value if after is not None and after.what == before.what else f"{value} {before.what}"


def _of(fought: Fought, role: Role) -> Iterator[Line]:
    return (line for line in fought.lines if line.role is role)


def _first(lines: Sequence[Line]) -> Line | None:
    return lines[0] if lines else None


def _brief(ended: Ended) -> str:
    if ended.fought:
        return "holds" if ended.fought.holds else "does not hold"
    return "skipped" if ended.skipped else "failed"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
