"""Flower's own strategies, plain and above a secure sum: one trajectory, but for the rounding."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    Bulyan,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedXgbBagging,
    FedXgbCyclic,
    FedYogi,
    Krum,
    MultiKrum,
    QFedAvg,
    Result,
    Strategy,
)

from tacit.client.app import SecureClientApp
from tacit.client.device import simulated_device
from tacit.crypto.codec import Codec
from tacit.crypto.errors import ParameterError
from tacit.server.flower import identity
from tacit.server.pairwise import Pairwise
from tacit.simulations.engine.grid import InProcessGrid
from tacit.strategies.secure import MEAN_ONLY, Secure
from tests.runtime import linear

DEVICES, ROUNDS = 6, 5
BITS = 48  # at 32 the same laws hold, with bounds some ten thousand times wider
COORDINATES = 31  # of the model that is trained: 30 weights and a bias
WEIGHTS = [20 + 7 * partition for partition in range(DEVICES)]


def plain() -> ClientApp:
    return linear.register(ClientApp())


def secure() -> ClientApp:
    return linear.secure_app(device_of=simulated_device)


def run(strategy: Strategy, app: Callable[[], ClientApp]) -> tuple[Result, list[dict[str, Any]]]:
    """The result, and the model after every round."""
    models = []

    def keep(round: int, arrays: ArrayRecord) -> None:
        models.append(linear.arrays_of(arrays))

    with InProcessGrid(app, devices=DEVICES) as grid, identity(grid.run.run_id):
        result = strategy.start(grid, linear.initial(), ROUNDS, evaluate_fn=keep)
    return result, models


def parameters(model: dict[str, Any]) -> np.ndarray:
    return np.append(model["w"], model["b"])


def quantum(precision: int) -> float:
    """How far the opened mean of a coordinate may be from the exact one.

    Device i sends update * w_i/W, rounded by less than a step of 1/scale. So the sum is off by
    n steps, and opening divides by (sum of w_i)/W. To this comes float64's own rounding, some
    2**-53 of values below 8 in each of a few operations.
    """
    codec = Codec(length=33, clients=DEVICES, bits=precision + DEVICES.bit_length())
    grid = DEVICES / codec.scale * codec.max_weight / sum(WEIGHTS)
    return grid + 20 * 8 * 2.0**-53


@dataclass
class Bound:
    """How far two runs can be apart (L2 norm), round by round, if every mean is off by `noise`.

    Local training is two steps of descent that move no two models further apart (see
    `tests.runtime.linear`), so a mean is off by at most apart + noise; a proximal term mu adds
    RATE * mu * |w1 - w0|, and w1 - w0 is 1-Lipschitz, which makes it (1 + RATE * mu) apart.
    """

    noise: float
    mu: float = 0.0
    apart: float = 0.0

    def mean(self) -> float:
        return (1 + linear.RATE * self.mu) * self.apart + self.noise

    def update(self) -> float:
        """Of mean - model."""
        return self.apart + self.mean()

    def step(self, round: int) -> None:
        """FedAvg and FedProx: the model is the mean."""
        self.apart = self.mean()


@dataclass
class Momentum(Bound):
    """FedAvgM: v' = beta v + (x - mean), x' = x - rate v'."""

    rate: float = 0.5
    beta: float = 0.9
    velocity: float = 0.0

    def step(self, round: int) -> None:
        self.velocity = self.beta * self.velocity + self.update()
        self.apart += self.rate * self.velocity


@dataclass
class Adaptive(Bound):
    """x' = x + eta m'/(s' + tau), m' = beta_1 m + (1 - beta_1) update, s' = sqrt(v').

    This is where a small error grows: m/(s + tau) moves by at most (dm + C ds)/tau, with C the
    largest m/s, so each round multiplies by about eta/tau. s' keeps `memory` of s and gains
    `gain` of the update:
      Adam    s' = |(sqrt(beta_2) s, sqrt(1 - beta_2) update)|: a norm, hence these two factors.
      Adagrad s' = |(s, update)|.
      Yogi    s'^2 = s^2 -+ (1 - beta_2) update^2, down only while update < s. Then s' is at least
              sqrt(beta_2) s, and ds' at most (ds + (1 - beta_2) dupdate)/sqrt(beta_2).
    C by Cauchy-Schwarz from s^2 >= (1 - beta_2) sum beta_2^k update_k^2 (Adam, Yogi).
    """

    eta: float = 0.1
    tau: float = 0.1
    beta_1: float = 0.0
    memory: float = 1.0
    gain: float = 1.0
    ratio: float = 1.0
    corrected: float = 0.0  # Adam's beta_2, for its bias correction
    m: float = 0.0
    s: float = 0.0

    def step(self, round: int) -> None:
        update = self.update()
        self.m = self.beta_1 * self.m + (1 - self.beta_1) * update
        self.s = self.memory * self.s + self.gain * update
        eta = self.eta
        if self.corrected:
            eta *= np.sqrt(1 - self.corrected ** (round + 1)) / (1 - self.beta_1 ** (round + 1))
        self.apart += eta * (self.m + self.ratio * self.s) / self.tau


