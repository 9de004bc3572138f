"""What people do to keys: who may, what it takes, and that all of it is said."""

import os

import pytest

from tacit.crypto.errors import ParameterError
from tacit.server.entries import read
from tacit.server.gate import desk
from tacit.server.gate.base import Denial, Grant, Role, State
from tacit.server.gate.desk import Wanted
from tacit.server.gate.keys import DRAW_BYTES
from tacit.server.gate.reveal import Detail
from tacit.server.gate.said import waits
from tacit.server.kinds import KeyIssued, KeyRenewed, KeyRevoked
from tests.server.gate.gates import AT, LIFE, World

ISSUERS = dict.fromkeys(Role, Role.AUTHORITY) | {
    Role.CLIENT: Role.OPERATOR,
    Role.VIEWER: Role.OPERATOR,
}


def rand() -> bytes:
    return os.urandom(DRAW_BYTES)


def done_to(gate: World, by: Grant, role: Role, act: str) -> None:
    """Does one act to a fresh key of a role."""
    name = gate.issue("other", role).name
    match act:
        case "issue":
            desk.issue(gate.store, by, Wanted("other", role, AT + LIFE), rand(), AT)
        case "rotate":
            desk.rotate(gate.store, by, name, 0.0, rand(), AT)
        case "revoke":
            desk.revoke(gate.store, by, name, AT)
        case "suspend":
            desk.suspend(gate.store, by, name, "why", AT)
        case "restore":
            desk.restore(gate.store, by, name, "why", AT)


@pytest.mark.parametrize("act", ["issue", "rotate", "revoke", "suspend", "restore"])
@pytest.mark.parametrize("role", Role)
def test_one_role_does_it_and_no_other(gate: World, act: str, role: Role) -> None:
    for by in Role:
        if by is ISSUERS[role]:
            done_to(gate, gate.by[by], role, act)
        else:
            before = len(gate.said) + 1  # the fresh key
            with pytest.raises(Denial) as refused:
                done_to(gate, gate.by[by], role, act)
            assert refused.value.stage == "scope"
            assert len(gate.said) == before


def test_a_holder_rotates_and_revokes_his_own(gate: World) -> None:
    key = gate.issue()
    own = gate.grant(key)
    desk.rotate(gate.store, own, key.name, 60.0, rand(), AT)
    desk.revoke(gate.store, own, key.name, AT)
    assert gate.said[-2:] == [
        KeyRenewed(key.name, "secret", key.name),
        KeyRevoked(key.name, key.name),
    ]
    for act in (
        lambda: desk.rotate(gate.store, own, key.name, 0.0, rand(), AT),
        lambda: desk.revoke(gate.store, own, key.name, AT),
        lambda: desk.restore(gate.store, gate.by[Role.OPERATOR], key.name, "why", AT),
    ):
        with pytest.raises(ParameterError, match="for good"):
            act()


def test_nobody_lifts_his_own_suspension(gate: World) -> None:
    second = gate.issue("gate", Role.AUTHORITY)
    by = gate.grant(second)
    desk.suspend(gate.store, gate.root, second.name, "why", AT)
    with pytest.raises(Denial, match="suspended"):
        gate.grant(second)
    assert by.state is State.OK  # what he was is not asked again: whoever acts shows his key anew


def test_the_last_authority_stays(gate: World) -> None:
    other = gate.by[Role.AUTHORITY]
    desk.revoke(gate.store, gate.root, other.key, AT)
    with pytest.raises(ParameterError, match="last authority"):
        desk.revoke(gate.store, gate.root, gate.root.key, AT)
    with pytest.raises(ParameterError, match="last authority"):
        desk.suspend(gate.store, gate.root, gate.root.key, "why", AT)


def test_a_gate_is_founded_once(gate: World) -> None:
    with pytest.raises(ParameterError, match="first key already"):
        desk.found_gate(gate.store, rand(), AT, AT + LIFE)
    assert gate.said[0] == KeyIssued(gate.root.key, "gate", "authority", "gate")


def test_what_is_not_issued(gate: World) -> None:
    for wrong in (
        {"details": frozenset({Detail.FULL})},
        {"networks": ("10.0.0.0/8", "here")},
        {"networks": ("10.0.0.1/8",)},
    ):
        with pytest.raises(ParameterError):
            Wanted("clinic", Role.CLIENT, AT + LIFE, **wrong)
    with pytest.raises(ParameterError, match="expired"):
        gate.issue(expires=AT)
    same = rand()
    wanted = Wanted("clinic", Role.CLIENT, AT + LIFE)
    desk.issue(gate.store, gate.by[Role.OPERATOR], wanted, same, AT)
    with pytest.raises(ParameterError, match="random bytes"):
        desk.issue(gate.store, gate.by[Role.OPERATOR], wanted, same, AT)


def test_a_state_takes_a_reason_and_a_name_a_key(gate: World) -> None:
    key, by = gate.issue(), gate.by[Role.OPERATOR]
    with pytest.raises(ParameterError, match="say why"):
        desk.suspend(gate.store, by, key.name, " ", AT)
    with pytest.raises(ParameterError, match="no key"):
        desk.suspend(gate.store, by, "nobody", "why", AT)
    for days in (-1.0, 1e9, float("nan")):
        with pytest.raises(ParameterError):
            desk.restore(gate.store, by, key.name, "why", AT, days)
        with pytest.raises(ParameterError):
            desk.rotate(gate.store, by, key.name, days, rand(), AT)


def test_who_sees_what(gate: World) -> None:
    for role in Role:
        if role in (Role.VIEWER, Role.OPERATOR, Role.AUTHORITY):
            assert len(desk.standings(gate.store, gate.by[role], AT)) == 6
        else:
            with pytest.raises(Denial):
                desk.standings(gate.store, gate.by[role], AT)


def test_what_fails_is_not_said(gate: World) -> None:
    """An act and its entry are there together, or neither is."""
    waiting, heard = waits(gate.store), len(gate.said)

    def fail() -> None:
        with gate.store.writing():
            gate.store.say(KeyRevoked(gate.root.key, "nobody"), AT)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (waits(gate.store), len(gate.said)) == (waiting, heard)
    with gate.store.reading() as db:
        kept = [read(entry).entry for (entry,) in db.execute("SELECT entry FROM said ORDER BY id")]
    assert kept == gate.said
