"""Public rotations, after which no coordinate of a vector stands out, and shorter sketches.

A vector x becomes H e(x): e flips signs as public bytes say, and H is the Hadamard matrix of a
power of two, over its root. Whatever x is, a coordinate of that is larger than s * |x| / sqrt(size)
with a chance of 2 exp(-s**2 / 2) at most (Hoeffding): a ring need not be wide enough for the
largest that a device might have. Suresh et al. 2017, arXiv:1611.00429, and Kairouz, Liu and Steinke
2021, arXiv:2102.06387.

**Any size, nothing appended.** With w the largest power of two in `size`, the first w coordinates
are turned, and then, with other signs, the last w. Each is an isometry, so both are. A coordinate
comes from one of them, or from the second after the first, so it is as above with w for `size`.
That is as much work as one turn of 2 w, to which vectors are filled up elsewhere, and then sent.

**Sketches.** With `size` below `length`, coordinates whose numbers are equal modulo `size` are
added up first, each with its sign. On the way back each gets the sum, with its sign. As signs are
independent, that is right on average, and off by the other coordinates of its bucket. The squares
of that are (length / size - 1) * |x|**2 in all, on average, while noise on a coordinate stays what
it is. As many rows of a large H make the same of it. Chen, Choquette-Choo, Kairouz and Suresh 2022,
arXiv:2203.03761: in the noise of differential privacy a sum of n needs n**2 * epsilon**2 bits, but
for logarithms, and such sketches get by with them.

Arithmetic is of float32, and good to about 2**-22 of the norm. No bound of privacy rests on it.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tacit.crypto import labels
from tacit.crypto.errors import ParameterError
from tacit.crypto.identity import derive
from tacit.crypto.prg import keystream
from tacit.crypto.vector import Floats

Reals: TypeAlias = NDArray[np.float32]

CHUNK = 1 << 15  # coordinates; a multiple of 8
_RADIX = 8  # three levels of butterflies at a time, as products with a matrix: half of numpy's adds
_BYTES = np.arange(256, dtype=np.uint8)[:, None]
# For each byte the sign bits of 8 float32, the lowest bit first.
_FLIPS = np.unpackbits(_BYTES, axis=1, bitorder="little").astype(np.uint32) << np.uint32(31)


@dataclass(frozen=True)  # no slots: the signs are computed once and kept
class Rotation:
    """From `length` coordinates to `size`, as `seed` says, which all parties know.

    `seed` is the id of a session or something else that differs from sum to sum. Raises
    ParameterError unless 1 <= size <= length.
    """

    length: int
    size: int
    seed: bytes

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.length:
            raise ParameterError(f"size={self.size}, expected 1..{self.length} (length)")

    @property
    def width(self) -> int:
        """Coordinates of one turn."""
        return width_of(self.size)

    @cached_property
    def _signs(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """A bit for each coordinate of the vector, and for each of the second turn."""
        first, second = -(-self.length // 8), -(-self.width // 8)
        bits = np.frombuffer(keystream(derive(self.seed, labels.ROTATION), first + second), "u1")
        return bits[:first], bits[first:]

    def turn(self, vector: Floats, unit: float) -> Reals:
        """vector (length,) / unit, turned; (size,). What float32 does not hold becomes infinite
        or NaN, and so does all of it, or nearly."""
        first, second = self._signs
        signed = np.empty(self.length, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            np.multiply(vector, 1 / unit, out=signed, casting="same_kind")
            _flip(signed, first)
            out = _folded(signed, self.size)
            hadamard(out[: self.width])
            if self.width < self.size:
                _flip(out[-self.width :], second)
                hadamard(out[-self.width :])
        return out

    def back(self, turned: Reals) -> Reals:
        """The transpose of `turn`, (size,) to (length,): without a sketch its inverse."""
        first, second = self._signs
        out = turned.copy()
        if self.width < self.size:
            hadamard(out[-self.width :])
            _flip(out[-self.width :], second)
        hadamard(out[: self.width])
        spread = np.resize(out, self.length)
        _flip(spread, first)
        return spread


def width_of(size: int) -> int:
    """The largest power of two that is at most `size`."""
    return 1 << (size.bit_length() - 1)


def hadamard(vector: Reals) -> None:
    """Multiply a vector, whose size is a power of two, with H, in place. H is its own inverse."""
    levels = vector.size.bit_length() - 1
    stride = 1 << (levels if levels < 3 else 3 + levels % 3)  # the others are a multiple of three
    now, after = np.empty_like(vector), vector
    np.matmul(vector.reshape(-1, stride), _matrix(stride), out=now.reshape(-1, stride))
    while stride < vector.size:
        shape = (-1, _RADIX, stride)
        np.matmul(_matrix(_RADIX), now.reshape(shape), out=after.reshape(shape))
        now, after, stride = after, now, _RADIX * stride
    np.multiply(now, np.float32(vector.size**-0.5), out=vector)


@lru_cache(maxsize=8)
def _matrix(size: int) -> Reals:
    """The signs of H."""
    if size == 1:
        return np.ones((1, 1), np.float32)
    half = _matrix(size // 2)
    whole: Reals = np.block([[half, half], [half, -half]])
    return whole


def _flip(vector: Reals, bits: NDArray[np.uint8]) -> None:
    words = vector.view(np.uint32)
    for start in range(0, words.size, CHUNK):
        part = words[start : start + CHUNK]
        flips = np.take(_FLIPS, bits[start // 8 : (start + CHUNK) // 8], axis=0, mode="clip")
        part ^= flips.reshape(-1)[: part.size]


def _folded(vector: Reals, size: int) -> Reals:
    """Sums of the coordinates whose numbers are equal modulo `size`."""
    if size == vector.size:
        return vector
    whole = vector.size // size * size
    out: Reals = vector[:whole].reshape(-1, size).sum(axis=0)
    out[: vector.size - whole] += vector[whole:]
    return out
