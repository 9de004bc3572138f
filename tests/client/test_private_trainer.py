"""DP-SGD on a device: what it does to a model, what it tells the ledger, and what it never does."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from tacit.client import private_trainer
from tacit.client.numpy_trainer import NumpyTrainer
from tacit.client.private_trainer import (
    DescendingTrainer,
    PrivateFit,
    PrivatePlan,
    gradient_update,
    private_fit,
    reach,
)
from tacit.client.torch_trainer import TorchTrainer
from tacit.client.trainer import Arrays, Examples, LocalPlan
from tacit.crypto.errors import BudgetExceeded, ParameterError
from tacit.crypto.prg import keystream
from tacit.privacy import example_sums
from tacit.privacy.example_sums import ROWS, SLACK
from tacit.privacy.poisson import drawn
from tacit.privacy.releases import Release
from tacit.simulations.models import cnn, mlp, softmax
from tests.privacy.test_example_sums import Silence

FEATURES, CLASSES = 12, 3
RAND = bytes(range(32))
PLAN = LocalPlan(learning_rate=0.2, seed=4)
FULL = replace(PLAN, momentum=0.9, weight_decay=0.01, proximal_mu=0.3)
PRIVATE = PrivatePlan(steps=6, rate=0.4, batch=20.0, clip=0.5, noise=1.0)

TRAINERS: dict[str, Callable[[], TorchTrainer | NumpyTrainer]] = {
    "torch softmax": lambda: TorchTrainer(partial(softmax, (FEATURES,), CLASSES)),
    "torch mlp": lambda: TorchTrainer(partial(mlp, (FEATURES,), CLASSES, (8, 5))),
    "numpy softmax": lambda: NumpyTrainer(FEATURES, CLASSES),
    "numpy mlp": lambda: NumpyTrainer(FEATURES, CLASSES, (8, 5)),
    "numpy wide": lambda: NumpyTrainer(FEATURES, CLASSES, (8, 5), np.float64),
}
PAIRS = [
    ("torch softmax", "numpy softmax"),
    ("torch mlp", "numpy mlp"),
    ("numpy wide", "numpy mlp"),
]


@pytest.fixture(params=TRAINERS)
def trainer(request: pytest.FixtureRequest) -> TorchTrainer | NumpyTrainer:
    return TRAINERS[request.param]()


def examples(count: int = 50, seed: int = 5) -> Examples:
    rng = np.random.default_rng(seed)
    y = rng.integers(CLASSES, size=count)
    centres = np.random.default_rng(1).uniform(-1, 1, (CLASSES, FEATURES))
    return Examples((centres[y] + rng.normal(0, 0.4, (count, FEATURES))).astype(np.float32), y)


def fit(
    trainer: DescendingTrainer,
    model: Arrays,
    data: Examples,
    plan: LocalPlan = PLAN,
    private: PrivatePlan = PRIVATE,
    rand: bytes = RAND,
    charge: Callable[[tuple[Release, ...]], None] = lambda _: None,
) -> PrivateFit:
    return private_fit(
        trainer, model, data, plan, private, run=1, round_=2, rand=rand, charge=charge
    )


def same(a: Arrays, b: Arrays) -> bool:
    return list(a) == list(b) and all(np.array_equal(a[name], b[name]) for name in a)


def flat(model: Arrays) -> np.ndarray:
    return np.concatenate([array.ravel().astype(np.float64) for array in model.values()])


def summed(
    trainer: TorchTrainer | NumpyTrainer, model: Arrays, data: Examples, clip: float
) -> np.ndarray:
    with trainer.descent(model, data, 0) as descent:
        pieces = [v.astype(np.float64) for v, _ in descent.sums(np.arange(len(data)), clip)]
        return np.sum(pieces, axis=0) if pieces else np.zeros(descent.length)


# One step is what the paper says


def by_hand(model: Arrays, data: Examples, plan: LocalPlan, private: PrivatePlan) -> np.ndarray:
    """DP-SGD of a softmax regression in float64, without noise."""
    w = flat(model)
    start, velocity = w.copy(), np.zeros_like(w)
    keys = keystream(RAND, 64 * private.steps)
    for step in range(private.steps):
        total = np.zeros_like(w)
        for i in drawn(len(data), private.rate, keys[64 * step :][:32]):
            weight, bias = w[:-CLASSES].reshape(CLASSES, FEATURES), w[-CLASSES:]
            powers = np.exp(weight @ data.x[i] + bias)
            delta = powers / powers.sum() - np.eye(CLASSES)[data.y[i]]
            g = np.concatenate([np.outer(delta, data.x[i]).ravel(), delta])
            total += g * min(1, private.clip / np.linalg.norm(g))
        g = total / private.batch + plan.proximal_mu * (w - start) + plan.weight_decay * w
        velocity = plan.momentum * velocity + g
        w = w - plan.learning_rate * velocity
    return w


@pytest.mark.parametrize("name", ["torch softmax", "numpy softmax"])
@pytest.mark.parametrize("plan", [PLAN, FULL])
def test_it_is_sgd_with_clipped_gradients(
    name: str, plan: LocalPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the grid, whose steps are 2**-11 of the clip here: half of one, 6 times, over 20."""
    monkeypatch.setattr(example_sums, "Sampler", Silence)
    trainer = TRAINERS[name]()
    model = trainer.initial(0)
    found = fit(trainer, model, examples(), plan).model
    step = 2.0 ** -PRIVATE.mechanism(len(flat(model))).exponent
    most = PRIVATE.steps * 10 * plan.learning_rate * step / 2 / PRIVATE.batch  # of momentum 0.9
    assert np.abs(flat(found) - by_hand(model, examples(), plan, PRIVATE)).max() <= most + 1e-6


