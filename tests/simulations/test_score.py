"""Scores against values worked out by hand, and laws that hold for any data."""

import json
from dataclasses import replace
from math import isnan, nan
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.simulations.attacks.base import Knows, view_of
from tacit.simulations.evaluate import Outcome, evaluate, load_outcomes, save_outcomes
from tacit.simulations.score import (
    PSNR_CAP,
    Score,
    at_floor,
    floor_of,
    interval,
    match,
    pooled,
    psnr_of,
    score,
    some,
    ssim_of,
)
from tests.simulations.test_attacks import IMAGES, LABELS, READOUT, softmax, train

Floats = NDArray[np.float64]


def pictures(*levels: float, side: int = 8) -> Floats:
    """One flat picture for each grey level, shape (n, 1, side, side)."""
    return np.array([np.full((1, side, side), level) for level in levels])


class TestByHand:
    def test_flat_pictures(self) -> None:
        truth = pictures(0.0, 1.0)
        found, matched = score(pictures(0.9, 0.2), truth, truth)
        np.testing.assert_array_equal(matched, pictures(0.2, 0.9))
        assert found.mse == pytest.approx((0.04, 0.01))
        assert found.psnr == pytest.approx((13.9794, 20.0), abs=1e-4)
        assert found.identified == 1
        assert found.recovered == 0
        assert replace(found, threshold=20.0 - 1e-9).recovered == 0.5
        # SSIM of flat pictures is its luminance term (2ab + c) / (a^2 + b^2 + c), c = 0.01^2.
        assert found.ssim == pytest.approx((1e-4 / (0.04 + 1e-4), (1.8 + 1e-4) / (1.81 + 1e-4)))

    def test_exact_guess(self) -> None:
        found, _ = score(IMAGES[:5], IMAGES[:5], IMAGES[:50])
        assert found.mse == (0,) * 5
        assert found.psnr == (PSNR_CAP,) * 5
        assert found.ssim == pytest.approx((1,) * 5)
        assert (found.recovered, found.identified, found.gallery) == (1, 1, 50)

    @pytest.mark.parametrize(
        ("mse", "psnr"), [(1, 0), (0.01, 20), (1e-12, PSNR_CAP), (1e-30, PSNR_CAP), (0, PSNR_CAP)]
    )
    def test_psnr(self, mse: float, psnr: float) -> None:
        assert psnr_of(mse) == pytest.approx(psnr)

    def test_a_missing_guess_is_grey(self) -> None:
        truth = pictures(0.0, 0.7, 1.0)
        np.testing.assert_array_equal(match(pictures(0.6), truth), pictures(0.5, 0.6, 0.5))

    def test_assignment_is_of_least_total_error(self) -> None:
        # The nearest truth first would pair 0.55 with 0.6 and leave 0.9 for 0.0: 0.0025 + 0.81;
        # the best pairing is 0.55 with 0.0 and 0.9 with 0.6: 0.3025 + 0.09.
        found, _ = score(pictures(0.55, 0.9), pictures(0.0, 0.6), pictures(0.0, 0.6))
        assert sum(found.mse) == pytest.approx(0.3925)

    def test_a_guess_outside_the_range_is_clipped(self) -> None:
        np.testing.assert_array_equal(match(pictures(-3.0, 9.0), pictures(1, 0)), pictures(1, 0))

    def test_identification_counts_the_nearest_in_the_gallery(self) -> None:
        found, _ = score(pictures(0.2), pictures(0.5), pictures(0.5, 0.1, 0.9))
        assert found.identified == 0

    @pytest.mark.parametrize("side", [3, 4, 6, 7, 8, 25])
    def test_ssim_of_small_pictures(self, side: int) -> None:
        image = np.random.default_rng(side).random((1, side, side))
        assert ssim_of(image, image) == pytest.approx(1)
        assert ssim_of(1 - image, image) < 0

    def test_rows_of_a_table_have_no_ssim(self) -> None:
        truth = np.random.default_rng(0).random((3, 30))
        found, _ = score(truth, truth, truth)
        assert isnan(found.mean_ssim)
        assert Score.from_json(json.loads(json.dumps(found.to_json()))).psnr == found.psnr

    @pytest.mark.parametrize(
        ("guess", "truth", "gallery", "says"),
        [
            (pictures(0.1, 0.2), pictures(0.1), pictures(0.1), "2 guesses at 1 inputs"),
            (pictures(0.1, side=4), pictures(0.1), pictures(0.1), "guess"),
            (pictures(nan), pictures(0.1), pictures(0.1), "not finite"),
            (pictures(0.1), pictures(0.1), pictures(0.2), "must contain every truth"),
            (pictures(0.1), pictures(0.1), pictures(0.1, side=4), "gallery"),
        ],
    )
    def test_what_cannot_be_scored(
        self, guess: Floats, truth: Floats, gallery: Floats, says: str
    ) -> None:
        with pytest.raises(ParameterError, match=says):
            score(guess, truth, gallery)


