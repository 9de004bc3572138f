"""One run's folder, followed."""

import json
import tomllib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tacit.server.dashboard.board import Board, Version
from tacit.server.dashboard.rounds import Course
from tacit.server.dashboard.tail import Lines, Log
from tacit.server.entries import one_line
from tacit.server.kinds import Refused

MOST_ROUNDS = 2000  # rows that are kept: beyond, every second of the older ones goes
MOST_REFUSALS = 60
_SHOWN = {
    "data": ("name", "devices", "partition"), "model": ("name",), "strategy": ("name",),
    "secure": ("protocol", "groups"), "privacy": ("mode", "unit", "epsilon", "delta"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class RunFiles:
    """Where a run is written, as `tacit.app.folder` does."""

    name: str
    metrics: Path
    status: Path
    settings: Path
    log: Path

    def stamps(self) -> tuple[object, ...]:
        """What differs where one of the files does."""
        return tuple(map(_stamp, (self.metrics, self.status, self.settings, self.log)))

    @property
    def changed(self) -> float | None:
        """Unix time of the last change, in seconds; None where there is no run."""
        status, metrics = _stamp(self.status), _stamp(self.metrics)
        return None if status is None else max(status, metrics or status)[0] / 1e9


@dataclass(slots=True)
class Run:
    """A run, as a board: `about`, `now`, `privacy`, `refusals`, `log`, and `round N` for each."""

    files: RunFiles
    version: Version
    course: Course = field(default_factory=Course)
    log: Log = field(init=False)
    board: Board = field(init=False)
    _lines: Lines = field(init=False)
    _refusals: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MOST_REFUSALS))
    _refused: int = 0
    _stamps: tuple[object, ...] = ()

    def __post_init__(self) -> None:
        self.board = Board(self.version)
        self.log, self._lines = Log(self.files.log), Lines(self.files.metrics)

    def look(self) -> None:
        """Take in what is new."""
        stamps = self.files.stamps()
        if stamps == self._stamps:
            return
        before = self.version.now
        self._take_in()
        # Again if there was something: it may not have been all.
        self._stamps = stamps if self.version.now == before else ()

    def _take_in(self) -> None:
        is_other, lines = self._lines.read()
        if is_other:
            self.course = Course()
            self.board.clear()
        for line in lines:
            if (said := _parsed(line)) is not None:
                self.course.hear(said)
        if self.course.thin(MOST_ROUNDS):
            self.board.clear()
        for number in sorted(self.course.changed & self.course.rows.keys()):
            self.board.put(f"round {number}", self.course.rows[number].row())
        self.course.changed.clear()
        self._look_at_log()
        self._tell()

    @property
    def status(self) -> str:
        """queued, running, interrupted, failed or finished; "unknown" where nothing says so."""
        said = _parsed(_content(self.files.status))
        return one_line(str((said or {}).get("status", "unknown")))

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those that the page shows, by section."""
        try:
            tree = tomllib.loads(_content(self.files.settings).decode())
        except (UnicodeDecodeError, tomllib.TOMLDecodeError):
            return {}
        found = ((name, tree.get(name)) for name in _SHOWN)
        return {
            name: {key: _plain(section[key]) for key in _SHOWN[name] if key in section}
            for name, section in found
            if isinstance(section, dict)
        }

    def summary(self) -> dict[str, Any]:
        """A line of a list of runs."""
        latest = self.course.latest
        return {
            "name": self.files.name, "status": self.status, "round": self.course.last,
            "rounds": self.course.rounds, "accuracy": latest and latest.accuracy,
            "changed": self.files.changed,
        }  # fmt: skip

    def privacy(self) -> dict[str, Any]:
        """What was spent, by whom noise protects and against whom, and what may be."""
        settings = self.settings.get("privacy", {})
        is_private = settings.get("mode", "none") != "none"
        return {
            "budget": settings.get("epsilon") if is_private else None,
            "mode": settings.get("mode", "none"), "spent": list(self.course.spent.values()),
        }  # fmt: skip

    def _look_at_log(self) -> None:
        is_other, new = self.log.read()
        if is_other:
            self._refusals.clear()
            self._refused = 0
        for noted in new:
            if isinstance(noted.entry, Refused):
                entry = noted.entry
                self._refused += 1
                self._refusals.appendleft(
                    {"at": noted.at, "round": entry.round, "stage": entry.stage,
                     "device": entry.device, "reason": entry.reason}
                )  # fmt: skip

    def _tell(self) -> None:
        put, course = self.board.put, self.course
        put("about", {"name": self.files.name, "settings": self.settings})
        put("now", {
            "status": self.status, "round": course.last, "rounds": course.rounds,
            "seconds": course.seconds, "ended": course.ended, "changed": self.files.changed,
            "left_out": dict(course.left_out),
        })  # fmt: skip
        put("privacy", self.privacy())
        put("refusals", {"all": self._refused, "lately": list(self._refusals)})
        put("log", {"size": self.log.size, "root": self.log.root, "fault": self.log.fault})


def _plain(value: Any) -> Any:
    return one_line(value) if isinstance(value, str) else value


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Time of the last change in nanoseconds, inode and bytes; None where no file is."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_mtime_ns, about.st_ino, about.st_size
