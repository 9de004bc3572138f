"""`SecureGrid`: exact over whoever is left, nothing below the threshold, and on it goes."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.client.app import SecureClientApp
from tacit.client.device import simulated_device
from tacit.client.policy import Policy
from tacit.crypto import labels
from tacit.crypto.errors import BrokenArithmetic, ParameterError
from tacit.crypto.identity import NO_KEM, Member, Roster, RunKey
from tacit.crypto.lattice import ring
from tacit.crypto.prg import keystream
from tacit.crypto.secagg import hiding, revealing, stages
from tacit.crypto.secagg.session import Purpose, Session, threshold_for
from tacit.crypto.simulated import simulated_identity, simulated_roster
from tacit.crypto.vector import model_digest
from tacit.crypto.wire import Reader, Writer
from tacit.server.encrypted import Encrypted
from tacit.server.events import (
    CohortCommitted,
    Event,
    KeyChanged,
    LeftOut,
    RoundFinished,
    SumFailed,
    SumOpened,
)
from tacit.server.flower import envelope, identity
from tacit.server.grid import SecureGrid
from tacit.server.inbox import Seen
from tacit.server.legs import BATCH
from tacit.server.loop import Plan, run_rounds
from tacit.server.pairwise import Pairwise, SecureSum
from tacit.server.wrapped import WrappedGrid
from tacit.simulations.engine.faults import Corrupt, Crash, Delay, Drop, Fault
from tacit.simulations.engine.grid import InProcessGrid
from tacit.strategies.secure import Secure
from tests.runtime import linear

DEVICES = 7
THRESHOLD = threshold_for(DEVICES, DEVICES // 3)  # 5: two may be lost
EVERYONE: dict[str, Any] = {"min_train_nodes": DEVICES, "min_available_nodes": DEVICES}


def load(
    reply: linear.TrainReply = linear.train_reply, policy: Policy | None = None
) -> Callable[[], ClientApp]:
    agreed = policy or Policy()
    return lambda: linear.register(SecureClientApp(agreed, device_of=simulated_device), reply)


def unchanged(message: Message, context: Context) -> RecordDict:
    """What a device without data of its own replies."""
    arrays = message.content.array_records["arrays"]
    return RecordDict({"arrays": arrays, "metrics": MetricRecord({linear.WEIGHT: 5})})


@dataclass
class Ran:
    events: list[Event] = field(default_factory=list)
    models: list[dict[str, np.ndarray]] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)

    def left_out(self, round: int = 1) -> set[tuple[str, int]]:
        """(stage, partition) of everyone left out in `round`, at enrolment (stage, node)."""
        told = (e for e in self.events if isinstance(e, LeftOut) and e.round == round)
        return {(e.stage, e.device - (e.stage != "enrol")) for e in told}

    def of(self, kind: type[Any], round: int) -> list[Any]:
        return [e for e in self.events if isinstance(e, kind) and e.round == round]


def run(
    faults: Sequence[Fault] = (),
    *,
    rounds: int = 2,
    reply: linear.TrainReply = linear.train_reply,
    protocol: SecureSum | None = None,
    policy: Policy | None = None,
    wrap: Callable[[InProcessGrid], Any] = lambda grid: grid,
    devices: int = DEVICES,
    fraction_evaluate: float = 0.0,
    seed: int = 1,
    roster: Roster | None = None,
) -> Ran:
    """Train over `devices` devices; the models are those before the first round and after each."""
    ran = Ran()
    every: dict[str, Any] = {"min_train_nodes": devices, "min_available_nodes": devices}
    strategy = FedAvg(**every, fraction_evaluate=fraction_evaluate)
    secure = Secure(strategy, protocol, roster=roster)

    def keep(number: int, arrays: Any) -> None:
        ran.models.append(linear.arrays_of(arrays))

    app = load(reply, policy)
    with InProcessGrid(app, devices=devices, faults=faults) as inner, identity(inner.run.run_id):
        grid = secure.grid(wrap(inner), on_event=ran.events.append, tap=ran.seen.append)
        plan, tell = Plan(rounds, seed=seed), ran.events.append
        run_rounds(grid, strategy, linear.initial(), plan, evaluate_fn=keep, on_event=tell)
    return ran


def on_the_grid(model: dict[str, np.ndarray], survivors: Iterable[int], round: int) -> np.ndarray:
    """The mean over `survivors` by numpy alone, rounded where a device rounds: exact, not close.

    A coordinate travels as update * scale * w/W steps, rounded with a dither of 16 bits that each
    device derives from its identity. With 25 bits for a value below 8 in size and a ring that grows
    with the cohort, scale is 2**21; opening divides by scale * (sum of w)/W.
    """
    weights = {p: 20 + 7 * p for p in survivors}
    scale = 2.0**21
    assert next(iter(model)) == "w"
    total = np.zeros(30, np.int64)
    for partition, weight in weights.items():
        update = linear.fit(model, partition)["w"] - model["w"]
        steps = np.rint(update * (scale * (weight / 10_000)) * 2**16).astype(np.int64)
        total += (steps + dither(model, partition, round)[:30]) >> 16
    mean: np.ndarray = model["w"] + total / (scale * (sum(weights.values()) / 10_000))
    return mean


def dither(model: dict[str, np.ndarray], partition: int, round: int) -> np.ndarray:
    """What device partition + 1 rounds a training update of this model with."""
    this_sum = round.to_bytes(4, "little") + bytes([Purpose.TRAIN])
    identity = simulated_identity(partition + 1)
    key = identity.derive(labels.ROUNDING, model_digest(model), this_sum)
    size = sum(array.size for array in model.values())
    return np.frombuffer(keystream(key, 2 * size), "<u2").astype(np.int64)


def opened(ran: Ran, survivors: set[int], round: int = 1, cohort: int = DEVICES) -> None:
    """`round` was opened over exactly `survivors`."""
    (event,) = ran.of(SumOpened, round)
    assert (event.survivors, event.cohort) == (len(survivors), cohort)
    before, after = ran.models[round - 1], ran.models[round]
    np.testing.assert_array_equal(after["w"], on_the_grid(before, survivors, round))
    np.testing.assert_array_equal(after["seen"], before["seen"] + 1)


def failed(ran: Ran, reason: str, round: int = 1) -> None:
    """`round` brought no sum, said why, and the model is as it was, bit for bit."""
    (event,) = ran.of(SumFailed, round)
    assert event.purpose == "train"
    assert reason in event.reason
    for name, array in ran.models[round - 1].items():
        assert array.tobytes() == ran.models[round][name].tobytes()


ALL = set(range(DEVICES))


# Drop-outs


def test_nobody_drops() -> None:
    ran = run()
    assert ran.left_out(1) == ran.left_out(2) == set()
    opened(ran, ALL, 1)
    opened(ran, ALL, 2)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("stage", ["enrol", "report", "attest", "reveal"])
def test_as_many_as_the_threshold_allows_may_drop_at_any_stage(stage: str, after: bool) -> None:
    ran = run([Drop(stage, {1, 4}, {1}, after=after)])
    # Before a device has enrolled, the server knows no more than its node.
    numbers = {1001, 1004} if stage == "enrol" else {1, 4}
    assert ran.left_out(1) == {(stage, number) for number in numbers}
    if stage == "enrol":
        opened(ran, ALL - {1, 4}, 1, cohort=DEVICES - 2)
    elif stage == "report":
        opened(ran, ALL - {1, 4}, 1)
    else:  # the contribution was in before the device fell silent
        opened(ran, ALL, 1)
    opened(ran, ALL, 2)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        ("report", "4 of 7 devices reported, at least 5 needed"),
        ("attest", "4 of 7 committee members attested, 5 needed"),
        ("reveal", "4 good shares of device 1, 5 needed"),
    ],
)
def test_one_more_and_nothing_is_opened(stage: str, reason: str, after: bool) -> None:
    ran = run([Drop(stage, {1, 4, 6}, {1}, after=after)])
    failed(ran, reason)
    opened(ran, ALL, 2)


def test_a_cohort_is_committed_to_before_any_of_it_is_asked() -> None:
    """To the session that each device is then sent, also where no sum is opened."""
    ran = Ran()
    sent: dict[str, int] = {}  # sessions, and how much was told when they were

    class Noting(WrappedGrid):
        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            asked = list(messages)
            for message in asked:
                data = message.content.config_records[stages.RECORD].get(stages.SESSION)
                if message.metadata.message_type == "train":
                    session = Session.decode(data)
                    sent.setdefault(session.id.hex(), len(ran.events))
            return self.inner.push_messages(asked)

    faults = [Drop("report", {1, 4, 6}, {1}), Drop("enrol", {5}, {1})]
    strategy = FedAvg(**EVERYONE, fraction_evaluate=0.0)
    with (
        InProcessGrid(load(), devices=DEVICES, faults=faults) as inner,
        identity(inner.run.run_id),
    ):
        grid = Secure(strategy).grid(Noting(inner), on_event=ran.events.append)
        run_rounds(grid, strategy, linear.initial(), Plan(2, seed=1))
    told = [(at, e) for at, e in enumerate(ran.events) if isinstance(e, CohortCommitted)]
    assert [(e.round, e.purpose, e.devices) for _, e in told] == [(1, "train", 6), (2, "train", 7)]
    assert {event.session: at + 1 for at, event in told} == sent
    assert (len(ran.of(SumFailed, 1)), len(ran.of(SumOpened, 2))) == (1, 1)


def test_too_few_enrol() -> None:
    """The policy of every device asks for three: what is left refuses, and the round is lost."""
    ran = run([Drop("enrol", {0, 1, 2, 3, 4}, {1})])
    failed(ran, "0 of 2 devices reported")
    opened(ran, ALL, 2)
    ran = run([Drop("enrol", {0, 1, 2, 3, 4, 5}, {1})])
    failed(ran, "a cohort of 1, at least 2 needed")
    opened(ran, ALL, 2)


def test_dropping_at_every_stage_in_one_round() -> None:
    protocol = Pairwise(corrupt=0.34, min_survivors=5)
    faults = [Drop("report", {2}, {1}), Drop("attest", {5}, {1}, after=True)]
    ran = run(faults, protocol=protocol)
    assert ran.left_out(1) == {("report", 2), ("attest", 5)}
    opened(ran, ALL - {2}, 1)


def test_a_cohort_that_nothing_protects_is_a_sum_that_fails() -> None:
    """And not the end of the run: the next cohort may be another."""
    ran = run(protocol=Pairwise(corrupt=0.6, drop=0.6), devices=33)
    failed(ran, "Lower gamma or drop", round=1)
    failed(ran, "Lower gamma or drop", round=2)


def test_nodes_that_are_no_members_do_not_make_a_cohort_too_large() -> None:
    """As many as are asked, but not more than the roster has: the rest is told so, and the sum is
    that of the others."""
    few, protocol = simulated_roster(34), Pairwise(corrupt=0.1, drop=0.2)
    agreed = Policy(corrupt=0.1)
    ran = run(protocol=protocol, policy=agreed, devices=36, rounds=1, roster=few, reply=unchanged)
    assert ran.left_out(1) == {("enrol", 1034), ("enrol", 1035)}
    assert [(e.survivors, e.cohort) for e in ran.of(SumOpened, 1)] == [(34, 34)]


def test_the_same_device_may_drop_again_and_again() -> None:
    faults = [Drop("report", {3}, {1, 2, 3}), Drop("enrol", {5}, {1, 2})]
    ran = run(faults, rounds=4)
    for round in (1, 2):
        opened(ran, ALL - {3, 5}, round, cohort=6)
    opened(ran, ALL - {3}, 3)
    opened(ran, ALL, 4)


def test_a_device_that_crashes_or_is_late_has_dropped() -> None:
    protocol = Pairwise(stage_deadline=5.0)
    ran = run([Crash("report", {0}, {1}), Delay(10.0, "attest", {6}, {1})], protocol=protocol)
    assert ran.left_out(1) == {("report", 0), ("attest", 6)}
    opened(ran, ALL - {0}, 1)
    opened(ran, ALL, 2)


STAGES = ("enrol", "report", "attest", "reveal")
FATES = st.lists(
    st.tuples(st.sampled_from([None, None, None, *STAGES]), st.booleans()),
    min_size=DEVICES,
    max_size=DEVICES,
)


@settings(max_examples=20)
@given(fates=FATES)
def test_any_drop_outs(fates: list[tuple[str | None, bool]]) -> None:
    """Each device falls silent at one stage or none, before or after it has handled the message."""
    faults = [
        Drop(stage, {device}, {1}, after=after)
        for device, (stage, after) in enumerate(fates)
        if stage is not None
    ]
    gone = {name: {d for d, (stage, _) in enumerate(fates) if stage == name} for name in STAGES}
    ran = run(faults)
    cohort = ALL - gone["enrol"]
    reported = cohort - gone["report"]
    attested = reported - gone["attest"]
    revealed = attested - gone["reveal"]
    threshold = threshold_for(len(cohort), len(cohort) // 3)
    # With two devices or fewer left to enrol, the others' policy refuses.
    if len(cohort) < 3 or len(revealed) < threshold:
        failed(ran, "")
    else:
        opened(ran, reported, 1, cohort=len(cohort))
    opened(ran, ALL, 2)  # whatever happened, the next round is whole


def test_evaluations_go_through_a_sum_of_their_own() -> None:
    faults = [Drop("evaluate", {2}, {1}), Drop("evaluate", {0, 1, 2}, {2})]
    ran = run(faults, fraction_evaluate=1.0)
    first, second = ran.of(RoundFinished, 1)[0], ran.of(RoundFinished, 2)[0]
    want, weights = [], []
    for partition in ALL - {2}:
        x, y = linear.part(partition)
        model = ran.models[1]
        score = x[:, :-1] @ model["w"] + x[:, -1] * model["b"]
        want.append(float((y * score > 0).mean()))
        weights.append(len(y))
    assert first.evaluate["accuracy"] == pytest.approx(np.average(want, weights=weights), rel=1e-6)
    assert second.evaluate == {}
    assert [e.purpose for e in ran.of(SumFailed, 2)] == ["evaluate"]
    assert len(ran.of(SumOpened, 2)) == 1  # the training of the same round
    # Nothing of the evaluation is in what the server saw of the training.
    assert len(ran.seen) == 2


def test_the_tap_sees_one_update_for_the_cohort() -> None:
    ran = run([Drop("report", {3}, {1})])
    first, second = ran.seen
    assert (first.clients, first.protocol, first.round) == (6, "pairwise", 1)
    assert first.weight == sum(20 + 7 * p for p in ALL - {3})
    np.testing.assert_array_equal(first.model["w"], 0.0)
    np.testing.assert_array_equal(first.update["w"], ran.models[1]["w"])
    assert second.clients == 7


# Devices that break the protocol


def spoil_field(name: str, change: Callable[[bytes], bytes]) -> Callable[[Message], Message]:
    def spoil(reply: Message) -> Message:
        spoilt = envelope(reply)
        record = spoilt.content.config_records[stages.RECORD]
        value = record[name]
        assert isinstance(value, bytes)
        record[name] = change(value)
        return spoilt

    return spoil


def garbage_content(reply: Message) -> Message:
    spoilt = envelope(reply)
    spoilt.content[stages.RECORD] = ConfigRecord({"something": "else"})
    return spoilt


SPOILT: dict[str, Callable[[Message], Message]] = {
    "a flipped bit": spoil_field(stages.MESSAGE, lambda b: bytes([b[0] ^ 1]) + b[1:]),
    "a flipped last bit": spoil_field(stages.MESSAGE, lambda b: b[:-1] + bytes([b[-1] ^ 1])),
    "cut short": spoil_field(stages.MESSAGE, lambda b: b[:-7]),
    "a tail": spoil_field(stages.MESSAGE, lambda b: b + b"x"),
    "nothing": spoil_field(stages.MESSAGE, lambda b: b""),
    "other fields": garbage_content,
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
@pytest.mark.parametrize("stage", ["report", "attest", "reveal"])
def test_a_reply_that_does_not_hold_is_named_and_left_out(
    stage: str, spoil: Callable[[Message], Message]
) -> None:
    ran = run([Corrupt(stage, {2}, {1}, how=spoil)])
    assert ran.left_out(1) == {(stage, 2)}
    opened(ran, ALL - {2} if stage == "report" else ALL, 1)
    opened(ran, ALL, 2)


def test_members_whose_wrong_shares_keep_a_sum_closed_are_named() -> None:
    ran = run([Corrupt("reveal", {1, 4, 6}, {1}, how=SPOILT["a flipped last bit"])])
    assert ran.left_out(1) == {("reveal", 1), ("reveal", 4), ("reveal", 6)}
    assert {e.reason for e in ran.of(LeftOut, 1)} == {"wrong share of device 7"}
    failed(ran, "4 good shares of device 1, 5 needed")
    opened(ran, ALL, 2)


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_field(stages.RUN_KEY, lambda b: b[:-1] + bytes([b[-1] ^ 1])),
        spoil_field(stages.RUN_KEY, lambda b: b[:8] + bytes(32) + b[40:]),
        spoil_field(stages.RUN_KEY, lambda b: b[:-1]),
        spoil_field(stages.RUN_KEY, lambda b: (99).to_bytes(8, "little") + b[8:]),
        garbage_content,
    ],
    ids=["signature", "key", "short", "a stranger's number", "other fields"],
)
def test_a_run_key_that_does_not_hold_keeps_its_device_out(
    spoil: Callable[[Message], Message],
) -> None:
    ran = run([Corrupt("enrol", {2}, {1}, how=spoil)])
    (event,) = ran.of(LeftOut, 1)
    assert event.stage == "enrol"
    opened(ran, ALL - {2}, 1, cohort=6)
    opened(ran, ALL, 2)


@pytest.mark.parametrize("seed", range(4))
def test_a_strangers_claim_does_not_keep_a_device_out(seed: int) -> None:
    """Node 1000 says it is device 5, whose signature it does not have; whoever is heard first."""
    writer = Writer().u64(5).fixed(bytes(32), 32).fixed(NO_KEM, 32).fixed(bytes(64), 64)
    claim = spoil_field(stages.RUN_KEY, lambda _: writer.data())
    ran = run([Corrupt("enrol", {0}, how=claim)], rounds=1, seed=seed)
    opened(ran, ALL - {0}, 1, cohort=6)


def test_a_run_key_that_its_device_copied_from_another_is_refused() -> None:
    """Signed by the copier as its own. No session can be built that has one key twice."""
    shown: dict[str, RunKey] = {}

    def copying(reply: Message) -> Message:
        spoilt = envelope(reply)
        record = spoilt.content.config_records[stages.RECORD]
        data = record[stages.RUN_KEY]
        assert isinstance(data, bytes)
        key = shown.setdefault("first", RunKey.read(Reader(data, sender=0, stage="enrol")))
        body = Writer().u64(run_id).u64(3).fixed(key.public, 32).fixed(NO_KEM, 32).data()
        signature = simulated_identity(3).sign(labels.RUN_KEY, body)
        if key.device != 3 and data[0] == 3:
            writer = Writer()
            RunKey(3, key.public, NO_KEM, signature).write(writer)
            record[stages.RUN_KEY] = writer.data()
        return spoilt

    def started(inner: InProcessGrid) -> InProcessGrid:
        nonlocal run_id
        run_id = inner.run.run_id
        return inner

    run_id = 0
    ran = run([Corrupt("enrol", {0, 2}, {1}, how=copying)], wrap=started)
    (event,) = ran.of(LeftOut, 1)
    assert "device 3: another's run key" in event.reason
    opened(ran, ALL - {2}, 1, cohort=6)
    opened(ran, ALL, 2)


def test_a_replayed_run_key_of_another_device_is_refused() -> None:
    """Run keys are public: a device can show another's, and must not get its place."""
    shown: dict[str, bytes] = {}

    class Replaying(WrappedGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            for reply in self.inner.pull_messages(message_ids):
                if reply.has_content() and stages.RECORD in reply.content.config_records:
                    record = reply.content.config_records[stages.RECORD]
                    key = record.get(stages.RUN_KEY)
                    if isinstance(key, bytes):
                        record[stages.RUN_KEY] = shown.setdefault("first", key)
                yield reply

    ran = run(wrap=Replaying, rounds=1)
    failed(ran, "a cohort of 1")
    assert {e.stage for e in ran.of(LeftOut, 1)} == {"enrol"}
    assert all("enrolled twice" in e.reason for e in ran.of(LeftOut, 1))


def test_what_a_device_says_cannot_disturb_a_terminal() -> None:
    class Shouting(WrappedGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            for reply in self.inner.pull_messages(message_ids):
                if reply.metadata.src_node_id != 1002:
                    yield reply
                    continue
                error = Message(Error(2, "\x1b[2J\n" * 5000), reply_to=reply)
                asked = reply.metadata.reply_to_message_id
                error.metadata.__dict__["_reply_to_message_id"] = asked
                yield error

    ran = run(wrap=Shouting, rounds=1)
    (event,) = ran.of(LeftOut, 1)
    assert event.reason.isprintable()
    assert len(event.reason) < 600
    opened(ran, ALL - {2}, 1, cohort=6)


# Hybrid runs

HYBRID = Pairwise(hybrid=True)
EXCHANGE = ("encapsulate", "decapsulate")


class Counting(WrappedGrid):
    """Counts what the server asks, by stage."""

    def __init__(self, inner: Grid) -> None:
        super().__init__(inner)
        self.asked: Counter[str] = Counter()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        self.asked.update(message.metadata.message_type.split("_")[-1] for message in sent)
        return self.inner.push_messages(sent)


def hybrid(
    faults: Sequence[Fault] = (), *, wrap: Callable[[Grid], Counting] = Counting, **settings_: Any
) -> tuple[Ran, list[Counting]]:
    grids: list[Counting] = []

    def wrapped(inner: Grid) -> Counting:
        grids.append(wrap(inner))
        return grids[-1]

    return run(faults, protocol=HYBRID, wrap=wrapped, **settings_), grids


def test_a_hybrid_run_is_exact_and_exchanges_secrets_once() -> None:
    ran, (grid,) = hybrid(rounds=3, fraction_evaluate=1.0)
    assert not [event for event in ran.events if isinstance(event, LeftOut)]
    for round in (1, 2, 3):
        before, after = ran.models[round - 1], ran.models[round]
        np.testing.assert_array_equal(after["w"], on_the_grid(before, ALL, round))
    # Of each pair the lower number deals: all but the last one, and all but the first one opens.
    assert (grid.asked["encapsulate"], grid.asked["decapsulate"]) == (DEVICES - 1, DEVICES - 1)
    assert grid.asked["enrol"] == DEVICES


def test_a_run_that_is_not_hybrid_has_none_of_it() -> None:
    grids: list[Counting] = []

    def wrapped(inner: Grid) -> Counting:
        grids.append(Counting(inner))
        return grids[-1]

    run(wrap=wrapped, rounds=1)
    assert set(grids[0].asked) == {"enrol", "train", "attest", "reveal"}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("stage", EXCHANGE)
def test_who_misses_the_exchange_is_left_out_and_catches_up(stage: str, after: bool) -> None:
    ran, (grid,) = hybrid([Drop(stage, {1, 4}, {1}, after=after)])
    assert ran.left_out(1) == {(stage, 1), (stage, 4)}
    assert ran.left_out(2) == set()
    opened(ran, ALL - {1, 4}, 1, cohort=DEVICES - 2)
    opened(ran, ALL, 2)
    # In round 2 only those who miss a secret are asked again: with the two of round 1.
    assert grid.asked[stage] <= 2 * (DEVICES - 1)


def test_the_first_and_the_last_device_may_miss_it_too() -> None:
    ran, _ = hybrid([Drop("encapsulate", {0}, {1}), Drop("decapsulate", {6}, {1})])
    assert ran.left_out(1) == {("encapsulate", 0), ("decapsulate", 6)}
    opened(ran, ALL - {0, 6}, 1, cohort=DEVICES - 2)
    opened(ran, ALL, 2)


@settings(max_examples=15)
@given(
    fates=st.lists(
        st.tuples(st.sampled_from([None, None, *EXCHANGE, "enrol", "report"]), st.booleans()),
        min_size=DEVICES,
        max_size=DEVICES,
    )
)
def test_any_drop_outs_in_a_hybrid_run(fates: list[tuple[str | None, bool]]) -> None:
    faults = [
        Drop(stage, {device}, {1}, after=after)
        for device, (stage, after) in enumerate(fates)
        if stage is not None
    ]

    def gone(stage: str) -> set[int]:
        return {device for device, fate in enumerate(fates) if fate[0] == stage}

    ran, _ = hybrid(faults)
    there = ALL - gone("enrol")
    there -= gone("encapsulate") - {max(there, default=0)}  # who deals to nobody is not asked
    there -= gone("decapsulate") - {min(there, default=0)}  # nor who is dealt nothing
    reported = there - gone("report")
    if len(there) < 3 or len(reported) < threshold_for(len(there), len(there) // 3):
        failed(ran, "")
    else:
        opened(ran, reported, 1, cohort=len(there))
    opened(ran, ALL, 2)


def test_too_few_are_left_after_the_exchange() -> None:
    ran, _ = hybrid([Drop("decapsulate", {2, 3, 4, 5, 6}, {1})])
    failed(ran, "0 of 2 devices reported")
    opened(ran, ALL, 2)


def test_a_device_that_enrols_later_exchanges_secrets_then() -> None:
    ran, (grid,) = hybrid([Drop("enrol", {3}, {1})])
    opened(ran, ALL - {3}, 1, cohort=DEVICES - 1)
    opened(ran, ALL, 2)
    # Round 2: the three of a lower number deal to device 4, and it deals to the three above.
    assert grid.asked["encapsulate"] == (DEVICES - 2) + 4
    assert grid.asked["decapsulate"] == (DEVICES - 2) + 4


class Forgetting(Counting):
    """Its device of partition 3 loses its memory after round 1."""

    inner: InProcessGrid

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        if any(m.metadata.group_id == "2" for m in sent) and not self.asked["forgotten"]:
            self.asked["forgotten"] += 1
            self.inner._fleet.context(1003).state.clear()
        return super().push_messages(sent)


def test_a_run_key_is_told_once_and_again_when_it_is_another() -> None:
    """Of the device that lost its memory, in the round after that was found out."""
    ran, _ = hybrid(wrap=Forgetting, rounds=4)
    told = [event for event in ran.events if isinstance(event, KeyChanged) and event.kind == "run"]
    assert sorted((e.round, e.device) for e in told) == [*((1, n) for n in range(1, 8)), (3, 4)]
    assert len({event.fingerprint for event in told}) == DEVICES + 1
    (roster,) = [e for e in ran.events if isinstance(e, KeyChanged) and e.kind == "roster"]
    assert roster.fingerprint == simulated_roster(DEVICES).digest().hex()
    assert (roster.round, roster.device) == (1, None)


def test_a_device_that_enrols_anew_gets_new_secrets() -> None:
    ran, (grid,) = hybrid(wrap=Forgetting, rounds=3)
    assert ran.left_out(2) == {("report", 3)}
    assert ran.left_out(3) == set()
    opened(ran, ALL, 1)
    opened(ran, ALL - {3}, 2)
    opened(ran, ALL, 3)
    assert grid.asked["encapsulate"] == (DEVICES - 1) + 4


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_capsules_that_do_not_hold_keep_only_their_dealer_out(
    spoil: Callable[[Message], Message],
) -> None:
    ran, _ = hybrid([Corrupt("encapsulate", {2}, {1}, how=spoil)])
    assert ran.left_out(1) == {("encapsulate", 2)}
    opened(ran, ALL - {2}, 1, cohort=DEVICES - 1)
    opened(ran, ALL, 2)


def without_kem_key(reply: Message) -> Message:
    spoilt = envelope(reply)
    del spoilt.content.config_records[stages.RECORD][stages.KEM_KEY]
    return spoilt


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_field(stages.KEM_KEY, lambda b: b[:-1] + bytes([b[-1] ^ 1])), "does not name this"),
        (spoil_field(stages.KEM_KEY, lambda b: b[:-1]), "does not name this"),
        (spoil_field(stages.RUN_KEY, lambda b: b[:40] + bytes(32) + b[72:]), "not signed"),
        (without_kem_key, "no 'kem-key' in the reply"),
    ],
    ids=["another", "short", "none", "as in a plain run"],
)
def test_an_ml_kem_key_that_does_not_hold_keeps_its_device_out(
    spoil: Callable[[Message], Message], reason: str
) -> None:
    ran, _ = hybrid([Corrupt("enrol", {2}, {1}, how=spoil)])
    (event,) = ran.of(LeftOut, 1)
    assert reason in event.reason
    opened(ran, ALL - {2}, 1, cohort=DEVICES - 1)
    opened(ran, ALL, 2)


