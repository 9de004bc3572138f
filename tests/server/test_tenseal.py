"""Sums under TenSEAL: the group's key comes to all, whoever is silent, lies or comes later."""

import os
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tacit.client.app
import tacit.server.grid
import tacit.server.tenseal
from tacit.client import rounds
from tacit.client.app import SecureClientApp
from tacit.client.fields import answer_to
from tacit.client.policy import Policy
from tacit.client.vault import ContextVault
from tacit.crypto.errors import ParameterError, PolicyRefusal, ProtocolError
from tacit.crypto.he.bfv import Summer
from tacit.crypto.he.dealing import Deal, deal, deal_bytes, read_consortium
from tacit.crypto.he.keys import Consortium, GroupKey
from tacit.crypto.he.packing import Packing
from tacit.crypto.he.sets import BY_NAME, PUBLIC, SEEDED, WIDE
from tacit.crypto.he.sums import contribute
from tacit.crypto.identity import Member, Roster, RunKey, agree
from tacit.crypto.secagg import hiding, stages
from tacit.crypto.secagg.session import Purpose, threshold_for
from tacit.crypto.simulated import simulated_identity, simulated_roster
from tacit.crypto.vector import Ring
from tacit.crypto.wire import Reader
from tacit.server.events import KeyChanged, LeftOut, RoundFinished, SumOpened
from tacit.server.flower import identity
from tacit.server.grid import SecureGrid
from tacit.server.he_loader import Loader
from tacit.server.loop import Plan, run_rounds
from tacit.server.pairwise import Binding, Pairwise
from tacit.server.tenseal import GroupKeys, TenSeal
from tacit.server.wrapped import WrappedGrid
from tacit.simulations.engine.faults import Corrupt, Crash, Drop, Fault
from tacit.simulations.engine.grid import InProcessGrid
from tacit.strategies.secure import Secure
from tests.runtime import linear
from tests.server.test_grid import (
    ALL,
    DEVICES,
    SPOILT,
    Ran,
    dither,
    failed,
    load,
    run,
    spoil_field,
)
from tests.server.test_he_loader import marked

pytest.importorskip("tenseal", reason="TenSEAL is not installed: pip install '.[he]'")
if os.name != "posix":
    pytest.skip("needs POSIX pipes", allow_module_level=True)

# The quickest set there is, on this system.
SET = SEEDED if hasattr(os, "memfd_create") else PUBLIC
SUMS = TenSeal(parameters=SET.name)
AGREED = Policy(consortium=True)


class Here(Summer):
    """What a `Loader` does, without a process of its own: nobody sends anything that would break
    it, and it saves half the time."""

    def __init__(self, packing: Packing) -> None:
        super().__init__(packing)
        self._senders: list[int] = []

    def add(self, data: bytes | memoryview, *, sender: int) -> None:
        super().add(data, sender=sender)
        self._senders.append(sender)

    @property
    def senders(self) -> tuple[int, ...]:
        return tuple(sorted(self._senders))

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        pass


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tacit.server.grid, "Loader", Here)


quick = pytest.mark.usefixtures("here")


class Watched(WrappedGrid):
    """Counts what the server asks, of whom; and answers in a device's place, if told to.

    `instead` gives an error's text for a (stage, partition, round), or nothing.
    """

    def __init__(self, inner: Grid, instead: Callable[[str, int, int], str] | None = None) -> None:
        super().__init__(inner)
        self.asked: list[tuple[str, int, int]] = []  # stage, partition, round
        self._instead = instead or (lambda stage, partition, round: "")
        self._sent: dict[str, tuple[str, int, int]] = {}
        self.before: dict[int, Callable[[], None]] = {}  # what happens before a round begins

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        for message in sent:
            meta = message.metadata
            if (action := self.before.pop(int(meta.group_id), None)) is not None:
                action()
        ids = list(self.inner.push_messages(sent))
        for id_, message in zip(ids, sent, strict=True):
            meta = message.metadata
            stage, partition = meta.message_type.split("_")[-1], meta.dst_node_id - 1000
            self.asked.append((stage, partition, int(meta.group_id)))
            self._sent[id_] = (stage, partition, int(meta.group_id))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for reply in self.inner.pull_messages(message_ids):
            id_ = reply.metadata.reply_to_message_id
            text = self._instead(*self._sent[id_])
            if not text:
                yield reply
                continue
            error = Message(Error(2, text), reply_to=reply)
            error.metadata.__dict__["_reply_to_message_id"] = id_
            yield error

    def of(self, stage: str, round: int | None = None) -> list[int]:
        """The partitions that were asked, in order."""
        return [p for s, p, r in self.asked if s == stage and round in (None, r)]

    def state(self, partition: int) -> Any:
        return self.inner._fleet.context(1000 + partition).state  # type: ignore[attr-defined]


def watched(
    faults: Sequence[Fault] = (),
    *,
    instead: Callable[[str, int, int], str] | None = None,
    before: Callable[[Watched], dict[int, Callable[[], None]]] | None = None,
    **more: Any,
) -> tuple[Ran, Watched]:
    grids: list[Watched] = []

    def wrap(inner: Grid) -> Watched:
        grids.append(Watched(inner, instead))
        grids[-1].before = before(grids[-1]) if before else {}
        return grids[-1]

    ran = run(faults, wrap=wrap, **{"protocol": SUMS, "policy": AGREED, **more})
    return ran, grids[0]


