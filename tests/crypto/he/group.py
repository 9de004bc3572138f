"""A consortium for tests: members 1..n with counted keys, and a group's key made once a scheme."""

from functools import cache
from hashlib import sha256

import numpy as np
from hypothesis import strategies as st

from tacit.crypto.he.keys import Consortium, GroupKey
from tacit.crypto.he.packing import Packing
from tacit.crypto.he.sets import APPROXIMATE, PUBLIC, SCHEMES, SEEDED, WIDE, Scheme
from tacit.crypto.identity import Identity, RunKey, agree
from tacit.crypto.vector import Ring

ROSTER = bytes(range(32))
SESSION = bytes(range(1, 33))
# The bits that fill a slot of the set with as many fields as it is meant for.
FULL = {PUBLIC: 21, SEEDED: 21, WIDE: 25, APPROXIMATE: 24}

schemes = st.sampled_from(list(SCHEMES.values()))


def secret(device: int) -> bytes:
    """A member's run secret, and its identity's."""
    return sha256(device.to_bytes(8, "little")).digest()


@cache
def run_key(device: int) -> RunKey:
    return RunKey.signed(Identity(secret(device)), 1, device, secret(device))


def agreed(one: int, other: int) -> bytes:
    """The secret that two members share."""
    return agree(secret(one), [run_key(other)])[other]


@cache
def consortium(scheme: Scheme, members: int = 5, serial: int = 1) -> Consortium:
    return Consortium(1, ROSTER, tuple(map(run_key, range(1, members + 1))), 1, serial, scheme)


def group(scheme: Scheme, members: int = 5) -> GroupKey:
    """The same key for the same consortium each time."""
    return _group(scheme, members)


@cache  # of all arguments: without one that has a default it would be another call
def _group(scheme: Scheme, members: int) -> GroupKey:
    return GroupKey.make(consortium(scheme, members), bytes(32))


def ring(numbers, bits: int) -> Ring:
    """Signed numbers as a codec would encode them."""
    reduced = np.asarray(numbers, np.int64) & ((1 << bits) - 1)
    return reduced.astype(np.uint32) if bits <= 32 else reduced.astype(np.uint64)


def numbers(packing: Packing, rows: int, seed: int = 0):
    """As many vectors as rows, of any numbers that a device may send."""
    draw = np.random.default_rng(seed)
    return draw.integers(-packing.reach, packing.reach + 1, (rows, packing.size))
