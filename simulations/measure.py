"""Figures of how much came out, whatever was guessed at, each with its floor beside it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.simulations.score import GREY, Floats, Score

# From guesses and originals, (n, *shape) in [0, 1] each, to (n,) distances, 0 for the same.
Distance: TypeAlias = Callable[[Floats, Floats], Any]


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


def of_perception(
    distance: Distance, guess: Floats, truth: Floats, public: NDArray[np.floating[Any]]
) -> Measure:
    """One less a perceptual distance, such as LPIPS (Zhang et al. 2018, "The Unreasonable
    Effectiveness of Deep Features as a Perceptual Metric", CVPR), of guesses matched with the truth
    (n, *shape) in [0, 1]. The floor is that of mid-grey or the mean of public data, whichever is
    nearer. Raises ParameterError unless there is a finite number for each.
    """
    blind = (np.full(truth.shape[1:], GREY), public.astype(np.float64).mean(axis=0))
    floors = [_near(distance, np.broadcast_to(each, truth.shape).copy(), truth) for each in blind]
    return Measure("1 - LPIPS", _near(distance, guess, truth), max(floors, key=sum))


def _near(distance: Distance, guess: Floats, truth: Floats) -> tuple[float, ...]:
    found = np.asarray(distance(guess, truth), dtype=np.float64)
    if found.shape != (len(truth),) or not np.isfinite(found).all():
        raise ParameterError(
            f"a perceptual distance gave {found.shape}, expected a finite number for each of "
            f"{len(truth)} pictures"
        )
    return tuple((1 - found).tolist())


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
