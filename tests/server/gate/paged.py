"""A gate with its operators' page, over keys of every role; and what makes it worth a look."""

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI

from tacit.server.auditlog import AuditLog
from tacit.server.gate.application import application
from tacit.server.gate.base import Role, Suspicion
from tacit.server.gate.baseline import FIGURES, SKETCH, Baseline, Space
from tacit.server.gate.chain import Chain
from tacit.server.gate.drift import Drift
from tacit.server.gate.events import Events
from tacit.server.gate.journal import Journal
from tacit.server.gate.metrics import Metrics
from tacit.server.gate.networks import RuleFile
from tacit.server.gate.page.overview import House
from tacit.server.gate.page.routes import operators
from tacit.server.gate.reveal import Detail, Reveal
from tacit.server.gate.said import hand_over
from tacit.server.gate.totp import Codes
from tacit.server.gate.watch import KeyWatch, _Kept
from tacit.server.kinds import Kind
from tests.server.gate.fakes import CARD, CLASSES, KEEPER, FakeWatch, Toy, entries_of
from tests.server.gate.gates import AT, HERE, World, records, world

SEALING = bytes(range(32))
WIDTH = 6


def baseline() -> Baseline:
    """One that makes sense, of no data."""
    eye = np.eye(WIDTH, 2, dtype=np.float32)
    means = np.zeros((CLASSES, WIDTH), np.float32)
    space = Space(means, eye, np.ones(2, np.float32), 1.0, np.ones((WIDTH, SKETCH), np.float32))
    typical = np.zeros(len(FIGURES))
    return Baseline(space, np.full(CLASSES, 0.25), 0.1, typical, typical + 2)


@dataclass
class Paged:
    app: FastAPI
    folder: Path
    world: World
    journal: Journal
    house: House
    codes: Codes
    secrets: dict[str, str]
    """Of one key a role, by its role."""
    names: dict[str, str]

    def call(self, method: str, path: str, role: str, address: str = HERE, **more: Any):
        async def run() -> httpx.Response:
            through = httpx.ASGITransport(self.app, False, client=(address, 1))
            secret = self.secrets.get(role, role)
            headers = more.pop("headers", {}) | (
                {"authorization": f"Bearer {secret}"} if role else {}
            )
            async with httpx.AsyncClient(transport=through, base_url="http://gate") as client:
                return await client.request(method, path, headers=headers, **more)

        return asyncio.run(run())

    def view(self, role: str) -> dict[str, Any]:
        told = self.call("GET", "/v1/operator/view", role)
        assert told.status_code == 200, told.text
        return told.json()

    def act(self, name: str, role: str, /, **body: Any) -> httpx.Response:
        return self.call("POST", f"/v1/operator/{name}", role, content=json.dumps(body))

    def state_of(self, key: str) -> dict[str, Any]:
        (found,) = (
            each for each in self.view(Role.AUTHORITY)["keys"]["shown"] if each["key"] == key
        )
        return found

    def logged(self) -> list[Kind]:
        """What the log has, with all that was left for it."""
        self.journal._told = 0.0
        self.journal.keep([])
        return entries_of(self.folder / "audit.log")

    def suspect(self, key: str, risk: float, *, is_flagged: bool, **figures: float) -> None:
        """What the watch would have made of a key."""
        assert self.house.watch is not None
        found = dict.fromkeys(FIGURES, 0.2) | figures | {"odd": 0.1}
        kept = _Kept(None, Suspicion(risk, is_flagged, found))  # type: ignore[arg-type]
        self.house.watch._keep(key, kept)


@contextmanager
def paged(folder: Path, clock=lambda: AT, *, is_watched: bool = True) -> Iterator[Paged]:
    made = world(folder)
    secrets, names = {}, {}
    for role in Role:
        key = made.issue(f"{role}s", role)
        secrets[role], names[role] = key.text, key.name
    networks, log = folder / "networks", folder / "audit.log"
    networks.write_text("deny 192.0.2.0/24\n")
    rules = RuleFile(networks)
    kept = records(made.store, rules=rules)
    events = Events(folder / "events.jsonl")
    events.lately.clock, events.lately._since = clock, clock()
    journal = Journal(
        AuditLog.create(log, KEEPER, os.urandom(16)), events,
        lambda open_log: hand_over(made.store, open_log, log, events.hear), clock,
    )  # fmt: skip
    chain = Chain(CARD, Toy(), kept, FakeWatch(), journal, Metrics(), reveal=Reveal(), clock=clock)
    codes = Codes(made.store, SEALING)
    base = baseline()
    watched = (KeyWatch(base), Drift(base)) if is_watched else (None, None)
    house = House(
        CARD, Detail.LABEL, made.store, journal, events.lately, lambda: codes, rules, *watched
    )
    app = application(chain, kept, kept.close, [operators(chain, house, clock)])
    try:
        yield Paged(app, folder, made, journal, house, codes, secrets, names)
    finally:
        asyncio.run(chain.close())
        made.store.close()
