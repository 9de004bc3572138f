"""Correlated noise against independent noise, at the same epsilon.

    python benchmarks/banded.py [--quick] [--json FILE]

First what theory says: the error of a model that is the sum of all rounds, by rounds and by how
often a device takes part, at the same cost of a device's whole run (`tacit.privacy.banded`).

Then what it is worth. 100 devices have the handwritten digits of scikit-learn between them, 14
each; they train a softmax layer of 650 parameters for 100 rounds, each sends the clipped result of
a few steps of gradient descent, and the server, which is trusted, adds noise to the sum and moves
the model with momentum. The device is what is protected. The noise is the product's own, drawn on
the grid by `Stream`. Four ways to spend an epsilon:

    banded       cohorts in fixed rotation, noise that later rounds take back in part
    independent  the same cohorts, noise that they do not
    drawn        devices drawn at random, independent noise, and less of it, since whoever looks on
                 and is not told who was drawn learns less; claimed against nobody else
    all          every device in every round, independent noise: as many times the devices' work as
                 there are cohorts

Learning rate and momentum are those that do best, for each way and epsilon, on splits of the data
that no figure is from; that choice is not in epsilon. Figures are means over other splits, the same
for all ways, and 95 % intervals; those of gains are of differences on the same split.
The choice is noisy where accuracy is low, most for independent noise: gains there are rough.
"""

import argparse
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the script runs from any folder, installed or not

from benchmarks.shared.mean import Mean  # noqa: E402
from benchmarks.shared.table import Row, at_least, print_grid, print_table, write_json  # noqa: E402
from tacit.privacy.accountants import Adversary, compose  # noqa: E402
from tacit.privacy.banded import Banded, Stream, prefix_error  # noqa: E402
from tacit.privacy.gaussian import limit  # noqa: E402
from tacit.privacy.mechanisms import Mechanism  # noqa: E402
from tacit.privacy.releases import Gaussian, Neighbours, Release, Source, Unit, Use  # noqa: E402

Reals = NDArray[np.float64]

DEVICES, EXAMPLES, ROUNDS, DELTA = 100, 14, 100, 1e-3
EPSILONS, QUICK_EPSILONS = (1.0, 2.0, 4.0, 8.0, 16.0), (4.0,)
SPLITS, QUICK_SPLITS = 12, 3
TUNING = 2  # splits, which no figure is from
RATES, MOMENTA = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0), (0.0, 0.9)
CLIP, STEPS, LOCAL_RATE, BITS = 0.5, 5, 0.5, 16
CLASSES = 10
COHORTS, WITH_ALL_WAYS = (2, 10, 50), 10
PATTERNS = ((100, 1), (100, 10), (100, 50), (1000, 1), (1000, 5), (1000, 20), (1000, 1000))


