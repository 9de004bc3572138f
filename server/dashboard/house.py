"""All that is looked at: runs, and where a server is deployed, its processes and its logs."""

import json
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tacit.server.dashboard.board import Board, Version
from tacit.server.dashboard.run import Run, RunFiles
from tacit.server.dashboard.tail import Log
from tacit.server.deployed import (
    Granted,
    NodeRegistered,
    NodeUnregistered,
    OrderRefused,
    ProcessEnded,
    ProcessStarted,
    RunBegun,
    RunEnded,
    RunOrdered,
    StrangerEnded,
    TurnedAway,
    Withdrawn,
)
from tacit.server.entries import Noted, one_line
from tacit.server.kinds import Released

MOST_RUNS = 50  # those that changed last
MOST_LATELY = 40  # entries of each kind that are kept
MOST_REASONS = 50  # that are counted one by one
OTHER = "other reasons"
_ACTS = (
    Granted, NodeRegistered, NodeUnregistered, OrderRefused, Released, RunBegun, RunEnded,
    RunOrdered, StrangerEnded, Withdrawn,
)  # fmt: skip

FindRuns = Callable[[], Iterable[RunFiles]]


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """Of a deployed server: the log of its supervisor, that of its front, and what the supervisor
    says of the moment."""

    log: Path
    front: Path
    state: Path


@dataclass(slots=True)
class Process:
    """`starts` are all that the log has."""

    starts: int = 0
    is_up: bool = False
    at: float = 0.0
    how: str = ""  # it ended the last time


@dataclass(slots=True)
class House:
    """`find` names the runs that there are; `server` is None where no server is deployed."""

    name: str
    find: FindRuns
    server: ServerFiles | None = None
    version: Version = field(default_factory=Version)
    runs: dict[str, Run] = field(default_factory=dict)
    deployed: "Deployed | None" = field(init=False, default=None)
    board: Board = field(init=False)

    def __post_init__(self) -> None:
        self.board = Board(self.version)
        if self.server is not None:
            server = self.server
            self.deployed = Deployed(Log(server.log), Log(server.front), server.state)

    def look(self) -> None:
        """Take in what is new. Not for two threads at once."""
        there = [(files.changed, files) for files in self.find()]
        lately = sorted(
            ((at, files) for at, files in there if at is not None), key=lambda each: -each[0]
        )
        shown = [files for _, files in lately[:MOST_RUNS]]
        self.runs = {
            files.name: self.runs.get(files.name) or Run(files, self.version) for files in shown
        }
        for run in self.runs.values():
            run.look()
        self.board.put("name", self.name)
        runs = [run.summary() for run in self.runs.values()]
        self.board.put("runs", {"all": len(lately), "shown": runs})
        if self.deployed is not None:
            self.deployed.look()
            self.board.put("server", self.deployed.told())


@dataclass(slots=True)
class Deployed:
    """What the logs of a server say."""

    log: Log
    front: Log
    state: Path
    processes: dict[str, Process] = field(default_factory=dict)
    turned_away: Counter[str] = field(default_factory=Counter)  # by reason
    refused_orders: int = 0
    _acts: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MOST_LATELY))
    _away: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MOST_LATELY))

    def look(self) -> None:
        is_other, new = self.log.read()
        if is_other:
            self.processes.clear()
            self._acts.clear()
            self.refused_orders = 0
        for noted in new:
            self._hear(noted)
        is_other, new = self.front.read()
        if is_other:
            self.turned_away.clear()
            self._away.clear()
        for noted in new:
            if isinstance(noted.entry, TurnedAway):
                self._hear_turned_away(noted.entry, noted.at)

    def told(self) -> dict[str, Any]:
        """As the page gets it."""
        return {
            **_moment(self.state),
            "processes": {name: asdict(each) for name, each in sorted(self.processes.items())},
            "acts": list(self._acts), "refused_orders": self.refused_orders,
            "turned_away": {"reasons": dict(self.turned_away), "lately": list(self._away)},
            "logs": {name: {"size": log.size, "root": log.root, "fault": log.fault}
                     for name, log in (("server", self.log), ("front", self.front))},
        }  # fmt: skip

    def _hear(self, noted: Noted) -> None:
        match noted.entry:
            case ProcessStarted(name):
                process = self.processes.setdefault(name, Process())
                process.starts, process.is_up, process.at = process.starts + 1, True, noted.at
            case ProcessEnded(name, how):
                process = self.processes.setdefault(name, Process())
                process.is_up, process.at, process.how = False, noted.at, how
            case entry if isinstance(entry, _ACTS):
                self.refused_orders += isinstance(entry, OrderRefused)
                said = {"event": type(entry).__name__, "at": noted.at, **asdict(entry)}
                self._acts.appendleft(said)

    def _hear_turned_away(self, entry: TurnedAway, at: float) -> None:
        is_known = entry.reason in self.turned_away or len(self.turned_away) < MOST_REASONS
        self.turned_away[entry.reason if is_known else OTHER] += entry.times
        self._away.appendleft({"at": at, **asdict(entry)})


def _moment(state: Path) -> dict[str, Any]:
    """Of supervisor.json, which may be another version's: which nodes are online, and what troubles
    the supervisor. Empty where nothing is said."""
    try:
        said = json.loads(state.read_bytes())
        nodes = {one_line(str(each["name"])): bool(each["is_online"]) for each in said["nodes"]}
        troubles = [one_line(str(each)) for each in said["troubles"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        nodes, troubles = {}, []
    return {"nodes": nodes, "troubles": troubles}
