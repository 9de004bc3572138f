"""Shamir's secret sharing over GF(2^8), for all secrets of a device in one call.

Shamir 1979, "How to share a secret" (doi:10.1145/359168.359176), byte by byte in the field of AES
(x^8 + x^4 + x^3 + x + 1). Points and Lagrange coefficients are public, so secret bytes are only
ever multiplied by public constants: shifts and exclusive ors, no table looked up by a secret.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError

Octets = NDArray[np.uint8]

MAX_POINTS = 255


def rand_size(secrets: int, size: int, threshold: int) -> int:
    """Random bytes that sharing `secrets` secrets of `size` bytes takes."""
    return (threshold - 1) * secrets * size


def share(secrets: Octets, threshold: int, points: Sequence[int], rand: bytes) -> Octets:
    """Shares of `secrets` (k, size), shape (points, k, size): any `threshold` of them give all.

    `points` are distinct, 1..255. `rand` is `rand_size(k, size, threshold)` fresh random bytes.
    """
    where = _checked(points)
    if not 1 <= threshold <= len(points):
        raise ParameterError(f"threshold {threshold} of {len(points)} points")
    if len(rand) != rand_size(secrets.shape[0], secrets.shape[1], threshold):
        raise ParameterError(f"{len(rand)} random bytes do not fit")
    coefficients = np.frombuffer(rand, np.uint8).reshape(threshold - 1, *secrets.shape)
    out = np.zeros((len(points), *secrets.shape), np.uint8)
    for coefficient in coefficients:  # Horner, highest power first
        out ^= coefficient
        out = _times(where, out)
    out ^= secrets
    return out


def combine(points: Sequence[int], shares: Octets) -> Octets:
    """The secrets (k, size) from shares (points, k, size) at `points`; all of them are used."""
    where = _checked(points)
    if len(shares) != len(points):
        raise ParameterError(f"{len(shares)} shares at {len(points)} points")
    weights = np.array(_lagrange(tuple(where.tolist())), np.uint8)
    out: Octets = np.bitwise_xor.reduce(_times(weights, shares), axis=0)
    return out


def _checked(points: Sequence[int]) -> Octets:
    if len(set(points)) != len(points) or not all(1 <= p <= MAX_POINTS for p in points):
        raise ParameterError(f"points must be distinct and 1..{MAX_POINTS}")
    return np.array(points, np.uint8)


def _times(constants: Octets, values: Octets) -> Octets:
    """values[i] * constants[i] in GF(2^8); `constants` are public, `values` may be secret.

    Eight bytes at a time where the length allows: the shifts stay within each byte.
    """
    word = np.dtype(np.uint64 if values.shape[-1] % 8 == 0 else np.uint8)
    every = np.frombuffer(b"\x01" * word.itemsize, word)[0]  # the lowest bit of each byte
    power = np.ascontiguousarray(values).view(word)
    out = np.zeros_like(power)
    shape = (len(constants),) + (1,) * (values.ndim - 1)
    for bit in range(int(constants.max(initial=0)).bit_length()):
        wanted = (constants >> np.uint8(bit) & np.uint8(1)).astype(word)
        out ^= power & (word.type(0) - wanted).reshape(shape)  # all ones where the bit is set
        high = power >> word.type(7) & every
        power = ((power & ~(every << word.type(7))) << word.type(1)) ^ (high * word.type(0x1B))
    return out.view(np.uint8)


@lru_cache(maxsize=256)
def _lagrange(where: tuple[int, ...]) -> tuple[int, ...]:
    """For each point, the value at 0 of the polynomial that is 1 there and 0 at the others."""
    weights = []
    for here in where:
        above = below = 1
        for other in where:
            if other != here:
                above = _product(above, other)
                below = _product(below, other ^ here)
        weights.append(_product(above, _inverse(below)))
    return tuple(weights)


def _product(a: int, b: int) -> int:
    """a * b in GF(2^8), of public numbers."""
    out = 0
    while b:
        out ^= a if b & 1 else 0
        a = (a << 1) ^ (0x11B if a & 0x80 else 0)
        b >>= 1
    return out


def _inverse(a: int) -> int:
    """1 / a in GF(2^8): a^254."""
    out = 1
    for _ in range(254):
        out = _product(out, a)
    return out
