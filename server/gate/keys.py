"""API keys: a public name, and 256 random bits of which the gate keeps a digest alone.

    tacit_<name, 16 hexadecimal digits>_<secret, 64>

SHA-256 is enough: slow hashes are for what people can remember, and these bits nobody can guess.
The name is no secret. It is in the log and on the operator's page.
"""

import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256

from tacit.crypto.errors import ParameterError

NAME_BYTES, SECRET_BYTES = 8, 32
DRAW_BYTES = NAME_BYTES + SECRET_BYTES
_KEY = re.compile(r"tacit_([0-9a-f]{16})_([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Key:
    """A whole key. Its holder has it, and nobody else: `digest` is what is kept."""

    name: str
    secret: bytes = field(repr=False)

    @property
    def text(self) -> str:
        """As its holder keeps and sends it."""
        return f"tacit_{self.name}_{self.secret.hex()}"

    @property
    def digest(self) -> bytes:
        return sha256(self.secret).digest()


def drawn(rand: bytes) -> Key:
    """A key of DRAW_BYTES fresh random bytes."""
    if len(rand) != DRAW_BYTES:
        raise ParameterError(f"{len(rand)} random bytes, a key takes {DRAW_BYTES}")
    return Key(rand[:NAME_BYTES].hex(), rand[NAME_BYTES:])


def parse(text: str) -> Key | None:
    """What a key's text says; None for a text that is none, which is refused like a wrong key."""
    found = _KEY.fullmatch(text)
    return None if found is None else Key(found[1], bytes.fromhex(found[2]))


def opens(key: Key, digests: Iterable[bytes]) -> bool:
    """Whether it is one of these. All are compared, each in constant time."""
    own, found = key.digest, False
    for digest in digests:
        found |= hmac.compare_digest(own, digest)
    return found
