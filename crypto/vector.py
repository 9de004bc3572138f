"""A model as one flat vector, and back.

Everything behind the codec sees one vector: one quantisation, one mask, one message, however many
tensors a model has.
"""

import hashlib
import io
import math
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import accumulate
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tacit.crypto import labels
from tacit.crypto.errors import ParameterError

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
_HEADER_BYTES = 128  # of an array that numpy saved: all but those with very long dtypes
CHUNK = 1 << 14  # coordinates; float64 chunks of 128 KiB are still in the cache when used again

Floats: TypeAlias = NDArray[np.float64]
Ring: TypeAlias = NDArray[np.uint32] | NDArray[np.uint64]  # integers mod 2**bits
Ranges: TypeAlias = tuple[tuple[int, int], ...]  # [start, stop) each, sorted and disjoint


class Sliced(Protocol):
    """A vector of float64, or what gives out slices of one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, which: slice, /) -> Floats: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One named array of a model. `dtype` is numpy's little-endian code, such as '<f4'."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Number of coordinates; 1 for a 0-d array."""
        return int(np.prod(self.shape, dtype=np.int64))

    def encode(self) -> bytes:
        """No two entries, and no two rows of entries, encode alike: every part of variable length
        is preceded by its length."""
        name, code = self.name.encode(), self.dtype.encode()
        named = struct.pack("<II", len(name), len(code)) + name + code
        return named + struct.pack(f"<I{len(self.shape)}Q", len(self.shape), *self.shape)


@dataclass(frozen=True, slots=True)
class Layout:
    """The names, shapes and dtypes of a model, in its own order."""

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, arrays: Arrays) -> "Layout":
        """Raises ParameterError for an array that cannot be averaged (text, bool, complex) or has
        numbers wider than 64 bits, whose padding would make digests differ."""
        entries = []
        for name, array in arrays.items():
            if array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
                raise ParameterError(
                    f"array {name!r} is {array.dtype}: only numbers of 8 to 64 bits can be averaged"
                )
            entries.append(Entry(name, array.shape, array.dtype.newbyteorder("<").str))
        return cls(tuple(entries))

    @property
    def size(self) -> int:
        """Number of coordinates of the whole model."""
        return sum(entry.size for entry in self.entries)

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hex of names, shapes and dtypes in their order, and of no value: two models
        share it only if they have the same structure."""
        digest = hashlib.sha256(labels.STRUCTURE)
        for entry in self.entries:
            digest.update(entry.encode())
        return digest.hexdigest()

    def check(self, arrays: Arrays) -> None:
        """Raises ParameterError unless `arrays` has exactly these names, shapes and dtypes."""
        wanted = [entry.name for entry in self.entries]
        if missing := [name for name in wanted if name not in arrays]:
            raise ParameterError(f"array {missing[0]!r} is missing")
        if extra := [name for name in arrays if name not in set(wanted)]:
            raise ParameterError(f"array {extra[0]!r} is not in the model")
        for entry in self.entries:
            array = arrays[entry.name]
            if array.shape != entry.shape:
                raise ParameterError(
                    f"array {entry.name!r} has shape {array.shape}, the model has {entry.shape}"
                )
            if array.dtype.newbyteorder("<").str != entry.dtype:
                raise ParameterError(
                    f"array {entry.name!r} is {array.dtype}, the model has {np.dtype(entry.dtype)}"
                )

    def difference(self, new: Arrays, old: Arrays) -> "Difference":
        """`new - old` as one vector. Raises ParameterError if `new` does not fit."""
        self.check(new)
        return Difference(self, new, old)

    def add(self, model: Arrays, update: Sliced) -> dict[str, NDArray[Any]]:
        """`model + update` in the model's own dtypes; integers are rounded to the nearest that the
        dtype holds, exactly up to 2**53. Raises ParameterError for an update of another size."""
        out = {entry.name: np.empty(entry.shape, entry.dtype) for entry in self.entries}
        for name, array in out.items():
            self.add_into(array, name, model, update)
        return out

    def add_into(self, out: NDArray[Any], name: str, model: Arrays, update: Sliced) -> None:
        """One array of `add`, written to `out`, which is contiguous."""
        if update.shape != (self.size,):
            raise ParameterError(f"an update of shape {update.shape}, the model has {self.size}")
        names = [entry.name for entry in self.entries]
        first = sum(entry.size for entry in self.entries[: names.index(name)])
        before, after = model[name].reshape(-1), out.reshape(-1)
        for start in range(0, after.size, CHUNK):
            end = min(start + CHUNK, after.size)
            moved = before[start:end].astype(np.float64) + update[first + start : first + end]
            after[start:end] = _rounded(moved, after.dtype)

    def split(self, vector: Floats) -> dict[str, Floats]:
        """The vector as named arrays; views into it."""
        return {entry.name: part.reshape(entry.shape) for entry, part in self._parts(vector)}

    def within(self, ranges: Ranges) -> "Layout":
        """The arrays whose numbers, all of them, lie in these ranges of the vector."""
        ends = accumulate(entry.size for entry in self.entries)
        inside = []
        for entry, end in zip(self.entries, ends, strict=True):
            if any(start <= end - entry.size < end <= stop for start, stop in ranges):
                inside.append(entry)
        return Layout(tuple(inside))

    def _parts(self, flat: Floats) -> Iterator[tuple[Entry, Floats]]:
        start = 0
        for entry in self.entries:
            yield entry, flat[start : start + entry.size]
            start += entry.size


@dataclass(frozen=True, slots=True)
class Difference:
    """`new - old` as one vector of float64, worked out a chunk at a time: with a model's dtype of
    float32 all of it would be twice the size of the model. Of the coordinates in `ranges` alone,
    where these are given."""

    layout: Layout
    new: Arrays = field(repr=False)
    old: Arrays = field(repr=False)
    ranges: Ranges | None = None

    @property
    def shape(self) -> tuple[int]:
        if self.ranges is None:
            return (self.layout.size,)
        return (sum(stop - start for start, stop in self.ranges),)

    def only(self, ranges: Ranges) -> "Difference":
        """The coordinates in these ranges of the whole vector."""
        return replace(self, ranges=ranges)

    def chunks(self, size: int) -> Iterator[Floats]:
        """The vector in pieces of `size`, but for the last. Each is overwritten by the next."""
        buffer, filled = np.empty(min(size, *self.shape)), 0
        for before, after in self._parts():
            at = 0
            while at < before.size:
                taken = min(before.size - at, buffer.size - filled)
                piece = buffer[filled : filled + taken]
                # In float64 throughout: in their own dtype, 3 - 5 of two uint8 is 254.
                piece[:] = after[at : at + taken]
                piece -= before[at : at + taken]
                at, filled = at + taken, filled + taken
                if filled == buffer.size:
                    yield buffer
                    filled = 0
        if filled:
            yield buffer[:filled]

    def whole(self) -> Floats:
        """All of it at once."""
        return next(self.chunks(*self.shape), np.zeros(0))

    def _parts(self) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Old and new numbers, flat, that follow each other in the vector."""
        first, ranges = 0, ((0, self.layout.size),) if self.ranges is None else self.ranges
        starts, stops = [start for start, _ in ranges], [stop for _, stop in ranges]
        for entry in self.layout.entries:
            before, after = self.old[entry.name].reshape(-1), self.new[entry.name].reshape(-1)
            last = first + entry.size
            for start, stop in ranges[bisect_right(stops, first) : bisect_left(starts, last)]:
                part = slice(max(start - first, 0), stop - first)
                yield before[part], after[part]
            first = last


