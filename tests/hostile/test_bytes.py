"""Bytes that are no message, at every stage, both ways.

To a device: an error that names the protocol, nothing computed, the running sum over. To the
server: the round goes on without whoever sent them, or is lost with the model as it was, bit for
bit. Nothing else may come of it.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.client.app import DeviceFailed
from tacit.crypto.errors import MalformedMessage, PolicyRefusal, ProtocolError, TacitError
from tacit.crypto.secagg import stages
from tacit.crypto.secagg.hybrid import DecapsulateRequest, EncapsulateRequest, Peer
from tacit.crypto.wire import Reader
from tacit.server.events import SumFailed, SumOpened
from tacit.server.flower import envelope, identity
from tacit.simulations.engine.faults import Corrupt
from tests.hostile.attack import Attack, trial
from tests.hostile.crowd import Crowd
from tests.hostile.kinds import HYBRID, LATTICE, PAIRS, Kind, current, under
from tests.hostile.test_members import DEVICES, Ran, is_whole, run, spoilt
from tests.runtime.desk import RUN, stage
from tests.strategies import mutations

pytestmark = pytest.mark.kinds(PAIRS, LATTICE)
ME = 1
STAGES = (stages.ENROL, "train", stages.ATTEST, stages.REVEAL)


def honest() -> dict[str, tuple[bytes, str]]:
    """For each stage the bytes that an honest server sends, and the field they are in."""
    return _honest(current())


@cache
def _honest(kind: Kind) -> dict[str, tuple[bytes, str]]:
    with identity(RUN), under(kind):
        crowd = Crowd()
        session = crowd.session()
        crowd.heard(session)
        ask = crowd.adversary.ask(session, session.devices, ME)
        crowd.signed(session, session.devices)
        proof = crowd.adversary.proof(session, session.devices)
    return {
        stages.ENROL: (crowd.roster.encode(), stages.ROSTER),
        "train": (session.encode(), stages.SESSION),
        stages.ATTEST: (ask.encode(session), stages.MESSAGE),
        stages.REVEAL: (proof.encode(), stages.MESSAGE),
    }


def ready(kind: str) -> Crowd:
    """Devices about to be sent this kind of message, device 1 in the middle of a sum."""
    crowd = Crowd()
    session = crowd.session()
    crowd.heard(session)
    if kind == stages.REVEAL:
        crowd.signed(session, session.devices, [ME])
    return crowd


def content(crowd: Crowd, kind: str, data: Any) -> RecordDict:
    if kind == "train":
        return crowd.raw_request(data, 1)
    return stage(**{honest()[kind][1]: data})


def refusal(crowd: Crowd, kind: str, content: RecordDict) -> TacitError | None:
    """What the device raises; any other exception is a failure of the test."""
    try:
        crowd.ask(ME, kind, content)
    except TacitError as refused:
        return refused
    return None


def broken(data: bytes) -> Iterator[bytes]:
    """Empty, cut short, with a tail, of another version, random, and far too long."""
    yield from (b"", data[:1], data[: len(data) // 2], data[:-1], data + b"\x00", data + data)
    yield bytes([data[0] ^ 0xFF]) + data[1:]
    yield np.random.default_rng(1).bytes(len(data))
    yield b"\xff" * len(data)
    yield bytes(len(data))
    yield b"\xff" * (1 << 20)


@pytest.mark.parametrize("kind", STAGES)
def test_broken_bytes_to_a_device(kind: str) -> None:
    """MalformedMessage or ProtocolError, and the sum that was running is over."""
    for data in broken(honest()[kind][0]):
        crowd = ready(kind)
        assert crowd.running(ME)
        refused = refusal(crowd, kind, content(crowd, kind, data))
        assert isinstance(refused, ProtocolError)
        assert refused.sender == 0
        assert not crowd.running(ME)


@pytest.mark.kinds(HYBRID)
@pytest.mark.parametrize("kind", [stages.ENCAPSULATE, stages.DECAPSULATE])
def test_broken_capsules_to_a_device(kind: str) -> None:
    """The stages that only a hybrid run has, in the middle of a sum."""
    crowd, middle = Crowd(), 2
    asked = EncapsulateRequest((Peer(crowd.keys[3], crowd.kem[3]),))
    told = DecapsulateRequest(((crowd.keys[1], crowd.capsules(1, [middle])[middle]),))
    good = (asked if kind == stages.ENCAPSULATE else told).encode()
    for round, data in enumerate(broken(good), start=1):
        session = crowd.session(round)
        crowd.heard(session, [middle])
        assert crowd.running(middle)
        with pytest.raises(ProtocolError) as refused:
            crowd.ask(middle, kind, stage(message=data))
        assert refused.value.sender == 0
        assert not crowd.running(middle)
    crowd.ask(middle, kind, stage(message=good))


FIELDS: dict[str, Any] = {
    "text": "text",
    "a number": 7,
    "a real number": 0.5,
    "a truth": True,
    "a list": [b"a", b"b"],
    "an empty list": [],
}


@pytest.mark.parametrize("value", FIELDS.values(), ids=FIELDS)
@pytest.mark.parametrize("kind", STAGES)
def test_fields_of_another_type_to_a_device(kind: str, value: Any) -> None:
    crowd = ready(kind)
    fields = ConfigRecord({honest()[kind][1]: value, "weight-key": "num-examples"})
    refused = refusal(crowd, kind, RecordDict({stages.RECORD: fields, "arrays": crowd.model}))
    assert isinstance(refused, MalformedMessage)
    assert not crowd.running(ME)


@pytest.mark.parametrize("kind", [stages.ENROL, stages.ATTEST, stages.REVEAL])
@pytest.mark.parametrize(
    "records",
    [{}, {stages.RECORD: MetricRecord({"message": 1})}, {"other": ConfigRecord()}],
    ids=["nothing", "numbers", "another name"],
)
def test_a_stage_without_its_record(kind: str, records: dict[str, Any]) -> None:
    """Malformed too; see below for what becomes of the running sum."""
    crowd = ready(stages.ATTEST)
    assert isinstance(refusal(crowd, kind, RecordDict(records)), MalformedMessage)


def test_a_stage_without_its_record_ends_the_running_sum() -> None:
    crowd = ready(stages.ATTEST)
    refusal(crowd, stages.ATTEST, RecordDict())
    assert not crowd.running(ME)


def ended_by_garbage() -> bool:
    """Whether a device that was sent garbage still helps to open the sum it was in."""
    crowd = Crowd()
    session = crowd.session()
    crowd.heard(session)
    for device in session.devices:
        with pytest.raises(TacitError):
            crowd.ask(device, "train", crowd.raw_request(b"garbage", 1))
    crowd.opens(session, session.devices)
    return bool(list(crowd.adversary.readings(session.id)))


@pytest.mark.parametrize("defended", [True, False], ids=["defended", "undefended"])
def test_garbage_ends_a_sum(defended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(patch: pytest.MonkeyPatch) -> None:
        patch.setattr("tacit.client.app.SecureClientApp._end", lambda *_, secure: None)

    attack = Attack(ended_by_garbage, without, "asked for Reported, at NoneType")
    trial(attack, defended, monkeypatch)


@settings(max_examples=60)
@given(data=st.data(), kind=st.sampled_from(STAGES))
def test_any_edit_of_a_message_to_a_device(data: st.DataObject, kind: str) -> None:
    """A device takes it, if it still is a message, or refuses it: by the protocol, or by policy
    where the edit made another session of it."""
    good = honest()[kind][0]
    bad = data.draw(mutations(good))
    with identity(RUN):
        crowd = ready(kind)
        refused = refusal(crowd, kind, content(crowd, kind, bad))
        if refused is not None:
            assert isinstance(refused, ProtocolError | PolicyRefusal | DeviceFailed)
            assert isinstance(refused, ProtocolError) or kind == "train"
            assert not crowd.running(ME)


def test_models_that_are_none() -> None:
    """Arrays are Flower's to read: what it makes of garbage is an error without its text."""
    for bad in (
        ArrayRecord({"w": Array("float64", (5,), "numpy.ndarray", b"garbage")}),
        ArrayRecord({"w": Array("float64", (5,), "no such format", bytes(40))}),
        ArrayRecord(),
    ):
        crowd = ready("train")
        refused = refusal(crowd, "train", crowd.request(crowd.session(2), arrays=bad))
        assert isinstance(refused, TacitError)
        assert "garbage" not in str(refused)
        assert not crowd.running(ME)


