"""Members of a committee that contribute nothing: asked twice, presented as what they are not.

A drawn committee may sit outside the cohort. Such a witness sees the session only along with the
survivors, so everything that a report has checked has to be checked there.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tacit.client import rounds
from tacit.client.app import SecureClientApp
from tacit.client.policy import Policy
from tacit.crypto.errors import ProtocolError
from tacit.crypto.identity import Identity
from tacit.crypto.secagg import client, stages
from tacit.crypto.secagg.session import Session
from tacit.server.pairwise import Pairwise
from tests.hostile.attack import Attack, nothing, replaced, together, trial, trials
from tests.hostile.crowd import Crowd
from tests.hostile.invented import CREDULOUS, Invented
from tests.hostile.kinds import KINDS, current
from tests.runtime.desk import stage

pytestmark = pytest.mark.kinds(*KINDS)
DEVICES, SEATS = 12, 5
VICTIM = 0  # place in the cohort: which devices are drawn is the beacon's


def crowd_with_witnesses(**more: Any) -> tuple[Crowd, Session]:
    """Twelve devices, five of them drawn for the committee, the other seven the cohort."""
    protocol = Pairwise(corrupt=0.0, seats=SEATS, min_survivors=5)
    crowd = Crowd(DEVICES, policy=Policy(corrupt=0.0), protocol=protocol, **more)
    drawn = crowd.roster.drawn(SEATS)
    cohort = [device for device in crowd.keys if device not in drawn]
    session = crowd.session(cohort=cohort)
    assert tuple(key.device for key in session.witnesses) == session.committee == drawn
    return crowd, session


def two_sets() -> bool:
    """Every witness is asked about all devices, opens that, and is asked again without one."""
    crowd, session = crowd_with_witnesses()
    crowd.heard(session)
    crowd.opens(session, session.devices)
    victim = session.devices[VICTIM]
    crowd.opens(session, tuple(d for d in session.devices if d != victim))
    return crowd.adversary.reads(session, victim)


def two_sets_before_a_reveal() -> bool:
    crowd, session = crowd_with_witnesses()
    crowd.heard(session)
    victim = session.devices[VICTIM]
    fewer = tuple(d for d in session.devices if d != victim)
    crowd.signed(session, session.devices)
    crowd.opens(session, fewer)
    return bool(list(crowd.adversary.readings(session.id)))


def outside_its_policy() -> bool:
    """The cohort agrees to a sum that the witnesses' owners do not agree to."""
    crowd, session = crowd_with_witnesses()
    crowd.heard(session)
    owned = current().joined(Policy(corrupt=0.0, min_survivors=6))
    strict = SecureClientApp(owned, crowd.app._device_of)
    crowd.app = strict
    crowd.opens(session, session.devices)
    return bool(list(crowd.adversary.readings(session.id)))


def stale() -> bool:
    """The witnesses have passed this round with another sum; the cohort is new to it."""
    crowd, session = crowd_with_witnesses()
    later = crowd.session(5, cohort=session.devices)
    crowd.heard(later)
    crowd.opens(later, later.devices)
    for device in session.devices:
        crowd.app._device_of(crowd.contexts[device]).vault.take("served")
    earlier = crowd.session(4, cohort=session.devices)
    crowd.heard(earlier)
    crowd.opens(earlier, earlier.devices)
    return bool(list(crowd.adversary.readings(earlier.id)))


def stranger() -> bool:
    """Witnesses that the server made up hold every seat, and open each report by itself."""
    crowd, honest = crowd_with_witnesses()
    made = [
        Invented.of(device, Identity(os.urandom(32)), crowd) for device in range(21, 21 + SEATS)
    ]
    for one in made:
        one.meet(crowd, honest.devices)
        one.collude(crowd)
    session = replace(
        honest,
        witnesses=tuple(one.key for one in made),
        committee=tuple(one.state.device for one in made),
    )
    crowd.heard(session)
    return alone(crowd, session)


def alone(crowd: Crowd, session: Session) -> bool:
    victim = session.devices[VICTIM]
    dealt = [one for one in crowd.adversary.dealt[session.id] if one.device == victim]
    total = crowd.adversary.total(dealt)
    return total is not None and session.codec.decode(total, 1).update[victim - 1] == 1