def test_no_exchange_holds_more_than_so_many_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tacit.server.grid.MAX_PAIRS", 2 * DEVICES)  # two receivers at a time
    faults = [Drop("encapsulate", {0}, {1}), Drop("decapsulate", {4}, {1})]
    ran, (counted,) = hybrid(faults)
    # Device 1 is silent when it is first asked, and is then asked no more in that round.
    assert ran.left_out(1) == {("encapsulate", 0), ("decapsulate", 4)}
    assert len(ran.of(LeftOut, 1)) == 2
    opened(ran, ALL - {0, 4}, 1, cohort=DEVICES - 2)
    opened(ran, ALL, 2)
    assert counted.asked["encapsulate"] > DEVICES


def test_a_drawn_committee_takes_part_in_the_exchange() -> None:
    """A third of the devices in each round, and a committee of five of which some are witnesses."""
    protocol = Pairwise(hybrid=True, corrupt=0.0, seats=5, min_survivors=3)
    policy = Policy(corrupt=0.0, security=0)
    devices, ran = 12, Ran()

    def app() -> ClientApp:
        return linear.register(SecureClientApp(policy, device_of=simulated_device))

    strategy = FedAvg(
        fraction_train=0.34,
        fraction_evaluate=0.0,
        min_train_nodes=4,
        min_available_nodes=devices,
    )
    with InProcessGrid(app, devices=devices) as inner, identity(inner.run.run_id):
        secure = Secure(strategy, protocol).grid(inner, on_event=ran.events.append)
        run_rounds(secure, strategy, linear.initial(), Plan(3, seed=2), on_event=ran.events.append)
    assert not [event for event in ran.events if isinstance(event, LeftOut | SumFailed)]
    assert [event.survivors for event in ran.events if isinstance(event, SumOpened)] == [4, 4, 4]


