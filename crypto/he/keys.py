"""The group's key: made by one device, the dealer, and sealed by it to each of the others.

The server carries sealed bytes. They open with what the two devices agreed on from run keys that
their identities signed, so it can neither read nor make them. A key belongs to one epoch: one run,
roster, list of members with their run keys, dealer, and serial number. Whenever one of these
changes there is a new epoch and a new key; the serial number rises where nothing else changes, as
it has to once a device refused a sum, and after SUMS sums in any case.
"""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tacit.crypto import labels
from tacit.crypto.errors import ParameterError, ProtocolError
from tacit.crypto.he.bfv import Key
from tacit.crypto.he.sets import SCHEMES, Scheme
from tacit.crypto.identity import KEY_BYTES, Roster, RunKey, derive
from tacit.crypto.secagg.session import DIGEST_BYTES, Session
from tacit.crypto.wire import VERSION, Reader, Writer

SALT_BYTES = 32
STAGE = "key"
# That one key is good for. Which sums hold, once a server adds to them what it likes, may tell it
# a little about the key (see `tags`); and who seizes a device opens all that is under its key.
SUMS = 64


# Each box has a key of its own, from a salt that is drawn for it.
_NONCE = bytes(12)


@dataclass(frozen=True)  # no slots: `epoch` is computed once
class Consortium:
    """Who holds one key. Raises ParameterError if it cannot be."""

    run: int
    roster: bytes  # digest
    members: tuple[RunKey, ...]
    dealer: int
    serial: int
    scheme: Scheme

    def __post_init__(self) -> None:
        devices = self.devices
        if list(devices) != sorted(set(devices)) or len(devices) < 2 or devices[0] < 1:
            raise ParameterError("two members at least, sorted, without repeats, devices from 1")
        if len({key.public for key in self.members}) < len(devices):
            raise ParameterError("two members share one run key")
        if self.dealer not in devices:
            raise ParameterError(f"dealer {self.dealer} is not a member")
        if len(self.roster) != DIGEST_BYTES:
            raise ParameterError(f"a roster's digest has {DIGEST_BYTES} bytes")

    @cached_property
    def devices(self) -> tuple[int, ...]:
        return tuple(key.device for key in self.members)

    @property
    def others(self) -> tuple[int, ...]:
        """The members that the dealer seals the key to, in order."""
        return tuple(device for device in self.devices if device != self.dealer)

    @cached_property
    def epoch(self) -> bytes:
        """32 bytes that two devices share only if they agree on all of it."""
        return hashlib.sha256(labels.HE_EPOCH + self.encode()).digest()

    def key(self, member: int) -> RunKey:
        """The run key of a member. Raises ProtocolError for any other device."""
        if member not in self.devices:
            raise ProtocolError(f"device {member} is not a member", sender=0, stage=STAGE)
        return self.members[self.devices.index(member)]

    def verify(self, roster: Roster, *, now: int) -> None:
        """Raises ProtocolError unless all members are on `roster`, not expired at `now`, with run
        keys that they signed themselves."""
        if roster.digest() != self.roster:
            raise ProtocolError("a consortium of another roster", sender=0, stage=STAGE)
        for key in self.members:
            key.verify(self.run, roster.member(key.device, now=now).public)

    def check(self, session: Session) -> None:
        """Raises ProtocolError unless the session is for sums under this consortium's key: all
        devices of its cohort members, with the run keys of both, in this run and by this roster."""
        if session.run != self.run or session.roster != self.roster:
            raise ProtocolError("session of another run or roster", sender=0, stage="report")
        if session.epoch != self.epoch or session.he != self.scheme.name:
            raise ProtocolError("session of another epoch", sender=0, stage="report")
        if not set(session.cohort) <= set(self.members):
            raise ProtocolError("cohort with others than members", sender=0, stage="report")

    def encode(self) -> bytes:
        writer = Writer().u8(VERSION).u64(self.run).fixed(self.roster, DIGEST_BYTES)
        writer.u64(self.dealer).u32(self.serial).u8(self.scheme.number).u32(len(self.members))
        for key in self.members:
            key.write(writer)
        return writer.data()

    @classmethod
    def read(cls, reader: Reader) -> "Consortium":
        """Raises MalformedMessage, also for one that cannot be."""
        if (version := reader.u8()) != VERSION:
            raise reader.bad(f"consortium of version {version}, this device speaks {VERSION}")
        run, roster = reader.u64(), reader.fixed(DIGEST_BYTES)
        dealer, serial, number = reader.u64(), reader.u32(), reader.u8()
        members = RunKey.read_all(reader)
        if number not in SCHEMES:
            raise reader.bad(f"parameter set {number}, expected one of {sorted(SCHEMES)}")
        try:
            return cls(run, roster, members, dealer, serial, SCHEMES[number])
        except ParameterError as bad:
            raise reader.bad(str(bad)) from None


