"""A device's part in a sum: to contribute to it, and to open it.

    GroupKey ─ contribute ─> bytes       ... added up by a `Summer`, somewhere ...
             └ open_sum   <─ bytes ─> ring elements, for `Codec.decode`

**A group's key is good until `open_sum` first refuses.** What it refuses is the server's doing or
an accident, and a server that may go on trying learns a bit about the key each time (see `tags`).
So whoever stores the key takes it off the shelf first and puts it back after a sum that held, as
`tacit.client.rounds` does with states; without it a device contributes nothing, until a new epoch.

Who calls this has checked the session, contributes once to each, and opens the sum of one set for
each: that one which the committee attested. Two sets that differ by a device give that device away.
"""

import numpy as np

from tacit.crypto.errors import MalformedMessage, ParameterError, ProtocolError
from tacit.crypto.he.bfv import decrypt, encrypt
from tacit.crypto.he.keys import GroupKey
from tacit.crypto.he.packing import Packing
from tacit.crypto.he.tags import TAGS, check, tag
from tacit.crypto.secagg.session import DIGEST_BYTES
from tacit.crypto.vector import Ring

STAGE = "open"


def contribute(
    group: GroupKey, packing: Packing, session: bytes, device: int, encoded: Ring
) -> bytes:
    """One device's vector, packed, tagged and encrypted.

    `session` is 32 bytes that stand for the sum, and for all that its devices have to agree on.
    Raises ParameterError for a vector that does not fit the packing, or a packing of another set.
    """
    _check(group, packing, session)
    if device not in group.consortium.devices:
        raise ParameterError(f"device {device} is not a member")
    slots = packing.pack(encoded)
    tags = tag(group.tag_secret, session, device, slots, packing.scheme.plain)
    return encrypt(group.key, packing, np.concatenate([slots, tags]))


def open_sum(
    group: GroupKey, packing: Packing, session: bytes, survivors: tuple[int, ...], total: bytes
) -> Ring:
    """The sum of the vectors of exactly `survivors`, the attested set: elements mod 2**bits.

    Raises ProtocolError for everything else that may come, and then the key is to be used no more.
    """
    _check(group, packing, session)
    members = set(group.consortium.devices)
    if list(survivors) != sorted(set(survivors)) or not set(survivors) <= members:
        raise ProtocolError("survivors are not part of the consortium", sender=0, stage=STAGE)
    count, slots = decrypt(group.key, packing, total, stage=STAGE)
    if count != len(survivors):
        raise MalformedMessage(
            f"a sum of {count} for {len(survivors)} survivors", sender=0, stage=STAGE
        )
    words = slots[: packing.words]
    tags = slots[packing.words : packing.words + TAGS]
    check(group.tag_secret, session, survivors, words, tags, packing.scheme.plain)
    # Tags see numbers modulo t, as BFV does. Under CKKS slots do not wrap there: what differs from
    # the sum by a multiple of t lies beyond what any sum reaches.
    if not -packing.span <= words.min() <= words.max() < packing.span:
        raise ProtocolError("a number that no sum reaches", sender=0, stage=STAGE)
    return packing.unpack(words)


def _check(group: GroupKey, packing: Packing, session: bytes) -> None:
    if packing.scheme != group.consortium.scheme:
        raise ParameterError(f"a packing for {packing.scheme.name}")
    if len(session) != DIGEST_BYTES:
        raise ParameterError(f"a session is named by {DIGEST_BYTES} bytes")
