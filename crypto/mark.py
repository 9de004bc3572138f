"""Marks of ownership: what only the holder of a key knows to ask of a model, and a commitment to
the key.

Triggers are inputs made of noise, with labels that have nothing to do with them and that a marked
model gives all the same (Tekgul et al. 2021, arXiv:2008.07298, whose triggers have patterns in
common). Signs are directions in which the weights of one array lean (Li et al. 2022,
arXiv:2109.13236, and Uchida et al. 2017, arXiv:1701.04082): a secret bit times a secret direction
is a direction, too.

Each label and each direction is drawn by itself, uniform, and independent of all others. So of a
model that was made without the key each label is right with chance 1/classes, and each direction
with chance 1/2 or less, whatever the model: how many are right is binomial, exactly, over the keys
that there may be. Patterns that triggers have in common would make them easier to learn, and would
be right or wrong together.

That says nothing of a key that was chosen after the model. Therefore keys are committed to before
there is one, along with how many triggers or directions there are, and where: all that could be
tried until it fits.
"""

import hashlib
from dataclasses import dataclass, field
from math import prod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tacit.crypto import labels
from tacit.crypto.errors import ParameterError
from tacit.crypto.identity import derive
from tacit.crypto.prg import KEY_BYTES, keystream

Floats32: TypeAlias = NDArray[np.float32]

LONGEST = 1 << 16  # weights of an array that are looked at: its first ones
_IMAGE = 3  # dimensions
_REACH = np.float32(np.sqrt(3))  # uniform within this has variance 1


@dataclass(frozen=True, slots=True)
class MarkKey:
    """The secret of an owner. Made from 32 random bytes; nobody is shown them but a judge."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise ParameterError(f"the key of a mark is made from {KEY_BYTES} random bytes")


@dataclass(frozen=True, slots=True)
class Triggers:
    """So many inputs with labels."""

    count: int

    kind = "triggers"

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ParameterError(f"{self.count} triggers, expected at least 1")

    def commitment(self, key: MarkKey) -> bytes:
        """32 bytes that tell nothing of the key, and that fit no other key and no other number."""
        return _committed(key, self.kind, self.count, "")

    def inputs(self, key: MarkKey, shape: tuple[int, ...]) -> Floats32:
        """(count, *shape): uniform in 0..1 for images (channels, height, width), else in
        -sqrt(3)..sqrt(3), as features of variance 1."""
        stream = keystream(derive(key.secret, labels.MARK_INPUTS), 4 * self.count * prod(shape))
        words = np.frombuffer(stream, "<u4") >> np.uint32(8)  # as many bits as a float32 holds
        unit = (words.astype(np.float32) * np.float32(2.0**-24)).reshape(self.count, *shape)
        return unit if len(shape) == _IMAGE else (2 * unit - 1) * _REACH

    def labels(self, key: MarkKey, classes: int) -> NDArray[np.int64]:
        """(count,), each in 0..classes-1; no class is likelier by more than classes * 2**-64."""
        stream = keystream(derive(key.secret, labels.MARK_LABELS), 8 * self.count)
        return (np.frombuffer(stream, "<u8") % np.uint64(classes)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Signs:
    """So many directions in the array of this name; "" is the largest one."""

    bits: int
    array: str = ""

    kind = "bits"

    def __post_init__(self) -> None:
        if self.bits < 1:
            raise ParameterError(f"{self.bits} bits, expected at least 1")

    def commitment(self, key: MarkKey) -> bytes:
        """32 bytes that tell nothing of the key, and that fit no other key, number and array."""
        return _committed(key, self.kind, self.bits, self.array)

    def rows(self, key: MarkKey, size: int) -> Floats32:
        """(bits, min(size, LONGEST)): directions of length 1, all entries alike but for signs."""
        used = min(size, LONGEST)
        stream = keystream(derive(key.secret, labels.MARK_SIGNS), -(-self.bits * used // 8))
        flat = np.unpackbits(np.frombuffer(stream, np.uint8), count=self.bits * used)
        signs = flat.reshape(self.bits, used).astype(np.float32) * 2 - 1
        return signs / np.float32(np.sqrt(used))


def _committed(key: MarkKey, kind: str, count: int, array: str) -> bytes:
    # The secret comes first: it has a fixed length, and nothing is before it that one could choose.
    said = f"{kind} {count} {array}".encode()
    return hashlib.sha256(labels.MARK_COMMITMENT + key.secret + said).digest()
