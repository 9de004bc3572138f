"""What the lines of a run's metrics.jsonl come to: a row for each round, and where it stands."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tacit.server.entries import one_line

MOST_NAMED = 100  # devices of a round that are named; the others are counted
_LARGEST = (1 << 53) - 1  # whole number that a browser reads as it is
_SOURCES = ("server", "evaluate", "train")  # of a metric: who is asked first

Said: TypeAlias = dict[str, Any]  # one line


@dataclass(slots=True)
class Round:
    """`state` is running, done, or lost: no sum of what devices trained was opened."""

    number: int
    state: str = "running"
    purpose: str = "train"  # of the sum that is on its way
    cohort: int | None = None
    survivors: int | None = None
    seconds: float | None = None
    accuracy: float | None = None
    loss: float | None = None
    epsilon: float | None = None
    reason: str = ""
    stages: Counter[str] = field(default_factory=Counter)
    out: list[tuple[str, str, str]] = field(default_factory=list)  # device, stage, purpose

    def row(self) -> Said:
        """As the page gets it."""
        return {
            "number": self.number, "state": self.state, "cohort": self.cohort,
            "survivors": self.survivors, "seconds": self.seconds, "accuracy": self.accuracy,
            "loss": self.loss, "epsilon": self.epsilon, "reason": self.reason,
            "stages": dict(self.stages), "out": [list(each) for each in self.out],
        }  # fmt: skip


@dataclass(slots=True)
class Course:
    """A run, from its lines. Rows that have changed since they were taken are in `changed`."""

    rounds: int | None = None
    last: int = 0  # the round that was begun last
    seconds: float | None = None
    ended: str = ""  # why a run ended early
    spent: dict[tuple[str, str], Said] = field(default_factory=dict)  # by unit and adversary
    left_out: Counter[str] = field(default_factory=Counter)  # by stage
    rows: dict[int, Round] = field(default_factory=dict)
    changed: set[int] = field(default_factory=set)

    def hear(self, said: Said) -> None:
        """One line; what is none of a run's events, or not like one, is passed over."""
        number = said.get("round")
        match said.get("event"):
            case "RunStarted":
                self.rounds = _whole(said, "rounds")
            case "RunFinished":
                self.seconds = _number(said, "seconds")
            case "BudgetSpent":
                self.ended = one_line(str(said.get("reason", "")))
            case str(event) if type(number) is int and number > 0:
                row = self.rows.setdefault(number, Round(number))
                self.last = max(self.last, number)
                self._of_round(event, row, said)
                self.changed.add(number)

    def _of_round(self, event: str, row: Round, said: Said) -> None:
        match event:
            case "RoundStarted":
                self.rounds = _whole(said, "rounds") or self.rounds
            case "CohortCommitted":
                row.purpose = str(said.get("purpose"))
            case "LeftOut":
                self._left_out(row, said)
            case "EpsilonSpent":
                self._spent(row, said)
            case "SumOpened" if said.get("purpose") == "train":
                row.survivors, row.cohort = _whole(said, "survivors"), _whole(said, "cohort")
            case "SumFailed" if said.get("purpose") == "train":
                row.state, row.reason = "lost", one_line(str(said.get("reason", "")))
            case "RoundFinished":
                row.state = row.state if row.state == "lost" else "done"
                row.seconds = _number(said, "seconds")
                row.accuracy, row.loss = _metric(said, "accuracy"), _metric(said, "loss")

    def _left_out(self, row: Round, said: Said) -> None:
        stage, device = one_line(str(said.get("stage"))), said.get("device")
        row.stages[stage] += 1
        self.left_out[stage] += 1
        if type(device) is int and len(row.out) < MOST_NAMED:
            # A text, for a browser's numbers are not as long as a node's.
            row.out.append((str(device), stage, one_line(row.purpose)))

    def _spent(self, row: Round, said: Said) -> None:
        unit, against = one_line(str(said.get("unit"))), one_line(str(said.get("against")))
        row.epsilon = _number(said, "epsilon")
        self.spent[unit, against] = {
            "unit": unit, "against": against, "epsilon": row.epsilon,
            "delta": _number(said, "delta"), "releases": _whole(said, "releases"),
        }  # fmt: skip

    def thin(self, most: int) -> bool:
        """Leave out every second of the older rounds where there are more rows than `most`: whether
        that was so."""
        if len(self.rows) <= most:
            return False
        numbers = sorted(self.rows)
        for number in numbers[: len(numbers) // 2 : 2]:
            del self.rows[number]
        self.changed = set(self.rows)
        return True

    @property
    def latest(self) -> Round | None:
        """The last round that was finished."""
        ends = (n for n, row in self.rows.items() if row.seconds is not None)
        return self.rows.get(max(ends, default=0))


def _metric(said: Said, name: str) -> float | None:
    """The server's own, else the mean over devices."""
    found = (said.get(source) for source in _SOURCES)
    values = (_number(metrics, name) for metrics in found if isinstance(metrics, dict))
    return next((value for value in values if value is not None), None)


def _number(said: Said, name: str) -> float | None:
    value = said.get(name)
    if type(value) is float:
        return value if math.isfinite(value) else None
    return float(value) if type(value) is int and abs(value) <= _LARGEST else None


def _whole(said: Said, name: str) -> int | None:
    value = said.get(name)
    return value if type(value) is int and 0 <= value <= _LARGEST else None
