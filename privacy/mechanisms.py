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

**One example.** With `records` the unit is one example on a device, and an update the sum of what
each adds to it, at most R long: whoever makes the update sees to that. An update longer than
`records` times R is brought back to that: to go to the nearest within a ball brings no two sums
further apart, while float32 may, of sums millions of times as long as an example. Rounded with one
dither, two sums that differ in one example are that example apart and, in each coordinate, one step
and 2**-7 of one more at most, so

    B = R + R * records / 2**17 + (1 + 2**-7) * (sqrt(d) + 1) + 2

where the second term is for what float32 makes of a sum of so many, brought back or not: this one
bound rests on floats. Neighbours differ in whether the example is there. In the ring an update
takes the room of `records` of them.

**How many were short.** With `quantile` each device adds `level` to one more coordinate if its norm
is within the clip, and as much less than zero if not, under noise of its own: the sum tells how the
clip should move (Andrew et al. 2019, arXiv:1905.03871). It is a second release.

**Bands.** The sums of a run may be mixed under noise of the server that later rounds take back in
part (`tacit.privacy.banded`). All of them have one grid, one rotation and one number to divide by:
R is that of `divisor` devices, and the ring has room for what is released, a_0 x_t + a_1 x_{t-1} +
.., which has w and V of above with |a|**2 times as much of rounding and noise. Under one rotation
updates that are alike in all rounds add up, so n R becomes (a_0 + a_1 + ..) n R.

**Updates** with values that are not finite, or too large for a float32 in units of the clip, count
as zero: to refuse would tell what a device's data did to it. Arrays of whole numbers in a model,
such as counters of batches, do not move: they would take up the whole norm. An array without
dimensions is a coordinate like others. All devices weigh the same.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.codec import Decoded, Mean
from tacit.crypto.errors import ParameterError, TooFewClients
from tacit.crypto.prg import KEY_BYTES, MAX_BYTES, KeyStream, keystream
from tacit.crypto.secagg.noised import LEAST_BITS, MOST_BITS, Noised
from tacit.crypto.vector import Difference, Floats, Ring
from tacit.privacy import samplers
from tacit.privacy.banded import MOST_ROUNDS, Banded, coefficients
from tacit.privacy.rotation import Reals, Rotation, width_of
from tacit.privacy.samplers import Sampler, Skellam

Steps: TypeAlias = NDArray[np.int32]

WRAP = 20  # a coordinate of a sum leaves the ring with probability 2**-WRAP at most
TOLERANCE = 0.01  # of the variance: the price of rounding; of epsilon it is less, about half
MOST_STEPS = (1 << 22) - 1  # of a contribution's norm: float32 has hardly more digits
MOST_LEVEL = (1 << 20) - 1
DITHER_BITS = 16
SHRINK = 1 - 2.0**-12  # besides what the norm asks for, so that there is an end to it
CHUNK = 1 << 14  # coordinates: below 2**24 each, their squares have a sum below 2**63
LEAST_LEVEL = 16  # so that noise on it is finer than what it is on
SINGLE = 1 << 17  # float32 is good to one part in so many of a norm, whatever is done to it here
_LN2 = Fraction(6931472, 10**7)  # rounded up


