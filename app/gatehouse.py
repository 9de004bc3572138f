"""A gate's folder: everything a gate keeps, for its owner's eyes alone.

gate.sqlite   keys (as digests), budgets, states, requests, and what the log is still to be told
totp.key      opens what one-time codes are made of; keep it out of the backups of gate.sqlite
networks      where may be asked from, if there is such a file: see `server/gate/networks.py`
audit.log     what was done at the gate, so that tampering shows: tacit log verify
audit.key     what signs it
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tacit.app.journal import LOG, Journal
from tacit.client.files import new_file, read_private
from tacit.crypto.errors import ParameterError
from tacit.server.auditlog import LogInUse
from tacit.server.gate.store import Store
from tacit.server.gate.totp import SEALING_BYTES, Codes

STORE, SEALING, NETWORKS = "gate.sqlite", "totp.key", "networks"
_FOLDER = 0o700


@dataclass(frozen=True, slots=True)
class GateFolder:
    """A gate on disk, open. Raises ParameterError and Damaged as `Store` does."""

    path: Path
    store: Store

    @classmethod
    def make(cls, path: Path) -> None:
        """What a gate needs, in a new folder, or in one whose making was cut off. Where there is a
        gate nothing is changed. Raises ParameterError where there was one whose records are gone:
        a backup of them is of no use without the key of its codes."""
        path.mkdir(mode=_FOLDER, parents=True, exist_ok=True)
        if (path / STORE).exists():
            return
        if (path / LOG).exists():
            raise ParameterError(
                f"{path} has a log, and no {STORE}: put it back from a backup, or name a new folder"
            )
        (path / SEALING).unlink(missing_ok=True)  # nothing can be sealed under it yet
        new_file(path / SEALING, os.urandom(SEALING_BYTES))
        Store.create(path / STORE)

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator["GateFolder"]:
        store = Store(path / STORE)
        try:
            yield cls(path, store)
        finally:
            store.close()

    def codes(self) -> Codes:
        """Raises ParameterError if their key is not there, or others may read it."""
        sealing = read_private(self.path / SEALING)
        if len(sealing) != SEALING_BYTES:
            raise ParameterError(f"{self.path / SEALING} is not the key that codes are sealed with")
        return Codes(self.store, sealing)

    def tell(self) -> bool:
        """Let the log say what was done. False if another process has the log: it will."""
        journal = Journal(self.path)
        try:
            journal.take_over(self.store)
        except LogInUse:
            return False
        finally:
            journal.close()
        return True
