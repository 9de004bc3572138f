"""Keys and who vouches for them: a server that puts itself, or its own devices, between others."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest

from tacit.client.policy import Policy
from tacit.crypto.errors import ProtocolError
from tacit.crypto.identity import Identity, Member, Roster
from tacit.crypto.secagg import client, stages
from tacit.crypto.secagg.hybrid import SEED_BYTES
from tacit.crypto.wire import Writer
from tests.hostile.adversary import sets
from tests.hostile.attack import Attack, nothing, replaced, trial, trials
from tests.hostile.crowd import Crowd
from tests.hostile.invented import CREDULOUS, Invented
from tests.hostile.kinds import KINDS, LATTICE, PAIRS, current, under
from tests.hostile.test_sessions import all_open
from tests.runtime.desk import stage

pytestmark = pytest.mark.kinds(*KINDS)
VICTIM = 3


def in_the_middle() -> bool:
    """To the victim the server is everyone else, and to everyone else it is the victim.

    It reads the victim's input, and passes it on under its own key, so that the round comes out as
    it should and nobody wonders.
    """
    crowd, server = Crowd(), Identity(os.urandom(32))
    made = {device: Invented.of(device, server, crowd) for device in crowd.keys}
    others = [device for device in crowd.keys if device != VICTIM]
    for device in others:
        made[device].meet(crowd, [VICTIM])
        made[device].collude(crowd)
    made[VICTIM].meet(crowd, others)
    shown = [crowd.keys[d] if d == VICTIM else made[d].key for d in crowd.keys]
    session = crowd.session(cohort_keys=shown)
    crowd.heard(session, [VICTIM])
    # What hides it from the boxes for its invented members, and from its own ends of the pairs.
    total = crowd.adversary.total(crowd.adversary.dealt[session.id])
    if total is None or not crowd.adversary.reads(session, VICTIM):
        return False
    crowd.adversary.secrets.clear()
    relayed = crowd.session(
        cohort_keys=[made[d].key if d == VICTIM else crowd.keys[d] for d in crowd.keys]
    )
    state = made[VICTIM].state
    _, report = client.report(
        state,
        server,
        relayed,
        client.agree_all(state, relayed, made[VICTIM].kem),
        total,
        ("loss",),
        stages.setup_digest({}),
        os.urandom(client.REPORT_RAND_BYTES),
    )
    crowd.heard(relayed, others)
    crowd.adversary.reported(relayed, report.encode(relayed))
    crowd.opens(relayed, relayed.devices, others)
    assert sets(crowd.adversary.readings(relayed.id)) == {relayed.devices}
    return True


def strangers() -> bool:
    """A cohort of the victim and devices that the server made up: none is on the roster."""
    crowd = Crowd()
    made = [Invented.of(device, Identity(os.urandom(32)), crowd) for device in (11, 12, 13, 14)]
    return alone_with(crowd, made)


def another_authority() -> bool:
    """A roster of its own: the victim as it is, and devices that the server made up."""
    crowd = Crowd()
    identities = {device: Identity(os.urandom(32)) for device in (11, 12, 13, 14)}
    victim = crowd.app._device_of(crowd.contexts[VICTIM]).identity
    members = [Member(d, i.public, 1 << 60) for d, i in {**identities, VICTIM: victim}.items()]
    crowd.roster = Roster.signed(Identity(os.urandom(32)), 99, members, bytes(32))
    crowd.enrol([VICTIM])
    return alone_with(crowd, [Invented.of(d, i, crowd) for d, i in identities.items()])


def alone_with(crowd: Crowd, made: Sequence[Invented]) -> bool:
    """Whether the victim's input is read in a cohort of devices that the server made up."""
    for one in made:
        one.meet(crowd, [VICTIM])
        one.collude(crowd)
    session = crowd.session(cohort_keys=[crowd.keys[VICTIM], *(one.key for one in made)])
    crowd.heard(session, [VICTIM])
    return crowd.adversary.reads(session, VICTIM)


