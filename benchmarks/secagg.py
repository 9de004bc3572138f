"""Tacit's secure sum against Flower's SecAgg+, unmodified, and against no protection at all.

    python benchmarks/secagg.py [--quick] [--json FILE] [--plot FILE.svg] [--crowd]
                                [--large [LENGTH]]

All three sum the same float32 updates with the same weights while the same devices are silent, each
in a fresh process with one thread. Times are CPU seconds, of the server and of the median device;
drawing updates, and protobuf, are charged to nobody. Flower repeats its whole protocol each round.
Tacit agrees on keys once a run: its figures are means over a run of ten rounds, and the first is
shown by itself too. Each figure is the median of three processes.

For a like-for-like comparison Tacit's graph has the degree that Flower is given, 20, and 11 of a
committee of 21 open the sum, as Flower has a threshold of 11 in 21 shares. That is no advice: a
server that chooses who drops out can cut so sparse a graph, and devices agree to it here only
because their policy was opened (`Policy(corrupt=0, security=0)`). By default they ask for far more
neighbours, as `tacit explain secagg` says, and such sums have rows of their own.

`--crowd` adds 1000 devices in one process, on terms that are safe with one in ten corrupt.
`--large` adds one device's and the server's cost for a model of LENGTH (10**8) parameters.
"""

import argparse
import json
import logging
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the script runs from any folder, installed or not

from benchmarks.shared import report as reporting  # noqa: E402
from benchmarks.shared.comparison import (  # noqa: E402
    Costs,
    case_name,
    case_rows,
    crowd_rows,
    default_rows,
    drawing,
    encrypted_rows,
    large_rows,
    memory_rows,
    typical,
)
from benchmarks.shared.sums import FLOWER, PLAIN, TACIT, Cost, Peaks, Task, cost, peaks  # noqa: E402
from benchmarks.shared.table import write_json  # noqa: E402

ROUNDS = 10  # of one run of Tacit
REPEATS = 3  # processes, of which the median is taken
LENGTH, CASES = 1_000_000, [(50, 0.0), (50, 0.1), (100, 0.0), (100, 0.1)]
QUICK_LENGTH, QUICK_CASES = 100_000, [(20, 0.0), (20, 0.1)]
LARGE, LARGE_GIB = 100_000_000, 12
CROWD = Task(TACIT, 1000, QUICK_LENGTH, 0.2, rounds=2, terms="crowd", alone=50)

TITLE = "Tacit's secure sum, Flower's SecAgg+ and plain averaging"
LIKE_FOR_LIKE = (
    "Like for like: both systems with degree 20, 21 holders of shares and a threshold of 11 (in\n"
    "cohorts below 21, with all). That is what Flower is given here, not what Tacit's devices\n"
    "accept by default: against a server that chooses who drops out they ask for far more\n"
    "neighbours (`tacit explain secagg`). Here their policy was opened. Steps: Tacit 1.5e-5\n"
    "(16 bits, +-0.5), Flower 3.8e-6 (22 bits, +-8). Tacit's figures are means over the ten\n"
    "rounds of a run."
)
QUICK = "Quick: small and measured once. The targets are for 50 and 100 devices and 1e6 parameters."


class Report(reporting.Report):
    """A report on tasks."""

    def measured(self, task: Task) -> Cost | None:
        """What the task costs, in a fresh process; None, and a note, if that fails."""
        answer = self.child("cost", task, _name(task))
        return Cost(**answer) if answer else None

    def traced(self, task: Task) -> Peaks | None:
        """As `measured`, for peaks of memory."""
        answer = self.child("peaks", task, _name(task))
        return Peaks(**answer) if answer else None


def _name(task: Task) -> str:
    return f"{task.system}, {case_name(task)}"


def run_child(kind: str, task: Task) -> None:
    """The child process: measure, and print the result."""
    logging.getLogger("flwr").setLevel(logging.ERROR)  # it tells of each stage
    print(json.dumps(asdict(cost(task) if kind == "cost" else peaks(task))))


