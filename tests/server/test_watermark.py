"""A mark in every model: above any strategy, over any sum, across an interruption, and for free."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedMedian, FedYogi, Krum, Strategy

from tacit.client.app import SecureClientApp
from tacit.client.device import simulated_device
from tacit.crypto.errors import ParameterError
from tacit.server.checkpoint import Checkpoint
from tacit.server.flower import identity
from tacit.server.loop import Plan, run_rounds
from tacit.server.pairwise import Pairwise
from tacit.server.private import Central, Distributed, Privacy
from tacit.simulations.engine.faults import parse_fault
from tacit.simulations.engine.grid import InProcessGrid
from tacit.strategies.robust import Robust
from tacit.strategies.secure import Secure
from tacit.strategies.watermark import Watermarked
from tests.runtime import linear

DEVICES, ROUNDS = 4, 4
EVERYONE: dict[str, Any] = {
    "min_train_nodes": DEVICES,
    "min_available_nodes": DEVICES,
    "fraction_evaluate": 0.0,
}
MARK = 0.25  # what the bias is set to: a mark that anybody can see
Arrays = dict[str, np.ndarray]


def embed(model: Arrays) -> Arrays:
    return {**model, "b": np.full_like(model["b"], MARK)}


def secure() -> ClientApp:
    return linear.secure_app(device_of=simulated_device)


def plain() -> ClientApp:
    return linear.register(ClientApp())


def models(
    strategy: Strategy, app: Callable[[], ClientApp] = secure, faults: tuple[str, ...] = ()
) -> list[Arrays]:
    """The model before the first round, and after each."""
    kept: list[Arrays] = []

    def keep(round: int, arrays: ArrayRecord) -> MetricRecord | None:
        kept.append(linear.arrays_of(arrays))
        return None

    made = InProcessGrid(app, devices=DEVICES, faults=[parse_fault(each) for each in faults])
    with made as grid, identity(grid.run.run_id):
        strategy.start(grid, linear.initial(np.float32), ROUNDS, evaluate_fn=keep)
    return kept


@pytest.mark.parametrize("over", [plain, secure])
def test_every_model_has_the_mark(over: Callable[[], ClientApp]) -> None:
    inner: Any = FedAvg(**EVERYONE)
    found = models(Watermarked(Secure(inner) if over is secure else inner, embed), over)
    assert [float(model["b"]) for model in found] == [0.0] + ROUNDS * [MARK]
    for model in found:
        assert model["w"].dtype == model["b"].dtype == np.float32
        assert model["b"].shape == ()
        assert model["seen"].dtype == np.int64
    assert np.linalg.norm(found[-1]["w"] - found[0]["w"]) > 0.1


def test_a_median_over_groups_has_the_mark_too() -> None:
    found = models(Watermarked(Robust(FedMedian(**EVERYONE), groups=DEVICES // 3), embed))
    assert [float(model["b"]) for model in found] == [0.0] + ROUNDS * [MARK]


def test_the_mark_is_put_into_what_devices_will_get() -> None:
    """Strategies average in float64, and make fractions of counters."""
    seen: list[Arrays] = []

    def look(model: Arrays) -> Arrays:
        seen.append(model)
        return model

    found = models(Watermarked(Secure(FedAdam(**EVERYONE)), look))
    for model, sent in zip(seen, found[1:], strict=True):
        for name in sent:
            assert model[name].dtype == sent[name].dtype
            np.testing.assert_array_equal(model[name], sent[name])


def test_a_mark_of_nothing_changes_nothing() -> None:
    """The wrapper alone, around each kind of memory: models are those without it."""
    for make in (FedAvg, lambda **k: FedAvgM(**k, server_momentum=0.9), FedAdam, FedYogi):
        bare = models(Secure(make(**EVERYONE), Pairwise(precision=48)))
        wrapped = models(
            Watermarked(Secure(make(**EVERYONE), Pairwise(precision=48)), lambda model: model)
        )
        for one, other in zip(bare, wrapped, strict=True):
            # float32 is what devices get; FedAvgM alone remembers finer digits without a mark.
            np.testing.assert_allclose(one["w"], other["w"], atol=1e-5)


def test_momentum_goes_on_from_the_marked_model() -> None:
    """v = 0.5 v + (x - mean), x' = x - v + push, where x is the model that devices got. Were the
    strategy to go on from its own, each push would come back as a gradient."""
    moved = 0.5

    def push(model: Arrays) -> Arrays:
        return {**model, "w": model["w"] + np.float32(moved)}

    inner = FedAvgM(**EVERYONE, server_learning_rate=1.0, server_momentum=0.5)
    strategy = Watermarked(Secure(inner, Pairwise(precision=48)), push)
    found = models(strategy)
    mean = [fitted(model) for model in found[:-1]]
    velocity, model = 0.0, found[0]["w"].astype(np.float64)
    for round in range(ROUNDS):
        velocity = 0.5 * velocity + (model - mean[round])
        model = model - velocity + moved
        np.testing.assert_allclose(found[round + 1]["w"], model, atol=1e-5)


def fitted(model: Arrays) -> np.ndarray:
    """The devices' weighted mean."""
    weights = [len(linear.part(device)[0]) for device in range(DEVICES)]
    each = [linear.fit(model, device)["w"] for device in range(DEVICES)]
    return np.average(each, axis=0, weights=weights)


