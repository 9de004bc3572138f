"""Distributed differential privacy: from an update to what goes into a secure sum, and back.

    update ── rotate, sketch ── clip ── round ──> whole numbers, B long at most ──┐
                                                                                  + ──> mod 2**bits
    32 secret bytes ── a share of the noise, drawn before the update is touched ──┘

Each device adds a share of Skellam noise, on the grid. The server sees nothing but the sum, which
has the noise of central differential privacy and not n times as much, and nobody had to be trusted
with a sum that has none. Kairouz, Liu and Steinke 2021, arXiv:2102.06387; Agarwal, Kairouz and Liu
2021, arXiv:2110.04995. No noise is a float, and no float decides whether the norm is within bounds.

**The bound.** The clip is `radius` steps of the grid, R. Rounding is stochastic, so it is right on
average: to the nearest, what stays below half a step on every device would be lost, however many
they are. It makes the squared norm larger, on average by 1/6 for each of d coordinates whose
fractions are spread, and with a deviation of 0.8 R, or R at most. So

    B**2 = (R + 1)**2 + ceil(d / 6) + floor(sqrt(d))

is met at once but for one vector in a hundred or so. Whether it is, whole numbers say; if not, the
vector is made shorter and rounded anew. So B holds for every input and whatever floats do, and its
formula only decides how often there is a second try.

**The noise.** V = noise**2 * B**2: rounding adds nothing to epsilon, but takes accuracy instead
(`overhead`). The fewest honest survivors that there may be, clients - dropouts - corrupt, have V
together. Each device that stays although it might have dropped adds to that, which an accountant
may count (`realised`); corrupt ones add nothing, as they know their noise. With fewer survivors
nothing is released: `decode` refuses, and a server that does not ask is stopped by the devices, if
the session's `min_survivors` is clients - dropouts.

**The ring.** Noise has tails, so a coordinate of a sum may leave the ring, and is then wrong by
2**bits steps. It gives nothing away: what is private stays so modulo anything. Of the sum of n
rotated updates, their rounding and all shares of noise, a coordinate is beyond sqrt(2 v h) + h / 3
on either side with a chance of 2 exp(-h) at most, by Chernoff's bound, with

    v = (n R)**2 / w + n / 4 + V * shares in the sum / shares that make up V

and w as in `tacit.privacy.rotation`. R is the largest that leaves a chance of 2**-WRAP. Taken for
granted is that updates know nothing of the signs of the rotation and, in a sketch, that it leaves
norms about as they were. Nothing of that is a matter of privacy.

**Neighbours** are two cohorts that differ in one device, whose contribution is zero in one of them:
the sums are up to B apart. With another in the place of zero it would be 2 B. How many devices
there are is public.

**Updates** with values that are not finite, or too large for a float32 in units of the clip, count
as zero: to refuse would tell what a device's data did to it. Arrays of whole numbers in a model,
such as counters of batches, do not move: they would take up the whole norm. An array without
dimensions is a coordinate like others. All devices weigh the same.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.codec import LARGEST, SMALLEST, Decoded
from tacit.crypto.errors import ParameterError, ProtocolError, TooFewClients
from tacit.crypto.prg import KEY_BYTES, MAX_BYTES, KeyStream, keystream
from tacit.crypto.vector import Difference, Floats, Ring
from tacit.privacy import samplers
from tacit.privacy.rotation import Reals, Rotation, width_of
from tacit.privacy.samplers import Sampler, Skellam

Steps: TypeAlias = NDArray[np.int32]

WRAP = 20  # a coordinate of a sum leaves the ring with probability 2**-WRAP at most
TOLERANCE = 0.01  # of the variance: the price of rounding; of epsilon it is less, about half
LEAST_BITS, MOST_BITS = 8, 32
MOST_STEPS = (1 << 22) - 1  # of a radius: float32 has hardly more digits
DITHER_BITS = 16
SHRINK = 1 - 2.0**-12  # besides what the norm asks for, so that there is an end to it
CHUNK = 1 << 14  # coordinates: below 2**24 each, their squares have a sum below 2**63
_LN2 = Fraction(6931472, 10**7)  # rounded up


@dataclass(frozen=True, slots=True)
class Mechanism:
    """What a sum is made private with. What is impossible cannot be built (ParameterError).

    length      coordinates of an update
    clients     devices in the cohort
    dropouts    so many of them may be missing: with more, nothing is released
    corrupt     so many of the others may tell the server their noise
    clip        largest norm of an update
    noise       deviation of the noise, in units of the bound: the multiplier of a central sum
    bits        of a ring element
    sketch      coordinates that are sent instead of all; 0: all are
    central     the server adds the noise to a sum that it has seen, and devices none

    Local privacy is a cohort of one: each device's contribution is a sum by itself.
    """

    length: int
    clients: int
    dropouts: int
    corrupt: int
    clip: float
    noise: float
    bits: int = 16
    sketch: int = 0
    central: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.length <= 1 << 31:
            raise ParameterError(f"length={self.length}, expected 1..2**31")
        if not 1 <= self.clients <= 1 << 20:
            raise ParameterError(f"clients={self.clients}, expected 1..{1 << 20}")
        if min(self.dropouts, self.corrupt) < 0 or self.dropouts + self.corrupt >= self.clients:
            raise ParameterError(
                f"of {self.clients} clients {self.dropouts} may be missing and {self.corrupt} "
                "corrupt: no honest one would be left"
            )
        if self.central and self.corrupt:
            raise ParameterError("devices add no noise to a central sum: corrupt is 0")
        if not SMALLEST <= self.clip <= LARGEST:  # also false for NaN
            raise ParameterError(f"clip={self.clip}, expected {SMALLEST:g} to {LARGEST:g}")
        if not 0 < self.noise < math.inf:
            raise ParameterError(f"noise={self.noise}, expected above 0 and finite")
        if not LEAST_BITS <= self.bits <= MOST_BITS:
            raise ParameterError(f"bits={self.bits}, expected {LEAST_BITS}..{MOST_BITS}")
        if not 0 <= self.sketch < self.length:
            raise ParameterError(f"sketch={self.sketch}, expected below {self.length} (length)")
        if self.radius < 1:
            raise ParameterError(
                f"{self.clients} clients with noise={self.noise:g} leave no room in {self.bits} "
                "bits: raise bits or lower noise"
            )
        Skellam(self.share)

    # What is sent

    @property
    def coordinates(self) -> int:
        """Of the vector that has noise, after the rotation."""
        return self.sketch or self.length

    @property
    def size(self) -> int:
        """Ring elements of a contribution: the coordinates, and one that counts devices."""
        return self.coordinates + 1

    @property
    def dtype(self) -> np.dtype[np.uint32]:
        """The machine word that holds one ring element."""
        return np.dtype(np.uint32)

    @property
    def bits_per_parameter(self) -> float:
        """Sent for each coordinate of an update."""
        return self.size * self.bits / self.length

    # What an accountant counts

    @property
    def radius(self) -> int:
        """R: the clip in steps of the grid."""
        return _radius(self.coordinates, self.clients, self.surplus, self.noise, self.bits)

    @property
    def scale(self) -> float:
        """Steps for each unit of an update."""
        return self.radius / self.clip

    @property
    def bound(self) -> int:
        """B**2, the largest squared L2 norm of a contribution without its noise, in steps."""
        return _bound(self.radius, self.coordinates)

    @property
    def bound_l1(self) -> int:
        """The largest L1 norm: by Cauchy and Schwarz, and as |x| <= x**2 for whole numbers."""
        return min(math.isqrt(self.coordinates * self.bound), self.bound)

    @property
    def variance(self) -> Fraction:
        """V, of the noise on each coordinate of a sum that is released, in steps squared: what is
        there at least and is not known to anybody."""
        return Fraction(self.noise) ** 2 * self.bound

    @property
    def shares(self) -> int:
        """So many shares of noise make up V: those of the fewest honest survivors."""
        return 1 if self.central else self.clients - self.dropouts - self.corrupt

    @property
    def surplus(self) -> Fraction:
        """The variance in a sum to which all add, corrupt ones too, is V times this at most."""
        return Fraction(1 if self.central else self.clients, self.shares)

    @property
    def share(self) -> Fraction:
        """The variance of one share."""
        return self.variance / self.shares

    def realised(self, survivors: int) -> Fraction:
        """The variance that nobody knows in a sum over so many: V or more.

        Raises TooFewClients where it would be less, and ParameterError for more than there are.
        """
        if survivors > self.clients:
            raise ParameterError(f"{survivors} survivors of {self.clients} clients")
        if survivors < self.clients - self.dropouts:
            raise TooFewClients(
                f"{survivors} survivors, {self.clients - self.dropouts} needed for their noise"
            )
        return self.share * (1 if self.central else survivors - self.corrupt)

    @property
    def distance(self) -> float:
        """A bound on the total variation distance of all noise in a sum from Skellam noise."""
        samples = self.surplus * self.shares * self.coordinates
        return float(samples) * Skellam(self.share).distance

    @property
    def overhead(self) -> Fraction:
        """What rounding costs: the variance of the noise is larger by this fraction than that of a
        Gaussian mechanism with the same multiplier."""
        return Fraction(self.bound, self.radius**2) - 1

    # The two ends

    def encode(self, update: Floats | Difference, session: bytes, rand: bytes) -> Ring:
        """One contribution as ring elements (size,), not reduced above `bits`.

        `session` is what all parties know of this sum and of no other, `rand` 32 secret bytes for
        this vector only: the stream of that key holds the keys of noise and dither. Whoever knows
        `rand` knows the update. Raises ParameterError for an update of another length.
        """
        _check(update, self.length)
        keys = keystream(rand, 2 * KEY_BYTES)
        out = np.zeros(self.size, self.dtype)
        if not self.central:
            self._add(self.share, keys[:KEY_BYTES], out)
        out[:-1] += self.rounded(update, session, keys[KEY_BYTES:]).view(np.uint32)
        out[-1] = 1
        return out

    def rounded(self, update: Floats | Difference, session: bytes, rand: bytes) -> Steps:
        """The whole numbers (coordinates,) that stand for an update, without noise: the sum of
        their squares is at most `bound`, whatever the update. `rand` is the key of the dither."""
        turned = self._rotation(session).turn(_flat(update), self.clip)
        length = _norm(turned)
        if not math.isfinite(length):
            turned[:] = 0
            length = 0.0
        steps, dither = np.empty(turned.size, np.int32), KeyStream(rand, MAX_BYTES)
        scale = self.radius / max(1.0, length)
        while (square := _round(turned, scale, self._dither_bits, dither, steps)) > self.bound:
            scale *= SHRINK * math.sqrt(self.bound / square)
        return steps

    def add_noise(self, total: Ring, rand: bytes) -> None:
        """What the server adds to a central sum before it is used or kept, in place. `rand` is as
        for `encode`. Raises ParameterError if the devices add it, or for a vector of another size.
        """
        _check(total, self.size)
        if not self.central:
            raise ParameterError("the devices have added the noise of this sum")
        self._add(self.variance, keystream(rand, KEY_BYTES), total)

    def decode(self, total: Ring, survivors: int, session: bytes) -> Floats:
        """The mean update (length,) of a sum over so many contributions.

        Raises TooFewClients where there is not the noise that was promised, and ProtocolError if
        the count of devices does not come out: then the masks did not cancel.
        """
        _check(total, self.size)
        self.realised(survivors)
        if (int(total[-1]) - survivors) % (1 << self.bits):
            raise ProtocolError(
                "the sum does not check: its masks do not cancel", sender=0, stage="open"
            )
        turned = Decoded(total[:-1], self.bits, self.scale * survivors)[:].astype(np.float32)
        return self._rotation(session).back(turned).astype(np.float64)

    def _rotation(self, session: bytes) -> Rotation:
        return Rotation(self.length, self.coordinates, session)

    @property
    def _dither_bits(self) -> int:
        """As many as leave a coordinate below 2**31."""
        return min(DITHER_BITS, 30 - self.radius.bit_length())

    def _add(self, variance: Fraction, key: bytes, total: Ring) -> None:
        sampler = Sampler(Skellam(variance), key, self.coordinates)
        for start in range(0, self.coordinates, samplers.CHUNK):
            part = total[start : min(start + samplers.CHUNK, self.coordinates)]
            part += sampler.draw(part.size).astype(total.dtype)  # modulo its word


def choose(
    length: int,
    clients: int,
    dropouts: int,
    corrupt: int,
    clip: float,
    noise: float,
    *,
    tolerance: float = TOLERANCE,
    sketch: float = 0.0,
    central: bool = False,
) -> Mechanism:
    """The mechanism of the fewest bits whose `overhead` is within `tolerance`.

    With `sketch` above 0 an update is sent in fewer coordinates, if these can be so few that what
    is lost by it adds at most this fraction of the noise to the squared error: m of them add up to
    clients**2 / (noise**2 * m), if all updates are the same and as long as the clip.
    Raises ParameterError where MOST_BITS are too few, and as `Mechanism` does.
    """
    if not (0 < tolerance < math.inf and 0 <= sketch < math.inf):
        raise ParameterError(f"tolerance={tolerance}, sketch={sketch}: expected above 0")
    coordinates = length
    if sketch and noise > 0:
        coordinates = min(length, math.ceil((clients / noise) ** 2 / sketch))
    mechanism = Mechanism(
        length,
        clients,
        dropouts,
        corrupt,
        clip,
        noise,
        MOST_BITS,
        coordinates if coordinates < length else 0,
        central,
    )
    for bits in range(LEAST_BITS, MOST_BITS + 1):
        radius = _radius(coordinates, clients, mechanism.surplus, noise, bits)
        if _bound(radius, coordinates) <= (1 + Fraction(tolerance)) * radius**2:
            return replace(mechanism, bits=bits)
    raise ParameterError(
        f"rounding costs more than {tolerance:g} of the variance even with {MOST_BITS} bits: raise "
        "tolerance or lower noise"
    )


def _bound(radius: int, coordinates: int) -> int:
    return (radius + 1) ** 2 - (-coordinates // 6) + math.isqrt(coordinates)


@lru_cache(maxsize=64)
def _radius(coordinates: int, clients: int, surplus: Fraction, noise: float, bits: int) -> int:
    """The largest with which a coordinate leaves the ring as seldom as it has to; 0 if none does.

    In whole numbers, so that all parties have the same grid: the last digit of a root or a
    logarithm depends on who made the library.
    """
    unlikely = _LN2 * (WRAP + 1)  # h: a side has half of the chance
    room = (1 << (bits - 1)) - 1 - unlikely / 3
    shares = Fraction(noise) ** 2 * surplus
    width = width_of(coordinates)

    def variance(radius: int) -> Fraction:
        sums = Fraction((clients * radius) ** 2, width) + Fraction(clients, 4)
        return sums + shares * _bound(radius, coordinates)

    if room <= 0:
        return 0
    return bisect_right(range(1, MOST_STEPS + 1), room**2 / (2 * unlikely), key=variance)


def _check(vector: NDArray[Any] | Difference, size: int) -> None:
    if vector.shape != (size,):
        raise ParameterError(f"a vector of shape {vector.shape}, expected {size} coordinates")


def _flat(update: Floats | Difference) -> Floats:
    """The update as one vector, in which arrays of whole numbers do not move."""
    if not isinstance(update, Difference):
        return update
    vector = update.whole()
    parts = update.layout.split(vector)
    for entry in update.layout.entries:
        if np.dtype(entry.dtype).kind != "f":
            parts[entry.name][...] = 0
    return vector


def _norm(vector: Reals) -> float:
    square = 0.0
    for start in range(0, vector.size, CHUNK):
        wide = vector[start : start + CHUNK].astype(np.float64)
        square += float(np.dot(wide, wide))
    return math.sqrt(square)


def _round(vector: Reals, scale: float, dither_bits: int, stream: KeyStream, out: Steps) -> int:
    """vector * scale, rounded with dither, into `out`; returns the sum of squares, exactly.

    As a `Codec` rounds, with so many bits: (rint(t * 2**bits) + r) >> bits, for which
    |t| < 2**(30 - bits) if floats are what they should be. If not, `out` is what the sum is of.
    """
    of = np.float32(scale * 2.0**dither_bits)
    scaled, dither = np.empty(CHUNK, np.float32), np.empty(CHUNK, "<u2")
    square = 0
    for start in range(0, vector.size, CHUNK):
        steps = out[start : start + CHUNK]
        fine, drawn = scaled[: steps.size], dither[: steps.size]
        np.rint(np.multiply(vector[start : start + CHUNK], of, out=fine), out=fine)
        stream.fill(drawn)
        drawn >>= np.uint16(DITHER_BITS - dither_bits)
        np.copyto(steps, fine, casting="unsafe")
        steps += drawn
        steps >>= np.int32(dither_bits)
        wide = steps.astype(np.int64)
        square += int(np.dot(wide, wide))
    return square