@dataclass(frozen=True, slots=True)
class Way:
    """How rounds are made up. `cohorts` are as many as there are devices to one in a round."""

    name: str
    cohorts: int
    bands: int = 1
    is_drawn: bool = False

    def noise(self, epsilon: float) -> float:
        """The multiplier with which a device's whole run costs this much."""
        if self.is_drawn:
            return drawn_noise(epsilon, 1 / self.cohorts)
        return math.sqrt(-(-ROUNDS // self.cohorts)) / limit(epsilon, DELTA)

    def plan(self, epsilon: float) -> tuple[Mechanism, Banded]:
        """The grid, and the noise on it. A total has as many more bits as the bands take."""
        noise, length = self.noise(epsilon), (64 + 1) * CLASSES
        grid = Mechanism(length, DEVICES // self.cohorts, 0, 0, CLIP, noise, BITS, central=True)
        separation = 1 if self.is_drawn else self.cohorts
        return grid, Banded(ROUNDS, self.bands, separation, length, 32, grid.bound, noise)

    def members(self, rng: np.random.Generator) -> Iterator[NDArray[np.intp]]:
        """Who is in each round."""
        order = rng.permutation(DEVICES)
        for t in range(ROUNDS):
            if self.is_drawn:
                yield np.flatnonzero(rng.random(DEVICES) < 1 / self.cohorts)
            else:
                yield order[t % self.cohorts :: self.cohorts]


def ways(cohorts: int) -> tuple[Way, ...]:
    compared = (Way("banded", cohorts, bands=cohorts), Way("independent", cohorts))
    if cohorts != WITH_ALL_WAYS:
        return compared
    return (*compared, Way("drawn", cohorts, is_drawn=True), Way("all", 1))


def drawn_noise(epsilon: float, rate: float) -> float:
    """For ROUNDS rounds, for all of which a device may be drawn; by bisection. A mean is divided by
    how many are expected, so nobody is told how many were."""

    def spent(noise: float) -> float:
        one = Release(
            Gaussian(1.0, noise), Unit.CLIENT, Neighbours.ADD_OR_REMOVE, Source.SERVER, Use.TRAIN,
            1, 1, DEVICES, DEVICES, rate=rate, is_count_hidden=True,
        )  # fmt: skip
        return compose([one] * ROUNDS, Adversary.OUTSIDER).epsilon(DELTA)

    low, high = 0.2, 200.0
    for _ in range(30):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if spent(middle) <= epsilon else (middle, high)
    return high


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Devices' examples (DEVICES, EXAMPLES, 65), what they are, and those of a test."""

    inputs: Reals
    labels: NDArray[np.intp]
    test_inputs: Reals
    test_labels: NDArray[np.intp]

    @classmethod
    def of(cls, seed: int) -> "Split":
        from sklearn.datasets import load_digits

        data = load_digits()
        inputs = np.hstack([data.data / 16, np.ones((len(data.target), 1))])
        order = np.random.default_rng([seed, 1]).permutation(len(inputs))
        train, test = np.split(order, [DEVICES * EXAMPLES])
        shape = (DEVICES, EXAMPLES)
        return cls(
            inputs[train].reshape(*shape, -1),
            data.target[train].reshape(shape),
            inputs[test],
            data.target[test],
        )

    def updates(self, model: Reals, who: NDArray[np.intp]) -> Reals:
        """What these devices would send: (devices, parameters)."""
        inputs, wanted = self.inputs[who], np.eye(CLASSES)[self.labels[who]]
        local = np.repeat(model[np.newaxis], len(who), axis=0)
        for _ in range(STEPS):
            scores = inputs @ local
            scores -= scores.max(axis=2, keepdims=True)
            chances = np.exp(scores)
            chances /= chances.sum(axis=2, keepdims=True)
            local -= LOCAL_RATE / EXAMPLES * inputs.transpose(0, 2, 1) @ (chances - wanted)
        return (local - model).reshape(len(who), -1)

    def accuracy(self, model: Reals) -> float:
        return float(np.mean((self.test_inputs @ model).argmax(axis=1) == self.test_labels))


def on_grid(updates: Reals, grid: Mechanism, rng: np.random.Generator) -> NDArray[np.uint32]:
    """The sum of updates, clipped and rounded as `Mechanism` does, but for the rotation: without a
    ring that could be too small nothing depends on it."""
    norms = np.linalg.norm(updates, axis=1, keepdims=True)
    clipped = updates * np.minimum(1, CLIP / np.maximum(norms, 1e-12))
    while True:
        steps = np.floor(clipped * grid.scale + rng.random(clipped.shape)).astype(np.int64)
        too_long = (steps**2).sum(axis=1) > grid.bound
        if not too_long.any():
            total: NDArray[np.int64] = steps.sum(axis=0)
            return total.astype(np.uint32)
        clipped[too_long] *= 1 - 2**-10


def train(way: Way, epsilon: float, rate: float, momentum: float, seed: int) -> float:
    """Accuracy at the end of a run."""
    split, rng = Split.of(seed), np.random.default_rng([seed, 2])
    grid, plan = way.plan(epsilon)
    stream, size = Stream(plan), DEVICES // way.cohorts
    model = np.zeros((65, CLASSES))
    speed = np.zeros_like(model)
    for who in way.members(rng):
        total = on_grid(split.updates(model, who), grid, rng)
        named = frozenset(who.tolist()) or frozenset({0})  # of a round without devices: all zeros
        estimate, stream = stream.advance(total, named, os.urandom(32))
        speed = momentum * speed + (1 - momentum) * estimate.reshape(model.shape)
        model += rate / (grid.scale * size) * speed
    return split.accuracy(model)


def tuned(way: Way, epsilon: float, splits: int) -> Reals:
    """Accuracies (splits,) with what does best on other splits."""

    def score(setting: tuple[float, float]) -> float:
        return sum(train(way, epsilon, *setting, seed=1000 + i) for i in range(TUNING))

    best = max(product(RATES, MOMENTA), key=score)
    return np.array([train(way, epsilon, *best, seed=i) for i in range(splits)])


def theory() -> list[Row]:
    """Errors of sums, independent and banded, in units of what one device adds at most."""
    rows = []
    for rounds, times in PATTERNS:
        bands, often = rounds // times, math.sqrt(times)
        one, many = prefix_error(rounds, 1) * often, prefix_error(rounds, bands) * often
        name = f"{rounds} rounds, {times} of each device"
        rows += [
            Row(f"{name}: independent", one, ""),
            Row(f"{name}: {bands} bands", many, ""),
            Row(f"{name}: ratio", one / many, "x"),
        ]
    return rows


def compare(cohorts: int, epsilons: tuple[float, ...], splits: int) -> list[Row]:
    """Accuracies of all ways for so many cohorts, printed as a table too."""
    rows, cells = [], []
    for epsilon in epsilons:
        found = {way.name: tuned(way, epsilon, splits) for way in ways(cohorts)}
        means = {name: Mean.of(each) for name, each in found.items()}
        gain = Mean.of(found["banded"] - found["independent"])
        here = f"{cohorts} cohorts, epsilon {epsilon:g}"
        rows += [Row(f"{here}: {name}", mean.value, "%") for name, mean in means.items()]
        rows.append(at_least(f"{here}: gain, lower end", gain.value - gain.half, "points", 0))
        cells.append((f"epsilon {epsilon:g}", [*map(str, means.values()), str(gain)]))
    columns = [*(way.name for way in ways(cohorts)), "banded - independent"]
    size = DEVICES // cohorts
    print_grid(f"{cohorts} cohorts of {size}: accuracy in %, delta {DELTA:g}", columns, cells)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Correlated noise against independent noise.")
    parser.add_argument("--quick", action="store_true", help="one epsilon, fewer splits")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    options = parser.parse_args()
    rows = theory()
    print_table("Root mean square error of sums, at equal cost of a device's whole run", rows)
    cohorts = (WITH_ALL_WAYS,) if options.quick else COHORTS
    epsilons = QUICK_EPSILONS if options.quick else EPSILONS
    for each in cohorts:
        rows += compare(each, epsilons, QUICK_SPLITS if options.quick else SPLITS)
    if options.json:
        write_json(options.json, "banded", rows)


if __name__ == "__main__":
    main()
