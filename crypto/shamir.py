"""Shamir's secret sharing over GF(2^8), for all secrets of a device in one call.

Shamir 1979, "How to share a secret" (doi:10.1145/359168.359176), byte by byte in the field of AES
(x^8 + x^4 + x^3 + x + 1). Both directions are one thing: sums of secret bytes v_j, each times a
constant c_j that everyone knows, a power of a point or a Lagrange coefficient. With bit b of c_j
written c_jb,

    sum over j of c_j v_j  =  sum over b of x^b * (sum over j with c_jb = 1 of v_j)

so the bits of the constants choose what is added up, eight times, and only these eight sums, the
"planes", are ever multiplied, and that by x. Secret bytes meet shifts and exclusive ors, and no
table is looked up by a secret: where there is a table, public bits index it.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError

Octets = NDArray[np.uint8]
Words = NDArray[np.uint64]  # eight field elements each

MAX_POINTS = 255
WORKING_WORDS = 1 << 16  # of values and their sums at a time: 512 KiB, to stay in the cache

_EACH = np.uint64(0x0101010101010101)  # a byte times this: that byte in every element
_BITS = np.arange(8, dtype=np.uint8)


def rand_size(secrets: int, size: int, threshold: int) -> int:
    """Random bytes that sharing `secrets` secrets of `size` bytes takes."""
    return (threshold - 1) * secrets * size


def share(secrets: Octets, threshold: int, points: Sequence[int], rand: bytes) -> Octets:
    """Shares of `secrets` (k, size), shape (points, k, size): any `threshold` of them give all.

    `points` are distinct, 1..255. `rand` is `rand_size(k, size, threshold)` fresh random bytes: the
    coefficients, that of the highest power first, each of shape (k, size).
    """
    where = _checked(points)
    if not 1 <= threshold <= len(points):
        raise ParameterError(f"threshold {threshold} of {len(points)} points")
    if len(rand) != rand_size(secrets.shape[0], secrets.shape[1], threshold):
        raise ParameterError(f"{len(rand)} random bytes do not fit")
    coefficients = np.frombuffer(rand, np.uint8).reshape(threshold - 1, *secrets.shape)
    rising = np.concatenate([secrets[None], coefficients[::-1]])
    powers = _EXP[np.outer(_LOG[where], np.arange(threshold)) % 255]
    return _combinations(powers, rising)


def combine(points: Sequence[int], shares: Octets) -> Octets:
    """The secrets (k, size) from shares (points, k, size) at `points`; all of them are used.

    A call costs as much as a hundred secrets or more, so secrets of many dealers go into one.
    """
    secrets: Octets = evaluate(points, shares, [0])[0]
    return secrets


def evaluate(points: Sequence[int], shares: Octets, places: Sequence[int]) -> Octets:
    """What the polynomials through shares (points, k, size) are elsewhere: (places, k, size).

    At 0 that is the secrets, and at any other place what whoever has that point was dealt.
    """
    where = _checked(points)
    if len(shares) != len(points):
        raise ParameterError(f"{len(shares)} shares at {len(points)} points")
    if set(places) & set(points) or not all(0 <= place <= MAX_POINTS for place in places):
        raise ParameterError(f"places must be 0..{MAX_POINTS} and none of the points")
    # Seen from a place, a point is as far away as their difference: the secrets' own case, moved.
    weights = np.array([_lagrange(where ^ np.uint8(place)) for place in places])
    return _combinations(weights, shares)


def _checked(points: Sequence[int]) -> Octets:
    if len(set(points)) != len(points) or not all(1 <= p <= MAX_POINTS for p in points):
        raise ParameterError(f"points must be distinct and 1..{MAX_POINTS}")
    return np.array(points, np.uint8)


def _combinations(constants: Octets, values: Octets) -> Octets:
    """out[i] = the sum of constants[i, j] * values[j] over j.

    Shapes: constants (outputs, terms), values (terms, ...), out (outputs, ...).
    """
    outputs, terms = constants.shape
    flat = values.reshape(terms, -1)
    out = np.empty((outputs, flat.shape[1]), np.uint8)
    step = 8 * max(1, WORKING_WORDS // (8 * outputs + terms))
    planes = _planes_of_many if outputs > 1 else _planes_of_one
    for start in range(0, flat.shape[1], step):
        part = flat[:, start : start + step]
        words = np.zeros((terms, -(-part.shape[1] // 8)), np.uint64)  # whole words of it
        words.view(np.uint8)[:, : part.shape[1]] = part
        joined = _joined(planes(constants, words))
        out[:, start : start + step] = joined.view(np.uint8)[:, : part.shape[1]]
    return out.reshape(outputs, *values.shape[1:])


def _planes_of_one(constants: Octets, values: Words) -> Words:
    """planes[b, 0] = the sum of values[j] over all j with bit b of constants[0, j] set."""
    chosen = constants[0] >> _BITS[:, None] & 1 == 1
    return np.array([[np.bitwise_xor.reduce(values[some], axis=0)] for some in chosen])


def _planes_of_many(constants: Octets, values: Words) -> Words:
    """planes[b, i] = the sum of values[j] over all j with bit b of constants[i, j] set.

    The sums of all subsets of eight values are tabled once, and eight bits of the constants at a
    time say which of them to add: Arlazarov's "method of the four Russians".
    """
    outputs, columns = len(constants), values.shape[1]
    bits = constants >> _BITS[:, None, None] & 1
    subsets = np.packbits(bits, axis=2, bitorder="little")  # (8, outputs, groups of values)
    planes = np.zeros((8 * outputs, columns), np.uint64)
    picked = np.empty_like(planes)
    sums = np.zeros((256, columns), np.uint64)
    for group in range(subsets.shape[2]):
        for j, value in enumerate(values[8 * group : 8 * group + 8]):
            np.bitwise_xor(sums[: 1 << j], value, out=sums[1 << j : 2 << j])
        # No index is out of range: "clip" only spares numpy a copy. When the last group has fewer
        # values, no bit asks for the sums that are left from the group before.
        np.take(sums, subsets[..., group].ravel(), axis=0, out=picked, mode="clip")
        planes ^= picked
    return planes.reshape(8, outputs, columns)


def _joined(planes: Words) -> Words:
    """The sum of x^b * planes[b] over b, by Horner's rule."""
    out: Words = planes[7]
    for plane in planes[6::-1]:
        out = _times_x(out) ^ plane
    return out


