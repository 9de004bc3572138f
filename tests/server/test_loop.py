"""The round loop: goes on where it stopped, ends when it has to, tells what happens in order."""

import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, Result

from tacit.client.device import simulated_device
from tacit.crypto.errors import TooFewClients
from tacit.server.checkpoint import Checkpoint
from tacit.server.events import Event, RoundFinished, RoundStarted, RunFinished, RunStarted
from tacit.server.flower import identity
from tacit.server.loop import Plan, run_rounds
from tacit.server.plain import PlainGrid
from tacit.server.wrapped import WrappedGrid
from tacit.simulations.engine.grid import InProcessGrid
from tacit.strategies.secure import Secure
from tests.runtime import linear

DEVICES = 6
SOME: dict[str, Any] = {"fraction_train": 0.5, "fraction_evaluate": 0.5}
STRATEGIES: dict[str, Callable[[], FedAvg]] = {
    "FedAvg": lambda: FedAvg(**SOME),
    "FedAvgM": lambda: FedAvgM(**SOME, server_learning_rate=0.7, server_momentum=0.9),
    "FedAdam": lambda: FedAdam(**SOME, tau=0.01),
}


def secure() -> ClientApp:
    return linear.secure_app(device_of=simulated_device)


def plain() -> ClientApp:
    return linear.register(ClientApp())


def run(
    strategy: FedAvg,
    plan: Plan,
    *,
    protected: bool = False,
    wrap: Callable[[Grid], Grid] = lambda grid: grid,
    devices: int = DEVICES,
    **more: Any,
) -> Result:
    app = secure if protected else plain
    with InProcessGrid(app, devices=devices) as inner, identity(inner.run.run_id):
        wrapped = wrap(inner)
        grid = Secure(strategy).grid(wrapped) if protected else PlainGrid(wrapped)
        return run_rounds(grid, strategy, linear.initial(), plan, **more)


def bits(arrays: ArrayRecord) -> dict[str, bytes]:
    return {name: array.data for name, array in arrays.items()}


# Checkpoint and resume


