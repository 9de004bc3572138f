"""Tacit's encrypted sums against NVFlare's homomorphic encryption, and others', in one run.

    python benchmarks/encrypted.py [--nvflare PYTHON] [--quick] [--json FILE] [--plot FILE.svg]
                                   [--parameters D]

NVFlare is no dependency of Tacit, and it wants a TenSEAL of its own. Give it a Python of its own:

    python3 -m venv nv && nv/bin/pip install 'nvflare[he]'
    python benchmarks/encrypted.py --nvflare nv/bin/python

Without one its rows are left out. Its own classes run there, with its own defaults: CKKS of degree
8192 and primes of 60, 40 and 40 bits, one secret key that all devices hold.

What is compared is the work that encryption makes, without messages around it: a device turns its
update into bytes and, where it is the devices who open a sum, bytes into the mean; a server adds up
bytes. Under lattice keys a device also deals ten shares of its key, and helps to open the sum; the
server checks who sent what. Ten devices sum float32 updates, each system in turn in a fresh
process with one thread. Times are CPU seconds, of the median device; all figures are medians of
three processes. Every sum is checked: whole numbers to the last bit, others against the exact mean.

Two tables more: the server's round with 100 devices beside plain averaging, from bytes and with
Flower's messages around; and what a device's report costs when there are many others to deal with.
"""

import argparse
import importlib.util
import json
import logging
import os
import platform
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the script runs from any folder, installed or not

from benchmarks.shared.comparison import case_name, typical  # noqa: E402
from benchmarks.shared.fresh import in_fresh_process  # noqa: E402
from benchmarks.shared.ratios import (  # noqa: E402
    Rounds,
    drawing,
    exact_row,
    growth_rows,
    lines,
    ratio_rows,
    resnet_rows,
    server_rows,
    untold,
)
from benchmarks.shared.report import PATIENCE_S, Report  # noqa: E402
from benchmarks.shared.settings import (  # noqa: E402
    CKKS,
    FEDML,
    LATTICE,
    NVFLARE,
    PLAIN,
    RESNET20,
    RESNET20_SIZE,
    TENSEAL,
    Dealing,
    Setting,
)
from benchmarks.shared.steps import Round, middle  # noqa: E402
from benchmarks.shared.sums import FEDAVG, TACIT, Cost, Task, cost  # noqa: E402
from benchmarks.shared.sums import PLAIN as AVERAGED  # noqa: E402
from benchmarks.shared.table import Row, print_grid, write_json  # noqa: E402

SETS = {LATTICE: ("2048-32-1", "4096-64-2", "4096-64-3"), TENSEAL: ("bfv-4096", "bfv-2048-seeded")}
NEED_TENSEAL = (FEDML, CKKS, TENSEAL)
DROP, SEATS = 0.1, 21  # of the sum of many devices
EXACT_LENGTH = 20_000  # of the sum of many devices that has to be exact
FEW, MANY = 20, 99