def mean(model: dict[str, np.ndarray], survivors: Iterable[int], round: int, cohort: int):
    """The mean over `survivors` by numpy alone, rounded where a device rounds: exact, not close.
    As in `test_grid.on_the_grid`, on the grid of a codec for `cohort` devices."""
    length = sum(array.size for array in model.values())
    scale = SUMS.codec(length, cohort).scale
    weights = {p: 20 + 7 * p for p in survivors}
    total = np.zeros(30, np.int64)
    for partition, weight in weights.items():
        update = linear.fit(model, partition)["w"] - model["w"]
        steps = np.rint(update * (scale * (weight / 10_000)) * 2**16).astype(np.int64)
        total += (steps + dither(model, partition, round)[:30]) >> 16
    return model["w"] + total / (scale * (sum(weights.values()) / 10_000))


def opened(ran: Ran, survivors: set[int], round: int = 1, cohort: int = DEVICES) -> None:
    """`round` was opened over exactly `survivors`."""
    (event,) = [e for e in ran.of(SumOpened, round) if e.purpose == "train"]
    assert (event.survivors, event.cohort) == (len(survivors), cohort)
    before, after = ran.models[round - 1], ran.models[round]
    np.testing.assert_array_equal(after["w"], mean(before, survivors, round, cohort))
    np.testing.assert_array_equal(after["seen"], before["seen"] + 1)


# Nothing goes wrong


@pytest.mark.parametrize("parameters", [PUBLIC.name, SET.name])
def test_a_key_is_dealt_once_and_every_sum_is_exact(parameters: str) -> None:
    ran, grid = watched(protocol=TenSeal(parameters=parameters), rounds=3)
    assert not ran.left_out(1) | ran.left_out(2) | ran.left_out(3)
    for round in (1, 2, 3):
        opened(ran, ALL, round)
    assert (grid.of("deal"), sorted(grid.of("key"))) == ([0], [1, 2, 3, 4, 5, 6])
    # Three openers, who take turns.
    assert [set(grid.of("reveal", round)) for round in (1, 2, 3)] == [
        {3, 4, 5},
        {6, 0, 1},
        {2, 3, 4},
    ]


@quick
def test_it_is_the_masked_sum_bit_for_bit() -> None:
    bits = SUMS.codec(33, DEVICES).bits
    masked = run(protocol=Pairwise(precision=bits - DEVICES.bit_length()))
    ran, _ = watched()
    for ours, theirs in zip(ran.models, masked.models, strict=True):
        assert all(ours[name].tobytes() == theirs[name].tobytes() for name in ours)


@quick
def test_evaluations_go_through_sums_under_the_same_key() -> None:
    ran, grid = watched([Drop("evaluate", {2}, {1})], fraction_evaluate=1.0)
    plain = run([Drop("evaluate", {2}, {1})], fraction_evaluate=1.0)
    for round in (1, 2):
        opened(ran, ALL, round)
        assert [e.purpose for e in ran.of(SumOpened, round)] == ["train", "evaluate"]
        (ours,), (theirs,) = ran.of(RoundFinished, round), plain.of(RoundFinished, round)
        # Metrics of up to 1000 are rounded to steps of the grid: half of one for each device.
        codec = SUMS.codec(0, DEVICES)
        step = codec.metric_bound / (codec.bound * codec.scale) * 10_000 / (20 * DEVICES)
        assert abs(ours.evaluate["accuracy"] - theirs.evaluate["accuracy"]) < DEVICES * step
    assert grid.of("deal") == [0]


# Drop-outs


@quick
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("stage", ["enrol", "key", "report", "attest"])
def test_as_many_as_the_threshold_allows_may_drop(stage: str, after: bool) -> None:
    ran, grid = watched([Drop(stage, {1, 4}, {1}, after=after)])
    numbers = {1001, 1004} if stage == "enrol" else {1, 4}
    assert ran.left_out(1) == {(stage, number) for number in numbers}
    cohort = DEVICES - 2 if stage in ("enrol", "key") else DEVICES
    opened(ran, ALL if stage == "attest" else ALL - {1, 4}, 1, cohort=cohort)
    assert not ran.left_out(2)
    opened(ran, ALL, 2)
    # Who enrols later is no member yet; who missed its box is brought it again.
    assert grid.of("deal") == ([0, 1] if stage == "enrol" else [0])
    if stage == "key":
        assert grid.of("key", 2) == [1, 4]


@quick
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_dealer_that_is_silent_is_followed_by_the_next(after: bool) -> None:
    ran, grid = watched([Drop("deal", {0, 1}, {1}, after=after)])
    assert ran.left_out(1) == {("deal", 0), ("deal", 1)}
    assert grid.of("deal") == [0, 1, 2]
    for round in (1, 2):  # who did not deal has the key all the same
        opened(ran, ALL, round)


