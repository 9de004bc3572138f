"""Deep Leakage gets small batches to the last digits; what is too much for it, it does not get."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tacit.crypto.errors import ParameterError
from tacit.server.inbox import Seen
from tacit.simulations.attacks.base import Knows, View, view_of
from tacit.simulations.attacks.dlg import DeepLeakage, Labels
from tacit.simulations.attacks.lbfgs import minimise
from tacit.simulations.evaluate import Outcome, evaluate
from tacit.simulations.models import lenet
from tacit.simulations.score import at_floor
from tests.simulations.test_attacks import FACE, FACES, IMAGES, LABELS, SHAPE, softmax, train

RATE = 0.1
LENET = partial(lenet, SHAPE, 10)
ATTACK = DeepLeakage(LENET, SHAPE, restarts=1)
BLIND = replace(ATTACK, labels=Labels.INFERRED)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def rated(seen: Seen, labels: np.ndarray | None = None, rate: float = RATE) -> View:
    knows = Knows.LEARNING_RATE if labels is None else Knows.LEARNING_RATE | Knows.LABELS
    return view_of(seen, knows=knows, learning_rate=rate, labels=labels)


def summed(count: int, seed: int, **more: object) -> tuple[Seen, np.ndarray]:
    chosen = np.random.default_rng(seed).choice(200, count, replace=False)
    more = {"clients": count, "seed": seed, "lr": RATE, **more}
    return train(LENET, IMAGES[chosen], LABELS[chosen], **more), chosen  # type: ignore[arg-type]


def attacked(attack: DeepLeakage, seen: Seen, chosen: np.ndarray) -> Outcome:
    labels = LABELS[chosen] if attack.labels is Labels.GRANTED else None
    return evaluate(
        attack, rated(seen, labels), IMAGES[chosen], IMAGES[:200], np.random.default_rng(0)
    )


class TestDeepLeakage:
    # An error of 1e-3 is 60 dB. The distance goes down to 1e-26 of the gradient's square, so the
    # gradient is met to 1e-13; that is worth 1e-3 in a pixel unless the net loses ten digits.
    @pytest.mark.parametrize(
        ("count", "labels"),
        [
            (1, Labels.GRANTED),
            (1, Labels.INFERRED),
            (1, Labels.OPTIMISED),
            (2, Labels.GRANTED),
            (2, Labels.INFERRED),
        ],
    )
    def test_a_small_batch_is_exact(self, count: int, labels: Labels) -> None:
        outcome = attacked(replace(ATTACK, labels=labels), *summed(count, 6))
        assert min(outcome.score.psnr) > 60
        assert outcome.score.identified == 1

    def test_two_of_one_class_are_told_apart(self) -> None:
        fives = np.flatnonzero(LABELS[:200] == 5)[:2]
        seen = train(LENET, IMAGES[fives], LABELS[fives], seed=4, lr=RATE)
        outcome = attacked(replace(ATTACK, evaluations=400), seen, fives)
        assert min(outcome.score.psnr) > 60

    def test_an_update_in_float32_is_as_good_as_exact(self) -> None:
        # Weights near 0.5 are spaced 2**-25 apart, and an entry of the update is some 1e-3.
        outcome = attacked(ATTACK, *summed(1, 0, kind=torch.float32))
        assert min(outcome.score.psnr) > 60

    def test_a_sum_of_16_small_pictures_tells_who_is_in_it(self) -> None:
        """A secure sum is no protection here: 8,000 numbers come out, of 1,024 pixels."""
        attack = replace(BLIND, evaluations=200)
        outcome = attacked(attack, *summed(16, 0, kind=torch.float32))
        assert not at_floor(outcome.score, outcome.floor)
        assert outcome.score.identified > 0.5

    def test_a_sum_of_16_faces_is_at_the_floor(self) -> None:
        """10,000 pixels are more than the 8,700 numbers that come out."""
        build = partial(lenet, FACE, 2)
        chosen = np.random.default_rng(0).choice(len(FACES), 16, replace=False)
        same = np.zeros(16, dtype=np.int64)
        seen = train(build, FACES[chosen], same, clients=16, lr=RATE, kind=torch.float32)
        outcome = evaluate(
            DeepLeakage(build, FACE, restarts=1, evaluations=60),
            rated(seen, same),
            FACES[chosen],
            FACES,
            np.random.default_rng(0),
        )
        assert at_floor(outcome.score, outcome.floor)

    def test_noise_brings_it_to_the_floor(self) -> None:
        # Of the update's own deviation in every array: an exact match then matches the noise.
        seen, chosen = summed(4, 2)
        rng = np.random.default_rng(5)
        update = {n: v + rng.normal(0, v.std(), v.shape) for n, v in seen.update.items()}
        attack = replace(ATTACK, evaluations=100)
        clear = attacked(attack, seen, chosen)
        drowned = attacked(attack, replace(seen, update=update), chosen)
        assert clear.score.identified == 1
        assert at_floor(drowned.score, drowned.floor)

    def test_the_wrong_learning_rate_spoils_it(self) -> None:
        """So the grant is one."""
        seen, chosen = summed(1, 0)
        view = rated(seen, LABELS[chosen], 2 * RATE)
        found = replace(ATTACK, evaluations=100).reconstruct(view, np.random.default_rng(0))
        assert np.abs(found - IMAGES[chosen]).max() > 0.1

    def test_the_truth_never_reaches_the_attack(self) -> None:
        seen, chosen = summed(2, 0)
        view = rated(seen, LABELS[chosen])
        attack = replace(ATTACK, evaluations=20)
        noise = np.random.default_rng(9).random((2, *SHAPE))
        guesses = [
            evaluate(attack, view, truth, np.concatenate([truth, IMAGES[:9]]), rng).guess
            for truth in (IMAGES[chosen], noise)
            for rng in [np.random.default_rng(0)]
        ]
        # Matched with what it is scored by, so only the order may differ.
        assert sorted(g.tobytes() for g in guesses[0]) == sorted(g.tobytes() for g in guesses[1])

    def test_progress_is_told(self) -> None:
        told: list[tuple[int, int]] = []
        attack = replace(
            ATTACK, evaluations=3, on_step=lambda done, all_: told.append((done, all_))
        )
        seen, chosen = summed(1, 0)
        attack.reconstruct(rated(seen, LABELS[chosen]), np.random.default_rng(0))
        assert told == [(1, 3), (2, 3), (3, 3)]


class TestRefusals:
    def test_missing_grants_are_refused_before_any_work(self) -> None:
        def build() -> nn.Module:
            raise AssertionError

        seen, chosen = summed(1, 0)
        with pytest.raises(ParameterError, match="needs to know labels, learning rate"):
            DeepLeakage(build, SHAPE).reconstruct(view_of(seen), np.random.default_rng(0))
        with pytest.raises(ParameterError, match="needs to know learning rate"):
            DeepLeakage(build, SHAPE, labels=Labels.OPTIMISED).reconstruct(
                view_of(seen), np.random.default_rng(0)
            )
        half = view_of(seen, knows=Knows.LABELS, labels=LABELS[chosen])
        with pytest.raises(ParameterError, match="needs to know learning rate"):
            DeepLeakage(build, SHAPE).reconstruct(half, np.random.default_rng(0))

    def test_what_does_not_fit_is_named(self) -> None:
        seen, chosen = summed(2, 0)
        still = {name: np.zeros_like(value) for name, value in seen.update.items()}
        for attack, view, says in (
            (
                replace(ATTACK, build=softmax),
                rated(seen, LABELS[chosen]),
                "'fc.weight' of the model is",
            ),
            (ATTACK, rated(replace(seen, update=still), LABELS[chosen]), "update is zero"),
        ):
            with pytest.raises(ParameterError, match=says):
                attack.reconstruct(view, np.random.default_rng(0))

    @pytest.mark.parametrize("wrong", [{"shape": ()}, {"evaluations": 0}, {"restarts": 0},
                                       {"low": 1.0}])  # fmt: skip
    def test_impossible_settings_cannot_be_built(self, wrong: dict[str, object]) -> None:
        with pytest.raises(ParameterError):
            DeepLeakage(**{"build": LENET, "shape": SHAPE, **wrong})  # type: ignore[arg-type]


def quadratic(seed: int, length: int) -> tuple[Tensor, Tensor]:
    """A positive definite matrix with condition number 100, and where x'Ax/2 - bx is lowest."""
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.normal(size=(length, length)))
    matrix = axes @ np.diag(np.geomspace(0.1, 10, length)) @ axes.T
    return torch.tensor(matrix), torch.tensor(rng.normal(size=length))


