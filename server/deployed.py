"""What the logs of a deployed server say: its processes, runs, orders, operators and nodes.

Kinds of entries, as those of `tacit.server.kinds` are.
"""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class ProcessStarted:
    """The supervisor started a process, by the name it has in `tacit status`."""

    name: str


@dataclass(frozen=True, slots=True)
class ProcessEnded:
    """A process ended; `how` is its exit code, or the signal that ended it."""

    name: str
    how: str


@dataclass(frozen=True, slots=True)
class RunOrdered:
    """An operator, by the name of a key, ordered a run: SHA-256 of its settings."""

    run: str
    digest: str
    by: str


@dataclass(frozen=True, slots=True)
class RunBegun:
    """A run was handed to Flower, under Flower's number, to go on after a round (0: from the
    beginning)."""

    run: str
    number: int
    after: int


@dataclass(frozen=True, slots=True)
class RunEnded:
    """A run is over, for good or until it is begun again: `how` is its status, and why."""

    run: str
    how: str
    reason: str


@dataclass(frozen=True, slots=True)
class StrangerEnded:
    """Flower had a run, under Flower's number, that this server knows no order of: it was ended.
    `run` is what it called itself."""

    number: int
    run: str


@dataclass(frozen=True, slots=True)
class OrderRefused:
    """An order that was not carried out: what it asked for, whose it says it is, and why not."""

    order: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """The front did not let somebody through: why, from which address, what they said of
    themselves, and how many times since the last such entry."""

    reason: str
    address: str
    who: str
    times: int


@dataclass(frozen=True, slots=True)
class Granted:
    """An operator's key may do what a role may, `by` another key."""

    name: str
    role: str
    key: str
    by: str


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """An operator's key may do nothing any more."""

    name: str
    by: str


@dataclass(frozen=True, slots=True)
class NodeRegistered:
    """Flower lets a device's node in; its key in hexadecimal digits."""

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class NodeUnregistered:
    """Flower lets a node in no more."""

    name: str
    key: str


Deployed: TypeAlias = (
    ProcessStarted
    | ProcessEnded
    | RunOrdered
    | RunBegun
    | RunEnded
    | StrangerEnded
    | OrderRefused
    | TurnedAway
    | Granted
    | Withdrawn
    | NodeRegistered
    | NodeUnregistered
)
