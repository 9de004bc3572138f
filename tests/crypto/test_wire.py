"""The bytes of messages: one encoding of each value, and MalformedMessage for anything else."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.client import rounds
from tacit.crypto.codec import Codec, Ring
from tacit.crypto.errors import MalformedMessage, ParameterError
from tacit.crypto.identity import Roster, RunKey
from tacit.crypto.secagg import client
from tacit.crypto.secagg.messages import (
    Attestation,
    AttestRequest,
    Report,
    RevealRequest,
    Shares,
)
from tacit.crypto.secagg.session import Session
from tacit.crypto.wire import Reader, Writer, pack, packed_size, unpack
from tests.crypto.federation import Federation
from tests.strategies import mutations, windows

BLOCK = 1 << 15  # elements that `pack` handles at a time


def packed(values: list[int], bits: int) -> bytes:
    """`pack` in plain integers: one long number, its first element lowest."""
    number = sum((value % (1 << bits)) << (k * bits) for k, value in enumerate(values))
    return number.to_bytes(packed_size(len(values), bits), "little")


@given(st.integers(8, 62), st.lists(st.integers(0, (1 << 64) - 1), max_size=21))
def test_packing_is_the_low_bits_in_a_row(bits: int, values: list[int]) -> None:
    word: Any = np.uint32 if bits <= 32 else np.uint64
    vector: Ring = np.array([value % (1 << (8 * word().itemsize)) for value in values], word)
    data = pack(vector, bits)
    assert data == packed(values, bits)
    back = unpack(data, len(values), bits)
    assert back.dtype == word
    assert back.tolist() == [value % (1 << bits) for value in vector.tolist()]


@pytest.mark.parametrize("bits", range(8, 63))
def test_every_width_across_the_borders_of_blocks(bits: int) -> None:
    dtype = np.uint32 if bits <= 32 else np.uint64
    rng = np.random.default_rng(bits)
    for count in (BLOCK - 1, BLOCK + 3):
        vector = rng.integers(0, 1 << bits, count, dtype)
        data = pack(vector, bits)
        assert len(data) == packed_size(count, bits)
        assert np.array_equal(unpack(data, count, bits), vector)


@pytest.mark.parametrize(("count", "bits"), [(1, 9), (3, 10), (7, 31), (5, 62), (BLOCK + 1, 33)])
def test_padding_bits_must_be_zero(count: int, bits: int) -> None:
    data = bytearray(packed_size(count, bits))
    unpack(bytes(data), count, bits)
    for spare in range(8 * len(data) - count * bits):
        data[-1] = 0x80 >> spare
        with pytest.raises(ValueError, match="padding bits are not zero"):
            unpack(bytes(data), count, bits)


@pytest.mark.parametrize("bits", [8, 13, 32, 40, 62])
@pytest.mark.parametrize("off", [-1, 1])
def test_another_length_is_refused(bits: int, off: int) -> None:
    with pytest.raises(ValueError, match="bytes, expected"):
        unpack(bytes(packed_size(9, bits) + off), 9, bits)


def reader(data: bytes) -> Reader:
    return Reader(data, sender=7, stage="test")


@pytest.mark.parametrize(
    ("data", "read", "says"),
    [
        (b"", Reader.u8, "ends 1 bytes early"),
        (b"\1\2\3", Reader.u32, "ends 1 bytes early"),
        (b"\1", Reader.u64, "ends 7 bytes early"),
        (b"ab", lambda r: r.fixed(3), "ends 1 bytes early"),
        (b"\3\0\0\0ab", Reader.blob, "ends 1 bytes early"),
        (b"\xff\xff\xff\xffab", Reader.blob, "early"),
        (b"\3\0\0\0abc", lambda r: r.blob(2), "a field of 3 bytes, at most 2 allowed"),
        (b"\1\1\0\0" + b"x" * 257, Reader.text, "a field of 257 bytes, at most 256 allowed"),
        (b"\2\0\0\0\xff\xfe", Reader.text, "not UTF-8"),
        (b"\3\0\0\0", lambda r: r.count(2), "3 items, at most 2 allowed"),
        (b"\xff\xff\xff\xff", Reader.count, "4294967295 items, at most 65536 allowed"),
        (np.array(np.nan, "<f8").tobytes(), Reader.f64, "not finite"),
        (np.array(-np.inf, "<f8").tobytes(), Reader.f64, "not finite"),
        (b"ab", lambda r: (r.u8(), r.end()), "1 bytes after the end"),
    ],
)
def test_a_reader_names_who_sent_what_it_refuses(
    data: bytes, read: Callable[[Reader], object], says: str
) -> None:
    with pytest.raises(MalformedMessage, match=f"test: device 7: .*{says}") as refused:
        read(reader(data))
    assert (refused.value.sender, refused.value.stage) == (7, "test")


@given(
    st.integers(0, 255),
    st.integers(0, (1 << 64) - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.binary(max_size=9),
    st.text(max_size=9),
)
def test_what_is_written_is_read(a: int, b: int, c: float, d: bytes, e: str) -> None:
    data = Writer().u8(a).u64(b).f64(c).blob(d).text(e).fixed(d, len(d)).data()
    back = reader(data)
    assert (back.u8(), back.u64(), back.f64(), back.blob(), back.text()) == (a, b, c, d, e)
    assert back.fixed(len(d)) == d
    back.end()


@pytest.mark.parametrize(
    "write",
    [
        lambda w: w.u8(256),
        lambda w: w.u32(1 << 32),
        lambda w: w.u64(1 << 64),
        lambda w: w.fixed(b"abc", 4),
    ],
)
def test_a_value_that_does_not_fit_is_not_written(write: Callable[[Writer], object]) -> None:
    with pytest.raises(ParameterError):
        write(Writer())


# Every decoder, as (a valid message, decode-and-encode-again).

Again = Callable[[bytes], bytes]


@cache
def messages() -> dict[str, tuple[bytes, Again]]:
    """One valid message of each kind, of a session as small as a real one gets."""
    crew = Federation(3)
    session = crew.session(Codec(2, 3, 1, bits=31))
    bits = session.codec.bits
    states, reports = crew.reports(session, [1, 2])
    attesting = crew.collect(session, reports)
    request = attesting.request(1)
    attested, said = client.attest(states[1], crew.identities[1], request)
    _, revealing = crew.attest(attesting, states)
    shares = client.reveal(attested, crew.roster, revealing.request())
    key = Writer()
    crew.keys[1].write(key)

    def run_key(data: bytes) -> bytes:
        source, out = reader(data), Writer()
        RunKey.read(source).write(out)
        source.end()
        return out.data()

    return {
        "roster": (crew.roster.encode(), lambda data: Roster.decode(data).encode()),
        "run key": (key.data(), run_key),
        "session": (session.encode(), lambda data: Session.decode(data).encode()),
        "report": (
            reports[1].encode(bits),
            lambda data: Report.decode(data, session, sender=1).encode(bits),
        ),
        "attest request": (
            request.encode(),
            lambda data: AttestRequest.decode(data, session).encode(),
        ),
        "attestation": (
            replace(said, bad=(2,)).encode(),
            lambda data: Attestation.decode(data, session, sender=1).encode(),
        ),
        "reveal request": (
            revealing.request().encode(),
            lambda data: RevealRequest.decode(data, session).encode(),
        ),
        "shares": (shares.encode(), lambda data: Shares.decode(data, 2, 1, sender=1).encode()),
        "enrolled": (rounds.encode_state(crew.enrolled[1]), state_again),
        "reported": (rounds.encode_state(states[1]), state_again),
        "attested": (rounds.encode_state(attested), state_again),
    }


def state_again(data: bytes) -> bytes:
    return rounds.encode_state(rounds.decode_state(data))


KINDS = (
    "roster",
    "run key",
    "session",
    "report",
    "attest request",
    "attestation",
    "reveal request",
    "shares",
    "enrolled",
    "reported",
    "attested",
)


def check(again: Again, data: bytes) -> bool:
    """Whether `data` decodes; then it encodes to itself. Any other error but one fails the test."""
    try:
        encoded = again(data)
    except MalformedMessage:
        return False
    assert encoded == data
    return True


def test_every_kind_of_message_is_fuzzed() -> None:
    assert set(messages()) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_decodes_to_itself(kind: str) -> None:
    data, again = messages()[kind]
    assert check(again, data)


@pytest.mark.parametrize("kind", KINDS)
def test_every_small_change_is_parsed_or_malformed(kind: str) -> None:
    """Each window of 1, 4 and 8 bytes cleared, filled and flipped; each prefix; each longer one."""
    data, again = messages()[kind]
    for changed in windows(data):
        if len(changed) != len(data):
            assert not check(again, changed)
        else:
            check(again, changed)


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_and_random_bytes_are_parsed_or_malformed(kind: str) -> None:
    data, again = messages()[kind]

    @settings(max_examples=60)
    @given(mutations(data) | st.binary(max_size=200))
    def run(changed: bytes) -> None:
        check(again, changed)

    run()


@pytest.mark.parametrize(
    ("at", "value"),
    [(30, 5e-324), (38, 5e-324), (46, 5e-324), (30, -1.0), (30, 1e308), (30, 0.0), (38, 1e-310)],
)
def test_a_session_with_an_impossible_bound_is_malformed(at: int, value: float) -> None:
    """The three bounds of the codec stand at bytes 28, 36 and 44."""
    data = bytearray(messages()["session"][0])
    data[at - 2 : at + 6] = np.array(value, "<f8").tobytes()
    with pytest.raises(MalformedMessage, match=r"bound=|max_weight="):
        Session.decode(bytes(data))


def test_the_bounds_of_the_test_above_are_where_it_says() -> None:
    data = messages()["session"][0]
    assert np.frombuffer(data, "<f8", 3, 28).tolist() == [8.0, 1000.0, 10_000.0]


@pytest.mark.parametrize("claim", [1 << 16, 1 << 20, (1 << 32) - 1])
def test_a_large_claim_costs_nothing(claim: int) -> None:
    """Items that are not there are not waited for, nor is room made for them."""
    session = Federation(3).session()
    decoders: list[tuple[bytes, Callable[[bytes], object]]] = [
        (Writer().u8(1).u64(1).data(), Roster.decode),
        (Writer().u64(1).data(), lambda data: Attestation.decode(data, session, sender=1)),
        (bytes(32), lambda data: AttestRequest.decode(data, session)),
        (bytes(32), lambda data: RevealRequest.decode(data, session)),
    ]
    for start, decode in decoders:
        with pytest.raises(MalformedMessage):
            decode(start + Writer().u32(claim).data())
