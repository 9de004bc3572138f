"""Figures with their floors: what each of them is, worked out the long way."""

from collections.abc import Sequence
from itertools import combinations
from math import nan

import numpy as np
import pytest

from tacit.crypto.errors import ParameterError
from tacit.simulations.measure import (
    WITHIN,
    Measure,
    of_inputs,
    of_labels,
    of_perception,
    of_rows,
    of_tokens,
    of_updates,
)
from tacit.simulations.score import Score


def score(psnr: tuple[float, ...], ssim: tuple[float, ...]) -> Score:
    return Score((0.0,) * len(psnr), psnr, ssim, 0.5, 10)


class TestInputs:
    def test_pictures_are_told_by_their_ssim_first(self) -> None:
        found, floor = score((30.0, 20.0), (0.9, 0.5)), score((10.0, 10.0), (0.1, 0.1))
        first, second, recovered, identified = of_inputs(found, floor)
        assert (first.name, first.mean, first.mean_floor) == ("SSIM", 0.7, 0.1)
        assert (second.values, second.floor) == (found.psnr, floor.psnr)
        assert (recovered.values, identified.values) == ((0.5,), (0.5,))

    def test_what_is_no_picture_has_none(self) -> None:
        found = of_inputs(score((30.0,), (nan,)), score((10.0,), (nan,)))
        assert [measure.name for measure in found] == ["PSNR", "recovered", "identified"]


class TestPerception:
    def test_it_is_one_less_the_distance_beside_the_nearer_blind_guess(self) -> None:
        truth, public = np.full((2, 1, 3, 3), 0.75), np.full((4, 1, 3, 3), 1.0)
        guess = truth + np.array([0.0, 0.125]).reshape(2, 1, 1, 1)
        found = of_perception(mean_gap, guess, truth, public)
        assert (found.name, found.values, found.floor) == ("1 - LPIPS", (1, 0.875), (0.75, 0.75))

    @pytest.mark.parametrize("broken", [[0.1], [0.1, float("nan")], 0.3])
    def test_a_number_for_each_picture(self, broken: object) -> None:
        truth = np.zeros((2, 1, 3, 3))
        with pytest.raises(ParameterError, match="a finite number for each of 2 pictures"):
            of_perception(lambda *_: broken, truth, truth, truth)