def not_drawn() -> bool:
    """Colluders for witnesses, in place of those that the beacon drew."""
    crowd, honest = crowd_with_witnesses()
    colluders, cohort = (
        honest.devices[1:6],
        (honest.devices[0], *honest.committee, honest.devices[6]),
    )
    for device in colluders:
        crowd.corrupt(device)
    plain = crowd.session(cohort=sorted(cohort))
    session = replace(
        plain,
        committee=colluders,
        witnesses=tuple(crowd.keys[device] for device in colluders),
    )
    crowd.heard(session)
    return alone(crowd, session)


WITNESSES: dict[str, Attack] = {
    "two sets, one after the other": Attack(
        two_sets, replaced(rounds, "serve_once", nothing), "was served before"
    ),
    "two sets before a reveal": Attack(
        two_sets_before_a_reveal, replaced(rounds, "serve_once", nothing), "was served before"
    ),
    "outside its policy": Attack(
        outside_its_policy,
        replaced(Policy, "check", nothing),
        "a sum over 5, this device asks for 6",
    ),
    "a round that it has passed": Attack(
        stale, replaced(rounds, "serve_once", nothing), r"round 4 \(train\) was served before"
    ),
    "strangers": Attack(
        stranger,
        together(CREDULOUS, replaced(Policy, "_check_committee", nothing)),
        "device 21: not on the roster",
    ),
    "colluders who were not drawn": Attack(
        not_drawn,
        replaced(Policy, "_check_committee", nothing),
        "a committee that the roster's beacon did not draw",
    ),
}


@trials(WITNESSES)
def test_witnesses(attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    trial(attack, defended, monkeypatch)


# The session in an attest message, where it does not belong


def shown_again(crowd: Crowd, session: Session, device: int) -> bytes:
    """A member is sent the session along with the survivors, as if it were a witness."""
    ask = crowd.adversary.ask(session, session.devices, device)
    fields = stage(message=ask.encode(session), session=session.encode())
    value = crowd.ask(device, stages.ATTEST, fields)[stages.RECORD][stages.MESSAGE]
    assert isinstance(value, bytes)
    return value


def a_contributor_as_a_witness() -> bool:
    """A member of the cohort that has reported is shown the session anew, to begin again."""
    crowd = Crowd()
    session = crowd.session()
    crowd.heard(session)
    return bool(shown_again(crowd, session, 1))


def seated(state: client.Enrolled, session: Session) -> client.Reported:
    """`witness` of a device that takes any session for one it sits in."""
    return client.Reported(session, state.device)


@pytest.mark.parametrize("defended", [True, False], ids=["defended", "undefended"])
def test_who_reported_is_no_witness(defended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    removal = together(replaced(client, "witness", seated), replaced(rounds, "serve_once", nothing))
    attack = Attack(a_contributor_as_a_witness, removal, "device 1 is no witness in this run")
    trial(attack, defended, monkeypatch)


def after_the_refusal(show: Callable[[Crowd, Session], object]) -> None:
    """Whatever was tried, the sum that was running is over for this device."""
    crowd = Crowd()
    session = crowd.session()
    crowd.heard(session)
    assert crowd.running(1)
    with pytest.raises(ProtocolError, match="is no witness in this run"):
        show(crowd, session)
    assert not crowd.running(1)


def test_a_refused_seat_ends_the_running_sum() -> None:
    after_the_refusal(lambda crowd, session: shown_again(crowd, session, 1))
    # ... also with another session, in which it would not even be of the cohort.
    after_the_refusal(lambda crowd, session: shown_again(crowd, replace(session, round=9), 1))


def test_a_device_of_the_cohort_cannot_be_listed_as_a_witness() -> None:
    crowd, session = crowd_with_witnesses()
    inside = session.cohort[VICTIM]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "__post_init__", nothing)
        members = tuple(sorted((*session.committee, inside.device)))
        keys = sorted((*session.witnesses, inside), key=lambda key: key.device)
        listed = replace(session, witnesses=tuple(keys), committee=members)
        encoded = listed.encode()
    asked = {
        (inside.device, "train"): crowd.raw_request(encoded, 1),
        (session.committee[0], stages.ATTEST): stage(session=encoded, message=b""),
    }
    for (device, kind), content in asked.items():
        with pytest.raises(ProtocolError, match="witnesses must be sorted, without repeats"):
            crowd.ask(device, kind, content)


def test_a_witness_is_not_told_what_it_would_have_to_train() -> None:
    """It answers no request to report: it is not in the cohort, whatever the server says."""
    crowd, session = crowd_with_witnesses()
    with pytest.raises(ProtocolError, match="session does not hold our key of this run"):
        crowd.report(session.committee[0], session)