# To the server

REPLIES = {
    "enrol": stages.RUN_KEY,
    "report": stages.MESSAGE,
    "attest": stages.MESSAGE,
    "reveal": stages.MESSAGE,
}
LIAR = 2


def goes_on(ran: Ran) -> None:
    """Round 1 is exact without the liar or with it, or lost and the model untouched; round 2 is
    exact, since the liar behaves in it."""
    opened = {e.round for e in ran.events if isinstance(e, SumOpened)}
    lost = {e.round for e in ran.events if isinstance(e, SumFailed)}
    assert opened | lost == {1, 2}
    assert not opened & lost
    if 1 in opened:
        assert is_whole(ran.moved(1)) or is_whole(ran.moved(1), [LIAR])
    else:
        assert ran.models[1].tobytes() == ran.models[0].tobytes()
    assert 2 in opened
    assert is_whole(ran.moved(2))
    assert ran.named() <= {LIAR + 1, 1000 + LIAR}  # by its node, before it has enrolled


def junk(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda data: b"",
    "one byte": lambda data: data[:1],
    "cut short": lambda data: data[:-1],
    "a tail": lambda data: data + b"\x00",
    "twice": lambda data: data + data,
    "random": lambda data: junk(len(data)),
    "ones": lambda data: b"\xff" * len(data),
    "a megabyte": lambda data: junk(1 << 20),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("where", REPLIES)
def test_broken_bytes_to_the_server(where: str, change: Callable[[bytes], bytes]) -> None:
    ran = run([Corrupt(where, {LIAR}, {1}, how=spoilt(REPLIES[where], change))])
    goes_on(ran)
    assert ran.named()  # and it is told who sent them


def with_record(record: Any) -> Callable[[Message], Message]:
    def spoil(reply: Message) -> Message:
        own = envelope(reply)
        for name in list(own.content):
            del own.content[name]
        if record is not None:
            own.content[stages.RECORD] = record
        return own

    return spoil


RECORDS: dict[str, Any] = {
    "no record": None,
    "an empty record": ConfigRecord(),
    "numbers": MetricRecord({"message": 1}),
    "arrays": ArrayRecord({"message": Array(np.zeros(3))}),
    "text": ConfigRecord({"message": "text", "run-key": "text"}),
    "a list": ConfigRecord({"message": [b"a"], "run-key": [b"a"]}),
}


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
@pytest.mark.parametrize("where", REPLIES)
def test_records_of_another_kind_to_the_server(where: str, record: Any) -> None:
    goes_on(run([Corrupt(where, {LIAR}, {1}, how=with_record(record))]))


@settings(max_examples=40)
@given(data=st.data(), where=st.sampled_from(sorted(REPLIES)))
def test_any_edit_of_a_reply_to_the_server(data: st.DataObject, where: str) -> None:
    def change(sent: bytes) -> bytes:
        return data.draw(mutations(sent))

    goes_on(run([Corrupt(where, {LIAR}, {1}, how=spoilt(REPLIES[where], change))], devices=DEVICES))


def test_the_edits_above_do_reach_the_server() -> None:
    """A run in which the edit is undone is whole, and nobody is named."""
    for where, name in REPLIES.items():
        ran = run([Corrupt(where, {LIAR}, {1}, how=spoilt(name, lambda data: data))])
        assert is_whole(ran.moved(1))
        assert not ran.named()
    reader = Reader(b"", sender=0, stage="report")
    assert isinstance(reader.bad("x"), MalformedMessage)