@dataclass(frozen=True, slots=True)
class Mechanism(Noised):
    """What a sum is made private with, and how: the fields are those of `Noised`.

    Local privacy is `corrupt` = clients - dropouts - 1: each device's noise has to do for itself.
    """

    def __post_init__(self) -> None:
        Noised.__post_init__(self)
        if self.radius < 1 or (self.quantile and self.level < 1):
            raise ParameterError(
                f"{self.clients} clients with noise={self.noise:g} leave no room in {self.bits} "
                "bits: raise bits or lower noise"
            )
        Skellam(self.share)
        if self.quantile:
            Skellam(self.quantile_share)

    @property
    def agreed(self) -> Noised:
        """What a session says of it."""
        return Noised(**{each.name: getattr(self, each.name) for each in fields(Noised)})

    @classmethod
    def of(cls, agreed: Noised) -> "Mechanism":
        """Of what a session says. Raises ParameterError where its ring has no room."""
        return cls(**{each.name: getattr(agreed, each.name) for each in fields(Noised)})

    @property
    def bits_per_parameter(self) -> float:
        """Sent for each coordinate of an update."""
        return self.size * self.bits / self.length

    # What an accountant counts

    @property
    def radius(self) -> int:
        """R: the clip in steps of the grid."""
        clients = self.divisor or self.clients
        return _radius(
            self.coordinates, clients, self.records, self.surplus, self.noise, self.bits, self.bands
        )

    @property
    def scale(self) -> float:
        """Steps for each unit of an update."""
        return self.radius / self.clip

    @property
    def bound(self) -> int:
        """B**2: the square of how far what is protected can move a sum, in steps."""
        return _bound(self.radius, self.coordinates, self.records)

    @property
    def variance(self) -> Fraction:
        """V, of the noise on each coordinate of a sum that is released, in steps squared: what is
        there at least and is not known to anybody."""
        if self.bands:
            return self.banded(self.bands).variance
        return Fraction(self.noise) ** 2 * self.bound

    def banded(self, separation: int) -> Banded:
        """How noise is correlated in sums with bands, to which no device comes twice in so many
        rounds in a row."""
        return Banded(
            MOST_ROUNDS, self.bands, separation, self.coordinates, self.bits, self.bound, self.noise
        )

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

    @property
    def level(self) -> int:
        """What a device adds to the coordinate that compares norms: as much, or less than zero."""
        return _level(self.clients, self.surplus, self.quantile, self.bits)

    @property
    def quantile_share(self) -> Fraction:
        """The variance of one share of the noise on that."""
        return (Fraction(self.quantile) * self.level) ** 2 / self.shares

    def realised(self, survivors: int) -> Fraction:
        """The variance that nobody knows in a sum over so many: V or more.

        Raises TooFewClients where it would be less, and ParameterError for more than there are.
        """
        if survivors > self.clients:
            raise ParameterError(f"{survivors} survivors of {self.clients} clients")
        if survivors < self.least:
            raise TooFewClients(f"{survivors} survivors, {self.least} needed for their noise")
        return self.share * (1 if self.central else survivors - self.corrupt)

    @property
    def distance(self) -> float:
        """A bound on the total variation distance of all noise in a sum from Skellam noise."""
        shares = float(self.surplus * self.shares)
        found = shares * self.coordinates * Skellam(self.share).distance
        return found + (shares * Skellam(self.quantile_share).distance if self.quantile else 0.0)

    @property
    def overhead(self) -> Fraction:
        """What rounding costs: the variance of the noise is larger by this fraction than that of a
        Gaussian mechanism with the same multiplier."""
        return Fraction(self.bound, self.radius**2) - 1

    # The two ends

    def encode(self, update: Floats | Difference, session: bytes, rand: bytes) -> Ring:
        """One contribution as ring elements (size,), not reduced above `bits`.

        `session` is what all parties know of this sum and of no other, and turns the update unless
        `rotation` does; `rand` 32 secret bytes for this vector only: the stream of that key holds
        the keys of noise and dither. Whoever knows `rand` knows the update. Raises ParameterError
        for an update of another length.
        """
        _check(update, self.length)
        noise, quantile, dither = _keys(rand)
        out = np.zeros(self.size, self.dtype)
        if not self.central:
            self._add(self.share, noise, out[: self.coordinates])
            if self.quantile:
                self._add(self.quantile_share, quantile, out[self.coordinates : -1])
        turned, norm = self._turned(update, session)
        out[: self.coordinates] += self._rounded(turned, norm, dither).view(np.uint32)
        if self.quantile:
            is_short = np.int32(self.level if norm <= 1 else -self.level)
            out[self.coordinates : -1] += is_short.view(np.uint32)  # a slice wraps without a word
        out[-1] = 1
        return out

    def rounded(self, update: Floats | Difference, session: bytes, rand: bytes) -> Steps:
        """The whole numbers (coordinates,) that stand for an update, without noise; `rand` is the
        key of the dither. The sum of their squares is at most `bound`, whatever the update; where
        examples are protected, that holds of what one of them changes."""
        return self._rounded(*self._turned(update, session), rand)

    def _turned(self, update: Floats | Difference, session: bytes) -> tuple[Reals, float]:
        """The update in units of the clip, turned, and its norm; zeros, and inf, for one that is
        not finite."""
        turned = self._rotation(session).turn(_flat(update), self.clip)
        norm = _norm(turned)
        if not math.isfinite(norm):
            turned[:] = 0
            return turned, math.inf
        return turned, norm

    def _rounded(self, turned: Reals, norm: float, rand: bytes) -> Steps:
        steps, dither = np.empty(turned.size, np.int32), KeyStream(rand, MAX_BYTES)
        if self.records:  # the nearest within a ball brings no two sums further apart
            scale = self.radius * (self.records / max(self.records, norm))
            _round(turned, scale, self._dither_bits, dither, steps)
            return steps
        scale = self.radius / max(1.0, norm)
        while (square := _round(turned, scale, self._dither_bits, dither, steps)) > self.bound:
            scale *= SHRINK * math.sqrt(self.bound / square)
        return steps

    def add_noise(self, opened: Mean, rand: bytes) -> Mean:
        """What may be used or kept of a central sum: with the server's noise, which is added to the
        ring elements of `opened` in place. `rand` is as for `encode`.

        Raises ParameterError if the devices have added it, and where it depends on other rounds.
        """
        if not self.central:
            raise ParameterError("the devices have added the noise of this sum")
        if self.bands:
            raise ParameterError("the noise of this sum is a stream's: see tacit.privacy.banded")
        assert isinstance(opened.decoded, Decoded)  # as `decode` makes it
        noise, quantile, _ = _keys(rand)
        self._add(self.variance, noise, opened.decoded.sums)
        if not self.quantile:
            return opened
        drawn = Sampler(Skellam(self.quantile_share), quantile, 1).draw(1)
        return replace(opened, metrics=opened.metrics + drawn)

    def update(self, opened: Mean, session: bytes) -> Floats:
        """The mean update (length,) that a sum says, once `decode` has read it."""
        turned = (opened.decoded[:] / self.scale).astype(np.float32)
        return self._rotation(session).back(turned).astype(np.float64)

    def unclipped(self, opened: Mean) -> float:
        """The share of updates that were within the clip, and noise: it may be below 0 or above 1.

        Raises ParameterError if the sum did not ask for it.
        """
        if not self.quantile:
            raise ParameterError("this sum does not say how norms compare with the clip")
        return (float(opened.metrics[0]) / (opened.weight * self.level) + 1) / 2

    def _rotation(self, session: bytes) -> Rotation:
        return Rotation(self.length, self.coordinates, self.rotation or session)

    @property
    def _dither_bits(self) -> int:
        """As many as leave a coordinate below 2**31."""
        largest = MOST_STEPS if self.records else self.radius
        return min(DITHER_BITS, 30 - largest.bit_length())

    @staticmethod
    def _add(variance: Fraction, key: bytes, total: Ring) -> None:
        sampler = Sampler(Skellam(variance), key, total.size)
        for start in range(0, total.size, samplers.CHUNK):
            part = total[start : start + samplers.CHUNK]
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
    records: int = 0,
    quantile: float = 0.0,
    bands: int = 0,
    divisor: int = 0,
    most: int = MOST_BITS,
) -> Mechanism:
    """The mechanism of the fewest bits, `most` of them, whose `overhead` is within `tolerance`.

    With `sketch` above 0 an update is sent in fewer coordinates, if these can be so few that what
    is lost by it adds at most this fraction of the noise to the squared error: m of them add up to
    clients**2 / (noise**2 * m), if all updates are the same and as long as the clip.
    Raises ParameterError where `most` are too few, and as `Mechanism` does.
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
        records,
        quantile,
        bands,
        divisor,
    )
    for bits in range(LEAST_BITS, min(most, MOST_BITS) + 1):
        grid = (coordinates, divisor or clients, records, mechanism.surplus, noise)
        radius = _radius(*grid, bits, bands)
        fits = not quantile or _level(clients, mechanism.surplus, quantile, bits) >= LEAST_LEVEL
        allowed = (1 + Fraction(tolerance)) * radius**2
        if fits and _bound(radius, coordinates, records) <= allowed:
            return replace(mechanism, bits=bits)
    raise ParameterError(
        f"rounding costs more than {tolerance:g} of the variance even with {most} bits: raise "
        "tolerance or lower noise"
    )


def _unlikely() -> Fraction:
    """h of the module's docstring: a side has half of the chance."""
    return _LN2 * (WRAP + 1)


