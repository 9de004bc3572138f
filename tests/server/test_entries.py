"""Entries of an audit log: pinned bytes, one way to write each, strangers' texts kept harmless."""

import json
import sys
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.errors import Damaged
from tacit.server import entries
from tacit.server.deployed import (
    Granted,
    NodeRegistered,
    NodeUnregistered,
    OrderRefused,
    ProcessEnded,
    ProcessStarted,
    RunBegun,
    RunEnded,
    RunOrdered,
    StrangerEnded,
    TurnedAway,
    Withdrawn,
)
from tacit.server.entries import LONGEST_REASON, Noted, encode, noted, one_line, read
from tacit.server.events import (
    BudgetSpent,
    CohortCommitted,
    CohortDivided,
    EpsilonSpent,
    KeyChanged,
    LeftOut,
    RoundFinished,
    RoundStarted,
    RunFinished,
    RunStarted,
    SumFailed,
    SumOpened,
)
from tacit.server.kinds import (
    Answered,
    Approved,
    Audited,
    Certified,
    CheckpointDamaged,
    CheckpointKept,
    Denied,
    Dismissed,
    Enrolled,
    GateOpened,
    Judged,
    KeyIssued,
    KeyRenewed,
    KeyRevoked,
    MarkCommitted,
    Refused,
    Released,
    Renewed,
    Revoked,
    RosterIssued,
    Rotated,
)

AT = 1700000000.5
DIGEST = "ab" * 32
PINNED = {
    CohortCommitted(3, "train", 7, DIGEST): (
        b'{"at":1700000000.5,"devices":7,"event":"CohortCommitted","purpose":"train","round":3,'
        b'"session":"%s"}' % DIGEST.encode()
    ),
    EpsilonSpent(3, 1.25, 1e-05, "client", "server", 3): (
        b'{"against":"server","at":1700000000.5,"delta":1e-05,"epsilon":1.25,'
        b'"event":"EpsilonSpent","releases":3,"round":3,"unit":"client"}'
    ),
    EpsilonSpent(1, None, 1e-05, "record", "outsider", 5): (
        b'{"against":"outsider","at":1700000000.5,"delta":1e-05,"epsilon":null,'
        b'"event":"EpsilonSpent","releases":5,"round":1,"unit":"record"}'
    ),
    Refused(2, "report", 18446744073709551615, "no"): (
        b'{"at":1700000000.5,"device":18446744073709551615,"event":"Refused","reason":"no",'
        b'"round":2,"stage":"report"}'
    ),
    KeyChanged(1, "run", 4, DIGEST): (
        b'{"at":1700000000.5,"device":4,"event":"KeyChanged","fingerprint":"%s","kind":"run",'
        b'"round":1}' % DIGEST.encode()
    ),
    KeyChanged(1, "roster", None, DIGEST): (
        b'{"at":1700000000.5,"device":null,"event":"KeyChanged","fingerprint":"%s",'
        b'"kind":"roster","round":1}' % DIGEST.encode()
    ),
}
OTHERS = [
    RunStarted(3),
    RoundStarted(1, 3),
    CohortDivided(1, 20, 10, 2, 3),
    LeftOut(1, "report", 4, "no answer"),  # as logs had a refusal before there was `Refused`
    SumOpened(1, "train", 6, 7, 0.5, "pairwise"),
    SumFailed(1, "train", "too few"),
    BudgetSpent(2, "no room"),
    RoundFinished(1, 3, 1.5, {"loss": 0.5}, {}, {"accuracy": 1}),
    RunFinished(3, 4.5),
    CheckpointKept(1, DIGEST),
    CheckpointDamaged(1, "checkpoint.npz is damaged"),
    Released("model.safetensors", DIGEST),
    Answered("key", 5, DIGEST),
    Denied("key", "budget", 3),
    GateOpened(DIGEST, "label"),
    KeyIssued("key", "clinic", "client", "other"),
    KeyRenewed("key", "secret", "other"),
    KeyRevoked("key", "other"),
    Judged("key", "ok", "degraded", "gate", "far from what it was trained on"),
    Approved("release", "model", "key", "other"),
    MarkCommitted("triggers", DIGEST),
    Audited("model", DIGEST, True),
    Enrolled(4, "ward-3", "ABCD-EFGH-IJKL-MNOP-QRST", 1800000000),
    Rotated(4, "ward-3", "ABCD-EFGH-IJKL-MNOP-QRST", 1800000000),
    Revoked(4, "ward-3", "stolen"),
    Certified("front", "ABCD-EFGH-IJKL-MNOP-QRST", 1800000000),
    Dismissed("front", "moved"),
    Renewed(3, 1800000000, "certificate"),
    RosterIssued(1, 3, DIGEST, DIGEST),
    RosterIssued(2, 3, DIGEST, DIGEST, DIGEST, DIGEST * 2),
    ProcessStarted("superlink"),
    ProcessEnded("superlink", "SIGKILL"),
    RunOrdered("digits", DIGEST, "anna"),
    RunBegun("digits", 18446744073709551615, 3),
    RunEnded("digits", "failed", "too few devices"),
    StrangerEnded(18446744073709551615, "digits"),
    OrderRefused("run digits", "anna", "a viewer may not"),
    TurnedAway("plain text", "192.0.2.1", "", 7),
    Granted("anna", "operator", DIGEST, "owner"),
    Withdrawn("anna", "owner"),
    NodeRegistered("ward-3", DIGEST),
    NodeUnregistered("ward-3", DIGEST),
]


