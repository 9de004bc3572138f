"""How a group gets its key: one member makes it and seals it to the others, the server carries it.

server ─ Consortium ─> dealer ─ Deal ─> server ─ Delivery ─> each other member
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tacit.crypto.errors import ParameterError, ProtocolError
from tacit.crypto.he.keys import SALT_BYTES, STAGE, Consortium, GroupKey, box_bytes, seal
from tacit.crypto.identity import KEY_BYTES
from tacit.crypto.secagg.stages import BAD_GROUP_KEY
from tacit.crypto.wire import Reader, Writer


@dataclass(frozen=True, slots=True)
class Deal:
    """Dealer -> server: a box for each of the other members, in their order."""

    boxes: tuple[bytes, ...]

    def encode(self) -> bytes:
        writer = Writer()
        for box in self.boxes:
            writer.blob(box)
        return writer.data()

    @classmethod
    def decode(cls, data: bytes, consortium: Consortium, *, sender: int) -> "Deal":
        """Raises MalformedMessage."""
        reader = Reader(data, sender=sender, stage=STAGE)
        most = box_bytes(consortium.scheme)
        boxes = tuple(reader.blob(most) for _ in consortium.others)
        reader.end()
        return cls(boxes)


@dataclass(frozen=True, slots=True)
class Delivery:
    """Server -> member: whose key it is, and the box for this member."""

    consortium: Consortium
    box: bytes

    def encode(self) -> bytes:
        return Writer().blob(self.box).data() + self.consortium.encode()

    @classmethod
    def decode(cls, data: bytes) -> "Delivery":
        """Raises MalformedMessage."""
        reader = Reader(data, sender=0, stage=STAGE)
        box = reader.blob()
        consortium = read_consortium(reader)
        if len(box) > box_bytes(consortium.scheme):
            raise reader.bad(f"a box of {len(box)} bytes")
        return cls(consortium, box)


def read_consortium(reader: Reader) -> Consortium:
    """A consortium, and nothing after it. Raises MalformedMessage."""
    consortium = Consortium.read(reader)
    reader.end()
    return consortium


def deal_bytes(consortium: Consortium) -> int:
    """The random bytes that `deal` takes."""
    return KEY_BYTES + SALT_BYTES * len(consortium.others)


def deal(consortium: Consortium, agreed: Mapping[int, bytes], rand: bytes) -> tuple[GroupKey, Deal]:
    """As the dealer: make the group's key, and seal it to each of the others.

    `agreed` is our secret with each of them; `rand` is `deal_bytes` fresh random ones. The caller
    has checked the consortium (`Consortium.verify`).
    """
    if len(rand) != deal_bytes(consortium):
        raise ParameterError(f"deal takes {deal_bytes(consortium)} random bytes")
    group, salts = GroupKey.make(consortium, rand[:KEY_BYTES]), rand[KEY_BYTES:]
    boxes = [
        seal(group, member, agreed[member], salts[at * SALT_BYTES : (at + 1) * SALT_BYTES])
        for at, member in enumerate(consortium.others)
    ]
    return group, Deal(tuple(boxes))


def receive(delivery: Delivery, member: int, agreed: bytes) -> GroupKey:
    """As another member: the key. `agreed` is our secret with the dealer.

    Raises ProtocolError: BAD_GROUP_KEY, the dealer its sender, for a box that does not hold, which
    is the dealer's doing or the server's. Another dealer may mend it.
    """
    if member not in delivery.consortium.others:
        raise ProtocolError("a key that is not sealed to us", sender=0, stage=STAGE)
    try:
        return GroupKey.unseal(delivery.consortium, member, agreed, delivery.box)
    except ProtocolError as bad:
        raise ProtocolError(
            f"{BAD_GROUP_KEY}: {bad.reason}", sender=bad.sender, stage=STAGE
        ) from None
