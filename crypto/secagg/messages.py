"""Every message of a masked sum, and its bytes. PROTOCOL stages: report, attest, reveal.

Sizes are known from the session, so decoders take it as an argument and check lengths before they
allocate. `hashes` bind each share a device dealt: an opened share that does not match is refused,
and its sender named, without spoiling the sum.
"""

import hashlib
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tacit.crypto import labels
from tacit.crypto.he.frames import Kind, frame_bytes
from tacit.crypto.identity import SIGNATURE_BYTES
from tacit.crypto.secagg.graph import bits_size, from_bits, to_bits
from tacit.crypto.secagg.session import DIGEST_BYTES, Session
from tacit.crypto.shamir import Octets
from tacit.crypto.wire import Reader, Writer, check_packed, packed_size

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
    """The hashes of all `rows` (k, size), joined."""
    data, start, hashes = rows.tobytes(), hashlib.sha256(label + context), []
    for number in range(len(rows)):
        row = start.copy()
        row.update(number.to_bytes(4, "little"))
        row.update(data[number * rows.shape[1] : (number + 1) * rows.shape[1]])
        hashes.append(row.digest()[:HASH_BYTES])
    return b"".join(hashes)


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

    A device deals 1 + neighbours secrets: its self mask's key, then one pair key for each of
    `neighbours`, in order. `sealed[m]` holds the shares for the m-th committee member, encrypted to
    it; `hashes[m]` their short hashes; `commitments` the short hashes of the secrets themselves.
    `metrics` names the metrics in the vector's slots: the names are public, the values masked.
    `packed` is the masked vector as `tacit.crypto.wire.pack` writes it. It comes first in the
    message: words are added up fastest where they start at the address of a word.

    In an encrypted sum `packed` is the ciphertext, the one secret is its key, and there are neither
    neighbours nor commitments: the key itself is never opened, so nobody could compare. Under a
    shared key no secret is dealt, all boxes are empty, and the ciphertext has its length before it.

    `clear` is what the session has a device send in the clear, packed. It follows `packed`.
    """

    packed: bytes | memoryview
    session: bytes
    device: int
    metrics: tuple[str, ...]
    neighbours: tuple[int, ...]
    sealed: tuple[bytes, ...]
    hashes: tuple[bytes, ...]
    commitments: bytes
    signature: bytes
    clear: bytes | memoryview = b""

    def header(self, session: Session) -> bytes:
        """All between the vectors and the signature; that covers these by `signed_part`."""
        writer = Writer().fixed(self.session, DIGEST_BYTES).u64(self.device).u8(len(self.metrics))
        for name in self.metrics:
            writer.text(name)
        writer.fixed(to_bits(session, self.neighbours), bits_size(session))
        for sealed, hashes in zip(self.sealed, self.hashes, strict=True):
            writer.fixed(sealed, len(sealed)).fixed(hashes, len(hashes))
        return writer.fixed(self.commitments, len(self.commitments)).data()

    def encode(self, session: Session) -> bytes:
        length = Writer().u32(len(self.packed)).data() if session.he else b""
        return b"".join([length, self.packed, self.clear, self.header(session), self.signature])

    @classmethod
    def decode(cls, data: bytes, session: Session, *, sender: int) -> "Report":
        """Raises MalformedMessage; says nothing about the signature. `packed` and `clear` are views
        of `data`, of lengths that may be right; what is in them is checked where it is added up."""
        codec = session.codec
        reader = Reader(data, sender=sender, stage="report")
        size = reader.count(session.vector_bytes) if session.he else session.vector_bytes
        packed, clear = reader.view(size), reader.view(session.clear_bytes)
        session_id, device = reader.fixed(DIGEST_BYTES), reader.u64()
        names = tuple(reader.text(MAX_NAME) for _ in range(reader.u8()))
        if list(names) != sorted(set(names)) or len(names) > codec.metrics:
            raise reader.bad(f"metric names must be sorted, distinct and at most {codec.metrics}")
        neighbours = _neighbours(reader, session, device)
        boxes = [_box(reader, session, neighbours) for _ in session.committee]
        committed = 1 + len(neighbours) if session.is_masked else 0
        commitments = reader.fixed(committed * HASH_BYTES)
        signature = reader.fixed(SIGNATURE_BYTES)
        reader.end()
        sealed, hashes = tuple(box[0] for box in boxes), tuple(box[1] for box in boxes)
        return cls(
            packed,
            session_id,
            device,
            names,
            neighbours,
            sealed,
            hashes,
            commitments,
            signature,
            clear,
        )


def signed_part(
    header: bytes | memoryview, packed: bytes | memoryview, clear: bytes | memoryview
) -> bytes:
    """What a report's signature is over: a digest of its header and of a checksum of its vectors,
    the hidden and the clear one.

    The header is what others rely on: who dealt which shares, and with whom it masked. Of the
    vectors a checksum does, and SHA-256 over the vectors of all devices would be half of the
    server's work. It is a GMAC under a key that everyone knows: an accident goes unnoticed one time
    in 2**128, but whoever wants can find two vectors alike. That is the server, which can add to a
    sum what it likes in any case, or somebody who breaks the transport's TLS.
    """
    tag = Cipher(algorithms.AES256(bytes(32)), modes.GCM(bytes(12))).encryptor()
    tag.authenticate_additional_data(packed)
    tag.authenticate_additional_data(clear)  # of the session's length: there is one way to cut them
    tag.finalize()
    digest = hashlib.sha256(header)
    digest.update(tag.tag)
    return digest.digest()


def _neighbours(reader: Reader, session: Session, device: int) -> tuple[int, ...]:
    """The neighbours that `device` names. In a complete graph they can only be everyone else."""
    try:
        named = from_bits(session, reader.fixed(bits_size(session)))
    except ValueError as bad:
        raise reader.bad(str(bad)) from None
    if device in named:
        raise reader.bad("a device is not its own neighbour")
    if session.is_complete and len(named) != len(session.devices) - 1:
        raise reader.bad(f"{len(named)} neighbours where everyone is one")
    if named and not session.is_masked:
        raise reader.bad("neighbours in an encrypted sum")
    return named


def _box(reader: Reader, session: Session, neighbours: tuple[int, ...]) -> tuple[bytes, bytes]:
    """One member's sealed shares, and their hashes."""
    if session.he:
        return b"", b""
    rows = 1 + len(neighbours)
    return reader.fixed(rows * session.share_bytes + TAG_BYTES), reader.fixed(rows * HASH_BYTES)


