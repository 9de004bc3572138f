"""Ring elements as the slots of plaintexts, several to a slot, and back.

An element mod 2**bits stands for a number of -2**(bits-1) .. 2**(bits-1) - 1. A slot holds `fields`
of them, v_0 + v_1 * 2**bits + ..., as a signed number; slots add up, and so do the numbers in them
as long as each sum stays in that range. So a device may only send numbers of which `clients` fit:
the library would wrap silently, and a field would spill into its neighbour. What a `Codec` encodes
always fits, since its sums never wrap. Where noise may wrap (`Noised`) a field is wider than the
ring, and the sum is reduced when it is out of there.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.codec import Codec
from tacit.crypto.errors import ParameterError
from tacit.crypto.he.sets import Scheme
from tacit.crypto.he.tags import TAGS
from tacit.crypto.secagg.noised import Noised
from tacit.crypto.vector import Ring

Slots: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Packing:
    """How `size` elements of `bits` bits, and the tags, fill the slots of a scheme's ciphertexts.

    Elements come field by field: those of field 0 first, one for each slot. The tags have a slot
    each, after all others. Raises ParameterError for what has no room.
    """

    scheme: Scheme
    size: int
    bits: int
    clients: int

    def __post_init__(self) -> None:
        if not 8 <= self.bits <= self.scheme.plain_bits:
            raise ParameterError(
                f"{self.bits} bits, expected 8..{self.scheme.plain_bits} with {self.scheme.name}"
            )
        if not 1 <= self.clients <= self.scheme.room:
            raise ParameterError(
                f"{self.clients} clients, expected 1..{self.scheme.room} with {self.scheme.name}"
            )
        if self.reach < 1:
            raise ParameterError(f"{self.clients} clients leave no room in {self.bits} bits")
        if not 1 <= self.size < 1 << 32:
            raise ParameterError(f"{self.size} elements, expected 1..{(1 << 32) - 1}")

    @classmethod
    def of(cls, scheme: Scheme, codec: Codec | Noised) -> "Packing":
        """For the vectors of this codec."""
        return cls(scheme, codec.size, codec.width, codec.clients)

    @property
    def fields(self) -> int:
        """Elements to a slot."""
        return self.scheme.plain_bits // self.bits

    @property
    def words(self) -> int:
        """Slots that the elements fill."""
        return -(-self.size // self.fields)

    @property
    def blocks(self) -> int:
        """Ciphertexts that elements and tags fill."""
        return -(-(self.words + TAGS) // self.scheme.slots)

    @property
    def reach(self) -> int:
        """The largest number that a device may send: `clients` of them still fit."""
        return ((1 << (self.bits - 1)) - 1) // self.clients

    @property
    def span(self) -> int:
        """Slots of sums lie within -span .. span - 1."""
        return 1 << (self.bits * self.fields - 1)

    def pack(self, vector: Ring) -> Slots:
        """The elements of one device, reduced mod 2**bits, as slots (words,).

        Raises ParameterError for another number of elements, or one that stands for a number
        beyond `reach`. It does not say which: the numbers are the device's secret.
        """
        if vector.shape != (self.size,) or vector.dtype.kind != "u":
            raise ParameterError(f"{vector.shape} {vector.dtype} is no vector of {self.size}")
        signed = self._signed(vector.astype(np.int64))
        if max(signed.max(), -signed.min()) > self.reach:
            raise ParameterError(
                f"a number of which {self.clients} do not fit {self.bits} bits: raise bits, or "
                "lower the bound"
            )
        fields = np.zeros((self.fields, self.words), np.int64)
        fields.reshape(-1)[: self.size] = signed
        slots: Slots = fields[-1]
        for field in fields[-2::-1]:
            slots <<= self.bits
            slots += field
        return slots

    def unpack(self, slots: Slots) -> Ring:
        """The sums that slots (words,), as signed numbers, stand for: ring elements mod 2**bits,
        in the word that a `Codec` of so many bits uses."""
        rest = slots.copy()
        fields = np.empty((self.fields, self.words), np.int64)
        for field in fields:
            field[:] = self._signed(rest)
            rest -= field
            rest >>= self.bits
        reduced = fields.reshape(-1)[: self.size] & ((1 << self.bits) - 1)
        return reduced.astype(np.uint32) if self.bits <= 32 else reduced.astype(np.uint64)

    def _signed(self, values: Slots) -> Slots:
        """The number of -2**(bits-1) .. 2**(bits-1) - 1 with the same low bits, for each."""
        shift = 64 - self.bits
        signed: Slots = (values << shift) >> shift
        return signed
