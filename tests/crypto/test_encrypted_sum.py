"""Sums under one-time lattice keys: what opens them, what does not, and who is to blame."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tacit.crypto.codec import Codec
from tacit.crypto.errors import MalformedMessage, ProtocolError, TooFewClients
from tacit.crypto.lattice import keys as lattice_keys
from tacit.crypto.lattice.cipher import open_sum
from tacit.crypto.lattice.sampler import Noise
from tacit.crypto.lattice.sets import SETS
from tacit.crypto.secagg import client
from tacit.crypto.secagg.messages import Report, Shares
from tacit.crypto.secagg.revealing import KeyRevealing
from tacit.crypto.secagg.server import Collecting
from tacit.crypto.secagg.session import Session, threshold_for
from tacit.server.encrypted import Encrypted
from tests.crypto.federation import Federation, expected, means
from tests.crypto.test_prg import LIMIT, chi_square

LATTICE = "2048-32-1"


def encrypted(crew: Federation, **changed: Any) -> Session:
    codec = Codec(6, crew.size, 2, bits=20)
    return crew.session(codec, lattice=LATTICE, degree=0, **changed)


class Opening:
    """A sum of six devices, one dropped, up to `reveal`."""

    def __init__(self, **changed: Any) -> None:
        self.crew = Federation(6)
        self.session = encrypted(self.crew, threshold=threshold_for(6, 0), **changed)
        self.states, self.reports = self.crew.reports(self.session, (1, 2, 4, 5, 6))
        collected = self.crew.collect(self.session, self.reports)
        self.attested, self.revealing = self.crew.attest(collected, self.states)
        request = self.revealing.request()
        self.shares = {
            m: client.reveal(state, self.crew.roster, request) for m, state in self.attested.items()
        }

    def take(self, *members: int) -> None:
        for member in members:
            self.revealing.add(self.shares[member].encode(), sender=member)


def wrong(shares: Shares) -> Shares:
    opened = shares.opened.copy()
    opened[0, :2] ^= 1
    return replace(shares, opened=opened)


def test_a_threshold_of_shares_opens_and_one_less_does_not() -> None:
    case = Opening()
    assert isinstance(case.revealing, KeyRevealing)
    case.take(1, 2, 4)
    with pytest.raises(TooFewClients, match="3 shares of the sum's key, 4 needed"):
        case.revealing.open(bytes(32))
    case.take(6)
    assert means(case.revealing.open(bytes(32))) == expected(case.session, (1, 2, 4, 5, 6))


def test_a_member_opens_one_vector_whatever_the_number_of_devices() -> None:
    case = Opening()
    assert case.shares[1].opened.shape == (1, 2 * 2048)


def test_a_wrong_share_among_enough_is_found_and_left_out() -> None:
    """Of six shares, of which four are needed, one wrong one can be told from the others."""
    crew = Federation(6)
    session = encrypted(crew, threshold=4)
    states, reports = crew.reports(session, crew.devices)
    attested, revealing = crew.attest(crew.collect(session, reports), states)
    for member, state in attested.items():
        shares = client.reveal(state, crew.roster, revealing.request())
        told = wrong(shares) if member == 3 else shares
        revealing.add(told.encode(), sender=member)
    opened = revealing.open(bytes(range(32)))
    assert opened.unfit == (3,)
    assert means(opened) == expected(session, crew.devices)


def test_a_wrong_share_may_be_its_dealers_doing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Device 2 deals device 6 a wrong share, in a box that opens. Device 6 adds up what it has."""
    crew = Federation(6)
    session = encrypted(crew, threshold=4)
    states, reports = crew.reports(session, [d for d in crew.devices if d != 2])

    def deal(key: Noise, threshold: int, points: list[int], rand: bytes) -> np.ndarray:
        shares = lattice_share(key, threshold, points, rand)
        shares[session.point(6) - 1, 0] ^= 1
        return shares

    lattice_share = lattice_keys.share
    monkeypatch.setattr(lattice_keys, "share", deal)
    states[2], reports[2] = crew.report(session, 2)
    opened = crew.run(session, reports, states)
    assert (opened.unfit, opened.bad) == ((6,), ())
    assert means(opened) == expected(session, crew.devices)


def test_a_wrong_share_among_too_few_opens_nothing_wrong() -> None:
    """Five shares, four needed: that one is wrong shows, but not which."""
    case = Opening()
    case.shares[2] = wrong(case.shares[2])
    case.take(1, 2, 4, 5, 6)
    with pytest.raises(ProtocolError, match="shares of the key disagree"):
        case.revealing.open(bytes(range(32)))


def test_four_shares_of_four_of_which_one_is_wrong_are_noise() -> None:
    """Nothing is there to compare them with; the count in the sum tells."""
    case = Opening()
    case.shares[2] = wrong(case.shares[2])
    case.take(1, 2, 4, 5)
    with pytest.raises(ProtocolError, match="does not check"):
        case.revealing.open(bytes(32))


def spoiled(crew: Federation, session: Session, report: Report, members: tuple[int, ...]) -> Report:
    """A report whose boxes for some members do not open."""
    sealed = tuple(
        box[::-1] if member in members else box
        for member, box in zip(session.committee, report.sealed, strict=True)
    )
    return crew.resigned(session, report, sealed=sealed)


