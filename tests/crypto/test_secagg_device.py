"""The device's side of a masked sum: what it refuses, and that it opens what it must, once."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.client import rounds
from tacit.crypto import labels, prg, shamir
from tacit.crypto.codec import Codec
from tacit.crypto.errors import ParameterError, ProtocolError
from tacit.crypto.identity import Roster, RunKey, derive
from tacit.crypto.secagg import client, hiding
from tacit.crypto.secagg.messages import (
    Attestation,
    AttestRequest,
    RevealRequest,
    Shares,
    hash_row,
    share_context,
    survivors_digest,
)
from tacit.crypto.secagg.session import Purpose, Session
from tacit.crypto.wire import pack
from tests.crypto.federation import Counted, Federation, asked, expected, means


class Shelf:
    """A vault in a dict."""

    def __init__(self) -> None:
        self.slots: dict[str, bytes] = {}

    def read(self, slot: str) -> bytes | None:
        return self.slots.get(slot)

    def write(self, slot: str, value: bytes) -> None:
        self.slots[slot] = value

    def take(self, slot: str) -> bytes | None:
        return self.slots.pop(slot, None)

    def alone(self) -> AbstractContextManager[None]:
        return nullcontext()


# enrol and report


@pytest.mark.parametrize("size", [0, 31, 33])
def test_enrol_takes_32_bytes(size: int) -> None:
    with pytest.raises(ParameterError, match="32 random bytes"):
        client.enrol(Federation(2).identities[1], 1, 1, bytes(size))


def low_order(crew: Federation) -> Session:
    point = bytes([1]) + bytes(31)
    forged = replace(crew.keys[3], public=point)
    return crew.session(cohort=(crew.keys[1], crew.keys[2], forged, crew.keys[4]))


def without_us(crew: Federation) -> Session:
    keys = tuple(crew.keys[device] for device in (2, 3, 4))
    return crew.session(Codec(6, 3, 2), cohort=keys, committee=(2, 3, 4), threshold=2)


def stale_key(crew: Federation) -> Session:
    key = RunKey.signed(crew.identities[1], 1, 1, bytes([9]) * 32)
    return crew.session(cohort=(key, *(crew.keys[device] for device in (2, 3, 4))))


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda crew: crew.session(run=2), "session is not for device 1 in this run"),
        (without_us, "session is not for device 1 in this run"),
        (stale_key, "session does not hold our run key"),
        (low_order, "device 3: run key is a low-order point"),
    ],
)
def test_a_session_that_is_not_ours_is_not_served(
    made: Callable[[Federation], Session], says: str
) -> None:
    crew = Federation(4)
    with pytest.raises(ProtocolError, match=says):
        crew.report(made(crew), 1)


@pytest.mark.parametrize(
    ("vector", "rand", "says"),
    [
        (np.zeros(5, np.uint32), 0, "not encoded by the session's codec"),
        (np.zeros((12, 1), np.uint32), 0, "not encoded by the session's codec"),
        (np.zeros(12, np.uint64), 0, "not encoded by the session's codec"),
        (np.zeros(12, np.uint32), 1, "report takes 64 random bytes"),
        (np.zeros(12, np.uint32), -1, "report takes 64 random bytes"),
    ],
)
def test_a_report_takes_what_fits(vector: Any, rand: int, says: str) -> None:
    crew = Federation(4)
    session = crew.session()
    assert session.codec.size == 12
    with pytest.raises(ParameterError, match=says):
        client.report(
            crew.enrolled[1],
            crew.identities[1],
            session,
            crew.agreed(session, 1),
            vector,
            (),
            bytes(32),
            bytes(client.REPORT_RAND_BYTES + rand),
        )


def test_the_plain_vector_does_not_outlive_the_report() -> None:
    crew = Federation(3)
    session = crew.session()
    encoded = crew.encoded(session, 1)
    before, rand = encoded.copy(), crew.rand(client.REPORT_RAND_BYTES)
    given = (crew.enrolled[1], crew.identities[1], session, crew.agreed(session, 1))
    _, report = client.report(*given, encoded, (), bytes(32), rand)
    assert not np.any(encoded == before)
    assert report.packed == pack(encoded, session.codec.bits)


def mask_keys(crew: Federation, session: Session, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The keys of all masks of a session, device by device."""
    used: list[bytes] = []
    real = prg.add_masks

    def spy(vector: Any, plus: Any, minus: Any) -> None:
        used.extend([*plus, *minus])
        real(vector, plus, minus)

    with monkeypatch.context() as patch:
        patch.setattr(hiding, "add_masks", spy)
        crew.reports(session, crew.devices)
    return used


