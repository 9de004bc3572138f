"""What privacy costs in accuracy: central, distributed and local noise at the same epsilon.

    python benchmarks/accuracy.py [--quick] [--json FILE] [--plot FILE.svg]

Devices train a softmax layer together, and all that is private about it is the product's own code:
`tacit.server.private` says how much noise, `tacit.privacy.mechanisms` encodes each update, adds the
noise, and reads the sum, and the epsilon in the tables is what a ledger would count. Five ways:

    none                  no noise, nothing clipped, more rounds
    central               the server adds the noise, and is trusted with sums that have none
    distributed           devices add a share each; none is taken for corrupt, nor for missing
    distributed, careful  the same by the product's defaults, under which a third may be corrupt
                          and nearly a third missing: more noise, as all are there in fact
    local                 each device adds all of the noise

Handwritten digits (of scikit-learn) and Fashion-MNIST at 14 x 14 pixels, from the folder that
TACIT_DATA names; without it these tables are left out. What is protected is a device, which sends
what a pass over its own examples did to the model; or one example, where devices are called silos,
and send the sum of the clipped gradients of all of theirs. Nobody samples.

Rounds, clip and learning rate are those that do best, for each way and epsilon, on splits of the
data that no figure is from, with normal noise to be quick; that choice is not in epsilon. Figures
are means over other splits, the same for all ways, and 95 % intervals by Student's t; those of
differences are of differences on the same split. Noise is from the operating system, so the last
digit differs from run to run. Each federation in a fresh process, one thread.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import log2
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the script runs from any folder, installed or not

import numpy as np  # noqa: E402

from benchmarks.shared.curves import Panel, draw  # noqa: E402
from benchmarks.shared.fresh import in_fresh_process  # noqa: E402
from benchmarks.shared.mean import Mean  # noqa: E402
from benchmarks.shared.private_rounds import (  # noqa: E402
    CAREFUL,
    CENTRAL,
    DISTRIBUTED,
    LOCAL,
    WAYS,
    Choice,
    Found,
    Setting,
    Way,
    measure,
    without,
)
from benchmarks.shared.table import Row, at_least, print_table, write_json  # noqa: E402
from tacit.simulations.report.svg import Axis, Line, ticks  # noqa: E402

DIGITS, FASHION = "digits", "fashion-mnist"
NONE, POINTS, PATIENCE_S = "none", -1.5, 3600
ENOUGH = 6  # splits, to judge by
STYLES = {CENTRAL: "s0", DISTRIBUTED: "s1", CAREFUL: "s2", LOCAL: "s3"}


@dataclass(frozen=True, slots=True)
class Task:
    """A federation at some epsilons: so many splits for figures, and so many to choose on. Where
    one run is far from the next, `more` says for which epsilon it takes how many."""

    setting: Setting
    epsilons: tuple[float, ...]
    seeds: int
    splits: int
    ways: tuple[Way, ...] = WAYS
    more: Mapping[float, int] = field(default_factory=dict)


EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0)
RATES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
CURVES = {
    "Digits, a device protected: 100 devices of 14": Task(
        Setting(
            DIGITS, 100, 14, 1e-5, 7, (10, 20, 40), (0.25, 0.5, 1.0, 2.0),
            (0.5, 2.0), 60,
        ), EPSILONS, 10, 2, more={1.0: 60, 2.0: 60},
    ),
    "Digits, an example protected: 10 silos of 140": Task(
        Setting(DIGITS, 10, 140, 1e-4, 0, (30, 60), (1.0,), RATES, 300),
        EPSILONS, 20, 2,
    ),
    "Digits, an example protected: 50 silos of 28": Task(
        Setting(DIGITS, 50, 28, 1e-4, 0, (30, 60), (1.0,), RATES, 300),
        EPSILONS, 6, 2,
    ),
    "Fashion-MNIST, a device protected: 200 devices of 60": Task(
        Setting(
            FASHION, 200, 60, 1e-5, 20, (10, 20), (0.5, 1.0, 2.0), (1.0,), 60
        ), EPSILONS[1:], 5, 1,
    ),
    "Fashion-MNIST, an example protected: 50 silos of 200": Task(
        Setting(FASHION, 50, 200, 1e-5, 0, (20, 40), (1.0,), RATES[2:], 200),
        EPSILONS[1:], 5, 1,
    ),
}  # fmt: skip

# How many devices it takes, beside the 200 above: as many examples on each, and only these ways.
COUNTED = "Fashion-MNIST, a device protected: 200 devices of 60"
COUNTS = {
    f"{n} devices": Task(
        Setting(FASHION, n, 60, 1e-5, 20, (10, 20), (0.5, 1.0, 2.0), (1.0,), 60),
        (1.0, 8.0), 5 if n < 1000 else 3, 1, (DISTRIBUTED, CAREFUL),
    )
    for n in (50, 100, 1000)
}  # fmt: skip
QUICK = {
    "Digits, a device protected: 100 devices of 14": Task(
        Setting(DIGITS, 100, 14, 1e-5, 7, (10,), (0.5,), (0.5, 2.0), 20),
        (1.0, 8.0), 2, 1,
    ),
    "Digits, an example protected: 10 silos of 140": Task(
        Setting(DIGITS, 10, 140, 1e-4, 0, (30,), (1.0,), (2.0, 8.0), 60),
        (1.0, 8.0), 3, 1,
    ),
}  # fmt: skip
SPENT = """\
Spent is what `distributed, careful` cost: by a device's own ledger, and by the server's, which
knows that nobody was missing. It takes a third for corrupt and nearly a third for missing; of
1000 devices a tenth and a fifth."""
Results = Mapping[str, Mapping[str, Found]]  # by epsilon, "" for none, and by the names of ways


def results(task: Task) -> Results:
    """Everything of one federation."""
    found: dict[str, Mapping[str, Found]] = {
        "": {NONE: without(task.setting, task.seeds, task.splits)}
    }
    for epsilon in task.epsilons:
        seeds = task.more.get(epsilon, task.seeds)
        found[f"{epsilon:g}"] = measure(task.setting, epsilon, seeds, task.splits, task.ways)
    return found


def spread(found: Found) -> Mean:
    return Mean.of(np.array(found.accuracies))


def power(delta: float) -> str:
    """A power of ten, as one writes it."""
    return f"{delta:.0e}".replace("e-0", "e-")


def gap(found: Mapping[str, Found], way: Way) -> Mean:
    """How much better than central, split by split."""
    one, central = (np.array(found[each.name].accuracies) for each in (way, CENTRAL))
    return Mean.of(one - central)


def table(task: Task, found: Results) -> str:
    """A row for each epsilon."""
    compared = (DISTRIBUTED, LOCAL)
    columns = [
        "epsilon",
        *(way.name for way in WAYS),
        *(f"{way.name} - central" for way in compared),
        "spent by the careful",
    ]
    rows = []
    for epsilon in task.epsilons:
        here = found[f"{epsilon:g}"]
        device, server = here[CAREFUL.name].spent
        rows.append(
            [
                f"{epsilon:g}",
                *(str(spread(here[way.name])) for way in WAYS),
                *(str(gap(here, way)) for way in compared),
                f"{device:.2f}, {server:.2f}",
            ]
        )
    return markdown(columns, rows)


def note(task: Task, found: Results) -> str:
    """What is to be known of a table."""
    first, last = (found[f"{e:g}"] for e in (task.epsilons[0], task.epsilons[-1]))
    mechanisms = [here[name] for here in (first, last) for name in (DISTRIBUTED.name, CAREFUL.name)]
    bits = sorted({round(each.bits) for each in mechanisms})
    rounds = sorted({each.choice.rounds for e in found if e for each in found[e].values()})
    more = "".join(f" ({seeds} at epsilon {e:g})" for e, seeds in task.more.items())
    return (
        f"Accuracy in % over {task.seeds} splits{more}, {task.setting.examples} examples on each; "
        f"no privacy: {spread(found[''][NONE])}. delta {power(task.setting.delta)}; bits for a "
        f"parameter: {bits[0]} to {bits[-1]}; rounds: {', '.join(map(str, rounds))}."
    )


def counts(every: Mapping[int, Results]) -> str:
    """A row for each number of devices."""
    epsilons = next(iter(COUNTS.values())).epsilons
    columns = [
        "devices",
        *(f"{way.name}, epsilon {e:g}" for e in epsilons for way in (DISTRIBUTED, CAREFUL)),
        "no privacy",
    ]
    rows = [
        [
            str(devices),
            *(
                str(spread(found[f"{e:g}"][way.name]))
                for e in epsilons
                for way in (DISTRIBUTED, CAREFUL)
            ),
            str(spread(found[""][NONE])),
        ]
        for devices, found in sorted(every.items())
    ]
    return markdown(columns, rows)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(
        f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)
    )


def rows_of(title: str, task: Task, found: Results) -> list[Row]:
    """Accuracies, and for digits what it may cost that noise is distributed."""
    rows = [Row(f"{title}: no privacy", spread(found[""][NONE]).value, "%")]
    for epsilon in task.epsilons:
        here = found[f"{epsilon:g}"]
        at = f"{title}: epsilon {epsilon:g}"
        rows += [Row(f"{at}: {way.name}", spread(here[way.name]).value, "%") for way in task.ways]
        if task.setting.data == DIGITS and epsilon >= 1 and task.seeds >= ENOUGH:
            name = f"{at}: distributed - central"
            rows.append(at_least(name, gap(here, DISTRIBUTED).value, "points", POINTS))
    return rows


def panel(title: str, task: Task, found: Results) -> Panel:
    """One chart of it: epsilon doubles from mark to mark."""
    lines = []
    for way in task.ways:
        means = [(log2(e), spread(found[f"{e:g}"][way.name])) for e in task.epsilons]
        lines.append(
            Line(
                way.name,
                [(x, mean.value) for x, mean in means],
                STYLES[way],
                [
                    (x, max(mean.value - mean.half, 0.0), min(mean.value + mean.half, 100.0))
                    for x, mean in means
                ],
            )
        )
    top = spread(found[""][NONE]).value
    ends = [(log2(e), top) for e in (task.epsilons[0], task.epsilons[-1])]
    lines.append(Line("no privacy", ends, "floor"))
    low = min(bottom for line in lines for _, bottom, _ in line.band)
    axis = Axis(
        f"epsilon, delta {power(task.setting.delta)}; accuracy in %, with 95 % intervals",
        [(log2(e), f"{e:g}") for e in task.epsilons],
    )
    words = "; ".join(
        f"{line.name} {', '.join(f'{y:.0f}' for _, y in line.points)}" for line in lines
    )
    return Panel(title, lines, axis, Axis("accuracy", ticks(low, 100)), words)


def read(answer: Mapping[str, Any]) -> Results:
    """Inverse of `written`."""

    def one(each: Mapping[str, Any]) -> Found:
        choice, accuracies = Choice(**each["choice"]), tuple(each["accuracies"])
        device, server = each["spent"]
        return Found(choice, accuracies, (device, server), each["bits"])

    return {e: {name: one(each) for name, each in here.items()} for e, here in answer.items()}


def written(found: Results) -> dict[str, dict[str, Any]]:
    return {e: {name: asdict(each) for name, each in here.items()} for e, here in found.items()}


def measured(titles: Sequence[str], is_quick: bool) -> Iterator[tuple[str, Results]]:
    """Each in a process of its own; what fails is said and left out."""
    for title in titles:
        answer = in_fresh_process(__file__, {"title": title, "is_quick": is_quick}, PATIENCE_S)
        if isinstance(answer, str):
            print(f"\n### {title}\n\nNo figures: {answer}.", flush=True)
        else:
            yield title, read(answer)


def main() -> None:
    parser = argparse.ArgumentParser(description="What privacy costs in accuracy.")
    parser.add_argument("--quick", action="store_true", help="digits only, under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves there, as SVG")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        task = json.loads(options.child)
        tasks = QUICK if task["is_quick"] else CURVES | COUNTS
        print(json.dumps(written(results(tasks[task["title"]]))))
        return
    rows: list[Row] = []
    panels = []
    by_count: dict[int, Results] = {}
    curves = QUICK if options.quick else CURVES
    for title, found in measured([*curves], options.quick):
        task = curves[title]
        print(f"\n### {title}\n\n{table(task, found)}\n\n{note(task, found)}", flush=True)
        rows += rows_of(title, task, found)
        panels.append(panel(title, task, found))
        if title == COUNTED:
            by_count[task.setting.devices] = found
    for title, found in measured([] if options.quick else [*COUNTS], is_quick=False):
        by_count[COUNTS[title].setting.devices] = found
    if by_count:
        print(f"\n### {COUNTED}, and other numbers of them\n\n{counts(by_count)}")
    print(f"\n{SPENT}")
    goals = [row for row in rows if row.ok is not None]
    if goals:
        print_table("What distributed noise may cost beside central", goals)
    if options.json:
        write_json(options.json, "accuracy", rows)
    if options.plot and panels:
        options.plot.write_text(draw("Accuracy against epsilon", panels))


if __name__ == "__main__":
    main()
