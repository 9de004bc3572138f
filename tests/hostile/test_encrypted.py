"""Encrypted sums: boxes that a server spoils."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tacit.crypto.codec import Codec
from tacit.crypto.lattice import keys as lattice_keys
from tacit.crypto.lattice.cipher import open_sum
from tacit.crypto.secagg import client
from tacit.crypto.secagg.messages import AttestRequest, RevealRequest
from tacit.crypto.secagg.revealing import Opened
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
