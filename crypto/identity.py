"""Who is who: long-term identities, the roster that lists them, and keys for one run.

A device is known by an Ed25519 identity made on the device. The federation's authority, whose key
the server does not hold, signs the roster of identities. For each run a device makes a fresh
X25519 key and signs it with its identity, so a key stolen later opens no earlier run. A run may add
an ML-KEM key to it, against who records now and has a quantum computer later. Signatures stay
Ed25519: one forged then comes too late to change a sum that is long over.
"""

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import pairwise

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tacit.crypto import labels
from tacit.crypto.errors import ParameterError, ProtocolError
from tacit.crypto.wire import MAX_ITEMS, VERSION, Reader, Writer

KEY_BYTES = 32
SIGNATURE_BYTES = 64
BEACON_BYTES = 32
_MEMBER = struct.Struct(f"<Q{KEY_BYTES}sQ")
_RUN_KEY = struct.Struct(f"<Q{KEY_BYTES}s{KEY_BYTES}s{SIGNATURE_BYTES}s")
NO_KEM = bytes(KEY_BYTES)  # in the place of a digest: a run key without an ML-KEM key
MAX_DEVICES = 1 << 20


@dataclass(frozen=True, slots=True)
class Identity:
    """A device's (or the authority's) long-term signing key. Made from 32 random bytes."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise ParameterError(f"an identity is made from {KEY_BYTES} random bytes")

    @property
    def public(self) -> bytes:
        """32 bytes that others know this identity by."""
        return self._key.public_key().public_bytes_raw()

    def sign(self, label: bytes, content: bytes) -> bytes:
        """64-byte Ed25519 signature over `content`, good for the purpose `label` only."""
        return self._key.sign(_labelled(label, content))

    def derive(self, label: bytes, *context: bytes) -> bytes:
        """32 bytes for one purpose that nobody else can tell from random ones: see `derive`."""
        return derive(self.secret, label, *context)

    @property
    def _key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.secret)


def verified(public: bytes, label: bytes, content: bytes, signature: bytes) -> bool:
    """Whether `signature` over `content` for the purpose `label` is by `public`."""
    try:
        key = Ed25519PublicKey.from_public_bytes(public)
        key.verify(signature, _labelled(label, content))
    except (InvalidSignature, ValueError):
        return False
    return True


def _labelled(label: bytes, content: bytes) -> bytes:
    return bytes([len(label)]) + label + content


@dataclass(frozen=True, slots=True)
class Member:
    """One enrolled device: its number (from 1), identity key, and last valid second (Unix time)."""

    device: int
    public: bytes
    valid_until: int


@dataclass(frozen=True)
class Roster:
    """The enrolled devices, sorted, signed by the authority. `serial` grows with every issue.

    What is worked out over all members is kept: of ten thousand, each stage would do it again.

    `beacon` are 32 random bytes that the authority draws for each issue, after the members are
    known. They seat the committees of large sums (see `drawn`), so that neither a server nor a
    member has a say in who sits on one.
    """

    serial: int
    members: tuple[Member, ...]
    beacon: bytes
    signature: bytes

    @classmethod
    def signed(
        cls, authority: Identity, serial: int, members: Iterable[Member], beacon: bytes
    ) -> "Roster":
        """Raises ParameterError for a device or a key listed twice, a device number below 1, or a
        beacon that is not 32 bytes."""
        ordered = tuple(sorted(members, key=lambda member: member.device))
        if (fault := _fault(ordered)) is not None:
            raise ParameterError(fault)
        unsigned = cls(serial, ordered, beacon, b"")
        return cls(serial, ordered, beacon, authority.sign(labels.ROSTER, unsigned._body))

    def __hash__(self) -> int:
        return hash(self.signature)  # equal rosters have equal ones; over all members it is slow

    def drawn(self, seats: int) -> tuple[int, ...]:
        """The `seats` devices that the beacon draws, sorted; all devices if there are fewer.

        A function of the roster alone: were a run, a round or a cohort part of it, the server,
        which chooses those, would try until it liked the committee.
        """
        return _drawn(self, seats)

    def verify(self, authority: bytes) -> None:
        """Raises ProtocolError unless the holder of the key `authority` signed this roster."""
        if not _is_by(self, authority):
            raise ProtocolError("roster is not signed by the authority", sender=0, stage="enrol")

    def member(self, device: int, *, now: int) -> Member:
        """Raises ProtocolError for a stranger, or a membership that ended before `now`."""
        found = self.by_device.get(device)
        if found is None:
            raise ProtocolError("not on the roster", sender=device, stage="enrol")
        if found.valid_until < now:
            raise ProtocolError("membership has expired", sender=device, stage="enrol")
        return found

    @cached_property
    def by_device(self) -> Mapping[int, Member]:
        """The members by their numbers. Not to be changed."""
        return {member.device: member for member in self.members}

    def identity(self, device: int) -> bytes:
        """The identity key of a member, nothing for a stranger."""
        member = self.by_device.get(device)
        return b"" if member is None else member.public

    def digest(self) -> bytes:
        """32 bytes that name this roster."""
        return self._digest

    @cached_property
    def _digest(self) -> bytes:
        return hashlib.sha256(_labelled(labels.ROSTER, self.encode())).digest()

    def encode(self) -> bytes:
        return self._encoded

    @cached_property
    def _encoded(self) -> bytes:
        return self._body + self.signature

    @property
    def _body(self) -> bytes:
        """All that the authority signs."""
        writer = Writer().u8(VERSION).u64(self.serial).u32(len(self.members))
        for member in self.members:
            writer.u64(member.device).fixed(member.public, KEY_BYTES).u64(member.valid_until)
        return writer.fixed(self.beacon, BEACON_BYTES).data()

    @classmethod
    @lru_cache(maxsize=4)  # read at every stage; a roster is public
    def decode(cls, data: bytes) -> "Roster":
        """Raises MalformedMessage. Says nothing about the signature: see `verify`."""
        reader = Reader(data, sender=0, stage="enrol")
        if (version := reader.u8()) != VERSION:
            raise reader.bad(f"roster of version {version}, this device speaks {VERSION}")
        serial = reader.u64()
        members = tuple(Member(*row) for row in reader.rows(_MEMBER, MAX_DEVICES))
        beacon = reader.fixed(BEACON_BYTES)
        signature = reader.fixed(SIGNATURE_BYTES)
        reader.end()
        if (fault := _fault(members)) is not None:
            raise reader.bad(fault)
        roster = cls(serial, members, beacon, signature)
        # Whatever decodes encodes to the same bytes; and all who decode share these.
        roster.__dict__["_encoded"] = data
        return roster


def _fault(members: tuple[Member, ...]) -> str | None:
    """Why no roster may list these members in this order; None if one may."""
    if any(a.device >= b.device for a, b in pairwise(members)) or any(
        member.device < 1 for member in members
    ):
        return "device numbers must be sorted, distinct and start at 1"
    if len({member.public for member in members}) < len(members):
        return "two devices share one identity key"
    return None


@lru_cache(maxsize=4)  # by every device of a process, over the same bytes
def _is_by(roster: Roster, authority: bytes) -> bool:
    body = roster.encode()[:-SIGNATURE_BYTES]
    return verified(authority, labels.ROSTER, body, roster.signature)


@lru_cache(maxsize=16)  # asked at every sum, by everyone
def _drawn(roster: Roster, seats: int) -> tuple[int, ...]:
    def ticket(device: int) -> bytes:
        number = device.to_bytes(8, "little")
        return hashlib.sha256(labels.SEAT + roster.beacon + number).digest()

    return tuple(sorted(sorted(roster.by_device, key=ticket)[:seats]))


@dataclass(frozen=True, slots=True)
class RunKey:
    """A device's public keys for one run, signed by its identity.

    `public` is its X25519 key; `kem` the digest of its ML-KEM key in a hybrid run, else NO_KEM: see
    `tacit.crypto.secagg.hybrid`.
    """

    device: int
    public: bytes
    kem: bytes
    signature: bytes

    @classmethod
    def signed(
        cls, identity: Identity, run: int, device: int, secret: bytes, kem: bytes = NO_KEM
    ) -> "RunKey":
        """The public half of the X25519 key `secret` (32 random bytes), signed for `run`."""
        public = run_public(secret)
        body = _run_key_body(run, device, public, kem)
        return cls(device, public, kem, identity.sign(labels.RUN_KEY, body))

    def verify(self, run: int, identity: bytes) -> None:
        """Raises ProtocolError unless the identity key `identity` signed this key for `run`."""
        if not _is_signed(self, run, identity):
            raise ProtocolError(
                "run key is not signed by its device", sender=self.device, stage="enrol"
            )

    def write(self, writer: Writer) -> None:
        writer.u64(self.device).fixed(self.public, KEY_BYTES).fixed(self.kem, KEY_BYTES)
        writer.fixed(self.signature, SIGNATURE_BYTES)

    @classmethod
    def read(cls, reader: Reader) -> "RunKey":
        return cls(*_RUN_KEY.unpack(reader.fixed(_RUN_KEY.size)))

    @classmethod
    def read_all(cls, reader: Reader, most: int = MAX_ITEMS) -> tuple["RunKey", ...]:
        """A number of run keys (u32), bounded by `most`, and these."""
        return tuple(cls(*row) for row in reader.rows(_RUN_KEY, most))


@lru_cache(maxsize=1 << 14)
def _is_signed(key: RunKey, run: int, identity: bytes) -> bool:
    """Kept, since all of it is public: many devices in one process check the same keys."""
    body = _run_key_body(run, key.device, key.public, key.kem)
    return verified(identity, labels.RUN_KEY, body, key.signature)


def _run_key_body(run: int, device: int, public: bytes, kem: bytes) -> bytes:
    return Writer().u64(run).u64(device).fixed(public, KEY_BYTES).fixed(kem, KEY_BYTES).data()


def run_public(secret: bytes) -> bytes:
    """The public half of an X25519 run key."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def agree(secret: bytes, peers: Iterable[RunKey]) -> dict[int, bytes]:
    """The X25519 shared secret with each of `peers`, by device; not yet fit for use: see `derive`.

    Raises ProtocolError for a low-order point, which would make the secret all zero.
    """
    ours = X25519PrivateKey.from_private_bytes(secret)
    shared = {}
    for peer in peers:
        try:
            shared[peer.device] = ours.exchange(X25519PublicKey.from_public_bytes(peer.public))
        except ValueError:
            raise ProtocolError(
                "run key is a low-order point", sender=peer.device, stage="report"
            ) from None
    return shared


def derive(secret: bytes, label: bytes, *context: bytes) -> bytes:
    """32 bytes for one purpose: HKDF-SHA-256 (RFC 5869), the label and context as `info`.

    Context parts are of fixed length at each use, so their joining is unambiguous.
    """
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=label + b"".join(context)).derive(secret)
