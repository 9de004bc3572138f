"""What the duels about copying share: who asks, and how his copy is judged."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tacit.server.gate.model import Floats32, Model
from tacit.server.gate.reveal import Detail, Reveal
from tacit.simulations.attacks.blackbox import BlackBox
from tacit.simulations.attacks.extraction import imitate, labels_of
from tacit.simulations.attacks.knockoff import knockoff
from tacit.simulations.duels.base import Duel, Figure, Fought, Line, Scale, mean_of
from tacit.simulations.duels.ground import Ground, ground, patches, victim

MOST = 10_000  # answers that a thief gets where nothing bounds them
# A quick look has a fifth of the answers, and less is asked of the attack: agreement falls by about
# 0.06 from 10,000 answers to 3,000, and as much again to 1,000.
QUICK_MOST, REACHED, QUICK_REACHED = 2000, 0.90, 0.80
FULL, LABEL, TOP1 = Reveal(Detail.FULL), Reveal(Detail.LABEL), Reveal(Detail.TOP1)
ROUNDED, COARSE = Reveal(Detail.ROUNDED, 2), Reveal(Detail.ROUNDED, 1)
SAID = {FULL: "full", ROUNDED: "2 digits", COARSE: "1 digit", TOP1: "top 1", LABEL: "label"}


def labels_by(model: Model, x: Floats32) -> NDArray[np.int64]:
    """(n,), the classes that a model gives to `x` (n, *shape)."""
    labels: NDArray[np.int64] = model.scored(x).probabilities.argmax(1)
    return labels


def outcome(
    duel: Duel, scale: Scale, lines: Sequence[Line], start: float, limits: tuple[str, ...]
) -> Fought:
    """What a duel that began at `start` (`perf_counter`) came to."""
    seconds = perf_counter() - start
    return Fought(duel.name, duel.attack, duel.defence, scale.data, tuple(lines), seconds, limits)


@dataclass(frozen=True)
class Scene:
    """A victim of one architecture on one data set, and the labels that it gives to what is held
    out: the truth that copies are judged by."""

    data: str
    model: str = "cnn"

    @cached_property
    def where(self) -> Ground:
        return ground(self.data)

    @cached_property
    def victim(self) -> Model:
        return victim(self.data, self.model)

    @cached_property
    def truth(self) -> NDArray[np.int64]:
        return labels_by(self.victim, self.where.held.x)

    @property
    def accuracy(self) -> float:
        """The victim's, on what is held out."""
        return float((self.truth == self.where.held.y).mean())

    def box(self, reveal: Reveal, budget: int | None = None) -> BlackBox:
        return BlackBox(self.victim, reveal, budget)

    def agreement(self, labels: NDArray[np.int64]) -> float:
        return float((labels == self.truth).mean())

    def copied(self, reveal: Reveal, budget: int, seed: int) -> nn.Module:
        """By Knockoff, with patches of photographs."""
        return _copied(self.data, self.model, reveal, budget, seed)

    def fidelity(self, copy: nn.Module) -> float:
        return self.agreement(labels_of(copy, self.where.held.x))

    def by_patches(self, reveal: Reveal, budget: int, seeds: int) -> Figure:
        """Agreement of such copies, one value a seed: pictures, their order, and first weights."""
        return mean_of([self.fidelity(self.copied(reveal, budget, seed)) for seed in range(seeds)])

    def by_owned(self, reveal: Reveal, seeds: int) -> tuple[Figure, Figure]:
        """Agreement of who asks about all examples that he owns, and what it is more than if he
        labels them himself, paired by seed."""
        owned = self.where.owned
        rows = self.box(reveal).ask(owned.x)
        asked = [self.fidelity(imitate(owned.x, rows, seed)) for seed in range(seeds)]
        gained = [found - self._alone(seed) for seed, found in enumerate(asked)]
        return mean_of(asked), mean_of(gained)

    def _alone(self, seed: int) -> float:
        """Agreement of who labels the same examples himself, correctly."""
        return self.fidelity(_by_hand(self.data, seed))


@lru_cache(maxsize=64)
def _copied(data: str, model: str, reveal: Reveal, budget: int, seed: int) -> nn.Module:
    box = BlackBox(victim(data, model), reveal, budget)
    return knockoff(box, patches(ground(data).shape, MOST), seed)


@lru_cache(maxsize=8)
def _by_hand(data: str, seed: int) -> nn.Module:
    owned = ground(data).owned
    return imitate(owned.x, np.eye(ground(data).classes)[owned.y], seed)
