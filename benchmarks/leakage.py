"""The tables and pictures of docs/leakage.md, from the trials of the standard matrix.

    tacit attack --out runs/attack
    python benchmarks/leakage.py runs/attack --plots docs

Prints a table of all cells, in Markdown; writes the curves as SVG, on light and
dark pages alike, and a sheet of originals with what came out of them as PNG.
"""

import argparse
import sys
from base64 import b64decode
from collections.abc import Iterable, Iterator, Sequence
from math import log2
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the script runs from any folder, installed or not

from benchmarks.shared.curves import Panel, draw  # noqa: E402
from tacit.simulations.pooling import Pooled, Tried, by_cell  # noqa: E402
from tacit.simulations.report.png import data_uri  # noqa: E402
from tacit.simulations.report.svg import Axis, Line, ticks  # noqa: E402
from tacit.simulations.report.words import figure  # noqa: E402
from tacit.simulations.trial import Cell, TrialLog  # noqa: E402

RUN = Path("runs/attack")
SHOWN = 6  # pictures of a row of the sheet
SUMS = ("linear-readout", "cocktail-party", "label-counts", "inverting-gradients")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("trials", type=Path, nargs="?", default=RUN, help="of a matrix")
    parser.add_argument("--quick", action="store_true", help="the same: nothing is measured here")
    parser.add_argument("--plots", type=Path, help="folder to write leakage-*.svg and .png into")
    asked = parser.parse_args()
    if not asked.trials.is_dir():
        print(f"no trials at {asked.trials}: tacit attack --out {asked.trials} makes some")
        return
    cells = by_cell(TrialLog(asked.trials).trials())
    for line in table(cells):
        print(line)
    if asked.plots:
        (asked.plots / "leakage-sum.svg").write_text(sums(cells), encoding="utf-8")
        (asked.plots / "leakage-epsilon.svg").write_text(epsilons(cells), encoding="utf-8")
        (asked.plots / "leakage-pictures.png").write_bytes(sheet(cells))


def table(cells: Iterable[Tried]) -> Iterator[str]:
    """Every cell as a row: what was tried, the main measure with its interval, and the floor."""
    yield "| attack | defence | federation | found | floor | identified |"
    yield "|---|---|---|---|---|---|"
    for each in cells:
        cell, main = each.cell, each.main
        found = f"stopped: {each.reasons[0]}" if each.stopped else _told(main, each.at_floor)
        floor = "" if each.stopped else figure(main.name, main.floor)
        rate = "" if cell.steps > 1 else f" at {cell.rate:g}"
        where = f"{cell.threat}{rate}; {cell.model}, {cell.data}"
        row = (cell.attack, cell.defence, where, found, floor, _identified(each))
        yield f"| {' | '.join(row)} |"


def _told(main: Pooled, at_floor: bool) -> str:
    low, mean, high = (
        figure(main.name, v) for v in (main.score.low, main.score.mean, main.score.high)
    )
    shown = f"{main.name} {mean} ({low} to {high})"
    return f"{shown}, at the floor" if at_floor else f"**{shown}**"


def _identified(each: Tried) -> str:
    found = each.identified
    if found is None:
        return ""
    shown = f"{found.hits} of {found.of}, {found.hits / found.of:.1%}"
    if found.bound is None or each.epsilon is None:
        return shown
    return f"{shown}, bound {found.bound:.1%} at epsilon {each.epsilon:.2g}"


def sums(cells: Sequence[Tried]) -> str:
    """Leakage against the number of devices in a secure sum; one device is in the clear."""
    panels = []
    for name in SUMS:
        drawn = sorted(
            (each for each in cells if _is_sum(each.cell, name)), key=lambda each: each.cell.devices
        )
        at = [log2(each.cell.devices) for each in drawn]
        lines = (
            Line(
                "the attack, 95 % interval",
                [(x, each.main.score.mean) for x, each in zip(at, drawn, strict=True)],
                "s1",
                [(x, e.main.score.low, e.main.score.high) for x, e in zip(at, drawn, strict=True)],
            ),
            Line("floor", [(x, e.main.floor) for x, e in zip(at, drawn, strict=True)], "floor"),
        )
        x = Axis("devices in the sum", [(log2(e.cell.devices), str(e.cell.devices)) for e in drawn])
        measure = drawn[0].main.name
        title = f"{drawn[0].cell.attack.split()[0]}: {measure}"
        panels.append(Panel(title, lines, x, Axis(measure, ticks(0.0, 1.0)), title))
    return draw("Leakage against the size of a secure sum", panels)


def _is_sum(cell: Cell, attack: str) -> bool:
    secure = cell.defence in ("none", "secure secure.precision=28")
    single = (cell.examples, cell.steps) == (1, 1)
    trained = (cell.model, cell.data) in (("mlp:256", "photos"), ("smooth-cnn", "portraits"))
    return cell.attack.split()[0] == attack and secure and single and trained


def epsilons(cells: Sequence[Tried]) -> str:
    """Identification under distributed noise against epsilon, with the bound."""
    panels = []
    for name in ("candidate-matching", "imprint"):
        drawn = sorted(
            (
                e
                for e in cells
                if e.cell.attack == name and e.cell.defence.startswith("distributed")
            ),
            key=lambda each: each.epsilon or 0.0,
        )
        counted = [(log2(e.epsilon), e.identified) for e in drawn if e.epsilon and e.identified]
        lines = (
            Line(
                "identified, 95 % interval",
                [(x, found.hits / found.of) for x, found in counted],
                "s1",
                [(x, found.share.low, found.share.high) for x, found in counted],
            ),
            Line("bound on any attack", [(x, f.bound or 0.0) for x, f in counted], "s0"),
        )
        x = Axis("epsilon", [(log2(e.epsilon), f"{e.epsilon:.2g}") for e in drawn if e.epsilon])
        panels.append(
            Panel(name, lines, x, Axis("identified", ticks(0.0, 1.0, percent=True)), name)
        )
    return draw("Identification under distributed noise", panels)


def sheet(cells: Sequence[Tried]) -> bytes:
    """Originals above, what came out below; one pair of rows for each size of sum."""
    rows = []
    for each in sorted(cells, key=lambda each: each.cell.devices):
        if not _is_sum(each.cell, "inverting-gradients"):
            continue
        pairs = [trial.pictures for trial in each.trials if trial.pictures is not None]
        for part in (0, 1):
            shown = np.concatenate([pair[part] for pair in pairs])[:SHOWN]
            framed = np.pad(
                shown, ((0, SHOWN - len(shown)), (0, 0), (1, 1), (1, 1)), constant_values=1.0
            )
            rows.append(np.concatenate(list(framed), axis=2))
    whole = np.concatenate(rows, axis=1).repeat(2, axis=1).repeat(2, axis=2)
    return b64decode(data_uri(whole).partition(",")[2])


if __name__ == "__main__":
    main()