def a_cohort_of_colluders(policy: Policy | None = None) -> bool:
    """Four of twelve devices collude, no more than the third that a policy reckons with. But it is
    the server that picks the cohort: the victim, and these four."""
    crowd = Crowd(12, policy=policy, corrupt=(4, 5, 6, 7))
    session = crowd.session(cohort=(VICTIM, 4, 5, 6, 7))
    crowd.heard(session, [VICTIM])
    return crowd.adversary.reads(session, VICTIM)


MIDDLE: dict[str, Attack] = {
    "a man in the middle": Attack(
        in_the_middle,
        CREDULOUS,
        "run key is not signed by its device",
    ),
    "a cohort of strangers": Attack(
        strangers,
        CREDULOUS,
        "device 11: not on the roster",
    ),
    "a roster of another authority": Attack(
        another_authority, replaced(Roster, "verify", nothing), "not signed by the authority"
    ),
    "a cohort of colluders": Attack(
        lambda: a_cohort_of_colluders(Policy(min_cohort=12)),
        replaced(Policy, "check", nothing),
        "a cohort of 5, this device asks for 12",
    ),
}


@trials(MIDDLE)
def test_a_server_between_the_devices(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial(attack, defended, monkeypatch)


def test_colluders_are_counted_on_the_cohort_that_the_server_picks() -> None:
    """The limit of the default policy, stated: `corrupt` is a fraction of each cohort, and nothing
    makes a server pick cohorts that have no larger one. `min_cohort` is what an owner has: at least
    the number of colluders to be feared, divided by `corrupt`."""
    assert a_cohort_of_colluders()


# Recorded today, opened later


def recorded(hybrid: bool) -> bool:
    """Whether all reports of a round open to who kept them, and takes all X25519 keys apart later:
    by the boxes of everyone on the committee."""
    with under(replace(current(), hybrid=hybrid)):
        crowd = Crowd()
    session = crowd.session()
    crowd.heard(session)
    for device in crowd.keys:
        seed = bytes(SEED_BYTES) if hybrid else b""  # of ML-KEM it has to guess
        state = replace(crowd.secrets(device), kem_seed=seed)
        crowd.adversary.corrupt(state, dict.fromkeys(crowd.keys, bytes(32)))
    return all_open(crowd, session)


@pytest.mark.kinds(PAIRS, LATTICE)
def test_a_recorded_round_opens_once_x25519_falls_and_not_if_it_was_hybrid() -> None:
    assert recorded(hybrid=False)
    assert not recorded(hybrid=True)


# Every field, one by one


def flips(data: bytes) -> Iterable[bytes]:
    """One bit changed in each byte; which bit goes round."""
    for at, byte in enumerate(data):
        yield data[:at] + bytes([byte ^ 1 << at % 8]) + data[at + 1 :]


def accepted_run_keys() -> int:
    """How many of all run keys that differ from a peer's in one bit a device masks against."""
    crowd, taken = Crowd(), 0
    peer = 2
    written = Writer()
    crowd.keys[peer].write(written)
    session = crowd.session()
    encoded = session.encode()
    assert encoded.count(written.data()) == 1
    for changed in flips(written.data()):
        try:
            crowd.ask(1, "train", crowd.raw_request(encoded.replace(written.data(), changed), 1))
        except ProtocolError:
            continue
        crowd = Crowd()  # a device that took one session of round 1 takes no other
        written = Writer()
        crowd.keys[peer].write(written)
        encoded = crowd.session().encode()
        taken += 1
    return taken


@pytest.mark.parametrize("defended", [True, False], ids=["defended", "undefended"])
def test_a_run_key_with_one_bit_changed(defended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    attack = Attack(lambda: accepted_run_keys() > 0, CREDULOUS)
    trial(attack, defended, monkeypatch)


def accepted_rosters() -> int:
    """How many of all rosters that differ from the true one in one bit a device enrols under."""
    crowd, taken = Crowd(), 0
    for changed in flips(crowd.roster.encode()):
        try:
            crowd.ask(1, stages.ENROL, stage(roster=changed))
        except ProtocolError:
            continue
        taken += 1
    return taken


@pytest.mark.parametrize("defended", [True, False], ids=["defended", "undefended"])
def test_a_roster_with_one_bit_changed(defended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    attack = Attack(lambda: accepted_rosters() > 0, replaced(Roster, "verify", nothing))
    trial(attack, defended, monkeypatch)
