"""What an attack on releases proves about epsilon: a check on accountants, and on all below them.

An accountant says how much can be told at most. Here an attack says how much can be told at least.
If it is more, something is wrong: noise, clip, ledger or proof.

**Many runs.** One device's update is a canary, or it is zero, again and again. From what is
released an adversary works out a score, and by a rule says whether the canary was there. What is
(epsilon, delta)-DP has, for any rule, with FP and FN the chances of a false alarm and of a miss
(Kairouz, Oh and Viswanath 2015, arXiv:1311.0776),

    exp(epsilon) >= (1 - delta - FN) / FP        and        exp(epsilon) >= (1 - delta - FP) / FN.

The rule is chosen by the first half of the runs and judged by the second, which had no part in the
choice. Each of the two chances is below its upper limit (Clopper and Pearson 1934,
doi:10.1093/biomet/26.4.404) but for alpha / 2, whatever the law of the scores. So the *bound* is
above the true epsilon with probability alpha at most. It is below it by far, too: rare errors take
many runs to be seen.

**The bug detector** makes more of the same limits (Nasr et al. 2023, arXiv:2302.07956). What is
m-GDP has, for any rule, m >= -Phi**-1(FP) - Phi**-1(FN), which errors that are not rare show as
well as rare ones. To contradict the m of an accountant that claims one is as sound as a bound.
But an epsilon that is worked out from it is one only where noise is about normal, so it is called a
detector of bugs and is not to be published as what was proven.

**One run** (Steinke, Nasr and Jagielski 2023, arXiv:2305.08846, theorem 5.2) has many canaries,
each there or not by the toss of a coin. Of r guesses v or more are right with a probability of at
most

    P[W >= v] + 2 m delta max over i of P[v - i <= W < v] / i

for m canaries, with W of Bin(r, 1 / (1 + exp(-epsilon))). It costs a single run of whatever is
looked into, and proves less than many.

**No score shows** that noise was there before: `repeats` compares it with itself.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.crypto.vector import Floats
from tacit.privacy.gaussian import epsilon_of

Bools: TypeAlias = NDArray[np.bool_]

LEAST_RUNS = 4  # with the canary, and without: two to choose by, two to judge by
CAUTION = 1e-6  # alpha by which the detector's rule is chosen: extreme ones are there by luck
_TRIED = 1.1  # thresholds: at each rank from either end that is so many times the one before
_NORMAL = NormalDist()
_LARGEST = 100.0  # epsilon: no audit has runs for more


@dataclass(frozen=True, slots=True)
class Claim:
    """What is put to the test: `epsilon` at `delta`, by an accountant. `tested` says of what, and
    `adversary` what the attack knows. An audit is wrong with probability `alpha` at most."""

    tested: str
    adversary: str
    epsilon: float
    delta: float
    alpha: float

    def __post_init__(self) -> None:
        if not (0 < self.delta < 1 and 0 < self.alpha < 1):
            raise ParameterError(f"delta={self.delta}, alpha={self.alpha}: expected 0 .. 1")
        if not self.epsilon >= 0:
            raise ParameterError(f"epsilon={self.epsilon}, expected 0 or more")

    def text(self, trials: str, found: Sequence[str], *, contradicted: bool) -> str:
        verdict = "is CONTRADICTED" if contradicted else "stands: nothing here contradicts it"
        return "\n".join(
            (
                f"Tested: {self.tested}",
                f"Adversary: {self.adversary}",
                f"Trials: {trials}",
                f"Accounted: epsilon {self.epsilon:.4g} at delta {self.delta:g}",
                *found,
                f"Verdict: the accounted epsilon {verdict}",
            )
        )


@dataclass(frozen=True, slots=True)
class Errors:
    """How often a rule was wrong: false alarms in `absent` runs, misses in `present` ones."""

    alarms: int
    absent: int
    misses: int
    present: int

    def limits(self, alpha: float) -> tuple[float, float]:
        """Both chances are at most this, but for `alpha`."""
        return (
            upper_limit(self.alarms, self.absent, alpha / 2),
            upper_limit(self.misses, self.present, alpha / 2),
        )

    def epsilon(self, delta: float, alpha: float) -> float:
        """Epsilon at `delta` is this or more, but for `alpha`. Below 0, and perhaps -inf, where
        that says nothing."""
        alarms, misses = self.limits(alpha)
        return max(_log_ratio(1 - delta - misses, alarms), _log_ratio(1 - delta - alarms, misses))

    def m(self, alpha: float) -> float:
        """So is m, of m-GDP."""
        limits = self.limits(alpha)
        return -math.inf if 1.0 in limits else -sum(map(_NORMAL.inv_cdf, limits))


@dataclass(frozen=True, slots=True)
class Rule:
    """Says that the canary is there: from a threshold on, or below it."""

    threshold: float
    above: bool

    def errors(self, absent: Floats, present: Floats) -> Errors:
        alarms, found = (
            np.count_nonzero((scores >= self.threshold) == self.above)
            for scores in (absent, present)
        )
        return Errors(int(alarms), absent.size, present.size - int(found), present.size)


@dataclass(frozen=True, slots=True)
class Audit:
    """What many runs say. `runs` of each kind, of which half were judged; each figure has a rule of
    its own, and each is wrong with probability alpha."""

    claim: Claim
    runs: int
    of_bound: Errors
    of_detector: Errors

    @property
    def bound(self) -> float:
        """Epsilon is this or more, whatever the mechanism."""
        return max(0.0, self.of_bound.epsilon(self.claim.delta, self.claim.alpha))

    @property
    def m(self) -> float:
        """m is this or more, if the mechanism is m-GDP for any."""
        return max(0.0, self.of_detector.m(self.claim.alpha))

    @property
    def detector(self) -> float:
        """Epsilon is this or more, if noise is about normal."""
        return epsilon_of(self.m, self.claim.delta)

    @property
    def is_contradicted(self) -> bool:
        return max(self.bound, self.detector) > self.claim.epsilon

    def text(self) -> str:
        """Lines for a report."""
        of, sure = self.of_detector, 100 * (1 - self.claim.alpha)
        return self.claim.text(
            f"{self.runs} with the canary and {self.runs} without; the first half of each fixed "
            "the rule, the second was judged by it",
            (
                f"Bound: epsilon >= {self.bound:.4g}, {sure:.6g} % sure (Clopper-Pearson)",
                f"Bug detector, not a bound: epsilon >= {self.detector:.4g}, if the noise is about "
                f"normal ({of.alarms} of {of.absent} false alarms, {of.misses} of {of.present} "
                "misses)",
            ),
            contradicted=self.is_contradicted,
        )


@dataclass(frozen=True, slots=True)
class OneRun:
    """What one run with many canaries says: of so many guesses so many were right."""

    claim: Claim
    canaries: int
    guesses: int
    right: int

    @property
    def bound(self) -> float:
        """Epsilon is this or more, whatever the mechanism."""
        return one_run_bound(
            self.canaries, self.guesses, self.right, self.claim.delta, self.claim.alpha
        )

    @property
    def is_contradicted(self) -> bool:
        return self.bound > self.claim.epsilon

    def text(self) -> str:
        """Lines for a report."""
        return self.claim.text(
            f"one, with {self.canaries} canaries; {self.guesses} guesses, a number fixed before, "
            f"{self.right} of them right",
            (
                f"Bound: epsilon >= {self.bound:.4g}, {100 * (1 - self.claim.alpha):.6g} % sure "
                "(Steinke, Nasr and Jagielski)",
            ),
            contradicted=self.is_contradicted,
        )


@dataclass(frozen=True, slots=True)
class Repeats:
    """Whether noise came back. `chance` bounds the probability that fresh noise does."""

    vectors: int
    coordinates: int
    equal: int
    chance: float

    @property
    def is_contradicted(self) -> bool:
        return self.equal > 0

    def text(self) -> str:
        """One line for a report."""
        found = f"{self.equal} pairs are EQUAL" if self.equal else "no two are equal"
        return (
            f"Replay: {self.vectors} vectors of noise, {self.coordinates} numbers each: {found} "
            f"(fresh noise has a chance of {self.chance:.1g} for a pair)"
        )


# Many runs


def judge(claim: Claim, absent: Floats, present: Floats) -> Audit:
    """Scores of runs without the canary, and with it, in the order in which they were made.

    Raises ParameterError for fewer than LEAST_RUNS of a kind, or not as many of each.
    """
    if absent.shape != present.shape or absent.ndim != 1 or absent.size < LEAST_RUNS:
        raise ParameterError(
            f"{absent.shape} and {present.shape} scores: expected as many of each, {LEAST_RUNS} "
            "or more"
        )
    if not (np.isfinite(absent).all() and np.isfinite(present).all()):
        raise ParameterError("a score that is not finite")
    half = absent.size // 2

    def judged(worth: Callable[[Errors], float]) -> Errors:
        rule = choose_rule(absent[:half], present[:half], worth)
        return rule.errors(absent[half:], present[half:])

    return Audit(
        claim,
        absent.size,
        judged(lambda errors: errors.epsilon(claim.delta, claim.alpha)),
        judged(lambda errors: errors.m(min(CAUTION, claim.alpha))),
    )


def choose_rule(absent: Floats, present: Floats, worth: Callable[[Errors], float]) -> Rule:
    """The threshold and direction that are worth most by these scores."""
    rules = [Rule(t, above) for t in _thresholds(absent, present) for above in (True, False)]
    return max(rules, key=lambda rule: worth(rule.errors(absent, present)))


def _thresholds(absent: Floats, present: Floats) -> list[float]:
    """Scores at some ranks from either end, for either kind of run: dense where errors are rare."""
    ranks, found = [0], set()
    while ranks[-1] < absent.size:
        ranks.append(max(ranks[-1] + 1, int(ranks[-1] * _TRIED)))
    for scores in (np.sort(absent), np.sort(present)):
        at = np.array(ranks[:-1])
        found |= set(scores[at].tolist()) | set(scores[-1 - at].tolist())
    return sorted(found)


@lru_cache(maxsize=1 << 14)
def upper_limit(hits: int, trials: int, alpha: float) -> float:
    """The largest chance with which so few hits or fewer still come up with probability `alpha`.

    From above, up to 2**-40 of it; alpha is below 1/2.
    """
    if hits >= trials:
        return 1.0
    low, high = hits / trials, 1.0
    while high - low > 2.0**-40 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(hits, trials, middle) > alpha else (low, middle)
    return high


def _at_most(hits: int, trials: int, chance: float) -> float:
    """P[Bin(trials, chance) <= hits], where chance > hits / trials: each term is smaller than the
    one above, and out of sight 6 deviations on."""
    log = (
        math.lgamma(trials + 1)
        - math.lgamma(hits + 1)
        - math.lgamma(trials - hits + 1)
        + hits * math.log(chance)
        + (trials - hits) * math.log1p(-chance)
    )
    below = np.arange(min(hits, 20 + 6 * math.isqrt(trials)))
    falls = (hits - below) / (trials - hits + 1 + below) * ((1 - chance) / chance)
    return math.exp(log) * (1 + float(np.cumprod(falls).sum()))


def _log_ratio(over: float, under: float) -> float:
    return math.log(over / under) if over > 0 else -math.inf


# One run


def guess(claim: Claim, m: float, scores: Floats, present: Bools) -> OneRun:
    """Scores (canaries,) of one run, and which canaries were there, each by the toss of a coin.

    As many of the highest scores are guessed to be there as of the lowest not to be: `guesses` says
    how many, by the `m` that is claimed and so without a look at the scores.
    """
    if scores.shape != present.shape or scores.ndim != 1 or scores.size < 2:
        raise ParameterError(f"{scores.shape} scores of {present.shape} canaries, expected two")
    count = guesses(scores.size, m, claim.delta, claim.alpha)
    order = np.argsort(scores)
    wrong = present[order[: count // 2]].sum() + (~present[order[-(count // 2) :]]).sum()
    return OneRun(claim, scores.size, count, count - int(wrong))


@lru_cache(maxsize=64)
def guesses(canaries: int, m: float, delta: float, alpha: float) -> int:
    """How many guesses, an even number, would prove most if scores were normal and m apart."""

    def proven(count: int) -> float:
        right = count * _accuracy(count / 2 / canaries, m)
        return one_run_bound(canaries, count, int(right), delta, alpha)

    pairs = {max(1, int(canaries / 2 * 0.8**i)) for i in range(40)}
    return 2 * max(sorted(pairs, reverse=True), key=lambda pair: proven(2 * pair))


def _accuracy(share: float, m: float) -> float:
    """Of the highest scores, `share` of all, this many are of canaries that are there."""

    def tail(threshold: float) -> tuple[float, float]:
        return _NORMAL.cdf(m / 2 - threshold), _NORMAL.cdf(-m / 2 - threshold)

    low, high = -m - 9.0, m + 9.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(tail(middle)) > 2 * share else (low, middle)
    return tail(high)[0] / max(sum(tail(high)), 1e-300)


def one_run_bound(canaries: int, guesses: int, right: int, delta: float, alpha: float) -> float:
    """The largest epsilon with which so many right guesses or more have probability `alpha` at
    most; 0 if none has."""
    chance = partial(chance_of, canaries, guesses, right, delta=delta)
    if chance(0.0) > alpha:
        return 0.0
    low, high = 0.0, _LARGEST
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if chance(middle) <= alpha else (low, middle)
    return low


def chance_of(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """The most that the probability of so many right guesses, or more, can be."""
    failed = -epsilon - math.log1p(math.exp(-epsilon))  # logarithms of chances
    counts = np.arange(guesses + 1)
    steps = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, guesses + 1)))])
    ways = steps[-1] - steps - steps[::-1]
    law = np.exp(ways + counts * (failed + epsilon) + (guesses - counts) * failed)
    below = np.cumsum(law[:right][::-1]) / np.arange(1, right + 1)
    most = float(below.max(initial=0.0))
    return min(1.0, float(law[right:].sum()) + 2 * canaries * delta * most)


# Replay


def repeats(noise: NDArray[Any], variance: float) -> Repeats:
    """Vectors of noise (n, coordinates), in steps of the grid, that should have nothing in common:
    which pairs are equal? `variance` is what there is of it at least.

    Two numbers of Skellam noise are equal with probability exp(-2v) I_0(2v), at most
    1 / sqrt(1 + 4v).
    """
    vectors, coordinates = noise.shape
    _, counts = np.unique(noise, axis=0, return_counts=True)
    equal = int((counts * (counts - 1) // 2).sum())
    pairs = vectors * (vectors - 1) // 2
    chance = min(1.0, pairs * (1 + 4 * variance) ** (-coordinates / 2))
    return Repeats(vectors, coordinates, equal, chance)
