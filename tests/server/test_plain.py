"""Averaging in the clear: one bad device costs its own reply and nothing else."""

import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.exception import InconsistentMessageReplies
from flwr.serverapp.strategy import FedAvg, FedMedian, Krum

from tacit.client.app import SecureClientApp
from tacit.client.device import simulated_device
from tacit.crypto.errors import ParameterError
from tacit.server.events import Event, LeftOut, SumOpened
from tacit.server.filter import ReplyFilter
from tacit.server.flower import SERVER_NODE_ID, identity
from tacit.server.inbox import Seen
from tacit.server.loop import Plan, run_rounds
from tacit.server.plain import PlainGrid
from tacit.server.wrapped import WrappedGrid
from tacit.simulations.engine.faults import Corrupt, Corruption, Drop, Fault
from tacit.simulations.engine.grid import InProcessGrid
from tacit.strategies.secure import Secure
from tests.runtime import linear

DEVICES, BAD = 5, 2
EVERYONE: dict[str, Any] = {"min_train_nodes": DEVICES, "min_available_nodes": DEVICES}


def spoil(
    arrays: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    change: Callable[[RecordDict], RecordDict] = lambda content: content,
    error: Exception | None = None,
) -> linear.TrainReply:
    """An honest device's training, but for partition BAD's."""

    def reply(message: Message, context: Context) -> RecordDict:
        content = linear.train_reply(message, context)
        if context.node_config["partition-id"] != BAD:
            return content
        if error is not None:
            raise error
        for name, value in (arrays or {}).items():
            content.array_records["arrays"][name] = Array(np.asarray(value))
        for name, value in (metrics or {}).items():
            content.metric_records["metrics"][name] = value
        return change(content)

    return reply


def renamed(content: RecordDict) -> RecordDict:
    record = content.array_records["arrays"]
    record["other"] = record.pop("w")
    return content


def other_record(content: RecordDict) -> RecordDict:
    content["weights"] = content.pop("arrays")
    return content


def without_weight(content: RecordDict) -> RecordDict:
    del content.metric_records["metrics"][linear.WEIGHT]
    return content


@dataclass
class Wrong:
    """What partition BAD does, why plain averaging leaves it out, what Flower alone makes of it."""

    reply: linear.TrainReply
    reason: str
    alone: str  # "aborts", "loses the model", or "goes on" without it


TABLE = {
    "NaN": Wrong(spoil({"w": np.full(30, np.nan)}), "not finite", "loses the model"),
    "infinity": Wrong(spoil({"b": np.array(np.inf)}), "not finite", "loses the model"),
    "wrong shape": Wrong(spoil({"w": np.zeros(29)}), "shape", "aborts"),
    # numpy broadcasts this: no error, and a model of zeros and noise.
    "a shape that broadcasts": Wrong(spoil({"w": np.full(1, 9e9)}), "shape", "loses the model"),
    "other key": Wrong(spoil(change=renamed), "'w' is missing", "aborts"),
    "other record": Wrong(spoil(change=other_record), r"it holds records \['metrics'", "aborts"),
    "huge weight": Wrong(
        spoil({"w": np.full(30, -999.0)}, {linear.WEIGHT: 10**12}),
        "expected 0 < weight",
        "loses the model",
    ),
    "weight 0": Wrong(spoil(metrics={linear.WEIGHT: 0}), "num-examples is 0", "goes on"),
    "negative weight": Wrong(
        spoil({"w": np.full(30, 9e9)}, {linear.WEIGHT: -5}), "num-examples is -5", "loses the model"
    ),
    "no weight": Wrong(spoil(change=without_weight), "num-examples is None", "aborts"),
    "a list": Wrong(spoil(metrics={"loss": [1.0, 2.0]}), "others sent", "aborts"),
    "another metric": Wrong(spoil(metrics={"extra": 1.0}), "others sent", "aborts"),
    "metric NaN": Wrong(spoil(metrics={"loss": float("nan")}), "'loss' is not finite", "goes on"),
    "an exception": Wrong(spoil(error=ValueError("no luck")), "no luck", "goes on"),
}


def loader(reply: linear.TrainReply, secure: bool = False) -> Callable[[], ClientApp]:
    def load() -> ClientApp:
        app = SecureClientApp(device_of=simulated_device) if secure else ClientApp()
        return linear.register(app, reply)

    return load


def others_mean() -> np.ndarray:
    """What one round makes of the initial model when everyone but BAD counts."""
    model = linear.arrays_of(linear.initial())
    counted = [p for p in range(DEVICES) if p != BAD]
    trained = [linear.fit(model, p)["w"] for p in counted]
    mean: np.ndarray = np.average(trained, axis=0, weights=[20 + 7 * p for p in counted])
    return mean