TITLE = "Tacit's encrypted sums, NVFlare's by default, and others'"
EXPLAINED = (
    "CPU in milliseconds; bytes for each parameter. `device`: its work in a round, `to hide`: the\n"
    "part until its update is bytes. `server, each`: what one device's bytes cost. `error`: the\n"
    "largest in the mean, whose coordinates deviate by 0.05 on each device."
)
NO_NVFLARE = (
    "Left out: NVFlare, and every ratio to it. It wants a Python of its own:\n"
    "    python3 -m venv nv && nv/bin/pip install 'nvflare[he]'\n"
    "    python benchmarks/encrypted.py --nvflare nv/bin/python"
)
NO_TENSEAL = "Left out: what needs TenSEAL in this Python: pip install '.[he]' in Tacit's checkout."
NUMPY_ALONE = "Under lattice keys a device uses numpy alone: its target, 12x, is the one for that."
SMALL = "The targets are for ten devices and 1e6 parameters: here there are none."


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured: `length` of a model, `repeats` processes of which the median is taken,
    `many` devices of one sum, `long` of a large model."""

    length: int = 1_000_000
    devices: int = 10
    repeats: int = 3
    many: int = 100
    long: int = 10_000_000


FULL = Size()
QUICK = Size(length=100_000, devices=4, repeats=1, many=20, long=1_000_000)


@dataclass(frozen=True, slots=True)
class Bench:
    """What to measure, and with what. `nvflare` is the Python that has it, "" if none does."""

    size: Size
    nvflare: str
    report: Report

    @property
    def with_targets(self) -> bool:
        return self.size == FULL

    def table(self, title: str, rows: list[Row]) -> None:
        self.report.table(title, rows if self.with_targets else untold(rows))

    def grid(self, title: str, rounds: Rounds) -> None:
        """Every setting in a line."""
        found = lines(rounds)
        if not found:
            return
        columns = [row.name for row in found[0][1] if row is not None]
        cells = [
            (name, [f"{row.value:.4g}" if row is not None else "" for row in line])
            for name, line in found
        ]
        print_grid(title, columns, cells)
        named = [replace(r, name=f"{name}: {r.name}") for name, line in found for r in line if r]
        self.report.keep(title, named)

    def rounds(self, settings: Sequence[Setting], repeats: int = 0) -> dict[Setting, Round]:
        """The settings in turn, time and again: what else the machine does meets all alike."""
        found: dict[Setting, list[Round]] = defaultdict(list)
        for seed in range(1, (repeats or self.size.repeats) + 1):
            for setting in settings:
                python = self.nvflare if setting.system == NVFLARE else sys.executable
                task = replace(setting, seed=seed)
                if answer := self.report.child("round", task, setting.name, python):
                    found[setting].append(Round(**answer))
        return {setting: middle(rounds) for setting, rounds in found.items()}

    def settings(self, systems: Sequence[str], **given: Any) -> list[Setting]:
        """Those of the systems that are there, with all their sets of parameters."""
        absent = {NVFLARE} if not self.nvflare else set()
        if importlib.util.find_spec("tenseal") is None:
            absent.update(NEED_TENSEAL)
            if NO_TENSEAL not in self.report.notes:
                self.report.notes.append(NO_TENSEAL)
        return [
            Setting(system, parameters=parameters, **given)
            for system in systems
            if system not in absent
            for parameters in SETS.get(system, ("",))
        ]


def one_tensor(bench: Bench) -> Rounds:
    """Every system."""
    size = bench.size
    systems = (NVFLARE, FEDML, CKKS, LATTICE, TENSEAL, PLAIN)
    rounds = bench.rounds(bench.settings(systems, devices=size.devices, length=size.length))
    bench.grid(f"{size.devices} devices, {size.length:,} parameters in one tensor", rounds)
    bench.table("Tacit beside the others, one tensor", ratio_rows(rounds))
    return rounds


def many_tensors(bench: Bench) -> Rounds:
    """A ResNet-20."""
    given = {"devices": bench.size.devices, "length": RESNET20_SIZE, "resnet": True}
    rounds = bench.rounds(bench.settings((NVFLARE, LATTICE, TENSEAL), **given))
    tensors = f"{RESNET20_SIZE:,} parameters in the {len(RESNET20)} tensors of a ResNet-20"
    bench.grid(f"{bench.size.devices} devices, {tensors}", rounds)
    bench.table("Tacit beside NVFlare, a ResNet-20", resnet_rows(rounds))
    return rounds


def many_devices(bench: Bench) -> None:
    """The server of a sum, and plain averaging, of many devices with some silent."""
    size = bench.size
    setting = Setting(LATTICE, size.many, size.length, SETS[LATTICE][1], drop=DROP)
    plain = replace(setting, system=PLAIN, parameters="")
    rounds = bench.rounds([plain, setting, replace(setting, seats=SEATS)])
    task = Task(TACIT, size.many, size.length, DROP, terms="lattice")
    costs: dict[str, list[Cost]] = defaultdict(list)
    for seed in range(1, size.repeats + 1):
        for system in (AVERAGED, FEDAVG, TACIT):
            asked = replace(task, system=system, seed=seed)
            if answer := bench.report.child("cost", asked, system):
                costs[system].append(Cost(**answer))
    title = f"The server, in the first round of a run: {case_name(task)}"
    bench.table(title, server_rows(rounds, {name: typical(each) for name, each in costs.items()}))


def growth(bench: Bench) -> None:
    """What many neighbours, or holders of shares, cost a device."""
    found: dict[Dealing, list[float]] = defaultdict(list)
    for seed in range(1, bench.size.repeats + 1):
        for pairwise in (False, True):
            for degree in (FEW, MANY):
                dealing = Dealing(pairwise, degree, MANY + 1, bench.size.long)
                task = replace(dealing, seed=seed)
                if answer := bench.report.child("report", task, "a device's report"):
                    found[dealing].append(answer["seconds"])
    title = f"A device's report: {MANY + 1} devices, {bench.size.long:,} parameters"
    bench.table(title, growth_rows({d: statistics.median(each) for d, each in found.items()}))


def exactness(bench: Bench) -> None:
    """Sums of as many devices as are to be summed exactly."""
    settings = bench.settings((LATTICE, TENSEAL), devices=bench.size.many, length=EXACT_LENGTH)
    rounds = bench.rounds(settings, repeats=1)
    title = f"Sums of {bench.size.many} devices, {EXACT_LENGTH:,} parameters"
    bench.table(title, [exact_row(setting, one) for setting, one in rounds.items()])


def versions_of(python: str, report: Report) -> str:
    """Of NVFlare in that Python; "", and a note, if it has none."""
    answer = in_fresh_process(report.script, {"kind": "versions", "task": {}}, PATIENCE_S, python)
    if isinstance(answer, dict):
        return str(answer["versions"])
    report.notes.append(f"{NO_NVFLARE}\n({python}: {answer})")
    return ""


def run_child(kind: str, task: dict[str, Any]) -> None:
    """The child process: measure, and print the result and nothing else, as TenSEAL would."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    standard_output = os.dup(1)
    os.dup2(2, 1)
    answer = json.dumps(KINDS[kind](task))
    os.write(standard_output, answer.encode() + b"\n")


