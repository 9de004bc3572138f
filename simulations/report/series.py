"""The curves that are in a matrix: leakage against devices, identification against epsilon."""

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from math import inf, isfinite

from tacit.simulations.pooling import IDENTIFIED, Tried
from tacit.simulations.report.curves import DEVICES, EPSILON, leak_figure
from tacit.simulations.report.data import LeakCurve, LeakPoint
from tacit.simulations.report.grid import Grid, row_of
from tacit.simulations.report.words import capital, count, listed

_STYLES = ("s0", "s1", "s2", "s3")
# "central privacy.epsilon=8" and "central privacy.epsilon=2" are one defence at two strengths.
_STRENGTH = re.compile(
    r"[\s\-_,:;(]*(?:[\w.]*\.)?(?:epsilon|eps|ε)[\s\-_=:]*\d+(?:\.\d+)?\)?"
    r"|[\s\-_]+\d+(?:\.\d+)?$",
    re.IGNORECASE,
)


def by_devices(grid: Grid) -> Iterator[str]:
    """A figure for each attack, training and measure tried on several sizes of sum: a curve for
    each defence."""
    for row in grid.rows:
        cells = grid.row(row)
        for measure in dict.fromkeys(cell.main.name for cell in cells if not cell.stopped):
            drawn = [c for c in cells if not c.stopped and c.main.name == measure]
            if len({cell.cell.devices for cell in drawn}) > 1:
                yield from _devices(grid, drawn, [c for c in cells if c.stopped])


def by_epsilon(grid: Grid) -> Iterator[str]:
    """A figure for each attack, threat and kind of defence tried at several epsilon, the one that
    comes nearest to its bound first."""
    groups: dict[tuple[object, ...], list[Tried]] = {}
    for row in grid.rows:
        for tried in grid.row(row):
            if _counts(tried):
                key = (row, _stem(tried), tried.cell.devices)
                groups.setdefault(key, []).append(tried)
    several = [each for each in groups.values() if len({tried.epsilon for tried in each}) > 1]
    for cells in sorted(several, key=_from_bound):
        yield _epsilon(grid, cells)


def _devices(grid: Grid, drawn: Sequence[Tried], stopped: Sequence[Tried]) -> Iterator[str]:
    found: dict[str, list[LeakPoint]] = {}
    for tried in drawn:
        main = tried.main
        point = LeakPoint(tried.cell.devices, main.score, main.floor)
        found.setdefault(tried.cell.defence, []).append(point)
    # One size alone is no curve, but a start for the others: one device in the clear.
    start = min((p.at for points in found.values() if len(points) > 1 for p in points), default=0)
    measure = drawn[0].main.name
    named = [
        LeakCurve(name, tuple(points), measure)
        for name, points in found.items()
        if len(points) > 1 or points[0].at < start
    ]
    caption = f"{_words(grid, drawn[0])}: {measure} by size of the sum"
    names = list(dict.fromkeys(each.cell.defence for each in stopped))
    note = f'<p class="hint">Stopped by {escape(listed(names))}.</p>' if names else ""
    for sheet in _sheets(grid, named):
        curves, styles = zip(*sheet, strict=True)
        yield f"<div>{leak_figure(curves, caption, DEVICES, styles)}{note}</div>"


def _sheets(grid: Grid, curves: Iterable[LeakCurve]) -> Iterable[list[tuple[LeakCurve, str]]]:
    """Curves with their styles, in figures: a defence looks the same in every figure, and those
    beyond the styles there are go into another one."""
    order = grid.drawn
    sheets: dict[int, list[tuple[LeakCurve, str]]] = {}
    for curve in curves:
        sheet, style = divmod(order.index(curve.name), len(_STYLES))
        sheets.setdefault(sheet, []).append((curve, _STYLES[style]))
    return sheets.values()


def _epsilon(grid: Grid, cells: Sequence[Tried]) -> str:
    first = cells[0].cell
    threat = ", ".join((count(first.devices, "device"), *grid.training(first)))
    caption = f"{_words(grid, cells[0], training=False)} under {_stem(cells[0])}, {threat}"
    curve = LeakCurve(IDENTIFIED, tuple(_points(cells)), IDENTIFIED)
    return f"<div>{leak_figure((curve,), caption, EPSILON)}</div>"


def _points(cells: Iterable[Tried]) -> Iterator[LeakPoint]:
    for tried in cells:
        found = tried.identified
        if found is not None and tried.epsilon is not None:
            floors = (each.floor for each in tried.measures if each.name == IDENTIFIED)
            yield LeakPoint(tried.epsilon, found.share, next(floors, None), found.bound)


def _counts(tried: Tried) -> bool:
    at = tried.epsilon
    return at is not None and isfinite(at) and at > 0 and tried.identified is not None


def _from_bound(cells: Sequence[Tried]) -> float:
    found = (tried.identified for tried in cells)
    return min((e.bound - e.share.mean for e in found if e and e.bound is not None), default=inf)


def _words(grid: Grid, tried: Tried, *, training: bool = True) -> str:
    cell = tried.cell
    more = (*grid.about(row_of(tried)), *(grid.training(cell) if training else ()))
    return capital(", ".join((cell.attack, *more)))


def _stem(tried: Tried) -> str:
    return _STRENGTH.sub("", tried.cell.defence, count=1) or tried.cell.defence