def test_each_pair_has_one_key_and_no_two_sessions_share_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crew = Federation(4)
    seen: set[bytes] = set()
    others: list[dict[str, Any]] = [
        {},
        {"round": 2},
        {"purpose": Purpose.EVALUATE},
        {"model": bytes([1]) * 32},
        {"config": bytes([1]) * 32},
        {"roster": bytes([1]) * 32},
        {"min_survivors": 3},
        {"threshold": 4},
        {"codec": Codec(6, 4, 2, bound=4.0)},
    ]
    for changed in others:
        used = mask_keys(crew, crew.session(**changed), monkeypatch)
        counts = sorted(used.count(key) for key in set(used))
        assert counts == [1] * 4 + [2] * 6  # four self keys, six pairs
        assert seen.isdisjoint(used)
        seen.update(used)


def test_no_two_messages_are_sealed_under_one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even by a device set back to an old state, which answers one session twice: with the fixed
    nonce, one key for both would give away the difference of their self keys."""
    crew = Federation(3)
    session = crew.session()
    rands = [crew.rand(client.REPORT_RAND_BYTES) for _ in range(2)]
    first, second = (
        client.report(
            crew.enrolled[1],
            crew.identities[1],
            session,
            crew.agreed(session, 1),
            crew.encoded(session, 1),
            (),
            bytes(32),
            rand,
        )[1]
        for rand in rands
    )
    own = [derive(rand[:32], labels.SELF_MASK, session.id) for rand in rands]
    leak = np.frombuffer(own[0], np.uint8) ^ np.frombuffer(own[1], np.uint8)
    boxes = [
        np.frombuffer(a, np.uint8)[:32] ^ np.frombuffer(b, np.uint8)[:32]
        for a, b in zip(first.sealed, second.sealed, strict=True)
    ]
    combined = shamir.combine([1, 2, 3], np.stack(boxes)[:, None])
    assert not np.array_equal(combined[0], leak)


# attest


def requested(
    crew: Federation, session: Session, survivors: tuple[int, ...], member: int = 1
) -> tuple[client.Reported, AttestRequest]:
    """A member's state, and a request that names these survivors."""
    states, reports = crew.reports(session, {*survivors, member} & set(crew.devices))
    known = {device: reports.get(device, reports[member]) for device in survivors}
    return states[member], asked(session, known, survivors, member)


@pytest.mark.parametrize(
    ("survivors", "says"),
    [
        ((), "not part of the cohort|0 survivors, at least 3"),
        ((1, 2), "2 survivors, at least 3 needed"),
        ((1, 3, 2), "survivors are not part of the cohort"),  # not sorted
        ((1, 1, 2), "survivors are not part of the cohort"),
        ((1, 2, 2, 3), "survivors are not part of the cohort"),
        ((1, 2, 6), "survivors are not part of the cohort"),
        ((1, 2, 3, 9), "survivors are not part of the cohort"),
    ],
)
def test_a_set_that_nobody_should_open_is_not_attested(
    survivors: tuple[int, ...], says: str
) -> None:
    crew = Federation(5)
    session = crew.session(min_survivors=3)
    state, request = requested(crew, session, survivors)
    with pytest.raises(ProtocolError, match=says):
        crew.attested(session, state, request)


def test_attest_is_for_this_session_and_the_committee() -> None:
    crew = Federation(5)
    session = crew.session()
    state, request = requested(crew, session, (1, 2, 3))
    crew.attested(session, state, request)
    with pytest.raises(ProtocolError, match="attest is for another session"):
        crew.attested(session, state, replace(request, session=bytes(32)))
    small = crew.session(committee=(2, 3, 4), threshold=2)
    state, request = requested(crew, small, (1, 2, 3))
    with pytest.raises(ProtocolError, match="we are not on the committee"):
        crew.attested(session, state, request)