def one_round(
    reply: linear.TrainReply, *, secure: bool, faults: tuple[Fault, ...] = ()
) -> tuple[np.ndarray, list[Event]]:
    events: list[Event] = []
    strategy = FedAvg(**EVERYONE, fraction_evaluate=0.0)
    app = loader(reply, secure)
    with InProcessGrid(app, devices=DEVICES, faults=faults) as inner, identity(inner.run.run_id):
        grid = (
            Secure(strategy).grid(inner, on_event=events.append)
            if secure
            else PlainGrid(inner, on_event=events.append)
        )
        # In this seed's order BAD answers in the middle. Under a secure sum the first report names
        # the metrics.
        result = run_rounds(grid, strategy, linear.initial(), Plan(1, seed=1))
    return result.arrays["w"].numpy(), events


@pytest.mark.parametrize("name", TABLE)
def test_in_the_clear_a_bad_reply_is_left_out_with_the_reason(name: str) -> None:
    model, events = one_round(TABLE[name].reply, secure=False)
    # Sums of float64: a handful of roundings.
    np.testing.assert_allclose(model, others_mean(), rtol=1e-12)
    (left_out,) = [event for event in events if isinstance(event, LeftOut)]
    assert (left_out.device, left_out.stage) == (1000 + BAD, "filter")
    assert left_out.round == 1
    assert re.search(TABLE[name].reason, left_out.reason), left_out.reason


UNSEEN = {
    # Under a secure sum the server sees no reply, so a device's own encoder stands guard. These
    # are fine in its eyes: names may be what they like, and all the same in a cohort.
    "other record",
}


@pytest.mark.parametrize("name", [name for name in TABLE if name not in UNSEEN])
def test_in_a_secure_sum_the_device_itself_refuses_and_counts_as_dropped(name: str) -> None:
    model, events = one_round(TABLE[name].reply, secure=True)
    grid_step = DEVICES / 2.0**21 * 10_000 / (sum(20 + 7 * p for p in range(DEVICES)) - 34)
    np.testing.assert_allclose(model, others_mean(), rtol=0, atol=grid_step)
    (left_out,) = [event for event in events if isinstance(event, LeftOut)]
    assert (left_out.device, left_out.stage) == (BAD + 1, "report")
    (opened,) = [event for event in events if isinstance(event, SumOpened)]
    assert (opened.survivors, opened.cohort) == (DEVICES - 1, DEVICES)


@pytest.mark.parametrize("name", TABLE)
def test_flower_alone_aborts_or_loses_the_model(name: str) -> None:
    """Why the filter is there. If Flower learns to cope, this says so."""
    wrong = TABLE[name]
    strategy = FedAvg(**EVERYONE, fraction_evaluate=0.0)
    random.seed("tacit 1 1")  # the same order as above: what Flower does depends on who is first
    with InProcessGrid(loader(wrong.reply), devices=DEVICES) as grid, identity(grid.run.run_id):
        try:
            model = linear.arrays_of(strategy.start(grid, linear.initial(), 1).arrays)
        except (InconsistentMessageReplies, TypeError, ValueError):
            assert wrong.alone == "aborts"
            return
    found = np.append(model["w"], model["b"])
    lost = not np.isfinite(found).all() or np.abs(found[:-1] - others_mean()).max() > 0.5
    assert lost == (wrong.alone == "loses the model")


@pytest.mark.parametrize("how", list(Corruption))
def test_replies_spoilt_on_the_way(how: Corruption) -> None:
    faults = (Corrupt("report", {BAD}, how=how),)
    model, events = one_round(linear.train_reply, secure=False, faults=faults)
    np.testing.assert_allclose(model, others_mean(), rtol=1e-12)
    assert [e.device for e in events if isinstance(e, LeftOut)] == [1000 + BAD]


def test_the_first_to_answer_does_not_decide_what_is_usual() -> None:
    """One device in front with a metric of its own must not shut out all the others."""

    def reply(message: Message, context: Context) -> RecordDict:
        content = linear.train_reply(message, context)
        if context.node_config["partition-id"] == first:
            content.metric_records["metrics"]["mine"] = 1.0
        return content

    random.seed("tacit 1 1")  # as the loop does it: who is asked first?
    first = random.sample(range(DEVICES), DEVICES)[0]
    assert first != BAD
    _, events = one_round(reply, secure=False)
    assert [e.device for e in events if isinstance(e, LeftOut)] == [1000 + first]


