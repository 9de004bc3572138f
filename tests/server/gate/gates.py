"""Gates for tests: a store in a folder, one key of each role, and time that tests tell."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tacit.server.gate import desk
from tacit.server.gate.base import Grant, Role
from tacit.server.gate.desk import Wanted
from tacit.server.gate.keys import DRAW_BYTES, Key
from tacit.server.gate.known import identified
from tacit.server.gate.records import StoredRecords
from tacit.server.gate.store import Store
from tacit.server.gate.windows import Windows
from tacit.server.kinds import Kind

AT = 1_800_000_000.0
LIFE = 400 * 86400.0
HERE = "10.0.0.1"
WIDE = "1000000000/minute"


class Overheard(Store):
    """A store that notes down what was said and kept."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.kept: list[Kind] = []
        self._saying: list[Kind] = []

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        with self.lock:
            try:
                with super().writing() as db:
                    yield db
                self.kept += self._saying
            finally:
                self._saying.clear()

    def say(self, entry: Kind, at: float) -> None:
        super().say(entry, at)
        self._saying.append(entry)


def opened(path: Path) -> Overheard:
    """Without `fsync`: it is power cuts that it is for, and no test here cuts the power."""
    store = Overheard(path)
    store._open().execute("PRAGMA synchronous = OFF")
    return store


def records(store: Store, **more) -> StoredRecords:
    return StoredRecords(store, Windows(WIDE, WIDE), **more)


@dataclass
class World:
    """A store with the first authority `root`, one more key of each role, and what was said."""

    path: Path
    store: Store
    root: Grant
    by: dict[Role, Grant]
    said: list[Kind]

    def issue(self, organisation: str = "clinic", role: Role = Role.CLIENT, **more) -> Key:
        by = self.by[Role.OPERATOR] if role in (Role.CLIENT, Role.VIEWER) else self.root
        wanted = Wanted(organisation, role, more.pop("expires", AT + LIFE), **more)
        return desk.issue(self.store, by, wanted, os.urandom(DRAW_BYTES), AT)

    def grant(self, key: Key, at: float = AT) -> Grant:
        return identified(self.store, key.text, at)

    def budget(self, name: str, answers: int) -> None:
        """Give a key and its organisation a budget, without asking anybody."""
        with self.store.writing() as db:
            db.execute("UPDATE keys SET budget = ? WHERE name = ?", (answers, name))
            db.execute(
                "UPDATE organisations SET budget = ? "
                "WHERE name = (SELECT organisation FROM keys WHERE name = ?)",
                (answers, name),
            )
            desk.changed(self.store, db, name)


def world(folder: Path) -> World:
    path = folder / "gate.sqlite"
    Store.create(path)
    store = opened(path)
    first = desk.found_gate(store, os.urandom(DRAW_BYTES), AT, AT + LIFE)
    made = World(path, store, identified(store, first.text, AT), {}, store.kept)
    for role in (Role.OPERATOR, Role.VIEWER, Role.RELEASER, Role.AUTHORITY, Role.CLIENT):
        made.by[role] = made.grant(made.issue("house", role))
    return made
