"""A device's state moves once and forward, whatever arrives in whatever order."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from flwr.app import Context, RecordDict
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tacit.client import rounds
from tacit.client.device import Device, simulated_device
from tacit.client.vault import ContextVault, FileVault, Vault
from tacit.crypto import labels
from tacit.crypto.errors import MalformedMessage, ProtocolError, TacitError
from tacit.crypto.secagg import messages, stages
from tacit.crypto.secagg.client import Attested, Enrolled, Reported
from tacit.crypto.secagg.messages import (
    HASH_BYTES,
    TAG_BYTES,
    AttestRequest,
    RevealRequest,
    Shares,
    survivors_digest,
)
from tacit.crypto.secagg.session import SECRET_BYTES, Purpose, Session
from tacit.crypto.simulated import simulated_identity
from tacit.server.flower import copy_records, identity
from tests.runtime.desk import RUN, Desk, field, stage

ME = 1
ALL = (1, 2, 3, 4)
SETS = (ALL, (1, 2, 3), (2, 3, 4))


@pytest.fixture(autouse=True)
def _task() -> Iterator[None]:
    with identity(RUN):
        yield


# States on the shelf


def sessions() -> Session:
    with identity(RUN):
        return Desk().enrol().session()


SESSION = sessions()
STATES = [
    Enrolled(RUN, 3, bytes(range(32))),
    Enrolled(RUN, 3, bytes(range(32)), bytes(range(64))),
    Reported(SESSION, 3),
    Attested(SESSION, 3, (1, 2, 4), np.arange(6 * 32, dtype=np.uint8).reshape(6, 32)),
]


@pytest.mark.parametrize("state", STATES)
def test_a_state_comes_back_from_the_vault_as_it_was(state: rounds.State) -> None:
    back = rounds.decode_state(rounds.encode_state(state))
    assert type(back) is type(state)
    assert rounds.encode_state(back) == rounds.encode_state(state)
    if isinstance(state, Attested) and isinstance(back, Attested):
        np.testing.assert_array_equal(back.opened, state.opened)
        assert back.survivors == state.survivors
    else:
        assert back == state


@pytest.mark.parametrize("state", STATES)
def test_a_damaged_state_is_malformed_and_nothing_else(state: rounds.State) -> None:
    data = rounds.encode_state(state)
    for size in range(0, len(data), 5):
        with pytest.raises(MalformedMessage):
            rounds.decode_state(data[:size])
    with pytest.raises(MalformedMessage, match="after the end"):
        rounds.decode_state(data + b"x")
    with pytest.raises(MalformedMessage, match="state of kind 9"):
        rounds.decode_state(b"\x09" + data[1:])


def test_an_ml_kem_seed_of_another_size_is_malformed() -> None:
    data = rounds.encode_state(Enrolled(RUN, 3, bytes(32), bytes(63)))
    with pytest.raises(MalformedMessage, match="an ML-KEM seed of 63 bytes"):
        rounds.decode_state(data)


@pytest.mark.parametrize("state", STATES)
def test_secrets_stay_out_of_repr(state: rounds.State) -> None:
    assert "secret" not in repr(state)
    assert "seed" not in repr(state)
    assert "opened" not in repr(state)


def test_a_failed_step_ends_the_sum() -> None:
    vault = ContextVault(RecordDict())
    rounds.begin(vault, STATES[2])  # type: ignore[arg-type]

    def fail(state: Reported) -> tuple[None, bytes]:
        raise ProtocolError("no", sender=0, stage="attest")

    with pytest.raises(ProtocolError, match="no"):
        rounds.advance(vault, Reported, fail)
    with pytest.raises(ProtocolError, match="asked for Reported, at NoneType"):
        rounds.advance(vault, Reported, fail)


def test_the_state_is_gone_while_the_step_runs() -> None:
    """A crash in the middle of a step leaves nothing that the step could be repeated with."""
    vault = ContextVault(RecordDict())
    rounds.begin(vault, STATES[2])  # type: ignore[arg-type]

    def look(state: Reported) -> tuple[None, bool]:
        return None, vault.read("session") is None

    assert rounds.advance(vault, Reported, look)


def test_counters_of_a_run_survive_other_runs() -> None:
    vault = ContextVault(RecordDict())
    rounds.serve_once(vault, replace(SESSION, run=1, round=5))
    rounds.serve_once(vault, replace(SESSION, run=2, round=1))
    with pytest.raises(ProtocolError, match=r"round 5 \(train\) was served before"):
        rounds.serve_once(vault, replace(SESSION, run=1, round=5))
    with pytest.raises(ProtocolError, match="at round 5"):
        rounds.serve_once(vault, replace(SESSION, run=1, round=4, purpose=Purpose.EVALUATE))
    rounds.serve_once(vault, replace(SESSION, run=1, round=5, purpose=Purpose.EVALUATE))
    rounds.serve_once(vault, replace(SESSION, run=2, round=2))


# Random sequences of messages against one real device


@dataclass(frozen=True)
class Report:
    session: int


@dataclass(frozen=True)
class Attest:
    session: int
    survivors: tuple[int, ...]


@dataclass(frozen=True)
class Reveal:
    session: int
    survivors: tuple[int, ...]


@dataclass(frozen=True)
class Enrol:
    """The same roster, or (`stale`) an older one."""

    stale: bool


@dataclass(frozen=True)
class Garbage:
    kind: str


@dataclass(frozen=True)
class Refused:
    """A session outside the policy."""


Move: TypeAlias = Report | Attest | Reveal | Enrol | Garbage | Refused


@dataclass(frozen=True)
class Stage:
    """Everything a colluding server could have in hand before the first move.

    Sessions: two of round 1 that differ in their cohort, the evaluation of round 1, and round 2.
    The other devices have served all of them, as devices that collude do.
    """

    desk: Desk
    start: RecordDict
    sessions: tuple[Session, ...]
    attests: dict[Attest, AttestRequest]
    reveals: dict[Reveal, RevealRequest]


@cache
def prepared() -> Stage:
    with identity(RUN):
        desk = Desk().enrol()
        start = copy_records(desk.contexts[ME].state)
        made = (
            desk.session(1),
            desk.session(1, cohort=(1, 2, 3)),
            desk.session(1, Purpose.EVALUATE),
            desk.session(2),
        )
        attests, reveals = {}, {}
        for number, session in enumerate(made):
            dealt = others(desk, session)
            for survivors in SETS:
                attests[Attest(number, survivors)] = dealt(survivors)
                digest = survivors_digest(session.id, survivors)
                signed = [
                    (m, simulated_identity(m).sign(labels.SURVIVORS, digest))
                    for m in session.committee
                ]
                request = RevealRequest(session.id, tuple(signed[-session.threshold :]))
                reveals[Reveal(number, survivors)] = request
        return Stage(desk, start, made, attests, reveals)


def others(desk: Desk, session: Session):
    """What the other devices deal to us in `session`; what we deal ourselves is left as zeros."""
    place, dealt = session.committee.index(ME), {}
    for device in session.devices:
        if device != ME:
            before = desk.contexts[device]
            state = copy_records(before.state)
            desk.contexts[device] = Context(RUN, before.node_id, before.node_config, state, {})
            sent = desk.report(device, session)
            report = messages.Report.decode(sent, session, sender=device)
            dealt[device] = (report.neighbours, report.sealed[place], report.hashes[place])
            desk.contexts[device] = before
    size = len(session.cohort)
    everyone = tuple(device for device in session.devices if device != ME)
    nothing = (everyone, bytes(size * SECRET_BYTES + TAG_BYTES), bytes(size * HASH_BYTES))

    def request(survivors: tuple[int, ...]) -> AttestRequest:
        rows = [dealt.get(d, nothing) for d in survivors]
        return AttestRequest(session.id, survivors, *zip(*rows, strict=True))

    return request


MOVES: st.SearchStrategy[Move] = st.one_of(
    st.builds(Report, st.integers(0, 3)),
    st.builds(Attest, st.integers(0, 3), st.sampled_from(SETS)),
    st.builds(Attest, st.integers(0, 3), st.sampled_from(SETS)),
    st.builds(Reveal, st.integers(0, 3), st.sampled_from(SETS)),
    st.builds(Enrol, st.booleans()),
    st.builds(Garbage, st.sampled_from([stages.ATTEST, stages.REVEAL, "train"])),
    st.just(Refused()),
)


@dataclass
class Oracle:
    """What the protocol allows, in a dozen lines: says of each move whether it may succeed."""

    served: tuple[int, int] = (0, 0)
    held: Report | Attest | None = None

    def allows(self, move: Move, sessions: tuple[Session, ...]) -> bool:
        before = self.held
        match move:
            case Report(number):
                self.held = None
                asked = (sessions[number].round, int(sessions[number].purpose))
                if asked <= self.served:
                    return False
                self.served, self.held = asked, move
                return True
            case Attest(number, survivors):
                self.held = None
                inside = set(survivors) <= set(sessions[number].devices)
                if before != Report(number) or not inside:
                    return False
                self.held = move
                return True
            case Reveal(number, survivors):
                self.held = None
                return before == Attest(number, survivors)
            case Enrol(stale):
                self.held = None if stale else before
                return not stale
            case Garbage() | Refused():
                self.held = None
                return False


def play(stage_: Stage, context: Context, move: Move) -> RecordDict:
    desk = stage_.desk
    desk.contexts[ME] = context
    match move:
        case Report(number):
            session = stage_.sessions[number]
            kind = session.purpose.name.lower()
            return desk.ask(ME, kind, desk.request(session))
        case Attest():
            session = stage_.sessions[move.session]
            request = stage_.attests[move].encode(session)
            return desk.ask(ME, stages.ATTEST, stage(message=request))
        case Reveal():
            return desk.ask(ME, stages.REVEAL, stage(message=stage_.reveals[move].encode()))
        case Enrol(stale):
            old = Desk(devices=2).roster
            return desk.ask(
                ME, stages.ENROL, stage(roster=(old if stale else desk.roster).encode())
            )
        case Garbage(kind):
            return desk.ask(ME, kind, stage(message=b"garbage", session=b"garbage", weight_key="n"))
        case Refused():
            refused = replace(stage_.sessions[3], min_survivors=2)
            return desk.ask(ME, "train", desk.request(refused))


def follow(stage_: Stage, context: Context, moves: list[Move]) -> None:
    """Play all moves; the device does what the oracle says, and never more."""
    oracle = Oracle()
    attested: dict[bytes, set[tuple[int, ...]]] = {}
    revealed: list[bytes] = []
    for move in moves:
        may = oracle.allows(move, stage_.sessions)
        try:
            reply = play(stage_, context, move)
        except TacitError:
            assert not may, f"{move} should have been answered"
            continue
        assert may, f"{move} should have been refused"
        if isinstance(move, Attest):
            attested.setdefault(stage_.sessions[move.session].id, set()).add(move.survivors)
        if isinstance(move, Reveal):
            session = stage_.sessions[move.session]
            revealed.append(session.id)
            check_opened(session, move.survivors, field(reply))
    assert all(len(sets) == 1 for sets in attested.values()), "two sets of one session"
    assert len(set(revealed)) == len(revealed), "one session revealed twice"
    assert set(revealed) <= set(attested), "a reveal without an attest"


def check_opened(session: Session, survivors: tuple[int, ...], data: bytes) -> None:
    """For each survivor its self key's share, and one for each dropped peer: no row more."""
    dropped = len(session.devices) - len(survivors)
    rows = len(survivors) * (1 + dropped)
    shares = Shares.decode(data, rows, SECRET_BYTES, sender=ME)
    assert shares.member == ME
    assert shares.opened.shape == (rows, SECRET_BYTES)


