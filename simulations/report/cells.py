"""Every cell of a matrix with all that is needed to read its figures right."""

from collections.abc import Iterator
from html import escape

from tacit.simulations.pooling import IDENTIFIED, Identified, Pooled, Tried
from tacit.simulations.report.frame import scrolling
from tacit.simulations.report.grid import Grid
from tacit.simulations.report.words import duration, figure, span

_ABOUT = ("Attack", "Defence and threat", "Adversary")
_FIGURES = ("Measure", "Mean", "95 % interval", "Floor", "Bound", "Above the floor")


def cell_table(grid: Grid) -> str:
    """A body of rows for each cell, a row for each measure."""
    head = "".join(f'<th scope="col">{name}</th>' for name in (*_ABOUT, *_FIGURES))
    bodies = "".join(_body(cell) for row in grid.rows for cell in grid.row(row))
    return scrolling(
        "Table of cells", f'<table class="cells"><thead><tr>{head}</tr></thead>{bodies}</table>'
    )


def _body(tried: Tried) -> str:
    first, *rest = _lines(tried)
    about = _about(tried, 1 + len(rest))
    more = "".join(f"<tr>{line}</tr>" for line in rest)
    return f"<tbody><tr>{about}{first}</tr>{more}</tbody>"


def _about(tried: Tried, rows: int) -> str:
    cell, trial = tried.cell, tried.first
    seeds = ", ".join(str(each.seed) for each in tried.trials)
    word = "seed" if len(tried.trials) == 1 else "seeds"
    took = f"{duration(tried.seconds)} a trial"
    granted = " or ".join(dict.fromkeys(each.granted for each in tried.trials))
    protocols = ", ".join(dict.fromkeys(each.protocol for each in tried.trials))
    epsilon = [] if tried.epsilon is None else [f"epsilon {tried.epsilon:.3g}"]
    parts = (
        (cell.attack, (f"{cell.model}, {cell.data}", f"{word} {seeds}", took)),
        (cell.defence, (cell.threat, f"protocol {protocols}", *epsilon)),
        (trial.conduct, (f"granted: {granted or 'nothing'}",)),
    )
    first, *others = (
        escape(name) + "".join(f"<small>{escape(line)}</small>" for line in under)
        for name, under in parts
    )
    span_rows = f' rowspan="{rows}"' if rows > 1 else ""
    return f'<th scope="rowgroup"{span_rows}>{first}</th>' + "".join(
        f"<td{span_rows}>{other}</td>" for other in others
    )


def _lines(tried: Tried) -> Iterator[str]:
    if tried.stopped:
        yield _told(f"Stopped: {_reasons(tried)}")
        return
    floors = {measure.name: measure for measure in tried.measures}
    yield from (_measured(measure) for measure in tried.measures if not _by_count(measure, tried))
    if tried.identified is not None:
        yield _identified(tried.identified, floors.get(IDENTIFIED))
    if tried.gave_up:
        some = f"{sum(bool(t.gave_up) for t in tried.trials)} of {len(tried.trials)} trials"
        yield _told(f"No guess in {some}: {escape('; '.join(tried.gave_up))}")
    if tried.reasons:
        some = f"{len(tried.trials) - len(tried.attacked)} of {len(tried.trials)} trials stopped"
        yield _told(f"{some}, and not in the figures: {_reasons(tried)}")


def _by_count(measure: Pooled, tried: Tried) -> bool:
    return measure.name == IDENTIFIED and tried.identified is not None


def _measured(measure: Pooled) -> str:
    name, score = measure.name, measure.score
    between = span(name, score) if measure.count > 1 else "one value"
    floor = figure(name, measure.floor)
    return _cells(escape(name), figure(name, score.mean), between, floor, "", _above(measure))


def _identified(found: Identified, measured: Pooled | None) -> str:
    floor, above = ("", "") if measured is None else (_share(measured.floor), _above(measured))
    bound = "" if found.bound is None else _share(found.bound)
    broken = '<small class="broken">broken</small>' if found.breaks_bound else ""
    name = f"{IDENTIFIED}<small>{found.hits:,} of {found.of:,}</small>"
    share = found.share
    return _cells(
        name, _share(share.mean), span(IDENTIFIED, share), floor, f"{bound}{broken}", above
    )


def _above(measure: Pooled) -> str:
    return "no" if measure.at_floor else "<b>yes</b>"


def _share(value: float) -> str:
    return figure(IDENTIFIED, value)


def _told(words: str) -> str:
    return f'<td class="stopped" colspan="{len(_FIGURES)}">{words}</td>'


def _cells(*contents: str) -> str:
    return "".join(f'<td class="figure">{content}</td>' for content in contents)


def _reasons(tried: Tried) -> str:
    return escape("; ".join(tried.reasons))
