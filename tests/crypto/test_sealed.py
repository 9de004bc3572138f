"""A sealed file opens to what was sealed, for those it was sealed to, or not at all."""

import hashlib
import io
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto import labels, sealed
from tacit.crypto.errors import Damaged, ParameterError
from tacit.crypto.identity import derive
from tacit.crypto.sealed import CHUNK, TAG_BYTES, Context, SealKey, seal, unseal

OURS, THEIRS, STRANGER = (SealKey(bytes([n]) * 32) for n in (1, 2, 3))
RAND = bytes(range(32))
CONTEXT = Context(run=7, round=3, root=bytes(range(32)))
SMALL = 64  # a chunk's content, where a test goes through every byte of a file
HEADER = 65 + 80 + 32  # for one recipient


def sealed_bytes(
    content: bytes, to: Sequence[SealKey] = (OURS,), context: Context = CONTEXT
) -> bytes:
    return b"".join(seal(io.BytesIO(content), [key.public for key in to], context, RAND))


def opened(data: bytes, key: SealKey = OURS, expected: Context | None = None) -> bytes:
    return b"".join(unseal(io.BytesIO(data), key, expected)[1])


def handed_out(data: bytes, key: SealKey = OURS) -> tuple[bytes, str]:
    """What of a damaged file is handed out before it is refused, and why it is."""
    out: list[bytes] = []

    def read() -> None:
        for part in unseal(io.BytesIO(data), key)[1]:
            out.append(part)

    with pytest.raises(Damaged) as why:
        read()
    return b"".join(out), str(why.value)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "CHUNK", SMALL)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 5])
