"""Replays, restarts, second questions: one set of survivors for a session, whatever is tried.

The prize is always the same: two sums that differ by one device, or the sum over one device.
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context

from tacit.client import rounds
from tacit.client.device import Device, simulated_device
from tacit.client.policy import Policy
from tacit.client.vault import FileVault, Vault
from tacit.crypto.errors import PolicyRefusal, ProtocolError, TacitError
from tacit.crypto.secagg import client
from tacit.crypto.secagg.client import Attested, Reported
from tacit.crypto.secagg.session import Session
from tacit.server.flower import identity
from tacit.server.pairwise import Pairwise
from tests.hostile.adversary import sets
from tests.hostile.attack import Attack, nothing, replaced, trial, trials
from tests.hostile.crowd import Crowd
from tests.hostile.kinds import KINDS
from tests.runtime.desk import RUN

pytestmark = pytest.mark.kinds(*KINDS)
VICTIM = 3
FEW = Pairwise(min_survivors=3)  # of five: two may be called missing


def everyone_but(session: Session, *devices: int) -> tuple[int, ...]:
    return tuple(device for device in session.devices if device not in devices)


# Two sums whose difference is one device


def the_round_again(restarted: bool = False, **devices: Any) -> bool:
    """The same session once more, the victim called missing this time."""
    crowd = Crowd(protocol=FEW, **devices)
    session = crowd.session()
    crowd.heard(session)
    crowd.opens(session, session.devices)
    assert not crowd.adversary.reads(session, VICTIM)
    for device in crowd.contexts if restarted else ():
        crowd.restart(device)
    crowd.heard(session)
    crowd.opens(session, everyone_but(session, VICTIM))
    return crowd.adversary.reads(session, VICTIM)


def asked_twice() -> bool:
    """Attest and reveal twice: everyone, and then all but the victim."""
    crowd = Crowd(protocol=FEW)
    session = crowd.session()
    crowd.heard(session)
    crowd.opens(session, session.devices)
    crowd.opens(session, everyone_but(session, VICTIM))
    return crowd.adversary.reads(session, VICTIM)


def another_set_before_the_reveal() -> bool:
    """Both sets are signed first, and then both opened."""
    crowd = Crowd(protocol=FEW)
    session = crowd.session()
    crowd.heard(session)
    fewer = everyone_but(session, VICTIM)
    crowd.signed(session, session.devices)
    crowd.signed(session, fewer)
    crowd.opened_by(session, fewer)
    crowd.opens(session, session.devices)
    return crowd.adversary.reads(session, VICTIM)


def called_missing_and_then_late() -> bool:
    """The victim's report was there all along. Its pair keys are opened, since it is "missing";
    then it is announced after all, for its self key."""
    crowd = Crowd(protocol=FEW)
    session = crowd.session()
    crowd.heard(session)
    crowd.opens(session, everyone_but(session, VICTIM))
    assert not crowd.adversary.reads(session, VICTIM)
    crowd.opens(session, session.devices)
    return crowd.adversary.reads(session, VICTIM)


def remembered(
    vault: Vault, expected: type[Any], step: Callable[[Any], tuple[Any, bytes]]
) -> bytes:
    """`rounds.advance` of a device that can go back to every state it was in."""
    slots = {Reported: "session", Attested: "attested"}
    data = vault.read(slots[expected])
    if data is None:
        raise ProtocolError("never was there", sender=0, stage="rounds")
    following, message = step(rounds.decode_state(data))
    if following is not None:
        vault.write(slots[Attested], rounds.encode_state(following))
    return message


def a_file_for_each(tmp: Path) -> Callable[[Context], Device]:
    """Devices that keep their states in files, opened anew for every message."""

    def device_of(context: Context) -> Device:
        device = simulated_device(context)
        folder = tmp / str(device.number)
        vault = FileVault.open(folder) if folder.exists() else FileVault.create(folder, bytes(32))
        return replace(device, vault=vault)

    return device_of


ONCE = replaced(rounds, "serve_once", nothing)
FORGETFUL = replaced(rounds, "_served", lambda vault: {})
BACKWARDS = replaced(rounds, "advance", remembered)

REPEATS = {
    "the round again": Attack(the_round_again, ONCE, "was served before"),
    "the round again, after a restart": Attack(
        lambda: the_round_again(restarted=True), FORGETFUL, "was served before"
    ),
    "asked twice": Attack(asked_twice, BACKWARDS, "asked for Reported, at NoneType"),
    "signed twice": Attack(
        another_set_before_the_reveal, BACKWARDS, "asked for Reported, at Attested"
    ),
    "called missing, and then late": Attack(
        called_missing_and_then_late, BACKWARDS, "asked for Reported, at NoneType"
    ),
}


@trials(REPEATS)
def test_two_sums_that_differ_by_one_device(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial(attack, defended, monkeypatch)


@pytest.mark.parametrize("defended", [True, False], ids=["defended", "undefended"])
def test_a_device_whose_state_is_in_files_does_not_forget(
    defended: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, but nothing is in memory: each message is a process of its own to the device."""
    attack = Attack(lambda: the_round_again(device_of=a_file_for_each(tmp_path)), FORGETFUL, "was")
    trial(attack, defended, monkeypatch)


# Sets that nobody should open