def adam(noise: float) -> Adaptive:
    ratio = 0.1 / np.sqrt(1 - 0.9**2 / 0.99) / np.sqrt(0.01)
    return Adaptive(noise, beta_1=0.9, memory=np.sqrt(0.99), gain=0.1, ratio=ratio, corrected=0.99)


def yogi(noise: float) -> Adaptive:
    # Yogi's s^2 holds each old update only by itself, not their sum: C is a plain geometric sum.
    ratio = 0.1 / (1 - 0.9 / np.sqrt(0.99)) / np.sqrt(0.01)
    root = np.sqrt(0.99)
    return Adaptive(noise, beta_1=0.9, memory=1 / root, gain=0.1 / root, ratio=ratio)


@dataclass
class Case:
    make: Callable[[], FedAvg]
    bound: Callable[[float], Bound]
    moved: float = field(default=0.05)


EVERYONE: dict[str, Any] = {"min_train_nodes": DEVICES, "min_available_nodes": DEVICES}
CASES = {
    "FedAvg": Case(lambda: FedAvg(**EVERYONE), Bound),
    "FedProx": Case(
        lambda: FedProx(**EVERYONE, proximal_mu=0.1), lambda noise: Bound(noise, mu=0.1)
    ),
    "FedAvgM": Case(
        lambda: FedAvgM(**EVERYONE, server_learning_rate=0.5, server_momentum=0.9), Momentum
    ),
    "FedAdam": Case(lambda: FedAdam(**EVERYONE, tau=0.1, beta_2=0.99), adam),
    "FedYogi": Case(lambda: FedYogi(**EVERYONE, eta=0.1, tau=0.1, beta_1=0.9, beta_2=0.99), yogi),
    "FedAdagrad": Case(lambda: FedAdagrad(**EVERYONE, eta=0.1, tau=0.1), Adaptive),
}


def test_every_strategy_that_is_let_in_is_tested_here() -> None:
    assert {kind.__name__ for kind in MEAN_ONLY} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_plain_and_secure_go_the_same_way(name: str) -> None:
    case = CASES[name]
    in_the_clear, plain_models = run(case.make(), plain)
    result, secure_models = run(Secure(case.make(), Pairwise(precision=BITS)), secure)
    bound = case.bound(quantum(BITS) * np.sqrt(COORDINATES))
    for round in range(1, ROUNDS + 1):
        bound.step(round)
        gap = parameters(secure_models[round]) - parameters(plain_models[round])
        assert np.linalg.norm(gap) <= bound.apart, f"round {round}"
    # The bound must mean something: the model moved, and by far more than the bound allows.
    moved = np.linalg.norm(parameters(plain_models[-1]) - parameters(plain_models[0]))
    assert moved > case.moved
    assert bound.apart < 1e-5 * moved
    # Metrics too; the losses are 1 + partition, the weights unequal.
    want = np.average(1.0 + np.arange(DEVICES), weights=WEIGHTS)
    for round in range(1, ROUNDS + 1):
        ours, theirs = result.train_metrics_clientapp, in_the_clear.train_metrics_clientapp
        assert ours[round]["loss"] == pytest.approx(want, rel=1e-9)
        assert theirs[round]["loss"] == pytest.approx(want, rel=1e-9)
        accuracy = result.evaluate_metrics_clientapp[round]["accuracy"]
        assert accuracy == pytest.approx(
            in_the_clear.evaluate_metrics_clientapp[round]["accuracy"], rel=1e-9
        )


