"""What a sum costs a device by either way of hiding what it gives: bytes up, seconds of one core.

The work of a mask grows with the neighbours, that of a ciphertext does not; a lattice key is dearer
to deal than the key of a mask. So masks are the better for few neighbours or a short vector:

    masks        size * (PACK + MASK * width * masks) + masks * (PAIR + SHARE * members)
    encrypted    ENCRYPT * bytes of the ciphertext + DEAL * N * members

with 1 + degree masks, of ring elements of `width` bytes, and a lattice key of N coefficients. The
constants are CPU times of `tacit.crypto.secagg.client.report` in a fresh process, as Flower starts
one for each message, with one thread of an AMD EPYC with AES instructions: lengths of 10**4 to
10**7, degrees 8 to 99, committees of 9 to 100, all three parameter sets. What takes 5 ms or more is
within a quarter of what these formulas say, what takes less up to twice as long.
`benchmarks/report_costs.py` measures it again. What both ways have in common is left out: the
encoding, digests, and secrets that are agreed on once a run.

Bytes are those of a report, but for a header of a hundred or so and a bit for each device.
"""

from dataclasses import dataclass

from tacit.crypto.lattice.sets import Lattice
from tacit.crypto.secagg.messages import HASH_BYTES, TAG_BYTES
from tacit.crypto.secagg.session import SECRET_BYTES
from tacit.crypto.wire import packed_size

PACK = 4e-9  # an element, to be packed into the bits it has
MASK = 0.125e-9  # a byte of a mask, drawn and added
PAIR = 20e-6  # a neighbour's key, and a cipher under it
SHARE = 1.2e-6  # a member's share of one mask's key: dealt, hashed, sealed
ENCRYPT = 5e-9  # a byte of ciphertext
DEAL = 28e-9  # a member's share of one coefficient of a lattice key
DECRYPT = 5e-9  # a byte of the sum of ciphertexts, by the server

# Bytes a second. No measurement: what weighs seconds and bytes against each other. 80 Mbit/s beside
# a core as fast as the one above is the same as 16 Mbit/s beside one five times slower.
UPLINK = 10e6


@dataclass(frozen=True, slots=True)
class Cost:
    """`seconds` of computing; bytes of the hidden `vector`, and of the `sealed` shares with their
    hashes and commitments."""

    seconds: float
    vector: int
    sealed: int

    @property
    def total(self) -> float:
        """Seconds until all is computed and sent."""
        return self.seconds + (self.vector + self.sealed) / UPLINK


def masked(size: int, bits: int, degree: int, members: int) -> Cost:
    """Of `size` elements of `bits` bits masked with `degree` neighbours, for a committee of
    `members`."""
    masks = 1 + degree
    return Cost(
        size * (PACK + mask_seconds(bits) * masks) + masks * (PAIR + SHARE * members),
        packed_size(size, bits),
        members * box_bytes(masks, SECRET_BYTES) + masks * HASH_BYTES,
    )


def encrypted(scheme: Lattice, size: int, members: int) -> Cost:
    """Of `size` elements encrypted by `scheme`, for a committee of `members`."""
    vector = scheme.packed_size(size)
    return Cost(
        ENCRYPT * vector + DEAL * scheme.degree * members,
        vector,
        members * box_bytes(1, scheme.share_bytes),
    )


def box_bytes(secrets: int, share: int) -> int:
    """What one member gets of one device: shares of so many bytes, sealed, and their hashes."""
    return secrets * (share + HASH_BYTES) + TAG_BYTES


def mask_seconds(bits: int) -> float:
    """One element of one mask, in a ring of `bits` bits."""
    return MASK * (4 if bits <= 32 else 8)
