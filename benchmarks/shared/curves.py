"""Line charts with intervals as an SVG that stands alone, on light and dark pages alike.

The charts are those of a run's report, one below the other: wide enough for a phone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tacit.simulations.report.svg import HEIGHT, WIDTH, Axis, Line, chart

_MARGIN, _TITLE, _KEY, _KEYS = 12, 26, 22, 2  # heights; keys in a row

STYLE = """
svg { color-scheme: light dark }
text { font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1d2327 }
.tick, .axis { fill: #59636a }
.title { font-weight: 600 }
.page { fill: #ffffff }
.grid { stroke: #dfddd6 }
.base { stroke: #59636a }
.line { fill: none; stroke: currentColor; stroke-width: 2.2; stroke-linejoin: round }
.dot { fill: currentColor }
.band { fill: currentColor; opacity: 0.16 }
.s0 { color: #0b6360 } .s1 { color: #a5441a } .s2 { color: #4a4f9c } .s3 { color: #7a6410 }
.s1.line { stroke-dasharray: 7 4 } .s2.line { stroke-dasharray: 2 4 }
.s3.line { stroke-dasharray: 9 3 2 3 }
.floor { color: #59636a } .floor.line { stroke-dasharray: 4 4; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
  text { fill: #e9e6e0 } .tick, .axis { fill: #a3aab0 } .page { fill: #131618 }
  .grid { stroke: #32383c } .base { stroke: #a3aab0 }
  .s0 { color: #6cc8bf } .s1 { color: #f0a27a } .s2 { color: #a9aef0 } .s3 { color: #d6c06a }
  .floor { color: #a3aab0 }
}
"""


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart, its title, and what it says in words."""

    title: str
    lines: Sequence[Line]
    x: Axis
    y: Axis
    words: str


def draw(title: str, panels: Sequence[Panel]) -> str:
    """The panels below one another, under the names of the lines, which all have alike."""
    parts, top = [], _MARGIN
    for at, line in enumerate(panels[0].lines):
        x, y = 14 + at % _KEYS * WIDTH // _KEYS, top + at // _KEYS * _KEY + 10
        parts.append(
            f'<path class="line {line.style}" d="M{x} {y}h28"/>'
            f'<text x="{x + 36}" y="{y + 4}">{escape(line.name)}</text>'
        )
    top += -(-len(panels[0].lines) // _KEYS) * _KEY + _MARGIN
    for panel in panels:
        drawn = chart(panel.lines, panel.x, panel.y, panel.words)
        placed = f'<svg y="{top + _TITLE}" width="{WIDTH}" height="{HEIGHT}" '
        parts.append(f'<text class="title" x="14" y="{top + 16}">{escape(panel.title)}</text>')
        parts.append(drawn.replace("<svg ", placed, 1))
        top += _TITLE + HEIGHT + _MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" '
        f'height="{top}" role="img" aria-label="{escape(title)}"><style>{STYLE}</style>'
        f'<rect class="page" width="{WIDTH}" height="{top}"/>{"".join(parts)}</svg>\n'
    )