def test_its_noise_is_the_multiplier_times_the_clip(trainer: TorchTrainer | NumpyTrainer) -> None:
    """A step without any examples is noise alone."""
    model = trainer.initial(0)
    private = replace(PRIVATE, noise=3.0)
    moved = [
        flat(fit(trainer, model, examples(0), PLAN, private, bytes([i]) * 32).model) - flat(model)
        for i in range(20)
    ]
    found = np.stack(moved) / (PLAN.learning_rate / PRIVATE.batch * 3.0 * PRIVATE.clip)
    square = float(np.mean(found**2)) / PRIVATE.steps
    assert abs(square / 1.02 - 1) < 0.02 + 7 * math.sqrt(2 / found.size)  # B is 1% to 2% longer


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_all_trainers_agree(one: str, other: str) -> None:
    model = TRAINERS[one]().initial(0)
    first, second = (fit(TRAINERS[name](), model, examples(), FULL) for name in (one, other))
    assert np.abs(flat(first.model) - flat(second.model)).max() < 1e-4  # a step of the grid, moved
    assert first.loss == pytest.approx(second.loss, rel=1e-4)
    assert first.releases == second.releases


def test_it_depends_on_its_randomness_alone(trainer: TorchTrainer | NumpyTrainer) -> None:
    model = trainer.initial(0)
    before = {name: array.copy() for name, array in model.items()}
    first = fit(trainer, model, examples(), FULL)
    assert same(first.model, fit(trainer, model, examples(), FULL).model)
    assert not same(first.model, fit(trainer, model, examples(), FULL, rand=bytes(32)).model)
    assert same(model, before)
    assert list(first.model) == list(model)
    assert all(array.dtype == np.float32 for array in first.model.values())


