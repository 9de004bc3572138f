"""Figures of how much came out, whatever was guessed at, each with its floor beside it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.simulations.score import Floats, Score


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure, more of it being a worse leak.

    `values` has one number for each thing guessed at, and `floor` what a guess without the update
    scores at the same. Shares are in [0, 1]; PSNR is in dB.
    """

    name: str
    values: tuple[float, ...]
    floor: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values or len(self.values) != len(self.floor):
            raise ParameterError(
                f"{self.name}: {len(self.values)} values and {len(self.floor)} for the floor"
            )

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def mean_floor(self) -> float:
        return sum(self.floor) / len(self.floor)


def of_inputs(found: Score, floor: Score) -> tuple[Measure, ...]:
    """Of pictures SSIM first; of whatever is none, PSNR.

    Identification and recovery are shares of all inputs: one number for the whole update.
    """
    shares = (
        Measure("PSNR", found.psnr, floor.psnr),
        Measure("recovered", (found.recovered,), (floor.recovered,)),
        Measure("identified", (found.identified,), (floor.identified,)),
    )
    if any(isnan(value) for value in (*found.ssim, *floor.ssim)):
        return shares
    return (Measure("SSIM", found.ssim, floor.ssim), *shares)


def of_labels(guess: Sequence[int], truth: Sequence[int], classes: int) -> Measure:
    """The share of the labels in `truth` that `guess` has too, both as multisets.

    The floor is what it comes to, on average, for a guess of all `classes` equally often, where
    what does not divide evenly goes to classes drawn by lot. Raises ParameterError if guess and
    truth are not equally many, as more guesses would be a lottery.
    """
    if not len(truth) or len(guess) != len(truth):
        raise ParameterError(f"{len(guess)} labels guessed, of {len(truth)}")
    if not 0 <= min(truth) <= max(truth) < classes:
        raise ParameterError(f"labels {sorted(set(truth))} are not those of {classes} classes")
    right = (Counter(guess) & Counter(truth)).total() / len(truth)
    each, over = divmod(len(truth), classes)
    there = np.bincount(np.asarray(truth), minlength=classes)
    one_more = np.minimum(there, each + 1) - np.minimum(there, each)
    blind = float((np.minimum(there, each) + one_more * over / classes).sum() / len(truth))
    return Measure("labels right", (right,), (blind,))


def of_updates(guess: Floats, truth: Floats, mean: NDArray[np.float64]) -> Measure:
    """The cosine between each device's update and the guess at it, shapes (devices, length).

    The floor is that of `mean`, (length,): what all of them come to together, as a guess at each.
    """
    if guess.shape != truth.shape or mean.shape != truth.shape[1:]:
        raise ParameterError(f"guess {guess.shape} at {truth.shape}, and a mean {mean.shape}")
    return Measure(
        "cosine",
        tuple(_cosine(g, t) for g, t in zip(guess, truth, strict=True)),
        tuple(_cosine(mean, t) for t in truth),
    )


def _cosine(one: Floats, other: Floats) -> float:
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths else 0.0
