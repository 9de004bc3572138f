"""Means over runs that differ in their seed, and how far they may be off."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Mean:
    """Of accuracies or differences, in percent, and half of its 95 % interval."""

    value: float
    half: float

    @classmethod
    def of(cls, found: NDArray[np.float64]) -> "Mean":
        from scipy.stats import t

        error = float(found.std(ddof=1)) / math.sqrt(found.size)
        return cls(100 * float(found.mean()), 100 * float(t.ppf(0.975, found.size - 1)) * error)

    def __str__(self) -> str:
        return f"{self.value:.1f} +- {self.half:.1f}"
