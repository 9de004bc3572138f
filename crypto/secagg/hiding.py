"""The three ways of a contribution that nobody can read: masked in pairs, encrypted under a lattice
key of its own, encrypted under a key that all devices hold."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tacit.crypto import labels, shamir
from tacit.crypto.codec import Ring, signed
from tacit.crypto.errors import ParameterError
from tacit.crypto.he.keys import GroupKey
from tacit.crypto.he.packing import Packing
from tacit.crypto.he.sums import contribute
from tacit.crypto.identity import derive
from tacit.crypto.lattice import keys as lattice_keys
from tacit.crypto.lattice.cipher import encrypt
from tacit.crypto.lattice.sets import Lattice
from tacit.crypto.prg import add_masks, keystream
from tacit.crypto.secagg.graph import neighbours
from tacit.crypto.secagg.messages import pair_context
from tacit.crypto.secagg.session import SECRET_BYTES, Session
from tacit.crypto.shamir import Octets
from tacit.crypto.wire import pack


@dataclass(frozen=True, slots=True)
class Hidden:
    """A contribution that nobody can read, and what a committee needs to help open the sum.

    `dealt` (members, secrets, share bytes); `committed` are the secrets that one by one may be
    opened, (secrets, 32).
    """

    packed: bytes
    neighbours: tuple[int, ...]
    dealt: Octets = field(repr=False)
    committed: Octets = field(repr=False)


def hide(
    session: Session,
    me: int,
    agreed: Mapping[int, bytes],
    encoded: Ring,
    setup: bytes,
    rand: bytes,
    group: GroupKey | None,
) -> Hidden:
    """`encoded`, which is overwritten, in the session's way. The arguments are as for
    `client.report`."""
    if session.packing is not None:
        return _shared(session, session.packing, me, group, encoded, setup)
    if session.scheme is not None:
        return _encrypted(session, session.scheme, encoded, rand)
    return _masked(session, me, agreed, encoded, setup, rand)


def _masked(
    session: Session,
    me: int,
    agreed: Mapping[int, bytes],
    encoded: Ring,
    setup: bytes,
    rand: bytes,
) -> Hidden:
    """Under a mask of our own, and one with each neighbour."""
    near = neighbours(session, me, agreed)
    pairs = {
        peer: derive(agreed[peer], labels.PAIR_MASK, pair_context(session.id, setup, me, peer))
        for peer in near
    }
    self_key = derive(rand[:SECRET_BYTES], labels.SELF_MASK, session.id)
    add_masks(
        encoded,
        plus=[self_key, *(key for peer, key in pairs.items() if peer > me)],
        minus=[key for peer, key in pairs.items() if peer < me],
    )
    secrets = np.frombuffer(self_key + b"".join(pairs.values()), np.uint8).reshape(-1, SECRET_BYTES)
    points = [session.point(member) for member in session.committee]
    size = shamir.rand_size(len(secrets), SECRET_BYTES, session.threshold)
    # The coefficients are as many bytes as a small model: a stream of one key, used for this only.
    coefficients = keystream(
        derive(rand[SECRET_BYTES:], labels.SHARE_COEFFICIENTS, session.id), size
    )
    dealt = shamir.share(secrets, session.threshold, points, coefficients)
    return Hidden(pack(encoded, session.codec.bits), near, dealt, secrets)


def _encrypted(session: Session, scheme: Lattice, encoded: Ring, rand: bytes) -> Hidden:
    """Under a lattice key that is drawn here, for this session, and used for nothing else."""
    ours, theirs = rand[:SECRET_BYTES], rand[SECRET_BYTES:]
    key = lattice_keys.draw(
        scheme.degree, scheme.secret, derive(ours, labels.LATTICE_KEY, session.id)
    )
    errors = derive(ours, labels.LATTICE_ERRORS, session.id)
    ciphertext = encrypt(scheme, session.public_seed, key, errors, encoded)
    encoded[:] = 0
    points = [session.point(member) for member in session.committee]
    coefficients = derive(theirs, labels.SHARE_COEFFICIENTS, session.id)
    shares = lattice_keys.share(key, session.threshold, points, coefficients)
    dealt = shares.astype("<u2").view(np.uint8)[:, None]
    nothing = np.zeros((0, SECRET_BYTES), np.uint8)
    return Hidden(ciphertext.tobytes(), (), dealt, nothing)


def _shared(
    session: Session,
    packing: Packing,
    me: int,
    group: GroupKey | None,
    encoded: Ring,
    setup: bytes,
) -> Hidden:
    """Under the key of the session's consortium."""
    if group is None:
        raise ParameterError("a consortium's sum takes the group's key")
    group.consortium.check(session)
    numbers = signed(encoded, session.codec.bits).view(np.uint64)
    encoded[:] = 0
    packed = contribute(group, packing, he_sum(session, setup), me, numbers)
    nothing = np.zeros((0, SECRET_BYTES), np.uint8)
    return Hidden(packed, (), np.zeros((len(session.committee), 0, 0), np.uint8), nothing)


def he_sum(session: Session, setup: bytes) -> bytes:
    """What tags are bound to: ciphertexts of devices that were set up otherwise add up all the
    same, so no tag must fit their sum."""
    return hashlib.sha256(labels.HE_SUM + session.id + setup).digest()
