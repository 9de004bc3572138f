"""Keys and who vouches for them: a server that puts itself, or its own devices, between others."""

import os
from collections.abc import Iterable

import pytest

from tacit.client.policy import Policy
from tacit.crypto.errors import ProtocolError
from tacit.crypto.identity import Identity, Member, Roster, RunKey
from tacit.crypto.secagg import client, stages
from tacit.crypto.secagg.client import Enrolled
from tacit.crypto.secagg.session import Session
from tacit.crypto.wire import Writer
from tests.hostile.adversary import sets
from tests.hostile.attack import Attack, nothing, replaced, together, trial, trials
from tests.hostile.crowd import Crowd
from tests.runtime.desk import RUN, stage

VICTIM = 3


def invented(device: int, identity: Identity) -> tuple[Enrolled, RunKey]:
    """A run key that the server makes up for a device, signed by an identity of its choice."""
    return client.enrol(identity, RUN, device, os.urandom(32))


def in_the_middle() -> bool:
    """To the victim the server is everyone else, and to everyone else it is the victim.

    It reads the victim's input, and passes it on under its own key, so that the round comes out as
    it should and nobody wonders.
    """
    crowd, server = Crowd(), Identity(os.urandom(32))
    made = {device: invented(device, server) for device in crowd.keys}
    shown = [crowd.keys[d] if d == VICTIM else made[d][1] for d in crowd.keys]
    session = crowd.session(cohort_keys=shown)
    for device, (state, _) in made.items():
        if device != VICTIM:
            crowd.adversary.corrupt(state)
    crowd.heard(session, [VICTIM])
    # The self key from the boxes for its invented members, the pair keys from its own ends.
    total = crowd.adversary.total(crowd.adversary.dealt[session.id])
    if total is None or not crowd.adversary.reads(session, VICTIM):
        return False
    crowd.adversary.secrets.clear()
    others = [made[d][1] if d == VICTIM else crowd.keys[d] for d in crowd.keys]
    relayed = crowd.session(cohort_keys=others)
    state = made[VICTIM][0]
    _, report = client.report(
        state,
        server,
        relayed,
        client.agree_all(state, relayed),
        total,
        ("loss",),
        stages.setup_digest({}),
        os.urandom(client.REPORT_RAND_BYTES),
    )
    crowd.heard(relayed, [d for d in crowd.keys if d != VICTIM])
    crowd.adversary.reported(relayed, report.encode(relayed))
    crowd.opens(relayed, relayed.devices, [d for d in crowd.keys if d != VICTIM])
    assert sets(crowd.adversary.readings(relayed.id)) == {relayed.devices}
    return True


def strangers() -> bool:
    """A cohort of the victim and devices that the server made up: none is on the roster."""
    crowd = Crowd()
    made = [invented(device, Identity(os.urandom(32))) for device in (11, 12, 13, 14)]
    session = crowd.session(cohort_keys=[crowd.keys[VICTIM], *(key for _, key in made)])
    for state, _ in made:
        crowd.adversary.corrupt(state)
    crowd.heard(session, [VICTIM])
    return crowd.adversary.reads(session, VICTIM)


def another_authority() -> bool:
    """A roster of its own: the victim as it is, and devices that the server made up."""
    crowd = Crowd()
    made = {device: Identity(os.urandom(32)) for device in (11, 12, 13, 14)}
    identity = crowd.app._device_of(crowd.contexts[VICTIM]).identity
    members = [Member(d, i.public, 1 << 60) for d, i in {**made, VICTIM: identity}.items()]
    crowd.roster = Roster.signed(Identity(os.urandom(32)), 99, members, bytes(32))
    crowd.enrol([VICTIM])
    enrolled = [invented(device, identity) for device, identity in made.items()]
    session = crowd.session(cohort_keys=[crowd.keys[VICTIM], *(key for _, key in enrolled)])
    for state, _ in enrolled:
        crowd.adversary.corrupt(state)
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
        replaced(Session, "verify_keys", nothing),
        "run key is not signed by its device",
    ),
    "a cohort of strangers": Attack(
        strangers,
        together(
            replaced(Session, "verify_members", nothing), replaced(Session, "verify_keys", nothing)
        ),
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
    attack = Attack(
        lambda: accepted_run_keys() > 0,
        together(
            replaced(Session, "verify_keys", nothing), replaced(Session, "verify_members", nothing)
        ),
    )
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
