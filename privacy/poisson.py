"""Which examples are in a batch: each with a stated probability, apart from all others.

Accountants count on just that (`Release.rate`). A shuffled pass in batches of one size is something
else, and costs more than it is taken for (Chua et al. 2024, arXiv:2403.17673); so does a generator
that can be guessed, as whoever knows who is drawn has nothing to wonder about.
"""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.crypto.prg import KeyStream

_BITS = 64
_BYTES = _BITS // 8


def drawn(count: int, rate: float, rand: bytes) -> NDArray[np.intp]:
    """The numbers, of 0 .. count - 1, of those that are drawn, in order; `rand` is 32 fresh secret
    bytes.

    Each is drawn if its 64 bits of the stream of `rand`, as a whole number, are below rate * 2**64,
    rounded down: with probability `rate` to the last bit from 2**-11 on, and 2**-64 less at most
    below. Raises ParameterError for a rate outside 0 < rate <= 1, and as `KeyStream` does.
    """
    if not 0 < rate <= 1:  # also false for NaN
        raise ParameterError(f"rate={rate}, expected 0 < rate <= 1")
    below = int(Fraction(rate) * (1 << _BITS))
    words = np.empty(count, "<u8")
    KeyStream(rand, words.nbytes).fill(words)
    # At a rate of 1 the bound is one more than a word holds.
    return np.flatnonzero(words <= np.uint64(below - 1)) if below else np.zeros(0, np.intp)