@settings(max_examples=80)
@given(moves=st.lists(MOVES, max_size=14))
@example([Report(0), Report(0), Attest(0, ALL)])  # a replay ends the sum it is about
@example([Report(0), Attest(0, ALL), Report(1), Reveal(0, ALL)])
@example([Report(0), Attest(0, ALL), Attest(0, (1, 2, 3)), Reveal(0, ALL)])
@example([Report(0), Garbage(stages.ATTEST), Attest(0, ALL)])
@example([Report(3), Report(2), Attest(3, ALL)])
def test_any_sequence_of_messages(moves: list[Move]) -> None:
    stage_ = prepared()
    state = copy_records(stage_.start)
    follow(stage_, Context(RUN, 1000, {"partition-id": ME - 1}, state, {}), moves)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=st.lists(MOVES, min_size=4, max_size=10))
def test_any_sequence_of_messages_to_a_device_that_restarts_after_each(
    moves: list[Move], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is in the files: each message opens the vault anew, as a process of its own."""
    stage_ = prepared()
    folder = tmp_path / os.urandom(8).hex()
    vault: Vault = FileVault.create(folder, bytes(32))
    for slot in ("run", "roster"):
        kept = ContextVault(copy_records(stage_.start)).read(slot)
        assert kept is not None
        vault.write(slot, kept)

    def filed(context: Context) -> Device:
        device = simulated_device(context)
        return replace(device, vault=FileVault.open(folder)) if device.number == ME else device

    monkeypatch.setattr(stage_.desk.app, "_device_of", filed)
    follow(stage_, Context(RUN, 1000, {"partition-id": ME - 1}, RecordDict(), {}), moves)


def test_the_whole_way_is_walked_and_back_again_is_not() -> None:
    """The moves above can succeed: an oracle that refused everything would pass otherwise."""
    stage_ = prepared()
    context = Context(RUN, 1000, {"partition-id": ME - 1}, copy_records(stage_.start), {})
    way: list[Move] = [Report(0), Attest(0, (1, 2, 3)), Reveal(0, (1, 2, 3))]
    way += [Report(2), Attest(2, ALL), Reveal(2, ALL), Report(3), Attest(3, (2, 3, 4))]
    oracle = Oracle()
    assert all(oracle.allows(move, stage_.sessions) for move in way)
    follow(stage_, context, [*way, Reveal(3, (2, 3, 4)), Report(1), Report(0), Reveal(0, ALL)])
