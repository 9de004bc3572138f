"""What was decided lately, for the operator's page: a bounded memory of the events.

It is of this process alone, and begins anew with it. What has to be found again is in the log.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, TypeAlias

MOST_DECISIONS, MOST_DENIALS, MOST_DRIFTS = 60, 30, 10

Line: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Told:
    """The last events, newest first, and of all `since`, Unix seconds, how many requests were
    `denied` by stage. Denials do not push out decisions: strangers can make as many as they like.
    """

    since: float
    decisions: list[Line]
    denials: list[Line]
    drifts: list[Line]
    denied: dict[str, int]


@dataclass(slots=True)
class Lately:
    """Safe to use from several threads."""

    clock: Callable[[], float] = time.time
    _lock: Lock = field(default_factory=Lock, repr=False)
    _since: float = field(init=False)
    _kept: dict[str, deque[Line]] = field(init=False, repr=False)
    _denied: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._since = self.clock()
        self._kept = {
            "Denied": deque(maxlen=MOST_DENIALS),
            "Drift": deque(maxlen=MOST_DRIFTS),
            "": deque(maxlen=MOST_DECISIONS),
        }

    def hear(self, line: Line) -> None:
        """An event as `Events` writes it."""
        with self._lock:
            self._kept.get(line["event"], self._kept[""]).appendleft(line)
            if line["event"] == "Denied":
                self._denied[line["stage"]] += line["requests"]

    def told(self) -> Told:
        with self._lock:
            denials, drifts, decisions = map(list, self._kept.values())
            return Told(self._since, decisions, denials, drifts, dict(self._denied))