def _bound(radius: int, coordinates: int, records: int) -> int:
    if records:
        root = math.isqrt(coordinates) + 1
        return (radius + radius * records // SINGLE + root + root // 128 + 2) ** 2
    return (radius + 1) ** 2 - (-coordinates // 6) + math.isqrt(coordinates)


@lru_cache(maxsize=64)
def _radius(
    coordinates: int,
    clients: int,
    records: int,
    surplus: Fraction,
    noise: float,
    bits: int,
    bands: int = 0,
) -> int:
    """The largest with which a coordinate leaves the ring as seldom as it has to; 0 if none does.

    In whole numbers, so that all parties have the same grid: the last digit of a root or a
    logarithm depends on who made the library.
    """
    unlikely = _unlikely()
    room = (1 << (bits - 1)) - 1 - unlikely / 3
    shares = Fraction(noise) ** 2 * surplus
    width, parts = width_of(coordinates), max(1, records)
    mixed = coefficients(bands) if bands else (1,)
    once, squares = sum(mixed), sum(a * a for a in mixed)

    def variance(radius: int) -> Fraction:
        signal = Fraction((once * clients * parts * radius) ** 2, width)
        rest = Fraction(clients, 4) + shares * _bound(radius, coordinates, records)
        return signal + squares * rest

    if room <= 0:
        return 0
    most = range(1, MOST_STEPS // parts + 1)
    return bisect_right(most, room**2 / (2 * unlikely), key=variance)


@lru_cache(maxsize=64)
def _level(clients: int, surplus: Fraction, quantile: float, bits: int) -> int:
    """The largest for which all that devices may add, and noise, leaves the ring as seldom."""
    unlikely = _unlikely()
    room = (1 << (bits - 1)) - 1 - unlikely / 3
    noise = 2 * unlikely * Fraction(quantile) ** 2 * surplus  # of a level of 1, in squares

    def is_too_much(level: int) -> bool:
        left = room - clients * level
        return left < 0 or left**2 < noise * level**2

    return bisect_right(range(1, MOST_LEVEL + 1), False, key=is_too_much)


def _keys(rand: bytes) -> tuple[bytes, bytes, bytes]:
    """Of noise, of the noise of a quantile, of dither."""
    keys = keystream(rand, 3 * KEY_BYTES)
    return keys[:KEY_BYTES], keys[KEY_BYTES : 2 * KEY_BYTES], keys[2 * KEY_BYTES :]


def _check(vector: NDArray[Any] | Difference, size: int) -> None:
    if vector.shape != (size,):
        raise ParameterError(f"a vector of shape {vector.shape}, expected {size} coordinates")


def _flat(update: Floats | Difference) -> Floats:
    """The update as one vector, in which arrays of whole numbers do not move."""
    if not isinstance(update, Difference):
        return update.astype(np.float64, copy=False)  # or dividing by the clip may overflow
    if update.ranges is not None:
        raise ParameterError("a part of an update, where all of it belongs")
    with np.errstate(over="ignore", invalid="ignore"):  # what they would tell is in the data
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
