"""Local training, simulated step by step, gives away what one step taken for all of it does not."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from tacit.client.torch_trainer import TorchTrainer
from tacit.client.trainer import Examples, LocalPlan
from tacit.crypto.errors import ParameterError
from tacit.server.inbox import Seen
from tacit.simulations.attacks.base import Knows, View, view_of
from tacit.simulations.attacks.inverting import InvertingGradients
from tacit.simulations.attacks.surrogate import Surrogate, cosine, squared
from tacit.simulations.attacks.unrolled import UnrolledTraining, simulated
from tacit.simulations.evaluate import Outcome, evaluate
from tacit.simulations.models import smooth_cnn
from tacit.simulations.score import at_floor
from tests.simulations.test_attacks import FACE, FACES, IMAGES, LABELS, SHAPE, smooth, train

PLAN = LocalPlan(epochs=3, batch_size=0, learning_rate=0.1)
ATTACK = UnrolledTraining(smooth, SHAPE, PLAN, steps=10)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def federated(
    build: Callable[[], nn.Module],
    x: np.ndarray,
    y: np.ndarray,
    plan: LocalPlan,
    clients: int = 1,
) -> Seen:
    """What the server sees of devices with equal shares of x, y, trained as the product does."""
    trainer = TorchTrainer(build)
    sent = trainer.initial(0)
    updates = []
    for own, labels in zip(np.split(x, clients), np.split(y, clients), strict=True):
        trained, _ = trainer.fit(sent, Examples(own.astype(np.float32), labels), plan)
        updates.append({name: trained[name] - sent[name] for name in sent})
    return Seen(
        round=1,
        model=sent,
        update={name: np.mean([u[name] for u in updates], axis=0) for name in sent},
        clients=clients,
        weight=float(len(x)),
        protocol="plain" if clients == 1 else "pairwise",
    )


def rated(seen: Seen, labels: np.ndarray, rate: float = PLAN.learning_rate) -> View:
    return view_of(
        seen, knows=Knows.LABELS | Knows.LEARNING_RATE, labels=labels, learning_rate=rate
    )


class TestSimulated:
    @pytest.mark.parametrize("clients", [1, 2])
    @pytest.mark.parametrize(
        "plan",
        [
            PLAN,
            LocalPlan(epochs=2, batch_size=2, learning_rate=0.1, seed=7),
            LocalPlan(epochs=2, batch_size=4, momentum=0.9, weight_decay=0.1),
            LocalPlan(epochs=4, batch_size=0, proximal_mu=1.0),
        ],
    )
    def test_the_truth_trains_to_what_the_device_sent(self, plan: LocalPlan, clients: int) -> None:
        # In the order of the labels, so that the simulation has the examples where the device has.
        chosen = np.arange(6)[np.argsort(LABELS[:6], kind="stable")]
        seen = federated(smooth, IMAGES[chosen], LABELS[chosen], plan, clients)
        view = rated(seen, LABELS[chosen], plan.learning_rate)
        surrogate = Surrogate.of(smooth, view, LABELS[chosen], dtype=torch.float64)
        update = simulated(surrogate, plan, clients)(torch.tensor(IMAGES[chosen]))
        # The device adds up in float32: steps of some 1e-2 onto weights of some 1e-1, spaced
        # 2**-27 apart, so that an entry is off by 1e-6 of itself, and by 1e-5 if it is small.
        assert float(squared(surrogate.target)(update)) < 1e-5**2
        shuffled = simulated(surrogate, plan, clients)(torch.tensor(IMAGES[chosen[::-1].copy()]))
        assert float(squared(surrogate.target)(shuffled)) > 1e-3


def both(epochs: int, rate: float, steps: int) -> tuple[Outcome, Outcome]:
    """Inverting Gradients and this attack on the view of one face, with smooth-cnn."""
    build, plan = partial(smooth_cnn, FACE, 2), LocalPlan(epochs, 0, rate)
    label = np.array([0])
    seen = train(build, FACES[:1], label, steps=epochs, lr=rate, kind=torch.float32)
    return tuple(  # type: ignore[return-value]
        evaluate(attack, rated(seen, label, rate), FACES[:1], FACES, np.random.default_rng(0))
        for attack in (
            InvertingGradients(build, FACE, steps=200, restarts=1),
            UnrolledTraining(build, FACE, plan, steps=steps),
        )
    )


class TestUnrolledTraining:
    def test_five_steps_hide_less_than_they_seem_to(self) -> None:
        single, unrolled = both(5, 0.05, steps=40)
        assert single.score.mean_ssim < 0.7
        assert unrolled.score.mean_ssim > 0.75
        assert unrolled.score.mean_psnr > single.score.mean_psnr + 3  # half the squared error
        assert unrolled.score.identified == 1

    @pytest.mark.slow
    def test_twenty_steps_hide_less_than_they_seem_to(self) -> None:
        single, unrolled = both(20, 0.1, steps=100)
        assert single.score.mean_ssim < single.floor.mean_ssim  # at the floor, it seems
        assert unrolled.score.mean_ssim > 0.9
        assert unrolled.score.recovered == 1

    def test_a_sum_of_16_is_at_the_floor(self) -> None:
        build = partial(smooth, 25, 2)
        chosen = np.random.default_rng(0).choice(len(FACES), 16, replace=False)
        same = np.zeros(16, dtype=np.int64)
        attack = UnrolledTraining(build, FACE, PLAN, steps=60)
        alone, summed = (
            evaluate(
                attack,
                rated(federated(build, FACES[some], same[:n], PLAN, n), same[:n]),
                FACES[some],
                FACES,
                np.random.default_rng(0),
            )
            for n, some in ((1, chosen[:1]), (16, chosen))
        )
        assert alone.score.identified == 1
        assert not at_floor(alone.score, alone.floor)
        assert at_floor(summed.score, summed.floor)

    @pytest.mark.parametrize("distance", [cosine, squared])
    def test_the_guess_comes_of_the_view_and_the_draws(self, distance: object) -> None:
        chosen = np.array([7])
        view = rated(federated(smooth, IMAGES[chosen], LABELS[chosen], PLAN), LABELS[chosen])
        attack = replace(ATTACK, distance=distance)  # type: ignore[arg-type]
        noise = np.random.default_rng(9).random((1, *SHAPE))
        guesses = [
            evaluate(
                attack, view, truth, np.concatenate([truth, IMAGES[8:20]]), np.random.default_rng(0)
            ).guess
            for truth in (IMAGES[chosen], noise)
        ]
        np.testing.assert_array_equal(guesses[0], guesses[1])


class TestRefusals:
    def test_missing_grants_are_refused_before_any_work(self) -> None:
        def build() -> nn.Module:
            raise AssertionError

        seen = federated(smooth, IMAGES[:1], LABELS[:1], PLAN)
        labels = view_of(seen, knows=Knows.LABELS, labels=LABELS[:1])
        rate = view_of(seen, knows=Knows.LEARNING_RATE, learning_rate=0.1)
        for view, says in ((labels, "know learning rate"), (rate, "know labels")):
            with pytest.raises(ParameterError, match=says):
                replace(ATTACK, build=build).reconstruct(view, np.random.default_rng(0))

    def test_what_does_not_fit_is_named(self) -> None:
        seen = federated(smooth, IMAGES[:3], LABELS[:3], PLAN)
        for view, says in (
            (rated(seen, LABELS[:3], 0.2), "plan's learning rate is 0.1, granted is 0.2"),
            (rated(replace(seen, clients=2), LABELS[:3]), "3 inputs cannot be shared out evenly"),
        ):
            with pytest.raises(ParameterError, match=says):
                ATTACK.reconstruct(view, np.random.default_rng(0))

    @pytest.mark.parametrize("wrong", [{"shape": ()}, {"steps": 0}, {"restarts": 0}, {"tv": -1.0},
                                       {"lr": 0.0}, {"low": 1.0}])  # fmt: skip
    def test_impossible_settings_cannot_be_built(self, wrong: dict[str, object]) -> None:
        with pytest.raises(ParameterError):
            replace(ATTACK, **wrong)  # type: ignore[arg-type]
