"""Who masks with whom: a random graph that only the two ends of an edge can compute.

With everyone masking against everyone a device's work grows with the cohort. A sparse random graph
is enough, as long as no choice of the server's cuts the honest survivors in two, for it would then
learn the sum of each part (Bell et al. 2020, doi:10.1145/3372297.3417885). `parameters` says how
many neighbours that takes.

A graph that the server can compute it can also choose: it picks cohort, round and model, and would
try until the neighbours of a victim are all its own. So an edge is a coin that two devices toss
with the secret they share. Nobody else sees it fall before their reports name their neighbours,
and by then the session is fixed. What corrupt devices claim to be neighbours of does not matter:
the masks that hide an honest device are those it shares with honest ones.
"""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from tacit.crypto import labels
from tacit.crypto.identity import derive
from tacit.crypto.secagg.session import Session

_COIN_BYTES = 8


def neighbours(session: Session, device: int, agreed: Mapping[int, bytes]) -> tuple[int, ...]:
    """The devices that `device` shares a mask with, sorted.

    `agreed` is its secret with each device of the cohort. Each pair is an edge independently, with
    probability degree / (cohort - 1): both ends find the same, without a word.
    """
    others = (other for other in session.devices if other != device)
    if not session.is_masked:
        return ()
    if session.is_complete:
        return tuple(others)
    most = (session.degree << (8 * _COIN_BYTES)) // (len(session.devices) - 1)
    return tuple(
        other for other in others if _coin(session.id, agreed[other], device, other) < most
    )


def _coin(session: bytes, secret: bytes, one: int, other: int) -> int:
    """A number of 64 bits, uniform to all who do not know the secret of the two."""
    ids = b"".join(device.to_bytes(8, "little") for device in sorted((one, other)))
    tossed = derive(secret, labels.EDGE, session, ids)
    return int.from_bytes(tossed[:_COIN_BYTES], "little")


def to_bits(session: Session, devices: tuple[int, ...]) -> bytes:
    """Devices of the cohort as one bit each, in its order, lowest bit first."""
    return _to_bits(session.devices, devices)


def from_bits(session: Session, bits: bytes) -> tuple[int, ...]:
    """Inverse of `to_bits`. Raises ValueError for bits beyond the cohort."""
    return _from_bits(session.devices, bits)


def bits_size(session: Session) -> int:
    """Bytes of `to_bits`."""
    return (len(session.devices) + 7) // 8


# Kept, since each member of a committee is asked about the same neighbours of each device.
@lru_cache(maxsize=1 << 13)
def _to_bits(cohort: tuple[int, ...], devices: tuple[int, ...]) -> bytes:
    chosen = set(devices)
    return np.packbits([device in chosen for device in cohort], bitorder="little").tobytes()


@lru_cache(maxsize=1 << 13)
def _from_bits(cohort: tuple[int, ...], bits: bytes) -> tuple[int, ...]:
    flags = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little").tolist()
    if any(flags[len(cohort) :]):
        raise ValueError("bits beyond the cohort")
    return tuple(device for device, flag in zip(cohort, flags, strict=False) if flag)