def test_only_what_the_sum_needs_is_kept() -> None:
    """A survivor's self key and its pair keys with the dropped; nothing else, of nobody else."""
    crew = Federation(5)
    session = crew.session()
    states, reports = crew.reports(session, crew.devices)
    survivors, dropped = (1, 3, 4), (2, 5)
    held: dict[int, client.Attested] = {}
    for member in crew.devices:
        request = asked(session, reports, survivors, member)
        held[member], said = crew.attested(session, states[member], request)
        assert said.bad == ()
        assert held[member].opened.shape == (9, 32)
    points = [session.point(member) for member in crew.devices]
    for row, dealer in enumerate(survivors):
        rows = slice(3 * row, 3 * row + 3)
        opened = shamir.combine(points, np.stack([held[m].opened[rows] for m in crew.devices]))
        order = reports[dealer].neighbours
        numbers = [0, *(1 + order.index(device) for device in dropped)]
        context = share_context(session.id, dealer, 0)
        for number, key in zip(numbers, opened, strict=True):
            committed = reports[dealer].commitments[16 * number : 16 * (number + 1)]
            assert hash_row(labels.SECRET_HASH, context, number, key.tobytes()) == committed


@pytest.mark.parametrize("part", ["sealed", "hashes"])
def test_shares_that_do_not_hold_are_named_and_not_kept(part: str) -> None:
    crew = Federation(4)
    session = crew.session()
    state, request = requested(crew, session, (1, 2, 4))
    fields = list(getattr(request, part))
    fields[1] = fields[1][:-1] + bytes([fields[1][-1] ^ 1])
    changed: dict[str, Any] = {part: tuple(fields)}
    attested, said = crew.attested(session, state, replace(request, **changed))
    assert said.bad == (2,)
    assert [rows.any() for rows in attested.opened.reshape(3, 2, 32)] == [True, False, True]


def test_shares_for_another_member_or_session_are_not_taken() -> None:
    """What was dealt to member 2, or in another round, or by another dealer, opens for nobody."""
    crew = Federation(4)
    session, later = crew.session(), crew.session(round=2)
    states, reports = crew.reports(session, crew.devices)
    _, newer = crew.reports(later, crew.devices)
    boxes = {1: reports[3], 2: newer[2], 3: reports[3]}
    request = AttestRequest(
        session.id,
        (1, 2, 3),
        tuple(boxes[d].neighbours for d in (1, 2, 3)),
        (boxes[1].sealed[0], boxes[2].sealed[0], boxes[3].sealed[1]),
        (boxes[1].hashes[0], boxes[2].hashes[0], boxes[3].hashes[1]),
    )
    attested, said = crew.attested(session, states[1], request)
    assert said.bad == (1, 2, 3)
    assert not attested.opened.any()


# reveal


class Signed:
    """A round up to `reveal`: states and signatures of every member on the set (1, 2, 3)."""

    def __init__(self) -> None:
        self.crew = Federation(5)
        self.session = self.crew.session()
        states, reports = self.crew.reports(self.session, (1, 2, 3, 4))
        attesting = self.crew.collect(self.session, {d: reports[d] for d in (1, 2, 3)})
        self.states: dict[int, client.Attested] = {}
        self.signatures: dict[int, bytes] = {}
        for member in (1, 2, 3, 4):
            self.states[member], said = self.crew.attested(
                self.session, states[member], attesting.request(member)
            )
            self.signatures[member] = said.signature
        other = asked(self.session, reports, (1, 2, 4), 1)
        self.elsewhere = {
            member: self.crew.attested(self.session, states[member], other)[1].signature
            for member in (1, 2, 3, 4)
        }

    def ask(self, *signatures: tuple[int, bytes], session: bytes | None = None) -> Shares:
        request = RevealRequest(session or self.session.id, signatures)
        return client.reveal(self.states[1], self.crew.roster, request)


@pytest.fixture(scope="module")
def signed() -> Signed:
    return Signed()


