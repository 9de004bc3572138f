"""Every message of a masked sum, and its bytes. PROTOCOL stages: report, attest, reveal.

Sizes are known from the session, so decoders take it as an argument and check lengths before they
allocate. `hashes` bind each share a device dealt: an opened share that does not match is refused,
and its sender named, without spoiling the sum.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from tacit.crypto import labels
from tacit.crypto.codec import Ring
from tacit.crypto.identity import SIGNATURE_BYTES
from tacit.crypto.secagg.session import DIGEST_BYTES, Session
from tacit.crypto.shamir import Octets
from tacit.crypto.wire import Reader, Writer, pack, packed_size, unpack

SECRET_BYTES = 32
TAG_BYTES = 16  # AES-GCM
# Truncated to 128 bits: a share is 256 random bits, so its hash hides it, and finding another
# value with the same hash is a second preimage.
HASH_BYTES = 16
MAX_NAME = 256


def hash_row(label: bytes, context: bytes, number: int, row: bytes) -> bytes:
    """16 bytes for one share or secret: the `number`-th that a dealer deals in `context`."""
    return hashlib.sha256(label + context + number.to_bytes(4, "little") + row).digest()[
        :HASH_BYTES
    ]


def hash_rows(label: bytes, context: bytes, rows: Octets) -> bytes:
    """The hashes of all `rows` (k, 32), joined."""
    return b"".join(hash_row(label, context, i, row.tobytes()) for i, row in enumerate(rows))


def pair_context(session: bytes, setup: bytes, one: int, other: int) -> bytes:
    """Binds a pair key to its session, to the two devices, and to what both train under.

    `setup` is a digest of what the session does not name. Devices that were set up differently
    share no mask, so the server gets noise instead of a sum in which one of them stands out.

    The numbers are needed although the key already comes from a secret of the two. X25519 ignores
    the top bit of a public key, so a corrupt device could sign, as its own, a twin of another's
    run key; every third device would then share one and the same secret with both, and the keys
    opened when the twin drops out would take the masks off the other's report.
    """
    ids = b"".join(device.to_bytes(8, "little") for device in sorted((one, other)))
    return session + setup + ids


def share_context(session: bytes, dealer: int, member: int) -> bytes:
    """Binds a share to its session, dealer and holder."""
    return session + dealer.to_bytes(8, "little") + member.to_bytes(8, "little")


@dataclass(frozen=True, slots=True)
class Report:
    """Device -> server: the masked contribution, and sealed shares of the keys of its masks.

    A device deals 1 + neighbours secrets: its self mask's key, then one pair key for each
    neighbour in order. `sealed[m]` holds the shares for the m-th committee member, encrypted to
    it; `hashes[m]` their short hashes; `commitments` the short hashes of the secrets themselves.
    `metrics` names the metrics in the vector's slots: the names are public, the values masked.
    """

    session: bytes
    device: int
    metrics: tuple[str, ...]
    vector: Ring
    sealed: tuple[bytes, ...]
    hashes: tuple[bytes, ...]
    commitments: bytes
    signature: bytes

    def body(self, bits: int) -> bytes:
        """What the signature covers, through `signed_part`: all of the above."""
        writer = Writer().fixed(self.session, DIGEST_BYTES).u64(self.device).u8(len(self.metrics))
        for name in self.metrics:
            writer.text(name)
        for sealed, hashes in zip(self.sealed, self.hashes, strict=True):
            writer.fixed(sealed, len(sealed)).fixed(hashes, len(hashes))
        writer.fixed(self.commitments, len(self.commitments))
        return writer.data() + pack(self.vector, bits)

    def encode(self, bits: int) -> bytes:
        return self.body(bits) + self.signature

    @classmethod
    def decode(cls, data: bytes, session: Session, *, sender: int) -> "Report":
        """Raises MalformedMessage; says nothing about the signature."""
        codec, secrets = session.codec, len(session.cohort)
        reader = Reader(data, sender=sender, stage="report")
        session_id, device = reader.fixed(DIGEST_BYTES), reader.u64()
        names = tuple(reader.text(MAX_NAME) for _ in range(reader.u8()))
        if list(names) != sorted(set(names)) or len(names) > codec.metrics:
            raise reader.bad(f"metric names must be sorted, distinct and at most {codec.metrics}")
        boxes = [
            (reader.fixed(secrets * SECRET_BYTES + TAG_BYTES), reader.fixed(secrets * HASH_BYTES))
            for _ in session.committee
        ]
        commitments = reader.fixed(secrets * HASH_BYTES)
        packed = reader.fixed(packed_size(codec.size, codec.bits))
        signature = reader.fixed(SIGNATURE_BYTES)
        reader.end()
        try:
            vector = unpack(packed, codec.size, codec.bits)
        except ValueError as bad:
            raise reader.bad(str(bad)) from None
        sealed, hashes = tuple(box[0] for box in boxes), tuple(box[1] for box in boxes)
        return cls(session_id, device, names, vector, sealed, hashes, commitments, signature)


def signed_part(body: bytes | memoryview) -> bytes:
    """What a report's signature is over: the digest of its body, since Ed25519 reads its message
    twice, and a body is as long as the model."""
    return hashlib.sha256(body).digest()


def survivors_digest(session: bytes, survivors: tuple[int, ...]) -> bytes:
    """32 bytes that stand for one set of survivors of one session."""
    ids = b"".join(device.to_bytes(8, "little") for device in survivors)
    return hashlib.sha256(labels.SURVIVORS + session + ids).digest()


@dataclass(frozen=True, slots=True)
class AttestRequest:
    """Server -> committee member: who survived, and the shares each of them dealt to you."""

    session: bytes
    survivors: tuple[int, ...]
    sealed: tuple[bytes, ...]
    hashes: tuple[bytes, ...]

    def encode(self) -> bytes:
        writer = Writer().fixed(self.session, DIGEST_BYTES).u32(len(self.survivors))
        for device, sealed, hashes in zip(self.survivors, self.sealed, self.hashes, strict=True):
            writer.u64(device).fixed(sealed, len(sealed)).fixed(hashes, len(hashes))
        return writer.data()

    @classmethod
    def decode(cls, data: bytes, session: Session) -> "AttestRequest":
        """Raises MalformedMessage."""
        secrets = len(session.cohort)
        reader = Reader(data, sender=0, stage="attest")
        session_id = reader.fixed(DIGEST_BYTES)
        rows = [
            (
                reader.u64(),
                reader.fixed(secrets * SECRET_BYTES + TAG_BYTES),
                reader.fixed(secrets * HASH_BYTES),
            )
            for _ in range(reader.count(len(session.cohort)))
        ]
        reader.end()
        survivors, sealed, hashes = zip(*rows, strict=True) if rows else ((), (), ())
        return cls(session_id, survivors, sealed, hashes)


@dataclass(frozen=True, slots=True)
class Attestation:
    """Committee member -> server: a signature on the one set of survivors it will open.

    `bad` names survivors whose shares did not decrypt or did not match their hashes.
    """

    member: int
    bad: tuple[int, ...]
    signature: bytes

    def encode(self) -> bytes:
        writer = Writer().u64(self.member).u32(len(self.bad))
        for device in self.bad:
            writer.u64(device)
        return writer.fixed(self.signature, SIGNATURE_BYTES).data()

    @classmethod
    def decode(cls, data: bytes, session: Session, *, sender: int) -> "Attestation":
        """Raises MalformedMessage."""
        reader = Reader(data, sender=sender, stage="attest")
        member = reader.u64()
        bad = tuple(reader.u64() for _ in range(reader.count(len(session.cohort))))
        signature = reader.fixed(SIGNATURE_BYTES)
        reader.end()
        return cls(member, bad, signature)


@dataclass(frozen=True, slots=True)
class RevealRequest:
    """Server -> committee member: signatures of at least `threshold` members on one set."""

    session: bytes
    signatures: tuple[tuple[int, bytes], ...]

    def encode(self) -> bytes:
        writer = Writer().fixed(self.session, DIGEST_BYTES).u32(len(self.signatures))
        for member, signature in self.signatures:
            writer.u64(member).fixed(signature, SIGNATURE_BYTES)
        return writer.data()

    @classmethod
    def decode(cls, data: bytes, session: Session) -> "RevealRequest":
        """Raises MalformedMessage."""
        reader = Reader(data, sender=0, stage="reveal")
        session_id = reader.fixed(DIGEST_BYTES)
        signatures = tuple(
            (reader.u64(), reader.fixed(SIGNATURE_BYTES))
            for _ in range(reader.count(len(session.committee)))
        )
        reader.end()
        return cls(session_id, signatures)


@dataclass(frozen=True, slots=True)
class Shares:
    """Committee member -> server: for each survivor, its shares of the keys the sum needs.

    `opened` (survivors, 1 + dropped, 32): the share of the survivor's self key, then of its pair
    key with each dropped device. Rows of survivors in `bad` are zero.
    """

    member: int
    opened: Octets

    def encode(self) -> bytes:
        return Writer().u64(self.member).data() + self.opened.tobytes()

    @classmethod
    def decode(cls, data: bytes, survivors: int, dropped: int, *, sender: int) -> "Shares":
        """Raises MalformedMessage."""
        reader = Reader(data, sender=sender, stage="reveal")
        member = reader.u64()
        raw = reader.fixed(survivors * (1 + dropped) * SECRET_BYTES)
        reader.end()
        return cls(member, np.frombuffer(raw, np.uint8).reshape(survivors, 1 + dropped, -1))
