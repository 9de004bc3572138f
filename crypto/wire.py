"""The bytes of every message: little-endian, length first, nothing after the end.

Whatever decodes re-encodes to the same bytes: there is one encoding of each value, sizes are
checked before anything is read or allocated, and trailing bytes are refused.
"""

import struct

import numpy as np

from tacit.crypto.codec import Ring
from tacit.crypto.errors import MalformedMessage, ParameterError

VERSION = 1
MAX_ITEMS = 1 << 16


class Writer:
    """Appends fields; `data()` is the message. A value that does not fit is a ParameterError."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def u8(self, value: int) -> "Writer":
        return self._put("<B", value)

    def u32(self, value: int) -> "Writer":
        return self._put("<I", value)

    def u64(self, value: int) -> "Writer":
        return self._put("<Q", value)

    def f64(self, value: float) -> "Writer":
        return self._put("<d", value)

    def fixed(self, value: bytes, size: int) -> "Writer":
        """Exactly `size` bytes, without a length."""
        if len(value) != size:
            raise ParameterError(f"{len(value)} bytes where {size} belong")
        self._parts.append(value)
        return self

    def blob(self, value: bytes) -> "Writer":
        """A length (u32) and that many bytes."""
        self._put("<I", len(value))
        self._parts.append(value)
        return self

    def text(self, value: str) -> "Writer":
        return self.blob(value.encode())

    def data(self) -> bytes:
        return b"".join(self._parts)

    def _put(self, layout: str, value: float) -> "Writer":
        try:
            self._parts.append(struct.pack(layout, value))
        except struct.error:
            raise ParameterError(f"{value} does not fit its field of {layout[1:]!r}") from None
        return self


class Reader:
    """Reads fields in order; every surprise is a MalformedMessage naming `sender` and `stage`."""

    def __init__(self, data: bytes, *, sender: int, stage: str) -> None:
        self._data = memoryview(data)
        self._at = 0
        self._sender = sender
        self._stage = stage

    def u8(self) -> int:
        return int(self._get("<B"))

    def u32(self) -> int:
        return int(self._get("<I"))

    def u64(self) -> int:
        return int(self._get("<Q"))

    def f64(self) -> float:
        """A finite float64."""
        value = float(self._get("<d"))
        if not np.isfinite(value):
            raise self.bad("a number that is not finite")
        return value

    def fixed(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            raise self.bad(f"ends {size - (len(self._data) - self._at)} bytes early")
        self._at += size
        return bytes(self._data[self._at - size : self._at])

    def blob(self, most: int = 1 << 32) -> bytes:
        size = self.u32()
        if size > most:
            raise self.bad(f"a field of {size} bytes, at most {most} allowed")
        return self.fixed(size)

    def text(self, most: int = 256) -> str:
        try:
            return self.blob(most).decode()
        except UnicodeDecodeError:
            raise self.bad("text that is not UTF-8") from None

    def count(self, most: int = MAX_ITEMS) -> int:
        """A number of items to follow (u32), bounded before anything is allocated."""
        items = self.u32()
        if items > most:
            raise self.bad(f"{items} items, at most {most} allowed")
        return items

    def end(self) -> None:
        if self._at != len(self._data):
            raise self.bad(f"{len(self._data) - self._at} bytes after the end")

    def bad(self, reason: str) -> MalformedMessage:
        """The error to raise for these bytes."""
        return MalformedMessage(reason, sender=self._sender, stage=self._stage)

    def _get(self, layout: str) -> float:
        value: float = struct.unpack(layout, self.fixed(struct.calcsize(layout)))[0]
        return value


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` ring elements of `bits` bits take."""
    return (count * bits + 7) // 8


def pack(vector: Ring, bits: int) -> bytes:
    """The low `bits` bits of every element, one after the other, least significant bit first."""
    width = vector.dtype.itemsize
    little = vector.astype(vector.dtype.newbyteorder("<"), copy=False)
    if bits == 8 * width:
        return little.tobytes()
    octets = little.view(np.uint8).reshape(-1, width)
    if bits % 8 == 0:
        return octets[:, : bits // 8].tobytes()
    # Blocks of 8 elements are a whole number of bytes, so blocks pack independently: the
    # eightfold blow-up of unpackbits stays small.
    block = 1 << 15
    parts = []
    for start in range(0, len(octets), block):
        flags = np.unpackbits(octets[start : start + block], axis=1, bitorder="little")
        parts.append(np.packbits(flags[:, :bits], bitorder="little").tobytes())
    return b"".join(parts)


def unpack(data: bytes, count: int, bits: int) -> Ring:
    """Inverse of `pack` for data of exactly packed_size(count, bits) bytes.

    Elements are held in uint32 for `bits` <= 32, else in uint64. Raises ValueError for another
    length or for padding bits that are not zero.
    """
    if len(data) != packed_size(count, bits):
        raise ValueError(f"{len(data)} bytes, expected {packed_size(count, bits)}")
    width = 4 if bits <= 32 else 8
    word = np.dtype(f"<u{width}")
    raw = np.frombuffer(data, np.uint8)
    if bits == 8 * width:
        return raw.view(word).copy()
    octets = np.zeros((count, width), np.uint8)
    if bits % 8 == 0:
        octets[:, : bits // 8] = raw.reshape(count, bits // 8)
        return octets.view(word).reshape(-1)
    if (spare := 8 * len(raw) - count * bits) and raw[-1] >> (8 - spare):
        raise ValueError("padding bits are not zero")
    block = 1 << 15
    for start in range(0, count, block):
        items = min(block, count - start)
        part = raw[start * bits // 8 : (start * bits + items * bits + 7) // 8]
        flags = np.unpackbits(part, count=items * bits, bitorder="little").reshape(items, bits)
        octets[start : start + items, : (bits + 7) // 8] = np.packbits(
            flags, axis=1, bitorder="little"
        )
    return octets.view(word).reshape(-1)