def test_a_silent_node_outside_the_cohort_holds_up_one_sum_only() -> None:
    """For the committee's sake all nodes are asked to enrol, but these not each time."""
    app = load(policy=Policy(corrupt=0.0))
    inner = InProcessGrid(app, devices=5, faults=[Drop("enrol", {4})])
    with inner, identity(inner.run.run_id):
        counting = Counting(inner)
        grid = SecureGrid(counting, Pairwise(corrupt=0.0, seats=4))
        for _ in range(2):
            grid.send_and_receive(asked(grid, [content()] * 4))
    assert counting.asked["enrol"] == 5


# Misuse, and what passes through


def asked(grid: SecureGrid, contents: Sequence[RecordDict], kind: str = "train") -> list[Message]:
    nodes = list(grid.get_node_ids())
    return [Message(c, n, kind) for c, n in zip(contents, nodes, strict=False)]


def content(**more: Any) -> RecordDict:
    return RecordDict(
        {"arrays": linear.initial(), "config": ConfigRecord({"server-round": 1}), **more}
    )


def test_messages_that_cannot_be_summed_are_an_error_of_the_strategy() -> None:
    with InProcessGrid(load(), devices=3) as inner, identity(inner.run.run_id):
        grid = SecureGrid(inner, Pairwise())
        with pytest.raises(ParameterError, match="different content to different devices"):
            grid.send_and_receive(asked(grid, [content(), content(), content()]))
        one = content()
        twice = [Message(one, 1000, "train"), Message(one, 1000, "train")]
        with pytest.raises(ParameterError, match="one device twice"):
            grid.send_and_receive(twice)
        two = content(more=linear.initial())
        with pytest.raises(ParameterError, match="2 array records"):
            grid.send_and_receive(asked(grid, [two] * 3))
        settings_ = content(more=ConfigRecord({"a": 1}))
        with pytest.raises(ParameterError, match="2 config records"):
            grid.send_and_receive(asked(grid, [settings_] * 3))
        nameless = RecordDict({"arrays": linear.initial(), "config": ConfigRecord()})
        with pytest.raises(ParameterError, match="names no round"):
            grid.send_and_receive(asked(grid, [nameless] * 3))
        flags = RecordDict({**content(), "arrays": linear.record({"w": np.array([True])})})
        with pytest.raises(ParameterError, match="'w' is bool"):
            grid.send_and_receive(asked(grid, [flags] * 3))


