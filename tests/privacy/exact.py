"""The laws of `tacit.privacy.samplers` once more: in whole numbers, by other formulas, slowly."""

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from operator import mul

from tests.crypto.lattice.slow import stream

WHOLE = 1 << 128
POINT = 320  # bits after the point of the weights below
SLACK = Fraction(1, 1 << 200)  # far more than all that is rounded off or cut off there


def skellam(variance: Fraction, stride: int = 1) -> list[int]:
    """Weights of stride * j, j = 0, 1, ..: two Poisson numbers that are stride * j apart.

    Poisson weights come each from the one before, rounded down: from 2**POINT on, off by a relative
    2**-POINT at most each time while they grow, and by 2 units in all when they are small.
    """
    mean, weights = variance / 2, [1 << POINT]
    while weights[-1] > 0:
        n = len(weights)
        weights.append(weights[-1] * mean.numerator // (mean.denominator * n))
    shift = max(max(weights).bit_length() - POINT, 0)
    poisson = [weight >> shift for weight in weights]
    first = next(i for i, weight in enumerate(poisson) if weight)
    poisson = poisson[first : poisson.index(0, first)]
    return [sum(map(mul, poisson, poisson[x:])) for x in range(0, len(poisson), stride)]


def gaussian(variance: Fraction, stride: int = 1) -> list[int]:
    """Weights of stride * j, each by a Taylor series of its own, in rational numbers."""
    weights: list[int] = []
    while not weights or weights[-1]:
        exponent = Fraction((stride * len(weights)) ** 2) / (2 * variance)
        halvings = max(0, int(exponent).bit_length() + 4)
        power, term, n = 0, 1 << POINT + 64, 0  # exp(-exponent / 2**halvings)
        while term:
            power += term if n % 2 == 0 else -term
            n += 1
            term = term * exponent.numerator // (exponent.denominator * n << halvings)
        for _ in range(halvings):
            power = power * power >> POINT + 64
        weights.append(power >> 64)
    return weights


def bounds(weights: Sequence[int]) -> list[int]:
    """The table for these weights; fails if what was rounded off could change a bound."""
    whole, tail, lower = 2 * sum(weights) - weights[0], 0, []
    for weight in reversed(weights[1:]):
        tail += weight
        least, most = (int(WHOLE * (Fraction(tail, whole) + s)) for s in (-SLACK, SLACK))
        assert least == most
        if least:
            lower.append(least)
    return [*lower, *(WHOLE - bound for bound in reversed(lower)), WHOLE]


def masses(table: Sequence[int]) -> list[int]:
    """2**128 * P[X = x], x = -reach, .., reach, as the table has them."""
    return [after - before for before, after in zip([0, *table], table, strict=False)]


def sampled(key: bytes, tables: Sequence[Sequence[int]], step: int, counts: int) -> list[int]:
    """Samples, one by one: by all 128 bits, whether the first 16 of them decide or not."""
    total = [0] * counts
    keys = stream(key, 64 * len(tables))
    for i, table in enumerate(tables):
        cells = stream(keys[64 * i : 64 * i + 32], 2 * counts)
        words = stream(keys[64 * i + 32 : 64 * i + 64], 16 * counts)
        used = 0
        for n in range(counts):
            u = int.from_bytes(cells[2 * n : 2 * n + 2], "little") << 112
            low, high = bisect_right(table, u), bisect_right(table, u + (1 << 112) - 1)
            if low != high:
                first, second = words[16 * used : 16 * used + 8], words[16 * used + 8 :][:8]
                u |= (int.from_bytes(first, "little") & (1 << 48) - 1) << 64
                u |= int.from_bytes(second, "little")
                used += 1
                low = bisect_right(table, u)
            total[n] += step**i * (low - len(table) // 2)
    return total


def convolved(left: Sequence[int], right: Sequence[int], step: int) -> list[int]:
    """Weights of x + step * y for symmetric x and y, of which the smallest come first."""
    out = [0] * (len(left) + step * (len(right) - 1))
    for i, b in enumerate(right):
        for j, a in enumerate(left, step * i):
            out[j] += a * b
    return out


def variation(left: Sequence[int], right: Sequence[int]) -> Fraction:
    """Total variation distance of two symmetric laws by their weights, the smallest first."""
    short, long = sorted((left, right), key=len)
    pad = [0] * ((len(long) - len(short)) // 2)
    padded, a, b = [*pad, *short, *pad], sum(short), sum(long)
    return Fraction(sum(abs(x * b - y * a) for x, y in zip(padded, long, strict=True)), 2 * a * b)
