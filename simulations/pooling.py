"""Trials of one cell taken together: a mean with its interval, the floor, and a verdict.

Chance enters twice, in what a seed draws (data, model, noise) and in which inputs it draws them
for, so intervals come from resampling seeds first and then inputs within each.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, inf, log

import numpy as np
from scipy.stats import beta, binom

from tacit.crypto.errors import ParameterError
from tacit.simulations.measure import Measure
from tacit.simulations.score import LUCK, PSNR_CAP, Interval, stands_out
from tacit.simulations.trial import Cell, Trial

# The most that a measure can come to; 1 for every other.
BEST = {"PSNR": PSNR_CAP}
IDENTIFIED = "identified"
CHANCE = 1e-4  # with which a cell in which the bound holds may be told to break it
_PLAIN = "plain"
_SEVERAL = 3  # trials, from which on their means have a deviation worth the name


@dataclass(frozen=True, slots=True)
class Pooled:
    """One measure over `count` values; `at_floor` if they do not stand out from the floor."""

    name: str
    score: Interval
    floor: float
    count: int
    at_floor: bool

    @property
    def relative(self) -> float:
        """How far from the floor (0) to the best possible (1) the mean is; below 0 if worse than
        blind, and 0 where the floor leaves nothing to gain."""
        room = BEST.get(self.name, 1.0) - self.floor
        return (self.score.mean - self.floor) / room if room > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Identified:
    """How many inputs were identified, of how many, with the exact 95 % interval of their share
    (Clopper and Pearson 1934), and the most that differential privacy allows, if it says.

    A bootstrap would give no width at all to none identified of forty. `trials` is how many there
    were, each for as much as it had of the inputs of the largest.
    """

    hits: int
    of: int
    bound: float | None
    trials: float

    @property
    def share(self) -> Interval:
        misses = self.of - self.hits
        low = float(beta.ppf(0.025, self.hits, misses + 1)) if self.hits else 0.0
        high = float(beta.ppf(0.975, self.hits + 1, misses)) if misses else 1.0
        return Interval(low, self.hits / self.of, high)

    @property
    def breaks_bound(self) -> bool:
        """Whether so many are hardly to be had with the bound in force: then a claim of privacy is
        wrong.

        All inputs of one sum may be found by one chance, so it is trials that are counted: by
        Hoeffding (1963, "Probability Inequalities for Sums of Bounded Random Variables", theorem 1)
        the mean of k of them, each in [0, 1] and b at most on average, is x or more with a
        probability of exp(-k KL(x, b)) at most. Trials of fewer inputs count for less: his proof
        holds with weights y in [0, 1] whose sum is k, as log(1 - b + b exp(h y)) is convex in y.
        Told is what is below CHANCE.
        """
        share = self.hits / self.of
        if self.bound is None or share <= self.bound:
            return False
        return exp(-self.trials * _divergence(share, self.bound)) < CHANCE


@dataclass(frozen=True)
class Tried:
    """A cell with all its trials, one a seed, by seed; see `by_cell`."""

    cell: Cell
    trials: tuple[Trial, ...]

    @property
    def first(self) -> Trial:
        return self.trials[0]

    @property
    def attacked(self) -> tuple[Trial, ...]:
        """The trials in which there was something to attack."""
        return tuple(trial for trial in self.trials if not trial.stopped)

    @property
    def stopped(self) -> bool:
        """Whether there was nothing to attack in any trial."""
        return not self.attacked

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why trials were stopped, each reason once."""
        return tuple(dict.fromkeys(trial.stopped for trial in self.trials if trial.stopped))

    @property
    def gave_up(self) -> tuple[str, ...]:
        """Why the attack had no guess in some trials, each reason once. They count, as blind
        guesses."""
        return tuple(dict.fromkeys(trial.gave_up for trial in self.trials if trial.gave_up))

    @property
    def summed(self) -> bool:
        """Whether the server saw secure sums of several devices only."""
        return self.cell.devices > 1 and all(trial.protocol != _PLAIN for trial in self.trials)

    @property
    def epsilon(self) -> float | None:
        return max((t.epsilon for t in self.trials if t.epsilon is not None), default=None)

    @property
    def seconds(self) -> float:
        """The mean over trials."""
        return sum(trial.seconds for trial in self.trials) / len(self.trials)

    @cached_property
    def measures(self) -> tuple[Pooled, ...]:
        """Over the trials that were not stopped, or of the blind guesses where all were."""
        trials = self.attacked or self.trials
        names = [measure.name for measure in trials[0].measures]
        if not names:
            raise ParameterError(f"a trial of {self.cell.attack} has no measures")
        return tuple(self._pool(_named(trials, name)) for name in names)

    @property
    def main(self) -> Pooled:
        """The first measure. PSNR has no best that means anything: for it, the share identified
        or recovered, where there is one."""
        named = {measure.name: measure for measure in self.measures}
        first = self.measures[0]
        instead = (named[name] for name in (IDENTIFIED, "recovered") if name in named)
        return next(instead, first) if first.name in BEST else first

    @property
    def standing_out(self) -> tuple[Pooled, ...]:
        """The measures that are above the floor."""
        return tuple(measure for measure in self.measures if not measure.at_floor)

    @property
    def leak(self) -> Pooled:
        """The main measure; where that is at the floor and another is not, the one furthest out."""
        if not self.main.at_floor:
            return self.main
        return max(self.standing_out, key=lambda measure: measure.relative, default=self.main)

    @property
    def at_floor(self) -> bool:
        """Whether no measure stands out: a poor picture that says whose it is is no floor."""
        return not self.standing_out

    @property
    def identified(self) -> Identified | None:
        """None if nothing was counted. The bound is the mean over inputs."""
        counted = [trial for trial in self.attacked if trial.of]
        if not counted:
            return None
        hits, of = sum(trial.hits for trial in counted), sum(trial.of for trial in counted)
        bounds = [trial.of * trial.bound for trial in counted if trial.bound is not None]
        bound = sum(bounds) / of if len(bounds) == len(counted) else None
        return Identified(hits, of, bound, of / max(trial.of for trial in counted))

    def _pool(self, parts: Sequence[Measure]) -> Pooled:
        ours = [value for part in parts for value in part.values]
        blind = [value for part in parts for value in part.floor]
        counted = parts[0].name == IDENTIFIED and all(trial.of for trial in self.attacked)
        out = self._beats_luck() if counted and self.attacked else _ahead(parts, ours, blind)
        # A fixed seed: the same trials give the same figures.
        score = interval_of([part.values for part in parts], np.random.default_rng(0))
        return Pooled(parts[0].name, score, sum(blind) / len(blind), len(ours), not out)

    def _beats_luck(self) -> bool:
        """As `score.at_floor` has it: a guess hits by luck as often as the floor says."""
        trials = self.attacked
        floors = (part.mean_floor for part in _named(trials, IDENTIFIED))
        hits, of = sum(trial.hits for trial in trials), sum(trial.of for trial in trials)
        lucky = sum(t.of * luck for t, luck in zip(trials, floors, strict=True))
        return float(binom.sf(hits - 1, of, lucky / of)) <= LUCK


