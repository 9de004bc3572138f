"""What an operator orders of a server, signed: one small file, good for one server, once.

    magic (14) | kind (u8) | issued (u64, Unix time in ms) | server (32) | nonce (16) | key (32)
    name | settings | signature over all before it (64)

The server is in it, so that an order to one is nothing to another; the nonce, so that a copy is
told from a second order. That it is fresh, of a key that may give it, and new, is for the server to
say: `tacit.app.deployment.orders`.
"""

import hashlib
import re
from dataclasses import dataclass
from enum import Enum

from tacit.crypto import labels
from tacit.crypto.enrolment import opened
from tacit.crypto.errors import Damaged, MalformedMessage, ParameterError
from tacit.crypto.identity import KEY_BYTES, SIGNATURE_BYTES, Identity, verified
from tacit.crypto.wire import Writer

MAGIC = b"tacit order 1\n"
SERVER_BYTES = 32
NONCE_BYTES = 16
MAX_SETTINGS = 1 << 16  # bytes
MAX_ORDER = MAX_SETTINGS + 512
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)  # as setting run.name has it


class Act(Enum):
    """What can be ordered. The values are those of the file: never renumbered."""

    RUN = 1
    RESUME = 2
    STOP = 3
    RELEASE = 4
    GRANT = 5
    WITHDRAW = 6

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class SignedOrder:
    """An order as it was signed. `name` is a run's, or an operator's where one is granted something
    or withdrawn; `settings` are TOML. `issued` is Unix time in milliseconds."""

    act: Act
    name: str
    settings: str
    server: bytes
    issued: int
    nonce: bytes
    key: bytes
    signature: bytes

    @classmethod
    def signed(
        cls,
        by: Identity,
        act: Act,
        name: str,
        settings: str,
        *,
        server: bytes,
        issued: int,
        nonce: bytes,
    ) -> "SignedOrder":
        """`nonce` are 16 fresh random bytes. Raises ParameterError for a name that is none, and for
        settings of more than 64 KiB."""
        check_name(name)
        body = _body(act, name, settings, server, issued, nonce, by.public)
        signature = by.sign(labels.ORDER, body)
        return cls(act, name, settings, server, issued, nonce, by.public, signature)

    @property
    def is_signed(self) -> bool:
        """Whether the holder of `key` signed all that is in it."""
        body = _body(
            self.act, self.name, self.settings, self.server, self.issued, self.nonce, self.key
        )
        return verified(self.key, labels.ORDER, body, self.signature)

    @property
    def digest(self) -> str:
        """SHA-256 of the settings, in hexadecimal digits."""
        return hashlib.sha256(self.settings.encode()).hexdigest()

    def encode(self) -> bytes:
        body = _body(
            self.act, self.name, self.settings, self.server, self.issued, self.nonce, self.key
        )
        return body + self.signature

    @classmethod
    def decode(cls, data: bytes) -> "SignedOrder":
        """Raises Damaged, with the reason. Says nothing about the signature: see `is_signed`."""
        reader = opened(data, MAGIC, MAX_ORDER)
        try:
            number, issued = reader.u8(), reader.u64()
            server, nonce = reader.fixed(SERVER_BYTES), reader.fixed(NONCE_BYTES)
            key = reader.fixed(KEY_BYTES)
            name, settings = reader.text(), reader.text(MAX_SETTINGS)
            signature = reader.fixed(SIGNATURE_BYTES)
            reader.end()
            check_name(name)
            act = Act(number)
        except MalformedMessage as bad:
            raise Damaged(f"no order: {bad.reason}") from None
        except ParameterError as bad:
            raise Damaged(f"no order: {bad}") from None
        except ValueError:
            raise Damaged("no order: it is of a kind that this version does not know") from None
        return cls(act, name, settings, server, issued, nonce, key, signature)


def check_name(name: str) -> None:
    """Raises ParameterError for what cannot name a run or an operator."""
    if not _NAME.fullmatch(name):
        raise ParameterError(
            f"{name[:64]!r} is no name: up to 63 lower-case letters, digits and hyphens"
        )


def _body(
    act: Act, name: str, settings: str, server: bytes, issued: int, nonce: bytes, key: bytes
) -> bytes:
    if len(settings.encode()) > MAX_SETTINGS:
        raise ParameterError(f"settings of more than {MAX_SETTINGS} bytes")
    writer = Writer().fixed(MAGIC, len(MAGIC)).u8(act.value).u64(issued)
    writer.fixed(server, SERVER_BYTES).fixed(nonce, NONCE_BYTES).fixed(key, KEY_BYTES)
    return writer.text(name).text(settings).data()
