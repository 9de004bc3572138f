"""Encrypted sums: boxes that a server spoils, and members that make honest ones look like liars."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tacit.crypto.codec import Codec
from tacit.crypto.lattice import keys as lattice_keys
from tacit.crypto.lattice.cipher import open_sum
from tacit.crypto.secagg import client
from tacit.crypto.secagg.messages import AttestRequest, RevealRequest
from tacit.crypto.secagg.revealing import KeyRevealing, Opened
from tacit.crypto.secagg.session import Session
from tests.crypto.federation import Federation, expected, means
from tests.hostile.attack import Attack, replaced, trial, trials

LATTICE = "2048-32-1"


def encrypted(crew: Federation, threshold: int) -> Session:
    codec = Codec(6, crew.size, 2, bound=16.0, bits=20)
    return crew.session(
        codec, lattice=LATTICE, degree=0, threshold=threshold, min_survivors=crew.size
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


# Members who frame others


def added(points: Sequence[int], zeros: Sequence[int]) -> dict[int, int]:
    """The polynomial that is 0 at `zeros`, at each of the points."""
    values = {}
    for point in points:
        value = 1
        for zero in zeros:
            value = value * (point - zero) % lattice_keys.FIELD
        values[point] = value
    return values


def framed() -> bool:
    """Of nine members four may be corrupt, and three are. They add a polynomial that leaves the key
    as it is, and most honest shares: only device 9's looks wrong then. They have won if the sum is
    not what it was, or if anybody honest is named."""
    crew, liars = Federation(9), (6, 7, 8)
    session = encrypted(crew, threshold=7)
    states, reports = crew.reports(session, crew.devices)
    attested, revealing = crew.attest(crew.collect(session, reports), states)
    points = {member: session.point(member) for member in crew.devices}
    moved = added(list(points.values()), [0, *(points[m] for m in (1, 2, 3, 4, 5))])
    for member, state in attested.items():
        answer = client.reveal(state, crew.roster, revealing.request())
        if member in liars:
            shares = answer.opened.view("<u2").astype(np.int64) + moved[points[member]]
            told = (shares % lattice_keys.FIELD).astype("<u2").view(np.uint8)
            answer = replace(answer, opened=told)
        revealing.add(answer.encode(), sender=member)
    opened = revealing.open(bytes(range(32)))
    assert means(opened) == expected(session, crew.devices)
    return bool(set(opened.liars) - set(liars))


def test_blame_is_certain_up_to_what_the_allowed_liars_can_feign() -> None:
    """Of twelve, with threshold 8, three may lie: a polynomial that is 0 at 7 points changes five
    shares, theirs and two honest ones. With one wrong share there is nothing to feign."""
    crew = Federation(12)
    session = encrypted(crew, threshold=8)
    states, reports = crew.reports(session, crew.devices)
    _, revealing = crew.attest(crew.collect(session, reports), states)
    assert isinstance(revealing, KeyRevealing)
    assert revealing._certain(12, 1)
    assert not revealing._certain(12, 2)
    assert not revealing._certain(11, 1)


FRAMED = {"frame": Attack(framed, replaced(KeyRevealing, "_certain", lambda *_: True))}


@trials(FRAMED)
def test_corrupt_members_frame_an_honest_one(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial(attack, defended, monkeypatch)
