"""Noise on a sum of clipped gradients of examples: the private part of a step of DP-SGD.

    sums of floats, by pieces ── round ──> whole numbers ──┐
                                                           + ──> one sum, back in floats
    32 secret bytes ── Skellam noise, drawn before ────────┘

Abadi et al. 2016, arXiv:1607.00133, with noise of whole numbers. A device adds all of it: it is
not shared, and what comes after, such as steps of a model and a sum over devices, costs no more.

**The grid** has 2**exponent steps to a unit, so that floats are scaled without an error, and R =
clip * 2**exponent of them, in 128 .. 256 times the root of d, to the clip.

**The bound.** Take two sets of examples of which one has an empty place where the other has an
example, and the same draw. A piece adds up to ROWS examples in floats, and is the same in both but
for the piece that had the example, which is off by clip * (1 + SLACK) at most: see
`tacit.client.clipped`, from where both numbers come. Pieces are added up in parts of a step,
without an error, and the sum is brought to whole steps: each of d coordinates moves by 1/2 step at
most in each of the two. So the sums differ, in steps, by at most

    R (1 + SLACK) + sqrt(d) < B = ceil(R (1 + SLACK)) + isqrt(d) + 1

Where the example is gone with its place, the others move up, and most pieces have another member:
their sum is the same but for what floats do, and 2**-FINE of a step for each piece, for which SLACK
has room up to ten thousand pieces. Were each brought to whole steps by itself, 300 pieces of equal
examples would move by 1.5 B. What floats do to pieces that have changed members is not in SLACK,
which is for the worst of one piece; it was measured, with 1000 pieces, to be below 1 % of R.

B is in L2 norm, 1% to 2% more than the clip, and noise a multiple of it. Rounding to the nearest
may be off by half a step in a direction; beside noise of a hundred times the root of d that is
nothing.

**Who is protected.** One example, on a device that stays: neither that it is there nor what it is.
How many are drawn is not let out, as the sum is divided by a number that no data had a part in.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.privacy.releases import Discrete, Neighbours, Release, Source, Unit, Use
from tacit.privacy.samplers import Integers, Sampler, Skellam

Reals: TypeAlias = NDArray[np.float32]

ROWS = 256  # examples in a piece
SLACK = Fraction(2 * ROWS * (ROWS + 4), 1 << 24)  # of the clip
SMALLEST, LARGEST = 2.0**-32, 2.0**32  # of a clip
CHUNK = 1 << 15  # coordinates
FINE = 20  # bits below a step in which pieces are added up
_FINENESS = 128


@dataclass(frozen=True, slots=True)
class ExampleSum:
    """What a sum over examples is made private with. What is impossible cannot be built
    (ParameterError).

    length  coordinates of a gradient
    clip    largest norm of one example's
    noise   deviation, in units of B: the multiplier of DP-SGD
    rate    of drawing, see `tacit.privacy.poisson`
    """

    length: int
    clip: float
    noise: float
    rate: float

    def __post_init__(self) -> None:
        if not 1 <= self.length <= 1 << 31:
            raise ParameterError(f"length={self.length}, expected 1..2**31")
        if not SMALLEST <= self.clip <= LARGEST:  # also false for NaN
            raise ParameterError(f"clip={self.clip}, expected 2**-32 .. 2**32")
        if not 0 < self.noise < math.inf:
            raise ParameterError(f"noise={self.noise}, expected above 0 and finite")
        if not 0 < self.rate <= 1:
            raise ParameterError(f"rate={self.rate}, expected 0 < rate <= 1")
        Skellam(self.variance)

    @property
    def exponent(self) -> int:
        """The least that makes the clip at least 128 times the root of d, in steps."""
        mantissa, power = math.frexp(self.clip)
        finest = _FINENESS * (math.isqrt(self.length - 1) + 1)
        least = (finest - 1).bit_length()
        return least - power + (math.ldexp(mantissa, least) < finest)

    @property
    def radius(self) -> Fraction:
        """R."""
        return Fraction(math.ldexp(self.clip, self.exponent))

    @property
    def bound(self) -> int:
        """B: how far apart two sums may be, in steps."""
        return math.ceil(self.radius * (1 + SLACK)) + math.isqrt(self.length) + 1

    @property
    def variance(self) -> Fraction:
        """Of the noise, in steps squared."""
        return (Fraction(self.noise) * self.bound) ** 2

    def release(self, run: int, round_: int) -> Release:
        """What one such sum lets out, on one device, for the ledger."""
        mechanism = Discrete(Skellam(self.variance), self.bound**2, self.length)
        return Release(
            mechanism,
            Unit.RECORD,
            Neighbours.ADD_OR_REMOVE,
            Source.OWN,
            Use.TRAIN,
            run,
            round_,
            cohort=1,
            survivors=1,
            rate=self.rate,
            is_count_hidden=True,  # what a sum is divided by is no count
        )

    def noised(self, pieces: Iterable[Reals], rand: bytes) -> Reals:
        """The sum of `pieces` (length,) each, in units of the clip, with its noise: (length,).

        `rand` is 32 fresh secret bytes. The noise is drawn before the first piece is asked for.
        Raises ParameterError for a piece of another length, and for one that is not finite or too
        long to be of ROWS clipped gradients: then whoever made it did not clip.
        """
        total = Sampler(Skellam(self.variance), rand, self.length).draw(self.length)
        parts, finer = np.zeros(self.length, np.int64), np.float32(2.0 ** (self.exponent + FINE))
        longest = math.ldexp(2 * ROWS * float(self.radius), FINE) ** 2
        for piece in pieces:
            if piece.shape != total.shape:
                raise ParameterError(f"a sum of shape {piece.shape}, expected {self.length}")
            _add_rounded(piece, finer, longest, parts)
        parts += 1 << (FINE - 1)
        parts >>= FINE
        total += parts
        found = total.astype(np.float32)
        found *= np.float32(math.ldexp(1.0, -self.exponent))
        return found


def _add_rounded(piece: Reals, scale: np.float32, longest: float, total: Integers) -> None:
    """Add piece * scale to `total`, to the nearest, unless its square is above `longest`."""
    steps, whole = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.int64)
    square = 0.0
    for start in range(0, piece.size, CHUNK):
        some = piece[start : start + CHUNK]
        near, added = steps[: some.size], whole[: some.size]
        np.rint(np.multiply(some, scale, out=near), out=near)
        square += float(np.dot(near, near))
        if not square <= longest:  # also for NaN
            raise ParameterError("a sum that is too long for gradients that were clipped")
        np.copyto(added, near, casting="unsafe")
        total[start : start + CHUNK] += added
