"""ML-KEM-768 encapsulation (FIPS 203) with the 32 bytes that it takes given.

The library draws these itself and cannot be told which, so it makes no vectors. It decapsulates
what is made here, and as that encrypts once more and compares, a wrong bit would show.
"""

import hashlib

Q, N, K = 3329, 256, 3
ETA, LARGE, LITTLE = 2, 10, 4  # eta, and the bits that a coefficient of u and of v is sent with
ZETA = 17

Polynomial = list[int]


def encapsulate(public: bytes, message: bytes) -> tuple[bytes, bytes]:
    """The secret (32 bytes) and its ciphertext (1088 bytes): algorithm 17."""
    both = hashlib.sha3_512(message + hashlib.sha3_256(public).digest()).digest()
    return both[:32], _encrypted(public, message, both[32:])


def _encrypted(public: bytes, message: bytes, rand: bytes) -> bytes:
    """Algorithm 14, K-PKE.Encrypt."""
    of_key = [_numbers(public[384 * i : 384 * (i + 1)], 12) for i in range(K)]
    seed = public[384 * K :]
    noise = [_binomial(rand, number) for number in range(2 * K + 1)]
    secret = [_transformed(one) for one in noise[:K]]
    u = []
    for i in range(K):
        column = [_uniform(seed + bytes([i, j])) for j in range(K)]
        u.append(_sum(_back(_dot(column, secret)), noise[K + i]))
    bits = [(message[i // 8] >> i % 8 & 1) * ((Q + 1) // 2) for i in range(N)]
    v = _sum(_sum(_back(_dot(of_key, secret)), noise[2 * K]), bits)
    return b"".join(_octets(_shortened(one, LARGE), LARGE) for one in u) + _octets(
        _shortened(v, LITTLE), LITTLE
    )


def _numbers(data: bytes, bits: int) -> Polynomial:
    whole = int.from_bytes(data, "little")
    return [(whole >> bits * i & ((1 << bits) - 1)) % Q for i in range(N)]


def _octets(values: Polynomial, bits: int) -> bytes:
    return sum(value << bits * i for i, value in enumerate(values)).to_bytes(
        bits * N // 8, "little"
    )


def _shortened(values: Polynomial, bits: int) -> Polynomial:
    """Compress, 4.7: rounded to the nearest, halves up."""
    return [((value << bits) + Q // 2) // Q % (1 << bits) for value in values]


def _uniform(seed: bytes) -> Polynomial:
    """Algorithm 7, SampleNTT."""
    out: Polynomial = []
    stream = hashlib.shake_128(seed).digest(3 * 1024)
    for a, b, c in zip(stream[0::3], stream[1::3], stream[2::3], strict=True):
        out += [value for value in (a + 256 * (b % 16), b // 16 + 16 * c) if value < Q]
    return out[:N]


def _binomial(rand: bytes, number: int) -> Polynomial:
    """Algorithm 8, SamplePolyCBD."""
    octets = hashlib.shake_256(rand + bytes([number])).digest(64 * ETA)
    bits = [octets[i // 8] >> i % 8 & 1 for i in range(8 * len(octets))]
    groups = (bits[2 * ETA * i : 2 * ETA * (i + 1)] for i in range(N))
    return [sum(group[:ETA]) - sum(group[ETA:]) for group in groups]


def _reversed(number: int) -> int:
    """The seven bits of a number in the opposite order."""
    return int(f"{number:07b}"[::-1], 2)


def _transformed(values: Polynomial) -> Polynomial:
    """Algorithm 9, NTT."""
    out, at, length = values[:], 1, 128
    while length >= 2:
        for start in range(0, N, 2 * length):
            zeta = pow(ZETA, _reversed(at), Q)
            at += 1
            for j in range(start, start + length):
                turned = zeta * out[j + length]
                out[j], out[j + length] = (out[j] + turned) % Q, (out[j] - turned) % Q
        length //= 2
    return out


def _back(values: Polynomial) -> Polynomial:
    """Algorithm 10, its inverse."""
    out, at, length = values[:], 127, 2
    while length <= 128:
        for start in range(0, N, 2 * length):
            zeta = pow(ZETA, _reversed(at), Q)
            at -= 1
            for j in range(start, start + length):
                low, high = out[j], out[j + length]
                out[j], out[j + length] = (low + high) % Q, zeta * (high - low) % Q
        length *= 2
    return [value * pow(128, -1, Q) % Q for value in out]


def _dot(ones: list[Polynomial], others: list[Polynomial]) -> Polynomial:
    """The sum of products of transformed polynomials, pair by pair: algorithms 11 and 12."""
    out = [0] * N
    for one, other in zip(ones, others, strict=True):
        for i in range(N // 2):
            gamma = pow(ZETA, 2 * _reversed(i) + 1, Q)
            (a, b), (c, d) = one[2 * i : 2 * i + 2], other[2 * i : 2 * i + 2]
            out[2 * i] = (out[2 * i] + a * c + b * d * gamma) % Q
            out[2 * i + 1] = (out[2 * i + 1] + a * d + b * c) % Q
    return out


def _sum(one: Polynomial, other: Polynomial) -> Polynomial:
    return [(a + b) % Q for a, b in zip(one, other, strict=True)]
