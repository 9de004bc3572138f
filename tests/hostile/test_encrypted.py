"""Encrypted sums: boxes spoilt, replayed and shown in other sessions, and ciphertexts altered.

Ciphertexts of any sessions add up, and so do keys. What binds them to a session is that a box opens
in its own session only, to a member that was set up alike, and that a is another one in each.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import pytest

from tacit.crypto import labels
from tacit.crypto.codec import Codec
from tacit.crypto.errors import ProtocolError
from tacit.crypto.lattice import cipher
from tacit.crypto.lattice import keys as lattice_keys
from tacit.crypto.lattice.cipher import open_sum
from tacit.crypto.lattice.sampler import Sampler
from tacit.crypto.secagg import client, stages
from tacit.crypto.secagg import server as secagg_server
from tacit.crypto.secagg.messages import (
    AttestRequest,
    RevealRequest,
    share_context,
    signed_part,
)
from tacit.crypto.secagg.revealing import Opened
from tacit.crypto.secagg.session import Session
from tacit.crypto.simulated import simulated_identity
from tacit.server.events import SumFailed
from tacit.server.pairwise import Pairwise
from tacit.simulations.engine.faults import Corrupt
from tests.crypto.federation import Federation, expected, means
from tests.hostile.attack import Attack, Removal, replaced, together, trial, trials
from tests.hostile.crowd import Crowd
from tests.hostile.kinds import LATTICE
from tests.hostile.test_members import Ran, is_whole, run
from tests.hostile.test_members import spoilt as spoilt_reply
from tests.hostile.test_sessions import (
    Change,
    fields,
    silent_model,
    silent_run,
    silent_settings,
)

pytestmark = pytest.mark.kinds(LATTICE)
VICTIM = 3
Alter: TypeAlias = Callable[[bytes], bytes]  # of a ciphertext


def encrypted(crew: Federation, threshold: int) -> Session:
    codec = Codec(6, crew.size, 2, bound=16.0, bits=20)
    return crew.session(
        codec, lattice=LATTICE.lattice, degree=0, threshold=threshold, min_survivors=crew.size
    )


# A server that spoils boxes


def spoilt(request: AttestRequest, kept: Sequence[int]) -> AttestRequest:
    """The request with boxes that open for some dealers only."""
    sealed = tuple(
        box if dealer in kept else box[::-1]
        for dealer, box in zip(request.survivors, request.sealed, strict=True)
    )
    return replace(request, sealed=sealed)


def sum_of_few(kept: Sequence[int]) -> bool:
    """All report, all sign, and no member is left with shares of more keys than those of `kept`.
    The server has won if it reads their sum."""
    crew = Federation(5)
    session = encrypted(crew, threshold=4)
    states, reports = crew.reports(session, crew.devices)
    attesting = crew.collect(session, reports)
    held, signatures = {}, []
    for member, state in states.items():
        request = spoilt(attesting.request(member), kept)
        held[member], said = crew.attested(session, state, request)
        signatures.append((member, said.signature))
    proof = RevealRequest(session.id, tuple(signatures))
    opened = [client.reveal(held[member], crew.roster, proof) for member in crew.devices]

    shares = np.concatenate([answer.opened.view("<u2") for answer in opened])
    points = [session.point(answer.member) for answer in opened]
    key = lattice_keys.combine(points, shares)
    scheme = session.scheme
    assert scheme is not None
    words = (np.frombuffer(reports[device].packed, scheme.dtype) for device in kept)
    total = np.add.reduce(list(words), dtype=scheme.dtype)
    found = open_sum(scheme, session.public_seed, key, total, session.codec.size)
    return means(Opened(session.codec.decode(found, len(kept)), (), tuple(kept), ())) == expected(
        session, kept
    )


SPOILT: dict[str, Attack] = {
    name: Attack(
        lambda kept=kept: sum_of_few(kept),  # type: ignore[misc]
        replaced(client, "_summed", lambda shares, bad, whole=client._summed: whole(shares, ())),
        "we lack a share of some survivor's key",
    )
    for name, kept in {"of all but one": (3,), "of all but two": (2, 5)}.items()
}


@trials(SPOILT)
def test_a_server_spoils_the_boxes(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial(attack, defended, monkeypatch)


# A session of its own for one device


def together_with(removal: Removal, run: Callable[[], bool]) -> Callable[[], bool]:
    """An attack on devices that lack one defence in any case."""

    def weakened() -> bool:
        with pytest.MonkeyPatch.context() as patch:
            removal(patch)
            return run()

    return weakened


def stands_out(change: Change) -> Callable[[], bool]:
    """The victim is shown one thing, and all others another. Its report is then passed off as one
    of theirs. The server has won if the sum opens with the victim's input in it."""

    def run() -> bool:
        crowd = Crowd(7)
        session = crowd.session()
        crowd.heard(session, [VICTIM])
        (mine,) = crowd.adversary.dealt.pop(session.id)
        changes = change(crowd)
        others = crowd.session(**changes)
        rest = tuple(device for device in others.devices if device != VICTIM)
        crowd.heard(others, rest)
        crowd.adversary.dealt[others.id].append(mine)
        crowd.opens(others, others.devices, rest)
        readings = [said for _, said in crowd.adversary.readings(others.id)]
        return any(said[VICTIM - 1] == 1 for said in readings)

    return run