def test_no_key_is_used_twice(
    trainer: TorchTrainer | NumpyTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[bytes] = []

    class Noted(Silence):
        def __init__(self, law: object, rand: bytes, samples: int) -> None:
            used.append(rand)

    def noted(count: int, rate: float, rand: bytes) -> np.ndarray:
        used.append(rand)
        return drawn(count, rate, rand)

    monkeypatch.setattr(example_sums, "Sampler", Noted)
    monkeypatch.setattr("tacit.client.private_trainer.drawn", noted)
    fit(trainer, trainer.initial(0), examples())
    assert len(used) == len({*used, RAND}) - 1 == 2 * PRIVATE.steps
    assert {len(key) for key in used} == {32}


def test_it_learns(trainer: TorchTrainer | NumpyTrainer) -> None:
    private = PrivatePlan(steps=60, rate=0.2, batch=100.0, clip=1.0, noise=1.0)
    start = trainer.initial(0)
    model = fit(trainer, start, examples(500), replace(PLAN, learning_rate=0.5), private).model
    assert trainer.evaluate(model, examples(300, seed=9))[1] > 0.9


# What the ledger is told


def test_the_ledger_is_charged_before_an_example_is_looked_at(
    trainer: TorchTrainer | NumpyTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[Release, ...]] = []

    def refuse(releases: tuple[Release, ...]) -> None:
        told.append(releases)
        raise BudgetExceeded("no more")

    def never(*_: object) -> None:
        raise AssertionError("looked at the data")

    monkeypatch.setattr("tacit.client.private_trainer.drawn", never)
    with pytest.raises(BudgetExceeded):
        fit(trainer, trainer.initial(0), examples(), charge=refuse)
    assert [len(releases) for releases in told] == [PRIVATE.steps]


def test_one_release_for_each_step(trainer: TorchTrainer | NumpyTrainer) -> None:
    told: list[tuple[Release, ...]] = []
    model = trainer.initial(0)
    found = fit(trainer, model, examples(), charge=told.append)
    assert told == [found.releases]
    expected = PRIVATE.mechanism(len(flat(model))).release(1, 2)
    assert found.releases == (expected,) * PRIVATE.steps


def test_nothing_told_or_divided_depends_on_the_examples(
    trainer: TorchTrainer | NumpyTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With twice the examples, each twice, a step is twice as long."""
    monkeypatch.setattr(example_sums, "Sampler", Silence)
    model, data = trainer.initial(0), examples(20)
    twice = Examples(np.concatenate([data.x] * 2), np.concatenate([data.y] * 2))
    private = PrivatePlan(steps=1, rate=1.0, batch=7.0, clip=0.5)
    one, other = (fit(trainer, model, each, PLAN, private) for each in (data, twice))
    assert one.releases == other.releases
    moved = flat(one.model) - flat(model)
    step = 2.0 ** -private.mechanism(len(moved)).exponent
    off = np.abs(flat(other.model) - flat(model) - 2 * moved).max()
    assert (
        off <= 1.5 * step * PLAN.learning_rate / 7 + 1e-6
    )  # half a step of one, twice the other's


# The bound


@pytest.mark.parametrize("count", [1, 2, 50, ROWS])
def test_a_neighbour_is_within_the_bound(trainer: TorchTrainer | NumpyTrainer, count: int) -> None:
    model, data = trainer.initial(0), examples(count)
    without = Examples(data.x.copy(), data.y)
    without.x[count // 2] = math.nan
    one, other = (summed(trainer, model, each, 0.3) for each in (data, without))
    assert 0.2 < np.linalg.norm(one - other) <= 0.3 * (1 + float(SLACK))
    assert np.isfinite(other).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e38, 1e30, 3e19])
def test_an_example_out_of_range_does_no_harm(
    trainer: TorchTrainer | NumpyTrainer, value: float
) -> None:
    model, data = trainer.initial(0), examples(5)
    rest = Examples(np.delete(data.x, 2, 0), np.delete(data.y, 2))
    data.x[2, 3] = value
    moved = summed(trainer, model, data, 0.3) - summed(trainer, model, rest, 0.3)
    assert np.linalg.norm(moved) <= 0.3 * (1 + float(SLACK))
    if not math.isfinite(value):
        assert np.abs(moved).max() < 1e-6
    found = fit(trainer, model, data)
    assert math.isfinite(found.loss)


@pytest.mark.parametrize("name", ["torch softmax", "numpy softmax"])
def test_a_weight_below_the_range_of_floats_does_no_harm(name: str) -> None:
    """3/4 of the smallest float32 is rounded to all of it: the gradient would be 4/3 clips long."""
    trainer, clip = TRAINERS[name](), 2.0**-32
    model = {key: np.zeros_like(array) for key, array in trainer.initial(0).items()}
    x = np.zeros((1, FEATURES), np.float32)
    model["fc.weight"][0, 0] = 1  # sure of class 0
    x[0, 0] = clip / (0.75 * 2.0**-149) / math.sqrt(2)
    found = summed(trainer, model, Examples(x, np.array([1])), clip)
    assert np.linalg.norm(found) <= clip * (1 + float(SLACK))


def test_a_batch_may_be_empty(trainer: TorchTrainer | NumpyTrainer) -> None:
    model = trainer.initial(0)
    never = replace(PRIVATE, rate=1e-12)
    assert fit(trainer, model, examples(), PLAN, never).loss == 0.0
    alone = fit(trainer, model, examples(0), PLAN, PRIVATE)
    assert same(alone.model, fit(trainer, model, examples(), PLAN, never).model)


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan, math.inf])
def test_a_clip_that_is_none_is_refused(trainer: TorchTrainer | NumpyTrainer, clip: float) -> None:
    with pytest.raises(ParameterError, match="clip="):
        summed(trainer, trainer.initial(0), examples(), clip)
    with pytest.raises(ParameterError, match="clip="):
        replace(PRIVATE, clip=clip)


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"batch": 0.0}, {"batch": math.nan}, {"noise": 0.0}, {"rate": 0.0}, {"rate": 2}],
)
def test_a_plan_that_is_none_cannot_be_built(wrong: dict[str, float]) -> None:
    with pytest.raises(ParameterError):
        replace(PRIVATE, **wrong)


def test_what_does_not_fit_is_refused(trainer: TorchTrainer | NumpyTrainer) -> None:
    model, data = trainer.initial(0), examples()
    with pytest.raises(ParameterError, match="no array"):
        fit(trainer, dict(list(model.items())[1:]), data)
    with pytest.raises(ParameterError, match="cannot take"):
        fit(trainer, model, Examples(data.x[:, :5], data.y))


def test_a_model_that_diverges_stays_as_it_was_and_is_paid_for(
    trainer: TorchTrainer | NumpyTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    """A server can have one diverge for noise of one sign: to fail would be told, and be free."""
    model, steep = trainer.initial(0), replace(PLAN, learning_rate=1e38, momentum=0.99)
    found = fit(trainer, model, examples(), steep, replace(PRIVATE, batch=0.01))
    assert len(found.releases) == PRIVATE.steps
    assert model.keys() == found.model.keys()
    assert all(np.array_equal(model[name], found.model[name]) for name in model)
    assert "training diverged" in caplog.text


# Torch alone


def test_batch_normalisation_is_refused() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(FEATURES, 4), nn.BatchNorm1d(4), nn.Linear(4, CLASSES))

    trainer = TorchTrainer(build)
    with pytest.raises(ParameterError, match="mixes the examples"):
        fit(trainer, trainer.initial(0), examples())


def test_two_names_for_an_array_are_refused() -> None:
    def build() -> nn.Module:
        first, second = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES)
        second.weight = first.weight
        return nn.Sequential(first, second, nn.Linear(FEATURES, CLASSES))

    trainer = TorchTrainer(build)
    with pytest.raises(ParameterError, match=r"1\.weight and 0\.weight are one array"):
        fit(trainer, trainer.initial(0), examples())


def test_a_network_of_convolutions_trains() -> None:
    trainer = TorchTrainer(partial(cnn, (1, 4, 4), CLASSES))
    rng = np.random.default_rng(0)
    y = rng.integers(CLASSES, size=200)
    x = rng.normal(0, 0.3, (200, 1, 4, 4)).astype(np.float32) + y[:, None, None, None]
    private = PrivatePlan(steps=30, rate=0.2, batch=40.0, noise=0.5)
    data = Examples(x.astype(np.float32), y)
    model = trainer.initial(0)
    found = fit(trainer, model, data, replace(PLAN, momentum=0.9), private)
    assert found.loss < trainer.evaluate(model, data)[0]
    assert trainer.evaluate(found.model, data)[1] > 0.8


def test_torch_is_left_as_it_was() -> None:
    trainer = TRAINERS["torch mlp"]()
    before = torch.random.get_rng_state()
    fit(trainer, trainer.initial(0), examples())
    assert torch.equal(before, torch.random.get_rng_state())


def step(trainer: DescendingTrainer, model: Arrays, data: Examples, factor: float = 0.01) -> Arrays:
    return gradient_update(
        trainer, model, data, rate=0.4, clip=0.5, factor=factor, seed=4, rand=RAND
    )


def test_an_update_is_one_step_without_noise(
    trainer: TorchTrainer | NumpyTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `private_fit` does with the same batch, were there no noise; in float64 throughout."""
    monkeypatch.setattr(example_sums, "Sampler", Silence)
    model, data = trainer.initial(0), examples()
    change = step(trainer, model, data, factor=0.01)
    assert {name: array.shape for name, array in change.items()} == {
        name: array.shape for name, array in model.items()
    }
    assert all(array.dtype == np.float64 for array in change.values())
    monkeypatch.setattr(
        private_trainer, "drawn", lambda count, rate, rand: drawn(count, rate, RAND)
    )
    one = fit(
        trainer, model, data, LocalPlan(learning_rate=0.2), replace(PRIVATE, steps=1, noise=1e-3)
    )
    moved = flat(one.model) - flat(model)
    np.testing.assert_allclose(flat(change), moved, atol=2e-3 * np.abs(moved).max())


def test_one_example_more_moves_an_update_by_its_reach(
    trainer: TorchTrainer | NumpyTrainer,
) -> None:
    """And hardly by less: gradients of these are longer than the clip."""
    model, data = trainer.initial(0), examples(60)
    fewer = Examples(data.x[:-1], data.y[:-1])
    moved = []
    for key in range(20):
        rand = bytes([key]) * 32
        with_, without = (
            gradient_update(
                trainer, model, some, rate=0.5, clip=0.01, factor=3.0, seed=0, rand=rand
            )
            for some in (data, fewer)
        )
        moved.append(float(np.linalg.norm(flat(with_) - flat(without))))
    assert max(moved) <= reach(0.01, 3.0)
    assert max(moved) > 0.99 * 0.01 * 3.0
    assert min(moved) == 0.0  # it was not drawn


def test_an_update_of_no_examples_is_zero(trainer: TorchTrainer | NumpyTrainer) -> None:
    model = trainer.initial(0)
    nobody = Examples(np.zeros((0, FEATURES), np.float32), np.zeros(0, np.int64))
    assert not flat(step(trainer, model, nobody)).any()


@pytest.mark.parametrize("label", [-1, CLASSES, 10**6])
def test_an_example_with_a_label_that_is_none_adds_nothing(
    trainer: TorchTrainer | NumpyTrainer, label: int
) -> None:
    """And does not stop the others: that one of them is wrong would show in all of the update."""
    model, data = trainer.initial(0), examples()
    wrong = Examples(data.x, data.y.copy())
    wrong.y[7] = label

    def update(some: Examples) -> np.ndarray:
        made = gradient_update(
            trainer, model, some, rate=1.0, clip=0.5, factor=1.0, seed=0, rand=RAND
        )
        return flat(made)

    without = update(Examples(np.delete(data.x, 7, 0), np.delete(data.y, 7)))
    np.testing.assert_allclose(update(wrong), without, rtol=0, atol=1e-5)
    assert np.linalg.norm(update(data) - without) > 0.4
