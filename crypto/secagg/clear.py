"""The part of an update that travels outside the hidden vector, for its server to read.

Named arrays of a model can be left out of the sum that hides (as in FedML-HE, Jin et al. 2023,
arXiv:2303.10837). Nothing hides what one device sends of them but the noise that it adds, so that
has to be enough by itself: see `tacit.privacy.clear`. What both sides have to know of it is here.

A clear part is whole numbers of steps, `levels` of them to the norm that it is clipped to. They
follow from its size: rounding d coordinates at random lengthens a vector of length M, in steps, to
sqrt(M**2 + d/4) or so, and with M >= 2 sqrt(d) that is 3% at most. `square` leaves room for chance
beside: the square of the length is above

    M**2 + d/4 + sqrt(2 ln(1/b)) (M + sqrt(d)/2)

with probability b at most (Kairouz, Liu and Steinke 2021, arXiv:2102.06387, on rounding), so above
`square` one time in 10**8. Nothing relies on that: a device counts, and never sends what is longer.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from fractions import Fraction
from functools import cached_property
from itertools import accumulate, pairwise
from math import ceil, isqrt

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.codec import Codec, Mean
from tacit.crypto.errors import ParameterError
from tacit.crypto.vector import Difference, Floats, Layout, Ranges, Sliced, others
from tacit.crypto.wire import MAX_ITEMS, Reader, Writer, pack, packed_size, unpack

Integers = NDArray[np.int64]

LARGEST = 1 << 31  # coordinates
LEAST_LEVELS = 1 << 10  # so that chance, 8 levels in a square, is small beside the square of them
SMALLEST_NORM, LARGEST_NORM = 2.0**-64, 2.0**64
SMALLEST_SIGMA, LARGEST_SIGMA = 2.0**-10, 2.0**10  # from one step on; values fit 32 bits
TAIL = 18  # deviations: a sample is further out one time in 2**128 at most, and `pack` refuses it


@dataclass(frozen=True, slots=True)
class Clear:
    """Which coordinates of a flat update are sent in the clear, and with how much noise.

    ranges  [start, stop) of the flat update; sorted, neither empty nor touching each other
    norm    L2 norm to which a device clips these coordinates, all together
    sigma   standard deviation of the noise on each, as a multiple of `norm`

    All else follows. Impossible values cannot be built (ParameterError).
    """

    ranges: Ranges
    norm: float
    sigma: float

    def __post_init__(self) -> None:
        ends = [end for both in self.ranges for end in both]
        if not ends:
            raise ParameterError("a clear part with no coordinates")
        if ends[0] < 0 or any(after <= before for before, after in pairwise(ends)):
            raise ParameterError("ranges from 0, sorted, neither empty nor touching each other")
        if len(self.ranges) > MAX_ITEMS or self.size > LARGEST:
            raise ParameterError(
                f"{self.size} clear coordinates in {len(self.ranges)} ranges, at most {LARGEST} in "
                f"{MAX_ITEMS} allowed"
            )
        if not SMALLEST_NORM <= self.norm <= LARGEST_NORM:  # also false for NaN
            raise ParameterError(
                f"norm={self.norm}, expected {SMALLEST_NORM:g} to {LARGEST_NORM:g}"
            )
        if not SMALLEST_SIGMA <= self.sigma <= LARGEST_SIGMA:
            raise ParameterError(
                f"sigma={self.sigma}, expected {SMALLEST_SIGMA:g} to {LARGEST_SIGMA:g}"
            )

    @classmethod
    def of(cls, layout: Layout, patterns: Sequence[str], norm: float, sigma: float) -> "Clear":
        """The arrays whose names match one of `patterns` (`fc*.bias`; case counts).

        Raises ParameterError for a pattern that no name matches, and if nothing would be left to
        hide.
        """
        names = [entry.name for entry in layout.entries]
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ParameterError(
                    f"no array is called {pattern!r}: the model has {', '.join(names)}"
                )
        ranges: list[tuple[int, int]] = []
        stops = accumulate(entry.size for entry in layout.entries)
        for entry, stop in zip(layout.entries, stops, strict=True):
            start = stop - entry.size
            if entry.size and any(fnmatchcase(entry.name, pattern) for pattern in patterns):
                if ranges and ranges[-1][1] == start:
                    start = ranges.pop()[0]
                ranges.append((start, stop))
        found = cls(tuple(ranges), norm, sigma)
        if found.size == layout.size:
            raise ParameterError("all arrays would be in the clear: then nothing is left to hide")
        return found

    @property
    def size(self) -> int:
        """Number of clear coordinates."""
        return sum(stop - start for start, stop in self.ranges)

    @property
    def levels(self) -> int:
        """Steps of the grid to the norm."""
        return max(LEAST_LEVELS, isqrt(4 * self.size) + 1)

    @property
    def step(self) -> float:
        """What one step is worth."""
        return self.norm / self.levels

    @property
    def square(self) -> int:
        """The largest square of the length, in steps, that a clear part has before noise."""
        return self.levels**2 + self.size // 4 + 8 * self.levels

    @property
    def variance(self) -> Fraction:
        """Of the noise on a coordinate, in steps: a discrete Gaussian's."""
        return (Fraction(self.sigma) * self.levels) ** 2

    @property
    def bits(self) -> int:
        """Of one coordinate: the longest clear part and the largest noise fit, so none wraps."""
        return 1 + (isqrt(self.square) + isqrt(ceil(TAIL**2 * self.variance)) + 1).bit_length()

    @property
    def packed_size(self) -> int:
        """Bytes of a clear part as it is sent."""
        return packed_size(self.size, self.bits)

    def split(self, update: Floats | Difference) -> tuple[Floats | Difference, Floats]:
        """The part to hide and the clear one, each in the update's order.

        Raises ParameterError if the update ends before the last range does.
        """
        (length,) = update.shape
        hidden = others(self.ranges, length)
        if isinstance(update, Difference):
            return update.only(hidden), update.only(self.ranges).whole()
        clear = np.concatenate([update[start:stop] for start, stop in self.ranges])
        rest = [update[start:stop] for start, stop in hidden]
        return np.concatenate([np.zeros(0), *rest]), clear

    def pack(self, values: Integers) -> bytes:
        """A clear part (size,) as it is sent. Raises ParameterError for one that does not fit."""
        half = 1 << (self.bits - 1)
        if values.shape != (self.size,):
            raise ParameterError(f"{values.shape} clear coordinates where {self.size} belong")
        if not (-half <= values.min() and values.max() < half):
            raise ParameterError(f"a clear coordinate does not fit {self.bits} bits")
        return pack((values + half).astype(np.uint32), self.bits)

    def unpack(self, data: bytes | memoryview) -> Integers:
        """Inverse of `pack`. Raises ValueError as `wire.unpack` does."""
        values = unpack(data, self.size, self.bits).astype(np.int64)
        values -= 1 << (self.bits - 1)
        return values

    def joined(self, mean: Mean, total: Integers, codec: Codec) -> Mean:
        """The mean of a whole update: of a hidden one, and of the sum of clear parts.

        `codec` is that of the hidden part; a clear part has been weighted as it weights.
        """
        divisor = mean.weight / codec.max_weight / self.step
        return replace(mean, decoded=Joined(mean.decoded, total, self.ranges, divisor))

    def write(self, writer: Writer) -> None:
        writer.u32(len(self.ranges))
        for start, stop in self.ranges:
            writer.u64(start).u64(stop)
        writer.f64(self.norm).f64(self.sigma)

    @classmethod
    def read(cls, reader: Reader) -> "Clear | None":
        """Inverse of `write`, and None for no ranges, which nothing follows."""
        ranges = tuple((reader.u64(), reader.u64()) for _ in range(reader.count()))
        if not ranges:
            return None
        norm, sigma = reader.f64(), reader.f64()
        try:
            return cls(ranges, norm, sigma)
        except ParameterError as bad:
            raise reader.bad(str(bad)) from None


