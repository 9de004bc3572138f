"""Keys, encryption, sums and decryption of slots, whichever way the library is reached.

Nothing here looks at what it decrypts: that the bytes are a sum, and of whom, is `sums`' to see.
"""

from dataclasses import dataclass, field

import numpy as np

from tacit.crypto.errors import MalformedMessage, ParameterError
from tacit.crypto.he.doors import REFUSALS, Ciphertext, Door, door, new_secret
from tacit.crypto.he.frames import Kind, Octets, frame, key_frame, read_frame, read_key
from tacit.crypto.he.packing import Packing, Slots
from tacit.crypto.he.sets import Scheme
from tacit.crypto.wire import Reader


@dataclass(frozen=True, slots=True)
class Key:
    """The secret key of a set, as the library serialises it."""

    scheme: Scheme
    secret: bytes = field(repr=False)

    @classmethod
    def make(cls, scheme: Scheme) -> "Key":
        """A fresh one. Raises ParameterError where the library, or what the set needs, is missing.

        The one place where randomness is no argument, but for encryption: the library draws it.
        """
        return cls(scheme, new_secret(scheme))

    def encode(self) -> bytes:
        return key_frame(self.scheme, self.secret)

    @classmethod
    def read(cls, reader: Reader, scheme: Scheme) -> "Key":
        """Raises MalformedMessage for a frame of another library, or another set, and for what the
        library does not load."""
        key = cls(scheme, read_key(reader, scheme))
        try:
            key.door()
        except ParameterError:  # it is ours, and one of the others
            raise
        except REFUSALS:
            raise reader.bad("the library does not load this key") from None
        return key

    def door(self) -> Door:
        """Loads the key: milliseconds."""
        return door(self.scheme, self.secret)


def encrypt(key: Key, packing: Packing, slots: Slots) -> bytes:
    """Slots, padded with zeros to whole ciphertexts, as a contribution."""
    _check_set(key, packing)
    width, through = packing.scheme.slots, key.door()
    centred = _centred(slots, packing.scheme.plain)
    padded = np.zeros(packing.blocks * width, np.int64)
    padded[: centred.size] = centred
    blocks = [through.encrypt(row.tolist()) for row in padded.reshape(-1, width)]
    return frame(Kind.CONTRIBUTION, packing, 1, blocks)


def decrypt(key: Key, packing: Packing, total: bytes, *, stage: str) -> tuple[int, Slots]:
    """Of how many devices the sum says it is, and its slots with the padding, -t/2 .. t/2.

    Raises MalformedMessage, the server its sender, for what is no sum. The library loads the
    server's bytes in this process, which has the key: that they do not crash it, or worse, is the
    library's word, and for SEAL 4.3 not a good one.
    """
    _check_set(key, packing)
    through = key.door()
    count, blocks = read_frame(total, Kind.SUM, packing, sender=0, stage=stage)
    slots = np.empty((len(blocks), packing.scheme.slots), np.int64)
    for row, block in zip(slots, blocks, strict=True):
        try:
            row[:] = through.decrypt(through.load(bytes(block)))
        except REFUSALS:
            raise MalformedMessage("a ciphertext does not load", sender=0, stage=stage) from None
    return count, slots.reshape(-1)


class Summer:
    """A running sum: of all ciphertexts that are added, two are held, the sum and the newest.

    Needs no key. It gives bytes to the library, so bytes of strangers belong to a process of its
    own: see `tacit.server.he_loader`.
    """

    def __init__(self, packing: Packing) -> None:
        """Raises ParameterError where the library is missing."""
        self.packing = packing
        self.count = 0
        self._door = door(packing.scheme)
        self._total: list[Ciphertext] = []

    def add(self, data: Octets, *, sender: int) -> None:
        """Add a contribution. Raises MalformedMessage, and changes nothing, if it does not hold;
        ParameterError for one more than the packing has room for."""
        self._take(data, Kind.CONTRIBUTION, sender)

    def add_sum(self, data: Octets) -> None:
        """Add a sum that `total` gave, as for an interrupted one. Raises as `add`."""
        self._take(data, Kind.SUM, 0)

    def total(self) -> bytes:
        """The sum so far. Raises ParameterError for the sum of nothing."""
        if not self.count:
            raise ParameterError("nothing was added")
        blocks = [self._door.save(ciphertext) for ciphertext in self._total]
        return frame(Kind.SUM, self.packing, self.count, blocks)

    def _take(self, data: Octets, kind: Kind, sender: int) -> None:
        count, blocks = read_frame(data, kind, self.packing, sender=sender, stage="report")
        if self.count + count > self.packing.clients:
            raise ParameterError(f"room for {self.packing.clients} devices, and no more")
        try:
            loaded = [self._door.load(bytes(block)) for block in blocks]
        except REFUSALS:
            raise MalformedMessage(
                "a ciphertext does not load", sender=sender, stage="report"
            ) from None
        if self.count:
            for total, other in zip(self._total, loaded, strict=True):
                self._door.add(total, other)
        else:
            self._total = loaded
        self.count += count


def _check_set(key: Key, packing: Packing) -> None:
    if key.scheme != packing.scheme:
        raise ParameterError(f"a key of {key.scheme.name} for {packing.scheme.name}")


def _centred(slots: Slots, plain: int) -> Slots:
    """The same modulo t, from -t/2 to t/2. Nearly all are there already, and division is slow."""
    centred, half = slots.copy(), plain // 2
    outside = np.flatnonzero((slots > half) | (slots < -half))
    centred[outside] = (slots[outside] + half) % plain - half
    return centred
