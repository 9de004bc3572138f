"""The server's side: one bad message changes nothing, and whoever spoils a sum is named."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tacit.crypto import labels, shamir
from tacit.crypto.codec import Codec
from tacit.crypto.errors import MalformedMessage, ProtocolError, TooFewClients
from tacit.crypto.secagg import client, messages
from tacit.crypto.secagg.messages import (
    Attestation,
    Report,
    Shares,
    hash_rows,
    share_context,
)
from tacit.crypto.secagg.revealing import MaskRevealing
from tacit.crypto.secagg.server import MAX_GROUPS, Collecting
from tacit.crypto.secagg.session import SECRET_BYTES, Session, threshold_for
from tests.crypto.federation import Federation, expected, means

Spoil = Callable[[Federation, Session, Report], Report]


def flipped(data: bytes, at: int = 0) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


# report


@pytest.mark.parametrize(
    ("spoil", "sender", "says"),
    [
        (lambda c, s, r: c.report(c.session(round=2), 3)[1], 3, "report is for another session"),
        (lambda c, s, r: r, 2, "device 2: report is for another session"),
        (lambda c, s, r: c.resigned(s, r, device=9), 9, "device 9: not in the cohort"),
        (lambda c, s, r: c.report(s, 1)[1], 1, "device 1: not in the cohort, or sent twice"),
        (lambda c, s, r: replace(r, signature=bytes(64)), 3, "not signed by its device"),
        (lambda c, s, r: replace(r, signature=r.signature[:-1]), 3, "ends 1 bytes early"),
        (lambda c, s, r: replace(r, packed=flipped(r.packed, 7)), 3, "not signed"),
        (lambda c, s, r: replace(r, signature=r.signature + b"\0"), 3, "1 bytes after the end"),
        (lambda c, s, r: replace(r, sealed=r.sealed[::-1]), 3, "not signed"),
        (lambda c, s, r: replace(r, hashes=r.hashes[::-1]), 3, "not signed"),
        (lambda c, s, r: replace(r, commitments=flipped(r.commitments)), 3, "not signed"),
        (lambda c, s, r: replace(r, metrics=("lost",)), 3, "not signed"),
    ],
)
def test_a_report_that_does_not_hold_changes_nothing(spoil: Spoil, sender: int, says: str) -> None:
    crew = Federation(4)
    session = crew.session()
    states, reports = crew.reports(session, (1, 2, 3))
    collecting = Collecting(session, crew.roster)
    collecting.add(reports[1].encode(session), sender=1)
    if sender == 9:
        crew.identities[9] = crew.identities[3]
    bad = spoil(crew, session, reports[3])
    with pytest.raises(ProtocolError, match=says) as refused:
        collecting.add(bad.encode(session), sender=sender)
    assert refused.value.sender == sender
    collecting.add(reports[2].encode(session), sender=2)
    collecting.add(reports[3].encode(session), sender=3)
    attested, revealing = crew.attest(collecting.close(), states)
    assert means(crew.reveal(revealing, attested)) == expected(session, (1, 2, 3))


@pytest.mark.parametrize("names", [("b", "a"), ("a", "a"), ("a", "b", "c")])
def test_metric_names_have_one_order(names: tuple[str, ...]) -> None:
    crew = Federation(3)
    session = crew.session()
    report = crew.resigned(session, crew.report(session, 1)[1], metrics=names)
    with pytest.raises(ProtocolError, match="metric names must be sorted, distinct and at most 2"):
        Collecting(session, crew.roster).add(report.encode(session), sender=1)


def test_what_most_devices_report_is_summed() -> None:
    """Being first with other metrics does not shut out the others."""
    crew = Federation(5)
    session = crew.session()
    states, reports = crew.reports(session, crew.devices)
    collecting = Collecting(session, crew.roster)
    odd = {1: ("lost",), 4: ()}
    for device in crew.devices:
        report = reports[device]
        if device in odd:
            report = crew.resigned(session, report, metrics=odd[device])
        collecting.add(report.encode(session), sender=device)
    assert collecting.strays() == {
        1: "metrics ['lost'], most sent ['loss']",
        4: "metrics [], most sent ['loss']",
    }
    attested, revealing = crew.attest(collecting.close(), states)
    assert means(crew.reveal(revealing, attested)) == expected(session, (2, 3, 5))


def test_a_crowd_of_odd_names_costs_no_memory() -> None:
    crew = Federation(5)
    session = crew.session()
    _, reports = crew.reports(session, crew.devices)
    collecting = Collecting(session, crew.roster)
    for device in (1, 2, 3):
        odd = crew.resigned(session, reports[device], metrics=(f"m{device}",))
        collecting.add(odd.encode(session), sender=device)
    collecting.add(reports[4].encode(session), sender=4)  # the one that was alone longest goes
    assert len(collecting._groups) == MAX_GROUPS
    assert 1 in collecting.strays()
    with pytest.raises(ProtocolError, match="device 1: not in the cohort, or sent twice"):
        collecting.add(reports[1].encode(session), sender=1)


def test_a_report_that_does_not_hold_costs_nobody_its_place() -> None:
    """Names of their own, and bits where there must be none: no group comes or goes for it."""
    crew = Federation(7)
    session = crew.session(Codec(6, 7, 2, bits=29))
    states, reports = crew.reports(session, crew.devices)
    collecting = Collecting(session, crew.roster)
    for device in (4, 1, 2, 3):
        report = reports[device]
        if device != 4:
            bad = memoryview(b"\xff" * len(report.packed))
            report = crew.resigned(session, report, metrics=(f"m{device}",), packed=bad)
            with pytest.raises(MalformedMessage, match="padding is not zero"):
                collecting.add(report.encode(session), sender=device)
        else:
            collecting.add(report.encode(session), sender=device)
    for device in (5, 6, 7):
        collecting.add(reports[device].encode(session), sender=device)
    attested, revealing = crew.attest(collecting.close(), states)
    assert means(crew.reveal(revealing, attested)) == expected(session, (4, 5, 6, 7))


def test_names_that_others_share_are_not_given_up() -> None:
    crew = Federation(7)
    session = crew.session()
    _, reports = crew.reports(session, crew.devices)
    collecting = Collecting(session, crew.roster)
    for device in range(1, 7):
        pair = crew.resigned(session, reports[device], metrics=(f"m{device % 3}",))
        collecting.add(pair.encode(session), sender=device)
    with pytest.raises(ProtocolError, match=r"device 7: metrics .* are the names of nobody else"):
        collecting.add(reports[7].encode(session), sender=7)


def test_a_report_after_the_close_is_too_late() -> None:
    crew = Federation(4)
    session = crew.session()
    states, reports = crew.reports(session, (1, 2, 3, 4))
    collecting = Collecting(session, crew.roster)
    for device in (1, 2, 3):
        collecting.add(reports[device].encode(session), sender=device)
    attesting = collecting.close()
    with pytest.raises(ProtocolError, match="device 4: report comes too late"):
        collecting.add(reports[4].encode(session), sender=4)
    attested, revealing = crew.attest(attesting, states)
    assert means(crew.reveal(revealing, attested)) == expected(session, (1, 2, 3))


def test_a_cohort_beyond_the_roster_is_no_traceback() -> None:
    crew, strangers = Federation(3), Federation(3)
    strangers.roster = replace(strangers.roster, members=strangers.roster.members[:2])
    session = crew.session()
    collecting = Collecting(session, strangers.roster)
    with pytest.raises(ProtocolError, match="device 3: report is not signed"):
        collecting.add(crew.report(session, 3)[1].encode(session), sender=3)


def test_too_few_reports_are_not_summed() -> None:
    crew = Federation(5)
    session = crew.session(min_survivors=4)
    _, reports = crew.reports(session, (1, 2, 3))
    with pytest.raises(TooFewClients, match="3 of 5 devices reported, at least 4 needed"):
        crew.collect(session, reports)


# attest


@pytest.mark.parametrize(
    ("spoil", "sender", "says"),
    [
        (lambda c, a: replace(a, signature=bytes(64)), 1, "device 1: did not sign our survivors"),
        (lambda c, a: a, 2, "device 2: not on the committee"),
        (lambda c, a: replace(a, member=5), 5, "device 5: not on the committee"),
        (lambda c, a: replace(a, member=2), 2, "device 2: did not sign our survivors"),
        (
            lambda c, a: replace(a, signature=c.identities[1].sign(labels.SURVIVORS, bytes(32))),
            1,
            "device 1: did not sign our survivors",
        ),
    ],
)
def test_an_attestation_that_does_not_hold_does_not_count(
    spoil: Callable[[Federation, Attestation], Attestation], sender: int, says: str
) -> None:
    crew = Federation(5)
    session = crew.session(committee=(1, 2, 3), threshold=2)
    states, reports = crew.reports(session, crew.devices)
    attesting = crew.collect(session, reports)
    said = {m: crew.attested(session, states[m], attesting.request(m))[1] for m in (1, 2)}
    with pytest.raises(ProtocolError, match=says):
        attesting.add(spoil(crew, said[1]).encode(), sender=sender)
    with pytest.raises(TooFewClients, match="0 of 3 committee members attested, 2 needed"):
        attesting.close()
    attesting.add(said[1].encode(), sender=1)
    attesting.add(said[1].encode(), sender=1)  # the same one twice is one
    with pytest.raises(TooFewClients, match="1 of 3 committee members attested"):
        attesting.close()
    attesting.add(said[2].encode(), sender=2)
    assert attesting.close().members == (1, 2)


# reveal


class Opening:
    """A round of six devices, one dropped, up to `reveal`."""

    def __init__(self, corrupt: int = 0) -> None:
        self.crew = Federation(6)
        self.session = self.crew.session(threshold=threshold_for(6, corrupt))
        self.states, self.reports = self.crew.reports(self.session, (1, 2, 4, 5, 6))
        self.attested, self.revealing = self.crew.attest(
            self.crew.collect(self.session, self.reports), self.states
        )
        request = self.revealing.request()
        self.shares = {
            m: client.reveal(state, self.crew.roster, request) for m, state in self.attested.items()
        }


def wrong(shares: Shares, row: int, column: int) -> Shares:
    opened = shares.opened.copy()
    opened[2 * row + column, 5] ^= 1  # one device dropped: two rows for each survivor
    return replace(shares, opened=opened)


@pytest.mark.parametrize(("row", "column", "dealer"), [(0, 0, 1), (0, 1, 1), (4, 0, 6), (2, 1, 4)])
@pytest.mark.parametrize("liar", [2, 6])  # its shares are among the four that are combined, or not
def test_a_wrong_share_is_found_and_its_sender_named(
    row: int, column: int, dealer: int, liar: int
) -> None:
    case = Opening()
    for member, shares in case.shares.items():
        told = wrong(shares, row, column) if member == liar else shares
        case.revealing.add(told.encode(), sender=member)
    result = case.revealing.open(bytes(32))
    assert means(result) == expected(case.session, (1, 2, 4, 5, 6))
    assert case.revealing.refuted == {liar: f"wrong share of device {dealer}"}
    assert (result.bad, result.unfit) == ((), ())


def test_who_is_left_after_wrong_shares_may_be_too_few_and_the_liars_are_named() -> None:
    case = Opening()
    for member, shares in case.shares.items():
        told = wrong(shares, member % 3, 0) if member in (1, 6) else shares
        case.revealing.add(told.encode(), sender=member)
    with pytest.raises(TooFewClients, match="3 good shares of device 1, 4 needed"):
        case.revealing.open(bytes(32))
    wrong_of = {1: "wrong share of device 2", 6: "wrong share of device 1"}
    assert case.revealing.refuted == wrong_of


def test_a_wrong_share_is_named_where_there_are_too_few_to_compare_it_with() -> None:
    case = Opening()
    for member in (1, 2, 4):
        told = wrong(case.shares[member], 0, 0) if member == 2 else case.shares[member]
        case.revealing.add(told.encode(), sender=member)
    with pytest.raises(TooFewClients, match="2 good shares of device 1, 4 needed"):
        case.revealing.open(bytes(32))
    assert case.revealing.refuted == {2: "wrong share of device 1"}


def test_shares_that_fit_together_are_not_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    def hashed(self: MaskRevealing, message: Shares, dealer: int) -> bool:
        raise AssertionError("a share is hashed")

    monkeypatch.setattr(MaskRevealing, "_matches", hashed)
    for liar in (0, 6):
        case = Opening()
        for member, shares in case.shares.items():
            told = wrong(shares, 0, 0) if member == liar else shares
            case.revealing.add(told.encode(), sender=member)
        if liar:
            with pytest.raises(AssertionError, match="is hashed"):
                case.revealing.open(bytes(32))
        else:
            assert case.revealing.open(bytes(32)).survivors == (1, 2, 4, 5, 6)


def test_shares_come_from_those_who_attested_and_are_their_own() -> None:
    case = Opening()
    with pytest.raises(ProtocolError, match="device 3: did not attest"):
        case.revealing.add(case.shares[1].encode(), sender=3)
    with pytest.raises(ProtocolError, match="device 2: shares of another member"):
        case.revealing.add(case.shares[1].encode(), sender=2)
    for member in (1, 4, 5, 6):
        case.revealing.add(case.shares[member].encode(), sender=member)
    case.revealing.add(replace(case.shares[1], member=2).encode(), sender=2)
    case.revealing.open(bytes(32))
    assert case.revealing.refuted == {2: "wrong share of device 1"}


def test_one_share_less_than_the_threshold_opens_nothing() -> None:
    case = Opening()
    for member in (1, 2, 4):
        case.revealing.add(case.shares[member].encode(), sender=member)
    with pytest.raises(TooFewClients, match="3 good shares of device 1, 4 needed"):
        case.revealing.open(bytes(32))
    case.revealing.add(case.shares[6].encode(), sender=6)
    assert means(case.revealing.open(bytes(32))) == expected(case.session, (1, 2, 4, 5, 6))


def cheat(members: tuple[int, ...], part: str) -> Spoil:
    """A dealer that sends these members boxes that do not open, or hashes that do not fit."""

    def spoil(crew: Federation, session: Session, report: Report) -> Report:
        fields = list(getattr(report, part))
        for member in members:
            at = session.committee.index(member)
            fields[at] = flipped(fields[at], 40)
        return crew.resigned(session, report, **{part: tuple(fields)})

    return spoil


def opened(spoil: Spoil, size: int = 5, lies: dict[int, tuple[int, ...]] | None = None) -> Any:
    """A full round in which device 3 spoils its report, and members may lie about who is bad."""
    crew = Federation(size)
    session = crew.session()
    states, reports = crew.reports(session, crew.devices)
    reports[3] = spoil(crew, session, reports[3])
    attesting = crew.collect(session, reports)
    attested = {}
    for member, state in states.items():
        attested[member], said = crew.attested(session, state, attesting.request(member))
        bad = (lies or {}).get(member, said.bad)
        attesting.add(replace(said, bad=bad).encode(), sender=member)
    return session, crew.reveal(attesting.close(), attested)


@pytest.mark.parametrize("part", ["sealed", "hashes"])
@pytest.mark.parametrize("cheated", [(1,), (4, 5), (3, 5)])
def test_a_dealer_of_bad_shares_is_named_and_the_sum_still_opens(
    part: str, cheated: tuple[int, ...]
) -> None:
    session, result = opened(cheat(cheated, part))
    assert result.bad == (3,)
    assert means(result) == expected(session, (1, 2, 3, 4, 5))


@pytest.mark.parametrize("part", ["sealed", "hashes"])
def test_a_dealer_whose_bad_shares_keep_the_sum_closed_is_named(part: str) -> None:
    with pytest.raises(ProtocolError, match="dealt shares that do not hold") as named:
        opened(cheat((1, 2, 3), part))
    assert named.value.sender == 3


def test_a_dealer_of_wrong_hashes_is_named_and_not_the_member(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The box opens, for it was sealed under the wrong hashes. A member that took it would later be
    caught with a share that does not match, in its dealer's place."""
    crew = Federation(5)
    session = crew.session()
    states, reports = crew.reports(session, (1, 2, 4, 5))
    real = messages.hash_rows

    def crooked(label: bytes, context: bytes, rows: Any) -> bytes:
        hashes = real(label, context, rows)
        cheated = context == share_context(session.id, 3, 1)
        return flipped(hashes) if cheated else hashes

    with monkeypatch.context() as patch:
        patch.setattr(client, "hash_rows", crooked)
        states[3], reports[3] = crew.report(session, 3)
    result = crew.run(session, reports, states)
    assert result.bad == (3,)
    assert means(result) == expected(session, crew.devices)


