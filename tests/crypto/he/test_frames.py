"""Headers: one encoding, one library, one set of parameters; everything else is malformed."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.errors import MalformedMessage
from tacit.crypto.he import frames
from tacit.crypto.he.bfv import Key, Summer, encrypt
from tacit.crypto.he.frames import Kind, frame, frame_bytes, key_frame, read_frame, read_key
from tacit.crypto.he.packing import Packing
from tacit.crypto.he.sets import PUBLIC, SEEDED
from tacit.crypto.wire import Reader, Writer
from tests.crypto.he.group import group, ring
from tests.strategies import mutations

pytest.importorskip("tenseal", reason="TenSEAL is not installed: pip install '.[he]'")

PACKING = Packing(SEEDED, 6000, 21, 3)  # of two ciphertexts


def read(data: bytes, kind: Kind = Kind.CONTRIBUTION, packing: Packing = PACKING):
    count, blocks = read_frame(data, kind, packing, sender=4, stage="report")
    return count, [bytes(block) for block in blocks]


def made_by(version: str, kind: Kind, data: bytes) -> bytes:
    """The same frame, from another version of the library."""
    head = Writer().u8(2).text(frames.library()).u8(kind).data()
    assert data.startswith(head)
    return Writer().u8(2).text(version).u8(kind).data() + data[len(head) :]


@cache
def message() -> bytes:
    slots = PACKING.pack(ring([7] * 6000, 21))
    return encrypt(group(SEEDED).key, PACKING, slots)


def test_a_frame_reads_as_it_was_written() -> None:
    data = frame(Kind.SUM, PACKING, 2, [b"one", b""])
    assert read(data, Kind.SUM) == (2, [b"one", b""])
    assert read(message())[0] == 1
    assert len(message()) <= frame_bytes(Kind.CONTRIBUTION, PACKING)


@given(mutations(frame(Kind.SUM, PACKING, 2, [b"one", b"three"])))
def test_a_changed_frame_is_malformed_or_another_frame(data: bytes) -> None:
    try:
        count, blocks = read(data, Kind.SUM)
    except MalformedMessage:
        return
    assert frame(Kind.SUM, PACKING, count, blocks) == data


def test_the_sender_is_named() -> None:
    with pytest.raises(MalformedMessage) as caught:
        read(b"", Kind.SUM)
    assert (caught.value.sender, caught.value.stage) == (4, "report")


@given(st.binary(max_size=200))
def test_random_bytes_are_malformed(data: bytes) -> None:
    for kind in (Kind.CONTRIBUTION, Kind.SUM):
        with pytest.raises(MalformedMessage):
            read(data, kind)
    with pytest.raises(MalformedMessage):
        Key.read(Reader(data, sender=1, stage="key"), PUBLIC)


@given(st.binary(max_size=200))
def test_random_blocks_are_malformed(data: bytes) -> None:
    """Behind a header that is as it should be."""
    for packing in (PACKING, Packing(PUBLIC, 6000, 21, 3)):
        bad = frame(Kind.CONTRIBUTION, packing, 1, [data] * packing.blocks)
        with pytest.raises(MalformedMessage, match="does not load"):
            Summer(packing).add(bad, sender=4)


@pytest.mark.parametrize("version", ["0.3.16", "1.0", "", "0.3.18\n[31m"])
def test_another_version_is_named_with_ours(version: str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        read(made_by(version, Kind.CONTRIBUTION, message()))
    assert repr(version) in str(caught.value)
    assert repr(frames.library()) in str(caught.value)
    data = made_by(version, Kind.KEY, key_frame(SEEDED, b"key"))
    with pytest.raises(MalformedMessage, match="made by tenseal"):
        read_key(Reader(data, sender=1, stage="key"), SEEDED)


@pytest.mark.parametrize(
    ("packing", "reason"),
    [
        (Packing(PUBLIC, 6000, 21, 3), "parameter set 2, expected 1"),
        (Packing(SEEDED, 6001, 21, 3), "6000 elements of 21 bits for 3"),
        (Packing(SEEDED, 6000, 20, 3), "expected 6000 of 20 for 3"),
        (Packing(SEEDED, 6000, 21, 4), "expected 6000 of 21 for 4"),
    ],
)
def test_other_parameters_are_refused(packing: Packing, reason: str) -> None:
    with pytest.raises(MalformedMessage, match=reason):
        read(message(), packing=packing)


def test_what_does_not_belong_is_refused() -> None:
    good = [b"one", b"two"]
    for data, kind, reason in (
        (frame(Kind.SUM, PACKING, 1, good), Kind.CONTRIBUTION, "of kind 3, expected 2"),
        (frame(Kind.CONTRIBUTION, PACKING, 1, good), Kind.SUM, "of kind 2, expected 3"),
        (frame(Kind.CONTRIBUTION, PACKING, 2, good), Kind.CONTRIBUTION, "a sum of 2"),
        (frame(Kind.SUM, PACKING, 4, good), Kind.SUM, r"a sum of 4, expected 1\.\.3"),
        (frame(Kind.SUM, PACKING, 0, good), Kind.SUM, "a sum of 0"),
        (frame(Kind.SUM, PACKING, 1, [*good, b""]), Kind.SUM, "3 ciphertexts, expected 2"),
        (frame(Kind.SUM, PACKING, 1, good) + b"x", Kind.SUM, "1 bytes after the end"),
        (frame(Kind.SUM, PACKING, 1, good)[:-1], Kind.SUM, "1 bytes early"),
        (key_frame(SEEDED, b"key"), Kind.SUM, "of kind 1"),
        (b"\1" + message()[1:], Kind.CONTRIBUTION, "frame of version 1"),
    ):
        with pytest.raises(MalformedMessage, match=reason):
            read(data, kind)


def test_sizes_are_bounded_before_anything_is_read() -> None:
    """A contribution as large as a sum is refused, though a sum of that size is not."""
    large = [bytes(SEEDED.contribution_bytes + 1)] * 2
    with pytest.raises(MalformedMessage, match="at most"):
        read(frame(Kind.CONTRIBUTION, PACKING, 1, large))
    read(frame(Kind.SUM, PACKING, 1, large), Kind.SUM)
    larger = [bytes(SEEDED.ciphertext_bytes + 1)] * 2
    with pytest.raises(MalformedMessage, match="at most"):
        read(frame(Kind.SUM, PACKING, 1, larger), Kind.SUM)
    data = key_frame(SEEDED, bytes(SEEDED.key_bytes + 1))
    with pytest.raises(MalformedMessage, match="at most"):
        read_key(Reader(data, sender=1, stage="key"), SEEDED)