def test_a_round_without_a_sum_leaves_the_model_as_it_was() -> None:
    asked = []

    def count(model: Arrays) -> Arrays:
        asked.append(model)
        return embed(model)

    found = models(Watermarked(Secure(FedAvg(**EVERYONE)), count), faults=("drop report 1,2,3 @2",))
    assert len(asked) == ROUNDS - 1
    np.testing.assert_array_equal(found[2]["w"], found[1]["w"])
    assert float(found[2]["b"]) == MARK


@pytest.mark.parametrize(
    "make",
    [
        lambda: FedAvg(**EVERYONE),
        lambda: FedAvgM(**EVERYONE, server_learning_rate=0.5, server_momentum=0.9),
        lambda: FedAdam(**EVERYONE, tau=0.1),
    ],
    ids=["FedAvg", "FedAvgM", "FedAdam"],
)
def test_an_interrupted_run_ends_with_the_same_model(make: Callable[[], FedAvg]) -> None:
    def run(rounds: int, resume: Checkpoint | None = None) -> tuple[Arrays, Checkpoint]:
        kept: list[Checkpoint] = []
        # In the clear: sums are then the same in every run, to the last bit.
        with InProcessGrid(plain, devices=DEVICES) as grid, identity(grid.run.run_id):
            result = run_rounds(
                grid, Watermarked(make(), embed), linear.initial(np.float32), Plan(rounds, seed=1),
                keep=kept.append, resume=resume,
            )  # fmt: skip
        return linear.arrays_of(result.arrays), kept[-1]

    whole, _ = run(ROUNDS)
    _, half = run(ROUNDS // 2)
    resumed, _ = run(ROUNDS, half)
    assert bool(half.strategy) == (type(make()) is not FedAvg)  # the memory is in the checkpoint
    for name in whole:
        np.testing.assert_array_equal(whole[name], resumed[name])


@pytest.mark.parametrize("privacy", [Distributed(noise=1.0), Central(noise=1.0)])
def test_a_mark_costs_no_epsilon(privacy: Privacy) -> None:
    """Post-processing: the ledger is told of the same sums, with and without."""
    spent = []
    for mark in (False, True):
        strategy = Secure(FedAvg(**EVERYONE), privacy=privacy)
        found = models(Watermarked(strategy, embed) if mark else strategy)
        assert (float(found[-1]["b"]) == MARK) is mark
        assert strategy.private is not None
        statement = strategy.private.statement()
        assert statement.releases == ROUNDS
        spent.append((statement.worst, statement.delta))
    assert spent[0] == spent[1]
    assert 0 < spent[0][0] < np.inf


def test_a_strategy_with_a_memory_of_its_own_is_refused() -> None:
    class Own(FedAvg):
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            return super().aggregate_train(server_round, replies)

    for strategy in (Own(), Krum(num_malicious_nodes=1)):
        with pytest.raises(ParameterError, match="go on from one without the mark"):
            Watermarked(strategy, embed)


def test_devices_are_asked_as_without_it() -> None:
    strategy = Watermarked(Secure(FedAvg(**EVERYONE)), embed)
    strategy.summary()
    assert strategy.aggregate_evaluate(1, []) is None
    assert strategy.aggregate_train(1, []) == (None, None)


def test_the_app_of_these_tests_is_a_secure_one() -> None:
    assert isinstance(secure(), SecureClientApp)
