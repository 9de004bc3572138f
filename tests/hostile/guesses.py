"""Guesses at which of two inputs a device encrypted, from all that t - 1 members and a server see.

Two honest devices encrypt (one, other) or (other, one); the sum is the same, and it is opened, so
the sum of their keys is known, as are t - 1 shares of each key. Every guess takes the vectors off
that either case would put there, and takes for true the case whose rest looks more like a * s + e.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.codec import Ring
from tacit.crypto.lattice import keys as lattice_keys
from tacit.crypto.lattice.cipher import encrypt
from tacit.crypto.lattice.keys import Elements, Shares
from tacit.crypto.lattice.sampler import Noise
from tacit.crypto.secagg.session import Session

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Seen:
    """One sum as it is seen: ciphertexts of both devices, the sum of their keys, the shares of the
    first one's key by point, and the vectors that stand to choice."""

    session: Session
    first: Ring
    second: Ring
    keys: Elements = field(repr=False)
    shares: dict[int, Shares]
    vectors: tuple[Ring, Ring]  # of the first device, if it is the one, and if it is the other

    def less(self, ciphertext: Ring, vector: Ring) -> Ring:
        """A ciphertext without a vector. What is left is a * s + e, if that is what was in it."""
        scheme = self.session.scheme
        assert scheme is not None
        return ciphertext - (vector.astype(scheme.dtype) << scheme.dtype.type(scheme.shift))

    def masks(self, key: Noise | Elements) -> Ring:
        """a * s for a key, as long as the ciphertexts are."""
        scheme, nothing = self.session.scheme, np.zeros_like(self.vectors[0])
        assert scheme is not None
        # What is encrypted with it are zeros, and the errors are taken off again.
        zero = np.zeros(scheme.degree, np.int8)
        seed, rand = self.session.public_seed, bytes(32)
        return encrypt(scheme, seed, key, rand, nothing) - encrypt(
            scheme, seed, zero, rand, nothing
        )


def size(words: Ring) -> float:
    """The mean of the absolute values, of numbers around 0."""
    return float(np.abs(words.view(f"i{words.itemsize}").astype(np.float64)).mean())


def by_half_of_the_keys(seen: Seen) -> int:
    """The best estimate of either key is half of their sum: what is left of twice a ciphertext is
    a * (s1 - s2) + 2 e, half as wide as without any knowledge."""
    masks = seen.masks(seen.keys)
    sizes = [size(2 * seen.less(seen.first, vector) - masks) for vector in seen.vectors]
    return int(np.argmin(sizes))


def by_the_shares(seen: Seen) -> int:
    """The key that the shares give, with 0 for all that is missing."""
    points = list(seen.shares)
    held = np.array(list(seen.shares.values()))
    threshold = seen.session.threshold
    missing = [p for p in range(1, 256) if p not in points][: max(0, threshold - len(points))]
    nothing = np.zeros((len(missing), held.shape[1]), np.uint16)
    key = lattice_keys.combine([*points, *missing], np.concatenate([held, nothing]))
    masks = seen.masks(key)
    sizes = [size(seen.less(seen.first, vector) - masks) for vector in seen.vectors]
    return int(np.argmin(sizes))


def by_correlation(seen: Seen) -> int:
    """What is left of a ciphertext, against every rotation of a: a key of few coefficients would
    show."""
    scheme = seen.session.scheme
    assert scheme is not None
    one = np.zeros(scheme.degree, np.int8)
    one[0] = 1
    public = natural(seen.masks(one)[: scheme.degree])
    rests = (seen.less(seen.first, vector)[: scheme.degree] for vector in seen.vectors)
    return int(np.argmax([np.abs(correlations(natural(rest), public)).max() for rest in rests]))


GUESSES: dict[str, Callable[[Seen], int]] = {
    "half of the keys": by_half_of_the_keys,
    "the shares": by_the_shares,
    "correlation": by_correlation,
}


def natural(words: Ring) -> Floats:
    """A block, which stands in pairs, as the coefficients 0, 1, 2 .. of a polynomial."""
    signed = words.view(f"i{words.itemsize}").astype(np.float64)
    return np.concatenate([signed[0::2], signed[1::2]])


def correlations(rest: Floats, public: Floats) -> Floats:
    """With a * X**k modulo X**N + 1, for k = 0 .. N - 1: the rest times a(1/X)."""
    count = len(rest)
    turn = np.exp(1j * np.pi / count * np.arange(count))
    spectrum = np.fft.fft(rest * turn) * np.conj(np.fft.fft(public * turn))
    return (np.fft.ifft(spectrum) / turn).real
