"""The bytes of every message: little-endian, length first, nothing after the end.

Whatever decodes re-encodes to the same bytes: there is one encoding of each value, sizes are
checked before anything is read or allocated, and trailing bytes are refused.
"""

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import MalformedMessage, ParameterError
from tacit.crypto.vector import Ring

VERSION = 2
MAX_ITEMS = 1 << 16
TILE = 1 << 15  # columns packed at a time: the few rows in use then fit the second-level cache


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
        return bytes(self.view(size))

    def view(self, size: int) -> memoryview:
        """As `fixed`, without a copy: for a field as long as a model."""
        if size > len(self._data) - self._at:
            raise self.bad(f"ends {size - (len(self._data) - self._at)} bytes early")
        self._at += size
        return self._data[self._at - size : self._at]

    def blob(self, most: int = 1 << 32) -> bytes:
        size = self.u32()
        if size > most:
            raise self.bad(f"a field of {size} bytes, at most {most} allowed")
        return self.fixed(size)

    def rest(self, most: int) -> bytes:
        """All that is left: a last field that its own bytes tell the end of."""
        if (size := len(self._data) - self._at) > most:
            raise self.bad(f"{size} bytes left, at most {most} allowed")
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

    def rows(self, layout: struct.Struct, most: int = MAX_ITEMS) -> Iterator[tuple[Any, ...]]:
        """A number of rows (u32), bounded by `most`, and each row's fields. Long tables are read
        ten times as fast as field by field."""
        return layout.iter_unpack(self.view(self.count(most) * layout.size))

    def end(self) -> None:
        if self._at != len(self._data):
            raise self.bad(f"{len(self._data) - self._at} bytes after the end")

    def bad(self, reason: str) -> MalformedMessage:
        """The error to raise for these bytes."""
        return MalformedMessage(reason, sender=self._sender, stage=self._stage)

    def _get(self, layout: str) -> float:
        value: float = struct.unpack(layout, self.fixed(struct.calcsize(layout)))[0]
        return value