@quick
def test_no_more_than_so_many_dealers_are_asked_in_a_round() -> None:
    ran, grid = watched([Drop("deal", {0, 1, 2, 3}, {1})])
    failed(ran, "a cohort of 0")
    assert (grid.of("deal", 1), grid.of("deal", 2)) == ([0, 1, 2], [3])
    opened(ran, ALL, 2)


@quick
def test_a_silent_opener_is_replaced() -> None:
    """Of 3, 4 and 5 one may be missed; of two, others are asked, and of those two again."""
    for silent, asked in (
        ({3}, [3, 4, 5]),
        ({3, 4}, [3, 4, 5, 6, 0]),
        ({3, 4, 5}, [3, 4, 5, 6, 0, 1]),
        ({3, 4, 6}, [3, 4, 5, 6, 0]),
    ):
        ran, grid = watched([Drop("reveal", silent, {1})])
        assert grid.of("reveal", 1) == asked
        opened(ran, ALL, 1)
        opened(ran, ALL, 2)
        assert grid.of("deal") == [0]  # silence is no refusal


@quick
def test_too_few_openers() -> None:
    ran, grid = watched([Drop("reveal", {3, 4, 6, 0}, {1})])
    failed(ran, "1 members decrypted the sum, 2 have to")
    opened(ran, ALL, 2)
    assert grid.of("deal") == [0]


@quick
@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        ("report", "4 of 7 devices reported, at least 5 needed"),
        ("attest", "4 of 7 committee members attested, 5 needed"),
    ],
)
def test_one_more_and_nothing_is_opened(stage: str, reason: str) -> None:
    ran, _ = watched([Drop(stage, {1, 4, 6}, {1})])
    failed(ran, reason)
    opened(ran, ALL, 2)


STAGES = ("enrol", "deal", "key", "report", "attest", "reveal")
FATES = st.lists(
    st.tuples(st.sampled_from([None, None, None, *STAGES]), st.booleans()),
    min_size=DEVICES,
    max_size=DEVICES,
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fates=FATES)
def test_any_drop_outs(fates: list[tuple[str | None, bool]]) -> None:
    """Each device falls silent at one stage or none, before or after it has handled the message."""
    faults = [
        Drop(stage, {device}, {1}, after=after)
        for device, (stage, after) in enumerate(fates)
        if stage is not None
    ]
    gone = {name: {d for d, (stage, _) in enumerate(fates) if stage == name} for name in STAGES}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tacit.server.grid, "Loader", Here)
        ran, _ = watched(faults)
    there = sorted(ALL - gone["enrol"])
    asked = [there[turn % len(there)] for turn in range(3)] if there else []
    dealer = next((device for device in asked if device not in gone["deal"]), None)
    cohort = set() if dealer is None else {d for d in there if d == dealer or d not in gone["key"]}
    reported = cohort - gone["report"]
    attested = sorted(reported - gone["attest"])
    if len(cohort) < 3 or len(attested) < threshold_for(len(cohort), len(cohort) // 3):
        failed(ran, "")
    else:
        first = 3 % len(attested)  # whose turn it is in round 1
        turns = [*attested[first:], *attested[:first]]
        silent = len(gone["reveal"] & set(turns[:3]))
        answers = len(set(turns[: 3 + (silent if silent > 1 else 0)]) - gone["reveal"])
        if answers < 2:
            failed(ran, "")
        else:
            opened(ran, reported, 1, cohort=len(cohort))
    opened(ran, ALL, 2)  # whatever happened, the next round is whole


# Dealers


def boxes_changed(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Message], Message]:
    """What a dealer sends, with other boxes."""

    def spoil(data: bytes) -> bytes:
        reader = Reader(data, sender=0, stage="deal")
        boxes = [reader.blob() for _ in range(DEVICES - 1)]
        return Deal(tuple(change(boxes))).encode()

    return spoil_field(stages.MESSAGE, spoil)


@quick
@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_deal_that_does_not_read_is_no_deal(spoil: Callable[[Message], Message]) -> None:
    """But for a bit of some box: the server cannot tell."""
    ran, grid = watched([Corrupt("deal", {0}, {1}, how=spoil)])
    if ("deal", 0) in ran.left_out(1):
        assert grid.of("deal") == [0, 1]
        opened(ran, ALL, 1)
    else:
        assert len(ran.left_out(1)) == 1
        opened(ran, ALL - {6}, 1, cohort=6)
    opened(ran, ALL, 2)


JUNK: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "junk": lambda boxes: [bytes(200)] * len(boxes),
    "nothing": lambda boxes: [b""] * len(boxes),
    "each other's": lambda boxes: boxes[1:] + boxes[:1],
}


@quick
@pytest.mark.parametrize("change", JUNK.values(), ids=JUNK)
def test_a_dealer_of_no_key_costs_one_round(
    change: Callable[[list[bytes]], list[bytes]],
) -> None:
    """Only the members see it. They say so, and the next dealer is another."""
    ran, grid = watched([Corrupt("deal", {0}, how=boxes_changed(change))], rounds=3)
    failed(ran, "a cohort of 1, at least 2 needed")
    assert ran.left_out(1) == {("key", device) for device in ALL - {0}}
    assert all(stages.BAD_GROUP_KEY in e.reason for e in ran.of(LeftOut, 1))
    opened(ran, ALL, 2)
    opened(ran, ALL, 3)
    assert grid.of("deal") == [0, 1]


