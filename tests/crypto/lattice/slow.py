"""What the package computes, once more, in whole numbers and in no hurry."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes


def stream(key: bytes, size: int) -> bytes:
    """AES-256 in plain counter mode from counter block 2 on."""
    counter = modes.CTR((2).to_bytes(16, "big"))
    return Cipher(algorithms.AES256(key), counter).encryptor().update(bytes(size))


def places(degree: int) -> list[int]:
    """Which coefficient stands at each position of a block, or of a key."""
    return [coefficient for j in range(degree // 2) for coefficient in (j, j + degree // 2)]


def natural(paired: Sequence[int]) -> list[int]:
    """Coefficients 0, 1, 2, .. of a polynomial that stands in pairs."""
    out = [0] * len(paired)
    for value, place in zip(paired, places(len(paired)), strict=True):
        out[place] = int(value)
    return out


def schoolbook(a: list[int], s: list[int]) -> list[int]:
    """a * s modulo X^N + 1, term by term."""
    size = len(a)
    out = [0] * size
    for i, x in enumerate(a):
        for j, y in enumerate(s):
            out[(i + j) % size] += x * y if i + j < size else -x * y
    return out


def product(a: list[int], s: list[int]) -> list[int]:
    """The same, for large ones: both at X = 2**128, multiplied as one integer (Kronecker)."""
    size, slot = len(a), 16
    parts = [_joined([max(0, sign * value) for value in s], slot) for sign in (1, -1)]
    whole = _joined(a, slot)
    out = [0] * size
    for sign, part in zip((1, -1), parts, strict=True):
        digits = (whole * part).to_bytes(2 * size * slot, "little")
        for i in range(2 * size):
            value = int.from_bytes(digits[slot * i : slot * (i + 1)], "little")
            out[i % size] += sign * (value if i < size else -value)
    return out


def _joined(values: list[int], slot: int) -> int:
    return int.from_bytes(b"".join(value.to_bytes(slot, "little") for value in values), "little")


def samples(key: bytes, width: int, counts: Sequence[int]) -> list[list[int]]:
    """Rows of so many samples, bit by bit."""
    octets, rows = stream(key, 12 * sum(counts)), []
    for count in counts:
        first, second = octets[: 8 * count], octets[8 * count : 12 * count]
        octets = octets[12 * count :]
        row = []
        for i in range(count):
            whole = int.from_bytes(first[8 * i : 8 * i + 8], "little")
            whole |= int.from_bytes(second[4 * i : 4 * i + 4], "little") << 64
            row.append(sum(whole >> bit & 1 for bit in range(2 * width)) - width)
        rows.append(row)
    return rows


def binomial(width: int) -> list[Fraction]:
    """P[x = -width], .., P[x = width]."""
    return [Fraction(math.comb(2 * width, i), 4**width) for i in range(2 * width + 1)]


# Pearson's statistic, and how far it strays. With D degrees of freedom and non-centrality L (0 for
# what is expected), chi-square is above D + L + 2 sqrt((D + 2L) x) + 2x with probability at most
# exp(-x), and below D + L - 2 sqrt((D + 2L) x) as well: Birge 2001, lemma 8.1. x = 28 is 2**-40.
FAR = 28.0


def chi_square(found: np.ndarray, expected: np.ndarray) -> float:
    return float((np.square(found - expected) / expected).sum())


def most(freedom: float) -> float:
    """What is expected stays below this, but for a chance of 2**-40."""
    return freedom + 2 * math.sqrt(freedom * FAR) + 2 * FAR


def least(freedom: float, away: float) -> float:
    """What is `away` from it stays above this."""
    return freedom + away - 2 * math.sqrt((freedom + 2 * away) * FAR)
