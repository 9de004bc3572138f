"""Inverting Gradients: Tacit beside breaching, on the same gradients.

    python -m benchmarks.inversion [--breaching PYTHON] [--quick] [--json FILE]

Both get the same network, the gradient of the same inputs and their labels, and make as many
iterations, with breaching's preset for this attack: first step 0.1, total variation 0.2, of inputs
from -1 to 1. Photographs are crops of 32x32 pixels that were stored without loss. One thread; times
are CPU time, medians within a process and then over processes, in which the two take turns, so that
what else the machine does meets both. What Tacit takes to compile a step is stated apart, as it
does not grow with the iterations and is paid once for a model and batch: the most that a process
took, which is the first where nothing is left on disk from before.

breaching is no dependency of Tacit. Give it a Python of its own:

    python3 -m venv br && br/bin/pip install torch hydra-core scipy pillow pandas datasets
    br/bin/pip install --no-deps breaching==0.1.2 torchvision lpips
    python -m benchmarks.inversion --breaching br/bin/python
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the script runs from any folder, installed or not

from benchmarks.shared import breaching_attack  # noqa: E402
from benchmarks.shared.fresh import in_fresh_process  # noqa: E402
from benchmarks.shared.inversion_case import (  # noqa: E402
    CLASSES,
    FLOWER,
    HIGH,
    LENET,
    LOW,
    MEAN,
    RATE,
    SHAPE,
    SMOOTH,
    SPREAD,
    TIMED,
    TV,
    WARM,
    Job,
    Victim,
    flower_net,
    median,
    read,
    write,
)
from benchmarks.shared.table import Row, at_least, at_most, print_table, write_json  # noqa: E402

MS = 1e3
PATIENCE_S = 1800
TITLE = "Inverting Gradients: Tacit beside breaching, one thread"
NO_BREACHING = "breaching is not installed: see the head of this file for how to compare with it."
# Batch, restarts, and how much of breaching's time an iteration may take.
TIMES = {"batch 1": (1, 1, 1 / 2), "batch 8": (8, 1, 2 / 3), "8 restarts, each": (1, 8, 1 / 4)}

Images = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Size:
    """Which networks, how many processes for a time and times in each, how many photographs, and
    how long they are attacked."""

    networks: tuple[str, ...] = (SMOOTH, LENET, FLOWER)
    turns: int = 3
    repeats: int = 3
    images: int = 24
    steps: int = 400


QUICK = Size(networks=(LENET,), turns=1, images=4, steps=80)


def network(name: str, seed: int) -> Any:
    """Freshly initialised."""
    import torch

    from tacit.simulations.models import MODELS

    torch.manual_seed(seed)
    return flower_net() if name == FLOWER else MODELS[name](SHAPE, CLASSES)


def photographs(count: int) -> Images:
    """Crops of four photographs in turn, shape (count, *SHAPE), pixels in [0, 1]."""
    from tacit.simulations.data.embedded import photos

    examples = photos().train
    places = np.random.default_rng(1).permutation(len(examples.y))
    of_each = [places[examples.y[places] == label] for label in np.unique(examples.y)]
    shortest = min(map(len, of_each))
    turns = np.stack([each[:shortest] for each in of_each], axis=1).ravel()
    return np.asarray(examples.x[turns[:count]], dtype=np.float64)


def victim(name: str, pixels: Images, seed: int) -> Victim:
    """A device with these photographs, all of different labels where there are few enough."""
    import torch

    net = network(name, seed)
    inputs = torch.tensor((pixels - MEAN) / SPREAD, dtype=torch.float32)
    labels = (torch.arange(len(pixels)) + seed) % CLASSES
    loss = torch.nn.functional.cross_entropy(net(inputs), labels)
    return Victim(net, list(torch.autograd.grad(loss, list(net.parameters()))), labels)


def own(job: Job) -> dict[str, Any]:
    """Tacit's side of a job. `compile`: CPU seconds until the first step is done, those of the
    compiler's processes too."""
    victims = read(job.file)
    if job.repeats:
        before = os.times()
        attack(victims[0], 1, job.restarts, 0)
        after = os.times()
        compile_s = sum(after[:4]) - sum(before[:4])
        step = median(lambda: _iteration(victims[0], job.restarts), job.repeats)
        return {"step": step, "compile": compile_s}
    found = [attack(each, job.steps, job.restarts, seed) for seed, each in enumerate(victims)]
    np.save(job.found, np.stack(found))
    return {}