def test_slander_names_nobody() -> None:
    """Six members, threshold four: up to one of them may be corrupt, so one accuser proves
    nothing, and its word must not get an honest device left out."""
    session, result = opened(lambda c, s, r: r, 6, {2: (1, 3, 4, 5, 6)})
    assert result.bad == ()
    assert means(result) == expected(session, range(1, 7))
    _, result = opened(lambda c, s, r: r, 6, {2: (3,), 5: (3,)})
    assert result.bad == (3,)  # of two accusers one is honest


def test_an_accusation_of_a_stranger_is_nothing() -> None:
    _, result = opened(lambda c, s, r: r, 5, {1: (99,), 2: (99,)})
    assert result.bad == ()


def test_a_dealer_with_another_commitment_is_named() -> None:
    def spoil(crew: Federation, session: Session, report: Report) -> Report:
        return crew.resigned(session, report, commitments=flipped(report.commitments))

    with pytest.raises(ProtocolError, match="do not combine to its key") as named:
        opened(spoil)
    assert named.value.sender == 3


@pytest.mark.parametrize("crooked_at", [1, 4])
def test_a_dealer_of_shares_on_no_polynomial_is_named(
    crooked_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each share as hashed and sealed, but not of one secret: members cannot see it, the
    commitment does. The last share is none of those that are combined, and does no harm."""
    crew = Federation(5)
    session = crew.session()
    states, reports = crew.reports(session, (1, 2, 4, 5))
    real = shamir.share

    def crooked(*given: Any) -> Any:
        shares = real(*given)
        shares[crooked_at, 0, 0] ^= 1
        return shares

    with monkeypatch.context() as patch:
        patch.setattr(shamir, "share", crooked)
        states[3], reports[3] = crew.report(session, 3)
    attested, revealing = crew.attest(crew.collect(session, reports), states)
    if crooked_at < session.threshold:
        with pytest.raises(ProtocolError, match="do not combine to its key") as named:
            crew.reveal(revealing, attested)
        assert named.value.sender == 3
    else:  # a share that no key needs
        assert means(crew.reveal(revealing, attested)) == expected(session, crew.devices)
    assert revealing.refuted == {}


def test_hashes_tell_places_apart() -> None:
    """Equal rows at two numbers, for two holders, in two sessions, of two kinds: all differ."""
    rows = np.zeros((2, SECRET_BYTES), np.uint8)
    found = set()
    for label in (labels.SHARE_HASH, labels.SECRET_HASH):
        for session, dealer, member in (
            (bytes(32), 1, 2),
            (bytes(32), 2, 1),
            (bytes([1]) * 32, 1, 2),
        ):
            hashes = hash_rows(label, share_context(session, dealer, member), rows)
            found |= {hashes[:16], hashes[16:]}
    assert len(found) == 12