def test_a_member_without_a_share_is_not_asked_and_the_dealer_is_named() -> None:
    crew = Federation(6)
    session = encrypted(crew, threshold=4)
    states, reports = crew.reports(session, crew.devices)
    reports[3] = spoiled(crew, session, reports[3], (1, 2))
    attested, revealing = crew.attest(crew.collect(session, reports), states)
    assert revealing.members == (3, 4, 5, 6)
    with pytest.raises(ProtocolError, match="we lack a share of some survivor's key"):
        client.reveal(attested[1], crew.roster, revealing.request())
    for member in revealing.members:
        shares = client.reveal(attested[member], crew.roster, revealing.request())
        revealing.add(shares.encode(), sender=member)
    with pytest.raises(ProtocolError, match="device 1: has no share of this sum"):
        revealing.add(replace(shares, member=1).encode(), sender=1)
    opened = revealing.open(bytes(32))
    assert opened.bad == (3,)
    assert means(opened) == expected(session, crew.devices)


def test_a_dealer_that_keeps_a_sum_closed_is_named() -> None:
    crew = Federation(6)
    session = encrypted(crew, threshold=4)
    states, reports = crew.reports(session, crew.devices)
    reports[3] = spoiled(crew, session, reports[3], (1, 2, 4))
    _, revealing = crew.attest(crew.collect(session, reports), states)
    with pytest.raises(ProtocolError, match="dealt shares that do not hold") as named:
        revealing.open(bytes(32))
    assert named.value.sender == 3


def test_a_device_that_was_set_up_otherwise_has_no_part_in_the_sum() -> None:
    """Its masks would not cancel, were there any: here it is its boxes that open for nobody."""
    crew = Federation(4)
    session = encrypted(crew, threshold=3)
    states, reports = crew.reports(session, (1, 2, 4))
    states[3], reports[3] = crew.report(session, 3, setup=bytes([1]) * 32)
    _, revealing = crew.attest(crew.collect(session, reports), {m: states[m] for m in (1, 2, 4)})
    assert revealing.members == ()
    with pytest.raises(ProtocolError, match="device 3: dealt shares that do not hold"):
        revealing.open(bytes(32))


def test_a_report_looks_like_noise_and_opens_with_its_own_key_only() -> None:
    crew = Federation(3)
    codec = Codec(5000, 3, 1, bits=20)
    session = crew.session(codec, lattice=LATTICE, degree=0)
    _, reports = crew.reports(session, crew.devices)
    assert all(chi_square(bytes(report.packed)) < LIMIT for report in reports.values())
    scheme = session.scheme
    assert scheme is not None
    words = np.frombuffer(reports[1].packed, scheme.dtype)
    guess = lattice_keys.draw(scheme.degree, scheme.secret, bytes(32)).astype(np.int64)
    found = open_sum(scheme, session.public_seed, guess, words, codec.size)
    with pytest.raises(ProtocolError, match="its masks do not cancel"):
        codec.decode(found, 1)


def test_less_than_a_threshold_of_members_know_nothing_of_one_key() -> None:
    """Two of four members pool what a device dealt them: with any third share they would have its
    key, and every third share gives them another one."""
    crew = Federation(4)
    session = encrypted(crew, threshold=3)
    states, reports = crew.reports(session, crew.devices)
    held = {}
    for at, member in enumerate((1, 2, 3)):
        secret = crew.agreed(session, member)[4]
        bound = client._bound(session, 4, member, (), bytes(32))
        box, hashes = reports[4].sealed[at], reports[4].hashes[at]
        rows = client._unseal(secret, states[member], 4, bound, box, hashes)
        assert rows is not None
        held[member] = rows.view("<u2")[0]
    scheme, words = session.scheme, np.frombuffer(reports[4].packed, "<u4")
    assert scheme is not None

    def opened(third: np.ndarray) -> float:
        key = lattice_keys.combine([1, 2, 3], np.stack([held[1], held[2], third]))
        total = open_sum(scheme, session.public_seed, key, words, session.codec.size)
        return session.codec.decode(total, 1).update[0]

    assert opened(held[3]) == 4.0
    with pytest.raises(ProtocolError, match="its masks do not cancel"):
        opened(np.zeros_like(held[3]))


def test_reports_and_requests_of_encrypted_sums_are_fuzzed() -> None:
    """A ciphertext of another length, neighbours where there are none: malformed."""
    crew = Federation(3)
    session = encrypted(crew, threshold=2)
    _, report = crew.report(session, 1)
    data = report.encode(session)
    assert Report.decode(data, session, sender=1).encode(session) == data
    collecting = Collecting(session, crew.roster)
    for broken in (data[:-1], data[4:], data + b"x", b"", replace(report, neighbours=(2,))):
        sent = broken if isinstance(broken, bytes) else broken.encode(session)
        with pytest.raises(MalformedMessage):
            collecting.add(sent, sender=1)
    collecting.add(data, sender=1)


def test_the_document_says_what_the_sets_are() -> None:
    text = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
    for name, found in SETS.items():
        bits = " / ".join(str(found.room(n, 10**6).bits) for n in (10, 100, 1000))
        value = f"{found.packed_size(10**6) / 10**6:.1f}"
        head = f"| `{name}`{' (default)' if name == Encrypted().parameters else ''} |"
        row = f"{head} {found.degree} | 2^{found.word} | {found.fields} | {bits} | {value} |"
        assert f"{row} {found.security} bits |" in text