def test_by_default_the_same_law_holds() -> None:
    _, plain_models = run(CASES["FedAvg"].make(), plain)
    _, secure_models = run(Secure(CASES["FedAvg"].make()), secure)
    bound = Bound(quantum(Pairwise().precision) * np.sqrt(COORDINATES))
    for round in range(1, ROUNDS + 1):
        bound.step(round)
        gap = parameters(secure_models[round]) - parameters(plain_models[round])
        assert 0 < np.linalg.norm(gap) <= bound.apart


@pytest.mark.parametrize("name", CASES)
def test_the_model_keeps_its_shapes_and_dtypes(name: str) -> None:
    """Flower's averages turn counters into fractions and float32 into float64; devices and their
    modules go on with what they know."""
    before = linear.initial(np.float32)
    with InProcessGrid(secure, devices=DEVICES) as grid, identity(grid.run.run_id):
        result = Secure(CASES[name].make(), Pairwise(precision=BITS)).start(grid, before, 3)
    assert len(result.train_metrics_clientapp) == 3, "a round was not opened"
    after = linear.arrays_of(result.arrays)
    assert list(after) == list(before)
    for key, array in linear.arrays_of(before).items():
        assert (after[key].dtype, after[key].shape) == (array.dtype, array.shape)
    assert after["b"].shape == ()
    if name in {"FedAvg", "FedProx"}:
        np.testing.assert_array_equal(after["seen"], [3, 3])  # every device counts one a round


# Who is let in


class PicksItsOwnNodes(FedAdam):
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        config["rate"] = 0.5
        return super().configure_train(server_round, arrays, config, grid)


class AggregatesByItself(FedAvg):
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        return super().aggregate_train(server_round, list(replies)[:1])


class DoesSoInTheSecondGeneration(AggregatesByItself):
    """Nothing of its own, and still not what MEAN_ONLY does."""


@pytest.mark.parametrize(
    "strategy",
    [
        Krum(num_malicious_nodes=1),
        MultiKrum(num_malicious_nodes=1, num_nodes_to_select=2),
        Bulyan(num_malicious_nodes=1),
        FedMedian(),
        FedTrimmedAvg(),
        QFedAvg(client_learning_rate=0.1),
        FedXgbBagging(),
        FedXgbCyclic(),
        AggregatesByItself(),
        DoesSoInTheSecondGeneration(),
        DifferentialPrivacyServerSideFixedClipping(FedAvg(), 1.0, 1.0, 3),
    ],
    ids=lambda strategy: type(strategy).__name__,
)
def test_a_strategy_that_looks_at_single_updates_is_refused(strategy: Any) -> None:
    name = type(strategy).__name__
    with pytest.raises(ParameterError, match=rf"{name} must look at single updates.*use one of"):
        Secure(strategy)


def test_a_subclass_that_only_configures_is_let_in() -> None:
    with InProcessGrid(secure, devices=DEVICES) as grid, identity(grid.run.run_id):
        result = Secure(PicksItsOwnNodes(**EVERYONE)).start(grid, linear.initial(), 1)
    assert result.train_metrics_clientapp


def test_it_is_a_flower_strategy_around_another() -> None:
    inner = FedAvg(weighted_by_key="examples")
    strategy = Secure(inner)
    assert isinstance(strategy, Strategy)
    strategy.summary()
    assert strategy.aggregate_train(1, []) == (None, None)
    assert strategy.aggregate_evaluate(1, []) is None


def test_another_weight_key_is_the_devices_too() -> None:
    """The strategy's weight key goes to the devices with the session, bound to it."""

    def app() -> ClientApp:
        def reply(message: Message, context: Any) -> Any:
            content = linear.train_reply(message, context)
            metrics = content.metric_records["metrics"]
            metrics["examples"] = metrics.pop(linear.WEIGHT)
            return content

        secure_app = SecureClientApp(device_of=simulated_device)
        return linear.register(secure_app, reply)

    strategy = FedAvg(**EVERYONE, weighted_by_key="examples", fraction_evaluate=0.0)
    with InProcessGrid(app, devices=DEVICES) as grid, identity(grid.run.run_id):
        result = Secure(strategy).start(grid, linear.initial(), 1)
    assert result.train_metrics_clientapp[1]["loss"] == pytest.approx(
        np.average(1.0 + np.arange(DEVICES), weights=WEIGHTS), rel=1e-6
    )
