"""Where a device keeps what must outlive a message: keys, counters, the state of a running sum.

Flower's own `Context.state` lives in memory and is lost when a SuperNode restarts, so a deployed
device keeps a `FileVault`. `ContextVault` is for simulations, where the state has to travel with
the simulated device.
"""

import os
from collections.abc import Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from flwr.app import ConfigRecord, RecordDict

from tacit.client.files import NEW, replace_file, sync
from tacit.crypto import labels
from tacit.crypto.errors import ParameterError

try:
    import fcntl
except ImportError:  # no Unix
    fcntl = None  # type: ignore[assignment]

_KEY_BYTES = 32
_NONCE_BYTES = 12
_TAKEN = ".taken"


class Vault(Protocol):
    """Named slots of bytes. Writing and taking are durable before they return."""

    def read(self, slot: str) -> bytes | None:
        """The slot's content, None if it is empty."""
        ...

    def write(self, slot: str, value: bytes) -> None:
        """Replace the slot's content in one step."""
        ...

    def take(self, slot: str) -> bytes | None:
        """The slot's content, which is gone from the vault when this returns."""
        ...

    def alone(self) -> AbstractContextManager[None]:
        """While this is entered nobody else is in it: a counter is read and raised in one go."""
        ...


@dataclass(frozen=True, slots=True)
class ContextVault:
    """Slots in a Flower context: as secret and as durable as the simulation that holds it."""

    state: RecordDict = field(repr=False)

    RECORD = "tacit.vault"

    def read(self, slot: str) -> bytes | None:
        value = self._slots.get(slot)
        return value if isinstance(value, bytes) else None

    def write(self, slot: str, value: bytes) -> None:
        self._slots[slot] = value

    def take(self, slot: str) -> bytes | None:
        value = self.read(slot)
        self._slots.pop(slot, None)
        return value

    def alone(self) -> AbstractContextManager[None]:
        return nullcontext()  # an engine hands a device one message at a time

    @property
    def _slots(self) -> MutableMapping[str, object]:
        if self.RECORD not in self.state:
            self.state[self.RECORD] = ConfigRecord()
        # Not through `config_records`: that builds a copy of the whole state at each look.
        return cast(MutableMapping[str, object], self.state[self.RECORD])


@dataclass(frozen=True, slots=True)
class FileVault:
    """Slots as files in one folder, each sealed with AES-256-GCM under a key beside them.

    The key file has mode 0600; whoever can read it can read the vault. What sealing buys is that a
    slot cannot be swapped with another or altered unnoticed, and that a copy of the folder without
    its key (a backup, say) tells nothing.
    """

    folder: Path
    key: bytes = field(repr=False)

    KEY_FILE = "vault.key"
    LOCK_FILE = "vault.lock"
    USE_FILE = "vault.use"  # shared by all who have a file in the folder under a name of their own

    @classmethod
    def create(cls, folder: Path, rand: bytes) -> "FileVault":
        """A new, empty vault from 32 fresh random bytes. Raises ParameterError if one is there."""
        if len(rand) != _KEY_BYTES:
            raise ParameterError(f"a vault is made from {_KEY_BYTES} random bytes")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (folder / cls.KEY_FILE).exists():
            raise ParameterError(f"there is a vault in {folder} already")
        replace_file(folder / cls.KEY_FILE, rand)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> "FileVault":
        """Raises ParameterError if `folder` holds no vault."""
        try:
            key = (folder / cls.KEY_FILE).read_bytes()
        except OSError:
            raise ParameterError(f"no vault in {folder}: make one with FileVault.create") from None
        if len(key) != _KEY_BYTES:
            raise ParameterError(f"the key of the vault in {folder} is damaged")
        return cls(folder, key)

    def read(self, slot: str) -> bytes | None:
        """Raises ParameterError if the slot's file was altered or belongs to another slot."""
        try:
            sealed = self._path(slot).read_bytes()
        except FileNotFoundError:
            return None
        return self._opened(slot, sealed)

    def _opened(self, slot: str, sealed: bytes) -> bytes:
        nonce, box = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return AESGCM(self.key).decrypt(nonce, box, labels.VAULT + slot.encode())
        except (InvalidTag, ValueError):
            raise ParameterError(f"slot {slot!r} of the vault is damaged") from None

    def write(self, slot: str, value: bytes) -> None:
        # Random nonces under one key are safe up to about 2**32 writes (NIST SP 800-38D, 8.3).
        nonce = os.urandom(_NONCE_BYTES)
        sealed = AESGCM(self.key).encrypt(nonce, value, labels.VAULT + slot.encode())
        path = self._path(slot)
        with locked(self.folder / self.USE_FILE, shared=True):
            replace_file(path, nonce + sealed)

    def take(self, slot: str) -> bytes | None:
        # First it gets a name that only we know. Of two processes at once one is let through, and
        # none takes away what another has written since it looked.
        path, own = self._path(slot), self.folder / f"{slot}.{os.urandom(8).hex()}{_TAKEN}"
        with locked(self.folder / self.USE_FILE, shared=True):
            try:
                path.rename(own)
            except FileNotFoundError:
                return None
            try:
                return self._opened(slot, own.read_bytes())
            finally:
                own.unlink()
                sync(self.folder)

    def alone(self) -> AbstractContextManager[None]:
        return locked(self.folder / self.LOCK_FILE)

    def slots(self) -> list[str]:
        """Those that hold something, readable or not."""
        return sorted(path.stem for path in self.folder.glob("*.sealed"))

    def leftovers(self) -> list[Path]:
        """Files under a name of their own: of whoever writes right now, or died while writing."""
        found = (self.folder.glob(f"*{end}") for end in (NEW, _TAKEN))
        return sorted(path for each in found for path in each)

    def tidy(self) -> list[Path]:
        """Remove what writers that died have left, and say what it was. What was taken was to be
        gone, and what was not renamed was never promised.

        Waits for those who are writing. Outside of `write` and `take`, who makes such a file in the
        folder does it in `alone`.
        """
        with self.alone(), locked(self.folder / self.USE_FILE):
            found = self.leftovers()
            for path in found:
                path.unlink()
            if found:
                sync(self.folder)
        return found

    def _path(self, slot: str) -> Path:
        if not slot.isidentifier():
            raise ParameterError(f"slot {slot!r} is not a plain name")
        return self.folder / f"{slot}.sealed"


@contextmanager
def locked(path: Path, *, wait: bool = True, shared: bool = False) -> Iterator[None]:
    """While this is entered, no other process is in it by this file; it is made if it is not there.
    Those who share it may be in it together.

    Waits for one that is, or raises BlockingIOError. A lock of the system's, which ends with the
    process that holds it. Where there is none (Windows), one process may use the folder at a time.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if fcntl is not None:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(handle, kind if wait else kind | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Whether a process is in it by this file. Makes none, and never waits.

    It has the lock for a moment itself, shared: who tries for it then without waiting may be told
    that somebody is there.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
