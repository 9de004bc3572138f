"""Fixed-point code between one device's contribution and the ring of integers mod 2**bits.

A contribution is an update, a few metrics and a weight. All three ride in one vector,

    [ update * w/W | metrics * w/W, high | ..., low | w | 1 ]    W = the largest weight allowed

so that the opened sum gives weighted means and the total weight, and nobody's own weight or loss
is ever seen. The last coordinate counts devices: it is exact, and so tells a sum whose masks
cancelled from noise, which would get past it one time in 2**bits.

The update is rounded stochastically: rounding to the nearest would lose whatever stays below half
a step on every device, and the sum would be wrong by up to clients / 2 steps. With a dither r, 16
bits drawn for each coordinate, and t the coordinate in steps, it is

    ( rint(t * 2**16) + r ) >> 16       rint: to the nearest, ties to even; >>: rounds down

which is one of the two integers around t, and t itself where t is whole. Of the 2**16 values of r
as many round up as t's fraction has units of 2**-16, so the mean is rint(t * 2**16) / 2**16: off
by 2**-17 of a step at most. Without the rint it would be off by up to 2**-16, always downwards:
of such biases, Fitzgibbon and Felix 2025, "On Stochastic Rounding with Few Random Bits"
(arXiv:2504.20634). Metrics and weights are few and have digits to spare: they are rounded to the
nearest.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError, ProtocolError
from tacit.crypto.prg import KeyStream
from tacit.crypto.vector import Difference, Floats, Sliced
from tacit.crypto.vector import Ring as Ring  # its name for those who encode and decode
from tacit.crypto.wire import Reader, Writer

CHUNK = 1 << 15  # coordinates; what is held of a chunk, 700 KiB, stays in the second-level cache
TAIL = 2  # the weight and the count
LIMB_BITS = 26  # two digits then fill the 53 bits that a float64 holds exactly
DITHER_BITS = 16
# Added to a number below 2**35, it leaves that number in the low bits of the float64's mantissa,
# as a whole number of 2**-16: the last place of all from 2**36 to 2**37 is that much.
ANCHOR = 1.5 * 2.0 ** (52 - DITHER_BITS)
ANCHOR_STEPS = np.float64(ANCHOR).view(np.uint64) >> np.uint64(DITHER_BITS)
SMALLEST, LARGEST = 2.0**-64, 2.0**64  # of a bound: its scale is then far from float64's ends


@dataclass(frozen=True, slots=True)
class Decoded:
    """A vector that is decoded a slice at a time: beside its sum in the ring, and the model that it
    moves, a server has no need of it as a third vector, twice their size."""

    sums: Ring = field(repr=False)
    bits: int
    divisor: float

    @property
    def shape(self) -> tuple[int]:
        return (self.sums.size,)

    def __getitem__(self, which: slice) -> Floats:
        return signed(self.sums[which], self.bits) / self.divisor


@dataclass(frozen=True, slots=True)
class Mean:
    """What an opened sum says: weighted means over the survivors, and their total weight."""

    decoded: Sliced
    metrics: Floats
    weight: float

    @property
    def update(self) -> Floats:
        """The mean update, (length,), all at once."""
        return self.decoded[:]


@dataclass(frozen=True, slots=True)
class Codec:
    """Maps x, |x| <= bound, to x * scale, rounded, mod 2**bits; scale is the largest power of two
    that leaves room for `clients` vectors.

    Guarantees, for at most `clients` contributions:
      - sums never wrap: decode(sum of encodings) is exact on the grid;
      - each coordinate of an update is rounded by less than 1 / scale, and on average over the
        dither by at most 2**-17 / scale; one on the grid is not rounded at all;
      - a metric and the weight are rounded by at most half of their steps;
      - beside all this, float64 itself rounds by 2**-53 of the size, two or three times. From
        2**37 steps on a float64 has less than 16 bits of fraction left for the dither to round,
        from 2**52 on none;
      - encode refuses a coordinate above its bound or not finite: clipping is the caller's step,
        and clipping silently here would hide a broken bound.

    `length` coordinates of update are bounded by `bound`, `metrics` slots by `metric_bound`, the
    weight by `max_weight`. A metric is sent as two digits, so that a device with a small share of
    the weight does not lose its precision. With `bits` <= 32 the ring is held in uint32, else in
    uint64.
    """

    length: int
    clients: int
    metrics: int = 16
    bound: float = 8.0
    metric_bound: float = 1000.0
    max_weight: float = 10_000.0
    bits: int = 32

    def __post_init__(self) -> None:
        if self.length < 0 or not 0 <= self.metrics <= 255:
            raise ParameterError(f"length={self.length}, metrics={self.metrics}: impossible")
        if not 1 <= self.clients <= 1 << 20:
            raise ParameterError(f"clients={self.clients}, expected 1..{1 << 20}")
        if not 8 <= self.bits <= 62:
            raise ParameterError(f"bits={self.bits}, expected 8..62")
        for name in ("bound", "metric_bound", "max_weight"):
            value = getattr(self, name)
            if not SMALLEST <= value <= LARGEST:  # also false for NaN
                raise ParameterError(f"{name}={value}, expected {SMALLEST:g} to {LARGEST:g}")
        for name, scale in (
            ("bound", self.scale),
            ("metric_bound", self.metric_scale),
            ("max_weight", self.weight_scale),
        ):
            if scale < 1:
                raise ParameterError(
                    f"{self.clients} clients with {name}={getattr(self, name):g} leave no room "
                    f"in {self.bits} bits: raise bits or lower {name}"
                )

    def _scale(self, bound: float, rounding: Fraction) -> float:
        # clients * (bound * scale + rounding) < 2**(bits - 1), with scale a power of two so that
        # dividing by it is exact.
        return _power_below(Fraction(2 ** (self.bits - 1), self.clients) - rounding, bound)

    @property
    def scale(self) -> float:
        """Steps per unit of update."""
        return self._scale(self.bound, Fraction(1))

    @property
    def limb(self) -> int:
        """Bits of one digit of a metric: a sum of `clients` digits still fits the ring."""
        return min(LIMB_BITS, self.bits - 1 - (self.clients - 1).bit_length())

    @property
    def metric_scale(self) -> float:
        """Steps per unit of a metric."""
        if self.limb < 1:
            return 0.0
        return _power_below(2 ** (2 * self.limb - 1) - Fraction(1, 2), self.metric_bound)

    @property
    def weight_scale(self) -> float:
        """Steps per unit of weight; integer weights are exact."""
        return self._scale(self.max_weight, Fraction(1, 2))

    @property
    def size(self) -> int:
        """Coordinates of an encoded contribution."""
        return self.length + 2 * self.metrics + TAIL

    @property
    def width(self) -> int:
        """Bits of the numbers that devices' coordinates, and the sums of all, are: they never
        wrap."""
        return self.bits

    @property
    def dtype(self) -> np.dtype[np.uint32] | np.dtype[np.uint64]:
        """The machine word that holds one ring element."""
        return np.dtype(np.uint32) if self.bits <= 32 else np.dtype(np.uint64)

    def encode(
        self, update: Floats | Difference, metrics: Floats, weight: float, rand: bytes
    ) -> Ring:
        """One contribution as ring elements, shape (size,), not reduced above `bits`.

        `rand` is 32 secret bytes for this vector only, the key of the dither's `KeyStream`: two
        bytes for each coordinate of the update, in order, little-endian. `metrics` may be shorter
        than the slots: the rest are 0. Raises ParameterError for a coordinate above its bound or
        not finite, or a weight outside 0 < weight <= max_weight, or so small that it rounds to 0.
        The error quotes the value, so it is for the device's own log and never for the server.
        """
        if update.shape != (self.length,) or metrics.ndim != 1 or metrics.size > self.metrics:
            raise ParameterError(
                f"{update.shape} coordinates and {metrics.shape} metrics do not fit"
            )
        if not 0 < weight <= self.max_weight:
            raise ParameterError(
                f"weight {weight:g} is outside 0 < weight <= {self.max_weight:g} (max_weight)"
            )
        steps = round(weight * self.weight_scale)
        if steps == 0:  # it would add to the mean for nothing
            raise ParameterError(f"weight {weight:g} is no step of {1 / self.weight_scale:g}")
        share = weight / self.max_weight
        out = np.empty(self.size, self.dtype)
        self._encode_update(update, self.scale * share, rand, out[: self.length])
        _check(metrics, self.metric_bound, "metrics", "metric_bound")
        slots = np.zeros(self.metrics)
        slots[: metrics.size] = metrics
        high, low = self._digits(slots * share)
        out[self.length : -TAIL] = np.concatenate([high, low])
        out[-2] = steps
        out[-1] = 1
        return out

    def _encode_update(
        self, update: Floats | Difference, scale: float, rand: bytes, out: Ring
    ) -> None:
        """`update * scale`, rounded with dither, into `out`, chunk by chunk."""
        stream = KeyStream(rand, self.length * DITHER_BITS // 8)
        steps = np.empty(min(CHUNK, self.length))
        dither = np.empty(steps.size, f"<u{DITHER_BITS // 8}")
        start = 0
        for part in _chunks(update):
            _check(part, self.bound, "update", "bound")
            stream.fill(dither[: part.size])
            np.multiply(part, scale, out=steps[: part.size])
            _round(steps[: part.size], dither[: part.size], out[start : start + part.size])
            start += part.size

    def decode(self, total: Ring, survivors: int) -> Mean:
        """The means of a sum over `survivors` contributions.

        Raises ProtocolError if the count does not come out: then the masks did not cancel, or a
        device sent something that no encoder makes, and the rest of the sum is noise. Raises it
        too for a sum larger than honest encoders can make together; who made it, nobody can tell.
        The mean reads `total` when it is asked: leave that as it is.
        """
        *metrics, of_weights, count = signed(total[self.length :], self.bits)
        if int(count) != survivors:
            raise ProtocolError(
                "the sum does not check: its masks do not cancel", sender=0, stage="open"
            )
        weight = float(of_weights) / self.weight_scale
        if not weight > 0:
            raise ProtocolError(f"total weight {weight:g}", sender=0, stage="open")
        share = weight / self.max_weight
        sums, largest = total[: self.length], 0
        for start in range(0, self.length, CHUNK):
            part = signed(sums[start : start + CHUNK], self.bits)
            largest = max(largest, -int(part.min()), int(part.max()))
        if self._is_too_large(largest, int(of_weights), share, survivors):
            raise ProtocolError(
                "the sum is larger than honest devices can make it", sender=0, stage="open"
            )
        high, low = np.array(metrics, np.int64).reshape(2, self.metrics)
        # In floats: an int64 would overflow from 2**12 devices on. Only the sum is rounded.
        above = (high - (survivors << (self.limb - 1))).astype(np.float64)
        steps = above * 2.0**self.limb + low
        update = Decoded(sums, self.bits, self.scale * share)
        return Mean(update, steps / (self.metric_scale * share), weight)

    def write(self, writer: Writer) -> None:
        writer.u64(self.length).u32(self.clients).u8(self.metrics).u8(self.bits)
        writer.f64(self.bound).f64(self.metric_bound).f64(self.max_weight)

    @classmethod
    def read(cls, reader: Reader) -> "Codec":
        """Inverse of `write`. Raises MalformedMessage, also for what cannot be built."""
        length, clients, metrics, bits = reader.u64(), reader.u32(), reader.u8(), reader.u8()
        bounds = (reader.f64(), reader.f64(), reader.f64())
        try:
            return cls(length, clients, metrics, *bounds, bits)
        except ParameterError as bad:
            raise reader.bad(str(bad)) from None

    def _is_too_large(self, largest: int, weights: int, share: float, survivors: int) -> bool:
        """Whether a sum of so much weight, whose largest coordinate has that size, is beyond what
        `survivors` honest encoders reach."""
        # Each device rounds its coordinate by up to a step, and its weight by up to half a step;
        # and a float64 rounds these bounds themselves, which matters from 50 bits on.
        slack = 1 + 2.0**-48
        if weights > survivors * (self.max_weight * self.weight_scale + 0.5) * slack:
            return True
        of_weight = survivors / (2 * self.weight_scale * self.max_weight)
        reach = self.bound * self.scale * (share + of_weight) + survivors
        return largest > reach * slack

    def _digits(self, metrics: Floats) -> NDArray[np.int64]:
        """High and low digit of each metric, both 0 <= digit < 2**limb; shape (2, metrics)."""
        steps = np.rint(metrics * self.metric_scale).astype(np.int64)
        steps += 1 << (2 * self.limb - 1)  # signed to unsigned; taken off again in decode
        return np.stack([steps >> self.limb, steps & ((1 << self.limb) - 1)])


def signed(total: Ring, bits: int) -> NDArray[np.int64]:
    """Elements mod 2**bits as the whole numbers nearest to 0."""
    half = 1 << (bits - 1)
    wide = total.astype(np.uint64)
    wide += np.uint64(half)
    wide &= np.uint64((1 << bits) - 1)
    centred = wide.view(np.int64)
    centred -= half
    return centred


def _chunks(update: Floats | Difference) -> Iterator[Floats]:
    if isinstance(update, Difference):
        return update.chunks(CHUNK)
    return (update[start : start + CHUNK] for start in range(0, update.size, CHUNK))


def _round(steps: Floats, dither: NDArray[np.uint16], out: Ring) -> None:
    """(rint(steps * 2**16) + dither) >> 16 into `out`, modulo its word; `steps` is overwritten.

    As in the module's docstring. |steps| < 2**31 where `out` is uint32, else < 2**62.
    """
    wide = out.itemsize == 8
    if wide:  # too large for the mantissa: set the whole part, and it is exact, aside
        whole = np.rint(steps)
        steps -= whole
    steps += ANCHOR  # this is the rounding to 2**-16
    fixed = steps.view(np.uint64)
    fixed += dither
    fixed >>= np.uint64(DITHER_BITS)
    if wide:
        fixed -= ANCHOR_STEPS
        out.view(np.int64)[:] = whole
        out += fixed
    else:
        out[:] = fixed  # keeps the low 32 bits, in which the anchor has none


def _check(x: Floats, bound: float, what: str, setting: str) -> None:
    low, high = x.min(initial=0.0), x.max(initial=0.0)
    if not (-bound <= low and high <= bound):  # also true for NaN, which both then are
        largest = np.maximum(-low, high)
        found = f"of size {largest:g}" if np.isfinite(largest) else "that is not finite"
        raise ParameterError(f"{what} holds a value {found}; {setting} is {bound:g}")


@lru_cache(maxsize=64)
def _power_below(room: Fraction, bound: float) -> float:
    """The largest power of two p with bound * p < room; 0.0 if there is none from 1 on.

    In whole numbers: a float64 logarithm rounds up just below a power of two, and a scale that is
    one power too large lets the sum wrap.
    """
    limit = room / Fraction(bound)
    whole = -(-limit.numerator // limit.denominator) - 1  # the largest integer below the limit
    return 2.0 ** (whole.bit_length() - 1) if whole >= 1 else 0.0
