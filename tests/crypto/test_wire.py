"""The bytes of messages: one encoding of each value, and MalformedMessage for anything else."""

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.client import rounds
from tacit.crypto import wire
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
from tacit.crypto.wire import Reader, Writer, fold, pack, packed_size, unpack
from tests.crypto.federation import Federation
from tests.strategies import mutations, windows

WIDTHS = range(8, 63)


def word(bits: int) -> type[np.uint32] | type[np.uint64]:
    return np.uint32 if bits <= 32 else np.uint64


def packed(values: list[int], bits: int) -> bytes:
    """`pack` bit by bit, from its description: which bit of which element each bit of a word is."""
    lanes = 32 if bits <= 32 else 64
    if bits == lanes:
        return b"".join(value.to_bytes(4, "little") for value in values)
    columns = (len(values) + lanes - 1) // lanes
    padded = values + [0] * (lanes * columns - len(values))
    data = b""
    for at in range(bits):
        for column in range(columns):
            number = 0
            for bit in range(lanes):
                row, place = divmod(at * lanes + bit, bits)
                number |= (padded[row * columns + column] >> place & 1) << bit
            data += number.to_bytes(lanes // 8, "little")
    return data


def some(count: int, bits: int) -> Ring:
    """Elements with all bits of their words in use, those above `bits` too."""
    dtype = word(bits)
    return np.random.default_rng([count, bits]).integers(0, np.iinfo(dtype).max, count, dtype, True)


def low(vector: Ring, bits: int) -> list[int]:
    return [value % (1 << bits) for value in vector.tolist()]


@pytest.mark.parametrize("bits", WIDTHS)
def test_packing_is_what_its_description_says(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Around the borders of rows, and of tiles, which are no part of the format."""
    lanes = 8 * word(bits)().itemsize
    monkeypatch.setattr(wire, "TILE", 2)
    for count in (0, 1, 2, lanes - 1, lanes, lanes + 1, 2 * lanes, 4 * lanes + 1, 5 * lanes - 3):
        vector = some(count, bits)
        data = pack(vector, bits)
        assert data == packed(vector.tolist(), bits)
        assert len(data) == packed_size(count, bits)
        back = unpack(data, count, bits)
        assert back.dtype == word(bits)
        assert back.tolist() == low(vector, bits)


def test_an_example_for_other_implementations() -> None:
    """33 elements of 9 bits, 511 down: two columns, that of the odd ones and that of the even."""
    words = np.frombuffer(pack(511 - np.arange(33, dtype=np.uint32), 9), "<u4").reshape(9, 2)
    assert words[0, 0] == 511 | 509 << 9 | 507 << 18 | (505 & 31) << 27
    assert words[0, 1] == 510 | 508 << 9 | 506 << 18 | (504 & 31) << 27
    assert words[1, 0] == 505 >> 5 | 503 << 4 | 501 << 13 | 499 << 22 | (497 & 1) << 31
    # The last element is alone in row 16, at bit 144 of its column.
    assert words[4, 0] == 483 >> 2 | 481 << 7 | 479 << 16
    assert not words[5:, 0].any()


@settings(max_examples=60)
@given(st.sampled_from(WIDTHS), st.integers(0, 200), st.integers(1, 5))
def test_packing_loses_nothing(bits: int, count: int, tile: int) -> None:
    vector = some(count, bits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "TILE", tile)
        assert unpack(pack(vector, bits), count, bits).tolist() == low(vector, bits)


@settings(max_examples=60)
@given(st.sampled_from([8, 23, 31, 32, 33, 62]), st.integers(0, 3), st.data())
def test_any_bytes_without_padding_decode_and_encode_to_themselves(
    bits: int, columns: int, data: st.DataObject
) -> None:
    count = columns * 8 * word(bits)().itemsize
    size = packed_size(count, bits)
    drawn = data.draw(st.binary(min_size=size, max_size=size))
    assert pack(unpack(drawn, count, bits), bits) == drawn


@pytest.mark.parametrize("bits", [23, 32, 40])
@pytest.mark.parametrize("shift", [0, 1])
def test_folding_adds_in_the_ring(bits: int, shift: int) -> None:
    """Across a real tile, from a view at any address, on top of a total that wraps."""
    count = 8 * word(bits)().itemsize * wire.TILE + 5
    vector, total = some(count, bits), some(count + 1, bits)[1:]
    mask = word(bits)((1 << bits) - 1)
    wanted = (total + vector) & mask
    fold(total, memoryview(bytes(shift) + pack(vector, bits))[shift:], bits)
    assert np.array_equal(total & mask, wanted)


def test_folding_takes_the_memory_of_two_rows_of_a_tile() -> None:
    bits, count = 23, 1 << 21
    data, total = pack(some(count, bits), bits), np.zeros(count, np.uint32)
    tracemalloc.start()
    fold(total, data, bits)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 2 * 4 * wire.TILE <= peak < 3 * 4 * wire.TILE < total.nbytes


def assert_refused(data: bytes, count: int, bits: int, says: str) -> None:
    """By both readers, and a total is left as it was."""
    total = some(count, bits)
    before = total.copy()
    with pytest.raises(ValueError, match=says):
        fold(total, data, bits)
    assert np.array_equal(total, before)
    with pytest.raises(ValueError, match=says):
        unpack(data, count, bits)


@pytest.mark.parametrize(
    ("count", "bits"), [(1, 9), (31, 10), (33, 31), (65, 23), (63, 62), (65, 33), (129, 40)]
)
def test_padding_must_be_zero(count: int, bits: int) -> None:
    """Each bit of each element that was appended, alone."""
    full = 8 * word(bits)().itemsize * -(-count // (8 * word(bits)().itemsize))
    for at in range(count, full):
        for bit in range(bits):
            padded = np.zeros(full, word(bits))
            padded[at] = 1 << bit
            assert_refused(pack(padded, bits), count, bits, "padding is not zero")


@pytest.mark.parametrize("bits", [8, 13, 32, 40, 62])
@pytest.mark.parametrize("off", [-4, -1, 1, 4, 8])
def test_another_length_is_refused(bits: int, off: int) -> None:
    assert_refused(bytes(packed_size(9, bits) + off), 9, bits, "bytes, expected")


@pytest.mark.parametrize(("bits", "wrong"), [(32, np.uint64), (33, np.uint32), (32, ">u4")])
def test_elements_in_another_word_are_refused(bits: int, wrong: Any) -> None:
    vector = np.zeros(9, wrong)
    with pytest.raises(ParameterError, match="elements are held in uint"):
        pack(vector, bits)
    with pytest.raises(ParameterError, match="elements are held in uint"):
        fold(vector, bytes(packed_size(9, bits)), bits)


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
    states, reports = crew.reports(session, [1, 2])
    attesting = crew.collect(session, reports)
    request = attesting.request(1)
    attested, said = crew.attested(session, states[1], request)
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
            reports[1].encode(session),
            lambda data: Report.decode(data, session, sender=1).encode(session),
        ),
        "attest request": (
            request.encode(session),
            lambda data: AttestRequest.decode(data, session).encode(session),
        ),
        "attestation": (
            replace(said, bad=(2,)).encode(),
            lambda data: Attestation.decode(data, session, sender=1).encode(),
        ),
        "reveal request": (
            revealing.request().encode(),
            lambda data: RevealRequest.decode(data, session).encode(),
        ),
        "shares": (shares.encode(), lambda data: Shares.decode(data, 4, 32, sender=1).encode()),
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
    [(29, 5e-324), (37, 5e-324), (45, 5e-324), (29, -1.0), (29, 1e308), (29, 0.0), (37, 1e-310)],
)
def test_a_session_with_an_impossible_bound_is_malformed(at: int, value: float) -> None:
    data = bytearray(messages()["session"][0])
    data[at : at + 8] = np.array(value, "<f8").tobytes()
    with pytest.raises(MalformedMessage, match=r"bound=|max_weight="):
        Session.decode(bytes(data))


def test_the_bounds_of_the_test_above_are_where_it_says() -> None:
    data = messages()["session"][0]
    assert np.frombuffer(data, "<f8", 3, 29).tolist() == [8.0, 1000.0, 10_000.0]


@pytest.mark.parametrize("claim", [1 << 16, 1 << 20, (1 << 32) - 1])
def test_a_large_claim_costs_nothing(claim: int) -> None:
    """Items that are not there are not waited for, nor is room made for them."""
    session = Federation(3).session()
    decoders: list[tuple[bytes, Callable[[bytes], object]]] = [
        (Writer().u8(2).u64(1).data(), Roster.decode),
        (Writer().u64(1).data(), lambda data: Attestation.decode(data, session, sender=1)),
        (bytes(32), lambda data: AttestRequest.decode(data, session)),
        (bytes(32), lambda data: RevealRequest.decode(data, session)),
    ]
    for start, decode in decoders:
        with pytest.raises(MalformedMessage):
            decode(start + Writer().u32(claim).data())