@dataclass(frozen=True, slots=True)
class GroupKey:
    """What all members hold and the server does not: the key, and the secret of the tags."""

    consortium: Consortium
    tag_secret: bytes = field(repr=False)
    key: Key

    @classmethod
    def make(cls, consortium: Consortium, rand: bytes) -> "GroupKey":
        """A fresh one, by the dealer. `rand` is 32 fresh random bytes, for the tags; the library
        draws the key itself."""
        if len(rand) != KEY_BYTES:
            raise ParameterError(f"a group's key is made from {KEY_BYTES} random bytes")
        return cls(consortium, rand, Key.make(consortium.scheme))

    def encode(self) -> bytes:
        """For the vault of a member."""
        return self.consortium.encode() + self.secrets()

    def secrets(self) -> bytes:
        """All of it that the server does not know."""
        return Writer().fixed(self.tag_secret, KEY_BYTES).data() + self.key.encode()

    @classmethod
    def decode(cls, data: bytes) -> "GroupKey":
        """Inverse of `encode`. Raises MalformedMessage."""
        reader = Reader(data, sender=0, stage="vault")
        return cls._read(reader, Consortium.read(reader))

    @classmethod
    def _read(cls, reader: Reader, consortium: Consortium) -> "GroupKey":
        tag_secret = reader.fixed(KEY_BYTES)
        key = Key.read(reader, consortium.scheme)
        reader.end()
        return cls(consortium, tag_secret, key)

    @classmethod
    def unseal(cls, consortium: Consortium, member: int, agreed: bytes, box: bytes) -> "GroupKey":
        """The key that the dealer sealed for us, `member`, in this epoch.

        Raises ProtocolError, the dealer its sender, for any other box: of another run, roster,
        epoch, dealer or member, changed, or with what is no key in it.
        """
        dealer, bound = consortium.dealer, _context(consortium, member)
        if not SALT_BYTES < len(box) <= box_bytes(consortium.scheme):
            raise ProtocolError(f"a box of {len(box)} bytes", sender=dealer, stage=STAGE)
        salt, sealed = box[:SALT_BYTES], box[SALT_BYTES:]
        key = derive(agreed, labels.HE_KEY, bound, salt)
        try:
            opened = AESGCM(key).decrypt(_NONCE, sealed, bound)
        except InvalidTag:
            raise ProtocolError(
                "its key is not for us, or for another epoch", sender=dealer, stage=STAGE
            ) from None
        return cls._read(Reader(opened, sender=dealer, stage=STAGE), consortium)


def box_bytes(scheme: Scheme) -> int:
    """The most that a sealed key takes."""
    return SALT_BYTES + KEY_BYTES + scheme.key_bytes + 128


def seal(group: GroupKey, member: int, agreed: bytes, rand: bytes) -> bytes:
    """The dealer's key for one member, who alone can read it: see `GroupKey.unseal`.

    `agreed` is the secret of dealer and member, as their run keys give it; `rand` is 32 fresh
    random bytes, for this box only.
    """
    consortium = group.consortium
    if member not in consortium.devices or member == consortium.dealer:
        raise ParameterError(f"device {member} gets no key from device {consortium.dealer}")
    if len(rand) != SALT_BYTES:
        raise ParameterError(f"seal takes {SALT_BYTES} random bytes")
    bound = _context(consortium, member)
    key = derive(agreed, labels.HE_KEY, bound, rand)
    return rand + AESGCM(key).encrypt(_NONCE, group.secrets(), bound)


def _context(consortium: Consortium, member: int) -> bytes:
    """What a box is bound to: run, roster, members and serial through the epoch, and the two.

    The two are named although the secret is theirs: X25519 takes no notice of the top bit of a
    public key, so a device can have a twin that shares its secrets (see `messages.pair_context`).
    """
    two = consortium.dealer.to_bytes(8, "little") + member.to_bytes(8, "little")
    return consortium.epoch + two
