"""Attacks succeed where they must, fail where they must, and never see the truth."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import binom
from skimage.data import lfw_subset
from sklearn.datasets import load_digits
from torch import nn

from tacit.crypto.errors import ParameterError
from tacit.server.inbox import Seen
from tacit.simulations.attacks.base import Knows, View, view_of
from tacit.simulations.attacks.inverting import InvertingGradients
from tacit.simulations.attacks.labels import infer_label
from tacit.simulations.attacks.linear import LinearReadout
from tacit.simulations.evaluate import evaluate
from tacit.simulations.score import at_floor

Build = Callable[[], nn.Module]
Floats = NDArray[np.float64]

DIGITS = load_digits()
IMAGES: Floats = (DIGITS.images / 16)[:, None]  # (1797, 1, 8, 8) in [0, 1]
LABELS: NDArray[np.int64] = DIGITS.target.astype(np.int64)
SHAPE = (1, 8, 8)
READOUT = LinearReadout("fc", SHAPE)
FACES: Floats = lfw_subset()[:100, None].astype(np.float64)
FACE = (1, 25, 25)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def softmax() -> nn.Module:
    net = nn.Sequential()
    net.add_module("flatten", nn.Flatten())
    net.add_module("fc", nn.Linear(64, 10))
    return net


def two_class_softmax() -> nn.Module:
    net = softmax()
    net.fc = nn.Linear(625, 2)
    return net


def relu_mlp() -> nn.Module:
    net = softmax()
    net.fc = nn.Linear(64, 512)
    net.add_module("relu", nn.ReLU())
    net.add_module("head", nn.Linear(512, 10))
    return net


def smooth(side: int = 8, classes: int = 10, width: int = 8) -> nn.Module:
    flat = 2 * width * ((side + 3) // 4) ** 2
    return nn.Sequential(
        nn.Conv2d(1, width, 3, 2, 1),
        nn.Tanh(),
        nn.Conv2d(width, 2 * width, 3, 2, 1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(flat, classes),
    )


def sigmoid_lenet() -> nn.Module:
    """The net of Deep Leakage from Gradients (Zhu et al. 2019), weights uniform in ±0.5."""
    net = nn.Sequential(
        nn.Conv2d(1, 12, 5, 2, 2),
        nn.Sigmoid(),
        nn.Conv2d(12, 12, 5, 2, 2),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(48, 10),
    )
    for weight in net.parameters():
        nn.init.uniform_(weight, -0.5, 0.5)
    return net


def train(
    build: Build,
    x: Floats,
    y: Sequence[int] | NDArray[np.int64],
    *,
    steps: int = 1,
    lr: float = 0.1,
    clients: int = 1,
    kind: torch.dtype = torch.float64,
    seed: int = 0,
) -> Seen:
    """What the server sees of full-batch SGD on x, y; also of `clients` with equal shares of it."""
    torch.manual_seed(seed)
    net = build().to(kind)
    sent = {name: value.detach().clone() for name, value in net.state_dict().items()}
    optimiser = torch.optim.SGD(net.parameters(), lr=lr)
    inputs, labels = torch.tensor(x, dtype=kind), torch.tensor(np.asarray(y))
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(inputs), labels).backward()
        optimiser.step()
    return Seen(
        round=1,
        model={name: value.numpy() for name, value in sent.items()},
        update={name: (v.detach() - sent[name]).numpy() for name, v in net.state_dict().items()},
        clients=clients,
        weight=float(len(x)),
        protocol="plain" if clients == 1 else "pairwise",
    )


def labelled(seen: Seen, labels: Sequence[int] | NDArray[np.int64]) -> View:
    return view_of(seen, knows=Knows.LABELS, labels=labels)


class TestView:
    def test_holds_what_the_server_saw_and_sorted_labels(self) -> None:
        seen = train(softmax, IMAGES[:3], [2, 0, 1], clients=3)
        view = labelled(seen, [2, 0, 1])
        assert (view.clients, view.examples, view.round, view.protocol) == (3, 3.0, 1, "pairwise")
        assert view.labels == (0, 1, 2)  # which device has which is not told
        assert view.update is seen.update
        assert view.inputs == 3

    @pytest.mark.parametrize(
        ("knows", "given", "says"),
        [
            (Knows.LABELS, {}, "labels granted, but no value"),
            (Knows.NOTHING, {"labels": [1]}, "labels given, but not granted"),
            (Knows.LABELS, {"labels": [1], "batch_size": 1}, "batch size given, but not granted"),
            (Knows.BATCH_SIZE, {"batch_size": 0}, "at least 1"),
            (Knows.LEARNING_RATE, {"learning_rate": float("nan")}, "above 0"),
            (
                Knows.LABELS | Knows.BATCH_SIZE,
                {"labels": [1], "batch_size": 2},
                "1 labels granted for a batch of 2",
            ),
        ],
    )
    def test_grants_and_values_agree(
        self, knows: Knows, given: dict[str, object], says: str
    ) -> None:
        seen = train(softmax, IMAGES[:1], [0])
        with pytest.raises(ParameterError, match=says):
            view_of(seen, knows=knows, **given)  # type: ignore[arg-type]

    def test_inputs_are_at_least_the_devices_when_weights_are_fixed(self) -> None:
        seen = replace(train(softmax, IMAGES[:4], LABELS[:4], clients=4), weight=1.0)
        assert view_of(seen).inputs == 4

    def test_grants_read_well(self) -> None:
        assert (Knows.LABELS | Knows.LEARNING_RATE).words() == "labels, learning rate"
        assert Knows.NOTHING.words() == "nothing"


class TestLinearReadout:
    @pytest.mark.parametrize("build", [softmax, relu_mlp])
    @pytest.mark.parametrize("steps", [1, 5])
    def test_one_input_is_exact_for_any_number_of_steps(self, build: Build, steps: int) -> None:
        # Each step adds d * (x, 1) to (dW, db); float64 rounds at 1e-16, and rows that moved
        # less than 1e-6 of the most are left out, so the quotient is good to about 1e-10.
        view = view_of(train(build, IMAGES[7:8], LABELS[7:8], steps=steps))
        guess = READOUT.reconstruct(view, np.random.default_rng(0))
        assert np.abs(guess[0] - IMAGES[7]).max() < 1e-10

    def test_float32_update_gives_the_image_away_too(self) -> None:
        # The update is a difference of float32 weights near 0.1: spacing 2**-27, against moves of
        # lr * d = 0.1 * 0.1 in the rows that count.
        view = view_of(train(softmax, IMAGES[7:8], LABELS[7:8], kind=torch.float32))
        guess = READOUT.reconstruct(view, np.random.default_rng(0))
        assert np.abs(guess[0] - IMAGES[7]).max() < 1e-4

    def test_a_wide_relu_layer_gives_single_inputs_of_a_batch_away(self) -> None:
        outcome = evaluate(
            READOUT,
            view_of(train(relu_mlp, IMAGES[:8], LABELS[:8], clients=8)),
            IMAGES[:8],
            IMAGES[:200],
            np.random.default_rng(0),
        )
        assert outcome.score.recovered > 0.5  # a sum alone is no protection here: docs/leakage.md
        assert not at_floor(outcome.score, outcome.floor)

    def test_several_inputs_and_steps_stay_close(self) -> None:
        seen = train(relu_mlp, IMAGES[:4], LABELS[:4], steps=3, lr=0.01)
        found = READOUT.reconstruct(view_of(seen), np.random.default_rng(0))
        nearest = [np.abs(found - image).max(axis=(1, 2, 3)).min() for image in IMAGES[:4]]
        assert sum(distance < 0.05 for distance in nearest) >= 2

    def test_sum_of_ten_faces_under_softmax_is_at_the_floor(self) -> None:
        # With two classes dL/dz[1] = -dL/dz[0], so both rows read the same quotient; all ten
        # share a label, so it is a convex combination of ten faces: their mean, weighted by
        # 1 - p. No face in it can be told from the others, whatever the weights.
        for seed in range(5):
            chosen = np.random.default_rng(seed).choice(len(FACES), 10, replace=False)
            seen = train(two_class_softmax, FACES[chosen], [0] * 10, clients=10, seed=seed)
            outcome = evaluate(
                LinearReadout("fc", FACE),
                view_of(seen),
                FACES[chosen],
                FACES,
                np.random.default_rng(0),
            )
            assert at_floor(outcome.score, outcome.floor)
            assert outcome.score.recovered == 0
            read = outcome.guess[np.abs(outcome.guess - 0.5).max(axis=(1, 2, 3)) > 0][0]
            mixture, *_ = np.linalg.lstsq(FACES[chosen].reshape(10, -1).T, read.ravel())
            assert mixture.min() > 0
            assert mixture.sum() == pytest.approx(1, abs=1e-9)

    def test_softmax_sum_of_ten_different_digits_still_tells_something(self) -> None:
        # Row k is led by the digit of class k. It recovers none, yet is above the floor: summing
        # hides whose image it was, not all of what was in it (docs/leakage.md).
        hits = 0
        for seed in range(5):
            chosen = np.random.default_rng(seed).choice(len(IMAGES), 10, replace=False)
            seen = train(softmax, IMAGES[chosen], LABELS[chosen], clients=10, seed=seed)
            gallery = np.concatenate([IMAGES[chosen], IMAGES[:300]])
            outcome = evaluate(
                READOUT, view_of(seen), IMAGES[chosen], gallery, np.random.default_rng(0)
            )
            hits += round(10 * outcome.score.identified)
            assert outcome.score.recovered == 0
        # A match with any of the ten is luck: 10 in 310.
        assert binom.sf(hits - 1, 50, 10 / 310) < 1e-6

    @pytest.mark.parametrize(
        ("attack", "says"),
        [
            (LinearReadout("nowhere", SHAPE), "no 'nowhere.weight'; it has fc.weight, fc.bias"),
            (LinearReadout("fc", (1, 4, 4)), "does not see inputs"),
        ],
    )
    def test_wrong_layer_is_named(self, attack: LinearReadout, says: str) -> None:
        with pytest.raises(ParameterError, match=says):
            attack.reconstruct(
                view_of(train(softmax, IMAGES[:1], LABELS[:1])), np.random.default_rng(0)
            )

    @pytest.mark.parametrize(("value", "says"), [(0.0, "did not move"), (np.nan, "not finite")])
    def test_an_update_without_data_is_refused(self, value: float, says: str) -> None:
        seen = train(softmax, IMAGES[:1], LABELS[:1])
        update = {name: np.full_like(array, value) for name, array in seen.update.items()}
        with pytest.raises(ParameterError, match=says):
            READOUT.reconstruct(view_of(replace(seen, update=update)), np.random.default_rng(0))


class TestInvertingGradients:
    def attack(self, build: Build = smooth, **changed: object) -> InvertingGradients:
        return InvertingGradients(build, SHAPE, **changed)  # type: ignore[arg-type]

    @pytest.mark.parametrize(("build", "steps"), [(smooth, 100), (sigmoid_lenet, 200)])
    def test_one_digit_is_recognised(self, build: Build, steps: int) -> None:
        seen = train(build, IMAGES[5:6], LABELS[5:6], kind=torch.float32)
        outcome = evaluate(
            self.attack(build, steps=steps, restarts=2),
            labelled(seen, LABELS[5:6]),
            IMAGES[5:6],
            IMAGES[:200],
            np.random.default_rng(0),
        )
        assert outcome.score.mean_ssim > 0.8 > outcome.floor.mean_ssim
        assert outcome.score.identified == 1

    def test_a_face_in_the_clear_and_the_sum_of_ten(self) -> None:
        def build() -> nn.Module:
            return smooth(side=25, classes=2)

        attack = InvertingGradients(build, FACE, steps=100, restarts=1)
        none: list[int] = [0] * 10  # all of them are faces
        alone, summed = (
            evaluate(
                attack,
                labelled(train(build, FACES[:n], none[:n], clients=n), none[:n]),
                FACES[:n],
                FACES,
                np.random.default_rng(0),
            )
            for n in (1, 10)
        )
        assert alone.score.mean_ssim >= 0.8
        assert alone.score.identified == 1
        assert at_floor(summed.score, summed.floor)
        # Sharper than `at_floor`: no face of the sum comes near what one in the clear gave away.
        assert max(summed.score.ssim) < 0.8

    def test_restarts_in_one_batch_equal_restarts_one_by_one(self) -> None:
        # In float64, where the order of additions cannot flip the sign of a slope in few steps.
        seen = train(smooth, IMAGES[:2], LABELS[:2])
        attack = self.attack(steps=20, dtype=torch.float64)
        objective = attack.objective(labelled(seen, LABELS[:2]))
        starts = torch.tensor(np.random.default_rng(3).random((3, 2, *SHAPE)))
        together, values = attack.descend(objective, starts)
        for i in range(3):
            alone, value = attack.descend(objective, starts[i : i + 1])
            torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-9)
            torch.testing.assert_close(value[0], values[i], rtol=0, atol=1e-12)

    def test_keeps_the_restart_of_lowest_objective(self) -> None:
        seen = train(smooth, IMAGES[:1], LABELS[:1])
        attack = self.attack(steps=5, dtype=torch.float64)
        view = labelled(seen, LABELS[:1])
        guess = attack.reconstruct(view, np.random.default_rng(4))
        starts = np.random.default_rng(4).random((attack.restarts, 1, *SHAPE))
        found, values = attack.descend(attack.objective(view), torch.tensor(starts))
        np.testing.assert_array_equal(guess, found[values.argmin()].numpy())
        assert len(set(values.tolist())) == attack.restarts  # there was something to choose

    def test_the_factor_of_the_update_does_not_matter(self) -> None:
        seen = train(smooth, IMAGES[:1], LABELS[:1])
        scaled = replace(seen, update={name: 4 * value for name, value in seen.update.items()})
        attack = self.attack(steps=10, dtype=torch.float64)
        one, other = (
            attack.reconstruct(labelled(s, LABELS[:1]), np.random.default_rng(0))
            for s in (seen, scaled)
        )
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)

    def test_labels_are_inferred_for_one_input(self) -> None:
        for i in range(20):
            seen = train(smooth, IMAGES[i : i + 1], LABELS[i : i + 1], seed=i)
            assert infer_label(np.asarray(seen.update["5.bias"])) == LABELS[i]
        attack = self.attack(steps=5, infer_labels=True)
        granted = self.attack(steps=5)
        assert attack.needs == Knows.NOTHING
        np.testing.assert_array_equal(
            attack.reconstruct(view_of(seen), np.random.default_rng(0)),
            granted.reconstruct(labelled(seen, LABELS[i : i + 1]), np.random.default_rng(0)),
        )

    def test_missing_grant_is_refused_before_any_work(self) -> None:
        built: list[int] = []

        def build() -> nn.Module:
            built.append(1)
            return smooth()

        seen = train(smooth, IMAGES[:1], LABELS[:1])
        with pytest.raises(ParameterError, match=r"needs to know labels: grant it in view_of"):
            self.attack(build).reconstruct(view_of(seen), np.random.default_rng(0))
        assert not built

    @pytest.mark.parametrize(
        ("changed", "labels", "says"),
        [
            ({"infer_labels": True}, None, "inferred for one input, this update has 2"),
            ({"build": sigmoid_lenet}, [0, 1], "is `build` the model that was trained"),
            ({"build": softmax}, [0, 1], "no 'fc.weight'"),
        ],
    )
    def test_what_does_not_fit_is_named(
        self, changed: dict[str, object], labels: list[int] | None, says: str
    ) -> None:
        seen = train(smooth, IMAGES[:2], LABELS[:2])
        view = view_of(seen) if labels is None else labelled(seen, labels)
        with pytest.raises(ParameterError, match=says):
            self.attack(**{"build": smooth, **changed}).reconstruct(  # type: ignore[arg-type]
                view, np.random.default_rng(0)
            )

    def test_a_zero_update_is_refused(self) -> None:
        seen = train(smooth, IMAGES[:1], LABELS[:1])
        still = {name: np.zeros_like(value) for name, value in seen.update.items()}
        with pytest.raises(ParameterError, match="update is zero"):
            self.attack().reconstruct(
                labelled(replace(seen, update=still), [0]), np.random.default_rng(0)
            )

    @pytest.mark.parametrize(
        "wrong",
        [{"steps": 0}, {"restarts": 0}, {"tv": -0.1}, {"lr": 0.0}, {"low": 1.0}, {"shape": ()}],
    )
    def test_impossible_settings_cannot_be_built(self, wrong: dict[str, object]) -> None:
        with pytest.raises(ParameterError):
            InvertingGradients(**{"build": smooth, "shape": SHAPE, **wrong})  # type: ignore[arg-type]

    def test_progress_is_told_step_by_step(self) -> None:
        told: list[tuple[int, int]] = []
        attack = self.attack(
            steps=3, restarts=1, on_step=lambda done, all_: told.append((done, all_))
        )
        attack.reconstruct(
            labelled(train(smooth, IMAGES[:1], LABELS[:1]), LABELS[:1]), np.random.default_rng(0)
        )
        assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("attack", "build"),
    [(READOUT, softmax), (InvertingGradients(smooth, SHAPE, steps=5, restarts=2), smooth)],
    ids=["linear", "inverting"],
)
def test_the_truth_never_reaches_the_attack(
    attack: LinearReadout | InvertingGradients, build: Build
) -> None:
    view = labelled(train(build, IMAGES[:1], LABELS[:1]), LABELS[:1])
    noise = np.random.default_rng(9).random((1, *SHAPE))
    guesses = [
        evaluate(
            attack, view, truth, np.concatenate([truth, IMAGES[1:50]]), np.random.default_rng(0)
        ).guess
        for truth in (IMAGES[:1], noise)
    ]
    np.testing.assert_array_equal(guesses[0], guesses[1])
