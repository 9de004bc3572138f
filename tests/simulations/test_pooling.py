"""Trials taken together: intervals against direct computation, verdicts against what they say."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from tacit.crypto.errors import ParameterError
from tacit.simulations.measure import Measure
from tacit.simulations.pooling import Identified, Pooled, Tried, by_cell, interval_of
from tacit.simulations.score import Interval, interval
from tacit.simulations.trial import Cell, Trial

CELL = Cell("spear", "secure", "mlp", "digits", devices=4)


def trial(seed: int = 0, *measures: Measure, **change: object) -> Trial:
    kept = measures or (Measure("SSIM", (0.5, 0.7), (0.1, 0.1)),)
    return replace(Trial(CELL, seed, "malicious", "", kept, 1.0, "pairwise"), **change)


def pool(*trials: Trial) -> Tried:
    (tried,) = by_cell(trials)
    return tried


class TestInterval:
    def test_of_one_group_is_the_bootstrap_over_inputs(self) -> None:
        values = np.random.default_rng(0).normal(size=30)
        ours = interval_of([list(values)], np.random.default_rng(1), draws=20_000)
        known = interval(list(values), np.random.default_rng(2), draws=20_000)
        assert ours.mean == pytest.approx(known.mean)
        # A quantile of 20 000 draws is within 4 * sqrt(0.025 * 0.975 / 20 000) = 0.0044 of its
        # level. Means spread by about 1 / sqrt(30), so their density there is 0.058 * sqrt(30) =
        # 0.32, and two such quantiles are within 2 * 0.0044 / 0.32 < 0.03 of each other.
        assert (ours.low, ours.high) == pytest.approx((known.low, known.high), abs=0.03)

    def test_of_several_groups_is_the_bootstrap_in_two_stages(self) -> None:
        rng = np.random.default_rng(3)
        groups = [rng.normal(place, 1, size) for place, size in ((0, 3), (1, 12), (4, 6))]
        ours = interval_of(groups, np.random.default_rng(4))
        means = []
        for _ in range(10_000):
            drawn = [groups[i] for i in rng.integers(3, size=3)]
            means.append(np.concatenate([rng.choice(g, len(g)) for g in drawn]).mean())
        # Ours has 2000 draws: its quantiles are within 4 standard errors of their levels.
        error = 4 * np.sqrt(0.025 * 0.975 / 2000)
        for found, level in ((ours.low, 0.025), (ours.high, 0.975)):
            below, above = np.quantile(means, [max(0, level - error), min(1, level + error)])
            assert below <= found <= above
        assert ours.mean == pytest.approx(np.concatenate(groups).mean())

    def test_seeds_that_differ_are_not_hidden_by_many_inputs(self) -> None:
        groups = [[0.0] * 100, [1.0] * 100]
        found = interval_of(groups, np.random.default_rng(0))
        # Both draws are the same seed one time in two: far more than 2.5 % on each side.
        assert (found.low, found.mean, found.high) == (0.0, 0.5, 1.0)
        flat = interval([*groups[0], *groups[1]], np.random.default_rng(0))
        assert flat.low > 0.4

    @pytest.mark.parametrize("groups", [[], [[]], [[1.0], []]])
    def test_needs_values(self, groups: list[list[float]]) -> None:
        with pytest.raises(ParameterError, match="expected values in every group"):
            interval_of(groups, np.random.default_rng(0))

    @pytest.mark.parametrize(("level", "draws"), [(0.0, 10), (1.0, 10), (0.9, 0)])
    def test_needs_a_level_and_draws(self, level: float, draws: int) -> None:
        with pytest.raises(ParameterError):
            interval_of([[1.0]], np.random.default_rng(0), level, draws)


class TestRelative:
    @pytest.mark.parametrize(
        ("name", "mean", "floor", "share"),
        [
            ("SSIM", 0.6, 0.2, 0.5),
            ("cosine", 0.1, 0.2, -0.125),
            ("PSNR", 65.0, 10.0, 0.5),  # of what is left to PSNR_CAP, 120 dB
            ("labels right", 1.0, 1.0, 0.0),  # blind guessing leaves nothing to gain
        ],
    )
    def test_from_the_floor_to_the_best(
        self, name: str, mean: float, floor: float, share: float
    ) -> None:
        one = Pooled(name, Interval(mean, mean, mean), floor, 1, at_floor=False)
        assert one.relative == pytest.approx(share)

    def test_psnr_gives_way_to_a_share_that_has_a_best(self) -> None:
        psnr, known = Measure("PSNR", (30.0,), (10.0,)), Measure("identified", (0.5,), (0.01,))
        recovered = Measure("recovered", (0.2,), (0.0,))
        assert pool(trial(0, psnr, recovered, known)).main.name == "identified"
        assert pool(trial(0, psnr, recovered)).main.name == "recovered"
        assert pool(trial(0, psnr)).main.name == "PSNR"
        assert pool(trial(0, Measure("SSIM", (0.1,), (0.1,)), known)).main.name == "SSIM"


class TestAtFloor:
    def test_two_standard_errors_of_the_paired_advantage(self) -> None:
        rng = np.random.default_rng(5)
        blind = rng.uniform(0, 1, 40)
        noise = rng.normal(0, 0.1, 40)
        noise -= noise.mean()
        error = noise.std(ddof=1) / np.sqrt(40)
        for ahead, at_floor in ((1.9 * error, True), (2.1 * error, False)):
            ours = blind + noise + ahead
            halves = [
                trial(seed, Measure("SSIM", tuple(ours[part]), tuple(blind[part])))
                for seed, part in enumerate((slice(0, 25), slice(25, 40)))
            ]
            assert pool(*halves).at_floor is at_floor

    def test_rounding_is_no_advantage(self) -> None:
        tried = pool(trial(0, Measure("SSIM", (0.1 + 0.2,), (0.3,))))
        assert tried.trials[0].measures[0].mean > tried.trials[0].measures[0].mean_floor
        assert tried.at_floor

    def test_any_measure_that_stands_out_is_enough(self) -> None:
        poor = Measure("SSIM", (0.1, 0.1), (0.2, 0.2))
        known = Measure("identified", (1.0,), (0.01,))
        tried = pool(trial(0, poor, known, hits=2, of=2))
        assert tried.main.at_floor
        assert not tried.at_floor
        assert tried.leak.name == "identified"
        assert pool(trial(0, poor)).leak.name == "SSIM"

    @pytest.mark.parametrize("hits", range(6))
    def test_identified_by_luck(self, hits: int) -> None:
        """8 inputs in a gallery of 100, three times: a match is luck with 8 in 100."""
        known = Measure("identified", (hits / 24,), (0.08,))
        each = [hits // 3 + (place < hits % 3) for place in range(3)]
        tried = pool(*(trial(s, known, hits=h, of=8) for s, h in enumerate(each)))
        by_luck = sum(binom.pmf(k, 24, 0.08) for k in range(hits, 25))
        assert tried.at_floor is bool(by_luck > 0.05)

    def test_without_counts_it_is_a_measure_like_any_other(self) -> None:
        assert not pool(trial(0, Measure("identified", (0.5,), (0.01,)))).at_floor


class TestIdentified:
    @pytest.mark.parametrize(("hits", "of"), [(0, 40), (3, 40), (40, 40), (1, 1)])
    def test_the_interval_is_exact(self, hits: int, of: int) -> None:
        share = Identified(hits, of, None, 1).share
        assert share.mean == hits / of
        # At the low end so many hits or more have 2.5 %, at the high end so many or fewer.
        if hits:
            assert binom.sf(hits - 1, of, share.low) == pytest.approx(0.025)
        else:
            assert share.low == 0
        if hits < of:
            assert binom.cdf(hits, of, share.high) == pytest.approx(0.025)
        else:
            assert share.high == 1

    def test_a_bound_is_broken_by_what_is_hardly_to_be_had(self) -> None:
        # All of k trials, of a bound b: b**k, in the closed form as in Hoeffding's.
        assert Identified(40, 40, 0.1, 5).breaks_bound
        assert not Identified(24, 24, 0.1, 3).breaks_bound  # all of one sum may be one chance
        assert not Identified(9, 10, 0.9, 10).breaks_bound
        assert not Identified(9, 10, None, 10).breaks_bound
        assert Identified(1, 10, 0.0, 10).breaks_bound

    def test_sums_over_the_trials_that_were_attacked(self) -> None:
        trials = (
            trial(0, hits=1, of=4, bound=0.5, epsilon=8.0),
            trial(1, hits=2, of=4, bound=0.4, epsilon=8.0),
            trial(2, hits=4, of=4, stopped="no"),
        )
        tried = pool(*trials)
        assert tried.identified == Identified(3, 8, 0.45, 2)
        assert tried.epsilon == 8.0
        assert pool(trial()).identified is None

    def test_a_trial_counts_for_its_inputs(self) -> None:
        """One of one input, bound 0.1, and nine of six, bound 0.6: the bound of the one is not that
        of the others, and 55 inputs in trials of up to six are no ten trials."""
        trials = [trial(seed, hits=3, of=6, bound=0.6) for seed in range(9)]
        found = pool(*trials, trial(9, hits=0, of=1, bound=0.1)).identified
        assert found is not None
        assert found.bound == pytest.approx((9 * 6 * 0.6 + 0.1) / 55)
        assert found.trials == pytest.approx(55 / 6)
        assert not found.breaks_bound


class TestCells:
    def test_come_in_one_order_with_trials_by_seed(self) -> None:
        other = replace(CELL, devices=2)
        trials = [trial(2), trial(0), replace(trial(1), cell=other), trial(1)]
        for shuffled in (trials, trials[::-1]):
            first, second = by_cell(shuffled)
            assert (first.cell, second.cell) == (other, CELL)
            assert [each.seed for each in second.trials] == [0, 1, 2]

    def test_the_later_of_two_with_one_key_counts(self) -> None:
        assert pool(trial(0), trial(0, seconds=9.0)).seconds == 9.0

    def test_means_are_over_seeds_and_inputs(self) -> None:
        one, two = Measure("SSIM", (1.0,), (0.2,)), Measure("SSIM", (0.5, 0.6, 0.7), (0.1,) * 3)
        main = pool(trial(0, one), trial(1, two)).main
        assert main.score.mean == pytest.approx(0.7)
        assert main.floor == pytest.approx(0.125)
        assert main.count == 4

    def test_what_was_stopped_is_not_in_the_figures(self) -> None:
        blind = Measure("SSIM", (0.1, 0.1), (0.1, 0.1))
        tried = pool(trial(0), trial(1, blind, stopped="no"), trial(2, blind, stopped="no"))
        assert tried.main.score.mean == pytest.approx(0.6)
        assert tried.reasons == ("no",)
        assert not tried.stopped
        every = pool(trial(1, blind, stopped="no"))
        assert every.stopped
        assert every.main.score.mean == pytest.approx(0.1)

    def test_a_sum_in_the_clear_or_of_one_is_no_secure_sum(self) -> None:
        assert pool(trial()).summed
        assert not pool(trial(protocol="plain")).summed
        assert not pool(trial(cell=replace(CELL, devices=1))).summed

    def test_trials_that_measure_different_things_cannot_be_pooled(self) -> None:
        with pytest.raises(ParameterError, match="differ in what they measure"):
            _ = pool(trial(0), trial(1, Measure("PSNR", (1.0,), (1.0,)))).measures
        with pytest.raises(ParameterError, match="no measures"):
            _ = pool(trial(measures=())).measures