@quick
def test_a_dealer_keeps_one_device_out_for_one_round() -> None:
    def change(boxes: list[bytes]) -> list[bytes]:
        return [*boxes[:3], bytes(100), *boxes[4:]]

    ran, grid = watched([Corrupt("deal", {0}, how=boxes_changed(change))])
    assert ran.left_out(1) == {("key", 4)}
    opened(ran, ALL - {4}, 1, cohort=6)
    opened(ran, ALL, 2)
    assert grid.of("deal") == [0, 1]


@quick
def test_a_dealer_that_deals_different_keys_costs_one_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody sees it before the sum is to be opened. Then all openers refuse."""
    honest = SecureClientApp._deal

    def two_faced(app: SecureClientApp, message: Message, context: Context) -> Message:
        device = app._device_of(context)
        if device.number != 1:
            return honest(app, message, context)
        data = message.content.config_records[stages.RECORD][stages.MESSAGE]
        assert isinstance(data, bytes)
        consortium = read_consortium(Reader(data, sender=0, stage="deal"))
        state = app._joined(device, context, consortium)
        secrets = agree(state.secret, consortium.members)
        one, first = deal(consortium, secrets, os.urandom(deal_bytes(consortium)))
        _, second = deal(consortium, secrets, os.urandom(deal_bytes(consortium)))
        rounds.keep_group(device.vault, one)
        mixed = Deal((*first.boxes[:3], *second.boxes[3:]))
        return answer_to(message, {stages.MESSAGE: mixed.encode()})

    monkeypatch.setattr(SecureClientApp, "_deal", two_faced)
    ran, grid = watched()
    failed(ran, "0 members decrypted the sum, 2 have to")
    assert ran.left_out(1) == {("reveal", device) for device in (3, 4, 5)}
    opened(ran, ALL, 2)
    assert grid.of("deal") == [0, 1]


@quick
def test_owners_who_do_not_allow_it_take_no_part() -> None:
    ran, grid = watched(policy=Policy(), rounds=1)
    failed(ran, "a cohort of 0")
    assert grid.of("deal") == [0, 1, 2]
    assert all("policy.consortium" in e.reason for e in ran.of(LeftOut, 1))


# Openers


@quick
def test_one_opener_that_lies_is_outvoted() -> None:
    lie = spoil_field(stages.MESSAGE, lambda b: b[:40] + bytes([b[40] ^ 1]) + b[41:])
    ran, grid = watched([Corrupt("reveal", {4}, {1}, how=lie)])
    assert not ran.left_out(1)
    opened(ran, ALL, 1)
    opened(ran, ALL, 2)
    assert grid.of("deal") == [0]


@quick
def test_openers_of_whom_no_two_agree() -> None:
    def lie(at: int) -> Callable[[Message], Message]:
        return spoil_field(stages.MESSAGE, lambda b: b[:at] + bytes([b[at] ^ 1]) + b[at + 1 :])

    ran, _ = watched(
        [Corrupt("reveal", {4}, {1}, how=lie(40)), Corrupt("reveal", {5}, {1}, how=lie(41))]
    )
    failed(ran, "3 members decrypted the sum, 2 have to, and to say the same")
    opened(ran, ALL, 2)


@quick
def test_two_openers_in_league_have_it_their_way() -> None:
    """The limit of openers who all hold the key, stated: two of three decide."""
    lie = spoil_field(stages.MESSAGE, lambda b: b[:40] + bytes([b[40] ^ 1]) + b[41:])
    ran, _ = watched([Corrupt("reveal", {4, 5}, {1}, how=lie)], rounds=1)
    assert len(ran.of(SumOpened, 1)) == 1
    right = mean(ran.models[0], ALL, 1, DEVICES)
    assert (ran.models[1]["w"] != right).sum() == 1


@quick
@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_decryption_that_does_not_read_is_left_out(spoil: Callable[[Message], Message]) -> None:
    ran, _ = watched([Corrupt("reveal", {4}, {1}, how=spoil)])
    assert ran.left_out(1) <= {("reveal", 4)}
    opened(ran, ALL, 1)
    opened(ran, ALL, 2)


@quick
def test_after_a_refusal_there_is_another_key() -> None:
    """One that refuses has given the key up: the sum is opened by two others, and from the next
    round on it takes part again."""

    def refusing(stage: str, partition: int, round: int) -> str:
        return "reveal: server: no" if (stage, partition, round) == ("reveal", 4, 1) else ""

    ran, grid = watched(instead=refusing)
    assert ran.left_out(1) == {("reveal", 4)}
    assert grid.of("reveal", 1) == [3, 4, 5]  # nobody in the place of one that refuses
    opened(ran, ALL, 1)
    opened(ran, ALL, 2)
    assert grid.of("deal") == [0, 1]


@quick
@pytest.mark.parametrize("at", ["server", "devices"])
def test_a_key_is_dealt_anew_after_so_many_sums(at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the server in time; if it forgets to, since devices refuse, at the cost of a round."""
    monkeypatch.setattr(rounds, "SUMS", 2)
    if at == "server":
        monkeypatch.setattr(tacit.server.tenseal, "SUMS", 2)
    ran, grid = watched(rounds=5)
    summed = [event.round for event in ran.events if isinstance(event, SumOpened)]
    assert summed == ([1, 2, 3, 4, 5] if at == "server" else [1, 2, 4, 5])
    dealt = [round for round in range(1, 6) if grid.of("deal", round)]
    assert dealt == ([1, 3, 5] if at == "server" else [1, 4])
    told = [e for e in ran.events if isinstance(e, KeyChanged) and e.kind == "group"]
    assert [(event.round, event.device) for event in told] == [(round, None) for round in dealt]
    assert len({event.fingerprint for event in told}) == len(dealt)


