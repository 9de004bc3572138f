"""Leakage drawn against the strength of a defence, with intervals, the floor and the bound."""

from collections.abc import Iterator, Sequence
from html import escape
from math import log2

from tacit.simulations.report.data import LeakCurve, LeakPoint
from tacit.simulations.report.svg import Axis, Line, chart, legend, ticks
from tacit.simulations.report.words import figure

DEVICES, EPSILON = "devices in the sum", "epsilon"
_ROOM = 0.08  # of the width of a chart: what a label on the axis takes


def leak_figure(
    curves: Sequence[LeakCurve],
    caption: str,
    against: str = DEVICES,
    styles: Sequence[str] = ("warm",),
) -> str:
    """Curves of one measure, each in its style (see `svg.Line`), on a logarithmic axis."""
    lines = [_line(curve, style) for curve, style in zip(curves, styles, strict=True)]
    lines += [*_limit(curves, "bound"), *_limit(curves, "floor")]
    measure = curves[0].measure
    told = "; ".join(f"{curve.name}: {_told(curve)}" for curve in curves)
    words = f"{measure} by {against}. {told}"
    # What is told per number of devices is told against all there is to get.
    y = _up(measure, lines, 1.0 if against == DEVICES else 0.0)
    drawing = chart(lines, _across(curves, against), y, words)
    return (
        f'<figure class="plot"><figcaption>{escape(caption)}</figcaption>'
        f"{drawing}{legend(lines)}"
        '<p class="hint">Shaded: the 95 % interval.</p></figure>'
    )


def _line(curve: LeakCurve, style: str) -> Line:
    points = sorted(curve.points, key=lambda point: point.at)
    return Line(
        curve.name,
        [(log2(p.at), p.score.mean) for p in points],
        style,
        [(log2(p.at), p.score.low, p.score.high) for p in points],
    )


def _limit(curves: Sequence[LeakCurve], which: str) -> Iterator[Line]:
    """The floor, the mean of the curves' where they differ, or the bound, the least of them."""
    found: dict[float, list[float]] = {}
    for point in (point for curve in curves for point in curve.points):
        value = point.floor if which == "floor" else point.bound
        if value is not None:
            found.setdefault(log2(point.at), []).append(value)
    if not found:
        return
    if which == "floor":
        name = "floor: guessing without the update"
        yield Line(name, [(at, sum(v) / len(v)) for at, v in sorted(found.items())], which)
    else:
        name = "bound: the most that any attack can reach"
        yield Line(name, [(at, min(v)) for at, v in sorted(found.items())], which)


def _across(curves: Sequence[LeakCurve], against: str) -> Axis:
    """A label at every point, but for those that would run into the one before or the last."""
    values = sorted({point.at for curve in curves for point in curve.points})
    room = _ROOM * (log2(values[-1]) - log2(values[0]))
    kept = values[:1]
    for value in values[1:-1]:
        if min(log2(value) - log2(kept[-1]), log2(values[-1]) - log2(value)) >= room:
            kept.append(value)
    kept += values[1:][-1:]
    return Axis(against, [(log2(value), _strength(value)) for value in kept])


def _strength(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:.3g}"


def _up(measure: str, lines: Sequence[Line], top: float) -> Axis:
    tops = [high for line in lines for _, _, high in line.band]
    tops += [value for line in lines for _, value in line.points]
    lows = [low for line in lines for _, low, _ in line.band]
    percent = "%" in figure(measure, 1.0)
    return Axis(measure, ticks(min(0.0, *lows), max(top, *tops), percent=percent))


def _told(curve: LeakCurve) -> str:
    return ", ".join(_point(curve.measure, point) for point in curve.points)


def _point(measure: str, point: LeakPoint) -> str:
    limits = ((name, getattr(point, name)) for name in ("floor", "bound"))
    beside = ", ".join(f"{name} {figure(measure, v)}" for name, v in limits if v is not None)
    shown = f"{figure(measure, point.score.mean)} at {_strength(point.at)}"
    return f"{shown} ({beside})" if beside else shown