def test_a_threshold_of_signatures_opens(signed: Signed) -> None:
    for chosen in ((1, 2, 3), (2, 3, 4), (1, 2, 3, 4)):
        shares = signed.ask(*((m, signed.signatures[m]) for m in chosen))
        assert shares.member == 1
        assert np.array_equal(shares.opened, signed.states[1].opened)


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        (lambda s: [], "0 signatures, 3 needed"),
        (lambda s: [(1, s[1]), (2, s[2])], "2 signatures, 3 needed"),
        (lambda s: [(1, s[1]), (2, s[2]), (2, s[2])], "strangers, or one twice"),
        (lambda s: [(1, s[1]), (2, s[2]), (6, s[3])], "strangers, or one twice"),
        (lambda s: [(1, s[1]), (2, s[2]), (4, s[3])], "device 4: did not sign our set"),
        (lambda s: [(1, s[1]), (2, s[2]), (3, bytes(64))], "device 3: did not sign our set"),
        (lambda s: [(1, s[1]), (2, s[2]), (3, s[3]), (4, bytes(64))], "device 4: did not sign"),
    ],
)
def test_without_a_threshold_of_signatures_nothing_is_opened(
    signed: Signed,
    chosen: Callable[[dict[int, bytes]], list[tuple[int, bytes]]],
    says: str,
) -> None:
    with pytest.raises(ProtocolError, match=says):
        signed.ask(*chosen(signed.signatures))


def test_signatures_on_another_set_open_nothing(signed: Signed) -> None:
    mixed = [(1, signed.signatures[1]), (2, signed.elsewhere[2]), (3, signed.elsewhere[3])]
    with pytest.raises(ProtocolError, match="device 2: did not sign our set"):
        signed.ask(*mixed)
    with pytest.raises(ProtocolError, match="did not sign our set"):
        signed.ask(*((m, signed.elsewhere[m]) for m in (1, 2, 3)))


def test_signatures_in_another_session_open_nothing(signed: Signed) -> None:
    good = [(m, signed.signatures[m]) for m in (1, 2, 3)]
    with pytest.raises(ProtocolError, match="reveal is for another session"):
        signed.ask(*good, session=bytes(32))
    later = replace(signed.states[1], session=signed.crew.session(round=2))
    request = RevealRequest(later.session.id, tuple(good))
    with pytest.raises(ProtocolError, match="did not sign our set"):
        client.reveal(later, signed.crew.roster, request)


def test_a_member_outside_the_committee_signs_nothing() -> None:
    """Enrolled devices that are not on the committee count for nothing in `reveal`."""
    crew = Federation(5)
    session = crew.session(committee=(1, 2, 3), threshold=2)
    states, reports = crew.reports(session, crew.devices)
    attesting = crew.collect(session, reports)
    attested, said = crew.attested(session, states[1], attesting.request(1))
    digest = survivors_digest(session.id, attested.survivors)
    outside = crew.identities[5].sign(labels.SURVIVORS, digest)
    request = RevealRequest(session.id, ((1, said.signature), (5, outside)))
    with pytest.raises(ProtocolError, match="strangers"):
        client.reveal(attested, crew.roster, request)


def test_reveal_goes_by_the_roster_of_the_session(signed: Signed) -> None:
    """The server cannot slip in a roster, old or new, in which it knows the keys."""
    own = Federation(5, Counted(b"the server's own"))
    digest = survivors_digest(signed.session.id, (1, 2, 3))
    forged = [(m, own.identities[m].sign(labels.SURVIVORS, digest)) for m in (1, 2, 3)]
    request = RevealRequest(signed.session.id, tuple(forged))
    with pytest.raises(ProtocolError, match="session names another roster"):
        client.reveal(signed.states[1], own.roster, request)


# Each state once: through the vault.


def attest(
    crew: Federation, request: AttestRequest, state: client.Reported
) -> tuple[client.Attested, Attestation]:
    return crew.attested(state.session, state, request)


def reveal(roster: Roster, request: RevealRequest, state: client.Attested) -> tuple[None, Shares]:
    return None, client.reveal(state, roster, request)