def test_queries_pass_through_to_the_device_which_refuses_them() -> None:
    with InProcessGrid(load(), devices=3) as inner, identity(inner.run.run_id):
        grid = SecureGrid(inner, Pairwise())
        replies = list(grid.send_and_receive(asked(grid, [RecordDict()] * 3, "query")))
        assert len(replies) == 3
        assert all("outside a secure sum" in (reply.error.reason or "") for reply in replies)
        assert list(grid.send_and_receive([])) == []


def test_the_reply_looks_like_a_devices() -> None:
    with InProcessGrid(load(), devices=3) as inner, identity(inner.run.run_id):
        grid = SecureGrid(inner, Pairwise())
        messages = asked(grid, [content()] * 3)
        messages = [Message(messages[0].content, m.metadata.dst_node_id, "train") for m in messages]
        (reply,) = grid.send_and_receive(messages)
    assert reply.metadata.src_node_id == messages[0].metadata.dst_node_id
    assert sorted(reply.content) == ["arrays", "metrics"]
    assert set(reply.content.metric_records["metrics"]) == {"loss", linear.WEIGHT}
    assert reply.content.metric_records["metrics"][linear.WEIGHT] == 20 + 27 + 34
    assert messages[0].content.config_records.keys() == {"config"}  # ours is not left in it


