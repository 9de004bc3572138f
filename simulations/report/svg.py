"""Line charts as inline SVG. Colours come from the page's style sheet, by class.

The drawing is small (460 units wide) and scales with the page, so that its text stays readable
on a phone. Names of series stand in an HTML legend beside it, which wraps where an SVG cannot.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT = 460, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 40

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """A series. `style` is a CSS class; `band` has (x, low, high).

    s0, s1, ... are series in order: s0 is solid, the later ones dashed, so that where two agree
    both are seen. `warm` is a leak, `floor` the line below which there is none, and `bound` the
    line above which there can be none.
    """

    name: str
    points: Sequence[Point]
    style: str
    band: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True, slots=True)
class Axis:
    """`ticks` are (position, label), ascending; the first and last position bound the axis."""

    label: str
    ticks: Sequence[tuple[float, str]]

    def scale(self, start: float, end: float) -> Callable[[float], float]:
        low, high = self.ticks[0][0], self.ticks[-1][0]
        span = (high - low) or 1.0
        return lambda value: start + (value - low) / span * (end - start)


def ticks(
    low: float, high: float, *, about: int = 5, least: float = 0.0, percent: bool = False
) -> list[tuple[float, str]]:
    """Round positions, 1, 2 or 5 times a power of ten apart, that enclose low..high.

    About `about` of them, at least `least` apart; labelled in per cent if asked.
    """
    if not high > low:
        low, high = low - (least or 0.05), high + (least or 0.05)
    raw = max((high - low) / about, least)
    power = 10.0 ** floor(log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    places = max(0, -floor(log10(step) + 1e-9) - (2 if percent else 0))
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [
        (i * step, f"{i * step:.{places}%}" if percent else f"{i * step:.{places}f}")
        for i in range(first, last + 1)
    ]


def chart(lines: Sequence[Line], x: Axis, y: Axis, description: str) -> str:
    """One chart, described in words for who cannot see it. Markers show where the points are."""
    across = x.scale(_LEFT, WIDTH - _RIGHT)
    down = y.scale(HEIGHT - _BOTTOM, _TOP)
    parts = [_frame(x, y, across, down)]
    parts += [_band(line, across, down) for line in lines if line.band]
    parts += [_line(line, across, down) for line in lines]
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(description)}">{"".join(parts)}</svg>'
    )


def legend(lines: Sequence[Line]) -> str:
    items = "".join(
        f'<li><svg class="key" viewBox="0 0 24 8" aria-hidden="true">'
        f'<path class="line {line.style}" d="M0 4H24"/></svg>{escape(line.name)}</li>'
        for line in lines
    )
    return f'<ul class="legend">{items}</ul>'


def _frame(
    x: Axis, y: Axis, across: Callable[[float], float], down: Callable[[float], float]
) -> str:
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    grid = "".join(
        f'<path class="grid" d="M{_LEFT} {down(at):.1f}H{right}"/>'
        f'<text class="tick" x="{_LEFT - 7}" y="{down(at) + 4:.1f}" text-anchor="end">'
        f"{escape(label)}</text>"
        for at, label in y.ticks
    )
    marks = "".join(
        f'<text class="tick" x="{across(at):.1f}" y="{bottom + 17}" text-anchor="middle">'
        f"{escape(label)}</text>"
        for at, label in x.ticks
    )
    title = (
        f'<text class="axis" x="{(_LEFT + right) / 2:.0f}" y="{HEIGHT - 5}" text-anchor="middle">'
        f"{escape(x.label)}</text>"
    )
    return f'{grid}<path class="base" d="M{_LEFT} {bottom}H{right}"/>{marks}{title}'


def _line(line: Line, across: Callable[[float], float], down: Callable[[float], float]) -> str:
    path = "L".join(f"{across(a):.1f} {down(b):.1f}" for a, b in line.points)
    drawn = f'<path class="line {line.style}" d="M{path}"/>'
    if line.style in ("floor", "bound") or len(line.points) > 12:
        return drawn
    return drawn + "".join(
        f'<circle class="dot {line.style}" cx="{across(a):.1f}" cy="{down(b):.1f}" r="3"/>'
        for a, b in line.points
    )


def _band(line: Line, across: Callable[[float], float], down: Callable[[float], float]) -> str:
    top = [f"{across(a):.1f} {down(high):.1f}" for a, _, high in line.band]
    under = [f"{across(a):.1f} {down(low):.1f}" for a, low, _ in reversed(line.band)]
    return f'<path class="band {line.style}" d="M{"L".join(top + under)}Z"/>'
