"""How much of what a model computes is told: always the label, and as little more as is granted.

Whatever is told is a function of the scores alone. Noise would be averaged away by whoever asks
twice. No level changes which class comes first: a gate that lies to thieves lies to everybody.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError

Floats: TypeAlias = NDArray[np.floating[Any]]

BANDS = (0.5, 0.8, 0.95)  # where the bands of `TOP1` begin, after the first, which begins at 0
MOST_DIGITS = 6


class Detail(StrEnum):
    """What is told of a row of scores, from least to most."""

    LABEL = "label"  # the class that comes first
    TOP1 = "top1"  # and in which of four bands its probability is
    ROUNDED = "rounded"  # and all probabilities, to some digits
    FULL = "full"  # and all probabilities


@dataclass(frozen=True, slots=True)
class Shown:
    """What is told of n inputs: `labels` (n,), and of each the `bands` (n,) as numbers 0 to 3 or
    the `scores` (n, classes), where they are told."""

    labels: NDArray[np.int64]
    bands: NDArray[np.int64] | None = None
    scores: Floats | None = None


@dataclass(frozen=True, slots=True)
class Reveal:
    """A policy; `digits` after the point are for ROUNDED alone."""

    detail: Detail = Detail.LABEL
    digits: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.digits <= MOST_DIGITS:
            raise ParameterError(f"digits={self.digits}, expected 1 to {MOST_DIGITS}")

    def shown(self, probabilities: Floats) -> Shown:
        """What is told of `probabilities` (n, classes), each row in [0, 1] and of sum 1."""
        labels = probabilities.argmax(1)
        match self.detail:
            case Detail.LABEL:
                return Shown(labels)
            case Detail.TOP1:
                return Shown(labels, bands=np.digitize(probabilities.max(1), BANDS))
            case Detail.ROUNDED:
                return Shown(labels, scores=_rounded(probabilities, labels, self.digits))
            case Detail.FULL:
                return Shown(labels, scores=probabilities)


def _rounded(probabilities: Floats, labels: NDArray[np.int64], digits: int) -> Floats:
    """Rounded, and where others come out as high as the first, that one a step higher."""
    rounded = np.round(probabilities.astype(np.float64), digits)
    rows = np.arange(len(rounded))
    first = rounded[rows, labels]
    rounded[rows, labels] = -1.0
    is_tied = rounded.max(1) >= first
    rounded[rows, labels] = np.round(first + is_tied * 10.0**-digits, digits)
    return rounded
