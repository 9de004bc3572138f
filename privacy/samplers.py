"""Whole-number noise from cryptographic bytes: Skellam and discrete Gaussian.

Floating-point noise has gaps that give away what it was added to (Mironov 2012,
doi:10.1145/2382196.2382264), and a generator with a small seed can be replayed. Here no float is on
the way of a sample, and every bit of it is AES's.

**Tables** (Peikert 2010, ePrint 2010/088, section 4.1). A sample is looked up with 128 random bits
u, a fraction of 2**128: it is the number of bounds that are at most u, less the reach K. Bound i is
2**128 * P[X <= i - K], rounded towards its end of the table, so that table and noise are symmetric
to the last bit. K is the largest number with P[X >= K] >= 2**-128. The first 16 bits of u mostly
say all: the other 112 are only drawn where a bound runs through their cell.

**Wide noise.** A table has 27 entries for each unit of the deviation. Where the variance is above
2**15 a sample is Y + Z: Y of variance v = 2**13, from a table, and Z of the rest, w, given that
g = 32 divides it; Z / g is drawn in the same way, with v and g**2 both 2**10 times as large. So the
last digit has a variance of 24 .. 2**15, in its own unit. P[Y + Z = x] is proportional to

    sum over z in gZ of P[Y = x - z] P[Z = z]
        = 1/g * sum over m mod g, sum over all z, of P[Y = x - z] P[Z = z] exp(2 pi i m z / g).

For Skellam noise m = 0 is what it should be, P[X = x] / g for X of variance v + w. All else is
error. By the characteristic function, exp(v (cos t - 1)), term m is at most exp(-E_m), with
E_m = v w / (v + w) * (1 - cos(2 pi m / g)). As v = 8 g**2 and w >= 3 v, E_m >= 118 |m| for
|m| <= g/2. All together are below 2**-169, and summed over all x and digits below 2**-130. For
discrete Gaussians the sum is exp(-x**2 / 2(v + w)) times that of exp(-(z - c)**2 / 2s) over gZ,
with s = v w / (v + w) >= 6 g**2, and this is the same for all c but for a factor 1 +- 2**-168.

**Statistical distance**, which enters delta. A bound is off by less than 2**-128, so a table by
less than (K + 2) * 2**-128, and a sample by the sum of that over its digits, plus the above:
`Law.distance`, 2**-115 at most. To release d samples at epsilon adds (1 + exp(epsilon)) * d times
as much to delta. That AES is a pseudorandom function is assumed, and not part of this.

**Time** depends on how many cells had a bound in them, and on the cache. A clock on single samples
sees into the noise (Jin et al. 2022, arXiv:2112.05307): draw a whole vector, before anything is
done to the data. A million samples take some 2 ms of CPU time with one digit, 5 with two and 10
with four, where `np.random.normal` takes 16 (`benchmarks/privacy.py`).
"""

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate, islice
from operator import mul
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.crypto.prg import KEY_BYTES, KeyStream, keystream

Integers = NDArray[np.int64]

LARGEST = Fraction(1 << 60)  # variance of any noise
ONE_TABLE = 1 << 15  # the largest variance that has a single table
DIGIT, STEP = 1 << 13, 32  # variance of a digit that is not the last, and what divides the rest
CHUNK = 1 << 17  # samples drawn at a time: a call costs little beside it

_WHOLE = 1 << 128
_CELL = 112  # bits of u below those that number its cell
_OPEN = -(1 << 15)  # plus the bounds before it: a cell with bounds inside. Samples are far above.
_CONTEXT = Context(prec=100, rounding=ROUND_HALF_EVEN)
_FINE = 200  # bits after the point of a weight
_NOTHING = Decimal("1e-60")  # below 2**-_FINE


@dataclass(frozen=True, slots=True)
class Law(ABC):
    """A symmetric distribution on the integers. `variance` is a whole number or a `Fraction`.

    Raises ParameterError for a variance out of range, and for a float: what it was before it was
    rounded is not known here, and the ledger has to count what is drawn.
    """

    variance: Fraction

    least: ClassVar[Fraction]

    def __post_init__(self) -> None:
        if not isinstance(self.variance, Fraction | int):
            raise ParameterError(f"variance {self.variance}: give it as a Fraction")
        if not self.least <= self.variance <= LARGEST:
            raise ParameterError(f"variance {self.variance}, expected {self.least} .. 2**60")

    @staticmethod
    @abstractmethod
    def weights(variance: Fraction, stride: int) -> list[int]:
        """P[X = stride * j] for j = 0, 1, .. times a common factor, each off by less than 2**-190
        of all together; up to where the rest is below 2**-170. In the context of `_table`."""

    @property
    def digits(self) -> tuple["Table", ...]:
        """The tables of a sample's digits, the lowest first. Kept once made: see `_table`."""
        tables, rest, stride = [], self.variance, 1
        while rest > ONE_TABLE * stride**2:
            tables.append(_table(type(self), Fraction(DIGIT * stride**2), stride))
            rest -= DIGIT * stride**2
            stride *= STEP
        return (*tables, _table(type(self), Fraction(rest), stride))

    @property
    def reach(self) -> int:
        """The largest sample; the smallest is -reach. 13 to 19 deviations if the noise is wide."""
        return sum(table.reach * STEP**i for i, table in enumerate(self.digits))

    @property
    def distance(self) -> float:
        """A bound on the total variation distance between a sample and this law."""
        return float(Fraction(sum(table.reach + 2 for table in self.digits) + 1, _WHOLE))