def wanted(
    neighbours: tuple[int, ...], dropped: frozenset[int]
) -> tuple[list[int], tuple[int, ...]]:
    """Which of a survivor's secrets the sum needs: their numbers, and the dropped whose they are.

    Number 0 is its self key; the others are its pair keys with dropped neighbours.
    """
    pairs = [(1 + at, other) for at, other in enumerate(neighbours) if other in dropped]
    return [0, *(number for number, _ in pairs)], tuple(other for _, other in pairs)


def survivors_digest(session: bytes, survivors: tuple[int, ...]) -> bytes:
    """32 bytes that stand for one set of survivors of one session."""
    ids = b"".join(device.to_bytes(8, "little") for device in survivors)
    return hashlib.sha256(labels.SURVIVORS + session + ids).digest()


@dataclass(frozen=True, slots=True)
class AttestRequest:
    """Server -> committee member: who survived, and the shares each of them dealt to you."""

    session: bytes
    survivors: tuple[int, ...]
    neighbours: tuple[tuple[int, ...], ...]
    sealed: tuple[bytes, ...]
    hashes: tuple[bytes, ...]

    def encode(self, session: Session) -> bytes:
        writer = Writer().fixed(self.session, DIGEST_BYTES).u32(len(self.survivors))
        for device, neighbours, sealed, hashes in zip(
            self.survivors, self.neighbours, self.sealed, self.hashes, strict=True
        ):
            writer.u64(device).fixed(to_bits(session, neighbours), bits_size(session))
            writer.fixed(sealed, len(sealed)).fixed(hashes, len(hashes))
        return writer.data()

    @classmethod
    def decode(cls, data: bytes, session: Session) -> "AttestRequest":
        """Raises MalformedMessage."""
        reader = Reader(data, sender=0, stage="attest")
        session_id = reader.fixed(DIGEST_BYTES)
        rows = []
        for _ in range(reader.count(len(session.cohort))):
            device = reader.u64()
            neighbours = _neighbours(reader, session, device)
            rows.append((device, neighbours, *_box(reader, session, neighbours)))
        reader.end()
        survivors, neighbours_of, sealed, hashes = zip(*rows, strict=True) if rows else ((),) * 4
        return cls(session_id, survivors, neighbours_of, sealed, hashes)


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
    """Server -> committee member: signatures of at least `threshold` members on one set.

    Under a shared key with the sum of the set's ciphertexts, `total`, to decrypt.
    """

    session: bytes
    signatures: tuple[tuple[int, bytes], ...]
    total: bytes = b""

    def encode(self) -> bytes:
        writer = Writer().fixed(self.session, DIGEST_BYTES).u32(len(self.signatures))
        for member, signature in self.signatures:
            writer.u64(member).fixed(signature, SIGNATURE_BYTES)
        return writer.data() + self.total

    @classmethod
    def decode(cls, data: bytes, session: Session) -> "RevealRequest":
        """Raises MalformedMessage."""
        reader = Reader(data, sender=0, stage="reveal")
        session_id = reader.fixed(DIGEST_BYTES)
        signatures = tuple(
            (reader.u64(), reader.fixed(SIGNATURE_BYTES))
            for _ in range(reader.count(len(session.committee)))
        )
        total = (
            b"" if session.packing is None else reader.rest(frame_bytes(Kind.SUM, session.packing))
        )
        reader.end()
        return cls(session_id, signatures, total)