class TestMinimise:
    @settings(max_examples=20)
    @given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 4))
    def test_the_lowest_point_of_a_quadratic_is_found_from_anywhere(
        self, seed: int, length: int, lanes: int
    ) -> None:
        matrix, lowest = quadratic(seed, length)
        starts = torch.tensor(np.random.default_rng(seed).normal(0, 10, (lanes, length)))

        def slope(x: Tensor) -> tuple[Tensor, Tensor]:
            away = (x - lowest) @ matrix
            return away, (away * (x - lowest)).sum(1) / 2

        found, value = minimise(slope, starts, 200)
        # The value is known to 1e-16 of what it started from, some 1e4 at most; the curvature is
        # 0.1 at least, so that a point may be off by the root of 1e-12 / 0.1.
        assert float(value.max()) < 1e-10
        assert float((found - lowest).abs().max()) < 1e-5

    def test_a_curved_valley_is_followed(self) -> None:
        def slope(x: Tensor) -> tuple[Tensor, Tensor]:
            a, b = x[:, 0], x[:, 1]
            bend = b - a**2
            down = torch.stack([-400 * a * bend - 2 * (1 - a), 200 * bend], 1)
            return down, 100 * bend**2 + (1 - a) ** 2

        starts = torch.tensor([[-1.2, 1.0], [3.0, -4.0]], dtype=torch.float64)
        found, _ = minimise(slope, starts, 200)
        torch.testing.assert_close(found, torch.ones_like(found), rtol=0, atol=1e-6)

    def test_lanes_do_not_touch_each_other(self) -> None:
        def slope(x: Tensor) -> tuple[Tensor, Tensor]:
            return x.sinh() - x.cos(), x.cosh().sum(1) - x.sin().sum(1)

        starts = torch.tensor(np.random.default_rng(0).normal(0, 3, (5, 4)))
        together, values = minimise(slope, starts, 12)
        for i in range(5):
            alone, value = minimise(slope, starts[i : i + 1], 12)
            torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-12)
            torch.testing.assert_close(value[0], values[i], rtol=0, atol=1e-12)

    @settings(max_examples=20)
    @given(st.integers(0, 2**32 - 1), st.integers(1, 30))
    def test_no_lane_ends_higher_than_it_began(self, seed: int, evaluations: int) -> None:
        starts = torch.tensor(np.random.default_rng(seed).normal(0, 3, (3, 6)))

        def slope(x: Tensor) -> tuple[Tensor, Tensor]:
            # So steep that the first step, of length 1, is far too long.
            return 300 * (3 * x).cos() + 100 * x, 100 * ((3 * x).sin() + x**2 / 2).sum(1)

        _, value = minimise(slope, starts, evaluations)
        assert bool((value <= slope(starts)[1]).all())

    def test_where_there_is_no_slope_it_does_not_go(self) -> None:
        def slope(x: Tensor) -> tuple[Tensor, Tensor]:
            inside = x >= 1
            return torch.where(inside, x, torch.nan), torch.where(inside, x**2 / 2, 0).sum(1)

        # From 3 to 2, where the Hessian is known, then to 0, and half of that way instead.
        found, _ = minimise(slope, torch.tensor([[3.0]], dtype=torch.float64), 4)
        assert float(found) == 1

    def test_a_lane_that_cannot_go_lower_stops(self) -> None:
        told: list[int] = []
        starts = torch.tensor([[3.0, -1.7]], dtype=torch.float64)
        found, _ = minimise(
            lambda x: (-x, x.square().sum(1) / 2),  # the slope points uphill
            starts,
            1000,
            on_step=lambda done, all_: told.append(done),
        )
        assert len(told) < 100  # the halvings of one step
        assert bool((found == starts).all())

    def test_a_lane_that_is_not_finite_stays_and_stops_no_other(self) -> None:
        def slope(x: Tensor) -> tuple[Tensor, Tensor]:
            return 2 * x, x.square().sum(1)

        starts = torch.tensor([[float("nan"), 1.0], [3.0, 4.0]], dtype=torch.float64)
        found, value = minimise(slope, starts, 50)
        assert bool(found[0, 0].isnan())
        assert float(value[1]) < 1e-20
