"""One-time codes for people (RFC 6238, six digits, 30 seconds; by the `pyotp` library).

What codes are made of has to be kept, unlike a key's secret: sealed under a key that is in a file
of its own, so that a copy of the records alone makes nobody's codes. The operator has to keep that
file from others and out of the backups that hold the records. Who has both can approve, as far as
codes go, in anybody's name.
"""

import base64
import hmac
from dataclasses import dataclass, field

import pyotp
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tacit.crypto.errors import Damaged, ParameterError
from tacit.server.gate.base import Denial, Grant
from tacit.server.gate.store import Store, one
from tacit.server.kinds import KeyRenewed

SEALING_BYTES = 32
SEED_BYTES, NONCE_BYTES = 20, 12  # RFC 4226, section 4: 160 bits are recommended
STEP = 30  # seconds
SKEW = 1  # steps that a telephone's clock may be off, either way
MOST_WRONG = 5  # in a row
LOCK = 900.0  # seconds, twice as long each further time
_LONGEST_LOCK = 7  # doublings


@dataclass(frozen=True, slots=True)
class Codes:
    """The one-time codes of a gate's people. `sealing` is the key of 32 bytes that they are sealed
    under."""

    store: Store
    sealing: bytes = field(repr=False)

    def enrol(self, by: Grant, rand: bytes, at: float, code: str | None = None) -> str:
        """A new seed for his codes, of SEED_BYTES + NONCE_BYTES fresh random bytes; returns it as
        an otpauth:// address for his telephone, once.

        Who has one needs a `code` of it: else a key that was stolen would be enough.
        """
        if len(rand) != SEED_BYTES + NONCE_BYTES:
            raise ParameterError(f"{SEED_BYTES + NONCE_BYTES} random bytes are needed")
        if self.has(by):
            self.check(by, code or "", at)
        seed, nonce = rand[:SEED_BYTES], rand[SEED_BYTES:]
        sealed = nonce + AESGCM(self.sealing).encrypt(nonce, seed, by.key.encode())
        with self.store.writing() as db:
            db.execute(
                "INSERT INTO totp (name, sealed) VALUES (?, ?) "
                "ON CONFLICT (name) DO UPDATE SET sealed = excluded.sealed, step = 0",
                (by.key, sealed),
            )
            self.store.say(KeyRenewed(by.key, "totp", by.key), at)
        return _totp(seed).provisioning_uri(name=by.key, issuer_name="tacit gate")

    def has(self, by: Grant) -> bool:
        """Whether codes are set up for him."""
        with self.store.reading() as db:
            return one(db, "SELECT 1 FROM totp WHERE name = ?", by.key) is not None

    def check(self, by: Grant, code: str, at: float) -> None:
        """Raises Denial for a code that is not his now, or was used; each is good once.

        After five wrong ones in a row none is looked at for a quarter of an hour, then for half an
        hour, and so on. What is counted is kept before anything is said.
        """
        with self.store.writing() as db:
            row = one(db, "SELECT sealed, step, wrong, locked FROM totp WHERE name = ?", by.key)
            if row is None:
                raise Denial("scope", 403, "no codes are set up for this key: totp enrol")
            sealed, last, wrong, locked = row
            if at < locked:
                raise Denial("scope", 429, "too many wrong codes: wait", locked - at)
            step = _step_of(_totp(self._seed(sealed, by.key)), code, last, at)
            wrong = 0 if step else wrong + 1
            if wrong and wrong % MOST_WRONG == 0:
                locked = at + LOCK * 2 ** min(wrong // MOST_WRONG - 1, _LONGEST_LOCK)
            db.execute(
                "UPDATE totp SET step = ?, wrong = ?, locked = ? WHERE name = ?",
                (step or last, wrong, locked, by.key),
            )
        if not step:
            raise Denial("scope", 403, "this code is wrong, or was used: wait for the next one")

    def _seed(self, sealed: bytes, name: str) -> bytes:
        nonce, rest = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        try:
            return AESGCM(self.sealing).decrypt(nonce, rest, name.encode())
        except InvalidTag:
            raise Damaged(f"what codes of {name} are made of does not open with this key") from None


def _totp(seed: bytes) -> pyotp.TOTP:
    return pyotp.TOTP(base64.b32encode(seed).decode(), interval=STEP)


def _step_of(totp: pyotp.TOTP, code: str, last: int, at: float) -> int:
    """The step whose code this is, later than the `last` one that was used; 0 if there is none."""
    now, found = int(at) // STEP, 0
    for step in range(now - SKEW, now + SKEW + 1):
        is_it = hmac.compare_digest(totp.at(step * STEP).encode(), code.strip().encode())
        if is_it and step > last:
            found = step
    return found