@dataclass(frozen=True, slots=True)
class Shares:
    """Committee member -> server: for each survivor, its shares of the keys the sum needs.

    `opened` (rows, 32), survivor after survivor: the share of its self key, then of its pair key
    with each dropped neighbour. Rows of survivors in `bad` are zero. Under lattice keys it is one
    row, the sum of the shares of all survivors' keys.
    """

    member: int
    opened: Octets

    def encode(self) -> bytes:
        return Writer().u64(self.member).data() + self.opened.tobytes()

    @classmethod
    def decode(cls, data: bytes, rows: int, size: int, *, sender: int) -> "Shares":
        """`rows` of `size` bytes. Raises MalformedMessage."""
        reader = Reader(data, sender=sender, stage="reveal")
        member = reader.u64()
        raw = reader.fixed(rows * size)
        reader.end()
        return cls(member, np.frombuffer(raw, np.uint8).reshape(rows, size))


@dataclass(frozen=True, slots=True)
class Decryption:
    """Committee member -> server: the sum under a shared key, as `wire.pack` writes it."""

    member: int
    packed: bytes = field(repr=False)

    def encode(self) -> bytes:
        return Writer().u64(self.member).data() + self.packed

    @classmethod
    def decode(cls, data: bytes, session: Session, *, sender: int) -> "Decryption":
        """Raises MalformedMessage."""
        codec = session.codec
        reader = Reader(data, sender=sender, stage="reveal")
        member, packed = reader.u64(), reader.fixed(packed_size(codec.size, codec.bits))
        reader.end()
        try:
            check_packed(packed, codec.size, codec.bits)
        except ValueError as bad:
            raise reader.bad(str(bad)) from None
        return cls(member, packed)