def mean_gap(guess: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.abs(guess - truth).mean(axis=(1, 2, 3))


class TestLabels:
    def test_right_counts_each_label_once(self) -> None:
        assert of_labels((1, 1, 2, 3), (3, 1, 4, 4), 5).values == (0.5,)
        for guess, labels in (((1,), (1, 2)), ((), ())):
            with pytest.raises(ParameterError, match="labels guessed"):
                of_labels(guess, labels, 5)

    @pytest.mark.parametrize("labels", [(0,), (2, 2, 1), (0, 1, 2, 3, 3, 3, 3)])
    def test_the_floor_is_what_a_blind_guess_gets(self, labels: Sequence[int]) -> None:
        # Against the sum over all choices of the classes that are guessed once more.
        each, over = divmod(len(labels), 4)
        guesses = [[*range(4)] * each + list(extra) for extra in combinations(range(4), over)]
        mean = np.mean([of_labels(guess, labels, 4).mean for guess in guesses])
        assert of_labels(labels, labels, 4).mean_floor == pytest.approx(mean, abs=1e-12)

    def test_the_floor_knows_the_classes(self) -> None:
        with pytest.raises(ParameterError, match="not those of 3 classes"):
            of_labels((0, 3), (0, 3), 3)


class TestUpdates:
    def test_a_cosine_for_each_device_and_that_of_the_mean_beside_it(self) -> None:
        truth = np.array([[1.0, 0.0], [0.0, 2.0]])
        blind = np.array([[1.0, 1.0], [1.0, 1.0]])
        found = of_updates(np.array([[3.0, 0.0], [1.0, 0.0]]), truth, blind)
        assert found.values == (1.0, 0.0)
        assert found.floor == pytest.approx((0.5**0.5, 0.5**0.5))

    def test_nothing_points_nowhere(self) -> None:
        nothing = np.zeros((1, 2))
        assert of_updates(nothing, np.ones((1, 2)), nothing).values == (0.0,)

    def test_shapes(self) -> None:
        with pytest.raises(ParameterError, match="guess"):
            of_updates(np.zeros((1, 2)), np.zeros((2, 2)), np.zeros((2, 2)))


class TestTokens:
    PUBLIC = np.array([[0, 0], [0, 1], [0, 2], [3, 2], [0, 2]])

    def test_in_any_order_place_by_place(self) -> None:
        truth = np.array([[1, 2], [3, 4]])
        tokens, texts = of_tokens(np.array([[3, 4], [2, 2]]), truth, self.PUBLIC)
        assert (tokens.name, tokens.values, texts.values) == ("tokens right", (0.5, 1), (0, 1))

    def test_what_is_not_there_is_not_counted(self) -> None:
        truth = np.array([[1, -1], [3, 4]])
        tokens, texts = of_tokens(np.array([[1, 2]]), truth, self.PUBLIC)
        assert (tokens.values, texts.values) == ((1, 0), (1, 0))  # and no guess is nothing right
        with pytest.raises(ParameterError, match="without a token"):
            of_tokens(truth[:1], np.array([[-1, -1]]), self.PUBLIC)

    def test_the_floor_is_the_better_of_two(self) -> None:
        usual = of_tokens(np.zeros((0, 2), int), np.array([[0, 2], [0, 5]]), self.PUBLIC)
        assert [measure.floor for measure in usual] == [(1, 0.5), (1, 0)]
        # The usual text is (0, 2), half right twice; of the first and last, matched, one is right.
        drawn = of_tokens(np.zeros((0, 2), int), np.array([[1, 2], [0, 0]]), self.PUBLIC)
        assert [measure.floor for measure in drawn] == [(0.5, 1), (0, 1)]

    @pytest.mark.parametrize(
        ("guess", "truth", "public"),
        [((1, 3), (1, 2), (1, 2)), ((1, 2), (0, 2), (1, 2)), ((1, 2), (1, 2), (0, 2)),
         ((2, 2), (1, 2), (1, 2))],
    )  # fmt: skip
    def test_shapes(self, guess: tuple[int], truth: tuple[int], public: tuple[int]) -> None:
        with pytest.raises(ParameterError, match="guess"):
            of_tokens(*(np.zeros(shape, int) for shape in (guess, truth, public)))


class TestRows:
    PUBLIC = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.0, 4.0]])
    KINDS = np.array([True, False])

    def test_a_number_is_right_near_the_truth(self) -> None:
        near = WITHIN * self.PUBLIC[:, 1].std()
        truth = np.array([[1.0, 3.0], [2.0, 5.0]])
        guess = np.array([[2.0, 5 + 1.01 * near], [1.0, 3 - 0.99 * near]])
        cells, categories, numbers = of_rows(guess, truth, self.PUBLIC, self.KINDS)
        assert (cells.values, categories.values, numbers.values) == ((1, 0.5), (1, 1), (1, 0))
        assert [m.name for m in (categories, numbers)] == ["categories right", "numbers right"]

    def test_the_floor_is_what_public_rows_make_best(self) -> None:
        # Most have category 0, and two numbers are near 0: the mean, 1.3, is near none.
        found = of_rows(np.zeros((0, 2)), np.array([[0.0, 0.05]]), self.PUBLIC, self.KINDS)
        assert [measure.floor for measure in found] == [(1,), (1,), (1,)]
        assert [measure.values for measure in found] == [(0,), (0,), (0,)]

    def test_many_different_guesses_are_no_better_than_their_floor(self) -> None:
        """Matching flatters: rows that have nothing to do with the truth beat any single one."""
        rng = np.random.default_rng(0)
        truth, guess, public = (rng.integers(4, size=(64, 8)).astype(float) for _ in range(3))
        (cells, _) = of_rows(guess, truth, public, np.full(8, True))
        assert cells.mean > 0.4  # one guess for all has a quarter right
        ahead = np.subtract(cells.values, cells.floor)
        assert abs(ahead.mean()) < 3 * ahead.std() / 8

    def test_kinds_that_are_not_there_have_no_measure(self) -> None:
        found = of_rows(self.PUBLIC, self.PUBLIC, self.PUBLIC, np.array([False, False]))
        assert [measure.name for measure in found] == ["cells right", "numbers right"]
        with pytest.raises(ParameterError, match="kinds of 2 columns"):
            of_rows(self.PUBLIC, self.PUBLIC, self.PUBLIC, np.array([True]))


def test_a_value_has_a_floor() -> None:
    for values, floor in (((), ()), ((1.0,), (1.0, 2.0))):
        with pytest.raises(ParameterError, match="for the floor"):
            Measure("SSIM", values, floor)
