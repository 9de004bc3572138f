"""Figures of how much came out, whatever was guessed at, each with its floor beside it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from tacit.crypto.errors import ParameterError
from tacit.simulations.score import GREY, Floats, Score, some

# From guesses and originals, (n, *shape) in [0, 1] each, to (n,) distances, 0 for the same.
Distance: TypeAlias = Callable[[Floats, Floats], Any]

Rows: TypeAlias = NDArray[Any]

# Of a column's standard deviation: Vero et al. 2023, "TabLeak" (ICML), in their code. Numbers this
# near are right; a normal one guessed blindly, as its mean, is right a quarter of the time.
WITHIN = 0.319


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
    distance: Distance, guess: Floats | None, truth: Floats, public: NDArray[np.floating[Any]]
) -> Measure:
    """One less a perceptual distance, such as LPIPS (Zhang et al. 2018, "The Unreasonable
    Effectiveness of Deep Features as a Perceptual Metric", CVPR), of guesses matched with the truth
    (n, *shape) in [0, 1]. The floor is that of mid-grey or the mean of public data, whichever is
    nearer; so is the value where there is no guess. Raises ParameterError unless there is a finite
    number for each.
    """
    blind = (np.full(truth.shape[1:], GREY), public.astype(np.float64).mean(axis=0))
    floors = [_near(distance, np.broadcast_to(each, truth.shape).copy(), truth) for each in blind]
    floor = max(floors, key=sum)
    return Measure("1 - LPIPS", floor if guess is None else _near(distance, guess, truth), floor)


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


def of_updates(guess: Floats, truth: Floats, blind: Floats) -> Measure:
    """The cosine between each device's update and the guess at it, shapes (devices, length).

    The floor is that of `blind`, the same shape: what sums say of each without an attack.
    """
    if not guess.shape == truth.shape == blind.shape:
        raise ParameterError(f"guess {guess.shape} at {truth.shape}, and blind {blind.shape}")
    return Measure(
        "cosine",
        tuple(_cosine(g, t) for g, t in zip(guess, truth, strict=True)),
        tuple(_cosine(b, t) for b, t in zip(blind, truth, strict=True)),
    )


def of_tokens(
    guess: NDArray[np.int64], truth: NDArray[np.int64], public: NDArray[np.int64]
) -> tuple[Measure, ...]:
    """Tokens right, place by place, and texts right as a whole; each text a share or 0 or 1.

    Shapes (g, length) with g <= n, (n, length) and (m, length). Texts are in any order: they are
    matched so that as many tokens as can be are right. Where the truth has none (-1) nothing is
    counted; a text without a guess has nothing right. The floor is the better of two guesses that
    `public` texts make: the most frequent token at each place, every time; and n of the texts, as
    matching picks from among different ones.
    """
    _require_rows(guess, truth, public)
    there = truth >= 0
    if not there.any(axis=1).all():
        raise ParameterError("a text without a token cannot be guessed")

    def right(texts: NDArray[np.int64]) -> Floats:
        same = (texts[:, None] == truth) & there
        shares: Floats = same.sum(axis=2) / there.sum(axis=1)
        return _along(shares, _matching(shares))

    usual = np.array([_most_within(column, 0) for column in public.T])
    found, blind, drawn = map(right, (guess, _repeated(usual, truth), some(public, len(truth))))
    return (
        _above("tokens right", found, blind, drawn),
        _above("texts right", *((shares == 1).astype(float) for shares in (found, blind, drawn))),
    )


def of_rows(
    guess: Floats, truth: Floats, public: Floats, categorical: NDArray[np.bool_]
) -> tuple[Measure, ...]:
    """Cells right, and those of categories and of numbers alone, where there are any; in shares.

    Shapes (g, columns) with g <= n, (n, columns), (m, columns) and (columns,). A category is right
    if it is the same, a number if it is WITHIN a column's deviations of it, over `public` rows.
    Rows are in any order: they are matched so that as many cells as can be are right. A row without
    a guess has nothing right. The floor is the better of two guesses that `public` rows make: the
    most frequent category and the number that is right for most, every time; and n of the rows, as
    matching picks from among different ones.
    """
    _require_rows(guess, truth, public)
    if categorical.shape != truth.shape[1:]:
        raise ParameterError(f"{categorical.shape} kinds of {truth.shape[1]} columns")
    within = np.where(categorical, 0.0, WITHIN * public.std(axis=0))
    kinds = {"cells": np.ones_like(categorical), "categories": categorical, "numbers": ~categorical}

    def right(rows: Floats) -> dict[str, Floats]:
        cells = np.abs(rows[:, None] - truth) <= within
        matching = _matching(cells.mean(axis=2))
        return {
            kind: _along(cells[..., chosen].mean(axis=2), matching)
            for kind, chosen in kinds.items()
            if chosen.any()
        }

    usual = np.array([_most_within(column, w) for column, w in zip(public.T, within, strict=True)])
    found, blind, drawn = map(right, (guess, _repeated(usual, truth), some(public, len(truth))))
    return tuple(
        _above(f"{kind} right", shares, blind[kind], drawn[kind]) for kind, shares in found.items()
    )


def _require_rows(guess: Rows, truth: Rows, public: Rows) -> None:
    widths = {table.shape[1:] for table in (guess, truth, public)}
    if truth.ndim != 2 or len(widths) > 1 or not len(truth) or not len(public):
        raise ParameterError(f"guess {guess.shape} at {truth.shape}, public {public.shape}")
    if len(guess) > len(truth):
        raise ParameterError(f"{len(guess)} guesses at {len(truth)} rows: keep the first ones")


def _matching(right: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs of a guess and a truth with the most right in all; `right` is (guesses, truths)."""
    guesses, truths = linear_sum_assignment(right, maximize=True)
    return guesses, truths


def _along(right: Floats, matching: tuple[NDArray[np.intp], NDArray[np.intp]]) -> Floats:
    """For each truth what is right in its guess, and 0 where it has none."""
    found = np.zeros(right.shape[1])
    found[matching[1]] = right[matching]
    return found


def _above(name: str, found: Floats, *blind: Floats) -> Measure:
    """With the guess that is better on average for a floor."""
    floor = max(blind, key=lambda shares: float(shares.mean()))
    return Measure(name, tuple(found.tolist()), tuple(floor.tolist()))


def _repeated(row: Rows, truth: Rows) -> Rows:
    return np.broadcast_to(row, truth.shape)


def _most_within(column: NDArray[Any], within: float) -> Any:
    """The value with the most of the column within this distance; of several, the lowest."""
    values = np.sort(column)
    counts = np.searchsorted(values, values + 2 * within, side="right") - np.arange(len(values))
    return values[counts.argmax()] + within


def _cosine(one: Floats, other: Floats) -> float:
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths else 0.0
