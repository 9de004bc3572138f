"""A server's folder as a deployed one would be, written line by line."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tacit.app import lines
from tacit.app.watching import house_of
from tacit.crypto.identity import Identity
from tacit.server.auditlog import AuditLog
from tacit.server.dashboard.live import Live
from tacit.server.deployed import (
    OrderRefused,
    ProcessEnded,
    ProcessStarted,
    RunBegun,
    RunOrdered,
    TurnedAway,
)
from tacit.server.entries import noted
from tacit.server.events import (
    CohortCommitted,
    EpsilonSpent,
    Event,
    LeftOut,
    RoundFinished,
    RoundStarted,
    RunStarted,
    SumOpened,
)
from tacit.server.kinds import Kind, Refused

AT = 1_790_000_000.0
KEEPER = Identity(bytes(range(32)))
HOSTILE = "<script>window.hit=1</script>\"'><svg/onload=window.hit=1>{{7*7}}"
SESSION = "00ff00ff00ff00ff"
SETTINGS = """
[data]
name = "digits"
devices = 10
[model]
name = "mlp"
[strategy]
name = "fedavg"
[secure]
protocol = "pairwise"
[privacy]
mode = "distributed"
epsilon = 8.0
delta = 1e-05
unit = "client"
"""


@dataclass
class Written:
    """An audit log and, for a run, its lines."""

    path: Path
    log: AuditLog

    @classmethod
    def made(cls, path: Path) -> "Written":
        path.mkdir(parents=True, exist_ok=True)
        return cls(path, AuditLog.create(path / "audit.log", KEEPER, os.urandom(16)))

    def note(self, *entries: Kind | Event, at: float = AT) -> None:
        self.log.append([noted(lines.fields_of(each, at=at)) for each in entries])

    def tell(self, *events: Event) -> None:
        with (self.path / "metrics.jsonl").open("a") as file:
            file.writelines(map(lines.of_event, events))

    def set_status(self, status: str) -> None:
        (self.path / "status.json").write_text(json.dumps({"status": status}))

    def round(self, number: int, rounds: int = 8, out: dict[int, str] | None = None) -> None:
        """A whole round, `out` by device and stage."""
        out = out or {}
        left = [LeftOut(number, stage, device, "no answer") for device, stage in out.items()]
        quality = 1 - 0.9 / number
        self.tell(
            RoundStarted(number, rounds),
            CohortCommitted(number, "train", 10, "ab" * 32),
            *left,
            EpsilonSpent(number, 0.7 * number, 1e-5, "client", "server", number),
            SumOpened(number, "train", 10 - len(out), 10, 0.4, "pairwise"),
            RoundFinished(number, rounds, 1.2, {}, {},
                          {"accuracy": quality, "loss": 2.2 / number}),
        )  # fmt: skip
        refused = [Refused(each.round, each.stage, each.device, each.reason) for each in left]
        self.note(*refused, RoundStarted(number, rounds), at=AT + number)


def run(folder: Path, *, rounds: int = 0, status: str = "running") -> Written:
    """A run's folder, with so many of eight rounds ended."""
    made = Written.made(folder)
    (folder / "config.toml").write_text(SETTINGS)
    made.tell(RunStarted(8))
    for number in range(1, rounds + 1):
        made.round(number, out={3: "report", 7: "report"} if 2 <= number <= 4 else None)
    made.set_status(status)
    return made


def server(folder: Path) -> tuple[Written, Written]:
    """A deployed server's folder: what its supervisor wrote, and its front."""
    (folder / "runs").mkdir(parents=True)
    own, front = Written.made(folder), Written.made(folder / "front")
    own.note(
        ProcessStarted("superlink"), ProcessStarted("superexec"), ProcessStarted("front"),
        RunOrdered("hospitals", "ab" * 32, "ana"), RunBegun("hospitals", 7, 0),
        ProcessEnded("superexec", "signal 9"), ProcessStarted("superexec"),
        OrderRefused("order-3", "mallory", HOSTILE),
    )  # fmt: skip
    said = {"pid": 7, "port": 9, "troubles": ["site-2 is failing: see tacit logs site-2"],
            "nodes": [{"name": f"site-{n}", "is_online": n != 2} for n in (1, 2, 3)]}  # fmt: skip
    (folder / "supervisor.json").write_text(json.dumps(said))
    front.note(
        TurnedAway("no such key", "203.0.113.9", HOSTILE, 41),
        TurnedAway("control is not offered", "203.0.113.9", "", 3),
    )
    return own, front


def live(path: Path, clock: Any = time.monotonic) -> Live:
    return Live(house_of(path), SESSION, clock)
