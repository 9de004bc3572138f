"""Dot plots on a logarithmic axis, as an SVG that stands alone, on light and dark pages alike."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

WIDTH = 720
_LEFT, _RIGHT = 190, 40  # margins of an axis
_TOP, _TITLE, _ROW, _FOOT = 54, 34, 34, 30  # heights

STYLE = """
text { font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1d2733 }
.title { font-weight: 600 }
.tick, .times { font-size: 12px; fill: #52606d }
.page { fill: #ffffff }
.grid { stroke: #dfe4ea }
.span { stroke: #9aa5b1; stroke-width: 2 }
.s0 { fill: #0b67a3 }
.s1 { fill: #c2410c }
.s2 { fill: #ffffff; stroke: #52606d; stroke-width: 2 }
"""
SHAPES = (  # series differ in shape as well as in colour
    '<circle class="s0" cx="{x:.1f}" cy="{y:.1f}" r="6"/>',
    '<path class="s1" d="M{x:.1f} {y:.1f}m-6 -6h12v12h-12z"/>',
    '<path class="s2" d="M{x:.1f} {y:.1f}m0 -6l6 6l-6 6l-6 -6z"/>',
)


@dataclass(frozen=True, slots=True)
class Panel:
    """One axis: a title with its unit, and rows of (label, value above 0 by series)."""

    title: str
    rows: Sequence[tuple[str, Mapping[str, float]]]


def draw(title: str, panels: Sequence[Panel], series: Sequence[str]) -> str:
    """The panels below one another. A line joins the first series with the second, and says how
    many times as much the second is. There are at most as many series as SHAPES."""
    parts, top = [_legend(title, series)], _TOP
    for panel in panels:
        parts.append(_panel(panel, series, top))
        top += _TITLE + _ROW * len(panel.rows) + _FOOT
    top += 12
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" '
        f'height="{top}" role="img" aria-label="{escape(title)}"><style>{STYLE}</style>'
        f'<rect class="page" width="{WIDTH}" height="{top}"/>{"".join(parts)}</svg>\n'
    )


def _legend(title: str, series: Sequence[str]) -> str:
    parts, x = [f'<text class="title" x="16" y="24">{escape(title)}</text>'], 22.0
    for shape, name in zip(SHAPES, series, strict=False):
        parts.append(
            shape.format(x=x, y=44) + f'<text x="{x + 14:.0f}" y="48">{escape(name)}</text>'
        )
        x += 44 + 7.5 * len(name)
    return "".join(parts)


def _panel(panel: Panel, series: Sequence[str], top: int) -> str:
    values = [value for _, row in panel.rows for value in row.values()]
    low, high = floor(log10(min(values))), ceil(log10(max(values)))
    high = max(high, low + 1)

    def across(value: float) -> float:
        return _LEFT + (log10(value) - low) / (high - low) * (WIDTH - _LEFT - _RIGHT)

    first = top + _TITLE
    bottom = first + _ROW * len(panel.rows)
    parts = [f'<text class="title" x="16" y="{top + 24}">{escape(panel.title)}</text>']
    for power in range(low, high + 1):
        x = across(10.0**power)
        parts.append(f'<path class="grid" d="M{x:.1f} {first}V{bottom}"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">'
            f"{10.0**power:,.10g}</text>"
        )
    for at, (label, row) in enumerate(panel.rows):
        parts.append(_row(label, row, series, across, first + _ROW * at + _ROW / 2))
    return "".join(parts)


def _row(
    label: str,
    row: Mapping[str, float],
    series: Sequence[str],
    across: Callable[[float], float],
    y: float,
) -> str:
    parts = [f'<text x="{_LEFT - 18}" y="{y + 4:.1f}" text-anchor="end">{escape(label)}</text>']
    if series[0] in row and series[1] in row:
        one, other = across(row[series[0]]), across(row[series[1]])
        times = row[series[1]] / row[series[0]]
        parts.append(f'<path class="span" d="M{one:.1f} {y:.1f}H{other:.1f}"/>')
        parts.append(
            f'<text class="times" x="{(one + other) / 2:.1f}" y="{y - 8:.1f}" '
            f'text-anchor="middle">{float(f"{times:.2g}"):,g}x</text>'
        )
    marks = list(zip(SHAPES, series, strict=False))[::-1]  # where they meet, the first is on top
    parts += [shape.format(x=across(row[name]), y=y) for shape, name in marks if name in row]
    return "".join(parts)