def others(ranges: Ranges, length: int) -> Ranges:
    """The ranges between these, and around them, in a vector of this length. Raises ParameterError
    if they go beyond it."""
    if ranges and ranges[-1][1] > length:
        raise ParameterError(f"a range to {ranges[-1][1]} in a vector of {length}")
    stops, starts = (0, *(stop for _, stop in ranges)), (*(start for start, _ in ranges), length)
    return tuple((a, b) for a, b in zip(stops, starts, strict=True) if a < b)


def _rounded(values: Floats, dtype: np.dtype[Any]) -> Floats:
    """Values that `dtype` holds: for integers the nearest."""
    if dtype.kind not in "iu":
        return values
    # The largest int64 is no float64: its neighbour below is, and rounds as it should.
    most = np.nextafter(float(np.iinfo(dtype).max), 0.0)
    return np.rint(np.clip(values, float(np.iinfo(dtype).min), most))


def saved_array(data: bytes) -> NDArray[Any] | None:
    """The array that numpy saved as `data`, read-only and without a copy; None unless its numbers
    lie in C order to the end of it."""
    if (found := _header(data[:_HEADER_BYTES])) is None:
        return None
    shape, dtype, start = found
    size = math.prod(shape) * dtype.itemsize
    if size == 0 or len(data) != start + size:
        return None
    return np.frombuffer(data, dtype, offset=start).reshape(shape)


@lru_cache(maxsize=256)  # numpy reads a header as Python source, and a model has it twice at least
def _header(head: bytes) -> tuple[tuple[int, ...], np.dtype[Any], int] | None:
    """Shape, dtype and where the numbers begin."""
    stream = io.BytesIO(head)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            return None
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    except ValueError:
        return None
    return None if is_fortran or dtype.hasobject else (shape, dtype, stream.tell())


def model_digest(arrays: Arrays) -> bytes:
    """32 bytes that two parties share only if they hold the same model, bit for bit."""
    digest = hashlib.sha256(labels.MODEL_DIGEST)
    for entry in Layout.of(arrays).entries:
        digest.update(entry.encode())
        digest.update(np.ascontiguousarray(arrays[entry.name], dtype=entry.dtype).data)
    return digest.digest()
