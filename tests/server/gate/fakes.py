"""A gate without keys' records and without a watch of its own: what its stages need of others."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tacit.crypto.identity import Identity
from tacit.server.auditlog import AuditLog, batches
from tacit.server.entries import read
from tacit.server.gate.base import Denial, Grant, Role, State, Suspicion
from tacit.server.gate.card import Card
from tacit.server.gate.chain import Chain
from tacit.server.gate.events import Events
from tacit.server.gate.journal import Journal
from tacit.server.gate.metrics import Metrics
from tacit.server.gate.model import Floats32, Scored
from tacit.server.gate.reveal import Detail, Reveal
from tacit.server.kinds import Answered, Kind

SHAPE, CLASSES = (1, 2, 3), 4
CARD = Card("toy", "ab" * 32, SHAPE, CLASSES, most=8)
SECRET = "tacit_secret_of_a_client"
KEEPER = Identity(bytes(32))


def grant(**changes) -> Grant:
    given = {"key": "k1", "organisation": "org", "role": Role.CLIENT, "budget": 100,
             "details": frozenset({Detail.LABEL}), "issued": 0.0, "expires": 1e12}  # fmt: skip
    return Grant(**(given | changes))


@dataclass
class FakeRecords:
    """One secret, one grant, one number of answers that are left."""

    grants: dict[str, Grant] = field(default_factory=lambda: {SECRET: grant()})
    spent: int = 0
    broken: Exception | None = None
    suspected: list[Suspicion] = field(default_factory=list)

    def grant_of(self, secret: str, address: str, at: float) -> Grant:
        if self.broken:
            raise self.broken
        if secret not in self.grants:
            raise Denial("key", 401, "no such key")
        return self.grants[secret]

    def take(self, grant: Grant, answers: int, at: float) -> None:
        if answers > self.left(grant):
            raise Denial("budget", 429, "none left")
        self.spent += answers

    def give_back(self, grant: Grant, answers: int) -> None:
        self.spent -= answers

    def left(self, grant: Grant) -> int:
        return grant.budget - self.spent

    def suspect(self, grant: Grant, suspicion: Suspicion, at: float) -> State:
        self.suspected.append(suspicion)
        return State.OK


@dataclass
class FakeWatch:
    risk: float = 0.0
    saw_of: dict[str, int] = field(default_factory=dict)

    def saw(self, grant: Grant, x: Floats32, scored: Scored, at: float) -> Suspicion:
        assert len(x) == len(scored.probabilities) == len(scored.features)
        self.saw_of[grant.key] = self.saw_of.get(grant.key, 0) + len(x)
        return Suspicion(self.risk, is_flagged=False)


@dataclass
class Toy:
    """The class is the first number of an input, times ten, or the last one there is."""

    shape: tuple[int, ...] = SHAPE
    classes: int = CLASSES
    calls: list[int] = field(default_factory=list)
    broken: Exception | None = None

    def scored(self, x: Floats32) -> Scored:
        if self.broken:
            raise self.broken
        self.calls.append(len(x))
        labels = np.rint(10 * x.reshape(len(x), -1)[:, 0]).clip(0, self.classes - 1).astype(int)
        probabilities = np.full((len(x), self.classes), 0.05, np.float32)
        probabilities[np.arange(len(x)), labels] = 0.85
        return Scored(probabilities, x.reshape(len(x), -1))


@dataclass
class Gate:
    """All of it, in a folder."""

    folder: Path
    records: Any = field(default_factory=FakeRecords)
    watch: FakeWatch = field(default_factory=FakeWatch)
    model: Toy = field(default_factory=Toy)
    reveal: Reveal = field(default_factory=Reveal)
    is_strict: bool = False
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        log = AuditLog.create(self.folder / "audit.log", KEEPER, os.urandom(16))
        self.journal = Journal(log, Events(self.folder / "events.jsonl"))
        self.chain = Chain(
            CARD, self.model, self.records, self.watch, self.journal, Metrics(),
            reveal=self.reveal, is_strict=self.is_strict, clock=self.clock,
        )  # fmt: skip

    def entries(self) -> list[Kind]:
        return entries_of(self.folder / "audit.log")

    def logged(self) -> int:
        """Answers that the log has."""
        return sum(entry.queries for entry in self.entries() if isinstance(entry, Answered))


def entries_of(path: Path) -> list[Kind]:
    with path.open("rb") as file:
        return [read(entry).entry for batch in batches(file) for entry in batch.entries]


def rows(*labels: int) -> Floats32:
    """Inputs that the toy model puts into these classes."""
    x = np.zeros((len(labels), *SHAPE), np.float32)
    x[:, 0, 0, 0] = np.array(labels) / 10
    return x
