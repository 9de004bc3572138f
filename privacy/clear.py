"""What of an update leaves a device in the clear: clipped, weighted, on a grid, under noise.

    clip to norm ─> times share ─> steps, rounded at random ─> length counted ─> + noise

Whatever the data, and whatever it weighs, what is rounded has `Clear.square` as the square of its
length at most: so two such vectors, of any two data sets, are twice that length apart at most, and
discrete Gaussian noise on each coordinate makes the release m-GDP: see `tacit.privacy.equivalents`.
That the rounding is random makes no difference: its bits are drawn alike for all data, the bound
holds whatever they are, so for who is told them too, and whoever is not knows no more.
"""

import numpy as np

from tacit.crypto.errors import ParameterError
from tacit.crypto.prg import keystream
from tacit.crypto.secagg.clear import Clear, Integers
from tacit.crypto.vector import Floats
from tacit.privacy.clip import clip
from tacit.privacy.releases import Discrete, Neighbours, Release, Source, Unit, Use
from tacit.privacy.samplers import DiscreteGaussian, Sampler

DITHER_BITS = 16


def release_of(clear: Clear, run: int, round: int, cohort: int) -> Release:
    """What one device lets out by it, all of its data against any other.

    Nobody's noise but its own is on it: who else was in the sum makes no difference.
    """
    return Release(
        Discrete(DiscreteGaussian(clear.variance), clear.square, clear.size),
        Unit.CLIENT,
        Neighbours.REPLACE_ONE,
        Source.OWN,
        Use.TRAIN,
        run,
        round,
        cohort,
        survivors=cohort,
    )


def draw_noise(clear: Clear, rand: bytes) -> Integers:
    """The noise of one release (size,), in steps, from 32 fresh random bytes.

    Draw it before the data is looked at: how long it takes says something of it.
    """
    return Sampler(DiscreteGaussian(clear.variance), rand, clear.size).draw(clear.size)


def released(clear: Clear, update: Floats, share: float, noise: Integers, rand: bytes) -> Integers:
    """What is sent of the clear coordinates (size,) of an update, in steps.

    `share` is the device's weight by the largest there may be; `rand` are 32 random bytes that
    nobody else can foresee. On average over these, and over the noise, it is update * share, the
    update clipped; rounding to 16 bits of fraction moves that by 2**-17 steps at most. Raises
    ParameterError for a share outside 0 < share <= 1, and for an update of another size or with a
    value that is not finite.
    """
    if update.shape != (clear.size,) or not 0 < share <= 1:
        raise ParameterError(f"{update.shape} clear coordinates at a share of {share:g}")
    steps = clip(update, clear.norm) * (share / clear.step)
    rounded = _rounded(steps, rand)
    if _square(rounded) > clear.square:  # once in 10**8, if at all: nothing is longer then
        rounded = np.trunc(steps).astype(np.int64)
    if _square(rounded) > clear.square:
        raise ParameterError("clipping does not hold what it should")
    return rounded + noise


def _rounded(steps: Floats, rand: bytes) -> Integers:
    """To one of the two whole numbers around each, as `tacit.crypto.codec` does."""
    dither = np.frombuffer(keystream(rand, steps.size * DITHER_BITS // 8), "<u2")
    fine = np.rint(steps * float(1 << DITHER_BITS)).astype(np.int64)
    fine += dither
    fine >>= DITHER_BITS
    return fine


def _square(values: Integers) -> int:
    """The square of the length. Exact: of what was clipped it is below 2**40."""
    return int(np.dot(values, values))
