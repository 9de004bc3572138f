"""Sums under a key that all devices hold: what a server tries that has no device on its side."""

import base64
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, RecordDict

from tacit.client import rounds
from tacit.client.policy import Policy
from tacit.client.vault import FileVault, Vault
from tacit.crypto.errors import ProtocolError
from tacit.crypto.he import bfv, sums
from tacit.crypto.he.bfv import decrypt
from tacit.crypto.he.frames import Kind, frame
from tacit.crypto.he.keys import Consortium, GroupKey, seal
from tacit.crypto.he.sets import PUBLIC, SEEDED
from tacit.crypto.he.tags import TAGS
from tacit.crypto.identity import Identity, RunKey, agree
from tacit.crypto.secagg import client, hiding, stages
from tacit.crypto.secagg.client import Enrolled
from tacit.crypto.secagg.messages import Report
from tacit.crypto.secagg.session import Session
from tests.hostile.adversary import Reading, read
from tests.hostile.attack import Attack, nothing, replaced, together, trial, trials
from tests.hostile.circle import ALL, Circle, blocks, packing, prepared, summed
from tests.hostile.test_rounds import BACKWARDS, FORGETFUL, a_file_for_each
from tests.hostile.test_sessions import ONE_SETUP, as_built
from tests.runtime import linear
from tests.runtime.desk import RUN, field, stage

pytest.importorskip("tenseal", reason="TenSEAL is not installed: pip install '.[he]'")

VICTIM, OPENER = 3, 1
OTHERS = tuple(device for device in ALL if device != VICTIM)


def counts(devices: Sequence[int]) -> Reading:
    """What the sum over these says."""
    return tuple(devices.count(device) for device in ALL)


def alone(reading: Reading | None) -> bool:
    return reading == counts([VICTIM])