def alone_with_a_colluder() -> bool:
    """A sum over fewer than the session says: the victim, and one whose input the server knows."""
    crowd = Crowd(protocol=FEW, corrupt=(5,))
    session = crowd.session()
    crowd.heard(session)
    crowd.opens(session, (VICTIM, 5))
    return crowd.adversary.reads(session, VICTIM)


@pytest.mark.parametrize("defended", [True, False], ids=["defended", "undefended"])
def test_a_sum_over_too_few(defended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    remove = replaced(client, "_check_survivors", nothing)
    attack = Attack(alone_with_a_colluder, remove, "2 survivors, at least 3 needed")
    trial(attack, defended, monkeypatch)


def test_signatures_on_another_set_open_nothing() -> None:
    """All but one member sign one set, and their signatures are shown to the one who did not."""
    crowd = Crowd(protocol=FEW)
    session = crowd.session()
    crowd.heard(session)
    crowd.signed(session, session.devices, (1, 2, 3, 4))
    crowd.signed(session, everyone_but(session, VICTIM), [5])
    with pytest.raises(ProtocolError, match="device 1: did not sign our set of survivors"):
        crowd.reveal(5, crowd.adversary.proof(session, session.devices))
    assert not crowd.running(5)


# The order of things


def test_nothing_opens_before_it_is_signed() -> None:
    crowd = Crowd()
    session = crowd.session()
    crowd.heard(session)
    # A server that has signatures of its own making only.
    for member in session.devices:
        crowd.adversary.sign(session, session.devices, member)
    with pytest.raises(ProtocolError, match="asked for Attested, at Reported"):
        crowd.opened_by(session, session.devices)
    assert not crowd.running(1)
    assert not list(crowd.adversary.readings(session.id))


@pytest.mark.parametrize("defended", [True, False], ids=["defended", "undefended"])
@pytest.mark.parametrize("number", [5, 4, 1])
def test_rounds_only_go_forward(
    number: int, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device is asked for a sum that it has passed."""

    def asked() -> bool:
        crowd = Crowd()
        crowd.heard(crowd.session(5))
        return bool(crowd.report(1, crowd.session(number)))

    trial(Attack(asked, ONCE, "was served before"), defended, monkeypatch)


def test_a_new_run_leaves_nothing_of_the_one_before() -> None:
    """What is not on the device cannot be taken from it later."""
    crowd = Crowd()
    session = crowd.session()
    crowd.heard(session)
    crowd.signed(session, session.devices, [1])
    before = crowd.contexts[1]
    crowd.contexts[1] = Context(RUN + 1, before.node_id, before.node_config, before.state, {})
    with identity(RUN + 1):
        crowd.enrol([1])
    assert not crowd.running(1)


# One device both alive and dropped

LIARS = (6, 7)
SEVEN = Pairwise(min_survivors=5)


def two_halves() -> bool:
    """Half of the committee hears that the victim lives, the other that it is missing, and corrupt
    members sign whatever is wanted. Of thresholds the server takes the lowest that it gets.

    Of 7 members with 2 liars among them, 5 + 2 * 2 signatures can be had: enough for two sets with
    a threshold of four, and not with five, as 2t has to be above committee + corrupt.
    """
    crowd = Crowd(7, protocol=SEVEN, corrupt=LIARS)
    try:
        session = crowd.session(threshold=4)
        crowd.heard(session)
    except PolicyRefusal:
        session = crowd.session()
        crowd.heard(session)
    whole, fewer = session.devices, everyone_but(session, VICTIM)
    for members, survivors in (((1, 2, 3), whole), ((4, 5), fewer)):
        crowd.signed(session, survivors, (*members, *LIARS))
    crowd.opened_by(session, whole, (1, 2, 3))
    with contextlib.suppress(ProtocolError):
        crowd.opened_by(session, fewer, (4, 5))
    assert sets(crowd.adversary.readings(session.id)) >= {whole}  # one of the two does open
    return crowd.adversary.reads(session, VICTIM)


@pytest.mark.parametrize("defended", [True, False], ids=["defended", "undefended"])
def test_alive_to_one_half_and_missing_to_the_other(
    defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = Attack(two_halves, replaced(Policy, "_check_committee", nothing))
    trial(attack, defended, monkeypatch)


def more_seats_than_devices() -> bool:
    """A committee with one seat more than there are devices on the roster.

    How many corrupt devices such a draw can have is reckoned as none at all, so that a bare
    majority of the seats passes for a threshold. It is 6 of 9 members then, and 3 of these lie:
    two halves of the honest ones make two sets.
    """
    crowd = Crowd(9, protocol=Pairwise(min_survivors=8), corrupt=(7, 8, 9))
    session = crowd.session(seats=10, threshold=6)
    crowd.heard(session)
    whole, fewer = session.devices, everyone_but(session, VICTIM)
    for members, survivors in (((1, 2, 3), whole), ((4, 5, 6), fewer)):
        crowd.signed(session, survivors, (*members, 7, 8, 9))
        crowd.opened_by(session, survivors, members)
    return crowd.adversary.reads(session, VICTIM)


def test_a_committee_has_no_more_seats_than_there_are_devices() -> None:
    with contextlib.suppress(TacitError):
        assert not more_seats_than_devices()
