"""What the gate's stages hand to each other: who asks, what he may have, and why he is refused.

    key -> scope -> budget -> validate -> model -> reveal -> watch -> respond -> log

The chain (`chain.py`) knows its stages by the protocols below alone.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from tacit.crypto.errors import TacitError
from tacit.server.gate.model import Floats32, Scored
from tacit.server.gate.reveal import Detail


class State(StrEnum):
    """How a key stands. The gate takes a key from OK to DEGRADED by itself, and nobody but a person
    takes one to SUSPENDED, or back."""

    OK = "ok"
    DEGRADED = "degraded"  # labels alone, half the budget
    SUSPENDED = "suspended"


class Role(StrEnum):
    """What a key is for. What each may do is in `roles.py`, and nothing else."""

    CLIENT = "client"  # asks the model
    VIEWER = "viewer"  # looks at metrics, states and drift
    OPERATOR = "operator"  # issues keys, degrades, suspends and restores
    RELEASER = "releaser"  # releases models, exports keys: with a second person
    AUTHORITY = "authority"  # makes operators and releasers, and raises budgets


@dataclass(frozen=True, slots=True)
class Grant:
    """Who asks, as found by his key. `key` is its public name; the secret is kept nowhere.

    `details` he may ask for; `budget` answers in the key's life, before trust and risk; `networks`
    in CIDR form that he may ask from, all if there are none. Times are Unix seconds.
    """

    key: str
    organisation: str
    role: Role
    details: frozenset[Detail]
    budget: int
    issued: float
    expires: float
    trust: float = 1.0
    risk: float = 0.0
    state: State = State.OK
    networks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What the watch makes of a key: `risk` in [0, 1], and the figures it comes from, by name.
    `is_flagged` once the figures are beyond what honest users' were."""

    risk: float
    is_flagged: bool
    figures: dict[str, float] = field(default_factory=dict)


class Denial(TacitError):
    """A request is not answered. `stage` of the chain, `status` of HTTP, and a `reason` for him who
    asked: it never says whether a key that is wrong is nearly right, or of whom."""

    def __init__(
        self, stage: str, status: int, reason: str, retry_after: float | None = None
    ) -> None:
        super().__init__(f"{stage}: {reason}")
        self.stage, self.status, self.reason = stage, status, reason
        self.retry_after = retry_after  # seconds; None: waiting does not help


class Records(Protocol):
    """What is known about keys. All of it survives a kill -9, the budget that was taken too."""

    def grant_of(self, secret: str, address: str, at: float) -> Grant:
        """Raises Denial for a key that is unknown, expired, revoked or suspended, and for one that
        may not ask from `address`."""
        ...

    def take(self, grant: Grant, answers: int, at: float) -> None:
        """Take `answers` from the budgets of the key and of its organisation. Raises Denial, and
        takes nothing, if one of them or a window does not have as many."""
        ...

    def give_back(self, grant: Grant, answers: int) -> None:
        """What was taken and then not answered, since the request was no good."""
        ...

    def left(self, grant: Grant) -> int:
        """Answers that are left to the key, of its own budget and of its organisation's."""
        ...

    def suspect(self, grant: Grant, suspicion: Suspicion, at: float) -> State:
        """Note the risk, and degrade a key that is flagged; returns the state it now has."""
        ...


class Watch(Protocol):
    """Looks at what is asked, key by key, and remembers a bounded amount."""

    def saw(self, grant: Grant, x: Floats32, scored: Scored, at: float) -> Suspicion:
        """`x` (n, *shape) was asked, and `scored` is what the model made of it, all of it."""
        ...
