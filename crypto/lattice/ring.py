"""Products in Z_q[X] / (X^N + 1), q = 2**32 or 2**64, of many polynomials with one small one.

X^N + 1 = (X^h - i)(X^h + i), h = N/2, and a product of real polynomials is known from its remainder
by the first factor, in which they become the complex (x_j + i * x_(j+h)) of half the length. With
coefficient j times the j-th power of exp(i * pi / N), "twisted", X^h - i becomes X^h - 1: a cyclic
convolution, by FFT. Crandall and Fagin 1994 (doi:10.1090/S0025-5718-1994-1185244-1) call it a
discrete weighted transform.

Integers through floats: why that is exact. Let u = 2**-53. A float64 rounds a complex sum by a
factor 1 + d, |d| <= u, and a product by one with |d| <= sqrt(5) u (Brent, Percival and Zimmermann
2007, Math. Comp. 76, 1469-1481); the factors of the FFT are off by u themselves, those of the twist
by up to 4 u. An FFT of length h has t = log2(h) layers, in each of which a number meets
one product and one sum at most.

1. Forwards, each layer is unitary but for a factor: the error is at most (1 + sqrt(5) + 1) t u of
   the transform's Euclidean norm, which is sqrt(h) times that of the polynomial, |x|.
2. Backwards, an output is 1/h times the sum over k of A_k S_k w_k, |w_k| = 1, in which each term on
   its way meets the factors of t layers. So the error is that share of 1/h * sum of |A_k S_k|,
   which is at most 1/h * |A| |S| = |a| |s|.
3. In all, to the first order in u (the next is 10**-13 of it), every coefficient of the product is
   off by at most

       |a| |s| u K,    K = 3t (2 + sqrt(5)) + 3 (4 + sqrt(5)) + sqrt(5)

   As in Percival 2003 (doi:10.1090/S0025-5718-02-01419-9), with the twist.

A coefficient of a that is uniform on -2**(w-1)..2**(w-1)-1 has a mean square of 2**(2w-2) / 3, so
|a|**2 exceeds N * 2**(2w-2) / 2 with a probability of at most exp(-N/18), 2**-164 for N = 2048
(Hoeffding 1963, theorem 2). If the bound is below 3/4 and the result is seen to be within 1/4 of
integers, then these are the right ones: the wrong are at least 3/4 away. So a is cut into as few
limbs as give each a bound below 3/4, and the distance is looked at in every product. For a fresh
key one limb of 32 bits is bounded by 0.25 (N = 2048) and 0.54 (N = 4096); for the sum of many keys
it takes more. What is seen is a hundredth of that.

Numpy alone does this. The same in numba was measured: 4.6 ns for a coefficient instead of 7.6, bit
for bit the same, but half a second to load in each fresh process, and a message may be that. It
would pay from 10**8 values on.
"""

import math
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import BrokenArithmetic
from tacit.crypto.vector import Ring

Signed: TypeAlias = NDArray[np.signedinteger[Any]]
Key: TypeAlias = Signed  # a fresh one is int8, a sum int64

BOUND, SEEN = 0.75, 0.25
ROUNDING = 2.0**-53
SQRT5 = math.sqrt(5)
# Added to a number below 2**51, it leaves that number, rounded, in the mantissa's low bits.
ANCHOR = 1.5 * 2.0**52
ANCHOR_BITS = np.float64(ANCHOR).view(np.int64)
WORKING = 1 << 14  # coefficients at a time: twice 128 KiB of floats, to stay in the cache
TAKES_OUT = np.lib.NumpyVersion(np.__version__) >= "2.0.0"


class Multiplier:
    """Multiplies by one polynomial: key (N,), in pairs, for words of 32 or 64 bits.

    Holds the key's spectrum, and room to work in: one thread at a time.
    """

    __slots__ = ("_buffers", "_spectrum", "_width", "_word")

    def __init__(self, key: Key, word: int) -> None:
        """`key` may be a sum: its coefficients may be of any size that a share field holds."""
        floats = key.astype(np.float64)
        norm = math.sqrt(float(np.dot(floats, floats)))
        limbs = next(n for n in range(1, word + 1) if _error(key.size, norm, -(-word // n)) < BOUND)
        self._word, self._width = word, -(-word // limbs)
        # Made once: new ones for each product would cost more than the product.
        self._buffers = np.empty((2, max(1, WORKING // key.size), key.size))
        self._spectrum = np.fft.fft(floats.view(np.complex128) * _twist(key.size // 2))

    def multiply(self, words: Ring) -> None:
        """Every row of `words` (rows, N), in pairs, times the key, in place, modulo 2**word.

        The words have to be uniform, as those of a key stream are: the bound is one for these.
        Raises BrokenArithmetic, and leaves the words in disorder, if the FFT is not what it is
        taken for.
        """
        for start in range(0, len(words), step := self._buffers.shape[1]):
            self._multiply(words[start : start + step].view(f"i{words.itemsize}"))

    def _multiply(self, words: Signed) -> None:
        if self._width == self._word:
            words[:] = self._product(words)
            return
        of = words.dtype.type
        rest, spare = words.copy(), of(self._word - self._width)
        words[:] = 0
        for place in range(0, self._word, self._width):
            limb = rest << spare >> spare  # the lowest, with its sign
            words += self._product(limb).astype(words.dtype) << of(place)
            rest -= limb
            rest >>= of(self._width)

    def _product(self, limb: Signed) -> NDArray[np.int64]:
        """The product over the integers."""
        one, other = self._buffers[:, : len(limb)]
        here, there = one.view(np.complex128), other.view(np.complex128)
        twist = _twist(here.shape[1])
        one[:] = limb
        here *= twist
        _transform(np.fft.fft, here, there)
        there *= self._spectrum
        _transform(np.fft.ifft, there, here)
        here *= twist.conj()
        np.add(one, ANCHOR, out=other)
        integers: NDArray[np.int64] = other.view(np.int64) - ANCHOR_BITS
        other -= ANCHOR
        one -= other
        if not max(-one.min(), one.max()) < SEEN:  # also true for NaN
            raise BrokenArithmetic("a product in the ring is not near integers: the FFT is broken")
        return integers


def _error(degree: int, norm: float, width: int) -> float:
    """The bound of the module's docstring: limbs of `width` bits, times a key of this norm."""
    layers = math.log2(degree // 2)
    roundings = 3 * layers * (2 + SQRT5) + 3 * (4 + SQRT5) + SQRT5
    return math.sqrt(degree / 2) * 2.0 ** (width - 1) * norm * roundings * ROUNDING


@lru_cache(maxsize=8)
def _twist(half: int) -> NDArray[np.complex128]:
    turned: NDArray[np.complex128] = np.exp(0.5j * np.pi / half * np.arange(half))
    turned.flags.writeable = False
    return turned


def _transform(kind: Any, rows: NDArray[np.complex128], out: NDArray[np.complex128]) -> None:
    if TAKES_OUT:
        kind(rows, out=out)
    else:
        out[:] = kind(rows)