@quick
def test_a_dealer_that_says_it_is_not_enrolled_ends_no_run() -> None:
    """It is to enrol anew; what it answers in the same round, as if nothing were, is not for it."""

    def odd(stage: str, partition: int, round: int) -> str:
        return stages.NOT_ENROLLED if (stage, partition, round) == ("deal", 0, 1) else ""

    ran, _ = watched(instead=odd)
    assert ("deal", 0) in ran.left_out(1)
    opened(ran, ALL - {0}, 1, DEVICES - 1)
    opened(ran, ALL, 2)


@quick
def test_a_key_that_was_given_up_during_training_is_not_contributed_under(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by another process, which refused a sum meanwhile."""
    run_app = SecureClientApp._run_app

    def slow(self: SecureClientApp, message: Message, context: Context) -> Message:
        reply = run_app(self, message, context)
        if context.node_config["partition-id"] == 2 and message.metadata.group_id == "1":
            ContextVault(context.state).take("group")
        return reply

    monkeypatch.setattr(SecureClientApp, "_run_app", slow)
    ran, _ = watched()
    assert ran.left_out(1) == {("report", 2)}
    opened(ran, ALL - {2}, 1)


@quick
def test_an_opener_that_dies_has_lost_the_key() -> None:
    ran, grid = watched([Crash("reveal", {4}, {1})])
    assert ran.left_out(1) == {("reveal", 4)}
    opened(ran, ALL, 1)
    opened(ran, ALL, 2)
    assert grid.of("deal") == [0, 1]


# Keys that are lost, and devices that come and go


def forgets(partition: int, *slots: str) -> Callable[[Watched], dict[int, Callable[[], None]]]:
    """Before round 2 the device's vault loses some slots, without a name all of them."""

    def before(grid: Watched) -> dict[int, Callable[[], None]]:
        def forget() -> None:
            state = grid.state(partition)
            for slot in slots:
                assert ContextVault(state).take(slot) is not None
            if not slots:
                state.clear()

        return {2: forget}

    return before


@quick
@pytest.mark.parametrize("slots", [("group",), ()], ids=["its key", "everything"])
def test_a_device_that_lost_the_key_is_back_after_a_round(slots: tuple[str, ...]) -> None:
    ran, grid = watched(before=forgets(3, *slots), rounds=3)
    opened(ran, ALL, 1)
    assert ran.left_out(2) == {("report", 3)}
    opened(ran, ALL - {3}, 2)
    opened(ran, ALL, 3)
    assert grid.of("deal") == [0, 1]


@quick
def test_a_device_that_comes_later_makes_for_another_key() -> None:
    ran, grid = watched([Drop("enrol", {6}, {1, 2})], rounds=4)
    for round in (1, 2):
        opened(ran, ALL - {6}, round, cohort=6)
    opened(ran, ALL, 3)
    opened(ran, ALL, 4)
    assert [len(grid.of("deal", round)) for round in (1, 2, 3, 4)] == [1, 0, 1, 0]


@quick
@pytest.mark.parametrize("stage", ["enrol", "deal", "attest", "key"])
def test_a_device_cannot_have_the_key_given_up_at_any_stage(stage: str) -> None:
    """It says that it does not hold the key where nobody asked for that. The sum of the others goes
    on, and the key with it."""

    def saying(asked: str, partition: int, round: int) -> str:
        return stages.NO_GROUP_KEY if (asked, partition) == (stage, 1) else ""

    silent = {0} if stage == "deal" else set()  # or device 1 would not be asked to
    ran, grid = watched([Drop("deal", silent, {1})], instead=saying, rounds=3)
    assert (stage, 1001 if stage == "enrol" else 1) in ran.left_out(1)
    missing = {1} if stage in ("enrol", "key") else set()
    for round in (1, 2, 3):
        opened(ran, ALL - missing, round, cohort=DEVICES - len(missing))
    assert not grid.of("deal", 2) + grid.of("deal", 3)


@quick
@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("key", stages.BAD_GROUP_KEY),
        ("train", stages.NO_GROUP_KEY),
        ("reveal", "no"),
    ],
)
def test_a_device_that_always_refuses_costs_a_key_a_round_and_no_sum(
    stage: str, words: str
) -> None:
    """The limit, stated: nobody can tell it from one that was dealt no key, or lost it."""

    def saying(asked: str, partition: int, round: int) -> str:
        return words if (asked, partition) == (stage, 4) else ""

    ran, grid = watched(instead=saying, rounds=3)
    for round in (1, 2, 3):
        gone = {4} if stage != "reveal" else set()
        opened(ran, ALL - gone, round, cohort=DEVICES - (stage == "key"))
        assert len(grid.of("deal", round)) <= 1


