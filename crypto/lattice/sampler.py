"""Centred binomial noise: the number of ones among 2 * width random bits, less width.

Of variance width / 2. The sum of n samples is one of width n * width, exactly, so that its tails
can be computed (`tacit.crypto.lattice.sets`). Each sample costs the same: no table is looked up
and no branch is taken by a secret.
"""

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.crypto.prg import KeyStream

Noise = NDArray[np.int8]

MIN_WIDTH, MAX_WIDTH = 33, 48  # one word of 64 bits and one of up to 32
SAMPLE_BYTES = 12


class Sampler:
    """The noise that a key gives, read in order."""

    __slots__ = ("_octets", "_stream", "_width")

    def __init__(self, rand: bytes, width: int, samples: int) -> None:
        """`rand` is 32 fresh random bytes, `samples` all that will be drawn.

        Raises ParameterError for a width outside 33..48, and as `KeyStream` does.
        """
        if not MIN_WIDTH <= width <= MAX_WIDTH:
            raise ParameterError(f"width {width}, expected {MIN_WIDTH}..{MAX_WIDTH}")
        self._stream = KeyStream(rand, SAMPLE_BYTES * samples)
        self._width = width
        self._octets = np.empty(0, np.uint8)

    def draw(self, rows: int, count: int) -> Noise:
        """Samples of -width..width, shape (rows, count), from the next 12 * rows * count bytes.

        Each row takes `count` words of 64 bits and then as many of 32, little-endian. All bits of
        the first are counted, and the lowest 2 * width - 64 of the second.
        """
        size = rows * SAMPLE_BYTES * count
        if self._octets.size < size:  # kept: to ask for memory costs as much as to fill it
            self._octets = np.empty(size, np.uint8)
        octets = self._octets[:size]
        self._stream.fill(octets)
        octets = octets.reshape(rows, -1)
        second = octets[:, 8 * count :].view("<u4")
        if self._width < MAX_WIDTH:
            second &= np.uint32((1 << (2 * self._width - 64)) - 1)
        ones: NDArray[np.uint8] = _ones(octets[:, : 8 * count].view("<u8"))
        ones += _ones(second)
        ones -= np.uint8(self._width)  # wraps, and is then the two's complement
        noise: Noise = ones.view(np.int8)
        return noise


def _ones_by_halves(words: NDArray[np.uint64] | NDArray[np.uint32]) -> NDArray[np.uint8]:
    """How many bits of each word are set: sums of neighbours, in fields of 2, 4 and 8 bits."""
    of, bits = words.dtype.type, 8 * words.itemsize
    full = (1 << bits) - 1
    found = words - (words >> of(1) & of(full // 3))
    found = (found & of(full // 5)) + (found >> of(2) & of(full // 5))
    found = (found + (found >> of(4))) & of(full // 17)
    found *= of(full // 255)  # the sum of all bytes, in the highest
    ones: NDArray[np.uint8] = (found >> of(bits - 8)).astype(np.uint8)
    return ones


_ones = getattr(np, "bitwise_count", _ones_by_halves)  # numpy has it from 2.0 on
