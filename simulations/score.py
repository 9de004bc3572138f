"""How close a guess came to the truth, next to what guessing blindly would have scored.

The order of inputs behind an update means nothing, so guesses and truths are matched first: the
linear assignment of least mean squared error. Every score is per truth; a truth without a guess
is scored as mid-grey. Inputs are in data units with range [0, 1].

Matching many different guesses flatters the attack a little: the best of ten unrelated faces is
nearer than a random one. The floor has one guess for all and gets no such help.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan, log10, nan, sqrt
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom
from skimage.metrics import structural_similarity

from tacit.crypto.errors import ParameterError

Floats: TypeAlias = NDArray[np.float64]

PSNR_CAP = 120.0  # dB; float32 data cannot be told apart beyond about 140
RECOVERED_DB = 25.0
GREY = 0.5
LUCK = 0.05  # what happens by chance more often than this says nothing
_WINDOW = 7  # scikit-image's default side of the SSIM window


@dataclass(frozen=True, slots=True)
class Score:
    """Measures per truth, in the order of the truths, and what they are measured with.

    `psnr` in dB, at most PSNR_CAP; `ssim` in [-1, 1], NaN for data that is not an image;
    `recovered` is the fraction with a PSNR of at least `threshold` dB; `identified` is the
    fraction whose guess is nearer to the truth than to the other `gallery` - 1 candidates.
    """

    mse: tuple[float, ...]
    psnr: tuple[float, ...]
    ssim: tuple[float, ...]
    identified: float
    gallery: int
    threshold: float = RECOVERED_DB

    @property
    def recovered(self) -> float:
        return sum(value >= self.threshold for value in self.psnr) / len(self.psnr)

    @property
    def mean_mse(self) -> float:
        return sum(self.mse) / len(self.mse)

    @property
    def mean_psnr(self) -> float:
        return sum(self.psnr) / len(self.psnr)

    @property
    def mean_ssim(self) -> float:
        return sum(self.ssim) / len(self.ssim)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: NaN (no SSIM) becomes None. Means are there for the reader."""
        return {
            "mse": list(self.mse),
            "psnr": list(self.psnr),
            "ssim": [None if isnan(value) else value for value in self.ssim],
            "identified": self.identified,
            "gallery": self.gallery,
            "threshold": self.threshold,
            "recovered": self.recovered,
            "mean": {
                "mse": self.mean_mse,
                "psnr": self.mean_psnr,
                "ssim": None if isnan(self.mean_ssim) else self.mean_ssim,
            },
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Score":
        """The inverse of `to_json`; KeyError if a part is missing."""
        return cls(
            mse=tuple(map(float, value["mse"])),
            psnr=tuple(map(float, value["psnr"])),
            ssim=tuple(nan if item is None else float(item) for item in value["ssim"]),
            identified=float(value["identified"]),
            gallery=int(value["gallery"]),
            threshold=float(value["threshold"]),
        )


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the bounds of its confidence interval."""

    low: float
    mean: float
    high: float


def match(guess: Floats, truth: Floats) -> Floats:
    """The guesses in the order of the truths, clipped to [0, 1]; mid-grey where there is none.

    Shapes (g, *shape) and (n, *shape) with g <= n: more guesses than truths would be a lottery.
    Raises ParameterError on other shapes and on a guess that is not finite.
    """
    if len(truth) == 0 or guess.shape[1:] != truth.shape[1:]:
        raise ParameterError(f"guess {guess.shape} against truth {truth.shape}")
    if len(guess) > len(truth):
        raise ParameterError(f"{len(guess)} guesses at {len(truth)} inputs: keep the first ones")
    if not np.isfinite(guess).all():
        raise ParameterError("the guess is not finite")
    matched = np.full(truth.shape, GREY)
    bounded = guess.astype(np.float64).clip(0, 1)
    columns, rows = linear_sum_assignment(_distances(bounded, truth))
    matched[rows] = bounded[columns]
    return matched


def score(
    guess: Floats, truth: Floats, gallery: Floats, threshold: float = RECOVERED_DB
) -> tuple[Score, Floats]:
    """Score a guess in any order; also returns it in the order of the truths (see `match`).

    `gallery`, shape (m, *shape), must contain every truth exactly.
    """
    matched = match(guess, truth)
    return _score_matched(matched, truth, gallery, threshold), matched


def floor_of(
    truth: Floats, gallery: Floats, public: Floats, threshold: float = RECOVERED_DB
) -> Score:
    """What an adversary without any update scores: the strongest of three blind guesses.

    They are mid-grey, the mean of `public` data, shape (k, *shape), and as many of these as there
    are truths, which gain by being matched as any different guesses do. For each measure the best
    one on average counts. Identification is left to chance, 1 in the gallery.
    """
    known = public.astype(np.float64)
    blind = (np.full(truth.shape, GREY), np.broadcast_to(known.mean(axis=0), truth.shape))
    others = match(some(known, len(truth)), truth)
    scores = [_score_matched(guess, truth, gallery, threshold) for guess in (*blind, others)]
    return replace(
        scores[0],
        mse=min((each.mse for each in scores), key=sum),
        psnr=max((each.psnr for each in scores), key=sum),
        ssim=max((each.ssim for each in scores), key=sum),
        identified=min(1.0, len(truth) / len(gallery)),
    )


def some(public: NDArray[Any], count: int) -> NDArray[Any]:
    """So many rows, or all there are, spread evenly: neighbours in a data set may be alike."""
    chosen: NDArray[Any] = public[
        np.linspace(0, len(public) - 1, min(count, len(public))).round().astype(int)
    ]
    return chosen


def at_floor(found: Score, floor: Score) -> bool:
    """Whether nothing in this score stands out from guessing blindly.

    SSIM and PSNR: the mean advantage over the floor, paired by truth, is at most two standard
    errors; with one truth there is no error to estimate, and any advantage stands out.
    Identification: as many hits or more happen by luck with a probability above 5 %. A guess
    matched with a truth hits by luck if its nearest candidate is any of the n truths, so luck is
    n in the gallery. A blurred guess that still says who it is does not count as the floor.
    """
    pairs = ((found.psnr, floor.psnr), (found.ssim, floor.ssim))
    clear = any(stands_out(ours, blind) for ours, blind in pairs if not np.isnan(ours).any())
    n = len(found.mse)
    hits = round(found.identified * n)
    luck = float(binom.sf(hits - 1, n, min(1.0, n / found.gallery)))
    return not clear and luck > LUCK


def stands_out(ours: Sequence[float], blind: Sequence[float]) -> bool:
    """Whether the mean advantage, in pairs, is above two standard errors; any, if of one pair."""
    ahead = np.subtract(ours, blind)
    error = float(ahead.std(ddof=1)) / sqrt(len(ahead)) if len(ahead) > 1 else 0.0
    # Equal in exact arithmetic is equal: sums in another order differ by less than this.
    return float(ahead.mean()) > 2 * error + 1e-9


def pooled(scores: Sequence[Score]) -> Score:
    """Several scores as one over all their truths; ParameterError if measured differently."""
    if not scores:
        raise ParameterError("there are no scores to pool")
    first = scores[0]
    if any((s.gallery, s.threshold) != (first.gallery, first.threshold) for s in scores):
        raise ParameterError("scores with different galleries or thresholds cannot be pooled")
    return replace(
        first,
        mse=tuple(value for s in scores for value in s.mse),
        psnr=tuple(value for s in scores for value in s.psnr),
        ssim=tuple(value for s in scores for value in s.ssim),
        identified=float(
            np.average([s.identified for s in scores], weights=[len(s.mse) for s in scores])
        ),
    )


def interval(
    values: Sequence[float], rng: np.random.Generator, level: float = 0.95, draws: int = 2000
) -> Interval:
    """Percentile bootstrap of the mean over images (Efron and Tibshirani 1993, chapter 13)."""
    if len(values) == 0 or not 0 < level < 1 or draws < 1:
        raise ParameterError(
            f"{len(values)} values, level={level}, draws={draws}: expected at least one value, "
            "0 < level < 1 and at least one draw"
        )
    sample = np.asarray(values, dtype=np.float64)
    means = sample[rng.integers(len(sample), size=(draws, len(sample)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(sample.mean()), float(high))


def psnr_of(mse: float) -> float:
    """Peak signal-to-noise ratio in dB for data of range 1, at most PSNR_CAP."""
    return PSNR_CAP if mse <= 10 ** (-PSNR_CAP / 10) else -10 * log10(mse)


def ssim_of(guess: Floats, truth: Floats) -> float:
    """SSIM of images (rows, columns) or (channels, rows, columns); NaN for anything else.

    Wang et al. 2004 with scikit-image's uniform window, side 7 or the largest odd side that fits.
    """
    if truth.ndim not in (2, 3) or min(truth.shape[-2:]) < 3:
        return nan
    side = min(_WINDOW, (min(truth.shape[-2:]) - 1) // 2 * 2 + 1)
    channels = 0 if truth.ndim == 3 else None
    return float(
        structural_similarity(truth, guess, data_range=1.0, win_size=side, channel_axis=channels)
    )


def _score_matched(matched: Floats, truth: Floats, gallery: Floats, threshold: float) -> Score:
    exact = truth.astype(np.float64)
    mse = tuple(float(np.square(g - t).mean()) for g, t in zip(matched, exact, strict=True))
    return Score(
        mse=mse,
        psnr=tuple(map(psnr_of, mse)),
        ssim=tuple(ssim_of(g, t) for g, t in zip(matched, exact, strict=True)),
        identified=_identified(matched, exact, gallery.astype(np.float64)),
        gallery=len(gallery),
        threshold=threshold,
    )


def _identified(matched: Floats, truth: Floats, gallery: Floats) -> float:
    if gallery.shape[1:] != truth.shape[1:]:
        raise ParameterError(f"gallery {gallery.shape} against truth {truth.shape}")
    same = np.array([(gallery == one).reshape(len(gallery), -1).all(axis=1) for one in truth])
    if not same.any(axis=1).all():
        raise ParameterError("the gallery must contain every truth")
    nearest = _distances(matched, gallery).argmin(axis=1)
    return float(same[np.arange(len(truth)), nearest].mean())


def _distances(left: Floats, right: Floats) -> Floats:
    """Mean squared differences, shape (len(left), len(right)); row by row, to save memory."""
    axes = tuple(range(1, right.ndim))
    rows = [np.square(right - one).mean(axis=axes) for one in left]
    return np.array(rows).reshape(len(left), len(right))