def _ahead(parts: Sequence[Measure], ours: Sequence[float], blind: Sequence[float]) -> bool:
    """Over all values, and over trials where there are enough to say: inputs of one sum go up and
    down together."""
    out = stands_out(ours, blind)
    if len(parts) < _SEVERAL:
        return out
    return out and stands_out([p.mean for p in parts], [p.mean_floor for p in parts])


def _divergence(mean: float, bound: float) -> float:
    """KL(mean, bound) of two coins, mean > bound."""
    if bound <= 0:
        return inf
    above = mean * log(mean / bound)
    return above if mean == 1 else above + (1 - mean) * log((1 - mean) / (1 - bound))


def by_cell(trials: Iterable[Trial]) -> tuple[Tried, ...]:
    """The trials of each cell together, in an order that does not depend on the order given.

    Of two trials with the same key the later one counts.
    """
    cells: dict[Cell, list[Trial]] = {}
    for trial in {trial.key: trial for trial in trials}.values():
        cells.setdefault(trial.cell, []).append(trial)
    order = sorted(cells, key=lambda cell: tuple(cell.to_json().values()))
    return tuple(
        Tried(cell, tuple(sorted(cells[cell], key=lambda trial: trial.seed))) for cell in order
    )


def interval_of(
    groups: Sequence[Sequence[float]],
    rng: np.random.Generator,
    level: float = 0.95,
    draws: int = 2000,
) -> Interval:
    """The mean of all values, with the percentile bootstrap of two stages: groups are drawn with
    replacement, then as many values within each as it has (Davison and Hinkley 1997, section 3.8).

    One group is `score.interval`. Raises ParameterError if there are no values.
    """
    sizes = np.array([len(group) for group in groups])
    if not len(groups) or not sizes.all() or not 0 < level < 1 or draws < 1:
        raise ParameterError(
            f"groups of {sizes.tolist()} values, level={level}, draws={draws}: expected values in "
            "every group, 0 < level < 1 and at least one draw"
        )
    drawn = rng.integers(len(groups), size=(draws, len(groups)))
    sums = np.empty(drawn.shape)
    for number, group in enumerate(groups):
        values, here = np.asarray(group, dtype=np.float64), drawn == number
        within = rng.integers(len(values), size=(here.sum(), len(values)))
        sums[here] = values[within].sum(axis=1)
    means = sums.sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), sum(map(sum, groups)) / int(sizes.sum()), float(high))


def _named(trials: Sequence[Trial], name: str) -> list[Measure]:
    """The measure of this name of each trial; ParameterError if one lacks it."""
    found = [[each for each in trial.measures if each.name == name] for trial in trials]
    if not all(found):
        raise ParameterError(f"trials of {trials[0].cell.attack} differ in what they measure")
    return [each for each, *_ in found]
