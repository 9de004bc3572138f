"""What batch normalisation leaves in an update is worth more to an attack than any prior."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tacit.client.trainer import LocalPlan
from tacit.crypto.errors import ParameterError
from tacit.server.inbox import Seen
from tacit.simulations.attacks.base import view_of
from tacit.simulations.attacks.gradinversion import (
    GradInversion,
    Statistics,
    by_batch,
    drawn_together,
    moments,
    moments_held,
)
from tacit.simulations.attacks.surrogate import Surrogate, squared
from tacit.simulations.attacks.unrolled import simulated
from tacit.simulations.evaluate import evaluate
from tacit.simulations.score import at_floor, interval
from tests.simulations.test_attacks import FACE, FACES, IMAGES, LABELS, SHAPE, labelled, smooth
from tests.simulations.test_unrolled import federated

PLAN = LocalPlan(epochs=1, batch_size=0, learning_rate=0.1)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def normalised(side: int = 25, classes: int = 2, momentum: float | None = 0.1) -> nn.Module:
    flat = 32 * ((side + 3) // 4) ** 2
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1),
        nn.BatchNorm2d(16, momentum=momentum),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.BatchNorm2d(32, momentum=momentum),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(flat, classes),
    )


def small() -> nn.Module:
    return normalised(8, 10)


def without_momentum() -> nn.Module:
    return normalised(8, 10, None)


QUICK = GradInversion(small, SHAPE, steps=5, restarts=2)


def of_digits(attack: GradInversion) -> tuple[float, ...]:
    """The PSNR of each of four digits of one device."""
    chosen = np.random.default_rng(2).choice(200, 4, replace=False)
    view = labelled(federated(small, IMAGES[chosen], LABELS[chosen], PLAN), LABELS[chosen])
    outcome = evaluate(attack, view, IMAGES[chosen], IMAGES[:200], np.random.default_rng(0))
    return outcome.score.psnr


class TestWhatTheServerHolds:
    @pytest.mark.parametrize("clients", [1, 3])
    @pytest.mark.parametrize("build", [small, without_momentum])
    def test_the_update_tells_the_moments_of_the_batch(
        self, build: type[nn.Module], clients: int
    ) -> None:
        chosen = np.arange(6)[np.argsort(LABELS[:6], kind="stable")]
        view = labelled(
            federated(build, IMAGES[chosen], LABELS[chosen], PLAN, clients), LABELS[chosen]
        )
        surrogate = Surrogate.of(build, view, LABELS[chosen], dtype=torch.float64)
        layers = by_batch(surrogate.model)
        shares = np.split(IMAGES[chosen], clients)
        found = [moments(surrogate, layers, torch.tensor(share)) for share in shares]
        assert [*layers] == ["1", "4"]
        for name, layer in layers.items():
            held = moments_held(view, name, layer, Statistics.BATCH, surrogate)
            for i in (0, 1):
                true = torch.stack([each[name][i] for each in found]).mean(0)
                # float32 sums of some 100 numbers, and a tenth of them taken off a number near 1.
                torch.testing.assert_close(held[i], true, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("clients", [1, 3])
    def test_the_truth_moves_the_model_as_the_update_does(self, clients: int) -> None:
        # Normalised by the batch of each device, as in training; in evaluation mode it is far off.
        chosen = np.arange(6)[np.argsort(LABELS[:6], kind="stable")]
        view = labelled(
            federated(small, IMAGES[chosen], LABELS[chosen], PLAN, clients), LABELS[chosen]
        )
        surrogate = Surrogate.of(small, view, LABELS[chosen], dtype=torch.float64)
        distance = squared(surrogate.target)
        x = torch.tensor(IMAGES[chosen])
        assert float(distance(simulated(surrogate, PLAN, clients)(x))) > 1e-2
        by_batch(surrogate.model)
        assert float(distance(simulated(surrogate, PLAN, clients)(x))) < 1e-4**2

    def test_statistics_below_0_are_no_variance(self) -> None:
        view = labelled(federated(small, IMAGES[:1], LABELS[:1], PLAN), LABELS[:1])
        drowned = {n: v - 9 * n.endswith("running_var") for n, v in view.update.items()}
        view = replace(view, update=drowned)
        surrogate = Surrogate.of(small, view, LABELS[:1])
        for name, layer in by_batch(surrogate.model).items():
            _, variance = moments_held(view, name, layer, Statistics.BATCH, surrogate)
            assert bool((variance > 0).all())


class TestGradInversion:
    def test_the_statistics_of_the_batch_improve_the_pictures(self) -> None:
        attack = replace(QUICK, steps=150, restarts=1)
        batch = of_digits(attack)
        # Those of a model that never trained are 0 and 1, which say nothing of these pictures.
        for less in (replace(attack, bn=0.0), replace(attack, statistics=Statistics.SENT)):
            # Paired by picture: half the squared error at least, and not by luck.
            ahead = np.subtract(batch, of_digits(less)).tolist()
            assert interval(ahead, np.random.default_rng(0)).low > 3

    def test_a_sum_of_16_is_at_the_floor(self) -> None:
        chosen = np.random.default_rng(0).choice(len(FACES), 16, replace=False)
        same = np.zeros(16, dtype=np.int64)
        outcome = evaluate(
            GradInversion(normalised, FACE, steps=50, restarts=1),
            labelled(federated(normalised, FACES[chosen], same, PLAN, 16), same),
            FACES[chosen],
            FACES,
            np.random.default_rng(0),
        )
        assert at_floor(outcome.score, outcome.floor)

    def test_restarts_are_drawn_to_their_mean(self) -> None:
        starts = torch.tensor(np.random.default_rng(0).random((4, 2, *SHAPE)))

        def flat(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.zeros_like(x), x.new_zeros(len(x))

        pull, far = drawn_together(flat, 0.5)(starts)
        away = (starts - starts.mean(0)).flatten(1)
        torch.testing.assert_close(far, 0.5 * away.square().mean(1).sqrt())
        for i in range(4):
            x = starts[i].clone().requires_grad_(True)
            distance = 0.5 * (x - starts.mean(0)).square().mean().sqrt()
            (slope,) = torch.autograd.grad(distance, x)
            torch.testing.assert_close(pull[i], slope)
        # A lone one has nobody to agree with.
        assert not any(part.any() for part in drawn_together(flat, 0.5)(starts[:1]))

    def test_a_model_without_batch_normalisation_is_attacked_too(self) -> None:
        seen = federated(smooth, IMAGES[5:6], LABELS[5:6], PLAN)
        outcome = evaluate(
            replace(QUICK, build=smooth, steps=100),
            labelled(seen, LABELS[5:6]),
            IMAGES[5:6],
            IMAGES[:100],
            np.random.default_rng(0),
        )
        assert outcome.score.mean_ssim > 0.8 > outcome.floor.mean_ssim

    def test_the_guess_comes_of_the_view_and_the_draws(self) -> None:
        view = labelled(federated(small, IMAGES[:1], LABELS[:1], PLAN), LABELS[:1])
        noise = np.random.default_rng(9).random((1, *SHAPE))
        guesses = [
            evaluate(
                QUICK, view, truth, np.concatenate([truth, IMAGES[8:20]]), np.random.default_rng(0)
            ).guess
            for truth in (IMAGES[:1], noise)
        ]
        np.testing.assert_array_equal(guesses[0], guesses[1])


class TestRefusals:
    def test_missing_labels_are_refused_before_any_work(self) -> None:
        def build() -> nn.Module:
            raise AssertionError

        seen = federated(small, IMAGES[:1], LABELS[:1], PLAN)
        with pytest.raises(ParameterError, match="needs to know labels"):
            replace(QUICK, build=build).reconstruct(view_of(seen), np.random.default_rng(0))

    def test_what_does_not_fit_is_named(self) -> None:
        seen = federated(small, IMAGES[:3], LABELS[:3], PLAN)
        bare = {n: v for n, v in seen.update.items() if "running" not in n}
        cases: tuple[tuple[Seen, str], ...] = (
            (replace(seen, clients=2), "3 inputs cannot be shared out evenly"),
            (replace(seen, update=bare), "no '1.running_mean'"),
        )
        for wrong, says in cases:
            with pytest.raises(ParameterError, match=says):
                QUICK.reconstruct(labelled(wrong, LABELS[:3]), np.random.default_rng(0))

    @pytest.mark.parametrize("wrong", [{"shape": ()}, {"steps": 0}, {"restarts": 0}, {"bn": -1.0},
                                       {"group": -1.0}, {"low": 1.0}])  # fmt: skip
    def test_impossible_settings_cannot_be_built(self, wrong: dict[str, object]) -> None:
        with pytest.raises(ParameterError):
            replace(QUICK, **wrong)  # type: ignore[arg-type]