def test_an_action_of_the_devices_is_a_secure_sum_too() -> None:
    """`train.slow` and the like: the action travels, bound to the session."""

    def app() -> ClientApp:
        secure = SecureClientApp(device_of=simulated_device)

        @secure.train("slow")
        def slow(message: Message, context: Context) -> Message:
            return Message(linear.train_reply(message, context), reply_to=message)

        return secure

    with InProcessGrid(app, devices=3) as inner, identity(inner.run.run_id):
        grid = SecureGrid(inner, Pairwise())
        one = content()
        messages = [Message(one, node, "train.slow") for node in grid.get_node_ids()]
        assert len(list(grid.send_and_receive(messages))) == 1


def test_devices_of_another_authority_take_no_part() -> None:
    """A server without the authority's key can sign what roster it likes."""
    members = [Member(d, simulated_identity(d).public, 1 << 60) for d in range(1, DEVICES + 1)]
    roster = Roster.signed(simulated_identity(99), 1, members, bytes(32))
    events: list[Event] = []
    strategy = FedAvg(**EVERYONE, fraction_evaluate=0.0)
    with InProcessGrid(load(), devices=DEVICES) as inner, identity(inner.run.run_id):
        grid = Secure(strategy, roster=roster).grid(inner, on_event=events.append)
        result = run_rounds(grid, strategy, linear.initial(), Plan(1))
    assert not result.train_metrics_clientapp
    told = [e for e in events if isinstance(e, LeftOut)]
    assert len(told) == DEVICES
    assert all("not signed by the authority" in e.reason for e in told)