def test_a_file_opens_to_what_was_sealed(size: int) -> None:
    content = (bytes(range(251)) * (size // 251 + 1))[:size]
    data = sealed_bytes(content)
    assert len(data) == HEADER + size + TAG_BYTES * max(1, -(-size // CHUNK))
    assert opened(data) == content
    assert unseal(io.BytesIO(data), OURS)[0] == CONTEXT


@given(st.binary(max_size=5 * SMALL), st.integers(1, 3), st.integers(1, 100))
def test_whatever_the_source_gives_at_a_time(content: bytes, keys: int, most: int) -> None:
    """A pipe or a raw file gives what it has."""

    class Dripping:
        def __init__(self, content: bytes) -> None:
            self.file = io.BytesIO(content)

        def read(self, size: int, /) -> bytes:
            return self.file.read(min(size, most))

    to = [OURS, THEIRS, STRANGER][:keys]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealed, "CHUNK", SMALL)
        data = b"".join(seal(Dripping(content), [key.public for key in to], CONTEXT, RAND))
        for key in to:
            assert b"".join(unseal(Dripping(data), key)[1]) == content


def test_the_format_is_what_it_says(small: None) -> None:
    """Taken apart by hand, but for HPKE."""
    content = bytes(SMALL) + b"the end"
    data = sealed_bytes(content)
    head = b"tacit sealed 1\r\n" + (7).to_bytes(8, "little") + (3).to_bytes(8, "little")
    assert data.startswith(head + CONTEXT.root + b"\x01")
    digest = hashlib.sha256(data[: HEADER - 32]).digest()
    assert data[HEADER - 32 : HEADER] == derive(RAND, labels.SEALED_HEADER, digest)
    cipher = AESGCM(derive(RAND, labels.SEALED_CHUNKS, digest))
    first, last = data[HEADER:][: SMALL + TAG_BYTES], data[HEADER:][SMALL + TAG_BYTES :]
    assert cipher.decrypt(bytes(12), first, None) == bytes(SMALL)
    assert cipher.decrypt(bytes(10) + b"\x01\x01", last, None) == b"the end"


def test_a_file_that_was_sealed_before_still_opens() -> None:
    """The ephemeral key of HPKE is drawn anew at each sealing, so the vector is for opening."""
    data = bytes.fromhex(VECTOR)
    assert opened(data, OURS, CONTEXT) == b"a model"
    assert OURS.public.hex() == "a4e09292b651c278b9772c569f5fa9bb13d906b46ab68c9df9dc2b4409f8a209"


VECTOR = (
    "7461636974207365616c656420310d0a07000000000000000300000000000000000102030405060708090a0b"
    "0c0d0e0f101112131415161718191a1b1c1d1e1f0169c5e6badab556547ba3d226d41078499cee3140c80a16"
    "42c2af9ca31552cc0b3623d4f177ae135436a69c2ae8cff3c5646e4b886561bad4003a624394136d31adcd64"
    "c8e098992b593ceff32f1a638f95c04c311d9ee300ac52d873f572514d610f27d78d0176ea1cfbdcaa65201d"
    "7dec9c6ab511c99652abd864105819fdcfd64e1ad2730cc9"
)


# Damage.


def test_every_flipped_bit_is_found_and_nothing_unauthenticated_is_handed_out(small: None) -> None:
    content = bytes(range(SMALL)) * 2 + b"the end"
    data = sealed_bytes(content, [OURS, THEIRS])
    header = HEADER + 80
    for at in range(len(data)):
        for bit in range(8):
            if 65 <= at < header - 32 and bit:
                continue  # an exchange of keys each: a bit of each of those bytes will do
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            out, _ = handed_out(bytes(flipped))
            before = max(at - header, 0) // (SMALL + TAG_BYTES)
            assert out == content[: SMALL * before]


def test_a_file_cut_off_anywhere_is_refused(small: None) -> None:
    content = bytes(range(SMALL)) * 3
    data = sealed_bytes(content)
    for cut in range(len(data)):
        out, why = handed_out(data[:cut])
        assert content.startswith(out)
        assert len(out) <= SMALL * max(cut - HEADER, 0) // (SMALL + TAG_BYTES)
    assert "cut off" in why


def test_appended_bytes_are_refused(small: None) -> None:
    for size in (0, 5, SMALL, 2 * SMALL, 2 * SMALL + 5):
        data = sealed_bytes(bytes(size))
        for more in (b"\x00", bytes(TAG_BYTES), data[-TAG_BYTES:], bytes(SMALL + TAG_BYTES), data):
            out, _ = handed_out(data + more)
            assert len(out) < max(size, 1)  # at most the chunks before the last


def chunks_of(data: bytes) -> tuple[bytes, list[bytes]]:
    step = SMALL + TAG_BYTES
    return data[:HEADER], [data[at : at + step] for at in range(HEADER, len(data), step)]


def test_chunks_moved_doubled_or_left_out_are_refused(small: None) -> None:
    content = bytes(range(SMALL)) * 4 + b"the end"
    header, chunks = chunks_of(sealed_bytes(content))
    count = len(chunks)
    for one in range(count):
        for other in range(one + 1, count):
            order = list(range(count))
            order[one], order[other] = other, one
            handed_out(header + b"".join(chunks[n] for n in order))
        handed_out(header + b"".join(chunks[:one] + chunks[one + 1 :]))
        handed_out(header + b"".join(chunks[: one + 1] + chunks[one:]))


def test_chunks_of_another_file_are_refused(small: None) -> None:
    """Even of one with the same file key, whose header differs in a byte."""
    content = bytes(SMALL) + b"the end"
    header, _ = chunks_of(sealed_bytes(content))
    _, others = chunks_of(sealed_bytes(content, context=replace(CONTEXT, round=4)))
    assert handed_out(header + b"".join(others))[0] == b""
    _, same = chunks_of(sealed_bytes(content, context=CONTEXT))  # its ephemeral key is another
    assert handed_out(header + b"".join(same))[0] == b""


def test_an_empty_last_chunk_is_for_an_empty_file_only(small: None) -> None:
    """One encoding of each content: a full last chunk is marked as the last."""
    data = sealed_bytes(bytes(SMALL))
    digest = hashlib.sha256(data[: HEADER - 32]).digest()
    cipher = AESGCM(derive(RAND, labels.SEALED_CHUNKS, digest))
    full = cipher.encrypt(bytes(12), bytes(SMALL), None)
    empty = cipher.encrypt(bytes(10) + b"\x01\x01", b"", None)
    assert handed_out(data[:HEADER] + full + empty) == (
        bytes(SMALL),
        "the sealed file ends early, in chunk 1: it was cut off",
    )


# Who, and what it belongs to.


def test_only_recipients_can_open(small: None) -> None:
    data = sealed_bytes(b"a model", [OURS, THEIRS])
    assert opened(data, OURS) == opened(data, THEIRS) == b"a model"
    out, why = handed_out(data, STRANGER)
    assert (out, why) == (b"", "the file is not sealed to this key, or its header was altered")


def test_all_recipients_get_the_same_file(small: None) -> None:
    """AES-GCM alone would let a sealer make one that two keys open to two contents: the check
    commits to the file's key."""
    one = sealed_bytes(b"for us", [OURS, THEIRS])
    rows = one[65 : 65 + 160]
    suite, info = sealed._SUITE, labels.SEALED_KEY + one[:65]
    other = suite.encrypt(bytes(32), THEIRS._key.public_key(), info)
    header = one[:65] + rows[:80] + other
    check, key = sealed._derived(RAND, header)
    data = header + check + AESGCM(key).encrypt(bytes(11) + b"\x01", b"for us", None)
    assert opened(data, OURS) == b"for us"
    assert handed_out(data, THEIRS) == (b"", "the header of the sealed file was altered")


def test_recipients_cannot_be_taken_out_or_put_in(small: None) -> None:
    data = sealed_bytes(b"a model", [OURS, THEIRS])
    one, two = data[65:145], data[145:225]
    for count, rows in ((1, one), (1, two), (2, two + one), (2, one + one), (3, one + two + one)):
        handed_out(data[:64] + bytes([count]) + rows + data[225:])
    for count in (0, 65, 255):
        assert "recipients" in handed_out(data[:64] + bytes([count]) + data[65:])[1]


@pytest.mark.parametrize("other", [{"run": 8}, {"round": 4}, {"root": bytes(32)}])
def test_a_file_belongs_to_one_run_round_and_log(small: None, other: dict) -> None:
    data = sealed_bytes(b"a model")
    assert opened(data, OURS, CONTEXT) == b"a model"
    with pytest.raises(Damaged, match="belongs to run 7, round 3"):
        opened(data, OURS, replace(CONTEXT, **other))
    relabelled = sealed_bytes(b"a model", context=replace(CONTEXT, **other))[:65] + data[65:]
    assert handed_out(relabelled)[0] == b""


def test_what_cannot_be_is_refused_before_anything_is_read() -> None:
    class Untouched:
        def read(self, size: int, /) -> bytes:
            raise AssertionError("read")

    ours = OURS.public
    for keys in ([], [ours, ours], [bytes(32)], [ours[:-1]], [n.to_bytes(32) for n in range(65)]):
        with pytest.raises(ParameterError):
            seal(Untouched(), keys, CONTEXT, RAND)
    with pytest.raises(ParameterError):
        seal(Untouched(), [ours], CONTEXT, RAND[:-1])
    for wrong in ({"run": -1}, {"round": 1 << 64}, {"root": b""}):
        with pytest.raises(ParameterError):
            Context(**wrong)
    with pytest.raises(ParameterError):
        SealKey(bytes(31))


def test_no_secret_is_shown() -> None:
    assert repr(OURS) == "SealKey()"


def test_memory_does_not_grow_with_the_file() -> None:
    """256 chunks through both ways, with less than a dozen chunks at a time."""

    class Zeros:
        left = 256 * CHUNK

        def read(self, size: int, /) -> bytes:
            taken = min(size, self.left)
            self.left -= taken
            return bytes(taken)

    class Joined:
        def __init__(self, parts: Iterator[bytes]) -> None:
            self.parts, self.held = parts, b""

        def read(self, size: int, /) -> bytes:
            if not self.held:
                self.held = next(self.parts, b"")
            taken, self.held = self.held[:size], self.held[size:]
            return taken

    tracemalloc.start()
    try:
        parts = unseal(Joined(seal(Zeros(), [OURS.public], CONTEXT, RAND)), OURS)[1]
        assert sum(map(len, parts)) == 256 * CHUNK
        assert tracemalloc.get_traced_memory()[1] < 12 * CHUNK
    finally:
        tracemalloc.stop()
