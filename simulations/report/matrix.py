"""A matrix of attacks as one HTML page that needs nothing else: what came out, past what."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import escape
from math import nan

from tacit.crypto.errors import ParameterError
from tacit.simulations.pooling import Tried, by_cell
from tacit.simulations.report.cells import cell_table
from tacit.simulations.report.data import MEMORY, UNPROVEN
from tacit.simulations.report.frame import document, header, limits_section
from tacit.simulations.report.grid import Grid, grid_of
from tacit.simulations.report.heatmap import heat_map
from tacit.simulations.report.pictures import Pair, picture_grid
from tacit.simulations.report.png import is_image
from tacit.simulations.report.series import by_devices, by_epsilon
from tacit.simulations.report.words import capital, count, duration, figure, listed
from tacit.simulations.trial import Trial

PAIRS = 4  # pictures of a cell
_OPEN_FIGURES, _OPEN_ROWS, _OPEN_CELLS = 6, 2, 12  # what is beyond these starts folded

HOW_TO_READ = (
    (
        "Floor",
        "What guessing without the update scores at the same measure: the best of mid-grey, the "
        "mean of public data and as many other pictures of the kind; chance for the rest. A figure "
        "says nothing without it.",
    ),
    (
        "At the floor",
        "No measure is ahead of its floor by more than two standard errors, in pairs over all "
        "inputs and seeds, and no more inputs are identified than luck allows at 5 %.",
    ),
    (
        "Identified",
        "The share of inputs whose reconstruction is nearer to them than to all others in a "
        "gallery.",
    ),
    (
        "Interval",
        "95 %, by drawing seeds and then inputs within each again and again; of what was "
        "identified, exact (Clopper and Pearson). Few seeds make it too narrow.",
    ),
    (
        "Bound",
        "The most that any attack whatever can identify of a run with this differential privacy "
        "(Hayes et al. 2023). An attack above it means that the accounting is wrong.",
    ),
    (
        "Stopped",
        "A device refused, so there was nothing to attack. Its words are listed.",
    ),
)
NOT_SHOWN = (
    UNPROVEN,
    "A cell that was not tried says nothing, nor does a defence that was not in the matrix.",
    "Guesses are matched with the originals they are nearest to. Many different guesses match a "
    "little better than the one blind guess that makes the floor: a small lead may be no more.",
    "A server can combine what these attacks do one by one, and no cell shows that.",
    "Verdicts are made cell by cell. Among very many cells at the floor a few stand out by luck.",
    MEMORY,
)


def render_matrix(title: str, trials: Sequence[Trial]) -> str:
    """The page, as text to be written in UTF-8. The same trials give the same bytes, in whatever
    order they ended. Raises ParameterError if there are none."""
    if not trials:
        raise ParameterError("there are no trials to report on")
    cells = by_cell(trials)
    grid = grid_of(cells)
    parts = (
        header(title, headline(grid), _facts(cells)),
        _alarm(cells),
        _overview(grid),
        _curves(grid),
        _pictures(grid),
        _cells(grid),
        limits_section(NOT_SHOWN, "What this does not show"),
    )
    return document(title, "".join(parts))


def headline(grid: Grid) -> str:
    """The matrix in a sentence or two, plain text, made from its numbers alone."""
    cells = [cell for row in grid.rows for cell in grid.row(row)]
    sums = [cell for cell in cells if cell.summed]
    told = [_most(sums or cells, "a secure sum" if sums else "what the server saw")]
    told += [_at_floor(sums)] if sums else []
    return " ".join([*filter(None, told), *_stopped(cells)])


def _most(cells: Sequence[Tried], source: str) -> str:
    above = [cell for cell in cells if not cell.stopped and not cell.at_floor]
    if all(cell.stopped for cell in cells):
        return f"Every attack on {source} was stopped."
    if not above:
        return f"No attack got more out of {source} than guessing blindly does."
    best = max(above, key=lambda cell: cell.leak.relative)
    largest = max(
        (cell for cell in above if _alike(cell, best)), key=lambda cell: cell.cell.devices
    )
    name = best.leak.name
    told = dict.fromkeys(
        f"{figure(name, cell.leak.score.mean)} from {count(cell.cell.devices, 'device')}"
        for cell in (best, largest)
    )
    return (
        f"{capital(best.cell.attack)} got most out of {source}: {name} {listed(list(told))}, "
        f"where guessing blindly gives {figure(name, best.leak.floor)}."
    )


def _alike(one: Tried, other: Tried) -> bool:
    """Whether two cells differ in the number of devices alone and say so by the same measure."""
    same = replace(one.cell, devices=0) == replace(other.cell, devices=0)
    return same and one.leak.name == other.leak.name


def _at_floor(sums: Sequence[Tried]) -> str:
    """How many attacks get nothing from the largest sum, with no noise to help it."""
    bare = [cell for cell in sums if cell.epsilon is None and not cell.stopped]
    if not bare:
        return ""
    devices = max(cell.cell.devices for cell in bare)
    there = [cell for cell in bare if cell.cell.devices == devices]
    attacks = {cell.cell.attack for cell in there}
    beaten = attacks - {cell.cell.attack for cell in there if not cell.at_floor}
    tried = f"Of {count(len(attacks), 'attack')} on a sum of {devices:,} devices"
    return f"{tried}, {len(beaten) or 'none'} got nothing."


def _stopped(cells: Sequence[Tried]) -> Iterator[str]:
    found: dict[str, list[str]] = {}
    for cell in cells:
        if cell.stopped:
            found.setdefault(cell.cell.defence, []).append(cell.cell.attack)
    if found:
        told = [f"{name} stopped {listed(list(dict.fromkeys(a)))}" for name, a in found.items()]
        yield capital("; ".join(told[:2]) + ".")


def _facts(cells: Sequence[Tried]) -> Iterator[tuple[str, str]]:
    trials = [trial for cell in cells for trial in cell.trials]
    yield "Cells", f"{len(cells):,}"
    yield "Trials", f"{len(trials):,}"
    yield "Seeds", f"{len({trial.seed for trial in trials}):,}"
    for name, label in (("attack", "Attacks"), ("defence", "Defences")):
        yield label, f"{len({getattr(cell.cell, name) for cell in cells}):,}"
    for name, label in (("model", "Models"), ("data", "Data")):
        yield label, ", ".join(sorted({getattr(cell.cell, name) for cell in cells}))
    yield "Time of attack", duration(sum(trial.seconds for trial in trials))


def _alarm(cells: Sequence[Tried]) -> str:
    """Loud: what breaks a proven bound is a fault in what claims privacy, not a good attack."""
    broken = [cell for cell in cells if cell.identified and cell.identified.breaks_bound]
    if not broken:
        return ""
    names = dict.fromkeys(f"{cell.cell.attack} under {cell.cell.defence}" for cell in broken)
    told = escape(f"{capital(listed(list(names)))} identified more than the bound allows.")
    return f'<p class="alarm"><b>{told}</b> The privacy that was claimed there does not hold.</p>'


def _overview(grid: Grid) -> str:
    terms = "".join(f"<dt>{term}</dt><dd>{words}</dd>" for term, words in HOW_TO_READ)
    return (
        "<section><h2>The matrix</h2><p>How far each attack got from the floor, 0%, to the best "
        "possible, 100%, by the measure named under it: the mean over seeds and inputs.</p>"
        f"{heat_map(grid)}<h3>How to read this</h3>"
        f'<dl class="statement terms">{terms}</dl></section>'
    )


def _curves(grid: Grid) -> str:
    parts = (
        ("Against the size of the sum", list(by_devices(grid))),
        ("Against the privacy budget", list(by_epsilon(grid))),
    )
    drawn = "".join(f"<h3>{title}</h3>{_plots(plots)}" for title, plots in parts if plots)
    return f"<section><h2>Curves</h2>{drawn}</section>" if drawn else ""


def _plots(plots: Sequence[str]) -> str:
    first, rest = plots[:_OPEN_FIGURES], plots[_OPEN_FIGURES:]
    shown = f'<div class="plots">{"".join(first)}</div>'
    if not rest:
        return shown
    more = f'<div class="plots">{"".join(rest)}</div>'
    return f"{shown}<details><summary>{count(len(rest), 'more curve')}</summary>{more}</details>"


def _pictures(grid: Grid) -> str:
    groups: list[str] = []
    for row in grid.rows:
        strips = [_strip(grid, cell) for cell in grid.row(row) if _pairs(cell)]
        if strips:
            state = " open" if len(groups) < _OPEN_ROWS else ""
            name = escape(capital(", ".join((row.attack, *grid.about(row)))))
            groups.append(
                f"<details{state}><summary>{name}</summary>"
                f'<ul class="strips">{"".join(strips)}</ul></details>'
            )
    if not groups:
        return ""
    return (
        "<section><h2>Pictures</h2><p>Left the original, right what the attacker got: the first "
        f"{PAIRS} of each cell's first seed, not picked by how they came out.</p>"
        f"{''.join(groups)}</section>"
    )


def _strip(grid: Grid, tried: Tried) -> str:
    cell = tried.cell
    tone, verdict = ("calm", "at the floor") if tried.at_floor else ("warm", "above the floor")
    threat = ", ".join((count(cell.devices, "device"), *grid.training(cell)))
    origin = f"by {cell.attack} under {cell.defence}, {cell.threat}"
    return (
        f"<li><p><b>{escape(capital(cell.defence))}</b> "
        f'<span class="threat">{escape(threat)}</span> '
        f'<span class="badge {tone}">{verdict}</span></p>'
        f"{picture_grid(_pairs(tried), origin)}</li>"
    )


def _pairs(tried: Tried) -> list[Pair]:
    """The first pictures of the first seed that has any."""
    trial = next((each for each in tried.attacked if each.pictures is not None), None)
    if trial is None or trial.pictures is None or not is_image(trial.pictures[0].shape[1:]):
        return []
    scores = next((each.values for each in trial.measures if each.name == "SSIM"), ())
    ssim = [*scores, *[nan] * PAIRS]
    truths, guesses = (part[:PAIRS] for part in trial.pictures)
    return [Pair(*each) for each in zip(truths, guesses, ssim, strict=False)]


def _cells(grid: Grid) -> str:
    total = len(grid.cells)
    state = " open" if total <= _OPEN_CELLS else ""
    return (
        f"<section><h2>Every cell</h2><details{state}><summary>"
        f"{count(total, 'cell')}, with what the adversary was granted</summary>"
        f"{cell_table(grid)}</details></section>"
    )
