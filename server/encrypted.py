"""The parameters of encrypted sums."""

from dataclasses import dataclass
from typing import ClassVar

from tacit.crypto.codec import TAIL, Codec
from tacit.crypto.lattice.sets import WIDE, named
from tacit.crypto.secagg.noised import MOST_BITS
from tacit.server.pairwise import SecureSum, Shape


@dataclass(frozen=True, slots=True)
class Encrypted(SecureSum):
    """Sums of vectors that each device encrypts under a one-time lattice key of its own.

    There are no neighbours, and who drops out costs the server nothing. A device deals a key to
    each committee member, and a member holds one of each device, so a drawn committee keeps both
    small. `parameters` names the set, which also says how many bits a
    coordinate has: see `tacit.crypto.lattice.sets`. The rest is what a `SecureSum` has.
    """

    parameters: str = WIDE.name

    name: ClassVar[str] = "lattice"

    @property
    def lattice(self) -> str:
        return self.parameters

    def codec(self, length: int, clients: int) -> Codec:
        """As wide as the noise of `clients` ciphertexts leaves room for. Raises ParameterError for
        an unknown set, or if there is none."""
        size = length + 2 * self.metrics + TAIL
        return self._codec(length, clients, named(self.parameters).room(clients, size).bits)

    def room(self, length: int, clients: int) -> int:
        return min(MOST_BITS, named(self.parameters).room(clients, length + 2).bits)

    def shape(self, devices: int, roster: int) -> Shape:
        return self._shape(devices, roster, 0)
