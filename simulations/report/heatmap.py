"""The whole matrix at a glance, as a table in colours and numbers."""

from collections.abc import Sequence
from html import escape
from itertools import groupby

from tacit.simulations.pooling import Tried
from tacit.simulations.report.frame import scrolling
from tacit.simulations.report.grid import Column, Grid, Row
from tacit.simulations.report.words import capital, figure

STEPS = 5  # of colour above the floor; the sheet has one class for each, h1 to h5


def heat_map(grid: Grid) -> str:
    """Each cell: how far from the floor to the best possible its main measure got on average."""
    reasons = list(
        dict.fromkeys(why for row in grid.rows for cell in grid.row(row) for why in cell.reasons)
    )
    tables = "".join(
        scrolling("Heat map", _table(grid, rows, columns, reasons))
        for rows, columns in grid.sheets()
    )
    return f"{tables}{_key()}{_notes(reasons)}"


def _table(
    grid: Grid, rows: Sequence[Row], columns: Sequence[Column], reasons: Sequence[str]
) -> str:
    bodies = "".join(
        _body(grid, conduct, list(of), columns, reasons)
        for conduct, of in groupby(rows, lambda row: row.conduct)
    )
    return f'<table class="heat"><thead>{_head(columns)}</thead>{bodies}</table>'


def _head(columns: Sequence[Column]) -> str:
    groups = [(name, list(of)) for name, of in groupby(columns, lambda c: c.defence)]
    defences = "".join(
        f'<th scope="colgroup" colspan="{len(columns)}"><span>{escape(name)}</span></th>'
        for name, columns in groups
    )
    first = '<th scope="col" rowspan="2">Attack</th>'
    summed = "".join(f'<th scope="col">{_devices(each)}</th>' for _, of in groups for each in of)
    return f"<tr>{first}{defences}</tr><tr>{summed}</tr>"


def _devices(column: Column) -> str:
    return f"{column.devices:,}&nbsp;{'device' if column.devices == 1 else 'devices'}"


def _body(
    grid: Grid, conduct: str, rows: Sequence[Row], columns: Sequence[Column], reasons: Sequence[str]
) -> str:
    title = f"{escape(capital(conduct))} server"
    shown = "".join(_row(grid, row, columns, reasons) for row in rows)
    return (
        f'<tbody><tr class="group"><th scope="rowgroup">{title}</th>'
        f'<td colspan="{len(columns)}"></td></tr>{shown}</tbody>'
    )


def _row(grid: Grid, row: Row, columns: Sequence[Column], reasons: Sequence[str]) -> str:
    tried = grid.row(row)
    measures = dict.fromkeys(cell.main.name for cell in tried if not cell.stopped)
    about = "".join(
        f"<small>{escape(', '.join(words))}</small>"
        for words in (grid.about(row), grid.training(tried[0].cell), measures)
        if words
    )
    cells = "".join(_cell(grid.cells.get((row, column)), reasons) for column in columns)
    return f'<tr><th scope="row">{escape(row.attack)}{about}</th>{cells}</tr>'


def _cell(tried: Tried | None, reasons: Sequence[str]) -> str:
    if tried is None:
        return '<td class="none">&ndash;</td>'
    marks = ",".join(
        f'<a href="#stopped-{number}">{number}</a>'
        for number in sorted(reasons.index(why) + 1 for why in tried.reasons)
    )
    if tried.stopped:
        return f'<td class="stopped">stopped<sup>{marks}</sup></td>'
    notes = [_verdict(tried)] if _verdict(tried) else []
    if marks:
        some = len(tried.trials) - len(tried.attacked)
        notes.append(f"{some} of {len(tried.trials)} stopped<sup>{marks}</sup>")
    small = "".join(f"<small>{note}</small>" for note in notes)
    return f'<td class="h{_step(tried)}"><b>{_percent(tried.main.relative)}</b>{small}</td>'


def _verdict(tried: Tried) -> str:
    if tried.at_floor:
        return "at the floor"
    if not tried.main.at_floor:
        return ""
    # The picture is poor, and something else in it stands out all the same.
    return escape(f"{tried.leak.name} {figure(tried.leak.name, tried.leak.score.mean)}")


def _step(tried: Tried) -> int:
    if tried.at_floor:
        return 0
    return min(STEPS, 1 + int(max(0.0, tried.main.relative) * STEPS))


def _percent(share: float) -> str:
    """How far below the floor a guess is, says how wild it is, and nothing of a leak."""
    return f"{share:.0%}" if share >= 0 else "&lt;&nbsp;0%"


def _key() -> str:
    edges = [100 * step // STEPS for step in range(STEPS + 1)]
    steps = [("0", "at the floor")]
    steps += [(str(i + 1), f"{edges[i]} to {edges[i + 1]}%") for i in range(STEPS)]
    items = "".join(f'<li><span class="swatch h{c}"></span>{words}</li>' for c, words in steps)
    return (
        f'<ul class="legend" aria-label="Colours">{items}'
        '<li><span class="swatch stopped"></span>stopped: nothing to attack</li>'
        "<li>&ndash; not tried, or does not apply</li></ul>"
    )


def _notes(reasons: Sequence[str]) -> str:
    if not reasons:
        return ""
    items = "".join(
        f'<li id="stopped-{number}">{escape(why)}</li>' for number, why in enumerate(reasons, 1)
    )
    return f'<h3>What stopped an attack</h3><ol class="notes">{items}</ol>'
