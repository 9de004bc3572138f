"""Secrets from X25519 and ML-KEM-768 (FIPS 203) together, so that a recorded round stays shut.

X25519 falls to a large quantum computer, and who records a round today can wait for one. In a
hybrid run each pair has a second secret, which that computer does not get:

    encapsulate   the device of the lower number   draws the secret, and seals it in a capsule under
                                                   the other's ML-KEM key, signed
    decapsulate   the device of the higher number  opens the capsule

Both go through the server, once for each pair of run keys. ML-KEM does not say by whom a ciphertext
was made, and never fails: of a wrong one comes another secret. So it is the signature, by the
dealer's identity, that refuses a capsule of another dealer, for another device or another run.
Signatures stay Ed25519: forging one takes the quantum computer while the run lasts.

One exception to randomness being an argument: `cryptography` draws what an encapsulation needs
itself, from the operating system, and takes none from us.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey

from tacit.crypto import labels
from tacit.crypto.errors import ParameterError, ProtocolError
from tacit.crypto.identity import (
    KEY_BYTES,
    SIGNATURE_BYTES,
    Identity,
    Roster,
    RunKey,
    derive,
    verified,
)
from tacit.crypto.wire import Reader, Writer

SEED_BYTES = 64
PUBLIC_BYTES = 1184
CIPHER_BYTES = 1088

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class KemKey:
    """A device's ML-KEM-768 key for one run. Made from 64 random bytes."""

    seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.seed) != SEED_BYTES:
            raise ParameterError(f"an ML-KEM key is made from {SEED_BYTES} random bytes")

    @property
    def public(self) -> bytes:
        """1184 bytes."""
        return self._key.public_key().public_bytes_raw()

    @property
    def digest(self) -> bytes:
        """32 bytes that a run key names the public half by."""
        return _digest(self.public)

    def open(self, cipher: bytes) -> bytes:
        """The 32-byte secret in a ciphertext of 1088 bytes; another one if it was not for us."""
        return self._key.decapsulate(cipher)

    def own_secret(self) -> bytes:
        """In the place of an ML-KEM secret with oneself: 32 bytes that nobody else can derive."""
        return derive(self.seed, labels.OWN_KEM)

    @property
    def _key(self) -> MLKEM768PrivateKey:
        return MLKEM768PrivateKey.from_seed_bytes(self.seed)


def check_available() -> None:
    """Raises ParameterError where `cryptography` stands on a library without ML-KEM."""
    try:
        MLKEM768PrivateKey.from_seed_bytes(bytes(SEED_BYTES))
    except UnsupportedAlgorithm:
        raise ParameterError("hybrid sums need ML-KEM, which this `cryptography` lacks") from None


def _digest(public: bytes) -> bytes:
    return hashlib.sha256(labels.KEM_KEY + public).digest()


@dataclass(frozen=True, slots=True)
class Peer:
    """A device's run key, and the ML-KEM key (1184 bytes) whose digest it names."""

    key: RunKey
    public: bytes

    def loaded(self) -> MLKEM768PublicKey:
        """Raises ProtocolError naming the device if its run key names another ML-KEM key, or none,
        or if this is no key at all."""
        device = self.key.device
        if _digest(self.public) != self.key.kem:
            raise ProtocolError(
                "run key does not name this ML-KEM key", sender=device, stage="enrol"
            )
        try:
            return MLKEM768PublicKey.from_public_bytes(self.public)
        except ValueError:  # its text is about the length, even where a coefficient is too large
            raise ProtocolError("no valid ML-KEM key", sender=device, stage="enrol") from None


@dataclass(frozen=True, slots=True)
class Capsule:
    """A secret on its way from one device, its dealer, to another: ciphertext and signature."""

    cipher: bytes
    signature: bytes

    @classmethod
    def signed(
        cls, identity: Identity, run: int, dealer: RunKey, peer: RunKey, cipher: bytes
    ) -> "Capsule":
        return cls(cipher, identity.sign(labels.CAPSULE, _body(run, dealer, peer, cipher)))

    def verify(self, run: int, dealer: RunKey, peer: RunKey, identity: bytes) -> None:
        """Raises ProtocolError unless the identity key `identity` signed this capsule, by the run
        key `dealer` for the run key `peer`."""
        body = _body(run, dealer, peer, self.cipher)
        if not verified(identity, labels.CAPSULE, body, self.signature):
            raise ProtocolError(
                f"capsule for device {peer.device} is not signed by its dealer",
                sender=dealer.device,
                stage="encapsulate",
            )

    def write(self, writer: Writer) -> None:
        writer.fixed(self.cipher, CIPHER_BYTES).fixed(self.signature, SIGNATURE_BYTES)

    @classmethod
    def read(cls, reader: Reader) -> "Capsule":
        return cls(reader.fixed(CIPHER_BYTES), reader.fixed(SIGNATURE_BYTES))


def _body(run: int, dealer: RunKey, peer: RunKey, cipher: bytes) -> bytes:
    writer = Writer().u64(run).u64(dealer.device).u64(peer.device)
    writer.fixed(dealer.kem, KEY_BYTES).fixed(peer.kem, KEY_BYTES)
    return writer.fixed(cipher, CIPHER_BYTES).data()


