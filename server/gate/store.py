"""What the gate has to remember, in one SQLite file that several processes may share.

Everything that is done is one transaction, together with what the audit log is to say of it: the
entries wait in the table `said` until whoever holds the log takes them over (`said.py`). So nothing
is done that is not said, and nothing said that was not done.

Commits are on the disk when they return. A file that is not whole is never worked with.
"""

import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from threading import RLock
from typing import Any

from tacit.crypto.errors import Damaged, ParameterError, TacitError
from tacit.server.entries import noted
from tacit.server.gate.base import Denial
from tacit.server.kinds import Kind

_PRIVATE = 0o600
_APPLICATION = 0x7AC17  # tells the file from other SQLite files
_VERSION = 1
_PATIENCE = 5.0  # seconds that one process waits for another one's transaction

_SCHEMA = """
BEGIN;
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT INTO meta VALUES ('changes', 0);
CREATE TABLE organisations (
    name TEXT PRIMARY KEY, budget INTEGER NOT NULL, spent INTEGER NOT NULL DEFAULT 0,
    since REAL NOT NULL,
    CHECK (spent >= 0)
);
CREATE TABLE keys (
    name TEXT PRIMARY KEY, organisation TEXT NOT NULL REFERENCES organisations,
    role TEXT NOT NULL, details TEXT NOT NULL, networks TEXT NOT NULL,
    budget INTEGER NOT NULL, spent INTEGER NOT NULL DEFAULT 0,
    issued REAL NOT NULL, expires REAL NOT NULL, revoked REAL,
    state TEXT NOT NULL DEFAULT 'ok', risk REAL NOT NULL DEFAULT 0,
    excused REAL NOT NULL DEFAULT 0, changed INTEGER NOT NULL,
    CHECK (spent >= 0)
);
CREATE INDEX keys_changed ON keys (changed);
CREATE INDEX keys_organisation ON keys (organisation);
CREATE TABLE secrets (
    digest BLOB PRIMARY KEY, name TEXT NOT NULL REFERENCES keys, expires REAL NOT NULL
);
CREATE INDEX secrets_name ON secrets (name);
CREATE TABLE totp (
    name TEXT PRIMARY KEY REFERENCES keys, sealed BLOB NOT NULL,
    step INTEGER NOT NULL DEFAULT 0, wrong INTEGER NOT NULL DEFAULT 0,
    locked REAL NOT NULL DEFAULT 0
);
CREATE TABLE requests (
    id INTEGER PRIMARY KEY AUTOINCREMENT, act TEXT NOT NULL, subject TEXT NOT NULL,
    amount INTEGER NOT NULL, asked_by TEXT NOT NULL REFERENCES keys, ends REAL NOT NULL,
    approved_by TEXT REFERENCES keys, used REAL
);
CREATE TABLE said (id INTEGER PRIMARY KEY AUTOINCREMENT, entry BLOB NOT NULL);
CREATE TABLE going (size INTEGER NOT NULL, last INTEGER NOT NULL);
COMMIT;
"""


class Store:
    """An open file. Safe to use from several threads.

    Raises ParameterError if there is no such file or others may read it, Damaged if it is not
    whole or not the gate's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _check_private(path)
        self.lock = RLock()
        self._db: sqlite3.Connection | None = None
        self._version: int | None = None
        self._looked = 0.0  # when, by `time.monotonic`
        with _sound(path):
            # Not by path alone, which would make a file where somebody removed one.
            self._db = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=rw",
                uri=True,
                timeout=_PATIENCE,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                self._check()
            except BaseException:
                self._db.close()
                raise

    @classmethod
    def create(cls, path: Path) -> None:
        """A new file that its owner alone may read. Raises ParameterError if there is one."""
        fresh = path.with_name(path.name + ".new")
        fresh.unlink(missing_ok=True)
        os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE))
        db = sqlite3.connect(fresh, isolation_level=None)
        try:
            db.execute(f"PRAGMA application_id = {_APPLICATION}")
            db.execute(f"PRAGMA user_version = {_VERSION}")
            db.executescript(_SCHEMA)
            db.execute("PRAGMA journal_mode = WAL")
        finally:
            db.close()
        try:
            path.hardlink_to(fresh)  # unlike a renaming, this never replaces a file
        except FileExistsError:
            raise ParameterError(f"there is a gate at {path} already") from None
        finally:
            fresh.unlink()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all that is done and said inside it is kept, or none of it."""
        with self.lock, _sound(self.path):
            db = self._open()
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        with self.lock, _sound(self.path):
            yield self._open()

    def say(self, entry: Kind, at: float) -> None:
        """Inside `writing`: what the log is to say of it."""
        said = {"event": type(entry).__name__, **asdict(entry), "at": round(at, 3)}
        self._open().execute("INSERT INTO said (entry) VALUES (?)", (noted(said),))

    def change(self) -> int:
        """Inside `writing`: the number for `changed` of the rows that are changed in it."""
        self._open().execute("UPDATE meta SET value = value + 1 WHERE name = 'changes'")
        self._version = None
        return self.changes()

    def changes(self) -> int:
        """How many changes there were: rows of higher `changed` are newer."""
        row = self._open().execute("SELECT value FROM meta WHERE name = 'changes'").fetchone()
        return int(row[0])

    def is_moved(self, within: float = 0.0) -> bool:
        """Whether anything was written by another connection, or changed by this one, since this
        was asked last.

        What others wrote less than `within` seconds ago may go unseen. To look takes microseconds;
        but SQLite lets go of the interpreter meanwhile, and a busy thread gives it back late.
        """
        with self.lock:
            now = time.monotonic()
            if self._version is not None and now - self._looked < within:
                return False
            self._looked = now
            try:
                version = int(self._open().execute("PRAGMA data_version").fetchone()[0])
            except sqlite3.Error as bad:
                raise _told(bad, self.path) from None
            is_new, self._version = version != self._version, version
            return is_new

    def close(self) -> None:
        with self.lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            raise ParameterError(f"{self.path} was closed")
        return self._db

    def _check(self) -> None:
        db = self._open()
        if db.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION:
            raise Damaged(f"{self.path} is no file of a gate")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version != _VERSION:
            raise Damaged(f"{self.path} is of version {version}, and this is {_VERSION}")
        if (fault := db.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
            raise Damaged(f"{self.path} is damaged: {fault}")
        # FULL: in WAL mode anything less may take back, after a power cut, what was acknowledged.
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")


def one(db: sqlite3.Connection, query: str, *values: Any) -> Any:
    """The first row of an answer, None if there is none."""
    return db.execute(query, values).fetchone()


@contextmanager
def _sound(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as bad:
        raise _told(bad, path) from None


def _told(bad: sqlite3.Error, path: Path) -> TacitError:
    if isinstance(bad, sqlite3.OperationalError):  # locked for too long, or the disk is full
        return Denial("budget", 503, f"the gate's records cannot be used now: {bad}", 1.0)
    return Damaged(f"{path} is damaged: {bad}; nothing is served from it")


def _check_private(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise ParameterError(f"no gate at {path}: tacit gate init makes one") from None
    if stat.S_IMODE(mode) & 0o077 and os.name == "posix":
        raise ParameterError(f"others than its owner may use {path}: chmod 600 it first")
