"""Sealed: who alters, cuts off or reads a file at rest, against encryption alone and sealing.

Encryption alone is AES-256 in counter mode: it keeps a secret, and nothing else.
"""

import io
from collections.abc import Callable, Mapping
from hashlib import sha256
from time import perf_counter
from types import MappingProxyType

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from tacit.crypto.errors import Damaged
from tacit.crypto.sealed import CHUNK, Context, SealKey, seal, unseal
from tacit.simulations.duels.base import Figure, Fought, Line, Role, Scale, Tell, share_of

SIZE, TRIALS = 3 * CHUNK + 1000, (300, 40)  # bytes; in full, and quick
LARGE = (1 << 28, 1 << 25)
MOST_GROWTH = 0.001
BELONGS = Context(run=1, round=2)
LIMITS = (
    "A file at rest is all that this protects: whoever may open it holds the model in clear, and "
    "so does a machine that trains or serves it.",
    "Sealing does not say by whom: anyone can seal to a public key.",
)
Change = Callable[[bytes, np.random.Generator], bytes]


def flip(data: bytes, draw: np.random.Generator) -> bytes:
    """One bit, anywhere."""
    out = bytearray(data)
    out[int(draw.integers(len(out)))] ^= 1 << int(draw.integers(8))
    return bytes(out)


def truncate(data: bytes, draw: np.random.Generator) -> bytes:
    return data[: int(draw.integers(1, len(data)))]


def swap(data: bytes, draw: np.random.Generator) -> bytes:
    """Two blocks of a chunk's size, counted from the end, where the chunks are aligned to no
    header."""
    size, end = CHUNK + 16, len(data) - 1016
    one, other = data[end - 2 * size : end - size], data[end - size : end]
    return data[: end - 2 * size] + other + one + data[end:]


CHANGES: Mapping[str, Change] = MappingProxyType(
    {"flipped bit": flip, "truncation": truncate, "moved chunk": swap}
)


class Sealed:
    """See the module."""

    name = "sealed"
    attack = "a file at rest is altered, cut off, or read by somebody else"
    defence = "AES-256-GCM in numbered chunks, the key wrapped to its recipients"

    def fight(self, scale: Scale, tell: Tell) -> Fought:
        began, trials = perf_counter(), TRIALS[scale.quick]
        draw = np.random.default_rng(8)
        content, owner = draw.bytes(SIZE), SealKey(sha256(b"owner").digest())
        sealed = b"".join(seal(io.BytesIO(content), [owner.public], BELONGS, sha256(b"r").digest()))
        coded, lines = _counter_mode(content), []
        for step, (name, change) in enumerate(CHANGES.items()):
            served = sum(len(_counter_mode(change(coded, draw))) > 0 for _ in range(trials))
            opened = sum(_opens(change(sealed, draw), owner) for _ in range(trials))
            what = f"{name} goes unnoticed"
            lines += [
                Line("encrypted alone", what, share_of(served, trials), Role.ATTACK, 1.0),
                Line("sealed", what, share_of(opened, trials), Role.DEFENCE, 0.0, at_most=True),
            ]
            tell((step + 1) / 5)
        strangers = [SealKey(draw.bytes(32)) for _ in range(trials)]
        read = sum(_opens(sealed, each) for each in strangers)
        known = share_of(int(_opens(sealed, owner)), 1)
        lines += [
            Line("sealed", "read with another key", share_of(read, trials), Role.DEFENCE, 0.0,
                 at_most=True),
            Line("sealed to him, too", "read with another key", known, Role.ATTACK, 1.0),
            Line("sealed", "growth of the file", Figure(len(sealed) / SIZE - 1), Role.PRICE,
                 MOST_GROWTH, at_most=True),
            Line("sealed", "GB a second, one core", Figure(_speed(LARGE[scale.quick], owner)),
                 Role.PRICE),
        ]  # fmt: skip
        tell(1.0)
        return Fought(self.name, self.attack, self.defence, "random bytes", tuple(lines),
                      perf_counter() - began, LIMITS)  # fmt: skip


def _counter_mode(data: bytes) -> bytes:
    """To and fro: whatever is decrypted, something comes out."""
    return Cipher(AES256(bytes(32)), CTR(bytes(16))).encryptor().update(data)


def _opens(data: bytes, key: SealKey) -> bool:
    try:
        _, parts = unseal(io.BytesIO(data), key, BELONGS)
        for _ in parts:
            pass
    except Damaged:
        return False
    return True


def _speed(size: int, owner: SealKey) -> float:
    content = io.BytesIO(bytes(size))
    began = perf_counter()
    for _ in seal(content, [owner.public], BELONGS, bytes(32)):
        pass
    return size / (perf_counter() - began) / 1e9