@dataclass(frozen=True)  # no slots: what it looks up in each slice is worked out once
class Joined:
    """The mean of a hidden part and the sum of clear ones, as one vector that is worked out a slice
    at a time."""

    hidden: Sliced
    sums: Integers = field(repr=False)
    ranges: Ranges
    divisor: float

    @property
    def shape(self) -> tuple[int]:
        return (self.hidden.shape[0] + self.sums.size,)

    def __getitem__(self, which: slice) -> Floats:
        start, stop, step = which.indices(self.shape[0])
        if step != 1 or stop < start:
            raise ParameterError("a mean is read from a start to an end")
        first, last = self._clear_before(start), self._clear_before(stop)
        is_clear = np.zeros(stop - start, np.bool_)
        for at in range(bisect_right(self._stops, start), bisect_left(self._starts, stop)):
            is_clear[max(self._starts[at] - start, 0) : self._stops[at] - start] = True
        out = np.empty(is_clear.size)
        out[is_clear] = self.sums[first:last] / self.divisor
        out[~is_clear] = self.hidden[start - first : stop - last]
        return out

    def _clear_before(self, coordinate: int) -> int:
        """How many clear coordinates there are before this one."""
        begun = bisect_left(self._starts, coordinate)
        beyond = self._stops[begun - 1] - coordinate if begun else 0
        return self._sizes[begun] - max(beyond, 0)

    @cached_property
    def _starts(self) -> list[int]:
        return [start for start, _ in self.ranges]

    @cached_property
    def _stops(self) -> list[int]:
        return [stop for _, stop in self.ranges]

    @cached_property
    def _sizes(self) -> list[int]:
        """Of the first 0, 1, 2, .. ranges together."""
        return list(accumulate((stop - start for start, stop in self.ranges), initial=0))