def _times_x(values: Words) -> Words:
    """x times each of the eight elements of each word: the shifts stay within their bytes."""
    high = values >> np.uint64(7) & _EACH
    return (values & (_EACH * np.uint64(0x7F))) << np.uint64(1) ^ high * np.uint64(0x1B)


def _logarithms() -> tuple[Octets, NDArray[np.intp]]:
    """The powers of x + 1, which generates the field's group, and the exponent of each element."""
    powers = [1]
    while len(powers) < 255:
        last = powers[-1]
        powers.append(last ^ last << 1 ^ (0x11B if last & 0x80 else 0))
    exponents = np.zeros(256, np.intp)  # 0 has none, and nobody asks for it
    exponents[powers] = np.arange(255)
    return np.array(powers, np.uint8), exponents


_EXP, _LOG = _logarithms()  # for public numbers only


def _lagrange(where: Octets) -> Octets:
    """For each point, the value at 0 of the polynomial that is 1 there and 0 at the others."""
    # Product over the others of other / (other - here), in logarithms; `here` itself adds nothing.
    apart = _LOG[where ^ where[:, None]]  # the diagonal, of 0, holds 0
    weights: Octets = _EXP[(_LOG[where].sum() - _LOG[where] - apart.sum(axis=1)) % 255]
    return weights