@pytest.mark.parametrize("protected", [False, True], ids=["plain", "secure"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_six_rounds_at_once_are_three_and_three(name: str, protected: bool, tmp_path: Path) -> None:
    """Bit for bit: model, the strategy's momentum, and who is sampled in every round."""
    path = tmp_path / "state.npz"
    whole = run(STRATEGIES[name](), Plan(6, seed=5), protected=protected)
    run(STRATEGIES[name](), Plan(3, seed=5), protected=protected, keep=lambda c: c.save(path))
    random.seed(99)  # a process of its own, with a random state of its own
    strategy = STRATEGIES[name]()
    resumed = run(strategy, Plan(6, seed=5), protected=protected, resume=Checkpoint.load(path))
    assert bits(resumed.arrays) == bits(whole.arrays)
    assert sorted(resumed.train_metrics_clientapp) == [4, 5, 6]
    for number in (4, 5, 6):
        ours, theirs = resumed.train_metrics_clientapp, whole.train_metrics_clientapp
        assert dict(ours[number]) == dict(theirs[number])


def test_without_its_memory_a_run_would_not_come_out_the_same() -> None:
    """The test above can fail: momentum and sampling matter here."""
    whole = run(STRATEGIES["FedAvgM"](), Plan(6, seed=5))
    kept: list[Checkpoint] = []
    run(STRATEGIES["FedAvgM"](), Plan(3, seed=5), keep=kept.append)
    forgetful = Checkpoint(3, kept[-1].arrays)
    resumed = run(STRATEGIES["FedAvgM"](), Plan(6, seed=5), resume=forgetful)
    assert bits(resumed.arrays) != bits(whole.arrays)
    resumed = run(STRATEGIES["FedAvgM"](), Plan(6, seed=6), resume=kept[-1])
    assert bits(resumed.arrays) != bits(whole.arrays)


def test_every_kept_checkpoint_can_be_gone_on_from() -> None:
    """Those in memory as well: a later round changes nothing in an earlier checkpoint."""
    kept: list[Checkpoint] = []
    whole = run(STRATEGIES["FedAdam"](), Plan(4, seed=5), keep=kept.append)
    assert [checkpoint.round for checkpoint in kept] == [1, 2, 3, 4]
    for checkpoint in kept:
        resumed = run(STRATEGIES["FedAdam"](), Plan(4, seed=5), resume=checkpoint)
        assert bits(resumed.arrays) == bits(whole.arrays)


def test_a_finished_run_has_nothing_left_to_do() -> None:
    kept: list[Checkpoint] = []
    events: list[Event] = []
    whole = run(FedAvg(**SOME), Plan(2, seed=5), keep=kept.append)
    again = run(FedAvg(**SOME), Plan(2), resume=kept[-1], on_event=events.append)
    assert bits(again.arrays) == bits(whole.arrays)
    assert [type(event) for event in events] == [RunStarted, RunFinished]


@pytest.mark.parametrize("where", ["training", "evaluation", "keeping"])
def test_ctrl_c_in_a_round_leaves_the_checkpoint_before_it(where: str) -> None:
    kept: list[Checkpoint] = []
    strategy = STRATEGIES["FedAvgM"]()
    whole = run(STRATEGIES["FedAvgM"](), Plan(4, seed=5))

    class Interrupted(WrappedGrid):
        def send_and_receive(
            self, messages: Iterable[Message], *, timeout: float | None = None
        ) -> Iterable[Message]:
            asked = list(messages)
            config = asked[0].content.config_records["config"]
            if where == "training" and config["server-round"] == 3:
                raise KeyboardInterrupt
            return self.inner.send_and_receive(asked, timeout=timeout)

    def evaluate(number: int, arrays: ArrayRecord) -> None:
        if where == "evaluation" and number == 3:
            raise KeyboardInterrupt

    def keep(checkpoint: Checkpoint) -> None:
        if where == "keeping" and checkpoint.round == 3:
            raise KeyboardInterrupt
        kept.append(checkpoint)

    plan = Plan(4, seed=5)
    with pytest.raises(KeyboardInterrupt):
        run(strategy, plan, wrap=Interrupted, evaluate_fn=evaluate, keep=keep)
    assert [checkpoint.round for checkpoint in kept] == [1, 2]
    resumed = run(STRATEGIES["FedAvgM"](), plan, resume=kept[-1])
    assert bits(resumed.arrays) == bits(whole.arrays)


# Waiting, stopping


@pytest.mark.parametrize(
    ("strategy", "plan"),
    [
        (FedAvg(), Plan(1, nodes=5, node_wait=0.05)),
        # Flower would wait for these for ever.
        (FedAvg(min_available_nodes=5), Plan(1, node_wait=0.05)),
        (FedAvg(min_train_nodes=5), Plan(1, node_wait=0.05)),
        (FedAvg(min_evaluate_nodes=5), Plan(1, node_wait=0.05)),
    ],
)
def test_a_wait_for_nodes_ends(strategy: FedAvg, plan: Plan) -> None:
    events: list[Event] = []
    began = time.monotonic()
    with pytest.raises(TooFewClients, match=r"3 of 5 devices are online after 0\.05 s: start"):
        run(strategy, plan, devices=3, on_event=events.append)
    assert time.monotonic() - began < 5
    assert events == []


def test_a_run_begins_with_those_that_are_there_if_they_are_enough() -> None:
    plan = Plan(1, nodes=5, node_wait=0.05, least=3)
    assert run(FedAvg(), plan, devices=3).train_metrics_clientapp
    with pytest.raises(TooFewClients, match="2 of 5 devices are online"):
        run(FedAvg(), plan, devices=2)
    with pytest.raises(TooFewClients, match="3 of 5 devices are online"):
        run(FedAvg(min_available_nodes=4), plan, devices=3)


class Leaving(WrappedGrid):
    """From the third question for the nodes on, only two of them are online."""

    asked = 0

    def get_node_ids(self) -> Iterable[int]:
        self.asked += 1
        nodes = list(self.inner.get_node_ids())
        return nodes if self.asked < 8 else nodes[:2]


def test_a_wait_in_the_middle_of_a_run_ends_too() -> None:
    kept: list[Checkpoint] = []
    with pytest.raises(TooFewClients, match="2 of 4 devices are online"):
        run(
            FedAvg(min_available_nodes=4, min_train_nodes=4),
            Plan(50, node_wait=0.05),
            wrap=Leaving,
            devices=4,
            keep=kept.append,
        )
    assert kept, "what was done before is kept"


def test_nodes_that_come_in_time_are_waited_for() -> None:
    class Coming(WrappedGrid):
        asked = 0

        def get_node_ids(self) -> Iterable[int]:
            self.asked += 1
            return list(self.inner.get_node_ids())[: self.asked]

    result = run(FedAvg(), Plan(1, nodes=3, node_wait=10), wrap=Coming, devices=3)
    assert result.train_metrics_clientapp


def test_early_stop() -> None:
    events: list[Event] = []
    kept: list[Checkpoint] = []
    result = run(
        FedAvg(**SOME),
        Plan(10),
        stop=lambda finished: finished.round == 2,
        on_event=events.append,
        keep=kept.append,
    )
    assert sorted(result.train_metrics_clientapp) == [1, 2]
    assert [checkpoint.round for checkpoint in kept] == [1, 2]
    assert isinstance(events[-1], RunFinished)


# What is told


def test_events_come_in_order_and_after_what_they_tell_of() -> None:
    log: list[Any] = []

    def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord:
        log.append(("evaluate", number))
        return MetricRecord({"score": 0.5 + number, "list": [1.0]})

    run(
        FedAvg(**SOME),
        Plan(2),
        on_event=log.append,
        keep=lambda checkpoint: log.append(("keep", checkpoint.round)),
        evaluate_fn=evaluate,
    )
    kinds = [entry if isinstance(entry, tuple) else type(entry).__name__ for entry in log]
    assert kinds == [
        "RunStarted",
        ("evaluate", 0),
        "RoundStarted",
        ("evaluate", 1),
        ("keep", 1),  # a round counts as finished when it cannot be lost any more
        "RoundFinished",
        "RoundStarted",
        ("evaluate", 2),
        ("keep", 2),
        "RoundFinished",
        "RunFinished",
    ]
    finished = [entry for entry in log if isinstance(entry, RoundFinished)][-1]
    assert (finished.round, finished.rounds) == (2, 2)
    assert finished.server == {"score": 2.5}
    assert set(finished.train) == {"loss"}
    assert set(finished.evaluate) == {"accuracy"}
    assert finished.seconds >= 0


def test_a_resumed_run_says_where_it_goes_on() -> None:
    kept: list[Checkpoint] = []
    events: list[Event] = []
    evaluated: list[int] = []

    def evaluate(number: int, arrays: ArrayRecord) -> None:
        evaluated.append(number)

    run(FedAvg(**SOME), Plan(2), keep=kept.append)
    plan = Plan(3)
    run(FedAvg(**SOME), plan, resume=kept[-1], on_event=events.append, evaluate_fn=evaluate)
    assert events[0] == RunStarted(3, resumed_from=2)
    assert events[1] == RoundStarted(3, 3)
    assert evaluated == [3]  # the initial model was scored by the run that started with it


def test_a_seed_repeats_who_is_sampled() -> None:
    def sampled(seed: int | None) -> list[tuple[int, ...]]:
        rounds: list[tuple[int, ...]] = []

        class Spying(WrappedGrid):
            def send_and_receive(
                self, messages: Iterable[Message], *, timeout: float | None = None
            ) -> Iterable[Message]:
                asked = list(messages)
                rounds.append(tuple(m.metadata.dst_node_id for m in asked))
                return self.inner.send_and_receive(asked, timeout=timeout)

        run(FedAvg(**SOME), Plan(4, seed=seed), wrap=Spying)
        return rounds

    once = sampled(1)
    assert sampled(1) == once != sampled(2)
    assert len(set(once)) > 1
    assert sampled(None) != sampled(None)


def test_the_callers_configuration_is_not_written_into() -> None:
    """Strategies put the round into the configuration they are given."""
    config = ConfigRecord({"rate": 0.5})
    run(FedAvg(**SOME), Plan(2), train_config=config, evaluate_config=config)
    assert dict(config) == {"rate": 0.5}


def test_a_round_without_replies_leaves_the_model_as_it_was() -> None:
    class Deaf(WrappedGrid):
        def send_and_receive(
            self, messages: Iterable[Message], *, timeout: float | None = None
        ) -> Iterable[Message]:
            asked = list(messages)
            if asked[0].content.config_records["config"]["server-round"] == 2:
                return []
            return self.inner.send_and_receive(asked, timeout=timeout)

    for name, make in STRATEGIES.items():
        models: list[dict[str, bytes]] = []

        def keep(number: int, arrays: ArrayRecord, into: list[dict[str, bytes]] = models) -> None:
            into.append(bits(arrays))

        run(make(), Plan(3), wrap=Deaf, evaluate_fn=keep)
        assert models[1] == models[2], name
        assert models[2] != models[3], name


def test_counters_stay_counters() -> None:
    result = run(FedAvg(), Plan(3))
    seen = result.arrays["seen"].numpy()
    assert seen.dtype == np.int64
    np.testing.assert_array_equal(seen, [3, 3])
