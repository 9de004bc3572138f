"""What a duel is: a protection and the attack that it stops, measured with and without it.

A duel that shows only that an attack fails shows nothing: the attack may be a bad one. So each has
lines on which the attack has to succeed, where nothing defends, and lines on which it has to fail.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from math import isnan, nan
from typing import Protocol, TypeAlias

import numpy as np
from scipy.stats import beta, t

CONFIDENCE = 0.95

Tell: TypeAlias = Callable[[float], None]
"""Told how much of a duel is done, 0 to 1."""


class Role(Enum):
    """What a line is there for."""

    ATTACK = "the attack has to succeed"
    DEFENCE = "the defence has to hold"
    PRICE = "what the defence costs"
    REPORTED = "reported, not judged"


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean over `trials`, between the bounds of its 95 % interval; NaN where there are none."""

    value: float
    low: float = nan
    high: float = nan
    trials: int = 1


@dataclass(frozen=True, slots=True)
class Line:
    """One measured number: `what` was measured, in which `setting`, and what it is held against.

    `target` is None on a line that is only reported; otherwise the value has to be at least that,
    or with `at_most` no more.
    """

    setting: str
    what: str
    figure: Figure
    role: Role = Role.REPORTED
    target: float | None = None
    at_most: bool = False

    @property
    def holds(self) -> bool:
        """Whether the target is met. A value that is not a number meets none."""
        if self.target is None:
            return True
        value = self.figure.value
        if isnan(value):
            return False
        return value <= self.target if self.at_most else value >= self.target


@dataclass(frozen=True, slots=True)
class Fought:
    """A duel's outcome. `limits` are sentences on what it does not show."""

    duel: str
    attack: str
    defence: str
    data: str
    lines: tuple[Line, ...]
    seconds: float
    limits: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return all(line.holds for line in self.lines)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much to spend: `quick` is for a look, on fewer seeds and smaller budgets."""

    quick: bool = False
    data: str = "digits"


class Duel(Protocol):
    """A pair of a defence and an attack."""

    @property
    def name(self) -> str: ...

    @property
    def attack(self) -> str: ...

    @property
    def defence(self) -> str: ...

    def fight(self, scale: Scale, tell: Tell) -> Fought:
        """Measure both. Deterministic but for its seconds."""
        ...


def mean_of(values: Sequence[float]) -> Figure:
    """The mean of one value a seed, with Student's interval."""
    found = np.asarray(values, np.float64)
    if len(found) < 2:
        return Figure(float(found.mean()), trials=len(found))
    half = t.ppf((1 + CONFIDENCE) / 2, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
    mean = float(found.mean())
    return Figure(mean, mean - float(half), mean + float(half), len(found))


def share_of(hits: int, trials: int) -> Figure:
    """A share of independent trials, with the exact interval (Clopper & Pearson 1934)."""
    tail = (1 - CONFIDENCE) / 2
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, trials - hits + 1))
    high = 1.0 if hits == trials else float(beta.ppf(1 - tail, hits + 1, trials - hits))
    return Figure(hits / trials, low, high, trials)
