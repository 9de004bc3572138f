"""What is often advised for a served model, and not in the gate: what it does to an attack.

    python benchmarks/guard.py [--quick] [--json FILE]

Each is put in front of the victim of the duels, and the attack goes at it as it would at any other
model, or round it where an attacker who reads the advice would. In brackets: 95 % intervals.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the script runs from any folder, installed or not

from benchmarks.shared.table import Row, print_grid, write_json  # noqa: E402
from tacit.server.gate.model import Floats32, Model, Scored  # noqa: E402
from tacit.server.gate.reveal import Reveal  # noqa: E402
from tacit.simulations.attacks.blackbox import BlackBox  # noqa: E402
from tacit.simulations.attacks.extraction import imitate, labels_of  # noqa: E402
from tacit.simulations.attacks.knockoff import knockoff  # noqa: E402
from tacit.simulations.attacks.model_inversion import mi_face  # noqa: E402
from tacit.simulations.attacks.transfer import crafted  # noqa: E402
from tacit.simulations.duels.base import Figure, mean_of, share_of  # noqa: E402
from tacit.simulations.duels.ground import arrays_of, ground, module_of, patches, victim  # noqa: E402
from tacit.simulations.duels.inversion import judge  # noqa: E402
from tacit.simulations.duels.theft import FULL, LABEL, labels_by  # noqa: E402

DATA, MANY = "digits", 10_000
NOISE = 0.2  # deviation, of a probability
REPEATS = 10
MEMBERS = 5
SHARPER = 100.0  # times what the victim's scores are, before the softmax
CLOSE = 0.6  # from an earlier query, in the Euclidean norm: closer ones get its answer
MARKED = 0.01  # of all queries are answered wrongly on purpose
RADIUS = 0.1


@dataclass
class Before:
    """What stands in front of a model, and answers in its place."""

    model: Model

    @property
    def shape(self) -> tuple[int, ...]:
        return self.model.shape

    @property
    def classes(self) -> int:
        return self.model.classes


@dataclass
class Noisy(Before):
    """Adds noise to what is told, anew each time, and keeps the class that comes first."""

    rng: np.random.Generator

    def scored(self, x: Floats32) -> Scored:
        told = self.model.scored(x)
        rows, first = np.arange(len(x)), told.probabilities.argmax(1)
        noisy = (told.probabilities + self.rng.normal(0, NOISE, told.probabilities.shape)).clip(0)
        highest = noisy.max(1)
        noisy[rows, first] = highest + 1e-3
        return Scored((noisy / noisy.sum(1, keepdims=True)).astype(np.float32), told.features)


@dataclass
class Averaged(Before):
    """What who asks `REPEATS` times makes of a noisy model."""

    def scored(self, x: Floats32) -> Scored:
        told = [self.model.scored(x) for _ in range(REPEATS)]
        return Scored(np.mean([each.probabilities for each in told], axis=0), told[0].features)


@dataclass
class Ensemble:
    """Answers with the mean of several models."""

    models: tuple[Model, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.models[0].shape

    @property
    def classes(self) -> int:
        return self.models[0].classes

    def scored(self, x: Floats32) -> Scored:
        told = [model.scored(x) for model in self.models]
        return Scored(np.mean([each.probabilities for each in told], axis=0), told[0].features)


@dataclass
class Sticky(Before):
    """Answers a query that is close to an earlier one as it answered that."""

    asked: list[Floats32] = field(default_factory=list)
    answers: list[Floats32] = field(default_factory=list)

    def scored(self, x: Floats32) -> Scored:
        told = self.model.scored(x)
        rows = [self._row(one.ravel(), row) for one, row in zip(x, told.probabilities, strict=True)]
        return Scored(np.stack(rows), told.features)

    def _row(self, one: Floats32, row: Floats32) -> Floats32:
        if self.asked:
            away = np.linalg.norm(np.stack(self.asked) - one, axis=1)
            if away.min() < CLOSE:
                return self.answers[int(away.argmin())]
        self.asked.append(one)
        self.answers.append(row)
        return row


@dataclass(frozen=True)
class Found:
    """What an attack got where somebody follows an advice."""

    advice: str
    attack: str
    measure: str
    figure: Figure

    @property
    def row(self) -> Row:
        return Row(f"{self.advice}: {self.attack}", self.figure.value, self.measure)

    @property
    def cells(self) -> tuple[str, ...]:
        figure = self.figure
        found = f"{figure.value:.3f}"
        if not isnan(figure.low):
            found += f" [{figure.low:.3f}, {figure.high:.3f}]"
        return self.attack, self.measure, found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one part of five, one seed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    parts, seeds = (
        ((masking,), 1) if asked.quick else ((noise, sticky, ensemble, masking, marks), 3)
    )
    found = [each for part in parts for each in part(seeds)]
    grid = [(each.advice, each.cells) for each in found]
    print_grid("usual advice", ("attack", "measure", "found"), grid)
    if asked.json:
        write_json(asked.json, "guard", [each.row for each in found])


def noise(seeds: int) -> Iterator[Found]:
    """Noisy answers, to a thief, to one who asks ten times, and to an inversion."""
    own = ground(DATA).owned.x
    plain, said = victim(DATA), f"noise of {NOISE}, argmax kept"

    def once(model: Model, seed: int) -> float:
        rows = BlackBox(model, FULL).ask(own)
        return _agrees(labels_of(imitate(own, rows, seed), ground(DATA).held.x))

    def noisy(seed: int) -> Model:
        return Noisy(plain, np.random.default_rng([seed, 9]))

    each = range(seeds)
    what = f"{len(own)} own examples"
    yield _agreement("none", what, [once(plain, seed) for seed in each])
    yield _agreement(said, what, [once(noisy(seed), seed) for seed in each])
    yield _agreement(
        said, f"{what}, asked {REPEATS} times", [once(Averaged(noisy(seed)), seed) for seed in each]
    )
    for advice, attack, made, reveal in (
        ("none", "patches, 1,000", lambda seed: plain, FULL),
        (said, "patches, 1,000", noisy, FULL),
        (said, "patches, 1,000, the first class alone", noisy, LABEL),
        (said, f"patches, 1,000, asked {REPEATS} times", lambda seed: Averaged(noisy(seed)), FULL),
    ):
        yield _agreement(advice, attack, [_copied(made(s), reveal, 1000, s) for s in each])
    yield _inverted("none", lambda seed: plain, seeds)
    yield _inverted(said, noisy, seeds)
    yield _inverted(f"{said}, asked {REPEATS} times", lambda seed: Averaged(noisy(seed)), seeds)
    yield _inverted(
        f"{said}, asked {REPEATS} times", lambda seed: Averaged(noisy(seed)), seeds, probe=0.5
    )


def ensemble(seeds: int) -> Iterator[Found]:
    """A mean of five models is one more function to copy."""
    several = Ensemble(tuple(victim(DATA, seed=seed) for seed in range(MEMBERS)))
    for count in (1000, MANY):
        for said, model in (("none", victim(DATA)), (f"ensemble of {MEMBERS}", several)):
            found = [_copied(model, FULL, count, seed) for seed in range(seeds)]
            yield _agreement(said, f"patches, {count:,}", found)


def masking(seeds: int) -> Iterator[Found]:
    """Scores so sharp that no gradient is left. Nobody who asks needs one."""
    x, module = ground(DATA).held.x, module_of(DATA, "cnn", arrays_of(DATA))
    truth = labels_by(victim(DATA), x)
    for said, factor in (("none", 1.0), (f"scores times {SHARPER:.0f}", SHARPER)):
        inputs = torch.from_numpy(x).requires_grad_()
        loss = cross_entropy(factor * module(inputs), torch.from_numpy(truth), reduction="sum")
        (slope,) = torch.autograd.grad(loss, inputs)
        none = int((slope.flatten(1) == 0).all(1).sum())
        yield Found(said, "own gradient", "inputs without any", share_of(none, len(x)))
    copies = [
        knockoff(BlackBox(victim(DATA), LABEL, 1000), patches((1, 8, 8), MANY), seed)
        for seed in range(seeds)
    ]
    found = [_agrees(labels_of(copy, x)) for copy in copies]
    moved = [1 - _agrees(labels_by(victim(DATA), crafted(c, x, truth, RADIUS))) for c in copies]
    said = "either: labels are the same"
    yield _agreement(said, "patches, 1,000, by label", found)
    yield Found(said, f"crafted on the copy, up to {RADIUS}", "labels changed", mean_of(moved))


def sticky(seeds: int) -> Iterator[Found]:
    """An attacker who knows of it asks from further away."""
    for probe in (0.1, 1.0):
        yield _inverted("none", lambda seed: victim(DATA), seeds, probe)
        yield _inverted("sticky answers", lambda seed: Sticky(victim(DATA)), seeds, probe)


def marks(seeds: int) -> Iterator[Found]:
    """DAWN (Szyller et al. 2021): a few keyed wrong answers, that a copy should repeat."""
    own, pictures = ground(DATA).owned.x, patches((1, 8, 8), MANY)
    eye = np.eye(ground(DATA).classes)
    for what, x in ((f"{len(own)} own examples", own), (f"patches, {MANY:,}", pictures)):
        kept, by_others = [], []
        for seed in range(seeds):
            rng = np.random.default_rng([seed, 10])
            marked = rng.permutation(len(x))[: max(1, round(MARKED * len(x)))]
            right = labels_by(victim(DATA), x)
            told = right.copy()
            told[marked] = (told[marked] + rng.integers(1, len(eye), len(marked))) % len(eye)
            copy = imitate(x, eye[told], seed)
            kept.append(float((labels_of(copy, x[marked]) == told[marked]).mean()))
            other = labels_by(victim(DATA, seed=seed + 1), x[marked])
            by_others.append(float((other == told[marked]).mean()))
        said = f"{MARKED:.0%} of answers wrong"
        yield Found(said, what, "marks in the copy", mean_of(kept))
        yield Found(said, what, "marks in an independent model", mean_of(by_others))


def _copied(model: Model, reveal: Reveal, count: int, seed: int) -> float:
    copy = knockoff(BlackBox(model, reveal, count), patches((1, 8, 8), MANY), seed)
    held = ground(DATA).held.x
    told = labels_by(model, held)
    return float((labels_of(copy, held) == told).mean())


def _agrees(labels: NDArray[np.int64]) -> float:
    return float((labels == labels_by(victim(DATA), ground(DATA).held.x)).mean())


def _agreement(advice: str, attack: str, found: list[float]) -> Found:
    return Found(advice, attack, "agreement", mean_of(found))


def _inverted(advice: str, made: Callable[[int], Model], seeds: int, probe: float = 0.1) -> Found:
    """How many pictures of classes another model recognises, one of each class and seed."""
    referee, hits, classes = judge(DATA), 0, ground(DATA).classes
    for seed in range(seeds):
        model = made(seed)
        for target in range(classes):
            rng = np.random.default_rng([seed, target])
            picture = mi_face(BlackBox(model, FULL), target, rng, probe=probe)
            hits += int(labels_by(referee, picture[None])[0] == target)
    share = share_of(hits, seeds * classes)
    return Found(advice, f"MI-Face, probes of {probe}", "recognised", share)


if __name__ == "__main__":
    main()
