"""Was this example trained on? The likelihood-ratio attack, and what a label alone tells.

LiRA: Carlini, Chien, Nasr, Song, Terzis and Tramèr 2022, arXiv:2112.03570, section IV-C. Whoever
attacks trains models of the same kind on halves of examples like the victim's: *shadows*. Of each
example he so learns which confidences a model has that saw it, and that did not, and he asks of
which kind the victim's is. Confidences are logit-scaled, which makes them about normal.

Gap: Yeom, Giacomelli, Fredrikson and Jha 2018, arXiv:1709.01604; under this name and as the least
that a label tells in Choquette-Choo et al. 2021, arXiv:2007.14321. What the victim gets right, it
is taken to have seen.

All of these return scores: higher, more likely a member. Where to draw the line is for the judge,
who knows the truth: see `tacit.simulations.duels.roc`.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.server.gate.reveal import Floats

Bools: TypeAlias = NDArray[np.bool_]
Reals: TypeAlias = NDArray[np.float64]

SMALLEST = 1e-30  # a probability that is told as 0 is taken for this
FEW = 64  # with fewer shadows a variance for each example would be noise: all have one in common


def confidences(told: Floats, y: NDArray[np.int64], least: float = SMALLEST) -> Reals:
    """log(p / (1 - p)) of the probability p of the right class: (..., n) of `told` (..., n,
    classes), rows of probabilities, and the classes `y` (n,).

    1 - p is added up from the other classes, as it would be lost to rounding. `least` is what a
    probability of 0 may be: of answers that are rounded, half a unit of the last digit.
    """
    rows = told.astype(np.float64)
    index = np.broadcast_to(y[:, None], (*rows.shape[:-1], 1))
    right = np.take_along_axis(rows, index, -1)[..., 0]
    np.put_along_axis(rows, index, 0.0, -1)
    scaled: Reals = np.log(np.maximum(right, least)) - np.log(np.maximum(rows.sum(-1), least))
    return scaled


def lira(victim: Reals, shadows: Reals, member: Bools) -> Reals:
    """The log likelihood ratio (n,) of each example, online: Algorithm 1.

    `victim` (n,) and `shadows` (k, n) are confidences, `member` (k, n) says which examples each
    shadow was trained on. Raises ParameterError unless each was in two shadows, and out of two.
    """
    inside, spread_in = _fitted(shadows, member)
    outside, spread_out = _fitted(shadows, ~member)
    ratio: Reals = _log_density(victim, inside, spread_in) - _log_density(
        victim, outside, spread_out
    )
    return ratio


def lira_offline(victim: Reals, shadows: Reals, member: Bools) -> Reals:
    """How far above shadows that did not see it the victim is, in their deviations: equation 4,
    which is this by way of a function that only grows. For shadows that were trained without the
    examples, or by somebody who could not choose them; arguments as of `lira`."""
    outside, spread = _fitted(shadows, ~member)
    above: Reals = (victim - outside) / spread
    return above


def gap(told: Floats, y: NDArray[np.int64]) -> Reals:
    """1 where the victim is right, 0 where it is not: (n,), of `told` (n, classes)."""
    is_right: Bools = told.argmax(-1) == y
    return is_right.astype(np.float64)


def _fitted(shadows: Reals, chosen: Bools) -> tuple[Reals, Reals]:
    """Mean and deviation of the chosen shadows' confidences, for each example: (n,) each."""
    count = chosen.sum(0)
    if shadows.shape != chosen.shape or count.min() < 2:
        raise ParameterError("each example has to be in two shadows, and out of two, at least")
    mean = np.where(chosen, shadows, 0.0).sum(0) / count
    squares = np.where(chosen, shadows - mean, 0.0) ** 2
    if len(shadows) < FEW:
        common = float(np.sqrt(squares.sum() / (count - 1).sum()))
        return mean, np.full(mean.shape, max(common, SMALLEST))
    return mean, np.sqrt(np.maximum(squares.sum(0) / (count - 1), SMALLEST))


def _log_density(x: Reals, mean: Reals, spread: Reals) -> Reals:
    """Of the normal law, up to a constant."""
    density: Reals = -np.log(spread) - ((x - mean) / spread) ** 2 / 2
    return density