def unbound(session: bytes, dealer: int, member: int) -> bytes:
    """`share_context` that is the same in all sessions."""
    return share_context(bytes(32), dealer, member)


def bound_to_nothing(*_: object) -> bytes:
    return b""


ONE_ID = replaced(Session, "id", property(lambda session: bytes(32)))
OPEN_BOXES = together(
    replaced(client, "share_context", unbound), replaced(client, "_bound", bound_to_nothing)
)
CLOSED = "we lack a share of some survivor's key"
SHOWN: dict[str, Change] = {
    "another model": silent_model,
    "other settings": silent_settings,
    "another round": fields(round=2),
    "another threshold": fields(threshold=6),
    "more survivors": fields(min_survivors=6),
    "a drawn committee": fields(seats=7),
    "other bounds": lambda crowd: {"codec": replace(crowd.session().codec, bound=7.0)},
}


@trials({name: Attack(stands_out(change), ONE_ID, CLOSED) for name, change in SHOWN.items()})
def test_a_device_that_is_shown_something_else(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its boxes do not open in the session of the others."""
    trial(attack, defended, monkeypatch)


@trials(
    {
        name: Attack(together_with(OPEN_BOXES, stands_out(change)), ONE_ID)
        for name, change in SHOWN.items()
    }
)
def test_boxes_that_open_in_any_session_make_no_sum(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys are all there then, and what they open is noise: a is another one."""
    trial(attack, defended, monkeypatch)


SET_UP = {
    "by the device": Attack(
        stands_out(silent_run),
        replaced(stages, "setup_digest", lambda config: bytes(32)),
        CLOSED,
    ),
    "by the box": Attack(
        stands_out(silent_run), replaced(client, "_bound", bound_to_nothing), CLOSED
    ),
}


@trials(SET_UP)
def test_a_device_that_is_set_up_otherwise(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's configuration is no part of the session, and a is the same: only the box tells."""
    trial(attack, defended, monkeypatch)


# Boxes of another session


def boxes_of_before() -> bool:
    """A sum is opened over everybody. In the next round members are shown the boxes of the first
    round again, but for the victim's: of the same keys, the sum of all but one."""
    crowd = Crowd(protocol=Pairwise(min_survivors=3))
    first, second = crowd.session(1), crowd.session(2)
    crowd.heard(first)
    crowd.opens(first, first.devices)
    crowd.heard(second)
    crowd.adversary.dealt[second.id] = crowd.adversary.dealt[first.id]
    crowd.opens(second, tuple(device for device in second.devices if device != VICTIM))
    return crowd.adversary.reads(first, VICTIM)


@trials({"of the round before": Attack(boxes_of_before, OPEN_BOXES, CLOSED)})
def test_boxes_that_are_shown_again(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial(attack, defended, monkeypatch)


# Ciphertexts that are altered


DEVICES, LIAR = 7, 2  # as in `run`: device 3
WORD = 4
COUNT = DEVICES + 2 * 16 + 1  # the last of the vector, which counts devices


def flipped(word: int, bit: int) -> Alter:
    def change(packed: bytes) -> bytes:
        at = WORD * word + bit // 8
        return packed[:at] + bytes([packed[at] ^ 1 << bit % 8]) + packed[at + 1 :]

    return change


def swapped(one: int, other: int) -> Alter:
    def change(packed: bytes) -> bytes:
        words = [packed[at : at + WORD] for at in range(0, len(packed), WORD)]
        words[one], words[other] = words[other], words[one]
        return b"".join(words)

    return change


ALTERED: dict[str, Alter] = {
    "a bit of the first word": flipped(0, 31),
    "the lowest bit": flipped(0, 0),
    "a bit of the last word": flipped(COUNT, 31),
    "two words swapped": swapped(0, 1),
    "the other way round": lambda packed: packed[::-1],
    "a word less": lambda packed: packed[:-WORD],
    "a word more": lambda packed: packed + bytes(WORD),
    "a byte less": lambda packed: packed[:-1],
    "nothing": lambda packed: b"",
}


def altered(change: Alter, sign: bool) -> Ran:
    """Two rounds, in the first of which a ciphertext is changed: on its way, or by its device."""

    def spoil(data: bytes) -> bytes:
        packed, header = data[: WORD * (COUNT + 1)], data[WORD * (COUNT + 1) : -64]
        if not sign:
            return change(packed) + data[len(packed) :]
        content = signed_part(header, change(packed), b"")
        signature = simulated_identity(LIAR + 1).sign(labels.REPORT, content)
        return change(packed) + header + signature

    return run([Corrupt("report", {LIAR}, {1}, how=spoilt_reply(stages.MESSAGE, spoil))])


def on_its_way(change: Alter) -> Callable[[], bool]:
    """Whether a sum is other than that of those whose reports arrived as they were sent."""

    def attack() -> bool:
        ran = altered(change, sign=False)
        return not is_whole(ran.moved(1), [LIAR]) or ran.named() != {LIAR + 1}

    return attack


UNSIGNED = replaced(secagg_server, "verified", lambda *_: True)
LENGTH = ("a word less", "a word more", "a byte less", "nothing")  # no message at all, then


@trials(
    {
        name: Attack(on_its_way(change), UNSIGNED)
        for name, change in ALTERED.items()
        if name not in LENGTH
    }
)
def test_a_ciphertext_that_was_altered_on_its_way(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial(attack, defended, monkeypatch)


@pytest.mark.parametrize("name", LENGTH)
@pytest.mark.parametrize("sign", [True, False], ids=["signed", "as it was signed"])
def test_a_ciphertext_of_another_length(name: str, sign: bool) -> None:
    ran = altered(ALTERED[name], sign)
    assert is_whole(ran.moved(1), [LIAR])
    assert ran.named() == {LIAR + 1}
    assert is_whole(ran.moved(2))


@pytest.mark.parametrize(
    ("name", "harmed"),
    [
        ("a bit of the first word", [0]),
        ("the lowest bit", []),
        ("two words swapped", [0, 1]),
        ("a bit of the last word", None),
        ("the other way round", None),
    ],
)
def test_what_a_device_can_do_to_its_own_ciphertext(name: str, harmed: list[int] | None) -> None:
    """As with any input: the coordinates that it changes, or the whole sum if it is the count. What
    is less than the noise is rounded away."""
    ran = altered(ALTERED[name], sign=True)
    assert not ran.named()
    assert is_whole(ran.moved(2), size=max(1, np.abs(ran.models[2]).max()))
    if harmed is None or not ran.moved(1).any():  # or the sum is beyond what devices can reach
        assert [e.round for e in ran.events if isinstance(e, SumFailed)] == [1]
        assert ran.models[1].tobytes() == ran.models[0].tobytes()
        return
    kept = [at for at in range(DEVICES) if at not in harmed]
    assert np.abs(ran.moved(1)[kept] - 1).max() <= 4 * DEVICES * 2.0**-53
    assert all(abs(ran.moved(1)[at] - 1) > 1e-3 for at in harmed)


# A device whose arithmetic is another one


def summed(patched: Removal) -> list[float]:
    """The mean update of five devices of which device 2 computes otherwise."""
    crew = Federation(5)
    session = encrypted(crew, threshold=4)
    states, reports = crew.reports(session, (1, 3, 4, 5))
    with pytest.MonkeyPatch.context() as patch:
        patched(patch)
        states[2], reports[2] = crew.report(session, 2)
    return crew.run(session, reports, states).mean.update.tolist()


def wider(factor: int) -> Removal:
    """Errors that are so much wider."""

    class Wide(Sampler):
        def draw(self, rows: int, count: int) -> np.ndarray:  # type: ignore[override]
            return super().draw(rows, count).astype(np.int32) * np.int32(factor)

    return replaced(cipher, "Sampler", Wide)


ELSEWHERE = replaced(Session, "public_seed", property(lambda session: bytes(32)))


@pytest.mark.parametrize(
    "patched", [wider(1 << 20), ELSEWHERE], ids=["wide errors", "another public seed"]
)
def test_a_device_that_encrypts_otherwise_keeps_the_sum_closed(patched: Removal) -> None:
    with pytest.raises(ProtocolError, match="the sum does not check"):
        summed(patched)


def test_errors_as_they_should_be_and_a_little_wider_are_rounded_away() -> None:
    """Or the test above would show nothing. 20 bits leave room for errors of up to 2048."""
    for factor in (1, 8):
        assert summed(wider(factor)) == [3.0] * 6