@quick
def test_a_member_whose_time_is_over_is_in_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or whoever did not get the old one in time would refuse it from then on."""
    clock = SimpleNamespace(now=1_000)
    for module in (tacit.server.grid, tacit.client.app):
        monkeypatch.setattr(module, "_now", lambda: clock.now)
    until = {2: 1_005}
    members = [
        Member(d, simulated_identity(d).public, until.get(d, 2_000)) for d in range(1, DEVICES + 1)
    ]
    roster = Roster.signed(simulated_identity(0), 1, members, bytes(32))

    def later(stage: str, partition: int, round: int) -> str:
        clock.now = 1_010 if stage == "reveal" else clock.now
        return ""

    ran, grid = watched([Drop("key", {5}, {1})], roster=roster, instead=later)
    opened(ran, ALL - {5}, 1, cohort=6)
    assert not ran.left_out(2)
    opened(ran, ALL - {1}, 2, cohort=6)
    assert len(grid.of("deal")) == 2


class Growing(Watched):
    """A grid that its last node joins when round 2 begins."""

    def __init__(self, inner: Grid) -> None:
        super().__init__(inner)
        self.nodes = DEVICES - 1
        self.before = {2: self.grow}

    def grow(self) -> None:
        self.nodes = DEVICES

    def get_node_ids(self) -> list[int]:
        return list(self.inner.get_node_ids())[: self.nodes]


def rounds_of(
    strategy: FedAvg, number: int, devices: int, wrap: Callable[[Grid], Watched] = Watched
) -> tuple[Ran, Watched]:
    """As `watched`, with a strategy of one's own."""
    ran = Ran()
    with InProcessGrid(load(policy=AGREED), devices=devices) as inner, identity(inner.run.run_id):
        grid = wrap(inner)
        secure = Secure(strategy, SUMS).grid(grid, on_event=ran.events.append)

        def keep(_: int, arrays: Any) -> None:
            ran.models.append(linear.arrays_of(arrays))

        tell = ran.events.append
        plan = Plan(number, seed=3)
        run_rounds(secure, strategy, linear.initial(), plan, evaluate_fn=keep, on_event=tell)
    return ran, grid


@quick
def test_a_roster_that_grows_makes_for_another_key() -> None:
    strategy = FedAvg(min_train_nodes=6, min_available_nodes=6, fraction_evaluate=0.0)
    ran, grid = rounds_of(strategy, 4, DEVICES, Growing)
    # The strategy has chosen its nodes of round 2 when the last one joins.
    opened(ran, ALL - {6}, 1, cohort=6)
    opened(ran, ALL - {6}, 2, cohort=6)
    opened(ran, ALL, 3)
    opened(ran, ALL, 4)
    assert [len(grid.of("deal", round)) for round in (1, 2, 3, 4)] == [1, 0, 1, 0]


@quick
def test_a_part_of_the_devices_in_each_round() -> None:
    """A key is dealt to all that are known, so that there is no new one once all have been asked;
    who is asked later gets its box then."""
    strategy = FedAvg(
        fraction_train=0.5, fraction_evaluate=0.0, min_train_nodes=4, min_available_nodes=8
    )
    ran, grid = rounds_of(strategy, 9, 8)
    known: set[int] = set()
    dealt: set[int] = set()
    for round in range(1, 10):
        asked = set(grid.of("train", round))
        assert len(asked) == 4
        opened(ran, asked, round, cohort=4)
        known |= asked
        assert len(grid.of("deal", round)) == (not asked <= dealt)
        if not asked <= dealt:
            dealt = set(known)
    assert known == set(range(8))
    assert not grid.of("deal", 8) + grid.of("deal", 9)
    assert len(grid.of("key")) > 7  # some of them in rounds in which nobody dealt


# What the server adds up


def broken_contribution(monkeypatch: pytest.MonkeyPatch, device: int, junk: bytes) -> None:
    """The device's ciphertext is junk from its 1000th byte on, under its own signature."""

    def spoilt(group: GroupKey, packing: Packing, session: bytes, me: int, encoded: Ring) -> bytes:
        data = contribute(group, packing, session, me, encoded)
        if me != device:
            return data
        return data[:1000] + junk + data[1000 + len(junk) :]

    monkeypatch.setattr(hiding, "contribute", spoilt)


MARK = b"this one breaks it"