def _iteration(victim: Victim, restarts: int) -> float:
    """CPU seconds of one of all restarts, from the end of the first few to that of the last."""
    clock: list[float] = []
    attack(victim, WARM + TIMED, restarts, 0, clock)
    return (clock[-1] - clock[WARM - 1]) / TIMED


def attack(
    victim: Victim, steps: int, restarts: int, seed: int, clock: list[float] | None = None
) -> Images:
    """What Tacit finds, in units of the network's inputs, shape (inputs, *SHAPE)."""
    from tacit.server.inbox import Seen
    from tacit.simulations.attacks.base import Knows, view_of
    from tacit.simulations.attacks.inverting import InvertingGradients

    names = [name for name, _ in victim.network.named_parameters()]
    seen = Seen(
        round=1,
        model={name: value.numpy() for name, value in victim.network.state_dict().items()},
        update={n: -g.numpy() for n, g in zip(names, victim.gradients, strict=True)},
        clients=1,
        weight=float(len(victim.labels)),
        protocol="plain",
    )
    inverting = InvertingGradients(
        lambda: deepcopy(victim.network),
        SHAPE,
        steps=steps,
        restarts=restarts,
        tv=TV,
        lr=RATE,
        low=LOW,
        high=HIGH,
        device="cpu",
        compiled=True,
        on_step=None if clock is None else lambda *_: clock.append(time.process_time()),
    )
    view = view_of(seen, knows=Knows.LABELS, labels=victim.labels.tolist())
    return inverting.reconstruct(view, np.random.default_rng(seed))


def psnr(found: Images, pixels: Images) -> list[float]:
    """Of every photograph, in dB; `found` as networks see it, shape (victims, 1, *SHAPE)."""
    from tacit.simulations.score import psnr_of

    shown = (found[:, 0] * SPREAD + MEAN).clip(0, 1)
    errors = ((shown - pixels) ** 2).mean(axis=(1, 2, 3))
    return [psnr_of(float(error)) for error in errors]