def minus(one: Reading | None, other: Reading | None) -> Reading | None:
    if one is None or other is None:
        return None
    return tuple(a - b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("survivors", [ALL, OTHERS])
def test_an_honest_sum_says_who_is_in_it(survivors: tuple[int, ...]) -> None:
    """Or nothing below would show anything."""
    circle, _, _ = prepared()
    session = circle.session()
    circle.hears(session, survivors)
    assert circle.opens(session, survivors) == counts(survivors)
    assert circle.holds(OPENER)


# What an opener is given to decrypt


def handed(devices: tuple[int, ...]) -> Callable[[], bool]:
    """All are attested, and an opener is handed the sum of other contributions than theirs."""

    def run() -> bool:
        circle, _, _ = prepared()
        session = circle.session()
        circle.hears(session)
        circle.signs(session, ALL)
        total = circle.total(session, devices, count=len(ALL))
        vector = circle.decrypts(OPENER, session, ALL, total)
        return read(session, vector, len(devices)) == counts(devices)

    return run


def a_block_of_one() -> bool:
    """Of several ciphertexts the first is the victim's, those with the tags are the sum's."""
    circle, _, _ = prepared()
    circle.model = linear.record({"w": np.zeros(2 * PUBLIC.degree)})
    session = circle.session()
    assert packing(session).blocks == 2
    circle.hears(session)
    circle.signs(session, ALL)
    whole = blocks(packing(session), circle.total(session, ALL), Kind.SUM)
    one = blocks(packing(session), circle.total(session, [VICTIM]), Kind.SUM)
    total = frame(Kind.SUM, packing(session), len(ALL), [one[0], whole[1]])
    reading = read(session, circle.decrypts(OPENER, session, ALL, total), len(ALL))
    return reading is not None and alone(reading[: len(ALL)]) and not any(reading[len(ALL) :])


def of_another_session() -> bool:
    """An opened sum, and in the next session the sum over the same contributions but for one."""
    circle, _, _ = prepared()
    first, second = circle.session(), circle.session(2)
    circle.hears(first)
    everyone = circle.opens(first, ALL)
    circle.hears(second)
    circle.signs(second, OTHERS)
    vector = circle.decrypts(OPENER, second, OTHERS, circle.total(first, OTHERS))
    return alone(minus(everyone, read(first, vector, len(OTHERS))))


def set_up_otherwise() -> bool:
    """All but the victim are run with a configuration in which they send zeros. They are shown one
    and the same session."""
    circle, _, _ = prepared()
    for device, before in circle.contexts.items():
        if device != VICTIM:
            circle.contexts[device] = Context(
                RUN, before.node_id, before.node_config, before.state, {"silent": True}
            )
    session = circle.session()
    circle.hears(session)
    return alone(circle.opens(session, ALL))


ANY_SUM = replaced(sums, "check", nothing)
NOT_THE_SUM = "what it sent to decrypt is not the sum over the survivors"


def one_name(patch: pytest.MonkeyPatch) -> None:
    """Tags are bound to no session."""
    for module in (client, hiding):
        patch.setattr(module, "he_sum", lambda session, setup: bytes(32))


HANDED = {
    "one contribution": Attack(handed((VICTIM,)), ANY_SUM, NOT_THE_SUM),
    "one, as often as there are devices": Attack(handed((VICTIM,) * 5), ANY_SUM, NOT_THE_SUM),
    "one counted twice": Attack(handed((*ALL, VICTIM)), ANY_SUM, NOT_THE_SUM),
    "all but one": Attack(handed(OTHERS), ANY_SUM, NOT_THE_SUM),
    "all but one, and one twice": Attack(handed((1, 1, 2, 3, 4)), ANY_SUM, NOT_THE_SUM),
    "a block of one": Attack(a_block_of_one, ANY_SUM, NOT_THE_SUM),
    "of another session": Attack(of_another_session, one_name, NOT_THE_SUM),
    "of devices that were set up otherwise": Attack(set_up_otherwise, ONE_SETUP, NOT_THE_SUM),
}


@trials(HANDED)
def test_a_sum_that_is_none(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial(attack, defended, monkeypatch)


def test_a_sum_that_says_itself_that_it_is_another() -> None:
    circle, _, _ = prepared()
    session = circle.session()
    circle.hears(session)
    circle.signs(session, ALL)
    with pytest.raises(ProtocolError, match="a sum of 1 for 5 survivors"):
        circle.decrypts(OPENER, session, ALL, circle.total(session, [VICTIM]))
    assert not circle.holds(OPENER)


def test_whoever_refuses_gives_the_key_up_and_nobody_else() -> None:
    circle, _, _ = prepared()
    refuses(circle, 1)
    assert [circle.holds(device) for device in ALL] == [False, True, True, True, True]
    following = circle.session(2)
    with pytest.raises(ProtocolError, match=stages.NO_GROUP_KEY):
        circle.report(OPENER, following)
    assert circle.report(VICTIM, following)


# A second answer


def asked_twice() -> bool:
    """One opener, one session: the sum over everyone, and then the sum over all but the victim."""
    circle, _, _ = prepared()
    session = circle.session()
    circle.hears(session)
    everyone = circle.opens(session, ALL)
    return alone(minus(everyone, circle.opens(session, OTHERS)))


def shown_twice() -> bool:
    """The same request again, and the same answer: the server would have a second try."""
    circle, _, _ = prepared()
    session = circle.session()
    circle.hears(session)
    total = circle.total(session, ALL)
    circle.signs(session, ALL)
    one = circle.decrypts(OPENER, session, ALL, total)
    return bool((circle.decrypts(OPENER, session, ALL, total) == one).all())


def two_sets() -> bool:
    """Three members sign one set, and two another. An opener of either decrypts."""
    circle, _, _ = prepared()
    session = circle.session()
    circle.hears(session)
    circle.signs(session, ALL, (1, 2, 3))
    circle.signs(session, OTHERS, (4, 5))
    everyone = circle.decrypts(1, session, ALL, circle.total(session, ALL))
    fewer = circle.decrypts(4, session, OTHERS, circle.total(session, OTHERS))
    return alone(minus(read(session, everyone, 5), read(session, fewer, 4)))


def the_round_again() -> bool:
    """The same session once more, after a restart, with another set this time."""
    circle, _, _ = prepared()
    session = circle.session()
    circle.hears(session)
    everyone = circle.opens(session, ALL)
    first = dict(circle.sent[session.id])
    for device in ALL:
        circle.restart(device)
    circle.hears(session)
    circle.sent[session.id].update({VICTIM: first[VICTIM]})
    return alone(minus(everyone, circle.opens(session, OTHERS)))


def signed_by_few() -> bool:
    """The victim's vote and one more, for a set of two."""
    circle, _, _ = prepared()
    session = circle.session()
    circle.hears(session)
    circle.signs(session, (1, VICTIM), (1, VICTIM))
    vector = circle.decrypts(OPENER, session, (1, VICTIM), circle.total(session, (1, VICTIM)))
    return read(session, vector, 2) == counts((1, VICTIM))


def remembered(vault: Vault, session: Session, step: Callable[[GroupKey], bytes]) -> bytes:
    """`rounds.with_group` of a device that keeps the key whatever happens."""
    return step(rounds.group(vault, session))


def tried_until_it_holds() -> bool:
    """A server that may guess again and again: each refusal tells it something of the key."""
    circle, _, _ = prepared()
    refuses(circle, 1)
    refuses(circle, 2)
    return True


def refuses(circle: Circle, round: int, device: int = OPENER) -> None:
    """A round in which the device is handed a sum that is none."""
    session = circle.session(round)
    circle.hears(session)
    circle.signs(session, ALL)
    bad = circle.total(session, [VICTIM], count=len(ALL))
    with pytest.raises(ProtocolError, match=NOT_THE_SUM):
        circle.decrypts(device, session, ALL, bad)


REPEATS = {
    "asked twice": Attack(asked_twice, BACKWARDS, "asked for Reported, at NoneType"),
    "shown twice": Attack(shown_twice, BACKWARDS, "asked for Attested, at NoneType"),
    "two sets": Attack(
        two_sets, replaced(client, "_check_signatures", nothing), "3 signatures, 4 needed"
    ),
    "the round again": Attack(the_round_again, FORGETFUL, "was served before"),
    "a set of few": Attack(
        signed_by_few,
        together(
            replaced(client, "_check_survivors", nothing),
            replaced(client, "_check_signatures", nothing),
        ),
        "2 survivors, at least 3 needed",
    ),
    "tried until it holds": Attack(
        tried_until_it_holds, replaced(rounds, "with_group", remembered), stages.NO_GROUP_KEY
    ),
}


@trials(REPEATS)
def test_one_set_and_one_answer_for_a_session(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial(attack, defended, monkeypatch)


def test_signatures_of_another_session_and_of_strangers_are_none() -> None:
    circle, _, _ = prepared()
    first, second = circle.session(), circle.session(2)
    circle.hears(first)
    circle.signs(first, ALL)
    proof = circle.adversary.proof(first, ALL)
    circle.hears(second)
    circle.signs(second, ALL)
    total = circle.total(second, ALL)
    wrong = {
        "another session": (1, replace(proof, total=total)),
        "did not sign our set": (2, replace(proof, session=second.id, total=total)),
        "one twice": (
            4,
            replace(proof, session=second.id, signatures=proof.signatures[:1] * 4, total=total),
        ),
    }
    for reason, (member, request) in wrong.items():
        with pytest.raises(ProtocolError, match=reason):
            circle.reveal(member, request)


# A key that was given up


def revived(again: Callable[[Circle, Consortium, dict[int, bytes]], None]) -> Callable[[], bool]:
    """Whether a device that gave a key up takes part under it once more."""

    def run() -> bool:
        circle, consortium, boxes = prepared()
        refuses(circle, 1, 2)
        again(circle, consortium, boxes)
        circle.epoch = consortium.epoch
        return bool(circle.report(2, circle.session(2)))

    return run


def delivered_again(circle: Circle, consortium: Consortium, boxes: dict[int, bytes]) -> None:
    circle.delivers(consortium, 2, boxes[2])


def restarted(circle: Circle, consortium: Consortium, boxes: dict[int, bytes]) -> None:
    circle.restart(2)
    circle.delivers(consortium, 2, boxes[2])


def after_the_next(circle: Circle, consortium: Consortium, boxes: dict[int, bytes]) -> None:
    """A new key comes first, and then the old one."""
    circle.keyed(circle.consortium(2))
    circle.delivers(consortium, 2, boxes[2])


def enrolled_again(circle: Circle, consortium: Consortium, boxes: dict[int, bytes]) -> None:
    """Asked to enrol again in the run it is in."""
    circle.enrol([2])
    circle.delivers(consortium, 2, boxes[2])


def always_kept(vault: Vault, group: GroupKey) -> None:
    vault.write("group", group.encode())


REVIVED = {
    "delivered again": Attack(
        revived(delivered_again), replaced(rounds, "keep_group", always_kept), "epoch 1 comes after"
    ),
    "delivered again after a restart": Attack(
        revived(restarted), replaced(rounds, "keep_group", always_kept), "epoch 1 comes after"
    ),
    "delivered again after a newer one": Attack(
        revived(after_the_next),
        replaced(rounds, "keep_group", always_kept),
        "epoch 1 comes after epoch 2",
    ),
    "enrolled again": Attack(
        revived(enrolled_again), replaced(rounds, "keep_group", always_kept), "epoch 1 comes after"
    ),
}


@trials(REVIVED)
def test_a_key_that_was_given_up_stays_so(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial(attack, defended, monkeypatch)


def test_a_dealer_deals_once_in_an_epoch() -> None:
    """Asked again it would make another key of the same name: some members would hold the one, some
    the other."""
    circle, consortium, _ = prepared()
    before = circle.group(1).encode()
    with pytest.raises(ProtocolError, match="epoch 1 comes after epoch 1"):
        circle.deals(consortium)
    assert circle.group(1).encode() == before
    refuses(circle, 1)
    with pytest.raises(ProtocolError, match="epoch 1 comes after epoch 1"):
        circle.deals(consortium)


def test_another_run_leaves_nothing_of_a_key() -> None:
    """Not even for a server that comes back to the first run: the device has another run key."""
    circle, consortium, boxes = prepared()
    before = circle.contexts[2]
    other = Context(RUN + 1, before.node_id, before.node_config, before.state, {})
    circle.contexts[2] = other
    circle.enrol([2])
    assert not circle.holds(2)
    circle.contexts[2] = before
    circle.enrol([2])
    with pytest.raises(ProtocolError, match="consortium does not hold our key"):
        circle.delivers(consortium, 2, boxes[2])
    mine = circle.consortium(1)  # with its new key, and the old box
    with pytest.raises(ProtocolError, match=stages.BAD_GROUP_KEY):
        circle.delivers(mine, 2, boxes[2])


# Keys, boxes and those who make them


def opened_by(group: GroupKey, session: Session, contribution: bytes) -> Reading | None:
    """What whoever has the key reads in one device's ciphertext."""
    held = packing(session)
    total = summed(held, [contribution], 1)
    _, slots = decrypt(group.key, held, total, stage="open")
    assert len(slots) >= held.words + TAGS
    return read(session, held.unpack(slots[: held.words]), 1)


def invented(device: int, identity: Identity | None = None) -> tuple[Enrolled, RunKey]:
    """A run key that the server made up for a device."""
    return client.enrol(identity or Identity(os.urandom(32)), RUN, device, os.urandom(32))


def a_member_of_its_own(device: int) -> Callable[[], bool]:
    """Among the members the dealer is shown one whose run key is the server's. It opens the box for
    that one, and then whatever is sent under the key."""

    def run() -> bool:
        circle = Circle()
        state, key = invented(device)
        members = sorted({**circle.keys, device: key}.values(), key=lambda key: key.device)
        consortium = circle.consortium(members=members)
        boxes = circle.deals(consortium)
        mine = agree(state.secret, [circle.keys[1]])[1]
        group = GroupKey.unseal(consortium, device, mine, boxes[device])
        for member in ALL[1:]:
            if member != device:
                circle.delivers(consortium, member, boxes[member])
        circle.epoch = consortium.epoch
        session = circle.session(cohort=[d for d in ALL if d != device])
        circle.hears(session, [VICTIM])
        return alone(opened_by(group, session, circle.sent[session.id][VICTIM]))

    return run


def a_dealer_of_its_own(device: int) -> Callable[[], bool]:
    """The server is the dealer: a device that is not on the roster, or one in whose place it puts
    a run key of its own. The victim takes the key, and contributes under it."""

    def run() -> bool:
        circle = Circle()
        state, key = invented(device)
        members = sorted({**circle.keys, device: key}.values(), key=lambda key: key.device)
        consortium = circle.consortium(members=members, dealer=device)
        group = GroupKey.make(consortium, os.urandom(32))
        shared = agree(state.secret, [circle.keys[VICTIM]])[VICTIM]
        circle.delivers(consortium, VICTIM, seal(group, VICTIM, shared, os.urandom(32)))
        circle.epoch = consortium.epoch
        session = circle.session(cohort=[d for d in ALL if d != device])
        circle.hears(session, [VICTIM])
        return alone(opened_by(group, session, circle.sent[session.id][VICTIM]))

    return run


ANY_MEMBERS = replaced(Consortium, "verify", nothing)
MADE: dict[str, Attack] = {
    "a member who is no device": Attack(
        a_member_of_its_own(9), ANY_MEMBERS, "device 9: not on the roster"
    ),
    "a member with another's run key": Attack(
        a_member_of_its_own(5), ANY_MEMBERS, "device 5: run key is not signed by its device"
    ),
    "a dealer who is no device": Attack(
        a_dealer_of_its_own(9), ANY_MEMBERS, "device 9: not on the roster"
    ),
    "a dealer with another's run key": Attack(
        a_dealer_of_its_own(5), ANY_MEMBERS, "device 5: run key is not signed by its device"
    ),
}


@trials(MADE)
def test_a_server_that_gets_itself_the_key(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial(attack, defended, monkeypatch)


def test_a_roster_of_the_servers_own_names_no_members() -> None:
    circle = Circle()
    with pytest.raises(ProtocolError, match="a consortium of another roster"):
        circle.deals(replace(circle.consortium(), roster=bytes(32)))


SWAPPED: dict[str, tuple[dict[str, Any], int, int, str]] = {
    # What is changed in the consortium, whose box goes to whom, and why it is refused.
    "another member's box": ({}, 3, 4, stages.BAD_GROUP_KEY),
    "the dealer's own": ({}, 3, 1, "not sealed to us"),
    "another dealer": ({"dealer": 2}, 3, 3, stages.BAD_GROUP_KEY),
    "the member as dealer": ({"dealer": 3}, 3, 3, "not sealed to us"),
    "another serial": ({"serial": 2}, 3, 3, stages.BAD_GROUP_KEY),
    "another set": ({"scheme": SEEDED}, 3, 3, "a box of"),
    "another run": ({"run": RUN + 1}, 3, 3, "consortium does not hold our key"),
    "a member less": ({"members": (1, 2, 3, 4)}, 3, 3, stages.BAD_GROUP_KEY),
    "without the member": ({"members": (1, 2, 4, 5)}, 3, 3, "device 3 is not a member"),
}


@pytest.mark.parametrize(("changes", "box", "member", "reason"), SWAPPED.values(), ids=SWAPPED)
def test_boxes_that_were_swapped(
    changes: dict[str, Any], box: int, member: int, reason: str
) -> None:
    """To a device that has no key yet; the honest delivery is taken all the same."""
    circle = Circle()
    honest = circle.consortium()
    boxes = circle.deals(honest)
    if "members" in changes:
        changes = {"members": tuple(circle.keys[device] for device in changes["members"])}
    with pytest.raises(ProtocolError, match=reason):
        circle.delivers(replace(honest, **changes), member, boxes[box])
    if member != honest.dealer:
        assert not circle.holds(member)
        circle.delivers(honest, member, boxes[member])
    assert circle.holds(member)


def test_every_byte_of_a_box_and_of_whose_it_is_counts() -> None:
    circle = Circle()
    honest = circle.consortium()
    told = honest.encode()
    box = circle.deals(honest)[VICTIM]
    for at in range(0, len(told), 7):
        changed = told[:at] + bytes([told[at] ^ 1]) + told[at + 1 :]
        data = len(box).to_bytes(4, "little") + box + changed
        with pytest.raises(ProtocolError):
            circle.ask(VICTIM, stages.KEY, stage(message=data))
    for at in range(0, len(box), len(box) // 8):
        changed = box[:at] + bytes([box[at] ^ 1]) + box[at + 1 :]
        with pytest.raises(ProtocolError, match=stages.BAD_GROUP_KEY):
            circle.delivers(honest, VICTIM, changed)
    circle.delivers(honest, VICTIM, box)


def test_another_than_the_dealer_does_not_deal() -> None:
    circle = Circle()
    with pytest.raises(ProtocolError, match="another is to deal"):
        circle.deals(circle.consortium(), dealer=2)
    assert not circle.holds(2)


# Sessions


def members_only_in_part() -> bool:
    """The key was dealt to three. Two more are in the cohort, and cannot be among the survivors."""
    circle = Circle()
    circle.keyed(circle.consortium(members=[circle.keys[d] for d in (1, 2, 3)]))
    return bool(circle.report(VICTIM, circle.session()))


def of_an_old_epoch() -> bool:
    circle, consortium, _ = prepared()
    circle.keyed(circle.consortium(2))
    circle.epoch = consortium.epoch
    return bool(circle.report(VICTIM, circle.session()))


def of_another_set() -> bool:
    """The consortium's key is of one set, and the session asks for another."""
    circle, _, _ = prepared()
    return bool(circle.report(VICTIM, circle.session(he=SEEDED.name)))


def any_key(vault: Vault, session: Session) -> GroupKey:
    held = vault.read("group")
    assert held is not None
    return GroupKey.decode(held)


NAMED: dict[str, Attack] = {
    "members are a part of the cohort": Attack(
        members_only_in_part,
        replaced(Consortium, "check", nothing),
        "cohort with others than members",
    ),
    "an epoch that is over": Attack(
        of_an_old_epoch,
        together(
            replaced(rounds, "group", any_key),
            replaced(Consortium, "check", nothing),
        ),
        stages.NO_GROUP_KEY,
    ),
    "another parameter set": Attack(
        of_another_set,
        together(
            replaced(Consortium, "check", nothing),
            replaced(sums, "_check", nothing),
            replaced(bfv, "_check_set", nothing),
        ),
        "session of another epoch",
    ),
}


@trials(NAMED)
def test_sessions_under_another_key(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial(attack, defended, monkeypatch)


def two_committees_of_one() -> bool:
    """Two openers, each of whom is enough: one signs and opens everyone, the other all but one."""
    circle, _, _ = prepared()
    honest = circle.session()
    encoded = as_built(circle, {"committee": (1, 4), "threshold": 1})
    for device in ALL:
        reply = circle.ask(device, "train", circle.raw_request(encoded, 1))
        session = Session.decode(encoded)
        report = Report.decode(field(reply), session, sender=device)
        circle.sent[session.id][device] = bytes(report.packed)
    assert session.id != honest.id
    circle.signs(session, ALL, [1])
    circle.signs(session, OTHERS, [4])
    everyone = circle.decrypts(1, session, ALL, circle.total(session, ALL))
    fewer = circle.decrypts(4, session, OTHERS, circle.total(session, OTHERS))
    return alone(minus(read(session, everyone, 5), read(session, fewer, 4)))


@pytest.mark.parametrize("defended", [True, False], ids=["defended", "undefended"])
def test_openers_are_no_committee_of_the_servers_choice(
    defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    unchecked = together(
        replaced(Session, "_check_committee", nothing),
        replaced(Session, "_check_consortium", nothing),
        replaced(Policy, "_check_committee", nothing),
    )
    attack = Attack(two_committees_of_one, unchecked, "threshold 1 for a committee of 2")
    trial(attack, defended, monkeypatch)


IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "another committee": (
        {"committee": (1, 2, 3), "threshold": 3},
        "the committee of a consortium is its cohort",
    ),
    "drawn seats": ({"seats": 5}, "the committee of a consortium is its cohort"),
    "masks as well": ({"degree": 4}, "degree 4, hybrid False"),
    "lattice keys as well": ({"lattice": "2048-32-1"}, "both lattice '2048-32-1' and he"),
    "an unknown set": ({"he": "bfv-1024"}, "he 'bfv-1024'"),
    "no epoch": ({"epoch": b""}, "an epoch of 0 bytes with he"),
    "an epoch cut short": ({"epoch": bytes(31)}, "an epoch of 31 bytes with he"),
    "an epoch alone": ({"he": "", "degree": 4}, "an epoch of 32 bytes with he ''"),
    "an epoch of a lattice": (
        {"he": "", "lattice": "4096-64-2"},
        "an epoch of 32 bytes with he ''",
    ),
    "more bits than a slot has": ({"bits": 43}, "43 bits, expected 8..42"),
}


@pytest.mark.parametrize(("changes", "reason"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_sessions_of_a_consortium_that_cannot_be(changes: dict[str, Any], reason: str) -> None:
    circle, _, _ = prepared()
    content = circle.raw_request(as_built(circle, changes), 1)
    with pytest.raises(ProtocolError, match=reason):
        circle.ask(VICTIM, "train", content)
    assert circle.report(VICTIM, circle.session())


# What the owner agrees to


def asked_to_deal() -> bool:
    circle = Circle(policy=Policy())
    return bool(circle.deals(circle.consortium()))


def asked_to_keep() -> bool:
    """The dealer agrees to it, the victim's owner does not."""
    circle = Circle()
    consortium = circle.consortium()
    boxes = circle.deals(consortium)
    circle.app._policy = Policy()
    circle.delivers(consortium, VICTIM, boxes[VICTIM])
    return circle.holds(VICTIM)


def asked_to_report() -> bool:
    """The owner changes their mind when the key is there already."""
    circle, _, _ = prepared()
    circle.app = Circle(policy=Policy()).app
    return bool(circle.report(VICTIM, circle.session()))


NO_CONSORTIUM = r"this device's owner does not allow it \(policy\.consortium\)"
ALLOWED = replaced(Policy, "check_consortium", nothing)
UNWILLING = {
    "to deal": Attack(asked_to_deal, ALLOWED, NO_CONSORTIUM),
    "to keep a key": Attack(asked_to_keep, ALLOWED, NO_CONSORTIUM),
    "to report": Attack(asked_to_report, ALLOWED, NO_CONSORTIUM),
}


@trials(UNWILLING)
def test_an_owner_who_does_not_allow_a_shared_key(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial(attack, defended, monkeypatch)


# What is written down


def spellings(secret: bytes) -> list[bytes]:
    """How text may hold the beginning of a secret."""
    part = secret[:24]
    return [part, part.hex().encode(), base64.b64encode(part), repr(part)[2:-1].encode()]


def test_secrets_are_in_the_key_slot_of_the_vault_and_nowhere_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums, a refusal and a box that does not open; then all that was logged, sent or kept."""
    caplog.set_level(logging.DEBUG)
    heard: list[bytes] = []
    written: dict[str, list[bytes]] = defaultdict(list)
    kept = FileVault.write

    def spying(vault: FileVault, slot: str, value: bytes) -> None:
        written[slot].append(value)
        kept(vault, slot, value)

    monkeypatch.setattr(FileVault, "write", spying)
    circle = Circle(device_of=a_file_for_each(tmp_path))
    ask = circle.ask

    def overhearing(device: int, kind: str, content: RecordDict) -> RecordDict:
        reply = ask(device, kind, content)
        heard.append(field(reply) if reply.config_records[stages.RECORD] else b"")
        return reply

    monkeypatch.setattr(circle, "ask", overhearing)
    consortium = circle.consortium()
    boxes = circle.keyed(consortium)
    group = circle.group(VICTIM)
    said = [repr(one) for one in (group, group.key, consortium, circle.contexts[VICTIM])]
    session = circle.session()
    circle.hears(session)
    assert circle.opens(session, ALL) == counts(ALL)
    with pytest.raises(ProtocolError) as refused:
        circle.delivers(circle.consortium(2), 4, boxes[VICTIM])
    said.append(repr(refused.value))
    following = circle.session(2)
    circle.hears(following)
    circle.signs(following, ALL)
    with pytest.raises(ProtocolError) as refused:
        circle.decrypts(2, following, ALL, circle.total(following, [VICTIM], count=5))
    said += [repr(refused.value), caplog.text]
    assert "refused query.tacit_reveal" in caplog.text

    key, middle = group.key.secret, len(group.key.secret) // 2
    parts = group.tag_secret, key[middle:], key[-60:]
    secrets = [spelling for part in parts for spelling in spellings(part)]
    everything = {"said": [text.encode() for text in said], "heard": heard, **written}
    everything["files"] = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    found = {
        name
        for name, texts in everything.items()
        if any(secret in text for secret in secrets for text in texts)
    }
    assert found == {"group"}, "as it is written, before it is sealed"
    assert len(written["group"]) > 5