@dataclass(frozen=True, slots=True)
class Skellam(Law):
    """The difference of two Poisson numbers of mean v/2 each: P[X = x] = exp(-v) I_x(v).

    Agarwal, Kairouz and Liu 2021, arXiv:2110.04995, section 3. The sum of independent ones is
    Skellam too, and variances add up: devices can share the noise of a sum. Variance v of
    2**-30 .. 2**60.
    """

    least = Fraction(1, 1 << 30)

    @staticmethod
    def weights(variance: Fraction, stride: int) -> list[int]:
        """By the characteristic function at t = 2 pi m / (stride * turn): summed over all m, it
        gives P[X = stride * j] and that of all j + turn, j - turn, .. besides, which is nothing."""
        width = _width(variance / stride**2)
        turn = 1 << (2 * width).bit_length()
        spread, half = _decimal(variance), stride * turn // 2
        waves: list[int] = []
        for m, cosine in enumerate(islice(_cosines(stride * turn), half + 1)):
            wave = (spread * (cosine - 1)).exp()
            if wave < _NOTHING:
                break
            waves.append(_fixed(wave if m in (0, half) else 2 * wave))  # for m and -m
        circle = [_fixed(cosine) for cosine in islice(_cosines(turn), turn)]
        laps = circle * (1 + width * len(waves) // turn)
        return [sum(waves) << _FINE] + [
            sum(map(mul, waves, laps[: j * len(waves) : j])) for j in range(1, width)
        ]


@dataclass(frozen=True, slots=True)
class DiscreteGaussian(Law):
    """P[X = x] proportional to exp(-x**2 / 2v).

    Canonne, Kamath and Steinke 2020, arXiv:2004.00010. The parameter v goes by the name of
    variance; the true one is 0.2% less at v = 1/2, and 2e-7 of it at 1. A sum of independent ones
    is nearly another, the wider the nearer, but no longer below 1/2. v of 1/2 .. 2**60.
    """

    least = Fraction(1, 2)

    @staticmethod
    def weights(variance: Fraction, stride: int) -> list[int]:
        """Each from the one before: their exponents differ by 1, 3, 5, .. times the first."""
        own = variance / stride**2
        factor = (-1 / _decimal(2 * own)).exp()
        weight, square, found = Decimal(1), factor * factor, []
        for _ in range(_width(own)):
            found.append(_fixed(weight))
            weight *= factor
            factor *= square
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Samples -reach .. reach by their cumulative probabilities."""

    bounds: tuple[int, ...]  # 2 * reach + 1 of them, the last 2**128
    high: NDArray[np.uint64] = field(repr=False)  # their upper halves; of the last, 2**64 - 1
    first: NDArray[np.int16] = field(repr=False)  # by cell: a sample, or _OPEN + bounds before it

    @classmethod
    def of(cls, bounds: tuple[int, ...]) -> "Table":
        """With both indices, which save time and decide nothing."""
        inner, cells = bounds[:-1], np.arange(1 << 16)
        high = np.array([*(bound >> 64 for bound in inner), (1 << 64) - 1], np.uint64)
        before = np.searchsorted([-(-bound >> _CELL) for bound in inner], cells, "right")
        after = np.searchsorted([bound >> _CELL for bound in inner], cells, "right")
        first = before + np.where(before == after, -(len(inner) // 2), _OPEN)
        table = cls(bounds, high, first.astype(np.int16))
        table.high.setflags(write=False)
        table.first.setflags(write=False)
        return table

    @property
    def reach(self) -> int:
        """The largest sample."""
        return len(self.bounds) // 2

    def settle(
        self, found: NDArray[np.int16], cells: NDArray[np.uint16], words: NDArray[np.uint64]
    ) -> NDArray[np.intp]:
        """The samples (n,) of open cells (n,) in which `first` has `found`.

        `words` (n, 2) are the rest of u: 48 bits, the lowest of the first word, and 64.
        """
        high = words[:, 0] & np.uint64((1 << 48) - 1)
        high |= cells.astype(np.uint64) << np.uint64(48)
        index = found.astype(np.intp) - _OPEN
        index += self.high[index] < high
        behind = np.flatnonzero(self.high[index] <= high)  # one of many bounds in a cell, or a tie
        index[behind] = np.searchsorted(self.high, high[behind])
        for i in behind[self.high[index[behind]] == high[behind]].tolist():
            index[i] = bisect_right(self.bounds, int(high[i]) << 64 | int(words[i, 1]))
        return index - self.reach


class Sampler:
    """The noise that a key gives, read in order.

    As everywhere in the pure rooms, randomness is an argument, so that a vector of tests is a call.
    Whoever knows `rand` takes the noise off, and two vectors with the same noise have it taken off
    their difference: draw it from `os.urandom` for one sampler, and let nothing keep it.
    """

    __slots__ = ("_digits",)

    def __init__(self, law: Law, rand: bytes, samples: int) -> None:
        """`rand` is 32 fresh random bytes, `samples` all that will be drawn.

        The stream of `rand` holds two keys for each digit, the lowest digit first: of the stream
        that cells are read from, and of the stream for those that are open. Raises ParameterError
        as `KeyStream` does, so for 2**32 - 1 samples or more.
        """
        tables = law.digits
        stream = keystream(rand, 2 * KEY_BYTES * len(tables))
        keys = [stream[start : start + KEY_BYTES] for start in range(0, len(stream), KEY_BYTES)]
        self._digits = [
            (table, KeyStream(cells, 2 * samples), KeyStream(words, 16 * samples))
            for table, cells, words in zip(tables, keys[::2], keys[1::2], strict=True)
        ]

    def draw(self, count: int) -> Integers:
        """The next `count` samples (count,). How they are split over calls changes none."""
        out = np.empty(count, np.int64)
        highest, *lower = reversed(self._digits)
        for start in range(0, count, CHUNK):
            part = out[start : start + CHUNK]
            part[:] = _read(*highest, part.size)
            for digit in lower:
                part *= STEP
                part += _read(*digit, part.size)
        return out


def _read(table: Table, cells: KeyStream, words: KeyStream, count: int) -> NDArray[np.int16]:
    """The next samples of one digit. A cell is 2 bytes, little-endian; an open one, 16 more."""
    cell = np.empty(count, "<u2")
    cells.fill(cell)
    found = np.take(table.first, cell, mode="clip")  # none is out of range, so none is looked at
    unsettled = np.flatnonzero(found < _OPEN // 2)
    rest = np.empty((unsettled.size, 2), "<u8")
    words.fill(rest.reshape(-1))
    found[unsettled] = table.settle(found[unsettled], cell[unsettled], rest)
    return found


@lru_cache(maxsize=16)
def _table(law: type[Law], variance: Fraction, stride: int) -> Table:
    """Of X / stride, for X of this law given that stride divides it. Up to 60 ms and 400 kB."""
    with localcontext(_CONTEXT):
        weights = law.weights(variance, stride)
    whole = 2 * sum(weights) - weights[0]
    tails = [_WHOLE * tail // whole for tail in accumulate(weights[:0:-1])]
    lower = [tail for tail in tails if tail > 0]
    return Table.of((*lower, *(_WHOLE - tail for tail in reversed(lower)), _WHOLE))


def _width(variance: Fraction) -> int:
    """P[X >= this] < 2**-199, and 2**-170 given that a stride of up to 2**25 divides X * stride.

    Skellam noise is a sum of steps of 1, so Bernstein's inequality has P[X >= x] <= exp(-h) from
    x = h/3 + sqrt(h**2/9 + 2 h v) on. Gaussian tails are lighter.
    """
    return 48 + math.isqrt(47**2 + 277 * math.ceil(variance))


def _cosines(turn: int) -> Iterator[Decimal]:
    """cos(2 pi m / turn) for m = 0, 1, ..; `turn` is a power of two, 2 at least."""
    step = Decimal(-1)  # half a turn
    for _ in range(turn.bit_length() - 2):
        step = ((1 + step) / 2).sqrt()
    now, after = Decimal(1), step
    while True:
        yield now
        now, after = after, 2 * step * after - now


def _decimal(number: Fraction) -> Decimal:
    return Decimal(number.numerator) / number.denominator


def _fixed(number: Decimal) -> int:
    return int(number * (1 << _FINE))