@dataclass(slots=True)
class Bench:
    size: Size
    python: str  # that has breaching
    folder: Path
    notes: list[str]
    version: str = ""

    def run(self, job: Job, theirs: bool, what: str) -> dict[str, Any]:
        """What a fresh process finds; {} without breaching, or, with a note, if it fails."""
        script, python = (
            (breaching_attack.__file__, self.python) if theirs else (__file__, sys.executable)
        )
        answer = in_fresh_process(script, asdict(job), PATIENCE_S, python)
        if isinstance(answer, str):
            self.notes.append(f"{what}, {'breaching' if theirs else 'Tacit'}: {answer}.")
            return {}
        self.version = str(answer.get("version", self.version))
        return answer

    def times(self, name: str) -> tuple[list[Row], dict[str, float]]:
        """Rows of all cases, and Tacit's share of breaching's time in each."""
        rows: list[Row] = []
        shares: dict[str, float] = {}
        for case, (batch, restarts, goal) in TIMES.items():
            file = self.folder / "times.pt"
            write(file, [victim(name, photographs(batch), 0)])
            job = Job(str(file), restarts=restarts, repeats=self.size.repeats)
            turns: tuple[list[dict[str, Any]], ...] = ([], [])
            for _ in range(self.size.turns):
                for side, kept in enumerate(turns):
                    kept.append(self.run(job, bool(side), f"{name}, {case}"))
            ours, theirs = map(middle, turns)
            found = time_rows(f"{name}, {case}", restarts, goal, ours, theirs)
            rows += found
            for row in found:
                if row.target:
                    shares[case] = row.value
        return rows, shares

    def quality(self, name: str, share: float | None) -> list[Row]:
        """At an equal number of iterations, and by how many of Tacit's are as good as all of
        breaching's, of which each takes `share` of the time."""
        pixels = photographs(self.size.images)
        file = self.folder / "images.pt"
        write(file, [victim(name, each[None], seed) for seed, each in enumerate(pixels)])
        steps = self.size.steps
        job = Job(str(file), steps, found=str(self.folder / "theirs.npy"))
        if not self.run(job, True, name):
            return []
        theirs = psnr(np.load(job.found), pixels)
        ours: dict[int, list[float]] = {}
        for budget in (steps // 4, steps // 2, steps):
            job = replace(job, steps=budget, found=str(self.folder / "ours.npy"))
            self.run(job, False, name)
            ours[budget] = psnr(np.load(job.found), pixels)
        return quality_rows(name, ours, theirs, share)


def middle(answers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of the processes that gave any, the median of an iteration, and the most of compiling."""
    kinds: dict[str, Callable[[list[float]], float]] = {"step": statistics.median, "compile": max}
    found = {kind: [float(each[kind]) for each in answers if kind in each] for kind in kinds}
    return {kind: kinds[kind](times) for kind, times in found.items() if times}


def time_rows(
    case: str, restarts: int, goal: float, ours: Mapping[str, float], theirs: Mapping[str, float]
) -> list[Row]:
    """Of a case that may take `goal` of breaching's time. Without either side its rows are left
    out."""
    rows = []
    if ours:
        rows.append(Row(f"{case}: Tacit", ours["step"] / restarts * MS, "ms"))
        rows.append(Row(f"{case}: Tacit, compiling", ours["compile"], "s"))
    if "step" in theirs:
        rows.append(Row(f"{case}: breaching", theirs["step"] / restarts * MS, "ms"))
    if ours and "step" in theirs:
        rows.append(at_most(f"{case}: Tacit / breaching", ours["step"] / theirs["step"], "x", goal))
    return rows


def quality_rows(
    name: str, ours: Mapping[int, Sequence[float]], theirs: Sequence[float], share: float | None
) -> list[Row]:
    """PSNR of every photograph, Tacit's by the number of iterations; the last is breaching's too.

    The interval is that of the mean difference over photographs, bootstrapped.
    """
    from tacit.simulations.score import interval

    rng = np.random.default_rng(0)
    steps, mean = max(ours), float(np.mean(theirs))
    case = f"{name}, {steps} steps, {len(theirs)} photographs"
    rows = []
    for system, values in (("Tacit", ours[steps]), ("breaching", theirs)):
        bounds = interval(values, rng)
        rows += [
            Row(f"{case}: {system}, mean PSNR", bounds.mean, "dB"),
            Row(f"{case}: {system}, 95 % interval, low", bounds.low, "dB"),
            Row(f"{case}: {system}, 95 % interval, high", bounds.high, "dB"),
        ]
    ahead = interval(np.subtract(ours[steps], theirs).tolist(), rng)
    rows += [
        at_least(f"{case}: Tacit - breaching", ahead.mean, "dB", 0),
        Row(f"{case}: Tacit - breaching, 95 % interval, low", ahead.low, "dB"),
        Row(f"{case}: Tacit - breaching, 95 % interval, high", ahead.high, "dB"),
    ]
    enough = [budget for budget in sorted(ours) if np.mean(ours[budget]) >= mean]
    if enough and share is not None:
        times = enough[0] / steps * share
        rows.append(Row(f"{case}: time to breaching's PSNR, Tacit / breaching", times, "x"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=TITLE)
    parser.add_argument(
        "--breaching", default=sys.executable, metavar="PYTHON", help="a Python that has it"
    )
    parser.add_argument("--quick", action="store_true", help="a minute or two on two cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(own(Job(**json.loads(options.child)))))
        return
    size, rows = QUICK if options.quick else Size(), []
    with TemporaryDirectory() as folder:
        bench = Bench(size, options.breaching, Path(folder), [])
        for name in size.networks:
            times, shares = bench.times(name)
            quality = bench.quality(name, shares.get("batch 1"))
            print_table(name, times + quality)
            sys.stdout.flush()
            rows += times + quality
    bench.notes.append(bench.version or NO_BREACHING)
    print("\n" + "\n".join(bench.notes))
    if options.json:
        write_json(options.json, "inversion", rows)


if __name__ == "__main__":
    main()
