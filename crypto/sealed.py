"""Files sealed to those who may read them, in chunks, in constant memory.

    header    magic (16) | run (u64) | round (u64) | root of the audit log (32) | recipients (u8)
              | for each recipient, the file's key under theirs (80) | check (32)
    chunks    256 KiB of content each, the last 0 to 256 KiB, with a tag of 16 bytes

The file's key is random. For each recipient it is encrypted by HPKE (RFC 9180, mode base) with
X25519, HKDF-SHA-256 and AES-256-GCM. From it and the whole header come two more keys: `check`, by
which a recipient finds that the header is what the others have, and that all of them have the same
file key; and the key of the chunks.

Chunks are AES-256-GCM by the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizar 2015, "Online
authenticated-encryption and its nonce-reuse misuse-resistance", doi:10.1007/978-3-662-47989-6_24):
the nonce is the chunk's number and whether it is the last. So chunks cannot be moved, left out or
put in, and where the file ends is authenticated. Numbers may start at 0 because the key is new.

What sealing does not say is by whom: anyone can seal to a public key. It hides neither how long a
file is nor how many can open it.

One exception to randomness being an argument: `cryptography` draws the ephemeral keys of HPKE
itself, from the operating system, and takes none from us.
"""

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from tacit.crypto import labels
from tacit.crypto.errors import Damaged, ParameterError
from tacit.crypto.identity import KEY_BYTES, derive

CHUNK = 1 << 18  # in larger ones, memory that is fresh for each costs more than the cipher
TAG_BYTES = 16
MAX_RECIPIENTS = 64
NO_ROOT = bytes(32)  # of a log: there is none

_MAGIC = b"tacit sealed 1\r\n"
_FIXED = struct.Struct("<16sQQ32sB")
_WRAPPED_BYTES = 32 + KEY_BYTES + TAG_BYTES  # ephemeral key, file key, tag
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class Source(Protocol):
    """A file to read bytes from; it may give fewer than are asked for, and none at its end only."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Context:
    """What a sealed file belongs to. It is not secret, and cannot be changed unnoticed.

    `root` is that of the audit log when the file was sealed. Where there is none it is `NO_ROOT`,
    and run and round are 0.
    """

    run: int = 0
    round: int = 0
    root: bytes = NO_ROOT

    def __post_init__(self) -> None:
        for number in (self.run, self.round):
            if not 0 <= number < 1 << 64:
                raise ParameterError(f"{number} is no number of a run or a round")
        if len(self.root) != len(NO_ROOT):
            raise ParameterError(f"the root of a log is {len(NO_ROOT)} bytes")


@dataclass(frozen=True, slots=True)
class SealKey:
    """Opens what is sealed to its public half. Made from 32 random bytes."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise ParameterError(f"a key that opens files is made from {KEY_BYTES} random bytes")

    @property
    def public(self) -> bytes:
        """32 bytes to seal to."""
        return self._key.public_key().public_bytes_raw()

    @property
    def _key(self) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(self.secret)


def seal(
    source: Source, recipients: Sequence[bytes], context: Context, rand: bytes
) -> Iterator[bytes]:
    """The sealed file, part by part. `rand` is 32 fresh random bytes, the file's key.

    `recipients` are 1 to 64 public keys, all different. Raises ParameterError, before anything is
    read, for others, or for a key that no secret belongs to.
    """
    if len(rand) != KEY_BYTES:
        raise ParameterError(f"sealing takes {KEY_BYTES} random bytes")
    if not 1 <= len(recipients) <= MAX_RECIPIENTS or len({*recipients}) < len(recipients):
        raise ParameterError(f"1 to {MAX_RECIPIENTS} recipients, all different, can be sealed to")
    fixed = _FIXED.pack(_MAGIC, context.run, context.round, context.root, len(recipients))
    header = fixed + b"".join(_wrapped(rand, public, fixed) for public in recipients)
    check, key = _derived(rand, header)
    return _sealed(source, header + check, AESGCM(key))


def _sealed(source: Source, header: bytes, cipher: AESGCM) -> Iterator[bytes]:
    yield header
    for number, chunk, is_last in _chunks(source, CHUNK):
        yield cipher.encrypt(_nonce(number, is_last), chunk, None)


