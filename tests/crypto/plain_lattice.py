"""Encrypted sums once more, from tests/vectors/README.md alone: no line of tacit is used here.

Products term by term, in Python integers.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from operator import mul

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

FIELD = 65521
WIDTH = 48


def keystream(key: bytes, size: int) -> bytes:
    start = bytes(15) + b"\2"
    return Cipher(algorithms.AES256(key), modes.CTR(start)).encryptor().update(bytes(size))


@dataclass(frozen=True)
class Scheme:
    degree: int
    word: int
    fields: int
    bits: int

    @classmethod
    def named(cls, name: str, bits: int) -> "Scheme":
        return cls(*map(int, name.split("-")), bits)  # type: ignore[call-arg]

    @property
    def up(self) -> int:
        return self.word - self.fields * self.bits

    def sizes(self, words: int) -> list[int]:
        """How many words each block has."""
        whole, rest = divmod(words, self.degree)
        return [self.degree] * whole + [rest] * bool(rest)

    def packed(self, words: Sequence[int]) -> bytes:
        return struct.pack(f"<{len(words)}{'I' if self.word == 32 else 'Q'}", *words)

    def unpacked(self, data: bytes) -> list[int]:
        count = len(data) // (self.word // 8)
        return list(struct.unpack(f"<{count}{'I' if self.word == 32 else 'Q'}", data))


def noise(key: bytes, counts: Sequence[int]) -> list[tuple[int, ...]]:
    """So many samples one after the other: ones among 96 bits, less 48."""
    data, out = keystream(key, 12 * sum(counts)), []
    for count in counts:
        first, second, data = data[: 8 * count], data[8 * count : 12 * count], data[12 * count :]
        words, halves = struct.unpack(f"<{count}Q", first), struct.unpack(f"<{count}I", second)
        ones = zip(words, halves, strict=True)
        out.append(tuple(a.bit_count() + b.bit_count() - WIDTH for a, b in ones))
    return out


@cache
def masks(scheme: Scheme, seed: bytes, key: tuple[int, ...], words: int) -> list[list[int]]:
    """a * s, block by block, as far as there are words: a coefficient is a sum of N products."""
    half, sizes = scheme.degree // 2, scheme.sizes(words)
    public = scheme.unpacked(keystream(seed, scheme.degree * scheme.word // 8 * len(sizes)))
    secret = [*key[0::2], *key[1::2]]
    # Coefficient k of the product: the sum over i of a_i s_(k-i), where s_(j-N) is -s_j.
    turned = [*secret[::-1], *(-value for value in secret[::-1])]
    out = []
    for number, count in enumerate(sizes):
        block = public[number * scheme.degree : (number + 1) * scheme.degree]
        a = [*block[0::2], *block[1::2]]
        places = [at // 2 + half * (at % 2) for at in range(count)]
        starts = [scheme.degree - 1 - place for place in places]
        out.append([sum(map(mul, a, turned[s : s + scheme.degree])) for s in starts])
    return out


def encrypt(
    scheme: Scheme, seed: bytes, key: tuple[int, ...], rand: bytes, values: Sequence[int]
) -> list[int]:
    """`values` from 0 to 2**bits - 1; the words of the ciphertext."""
    words, half = -(-len(values) // scheme.fields), 1 << (scheme.bits - 1)
    signed = [(value + half) % (2 * half) - half for value in values]
    signed += [0] * (words * scheme.fields - len(signed))
    errors, out, start = noise(rand, scheme.sizes(words)), [], 0
    for mask, error in zip(masks(scheme, seed, key, words), errors, strict=True):
        count = len(mask)
        for at in range(count):
            fields = (
                signed[start + count * f + at] << scheme.bits * f for f in range(scheme.fields)
            )
            out.append((mask[at] + error[at] + (sum(fields) << scheme.up)) % (1 << scheme.word))
        start += scheme.fields * count
    return out


def decrypt(
    scheme: Scheme, seed: bytes, key: tuple[int, ...], words: Sequence[int], length: int
) -> list[int]:
    """The sum of the values, modulo 2**bits, of a sum of words and that of the keys."""
    out, at = [], 0
    for mask in masks(scheme, seed, key, len(words)):
        rows = []
        for value in mask:
            left = (words[at] - value + (1 << (scheme.up - 1))) % (1 << scheme.word) >> scheme.up
            at += 1
            row = []
            for _ in range(scheme.fields):
                row.append(left % (1 << scheme.bits))
                left = (left >> scheme.bits) + (row[-1] >> (scheme.bits - 1))
            rows.append(row)
        out += [row[field] for field in range(scheme.fields) for row in rows]
    return out[:length]


def share_at(key: Sequence[int], rand: bytes, threshold: int, point: int) -> list[int]:
    """That of each coefficient at a point. `rand` gives the other coefficients: those of its 16-bit
    numbers that are below 65521, in order, those of the first power first."""
    needed = (threshold - 1) * len(key)
    data = keystream(rand, 2 * (needed + 64 + needed // 1024))
    numbers = [n for n in struct.unpack(f"<{len(data) // 2}H", data) if n < FIELD]
    return [
        (secret + sum(numbers[j * len(key) + at] * point ** (j + 1) for j in range(threshold - 1)))
        % FIELD
        for at, secret in enumerate(key)
    ]


def combine(points: Sequence[int], shares: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The value at 0 of each coefficient's polynomial, from -32760 to 32760."""
    weights = []
    for one in points:
        weight = 1
        for other in points:
            if other != one:
                weight = weight * other * pow(other - one, -1, FIELD) % FIELD
        weights.append(weight)
    values = (sum(map(mul, weights, column)) % FIELD for column in zip(*shares, strict=True))
    return tuple(value - FIELD if value > FIELD // 2 else value for value in values)