def written(entry: Any, **more: Any) -> bytes:
    return noted({"event": type(entry).__name__, **asdict(entry), "at": AT, **more})


@pytest.mark.parametrize("entry", PINNED)
def test_the_bytes_of_an_entry_do_not_change(entry: Any) -> None:
    assert written(entry) == PINNED[entry]
    assert read(PINNED[entry]) == Noted(AT, entry)


def test_every_kind_is_read_as_it_was_written() -> None:
    said = [*PINNED, *OTHERS]
    assert {type(entry).__name__ for entry in said} == entries._KINDS.keys()
    for entry in said:
        assert read(written(entry)) == Noted(AT, entry)


def test_an_entry_from_before_a_field_was_added_is_read() -> None:
    assert read(b'{"at":1,"event":"RunStarted","rounds":3}') == Noted(1, RunStarted(3, 0))


GOOD = json.loads(PINNED[EpsilonSpent(3, 1.25, 1e-05, "client", "server", 3)])
WRONG: dict[str, dict[str, Any]] = {
    "an unknown kind": {"event": "Invented"},
    "a kind that is no text": {"event": ["EpsilonSpent"]},
    "no kind": {"event": None},
    "an unknown field": {"more": 1},
    "a time that is none": {"at": "now"},
    "a time before all": {"at": -1},
    "a time that no calendar has": {"at": 1e300},
    "a text for a number": {"epsilon": "1.25"},
    "a truth for a number": {"epsilon": True},
    "a number beyond floats": {"delta": 10**400},
    "no number where there has to be one": {"delta": None},
    "a number for a text": {"unit": 1},
    "a text that is too long": {"unit": "x" * (LONGEST_REASON + 4)},
    "a text of two lines": {"unit": "client\nround 4"},
    "a text that moves a cursor": {"unit": "\x1b[2Jclient"},
    "a text that turns others around": {"unit": "\u202eclient"},
    "a fraction of a round": {"round": 3.0},
    "a truth for a round": {"round": True},
    "a round below 0": {"round": -1},
    "a round of 65 bits": {"round": 1 << 64},
    "a list": {"releases": [3]},
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_written_is_not_read(name: str) -> None:
    assert isinstance(read(encode(GOOD)).entry, EpsilonSpent)
    with pytest.raises(Damaged) as refused:
        read(encode(GOOD | WRONG[name]))
    assert one_line(str(refused.value)) == str(refused.value)


@pytest.mark.parametrize("field", sorted(GOOD))
def test_no_field_may_be_missing(field: str) -> None:
    with pytest.raises(Damaged):
        read(encode({name: value for name, value in GOOD.items() if name != field}))


@pytest.mark.parametrize("server", [[], {"a": "1"}, {"a": None}, {"a\n": 1.0}, {"a": {"b": 1.0}}])
def test_metrics_are_numbers_under_harmless_names(server: Any) -> None:
    entry = json.loads(written(RoundFinished(1, 3, 1.5)))
    with pytest.raises(Damaged, match="wrong server"):
        read(encode(entry | {"server": server}))


@pytest.mark.parametrize("after", [b"\x00", b"\n", b" ", b"{}"])
def test_nothing_follows_an_entry(after: bytes) -> None:
    for data in PINNED.values():
        with pytest.raises(Damaged):
            read(data + after)


@given(st.text() | st.text(st.sampled_from("\x00\x1b\n\r\u2028\u202e\ud800x"), min_size=400))
def test_what_a_device_says_is_one_harmless_line(said: str) -> None:
    found = read(written(Refused(1, "report", 3, said))).entry
    assert isinstance(found, Refused)
    assert not found.reason or found.reason.isprintable()
    assert len(found.reason) <= LONGEST_REASON + len("...")
    assert read(written(found)).entry == found
    metrics = read(written(RoundFinished(1, 1, 1.0, {said: 1.0}))).entry
    assert isinstance(metrics, RoundFinished)
    assert all(not name or name.isprintable() for name in metrics.train)


def test_a_long_reason_keeps_its_beginning() -> None:
    entry = Refused(1, "report", 3, "x" * 10_000)
    kept = "x" * LONGEST_REASON + "..."
    assert read(written(entry)).entry == replace(entry, reason=kept)


@given(st.binary())
def test_bytes_are_read_or_damaged(data: bytes) -> None:
    try:
        found = read(data)
    except Damaged:
        return
    assert 0 <= found.at < sys.float_info.max