def test_what_is_not_ours_to_answer_goes_to_the_grid_within() -> None:
    with InProcessGrid(load(), devices=3) as inner, identity(inner.run.run_id):
        grid = SecureGrid(inner, Pairwise())
        assert list(grid.get_node_ids()) == [1000, 1001, 1002]
        assert [node.node_id for node in grid.get_nodes()] == [1000, 1001, 1002]
        assert grid.run.run_id == inner.run.run_id
        message = grid.create_message(RecordDict(), "query", 1000, "1")
        (id_,) = grid.push_messages([message])
        assert len(list(grid.pull_messages([id_]))) == 1
        grid.set_run(grid.run)


def test_integers_and_numbers_come_through() -> None:
    """0-d arrays, and unsigned integers that go down: 3 - 250 of a byte is not 9."""

    def reply(message: Message, context: Context) -> RecordDict:
        trained = {"byte": np.array([3, 250], np.uint8), "count": np.array(-7), "x": np.array(0.5)}
        metrics = MetricRecord({linear.WEIGHT: 27})
        return RecordDict({"arrays": linear.record(trained), "metrics": metrics})

    start = {"byte": np.array([250, 3], np.uint8), "count": np.array(7), "x": np.array(0.25)}
    protocol = Pairwise(bound=512.0)
    with InProcessGrid(load(reply), devices=3) as inner, identity(inner.run.run_id):
        grid = SecureGrid(inner, protocol)
        record = RecordDict(
            {"arrays": linear.record(start), "config": ConfigRecord({"server-round": 1})}
        )
        messages = [Message(record, node, "train") for node in grid.get_node_ids()]
        (answer,) = grid.send_and_receive(messages)
    arrays = linear.arrays_of(answer.content.array_records["arrays"])
    np.testing.assert_array_equal(arrays["byte"], np.array([3, 250], np.uint8))
    assert arrays["byte"].dtype == np.uint8
    np.testing.assert_array_equal(arrays["count"], np.array(-7))
    assert arrays["count"].shape == ()
    # 25 bits for values up to 512 in size are 2**15 steps per unit; each is off by less than one.
    step = 3 / 2.0**15 * 10_000 / 81
    assert abs(float(arrays["x"]) - 0.5) <= step