def test_silent_devices_are_named() -> None:
    faults = (Drop("report", {0, BAD}),)
    _, events = one_round(linear.train_reply, secure=False, faults=faults)
    assert {(e.device, e.reason) for e in events if isinstance(e, LeftOut)} == {
        (1000, "no answer"),
        (1000 + BAD, "no answer"),
    }


class FromSuperLink(WrappedGrid):
    """Puts an error in the place of one node's reply, with the source that SuperLink gives it."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        asked = list(messages)
        replies = {r.metadata.src_node_id: r for r in self.inner.send_and_receive(asked)}
        for message in asked:
            node = message.metadata.dst_node_id
            if node == 1000 + BAD:
                error = Message(Error(8, "crashed\n\x1b[2J"), reply_to=message)
                error.metadata.__dict__["_src_node_id"] = SERVER_NODE_ID
                replies[node] = error
        return list(replies.values())


def test_an_error_of_superlinks_is_put_down_to_the_node_it_is_about() -> None:
    events: list[Event] = []
    strategy = FedAvg(**EVERYONE, fraction_evaluate=0.0)
    with InProcessGrid(loader(linear.train_reply), devices=DEVICES) as inner, identity(1):
        grid = PlainGrid(FromSuperLink(inner), on_event=events.append)
        run_rounds(grid, strategy, linear.initial(), Plan(1))
    (left_out,) = [event for event in events if isinstance(event, LeftOut)]
    assert left_out.device == 1000 + BAD
    assert left_out.reason.startswith("crashed")
    assert left_out.reason.isprintable()


def test_the_tap_sees_every_device() -> None:
    seen: list[Seen] = []
    with InProcessGrid(loader(linear.train_reply), devices=DEVICES) as inner, identity(1):
        grid = PlainGrid(inner, tap=seen.append)
        run_rounds(grid, FedAvg(**EVERYONE), linear.initial(), Plan(2))
    assert len(seen) == 2 * DEVICES
    for entry in seen[:DEVICES]:
        partition = entry.members[0] - 1000
        want = linear.fit(linear.arrays_of(linear.initial()), partition)["w"]
        np.testing.assert_array_equal(entry.update["w"], want)
        assert (entry.clients, entry.protocol, entry.weight) == (1, "plain", 20 + 7 * partition)


@pytest.mark.parametrize("strategy", [FedMedian, Krum])
def test_strategies_that_look_at_single_updates_work_in_the_clear(strategy: type[FedAvg]) -> None:
    faults = (Corrupt("report", {BAD}, how=Corruption.WRONG_SHAPE),)
    app = loader(linear.train_reply)
    with InProcessGrid(app, devices=DEVICES, faults=faults) as inner, identity(1):
        result = run_rounds(PlainGrid(inner), strategy(**EVERYONE), linear.initial(), Plan(2))
    assert np.isfinite(result.arrays["w"].numpy()).all()
    assert len(result.train_metrics_clientapp) == 2


def test_queries_pass_through() -> None:
    def load() -> ClientApp:
        app = ClientApp()

        @app.query()
        def query(message: Message, context: Context) -> Message:
            return Message(RecordDict(), reply_to=message)

        return app

    with InProcessGrid(load, devices=3) as inner, identity(1):
        grid = PlainGrid(inner)
        asked = [Message(RecordDict(), node, "query") for node in grid.get_node_ids()]
        assert len(list(grid.send_and_receive(asked))) == 3
        assert list(grid.send_and_receive([])) == []


def test_a_cap_on_the_weight_is_the_owners_choice() -> None:
    events: list[Event] = []
    with InProcessGrid(loader(linear.train_reply), devices=DEVICES) as inner, identity(1):
        grid = PlainGrid(inner, ReplyFilter(max_weight=40), on_event=events.append)
        run_rounds(grid, FedAvg(**EVERYONE, fraction_evaluate=0.0), linear.initial(), Plan(1))
    # Weights are 20, 27, 34, 41, 48.
    assert {e.device for e in events if isinstance(e, LeftOut)} == {1003, 1004}


def test_different_messages_for_different_devices_are_an_error_of_the_strategy() -> None:
    with InProcessGrid(loader(linear.train_reply), devices=3) as inner, identity(1):
        contents = [RecordDict({"arrays": ArrayRecord({})}) for _ in range(2)]
        asked = [Message(c, 1000 + i, "train") for i, c in enumerate(contents)]
        with pytest.raises(ParameterError, match="different content to different devices"):
            PlainGrid(inner).send_and_receive(asked)
