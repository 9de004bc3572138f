"""A run's audit log: its events, and digests of what it keeps, as they happen.

The key that signs it is beside it, since a run on one machine has nobody else to keep it. So the
log shows what others did to it, and not what the owner of the folder did, unless a head of it was
kept elsewhere: `tacit log verify --keep`.
"""

import hashlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from tacit.app import lines
from tacit.client.files import new_file
from tacit.crypto.errors import ParameterError
from tacit.crypto.identity import KEY_BYTES, Identity
from tacit.crypto.loghead import LOG_BYTES
from tacit.server.auditlog import AuditLog
from tacit.server.entries import noted
from tacit.server.events import Event, KeyChanged, LeftOut
from tacit.server.gate.said import hand_over
from tacit.server.gate.store import Store
from tacit.server.kinds import Kind, MarkCommitted, Refused

LOG, KEY = "audit.log", "audit.key"


@dataclass(slots=True)
class Journal:
    """The log of the run in `folder`; it is made, or gone on with, at the first entry."""

    folder: Path
    _log: AuditLog | None = None
    _waiting: list[bytes] = field(default_factory=list)

    def note(self, entry: Event | Kind) -> None:
        """Keep an entry durably. Devices that are left out, keys, and commitments to marks wait for
        the next one: there may be hundreds at once, and each `fsync` takes a millisecond."""
        if isinstance(entry, LeftOut):
            entry = Refused(entry.round, entry.stage, entry.device, entry.reason)
        self._waiting.append(noted(lines.fields_of(entry, at=round(time.time(), 3))))
        if not isinstance(entry, Refused | KeyChanged | MarkCommitted):
            self._write()

    def take_over(self, store: Store) -> int:
        """Put what waits in a gate's records into this log, each entry once; returns how many
        entries did. Raises LogInUse if another process has the log: then it is that one's work."""
        if self._log is None:
            self._log = opened(self.folder)
        return hand_over(store, self._log, self.folder / LOG)

    def close(self) -> None:
        """Keep what waits, and let others append."""
        try:
            if self._waiting:
                self._write()
        finally:
            if self._log is not None:
                self._log.close()
                self._log = None

    def _write(self) -> None:
        if self._log is None:
            self._log = opened(self.folder)
        entries, self._waiting = self._waiting, []  # once: a failed log takes nothing more
        self._log.append(entries)


def signer(folder: Path) -> Identity:
    """Who keeps the log of the run in `folder`. Raises ParameterError if his key is not there."""
    return _kept_key(folder / KEY)


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def opened(folder: Path) -> AuditLog:
    """The log in a folder, made if there is none. Raises as `AuditLog.open`."""
    if (folder / LOG).exists():
        return AuditLog.open(folder / LOG, _kept_key(folder / KEY))
    if not (folder / KEY).exists():
        new_file(folder / KEY, os.urandom(KEY_BYTES))
    return AuditLog.create(folder / LOG, _kept_key(folder / KEY), os.urandom(LOG_BYTES))


def _kept_key(path: Path) -> Identity:
    try:
        return Identity(path.read_bytes())
    except (OSError, ParameterError):
        raise ParameterError(f"{path}, which signs the run's audit log, is not there") from None
