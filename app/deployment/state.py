"""supervisor.json: what the supervisor says of itself, for `tacit status` and for the next one.

Written whole, at each change. The lock beside it is the system's and ends with the supervisor, so
whether one is up never depends on what a file says.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from tacit.app.deployment.places import Places
from tacit.client.files import replace_file
from tacit.client.vault import locked
from tacit.crypto.errors import ParameterError

try:
    import fcntl
except ImportError:  # no Unix
    fcntl = None  # type: ignore[assignment]

LOCK = "supervisor.lock"


@dataclass(frozen=True, slots=True)
class Shown:
    """A supervised process. `start` tells it from another of its number; `since` is Unix time."""

    name: str
    state: str
    pid: int | None = None
    start: str | None = None
    since: float = 0.0
    restarts: int = 0
    ended: str = ""


@dataclass(frozen=True, slots=True)
class NodeShown:
    """A node, and whether it is online."""

    name: str
    is_online: bool


@dataclass(frozen=True, slots=True)
class RefusedShown:
    """An order that was not carried out, at Unix time `at`: its name, and why."""

    at: float
    order: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class State:
    """All of it. `port` is SuperLink's on the loopback; `troubles` is what is wrong, in words;
    `refused` are the last orders that were not carried out."""

    pid: int = 0
    start: str | None = None
    port: int = 0
    is_ready: bool = False
    processes: tuple[Shown, ...] = ()
    nodes: tuple[NodeShown, ...] = ()
    troubles: tuple[str, ...] = ()
    refused: tuple[RefusedShown, ...] = ()

    def write(self, places: Places) -> None:
        replace_file(places.state, json.dumps(asdict(self), indent=1).encode() + b"\n")


def read(places: Places) -> State:
    """The last state; an empty one where there is none, or it cannot be read: nothing that is in it
    is needed to go on."""
    try:
        said: dict[str, Any] = json.loads(places.state.read_bytes())
        processes = tuple(Shown(**each) for each in said.pop("processes"))
        nodes = tuple(NodeShown(**each) for each in said.pop("nodes"))
        troubles = tuple(said.pop("troubles"))
        refused = tuple(RefusedShown(**each) for each in said.pop("refused"))
        return State(**said, processes=processes, nodes=nodes, troubles=troubles, refused=refused)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return State()


@contextmanager
def alone(places: Places) -> Iterator[None]:
    """Be the supervisor of this folder. Raises ParameterError if there is one."""
    try:
        with locked(places.folder / LOCK, wait=False):
            yield
    except BlockingIOError:
        raise ParameterError(f"{places.folder} is up already: tacit status") from None


def is_up(places: Places) -> bool:
    """Whether a supervisor is at work in this folder."""
    if fcntl is None:
        return False
    try:
        handle = os.open(places.folder / LOCK, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def require_up(places: Places) -> None:
    """Raises ParameterError unless there is a supervisor."""
    if not is_up(places):
        raise ParameterError(f"{places.folder} is not up: tacit up --dir {places.folder}")