class TestLaws:
    @settings(max_examples=25)
    @given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 6))
    def test_the_order_of_guesses_does_not_matter(self, seed: int, n: int) -> None:
        rng = np.random.default_rng(seed)
        truth = rng.random((n, 1, 5, 5))
        guess = rng.random((n, 1, 5, 5))
        one, matched = score(guess, truth, truth)
        other, again = score(guess[rng.permutation(n)], truth, truth)
        assert one == other
        np.testing.assert_array_equal(matched, again)

    @settings(max_examples=25)
    @given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 6))
    def test_the_order_of_truths_moves_scores_along(self, seed: int, n: int) -> None:
        rng = np.random.default_rng(seed)
        truth, guess = rng.random((n, 1, 5, 5)), rng.random((n, 1, 5, 5))
        order = rng.permutation(n)
        one, _ = score(guess, truth, truth)
        other, _ = score(guess, truth[order], truth)
        assert other.mse == tuple(one.mse[i] for i in order)

    @given(st.lists(st.floats(-10, 10), min_size=1, max_size=20), st.integers(0, 99))
    def test_interval_holds_its_mean(self, values: list[float], seed: int) -> None:
        found = interval(values, np.random.default_rng(seed), draws=500)
        assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9
        assert found.mean == pytest.approx(np.mean(values))

    def test_interval_covers_as_often_as_it_says(self) -> None:
        # 200 samples of 40: 95 % nominal, the percentile bootstrap gives about 94 %; binomial
        # deviation 1.7 %, so below 88 % (or at 100 %) something is off by more than 3 of them.
        rng = np.random.default_rng(0)
        found = [interval(rng.normal(size=40).tolist(), rng, draws=400) for _ in range(200)]
        covered = np.mean([one.low <= 0 <= one.high for one in found])
        assert 0.88 < covered < 1

    @pytest.mark.parametrize(("values", "level"), [([], 0.95), ([1.0], 1.0), ([1.0], 0.0)])
    def test_interval_of_nothing(self, values: list[float], level: float) -> None:
        with pytest.raises(ParameterError):
            interval(values, np.random.default_rng(0), level=level)


class TestFloor:
    def test_the_best_blind_guess_counts_for_each_measure(self) -> None:
        truth, gallery, public = IMAGES[:10], IMAGES[:40], IMAGES[100:]
        floor = floor_of(truth, gallery, public)
        mean, _ = score(np.repeat(public.mean(axis=0)[None], 10, axis=0), truth, gallery)
        grey, _ = score(np.full(truth.shape, 0.5), truth, gallery)
        others, _ = score(some(public, 10), truth, gallery)
        blind = (mean, grey, others)
        assert floor.mean_mse == pytest.approx(min(each.mean_mse for each in blind))
        assert floor.mean_psnr == pytest.approx(max(each.mean_psnr for each in blind))
        assert floor.mean_ssim == pytest.approx(max(each.mean_ssim for each in blind))
        # Other digits, matched, are sharper than any mean; for one truth there is nothing to match.
        assert floor.mean_ssim == others.mean_ssim > mean.mean_ssim
        assert floor.identified == 10 / 40
        # Each is used: with dark public data, grey wins the error and the mean does not.
        dark = floor_of(pictures(0.4, 0.6), pictures(0.4, 0.6), pictures(0.0))
        assert dark.mse == pytest.approx((0.01, 0.01))

    def test_blind_guesses_are_at_the_floor_and_exact_ones_are_not(self) -> None:
        truth, gallery, public = IMAGES[:10], IMAGES[:300], IMAGES[500:]
        floor = floor_of(truth, gallery, public)
        blind, _ = score(np.repeat(public.mean(axis=0)[None], 10, axis=0), truth, gallery)
        exact, _ = score(truth, truth, gallery)
        assert at_floor(blind, floor)
        assert not at_floor(exact, floor)

    def test_unrelated_guesses_are_at_the_floor(self) -> None:
        # Ten other digits, matched in the attack's favour, must not count as leakage. 5 % of
        # clean cases may pass each limit by luck; of 20, more than 4 has a chance below 1 %.
        rng = np.random.default_rng(0)
        clear = 0
        for _ in range(20):
            chosen = rng.choice(1500, 20, replace=False)
            truth = IMAGES[chosen[:10]]
            gallery = np.concatenate([truth, IMAGES[1500:]])
            found, _ = score(IMAGES[chosen[10:]], truth, gallery)
            clear += not at_floor(found, floor_of(truth, gallery, IMAGES[1500:]))
        assert clear <= 4

    def test_a_poor_picture_that_says_who_it_is_counts_as_leakage(self) -> None:
        truth, gallery = IMAGES[:10], IMAGES[:300]
        washed = 0.5 + 0.35 * (truth - 0.5)
        found, _ = score(washed, truth, gallery)
        blind = replace(floor_of(truth, gallery, IMAGES[300:]), psnr=(99.0,) * 10, ssim=(1.0,) * 10)
        assert found.identified == 1
        assert not at_floor(found, blind)

    def test_one_picture_any_advantage_counts(self) -> None:
        truth, gallery = IMAGES[:1], IMAGES[:300]
        floor = floor_of(truth, gallery, IMAGES[300:])
        assert at_floor(floor, floor)
        assert not at_floor(replace(floor, ssim=(floor.ssim[0] + 0.01,)), floor)