_Place = tuple[int, NDArray[Any], NDArray[Any] | None]


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` ring elements of `bits` bits, 8..62, take."""
    word = _word(bits)
    lanes = 8 * word.itemsize
    words = count if bits == lanes else -(-count // lanes) * bits
    return words * word.itemsize


def pack(vector: Ring, bits: int) -> bytes:
    """The low `bits` bits of every element, without gaps.

    The format, in words of W bits, W = 32 for `bits` up to 32 and 64 beyond:

      - The vector, with zeros appended until W divides its length, is read as W rows by L columns:
        element r * L + c stands in row r, column c.
      - The W elements of a column are the digits of a number to base 2**bits, row 0 the lowest:
        the sum of element * 2**(r * bits) over the rows r.
      - The digits of that number to base 2**W, `bits` of them, are a column of words, the lowest
        in row 0.
      - These `bits` rows by L columns of words are written row by row, each word little-endian.

    So elements are shifted a row at a time, all alike, which is what vector units do best. At
    `bits` == W there is nothing to shift: the words are the vector, with nothing appended.

    `vector` is held in the word of `bits`, as a `Codec` does; raises ParameterError if it is not.
    """
    word = _word(bits)
    _check_word(vector, word)
    if bits == 8 * word.itemsize:
        return vector.astype(word, copy=False).tobytes()
    places = _places(bits)
    columns = -(-vector.size // len(places))
    words = np.zeros((bits, columns), word)
    mask = np.array((1 << bits) - 1, word)
    scratch = np.empty((2, min(TILE, columns)), vector.dtype)
    for start in range(0, columns, TILE):
        end = min(start + TILE, columns)
        for row, (at, shift, rest) in enumerate(places):
            values = vector[row * columns + start : row * columns + end]
            low, moved = scratch[:, : values.size]  # shorter than the tile at the vector's end
            into = words[at, start : start + values.size]
            np.bitwise_and(values, mask, low)
            np.bitwise_or(into, np.left_shift(low, shift, moved), into)
            if rest is not None:
                np.right_shift(low, rest, words[at + 1, start : start + values.size])
    return words.tobytes()


def unpack(data: bytes | memoryview, count: int, bits: int) -> Ring:
    """The `count` elements that `pack` made `data` of, in uint32 for `bits` up to 32, else uint64.

    Raises ValueError for data of another length than packed_size(count, bits), or whose appended
    elements are not zero.
    """
    word = _word(bits).newbyteorder("=")
    vector: Ring = np.zeros(count, word)
    fold(vector, data, bits)
    vector &= word.type((1 << bits) - 1)
    return vector


def fold(total: Ring, data: bytes | memoryview, bits: int) -> None:
    """Add to `total`, in place, the elements that `pack` made `data` of, tile by tile.

    The low `bits` bits of `total` are the sum's; those above are left as they come, since a sum in
    the ring is reduced once, when it is complete. Raises ValueError as `unpack`, and ParameterError
    if `total` is not held in the word of `bits`; `total` is then as before.
    """
    word = _word(bits)
    _check_word(total, word)
    words = _words(data, total.size, bits)
    if bits == 8 * word.itemsize:
        np.add(total, words[0], total)
        return
    columns = words.shape[1]
    scratch = np.empty((2, min(TILE, columns)), total.dtype)
    for start in range(0, columns, TILE):
        end = min(start + TILE, columns)
        # Arithmetic on words at odd addresses, as in a view of a message, is slow: copy those.
        tile = np.require(words[:, start:end], requirements="A")
        for row, place in enumerate(_places(bits)):
            into = total[row * columns + start : row * columns + end]
            np.add(into, _row(tile[:, : into.size], place, scratch[:, : into.size]), into)


def check_packed(data: bytes | memoryview, count: int, bits: int) -> None:
    """Raises ValueError, as `unpack` and `fold` do, unless these are `count` packed elements."""
    _words(data, count, bits)


def _words(data: bytes | memoryview, count: int, bits: int) -> Ring:
    """The words of packed data, rows by columns, once length and appended zeros are checked."""
    if len(data) != packed_size(count, bits):
        raise ValueError(f"{len(data)} bytes, expected {packed_size(count, bits)}")
    word = _word(bits)
    words: Ring = np.frombuffer(data, word)
    if bits == 8 * word.itemsize:
        return words.reshape(1, count)
    words = words.reshape(bits, -1)
    columns = words.shape[1]
    for row in range(count // max(columns, 1), 8 * word.itemsize):
        spare = words[:, max(count - row * columns, 0) :]
        value = _row(spare, _places(bits)[row], np.empty((2, spare.shape[1]), word))
        if np.any(value & word.type((1 << bits) - 1)):
            raise ValueError("padding is not zero")
    return words


def _row(words: Ring, place: _Place, scratch: Ring) -> Ring:
    """One row of elements, with other rows' bits above their own; it stands in `scratch`."""
    at, shift, rest = place
    value: Ring = np.right_shift(words[at], shift, scratch[0])
    if rest is not None:
        np.bitwise_or(value, np.left_shift(words[at + 1], rest, scratch[1]), value)
    return value


@lru_cache(maxsize=64)
def _places(bits: int) -> tuple[_Place, ...]:
    """For each row of elements: the row of words where it begins, the bit there, and, where it
    reaches into the next row of words, how many of its bits are in the first.

    As arrays without a dimension, which numpy takes in half the time of a number.
    """
    word = _word(bits).newbyteorder("=")
    lanes = 8 * word.itemsize
    places = []
    for row in range(lanes):
        at, shift = divmod(row * bits, lanes)
        rest = np.array(lanes - shift, word) if shift + bits > lanes else None
        places.append((at, np.array(shift, word), rest))
    return tuple(places)


def _word(bits: int) -> np.dtype[Any]:
    """The word that elements of so many bits are held in, little-endian."""
    return np.dtype("<u4") if bits <= 32 else np.dtype("<u8")


def _check_word(vector: Ring, word: np.dtype[Any]) -> None:
    if vector.dtype != word.newbyteorder("="):
        raise ParameterError(f"elements are held in {word.name} here, not {vector.dtype}")
