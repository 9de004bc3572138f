"""Parameter sets: what they are worth, and how many bits of a sum they leave.

**Security.** A ciphertext hides its vector if ring-LWE is hard for this N, this q and these widths.
The tables of the Homomorphic Encryption Standard (Albrecht et al. 2018, ePrint 2019/939, as in
Microsoft SEAL's `hestdparms.h`) say up to which q that is believed, for a ternary secret and errors
of standard deviation 3.2, against the best attacks known, on a classical computer. Secrets as wide
as the errors, as here, are no easier to find than ternary ones. q is a power of two, for speed; the
reduction from lattice problems holds for any q (Peikert, Regev and Stephens-Davidowitz 2017, ePrint
2017/258).

The sum of the keys becomes known, and by it the sum of the errors. This is the Hint-RLWE of Kim,
Lee, Seo and Song 2023 (ePrint 2023/623). Of two honest devices whose sum is known, each
coefficient still varies by width / 4 in the mean, half of what it did; with more devices more is
left. So widths of at least 41 keep the standard's 3.2 even then, and narrower ones are refused.
Where Willow (google/secure-aggregation) has deviations of 4.5
for the key and 6.4 for the error, the sets here have 4.9 for both, and 3.46 left. For discrete
Gaussians there is a proof of this; for the binomial it is an analogy. With one honest device and
all others in league with the server nothing is hidden, by this or any other way of summing.

**Room.** A sum over n devices carries noise of width n * error, so the exact tail of a binomial
says how likely any of its coefficients is off by Delta / 2 or more, and how likely the sum of n
keys is to leave the field it is shared over. `Lattice.room` keeps both together below 2**-40.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass, replace

import numpy as np

from tacit.crypto.errors import ParameterError
from tacit.crypto.lattice.keys import FIELD
from tacit.crypto.lattice.sampler import MAX_WIDTH

FAILURE = 40  # a sum may come out wrong with probability 2**-FAILURE
LEAST_BITS = 8  # as a Codec has them
LEAST_WIDTH = 41  # width / 4 >= 3.2**2
MOST_CLIENTS = 1 << 20  # as a Codec has them

# Bits of security -> N -> log2 of the largest q. Classical, ternary secret.
STANDARD = {
    128: {1024: 27, 2048: 54, 4096: 109, 8192: 218},
    192: {1024: 19, 2048: 37, 4096: 75, 8192: 152},
    256: {1024: 14, 2048: 29, 4096: 58, 8192: 118},
}
MODEL = "classical attacks on ring-LWE, ternary secret, errors of deviation 3.2"
SOURCE = "Homomorphic Encryption Standard 2018 (ePrint 2019/939)"


@dataclass(frozen=True, slots=True)
class Lattice:
    """One parameter set.

    degree    N: coefficients of a polynomial, and of a key
    word      log2 of q: 32 or 64, and a coefficient is one machine word
    fields    ring elements that one coefficient carries
    bits      of a ring element: sums are modulo 2**bits, as those of a `Codec` with these bits
    secret    width of the key's coefficients: centred binomial, of variance secret / 2
    error     width of the errors
    security  log2 of the work of an attack, by `model`, according to `source`

    With several fields, the sum of the elements, as signed numbers, has to stay in the ring, as
    every codec's does: one that wraps changes its neighbour by 1. With one field it may wrap.
    """

    name: str
    degree: int
    word: int
    fields: int
    bits: int
    secret: int = MAX_WIDTH
    error: int = MAX_WIDTH
    security: int = 192
    model: str = MODEL
    source: str = SOURCE

    def __post_init__(self) -> None:
        most = STANDARD.get(self.security, {}).get(self.degree, 0)
        if self.word not in (32, 64) or self.word > most:
            raise ParameterError(
                f"degree {self.degree} with a modulus of {self.word} bits: no such set has "
                f"{self.security} bits of security"
            )
        for width in (self.secret, self.error):
            if not LEAST_WIDTH <= width <= MAX_WIDTH:
                raise ParameterError(
                    f"width {width}, expected {LEAST_WIDTH}..{MAX_WIDTH}: sums of keys become known"
                )
        if self.fields < 1 or self.bits < LEAST_BITS or self.shift < 1:
            raise ParameterError(f"{self.fields} fields of {self.bits} bits in {self.word}")

    @property
    def shift(self) -> int:
        """log2 of Delta."""
        return self.word - self.fields * self.bits

    @property
    def dtype(self) -> np.dtype[np.uint32] | np.dtype[np.uint64]:
        """The word that holds a coefficient, little-endian."""
        return np.dtype("<u4") if self.word == 32 else np.dtype("<u8")

    @property
    def ring(self) -> np.dtype[np.uint32] | np.dtype[np.uint64]:
        """The word that holds a ring element, as in `Codec.dtype`."""
        return np.dtype(np.uint32) if self.bits <= 32 else np.dtype(np.uint64)

    @property
    def share_bytes(self) -> int:
        """Bytes of a share of a key: two for each coefficient."""
        return 2 * self.degree

    def size(self, length: int) -> int:
        """Words of a ciphertext of `length` elements: the last block's are only as many as carry
        something."""
        return -(-length // self.fields)

    def packed_size(self, length: int) -> int:
        """Bytes of a ciphertext of `length` elements on the wire."""
        return self.size(length) * self.dtype.itemsize

    def failure(self, clients: int, length: int) -> float:
        """log2 of a bound on the chance that a sum of `clients` vectors, or of their keys, is not
        what it should be. Tight up to what the union of coefficients with each other gives away.
        """
        half = 1 << (self.shift - 1)
        noise = _outside(clients * self.error, half) + math.log2(max(1, self.size(length)))
        key = _outside(clients * self.secret, FIELD // 2 + 1) + math.log2(self.degree)
        return float(np.logaddexp2(noise, key))

    def room(self, clients: int, length: int) -> "Lattice":
        """This set with the most bits that leave room for the noise of `clients` vectors.

        Raises ParameterError if not even eight do.
        """
        for bits in range((self.word - 1) // self.fields, LEAST_BITS - 1, -1):
            found = replace(self, bits=bits)
            if found.failure(clients, length) <= -FAILURE:
                return found
        raise ParameterError(f"{self.name} has no room for the noise of {clients} clients")

    def most_clients(self, length: int) -> int:
        """How many vectors of this length leave these bits room; 0 if not even one does."""

        def crowded(clients: int) -> bool:
            return self.failure(clients, length) > -FAILURE

        return bisect_left(range(1, MOST_CLIENTS + 1), True, key=crowded)


def _outside(width: int, limit: int) -> float:
    """log2 of P[|x| >= limit] for x centred binomial of this width."""
    return min(0.0, 1 + tail(2 * width, width + limit))


def tail(trials: int, least: int) -> float:
    """log2 of P[Bin(trials, 1/2) >= least], from above but for a relative error of 10**-6.

    Term by term, each from the one before; what is left out is at most geometric. Beyond the mean:
    0.0 for a `least` of up to trials / 2; -inf: cannot happen.
    """
    if least > trials:
        return -math.inf
    if 2 * least <= trials:
        return 0.0
    ln_first = math.lgamma(trials + 1) - math.lgamma(least + 1) - math.lgamma(trials - least + 1)
    ln_first -= trials * math.log(2)
    term = total = 1.0
    at, ratio = least, (trials - least) / (least + 1)
    while (rest := term * ratio / (1 - ratio)) > 1e-9 * total:
        term *= ratio
        total += term
        at += 1
        ratio = (trials - at) / (at + 1)
    return (ln_first + math.log(total + rest)) / math.log(2)


# For most models: four bytes for a value, and the shortest key.
SMALL = Lattice("2048-32-1", degree=2048, word=32, fields=1, bits=22)
# More bits for the same four bytes, of twice the key.
WIDE = Lattice("4096-64-2", degree=4096, word=64, fields=2, bits=27)
# Two thirds of the bytes, for what can do with 18 bits.
DENSE = Lattice("4096-64-3", degree=4096, word=64, fields=3, bits=18)
SETS = {lattice.name: lattice for lattice in (SMALL, WIDE, DENSE)}


def named(name: str) -> Lattice:
    """The set of this name. Raises ParameterError, with those there are, for another."""
    if name not in SETS:
        raise ParameterError(f"parameters={name!r}, expected one of {', '.join(SETS)}")
    return SETS[name]