@dataclass(frozen=True, slots=True)
class EncapsulateRequest:
    """Server -> device: with whom to make a secret, sorted by device."""

    peers: tuple[Peer, ...]

    def encode(self) -> bytes:
        writer = Writer().u32(len(self.peers))
        for peer in self.peers:
            peer.key.write(writer)
            writer.fixed(peer.public, PUBLIC_BYTES)
        return writer.data()

    @classmethod
    def decode(cls, data: bytes) -> "EncapsulateRequest":
        """Raises MalformedMessage."""
        reader = Reader(data, sender=0, stage="encapsulate")

        def peer() -> Peer:
            return Peer(RunKey.read(reader), reader.fixed(PUBLIC_BYTES))

        return cls(_list(reader, peer, lambda peer: peer.key.device))


@dataclass(frozen=True, slots=True)
class Encapsulated:
    """Device -> server: a capsule for each device that was asked for, sorted by device."""

    capsules: tuple[tuple[int, Capsule], ...]

    def encode(self) -> bytes:
        writer = Writer().u32(len(self.capsules))
        for device, capsule in self.capsules:
            capsule.write(writer.u64(device))
        return writer.data()

    @classmethod
    def decode(cls, data: bytes, *, sender: int) -> "Encapsulated":
        """Raises MalformedMessage; says nothing about the signatures."""
        reader = Reader(data, sender=sender, stage="encapsulate")

        def capsule() -> tuple[int, Capsule]:
            return reader.u64(), Capsule.read(reader)

        return cls(_list(reader, capsule, lambda row: row[0]))


@dataclass(frozen=True, slots=True)
class DecapsulateRequest:
    """Server -> device: the capsules for it and who dealt them, sorted by dealer."""

    capsules: tuple[tuple[RunKey, Capsule], ...]

    def encode(self) -> bytes:
        writer = Writer().u32(len(self.capsules))
        for dealer, capsule in self.capsules:
            dealer.write(writer)
            capsule.write(writer)
        return writer.data()

    @classmethod
    def decode(cls, data: bytes) -> "DecapsulateRequest":
        """Raises MalformedMessage; says nothing about the signatures."""
        reader = Reader(data, sender=0, stage="decapsulate")

        def capsule() -> tuple[RunKey, Capsule]:
            return RunKey.read(reader), Capsule.read(reader)

        return cls(_list(reader, capsule, lambda row: row[0].device))


def _list(reader: Reader, read: Callable[[], T], device: Callable[[T], int]) -> tuple[T, ...]:
    """All items of a message, sorted by their devices, none twice."""
    items = tuple(read() for _ in range(reader.count()))
    reader.end()
    if any(device(one) >= device(next_) for one, next_ in pairwise(items)):
        raise reader.bad("devices must be sorted and distinct")
    return items


def encapsulate(
    identity: Identity, roster: Roster, run: int, me: RunKey, peers: Sequence[Peer], *, now: int
) -> tuple[dict[RunKey, bytes], Encapsulated]:
    """A fresh secret (32 bytes) with each of `peers`, by its run key, and the capsules for them.

    Raises ProtocolError for a device that is not of a higher number than ours, not on the roster at
    `now`, or whose keys do not hold.
    """
    secrets, capsules = {}, []
    for peer in peers:
        _check_turn(me, peer.key, stage="encapsulate")
        _vouched(roster, run, peer.key, now)
        secrets[peer.key], cipher = peer.loaded().encapsulate()
        capsule = Capsule.signed(identity, run, me, peer.key, cipher)
        capsules.append((peer.key.device, capsule))
    return secrets, Encapsulated(tuple(capsules))


def decapsulate(
    key: KemKey,
    roster: Roster,
    run: int,
    me: RunKey,
    capsules: Iterable[tuple[RunKey, Capsule]],
    *,
    now: int,
) -> dict[RunKey, bytes]:
    """The secret in each capsule, by its dealer's run key.

    Raises ProtocolError for a dealer that is not of a lower number than ours, not on the roster at
    `now`, or whose key does not hold, and for a capsule that it did not sign for the two run keys.
    """
    secrets = {}
    for dealer, capsule in capsules:
        _check_turn(dealer, me, stage="decapsulate")
        capsule.verify(run, dealer, me, _vouched(roster, run, dealer, now))
        secrets[dealer] = key.open(capsule.cipher)
    return secrets


def _check_turn(dealer: RunKey, peer: RunKey, *, stage: str) -> None:
    """Of two devices one deals: were both to, they might end with two secrets."""
    if dealer.device >= peer.device:
        raise ProtocolError(
            f"device {dealer.device} deals no secret to device {peer.device}", sender=0, stage=stage
        )


def _vouched(roster: Roster, run: int, key: RunKey, now: int) -> bytes:
    """The identity key that signed a run key. Raises ProtocolError unless it is on the roster."""
    member = roster.member(key.device, now=now)
    key.verify(run, member.public)
    return member.public


def combined(x25519: bytes, kem: bytes) -> bytes:
    """One secret (32 bytes) of two (32 bytes each): unknown to whoever lacks either of them.

    The keys that they come from need not go in: a secret is used only through `derive`, with the id
    of a session, which names the run keys of all parties.
    """
    return derive(x25519 + kem, labels.HYBRID)


def combine(agreed: Mapping[int, bytes], kem: Mapping[int, bytes]) -> dict[int, bytes]:
    """The X25519 secret with each party, combined with the ML-KEM secret with it.

    Raises ProtocolError naming a party that there is no ML-KEM secret with.
    """
    for party in agreed:
        if party not in kem:
            raise ProtocolError("we share no ML-KEM secret with it", sender=party, stage="report")
    return {party: combined(secret, kem[party]) for party, secret in agreed.items()}