@pytest.mark.parametrize(
    ("junk", "reason"),
    [(MARK, "its ciphertexts broke the process"), (b"x" * 8000, "a ciphertext does not load")],
    ids=["kills the process", "does not load"],
)
def test_a_ciphertext_that_does_harm_costs_its_sender(
    junk: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_contribution(monkeypatch, 3, junk)
    command = marked("os.kill(os.getpid(), 11)", MARK)
    monkeypatch.setattr(
        tacit.server.grid, "Loader", lambda packing: Loader(packing, command=command)
    )
    ran, grid = watched()
    for round in (1, 2):
        (event,) = ran.of(LeftOut, round)
        assert (event.stage, event.device) == ("report", 3)
        assert reason in event.reason
        opened(ran, ALL - {2}, round)
    assert grid.of("deal") == [0]


def test_a_process_that_does_not_start_is_a_sum_that_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No device is to blame, and the run goes on."""
    commands = [["/no/such/program"]]

    def loader(packing: Packing) -> Loader:
        return Loader(packing, command=commands.pop() if commands else None)

    monkeypatch.setattr(tacit.server.grid, "Loader", loader)
    ran, _ = watched()
    assert not ran.left_out(1)
    failed(ran, "does not start")
    opened(ran, ALL, 2)


class Losing(Here):
    """Loses some of the contributions that it took, as a process may that broke."""

    lost: frozenset[int] = frozenset()

    def add(self, data: bytes | memoryview, *, sender: int) -> None:
        if sender not in self.lost:
            super().add(data, sender=sender)


def test_a_report_that_is_lost_later_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tacit.server.grid, "Loader", Losing)
    monkeypatch.setattr(Losing, "lost", frozenset({2, 6}))
    ran, _ = watched(rounds=1)
    assert ran.left_out(1) == {("report", 1), ("report", 5)}
    assert all("was lost with the process" in e.reason for e in ran.of(LeftOut, 1))
    opened(ran, ALL - {1, 5}, 1)
    monkeypatch.setattr(Losing, "lost", frozenset({2, 4, 6}))
    ran, _ = watched(rounds=1)
    failed(ran, "4 of 7 devices reported, at least 5 needed")


def test_more_devices_than_the_set_has_room_for() -> None:
    """The sum fails before anybody trains, and says why."""
    devices = WIDE.room + 1
    ran, grid = watched(protocol=TenSeal(parameters=WIDE.name), devices=devices, rounds=1)
    failed(ran, f"{devices} clients, expected 1..{devices - 1} with {WIDE.name}")
    assert not grid.of("train")


# A server that is started again


@quick
def test_a_server_that_is_started_again_deals_a_newer_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows nothing of the keys before. Serials come from the clock, which has gone on. Where it
    was set back, devices take no key until it has caught up; and then they do, also if one of them,
    which held none before, has taken an older one in the meantime."""
    clock = SimpleNamespace(now=1_000.0)
    monkeypatch.setattr(tacit.server.tenseal, "time", SimpleNamespace(time=lambda: clock.now))
    ran = Ran()

    def ask(grid: SecureGrid, round: int, now: float) -> None:
        clock.now = now
        config = ConfigRecord({"server-round": round})
        content = RecordDict({"arrays": linear.initial(), "config": config})
        grid.send_and_receive([Message(content, n, "train") for n in grid.get_node_ids()])

    with InProcessGrid(load(policy=AGREED), devices=4) as inner, identity(inner.run.run_id):

        def started() -> SecureGrid:
            return SecureGrid(inner, SUMS, on_event=ran.events.append)

        ask(started(), 1, 1_000.0)
        ask(started(), 2, 1_001.0)
        ask(started(), 3, 900.0)
        for slot in ("group", "epoch"):
            ContextVault(inner._fleet.context(1000).state).take(slot)
        last = started()
        ask(last, 4, 950.0)
        ask(last, 5, 1_002.0)
    assert [len(ran.of(SumOpened, round)) for round in (1, 2, 3, 4, 5)] == [1, 1, 0, 0, 1]
    for round in (3, 4):
        assert all("comes after epoch 1001" in e.reason for e in ran.of(LeftOut, round))
    assert {e.stage for e in ran.of(LeftOut, 3)} == {"deal"}
    assert {e.stage for e in ran.of(LeftOut, 4)} == {"key"}


# The keys of a run, one after the other


KEYS = tuple(RunKey.signed(simulated_identity(d), 1, d, bytes([d]) * 32) for d in range(1, 6))
ROSTER = simulated_roster(5)


def made(keys: GroupKeys, dealers: Sequence[int] = (1, 2, 3, 4, 5)) -> Consortium:
    return keys.propose(1, ROSTER, KEYS, dealers)


def held(keys: GroupKeys, by: Iterable[int] = ()) -> None:
    """As if the last proposal had been dealt, and brought to some."""
    consortium = keys._consortium
    assert consortium is not None
    boxes = Deal(tuple(bytes([d]) for d in consortium.others))
    keys.dealt(boxes.encode(), sender=consortium.dealer)
    for device in by:
        keys.delivered(device)


def test_dealers_take_turns_whatever_the_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if a silent one costs a minute, and five devices divide it."""
    clock = iter(range(0, 6_000, 60))
    monkeypatch.setattr(tacit.server.tenseal, "time", SimpleNamespace(time=lambda: next(clock)))
    keys = GroupKeys(PUBLIC)
    assert [made(keys).dealer for _ in range(6)] == [1, 2, 3, 4, 5, 1]
    assert [made(keys, (4, 2)).dealer for _ in range(2)] in ([2, 4], [4, 2])


@given(st.lists(st.integers(0, 2000), min_size=2, max_size=20))
def test_serials_rise_whatever_the_clock_says(times: list[int]) -> None:
    keys, clock = GroupKeys(PUBLIC), iter(times)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tacit.server.tenseal, "time", SimpleNamespace(time=lambda: next(clock)))
        serials = [made(keys).serial for _ in times]
    assert serials == sorted(set(serials))
    assert all(serial >= now for serial, now in zip(serials, times, strict=True))


def test_a_key_covers_its_members_until_it_is_given_up() -> None:
    keys = GroupKeys(PUBLIC)
    assert (keys.epoch, keys.holders, keys.to_deliver([1, 2])) == (b"", frozenset(), {})
    assert not keys.covers(ROSTER, KEYS, now=0)
    consortium = made(keys)
    assert not keys.covers(ROSTER, KEYS, now=0)  # nobody dealt
    assert keys.epoch == b""
    held(keys, [3])
    assert keys.epoch == consortium.epoch
    assert keys.holders == {1, 3}
    assert keys.covers(ROSTER, KEYS, now=0)
    assert keys.covers(ROSTER, KEYS[2:3], now=0)
    other = RunKey.signed(simulated_identity(5), 1, 5, bytes(32))
    assert not keys.covers(ROSTER, [*KEYS[:4], other], now=0)  # device 5 enrolled anew
    assert not keys.covers(simulated_roster(6), KEYS, now=0)
    assert not keys.covers(ROSTER, KEYS, now=1 << 63)  # all memberships are over
    keys.give_up()
    assert not keys.covers(ROSTER, KEYS, now=0)
    # The sum that is under way ends with it.
    assert keys.epoch == consortium.epoch
    assert keys.holders == {1, 3}
    assert made(keys).epoch != consortium.epoch
    assert keys.epoch == b""
    assert not keys.holders


def test_boxes_go_to_those_who_miss_them() -> None:
    keys = GroupKeys(PUBLIC)
    consortium = made(keys)
    held(keys, [3])
    told = keys.to_deliver([1, 2, 3, 5, 9])
    assert {device: delivery.box for device, delivery in told.items()} == {2: b"\2", 5: b"\5"}
    assert all(delivery.consortium == consortium for delivery in told.values())


def test_only_the_dealer_deals_and_once() -> None:
    keys = GroupKeys(PUBLIC)
    data = Deal((b"x",) * 4).encode()
    with pytest.raises(ProtocolError, match="device 1: not asked to deal"):
        keys.dealt(data, sender=1)
    made(keys)
    with pytest.raises(ProtocolError, match="device 2: not asked to deal"):
        keys.dealt(data, sender=2)
    for bad in (data[:-1], data + b"x", Deal((b"x",) * 3).encode(), b""):
        with pytest.raises(ProtocolError):
            keys.dealt(bad, sender=1)
    assert not keys.holders
    keys.dealt(data, sender=1)
    with pytest.raises(ProtocolError, match="not asked to deal"):
        keys.dealt(data, sender=1)


def test_one_device_shares_a_key_with_nobody() -> None:
    keys = GroupKeys(PUBLIC)
    for few in ([], KEYS[:1]):
        with pytest.raises(ParameterError, match="two members at least"):
            keys.propose(1, ROSTER, few, [key.device for key in few])
        assert keys.epoch == b""
        assert not keys.covers(ROSTER, few, now=0)


# The parameters


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"seats": 5}, "have no seats"),
        ({"seats": None}, ""),
        ({"hybrid": True}, "know no hybrid keys"),
        ({"parameters": "bfv-1024"}, "parameters='bfv-1024', expected one of bfv-4096"),
        ({"min_survivors": 1}, "min_survivors=1"),
        ({"bound": 1e12}, "leave no room in 21 bits"),
    ],
)
def test_parameters_that_cannot_be(wrong: dict[str, Any], reason: str) -> None:
    if not reason:
        TenSeal(**wrong)
        return
    with pytest.raises(ParameterError, match=reason):
        TenSeal(**wrong)


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("devices", [3, 10, 30])
def test_its_sessions_pass_the_policy_that_allows_them(name: str, devices: int) -> None:
    keys = [RunKey(d, d.to_bytes(32, "big"), bytes(32), bytes(64)) for d in range(devices, 0, -1)]
    roster = simulated_roster(devices)
    protocol = TenSeal(parameters=name)
    session = protocol.session(
        1, 1, Purpose.TRAIN, keys, roster, {}, 100, Binding(bytes(32), bytes(32)), bytes(32)
    )
    assert session.committee == session.devices == tuple(range(1, devices + 1))
    assert (session.he, session.lattice, session.degree, session.seats) == (name, "", 0, 0)
    assert session.packing == Packing.of(protocol.scheme, session.codec)
    assert session.packing.fields == protocol.scheme.fields
    AGREED.check(session, roster)
    with pytest.raises(PolicyRefusal, match=r"policy\.consortium"):
        Policy().check(session, roster)


def test_the_library_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise ParameterError("homomorphic sums need TenSEAL: pip install '.[he]'")

    monkeypatch.setattr(tacit.server.tenseal, "library", missing)
    with pytest.raises(ParameterError, match="need TenSEAL"):
        TenSeal()