def _versions(task: dict[str, Any]) -> dict[str, Any]:
    from benchmarks.shared.nvflare_round import versions

    return {"versions": versions()}


def _round(task: dict[str, Any]) -> dict[str, Any]:
    from benchmarks.shared.rounds import measured

    return asdict(measured(Setting(**task)))


def _cost(task: dict[str, Any]) -> dict[str, Any]:
    return asdict(cost(Task(**task)))


def _report(task: dict[str, Any]) -> dict[str, Any]:
    from benchmarks.shared.growth import seconds

    return {"seconds": seconds(Dealing(**task))}


# What a child may be asked. Imported there: it may be another Python, that has not all.
KINDS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "versions": _versions,
    "round": _round,
    "cost": _cost,
    "report": _report,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=TITLE)
    parser.add_argument(
        "--nvflare", default=sys.executable, metavar="PYTHON", help="a Python that has nvflare[he]"
    )
    parser.add_argument("--quick", action="store_true", help="under 45 s on two cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a comparison there, as SVG")
    parser.add_argument("--parameters", type=float, metavar="D", help="of the model; 1e6")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(**json.loads(options.child))
        return
    report, before = Report(__file__), os.getloadavg()[0]
    size = QUICK if options.quick else FULL
    if options.parameters:
        size = replace(size, length=int(options.parameters))
    print(f"{TITLE}\n\n{EXPLAINED}", flush=True)
    found = versions_of(options.nvflare, report)
    bench = Bench(size, options.nvflare if found else "", report)
    cases = {"one tensor": one_tensor(bench), "a ResNet-20": many_tensors(bench)}
    many_devices(bench)
    growth(bench)
    exactness(bench)
    report.notes.append(NUMPY_ALONE if bench.with_targets else SMALL)
    report.notes.append(_circumstances(found, before))
    print("\n" + "\n".join(report.notes))
    if options.json:
        write_json(options.json, "encrypted", report.rows())
    if options.plot and all(cases.values()):
        options.plot.write_text(drawing("What a sum under encryption takes", cases))


def _circumstances(peer: str, before: float) -> str:
    """Versions, and how busy the machine was."""
    ours = [f"{name} {version(name)}" for name in ("numpy", "tenseal") if _has(name)]
    used = ", ".join([*filter(None, [peer]), f"Python {platform.python_version()}", *ours])
    return f"{used}. Load of the machine: {before:.1f} before, {os.getloadavg()[0]:.1f} after."


def _has(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


if __name__ == "__main__":
    main()