def tasks(devices: int, length: int, drop: float) -> list[Task]:
    """One case, for each system."""
    return [
        Task(TACIT, devices, length, drop, rounds=ROUNDS),
        Task(FLOWER, devices, length, drop),
        Task(PLAIN, devices, length, drop),
    ]


def compare(case: list[Task], repeats: int, report: Report) -> Costs:
    """The systems in turn, `repeats` times: what else the machine does meets all alike."""
    costs: dict[str, list[Cost]] = {task.system: [] for task in case}
    for seed in range(1, repeats + 1):
        for task in case:
            if (found := report.measured(replace(task, seed=seed))) is not None:
                costs[task.system].append(found)
    return {system: typical(found) for system, found in costs.items() if found}


def measure_all(quick: bool, crowd: bool, report: Report) -> list[tuple[Task, Costs]]:
    """Every case like for like, memory, a crowd if it is asked for, default terms unless quick."""
    length, repeats = (QUICK_LENGTH, 1) if quick else (LENGTH, REPEATS)
    compared = []
    for devices, drop in QUICK_CASES if quick else CASES:
        case = tasks(devices, length, drop)
        costs = compare(case, repeats, report)
        report.table(case_name(case[0]), case_rows(case[0], costs, with_targets=not quick))
        compared.append((case[0], costs))
    ours, theirs, _ = (replace(task, rounds=1) for task in case)  # nothing held of earlier rounds
    memory = {TACIT: report.traced(ours), FLOWER: None if quick else report.traced(theirs)}
    title = f"Memory traced: {case_name(ours)}"
    report.table(title, memory_rows(ours, costs, memory, with_targets=not quick))
    if crowd:
        report.table(*crowd_rows(CROWD, report.measured(CROWD)))
    if not quick:
        strict = Task(TACIT, 50, length, 0.1, rounds=ROUNDS, terms="default")
        report.table(*default_rows(strict, report.measured(strict)))
        lattice = replace(compared[-1][0], terms="lattice")
        report.table(*encrypted_rows(lattice, report.measured(lattice), compared[-1][1]))
    return compared


def measure_large(length: int, report: Report) -> None:
    """Three devices and a server with a large model, if the machine has room for it."""
    if (free := _free_bytes()) < LARGE_GIB << 30:
        report.notes.append(f"--large: {free / 2**30:.0f} GiB are free, {LARGE_GIB} needed.")
        return
    task = Task(TACIT, 3, length, 0.0, terms="three")
    report.table(
        f"Large: {case_name(task)}", large_rows(task, report.measured(task), report.traced(task))
    )


def _free_bytes() -> int:
    """Memory that a new process may take; where the system does not tell, as if there were none."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))


def main() -> None:
    parser = argparse.ArgumentParser(description=TITLE)
    parser.add_argument("--quick", action="store_true", help="under 45 s on two cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the CPU times there, as SVG"
    )
    parser.add_argument(
        "--large", type=float, nargs="?", const=LARGE, metavar="LENGTH", help="a large model too"
    )
    parser.add_argument("--crowd", action="store_true", help="1000 devices too: some ten minutes")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what = json.loads(options.child)
        run_child(what["kind"], Task(**what["task"]))
        return
    report, before = Report(__file__), os.getloadavg()[0]
    print(f"{TITLE}\n\n{LIKE_FOR_LIKE}", flush=True)
    compared = measure_all(options.quick, options.crowd, report)
    if options.large:
        measure_large(int(options.large), report)
    if options.quick:
        report.notes.append(QUICK)
    report.notes.append(
        f"Load of the machine: {before:.1f} before, {os.getloadavg()[0]:.1f} after."
    )
    print("\n" + "\n".join(report.notes))
    if options.json:
        write_json(options.json, "secagg", report.rows())
    if options.plot and any(costs for _, costs in compared):
        options.plot.write_text(drawing(compared))


if __name__ == "__main__":
    main()