def unseal(
    source: Source, key: SealKey, expected: Context | None = None
) -> tuple[Context, Iterator[bytes]]:
    """What a sealed file belongs to, and its content, part by part.

    No part is handed out before it is authenticated, but only after the last one is it certain that
    nothing is missing: until then the content is not to be used. Raises Damaged, here or while the
    parts are read, unless the file is to its last byte one that was sealed to `key`, and belongs to
    `expected` if that is given.
    """
    header = _full(source, _FIXED.size)
    if len(header) < _FIXED.size or not header.startswith(_MAGIC):
        raise Damaged("this is no sealed file: it does not begin like one")
    _, run, number, root, recipients = _FIXED.unpack(header)
    if not 1 <= recipients <= MAX_RECIPIENTS:
        raise Damaged(f"a sealed file for {recipients} recipients: there are 1 to {MAX_RECIPIENTS}")
    rows = _full(source, recipients * _WRAPPED_BYTES)
    check = _full(source, KEY_BYTES)
    if len(rows) + len(check) < recipients * _WRAPPED_BYTES + KEY_BYTES:
        raise Damaged("the file ends inside its header: it was cut off")
    secret = _unwrapped(rows, key, header)
    wanted, of_chunks = _derived(secret, header + rows)
    if not compare_digest(check, wanted):
        raise Damaged("the header of the sealed file was altered")
    context = Context(run, number, root)
    if expected is not None and context != expected:
        raise Damaged(f"the file belongs to {_named(context)}, not to {_named(expected)}")
    return context, _opened(source, AESGCM(of_chunks))


def _opened(source: Source, cipher: AESGCM) -> Iterator[bytes]:
    for number, chunk, is_last in _chunks(source, CHUNK + TAG_BYTES):
        if len(chunk) < TAG_BYTES or (len(chunk) == TAG_BYTES and number):
            raise Damaged(f"the sealed file ends early, in chunk {number}: it was cut off")
        try:
            yield cipher.decrypt(_nonce(number, is_last), chunk, None)
        except InvalidTag:
            raise Damaged(
                f"chunk {number} of the sealed file was altered or moved, or "
                + ("the file was cut off after it" if is_last else "something was added after it")
            ) from None


def _chunks(source: Source, size: int) -> Iterator[tuple[int, bytes, bool]]:
    """Number, content and whether it is the last: all but the last are full, and an empty file is
    one empty chunk."""
    number, chunk = 0, _full(source, size)
    while len(chunk) == size and (following := _full(source, size)):
        yield number, chunk, False
        number, chunk = number + 1, following
    yield number, chunk, True


def _full(source: Source, size: int) -> bytes:
    """`size` bytes, or all that are left."""
    first = source.read(size)
    if len(first) == size or not first:
        return first
    parts, have = [first], len(first)
    while have < size and (part := source.read(size - have)):
        parts.append(part)
        have += len(part)
    return b"".join(parts)


def _nonce(number: int, is_last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([is_last])


def _wrapped(secret: bytes, public: bytes, fixed: bytes) -> bytes:
    try:
        key = X25519PublicKey.from_public_bytes(public)
        return _SUITE.encrypt(secret, key, labels.SEALED_KEY + fixed)
    except ValueError:  # another length, or a point of low order
        raise ParameterError(
            "a recipient's key is not a public key that can be sealed to"
        ) from None


def _unwrapped(rows: bytes, key: SealKey, fixed: bytes) -> bytes:
    """Which row is ours is not written down, so all of them are tried."""
    for at in range(0, len(rows), _WRAPPED_BYTES):
        try:
            row = rows[at : at + _WRAPPED_BYTES]
            return _SUITE.decrypt(row, key._key, labels.SEALED_KEY + fixed)
        except (InvalidTag, ValueError):
            continue
    raise Damaged("the file is not sealed to this key, or its header was altered")


def _derived(secret: bytes, header: bytes) -> tuple[bytes, bytes]:
    """The check of the header, and the key of the chunks."""
    digest = hashlib.sha256(header).digest()
    check = derive(secret, labels.SEALED_HEADER, digest)
    return check, derive(secret, labels.SEALED_CHUNKS, digest)


def _named(context: Context) -> str:
    root = "no log" if context.root == NO_ROOT else f"log root {context.root.hex()}"
    return f"run {context.run}, round {context.round}, {root}"