class Leaving(WrappedGrid):
    """A grid that its last node leaves when told so."""

    gone = False

    def get_node_ids(self) -> list[int]:
        nodes = list(self.inner.get_node_ids())
        return nodes[:-1] if self.gone else nodes


def test_a_simulated_federation_goes_on_without_a_node_that_left() -> None:
    """The roster of a simulation does not shrink: devices refuse one that is older."""
    ran = Ran()
    strategy = FedAvg(min_train_nodes=2, min_available_nodes=2, fraction_evaluate=0.0)
    with InProcessGrid(load(), devices=DEVICES) as inner, identity(inner.run.run_id):
        leaving = Leaving(inner)

        def tell(event: Event) -> None:
            ran.events.append(event)
            leaving.gone = leaving.gone or isinstance(event, RoundFinished)

        grid = Secure(strategy).grid(leaving, on_event=tell)
        run_rounds(grid, strategy, linear.initial(), Plan(3, seed=1), on_event=tell)
    opened = [e for e in ran.events if isinstance(e, SumOpened)]
    assert [e.cohort for e in opened] == [DEVICES, DEVICES - 1, DEVICES - 1]


def test_a_committee_is_asked_to_attest_a_batch_at_a_time() -> None:
    """What it is sent are all the shares that were dealt: together, twice the server's memory."""
    pushed: list[tuple[str, int]] = []

    class Noting(WrappedGrid):
        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            sent = list(messages)
            pushed.append((sent[0].metadata.message_type, len(sent)))
            return self.inner.push_messages(sent)

    devices, protocol = BATCH + 2, Pairwise(corrupt=0.1, drop=0.1, seats=0)
    policy = Policy(corrupt=0.1)
    ran = run(
        protocol=protocol, policy=policy, devices=devices, rounds=1, wrap=Noting, reply=unchanged
    )
    assert [e.survivors for e in ran.of(SumOpened, 1)] == [devices]
    assert [size for kind, size in pushed if kind == stages.ATTEST] == [BATCH, 2]
    assert [size for kind, size in pushed if kind == "train"] == [devices]


