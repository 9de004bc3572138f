"""A key, its shares, their sums, and who gave a wrong one.

Shamir 1979 (doi:10.1145/359168.359176) over the integers modulo 65521, each coefficient a secret of
its own, so that a share is two bytes for each. Shares of several keys add up to shares of the sum
of these keys, at the same point: a member of the committee gives out one vector, however many
devices are summed. Products of vectors of the field go through float64: exact, as all sums of
products of two 16-bit numbers here are below 2**53.

Shares are the Reed-Solomon codeword of a polynomial of degree t - 1. m of them give it as long as
at most (m - t) // 2 are wrong, and name the wrong ones (Berlekamp 1968 and Massey 1969,
doi:10.1109/TIT.1969.1054260). With more wrong ones nobody can tell who is right.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import BrokenArithmetic, ParameterError
from tacit.crypto.lattice.sampler import Noise, Sampler
from tacit.crypto.prg import KeyStream
from tacit.crypto.shamir import MAX_POINTS

Shares = NDArray[np.uint16]
Elements = NDArray[np.int64]  # of the field, 0 .. FIELD - 1

FIELD = 65521  # the largest prime of 16 bits
CHECKS = 4  # random combinations in which a wrong share shows: all miss it once in 2**64


def draw(degree: int, width: int, rand: bytes) -> Noise:
    """A key (degree,) of this width; `rand` is 32 fresh random bytes, for this key only."""
    key: Noise = Sampler(rand, width, degree).draw(1, degree)[0]
    return key


def share(key: Noise, threshold: int, points: Sequence[int], rand: bytes) -> Shares:
    """Shares of `key` (N,), shape (points, N): any `threshold` of them give it, fewer nothing.

    `points` are distinct, 1..255. `rand` is 32 fresh random bytes, for this sharing only: the key
    of a stream of uniform field elements, the coefficients, those of the first power first.
    """
    where = _checked(points)
    if not 1 <= threshold <= len(points):
        raise ParameterError(f"threshold {threshold} of {len(points)} points")
    coefficients = np.empty((threshold, key.size), np.int64)
    coefficients[0] = key % np.int64(FIELD)
    coefficients[1:] = _uniform(rand, (threshold - 1) * key.size).reshape(-1, key.size)
    return _product(_powers(where, threshold), coefficients).astype(np.uint16)


def add(shares: Shares) -> Shares:
    """The sum over the first axis: of shares (k, N) at one point, that of the sum of k keys."""
    total: Elements = shares.sum(axis=0, dtype=np.int64) % FIELD
    return total.astype(np.uint16)


def combine(points: Sequence[int], shares: Shares) -> Elements:
    """The sum of keys (N,), signed, from shares (points, N): all are used, and trusted.

    Right if it lies within FIELD / 2 of 0, as `Lattice.room` sees to.
    """
    where = _fitting(points, shares)
    # The value at 0 of the polynomial that is 1 at one point and 0 at all the others.
    others = np.where(np.eye(len(where), dtype=bool), 1, where)
    apart = np.where(np.eye(len(where), dtype=bool), 1, where - where[:, None])
    weights = _folded(others) * _inverse(_folded(apart)) % FIELD
    total: Elements = _product(weights[None], shares)[0]
    total[total > FIELD // 2] -= FIELD
    return total


def consistent(points: Sequence[int], shares: Shares, threshold: int) -> bool:
    """Whether all shares (points, N) lie on polynomials of degree below `threshold`. Exact."""
    where = _fitting(points, shares)
    return not _product(_parity(where, threshold), shares).any()


def blame(
    points: Sequence[int], shares: Shares, threshold: int, rand: bytes
) -> tuple[int, ...] | None:
    """The points of the wrong ones among m shares (m, N), none if all are right.

    None if that cannot be said. Of up to (m - threshold) // 2 wrong shares all are named, and never
    another, but for a chance of 2**-56; the rest lie on polynomials for certain. If there are more,
    they may agree on polynomials of their own, and accuse the others. `rand` is 32 random bytes,
    drawn after the shares have arrived: who knows them can be wrong where they do not look.
    """
    where = _fitting(points, shares)
    parity = _parity(where, threshold)
    combinations = _uniform(rand, shares.shape[1] * CHECKS).reshape(-1, CHECKS)
    wrong, inverses = np.zeros(len(where), bool), _inverse(where)
    for syndromes in _product(parity, _product(shares, combinations)).T:
        wrong |= _values(_locator(syndromes.tolist()), inverses) == 0
    # Of so few wrong ones there is only one choice that leaves the rest consistent.
    right = where[~wrong].tolist()
    if 2 * wrong.sum() > len(parity) or not consistent(right, shares[~wrong], threshold):
        return None
    return tuple(where[wrong].tolist())


def _checked(points: Sequence[int]) -> Elements:
    if len(set(points)) != len(points) or not all(1 <= p <= MAX_POINTS for p in points):
        raise ParameterError(f"points must be distinct and 1..{MAX_POINTS}")
    return np.array(points, np.int64)


def _fitting(points: Sequence[int], shares: Shares) -> Elements:
    if len(shares) != len(points):
        raise ParameterError(f"{len(shares)} shares at {len(points)} points")
    return _checked(points)


def _uniform(rand: bytes, count: int) -> Elements:
    """The first `count` elements of a key's stream of 16-bit numbers that are in the field.

    The others, one of 4369, are passed over: which, says nothing about those that are not. Raises
    BrokenArithmetic if there are more of them than a cipher's stream can have.
    """
    spare = 64 + count // 1024  # what is passed over, and 28 standard deviations of it or more
    numbers = np.empty(count + spare, "<u2")
    KeyStream(rand, numbers.nbytes).fill(numbers)
    taken = numbers[numbers < FIELD]
    if taken.size < count:
        raise BrokenArithmetic("a key stream that is not uniform")
    return taken[:count].astype(np.int64)


def _product(left: NDArray[Any], right: NDArray[Any]) -> Elements:
    """The matrix product in the field."""
    exact = left.astype(np.float64) @ right.astype(np.float64)
    return exact.astype(np.int64) % FIELD


def _powers(where: Elements, count: int) -> Elements:
    """where[i]**j for j = 0 .. count - 1."""
    powers = np.ones((len(where), count), np.int64)
    for j in range(1, count):
        powers[:, j] = powers[:, j - 1] * where % FIELD
    return powers


def _folded(factors: Elements) -> Elements:
    """The product of each row."""
    out = np.ones(len(factors), np.int64)
    for column in factors.T:
        out = out * column % FIELD
    return out


def _inverse(elements: Elements) -> Elements:
    return np.array([pow(value, -1, FIELD) for value in elements.tolist()], np.int64)


def _parity(where: Elements, threshold: int) -> Elements:
    """(m - threshold, m): what it makes of m shares is 0 exactly if these are consistent.

    Row j: the values of the powers j, each over the product of the distances to the other points.
    """
    if not 1 <= threshold <= len(where):
        raise ParameterError(f"threshold {threshold} of {len(where)} points")
    apart = np.where(np.eye(len(where), dtype=bool), 1, where[:, None] - where)
    powers = _powers(where, len(where) - threshold)
    return (powers * _inverse(_folded(apart))[:, None] % FIELD).T


def _locator(syndromes: list[int]) -> list[int]:
    """The shortest recurrence: 1, c_1, .. with sum of c_i * syndromes[j - i] = 0 for all j.

    Massey 1969, algorithm 2. With errors at points x its values are 0 at the 1/x.
    """
    now, before, gap, divisor = [1], [1], 1, 1
    length = 0
    for j, syndrome in enumerate(syndromes):
        known = zip(now[1 : length + 1], reversed(syndromes[j - length : j]), strict=False)
        off = (syndrome + sum(c * s for c, s in known)) % FIELD
        if off:
            factor = off * pow(divisor, -1, FIELD)
            longer = now + [0] * (len(before) + gap - len(now))
            for i, c in enumerate(before):
                longer[i + gap] = (longer[i + gap] - factor * c) % FIELD
            if 2 * length <= j:
                before, divisor, length, gap = now, off, j + 1 - length, 0
            now = longer
        gap += 1
    return now[: length + 1] + [0] * (length + 1 - len(now))


def _values(coefficients: list[int], at: Elements) -> Elements:
    """The polynomial's values, by Horner's rule; the constant first."""
    out = np.zeros_like(at)
    for c in reversed(coefficients):
        out = (out * at + c) % FIELD
    return out