class TestPooled:
    def test_pools_over_all_truths(self) -> None:
        one, _ = score(pictures(0.1), pictures(0.0), pictures(0.0, 0.9, 0.3))
        two, _ = score(pictures(0.8, 0.4), pictures(0.9, 0.0), pictures(0.0, 0.9, 0.3))
        both = pooled([one, two])
        assert both.mse == one.mse + two.mse
        assert one.identified == 1
        assert two.identified == 0.5
        assert both.identified == pytest.approx(2 / 3)

    def test_refuses_what_was_measured_differently(self) -> None:
        one, _ = score(pictures(0.1), pictures(0.0), pictures(0.0))
        with pytest.raises(ParameterError):
            pooled([one, replace(one, gallery=7)])
        with pytest.raises(ParameterError):
            pooled([])


class TestOutcomes:
    @pytest.fixture
    def outcome(self) -> Outcome:
        view = view_of(
            train(softmax, IMAGES[:2], LABELS[:2], clients=2), knows=Knows.LABELS, labels=LABELS[:2]
        )
        return evaluate(READOUT, view, IMAGES[:2], IMAGES[:30], np.random.default_rng(0))

    def test_says_what_was_attacked_and_granted(self, outcome: Outcome) -> None:
        assert (outcome.attack, outcome.protocol, outcome.clients) == (READOUT.name, "pairwise", 2)
        assert outcome.knows == Knows.LABELS
        assert outcome.guess.shape == outcome.truth.shape
        assert outcome.seconds > 0

    def test_survive_the_disk(self, outcome: Outcome, tmp_path: Path) -> None:
        table = replace(outcome, attack="another", score=replace(outcome.score, ssim=(nan, nan)))
        save_outcomes(tmp_path / "attacks", [outcome, table])
        back, second = load_outcomes(tmp_path / "attacks")
        assert back == outcome
        np.testing.assert_array_equal(back.guess, outcome.guess)
        np.testing.assert_array_equal(back.truth, outcome.truth)
        assert second.attack == "another"
        assert isnan(second.score.mean_ssim)

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("outcomes.json", b"{"),
            ("outcomes.json", b'{"version": 99, "outcomes": []}'),
            ("outcomes.json", b"[]"),
            ("outcomes.npz", b"PK"),
            ("outcomes.npz", b""),
        ],
    )
    def test_a_damaged_folder_is_named(
        self, outcome: Outcome, tmp_path: Path, name: str, content: bytes
    ) -> None:
        save_outcomes(tmp_path, [outcome])
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ParameterError, match=r"outcomes"):
            load_outcomes(tmp_path)

    def test_a_missing_folder_says_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(ParameterError, match="run an attack first"):
            load_outcomes(tmp_path / "none")

    def test_the_floor_needs_somebody_else(self) -> None:
        view = view_of(train(softmax, IMAGES[:1], LABELS[:1]))
        with pytest.raises(ParameterError, match="larger than the truth"):
            evaluate(READOUT, view, IMAGES[:1], IMAGES[:1], np.random.default_rng(0))
