"""The server's part in a sum under a shared key: what it adds up, and what it believes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.codec import Codec, Ring
from tacit.crypto.errors import MalformedMessage, ProtocolError, TooFewClients
from tacit.crypto.he.frames import Kind, frame
from tacit.crypto.secagg.consortium import AGREEING, OPENERS, SumRevealing
from tacit.crypto.secagg.messages import AttestRequest, Decryption, Report, RevealRequest
from tacit.crypto.secagg.revealing import Closed, MaskRevealing
from tacit.crypto.secagg.server import MAX_GROUPS, Collecting
from tacit.crypto.secagg.session import Session
from tacit.crypto.secagg.totals import Contribution, RingTotal
from tacit.crypto.wire import pack
from tests.crypto.federation import METRICS, Federation, expected, means

CREW = Federation(7)
CODEC = Codec(6, 7, 2, bits=21)
SIGNATURE = bytes(64)


def session(round: int = 1) -> Session:
    return CREW.session(CODEC, he="bfv-4096", epoch=bytes(32), degree=0, round=round)


SESSION = session()


def vector(devices: Sequence[int] = CREW.devices) -> Ring:
    total = np.zeros(CODEC.size, CODEC.dtype)
    for device in devices:
        total += CREW.encoded(SESSION, device)
    return total & CODEC.dtype.type((1 << CODEC.bits) - 1)


def revealing(attested: Sequence[int] = CREW.devices, round: int = 1) -> SumRevealing:
    """As after `attest`: a sum over all, which some have signed."""
    of_round = session(round)
    closed = Closed(of_round, of_round.id, {}, CREW.devices, {}, b"a sum", METRICS)
    return SumRevealing(closed, dict.fromkeys(attested, SIGNATURE), dict.fromkeys(attested, ()))


def said(member: int, total: Ring) -> bytes:
    return Decryption(member, pack(total, CODEC.bits)).encode()


TRUE, ONE, OTHER = vector(), vector(CREW.devices[1:]), vector(CREW.devices[2:])


# Whom to ask


@given(
    attested=st.sets(st.sampled_from(CREW.devices), min_size=2),
    first=st.integers(1, 50),
)
def test_openers_take_turns(attested: set[int], first: int) -> None:
    """As many as there are, at most OPENERS; each of n is asked within n rounds."""
    asked: list[int] = []
    for round in range(first, first + len(attested)):
        members = revealing(sorted(attested), round).members
        assert len(members) == len(set(members)) == min(OPENERS, len(attested))
        asked += members
    assert set(asked) == attested


def test_what_openers_are_asked() -> None:
    """The total, with a threshold of signatures."""
    request = revealing().request()
    assert request.total == b"a sum"
    assert len(request.signatures) == SESSION.threshold
    back = RevealRequest.decode(request.encode(), SESSION)
    assert back == request


def test_in_the_place_of_the_silent_others_are_asked() -> None:
    case = revealing()
    assert case.members == (4, 5, 6)
    case.add(said(4, TRUE), sender=4)
    with pytest.raises(ProtocolError, match="device 7: not asked"):
        case.add(said(7, TRUE), sender=7)
    assert case.instead(2) == (7, 1)
    case.add(said(1, TRUE), sender=1)
    assert case.instead(1) == ()  # two say the same
    assert means(case.open(bytes(32))) == expected(SESSION, CREW.devices)


def test_others_are_asked_for_those_who_refuse_only_if_the_sum_held_for_somebody() -> None:
    case = revealing()
    assert case.instead(0) == ()  # all three refused, and have given the key up
    case = revealing()
    case.add(said(4, TRUE), sender=4)
    assert case.instead(0) == (7, 1)


def test_there_are_no_more_than_attested() -> None:
    case = revealing((2, 3, 5, 7), round=1)
    assert case.members == (7, 2, 3)
    assert case.instead(3) == (5,)
    assert case.instead(1) == ()
    assert revealing().instead(0) == ()


def test_where_all_members_are_asked_nobody_is_left() -> None:
    crew = Federation(4)
    masked = crew.session()
    states, reports = crew.reports(masked, crew.devices)
    _, opening = crew.attest(crew.collect(masked, reports), states)
    assert isinstance(opening, MaskRevealing)
    assert opening.instead(2) == ()


# Whom to believe

ANSWERS = st.lists(st.sampled_from([None, TRUE, TRUE, ONE, OTHER]), min_size=3, max_size=3)


@given(ANSWERS)
def test_what_two_say_is_opened_and_nothing_else(answers: list[Ring | None]) -> None:
    case = revealing()
    for member, answer in zip(case.members, answers, strict=True):
        if answer is not None:
            case.add(said(member, answer), sender=member)
    words = [answer.tobytes() for answer in answers if answer is not None]
    agreed = [answer for answer in set(words) if words.count(answer) >= AGREEING]
    if not agreed:
        with pytest.raises(TooFewClients, match=f"{len(words)} members decrypted the sum, 2 have"):
            case.open(bytes(32))
    elif agreed == [TRUE.tobytes()]:
        opened = case.open(bytes(32))
        assert means(opened) == expected(SESSION, CREW.devices)
        assert (opened.survivors, opened.metrics) == (CREW.devices, METRICS)
        assert opened.bad == opened.unfit == ()
    else:  # the sum over fewer, as one of all: it does not come out
        with pytest.raises(ProtocolError) as refused:
            case.open(bytes(32))
        assert refused.value.sender == 0


@pytest.mark.parametrize(
    ("data", "sender", "reason"),
    [
        (said(4, TRUE), 5, "decryption of another member"),
        (said(1, TRUE), 1, "not asked, or sent twice"),
        (said(4, TRUE)[:-1], 4, "ends 1 bytes early"),
        (said(4, TRUE) + b"x", 4, "1 bytes after the end"),
        (b"", 4, "early"),
    ],
)
def test_an_answer_that_does_not_hold_changes_nothing(
    data: bytes, sender: int, reason: str
) -> None:
    case = revealing()
    with pytest.raises(ProtocolError, match=reason) as refused:
        case.add(data, sender=sender)
    assert refused.value.sender == sender
    for member in (4, 5):
        case.add(said(member, TRUE), sender=member)
    with pytest.raises(ProtocolError, match="sent twice"):
        case.add(said(4, ONE), sender=4)
    assert means(case.open(bytes(32))) == expected(SESSION, CREW.devices)


def test_padding_of_an_answer_is_zero() -> None:
    """Or two who say the same would say it in different bytes."""
    data = said(4, TRUE)
    assert CODEC.size * CODEC.bits % 8, "there is padding"
    with pytest.raises(MalformedMessage):
        revealing().add(data[:-1] + bytes([data[-1] | 0x80]), sender=4)
    assert Decryption.decode(data, SESSION, sender=4).encode() == data
    assert "packed" not in repr(Decryption(4, b"secret sum"))


# What is added up


class Dropping:
    """A total that loses some of what it took by the time it is asked for: as a loader may."""

    def __init__(self, lost: Sequence[int] = ()) -> None:
        self.taken: dict[int, bytes] = {}
        self.lost = lost
        self.closed = False

    def add(self, data: Contribution, *, sender: int) -> None:
        if b"bad" in bytes(data):
            raise MalformedMessage("does not load", sender=sender, stage="report")
        self.taken[sender] = f"<{sender}>".encode()

    def total(self) -> bytes:
        for device in self.lost:
            self.taken.pop(device, None)
        if not self.taken:
            raise TooFewClients("no contribution is in the sum")
        return b"+".join(self.taken[device] for device in sorted(self.taken))

    @property
    def senders(self) -> tuple[int, ...]:
        return tuple(sorted(self.taken))

    def close(self) -> None:
        self.closed = True


def framed(content: bytes, held: Session = SESSION) -> bytes:
    """Bytes that look like a contribution; what is in them, a library would have to say."""
    packing = held.packing
    assert packing is not None
    return frame(Kind.CONTRIBUTION, packing, 1, [content] * packing.blocks)


def report(
    device: int,
    packed: bytes | None = None,
    metrics: tuple[str, ...] = METRICS,
    held: Session = SESSION,
) -> bytes:
    nothing = (b"",) * len(held.committee)
    unsigned = Report(
        framed(b"good", held) if packed is None else packed,
        held.id,
        device,
        metrics,
        (),
        nothing,
        nothing,
        b"",
        b"",
    )
    return CREW.resigned(held, unsigned).encode(held)


class Sums:
    """Makes totals, and keeps them."""

    def __init__(self, *lost: int) -> None:
        self.lost = lost
        self.made: list[Dropping] = []

    def __call__(self) -> Dropping:
        self.made.append(Dropping(self.lost))
        return self.made[-1]


def collecting(sums: Sums, devices: Sequence[int]) -> Collecting:
    stage = Collecting(SESSION, CREW.roster, sums)
    for device in devices:
        stage.add(report(device), sender=device)
    return stage


def test_survivors_are_those_whose_contribution_is_in_the_sum() -> None:
    attesting = collecting(Sums(3, 6), CREW.devices).close()
    closed = attesting.closed
    assert closed.survivors == (1, 2, 4, 5, 7)
    assert closed.total == b"<1>+<2>+<4>+<5>+<7>"
    assert closed.lost == (3, 6)
    # Who was lost is no survivor, and so not asked to attest.
    assert closed.members == closed.survivors
    request = AttestRequest.decode(attesting.request(1).encode(SESSION), SESSION)
    assert request.survivors == closed.survivors
    assert set(request.sealed) == set(request.hashes) == {b""}


def test_too_few_that_are_left_open_nothing() -> None:
    of_five = replace(SESSION, min_survivors=5)
    stage = Collecting(of_five, CREW.roster, Sums(3, 6, 7))
    for device in CREW.devices:
        stage.add(report(device, held=of_five), sender=device)
    with pytest.raises(TooFewClients, match="4 of 7 devices reported, at least 5 needed"):
        stage.close()
    with pytest.raises(TooFewClients, match="no contribution is in the sum"):
        collecting(Sums(*CREW.devices), CREW.devices).close()
    with pytest.raises(TooFewClients, match="0 of 7 devices reported"):
        collecting(Sums(), ()).close()


def test_a_contribution_that_does_not_load_is_none() -> None:
    sums = Sums()
    stage = collecting(sums, (1, 2))
    with pytest.raises(MalformedMessage, match="device 3: does not load"):
        stage.add(report(3, framed(b"bad")), sender=3)
    stage.add(report(3), sender=3)  # it may send another: nothing of it was taken
    with pytest.raises(ProtocolError, match="sent twice"):
        stage.add(report(3), sender=3)
    closed = stage.close().closed
    assert (closed.survivors, closed.total, closed.lost) == ((1, 2, 3), b"<1>+<2>+<3>", ())
    assert len(sums.made) == 1


def test_sets_of_names_have_totals_of_their_own_and_few_are_open() -> None:
    """Each costs a process: a lone name makes room, and its process ends."""
    sums = Sums()
    stage = collecting(sums, (1, 2))
    for device in (3, 4, 5):
        stage.add(report(device, metrics=(f"name {device}",)), sender=device)
    assert len(sums.made) == MAX_GROUPS + 1
    assert [total.closed for total in sums.made] == [False, True, False, False]
    assert set(stage.strays()) == {3, 4, 5}
    assert stage.close().closed.survivors == (1, 2)


@pytest.mark.parametrize("packed", [b"junk", framed(b"bad")], ids=["no frame", "does not load"])
def test_names_of_those_whose_contribution_does_not_hold_cost_nobody_a_place(
    packed: bytes,
) -> None:
    sums = Sums()
    stage = collecting(sums, (1,))
    for device in (3, 4, 5, 6):
        with pytest.raises(MalformedMessage):
            stage.add(report(device, packed, (f"name {device}",)), sender=device)
    stage.add(report(2), sender=2)
    assert not stage.strays()
    assert [total.closed for total in sums.made[1:]] == [True] * (len(sums.made) - 1)
    assert len(sums.made) == (1 if packed == b"junk" else 5)
    assert stage.close().closed.survivors == (1, 2)


def test_a_report_says_how_long_its_ciphertext_is() -> None:
    limit = SESSION.vector_bytes
    data = report(1, bytes(limit))
    assert Report.decode(data, SESSION, sender=1).encode(SESSION) == data
    for size in (limit + 1, (1 << 32) - 1):
        bad = size.to_bytes(4, "little") + bytes(limit + 1) + data[4 + limit :]
        with pytest.raises(MalformedMessage):
            Report.decode(bad, SESSION, sender=1)
    shorter = (2).to_bytes(4, "little") + report(1, b"abc")[4:]  # its last byte is called header
    with pytest.raises(ProtocolError, match="report: device 1: "):
        Collecting(SESSION, CREW.roster, Sums()).add(shorter, sender=1)


# Totals of ring elements


@pytest.mark.parametrize("lattice", ["", "2048-32-1"])
def test_a_total_of_ring_elements(lattice: str) -> None:
    crew = Federation(4)
    degree = 0 if lattice else 3
    held = crew.session(Codec(6, 4, 2, bits=20), lattice=lattice, degree=degree)
    _, reports = crew.reports(held, (4, 1, 2))
    total = RingTotal(held)
    assert not total.senders
    for device, message in reports.items():
        total.add(message.packed, sender=device)
    assert total.senders == (1, 2, 4)
    added = crew.collect(held, reports).closed
    np.testing.assert_array_equal(total.total(), added.ring)
    assert (added.survivors, added.lost) == ((1, 2, 4), ())
    total.close()