# Encrypted sums

LATTICE = Policy(lattice=True)


@pytest.mark.parametrize("stage", ["enrol", "report", "attest", "reveal"])
def test_an_encrypted_sum_is_that_of_the_masked_one(stage: str) -> None:
    """The same rounding, so the same sum bit for bit, whoever drops out where."""
    protocol = Encrypted(bound=8.0)
    bits = protocol.codec(33, DEVICES).bits
    masked = Pairwise(precision=bits - DEVICES.bit_length())
    drops = [Drop(stage, {1, 4}, {1})]
    ran, other = run(drops, protocol=protocol, policy=LATTICE), run(drops, protocol=masked)
    assert ran.left_out(1) == other.left_out(1)
    for round in (1, 2):
        (event,), (theirs,) = ran.of(SumOpened, round), other.of(SumOpened, round)
        assert (event.survivors, event.cohort) == (theirs.survivors, theirs.cohort)
    if stage != "enrol":  # there the cohort is smaller, and the masked ring with it
        for ours, theirs in zip(ran.models, other.models, strict=True):
            assert ours["w"].tobytes() == theirs["w"].tobytes()


def test_an_encrypted_sum_over_too_few_is_not_opened() -> None:
    ran = run([Drop("report", {1, 2, 4}, {1})], protocol=Encrypted(), policy=LATTICE)
    failed(ran, "4 of 7 devices reported")
    assert len(ran.of(SumOpened, 2)) == 1


def test_an_encrypted_sum_with_a_drawn_committee_and_ml_kem() -> None:
    protocol = Encrypted(corrupt=0.0, seats=5, hybrid=True, parameters="2048-32-1")
    ran = run(protocol=protocol, policy=replace(LATTICE, corrupt=0.0, hybrid=True))
    assert [e.survivors for e in ran.of(SumOpened, 1)] == [DEVICES]


def break_fft(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, call: int) -> None:
    """In this call of the module's function no product is near enough to integers."""
    right, calls = getattr(module, name), count()

    def step(*given: Any) -> Any:
        with monkeypatch.context() as broken:
            if next(calls) == call:
                broken.setattr(ring, "SEEN", 0.0)
            return right(*given)

    monkeypatch.setattr(module, name, step)


def test_a_device_that_miscomputes_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    break_fft(monkeypatch, hiding, "encrypt", call=2)
    ran = run(protocol=Encrypted(), policy=LATTICE)
    (gone,) = ran.of(LeftOut, 1)
    assert (gone.stage, "the FFT is broken" in gone.reason) == ("report", True)
    assert [e.survivors for e in ran.events if isinstance(e, SumOpened)] == [DEVICES - 1, DEVICES]


def test_a_server_that_miscomputes_ends_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    break_fft(monkeypatch, revealing, "open_sum", call=1)
    with pytest.raises(BrokenArithmetic, match="the FFT is broken"):
        run(protocol=Encrypted(), policy=LATTICE)