def test_two_sets_cannot_be_attested() -> None:
    """The state is gone when the first set is signed, and when signing it failed."""
    crew = Federation(5)
    session = crew.session()
    states, reports = crew.reports(session, crew.devices)

    def step(survivors: tuple[int, ...]) -> Any:
        return partial(attest, crew, asked(session, reports, survivors, 1))

    shelf = Shelf()
    rounds.begin(shelf, states[1])
    rounds.advance(shelf, client.Reported, step((1, 2, 3)))
    for survivors in ((1, 2, 3), (1, 2, 4), (1, 2, 3, 4, 5)):
        with pytest.raises(ProtocolError, match="asked for Reported"):
            rounds.advance(shelf, client.Reported, step(survivors))

    rounds.begin(shelf, states[1])
    with pytest.raises(ProtocolError, match="at least 2 needed"):
        rounds.advance(shelf, client.Reported, step((1,)))
    with pytest.raises(ProtocolError, match="asked for Reported, at NoneType"):
        rounds.advance(shelf, client.Reported, step((1, 2, 3)))


moves = st.lists(
    st.tuples(st.just("report"), st.integers(1, 3), st.sampled_from(list(Purpose)))
    | st.tuples(st.just("attest"), st.sampled_from([(1, 2), (1, 2, 3), (1,)]), st.none())
    | st.tuples(st.just("reveal"), st.booleans(), st.none()),
    max_size=12,
)


@settings(max_examples=30)
@given(moves)
def test_whatever_the_server_asks_in_whatever_order(moves_made: list[tuple[Any, Any, Any]]) -> None:
    """Rounds only go forward; of each session at most one set is attested and one opened, and
    only the set that was attested."""
    crew, shelf = Federation(3), Shelf()
    served: list[tuple[int, int]] = []
    attested: dict[bytes, tuple[int, ...]] = {}
    revealed: dict[bytes, int] = {}
    current: tuple[Session, dict[int, Any]] | None = None
    for kind, what, purpose in moves_made:
        if kind == "report":
            session = crew.session(round=what, purpose=purpose)
            fresh = not served or (what, int(purpose)) > served[-1]
            if fresh:
                rounds.serve_once(shelf, session)
                served.append((what, int(purpose)))
                states, reports = crew.reports(session, crew.devices)
                rounds.begin(shelf, states[1])
                current = (session, reports)
            else:
                with pytest.raises(ProtocolError, match="was served before"):
                    rounds.serve_once(shelf, session)
        elif current is not None and kind == "attest":
            session, reports = current
            request = asked(session, reports, what, 1)
            try:
                rounds.advance(shelf, client.Reported, partial(attest, crew, request))
            except ProtocolError:
                continue
            assert session.id not in attested
            assert len(what) >= session.min_survivors
            attested[session.id] = what
        elif current is not None and kind == "reveal":
            session, _ = current
            survivors = attested.get(session.id, (1, 2)) if what else (2, 3)
            digest = survivors_digest(session.id, survivors)
            signatures = tuple(
                (m, crew.identities[m].sign(labels.SURVIVORS, digest)) for m in (1, 2)
            )
            ask = RevealRequest(session.id, signatures)
            try:
                shares = rounds.advance(shelf, client.Attested, partial(reveal, crew.roster, ask))
            except ProtocolError:
                continue
            assert attested[session.id] == survivors
            assert session.id not in revealed
            assert len(shares.opened) == len(survivors) * (1 + 3 - len(survivors))
            revealed[session.id] = 1


def test_states_kept_in_a_vault_finish_the_sum() -> None:
    crew = Federation(4)
    session = crew.session()
    shelves = {device: Shelf() for device in crew.devices}
    states, reports = crew.reports(session, (1, 2, 4))
    for device, state in states.items():
        rounds.begin(shelves[device], state)
    attesting = crew.collect(session, reports)
    for m in states:
        attesting.add(
            rounds.advance(
                shelves[m],
                client.Reported,
                partial(attest, crew, attesting.request(m)),
            ).encode(),
            sender=m,
        )
    revealing = attesting.close()
    for m in states:
        revealing.add(
            rounds.advance(
                shelves[m], client.Attested, partial(reveal, crew.roster, revealing.request())
            ).encode(),
            sender=m,
        )
    assert means(revealing.open(bytes(32))) == expected(session, (1, 2, 4))
    assert all(not shelf.slots for shelf in shelves.values())
