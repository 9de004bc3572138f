"""What happens in a run, as it happens: one frozen record each, for progress, logs, trackers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

Metrics: TypeAlias = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RunStarted:
    """`rounds` in all; `resumed_from` is the last round a checkpoint holds, 0 for a fresh run."""

    rounds: int
    resumed_from: int = 0


@dataclass(frozen=True, slots=True)
class RoundStarted:
    round: int
    rounds: int


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A device did not count in this round: it fell silent, failed, or its reply was refused."""

    round: int
    stage: str  # enrol | encapsulate | decapsulate | deal | key | report | attest | reveal | filter
    device: int
    reason: str


@dataclass(frozen=True, slots=True)
class KeyChanged:
    """The server goes by a public key that it did not go by before, from now on.

    `device` is whose run key it is, None for a key of all. `fingerprint` is in hexadecimal digits:
    of a run key SHA-256 of what is public of it, of a roster or a group's key its digest.
    """

    round: int
    kind: str  # roster | run | group
    device: int | None
    fingerprint: str


@dataclass(frozen=True, slots=True)
class CohortDivided:
    """A round's cohort is summed in groups, and `smallest` is all that an update of the smallest
    hides among. The round stands up to this many `hostile` devices."""

    round: int
    devices: int
    groups: int
    smallest: int
    hostile: int

    @property
    def words(self) -> str:
        """What groups buy, and the anonymity that they cost."""
        return (
            f"{self.groups} groups of {self.smallest} or more: an update hides among "
            f"{self.smallest}, not {self.devices}; hostile devices withstood: {self.hostile}"
        )


@dataclass(frozen=True, slots=True)
class CohortCommitted:
    """Who is asked for a secure sum, before anybody answers.

    `session` is `Session.id` in hexadecimal digits: it binds the run key of every device that is
    asked, the model and all parameters, and each of the devices works it out by itself.
    """

    round: int
    purpose: str  # train | evaluate
    devices: int
    session: str


@dataclass(frozen=True, slots=True)
class EpsilonSpent:
    """What the ledger says after a private sum was charged for, and before it is opened.

    `epsilon` is that of the device that spent most, in all, None if nothing is guaranteed;
    `releases` are all so far: a ledger that says less was set back.
    """

    round: int
    epsilon: float | None
    delta: float
    unit: str  # client | record
    against: str  # server | outsider
    releases: int


@dataclass(frozen=True, slots=True)
class SumOpened:
    """A secure sum was opened over `survivors` of the `cohort` devices that were asked.

    `recalled`: that was before the run was interrupted, and it is used now.
    """

    round: int
    purpose: str  # train | evaluate
    survivors: int
    cohort: int
    seconds: float
    protocol: str  # pairwise | lattice | tenseal
    recalled: bool = False


@dataclass(frozen=True, slots=True)
class SumFailed:
    """There is no sum to use; the model stays as it was."""

    round: int
    purpose: str
    reason: str


@dataclass(frozen=True, slots=True)
class BudgetSpent:
    """The run ends before this round: it would cost more privacy than the budget has left."""

    round: int
    reason: str


@dataclass(frozen=True, slots=True)
class RoundFinished:
    """Metrics are means over the cohort (`train`, `evaluate`) or the server's own (`server`)."""

    round: int
    rounds: int
    seconds: float
    train: Metrics = field(default_factory=dict)
    evaluate: Metrics = field(default_factory=dict)
    server: Metrics = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunFinished:
    rounds: int
    seconds: float


Event: TypeAlias = (
    RunStarted
    | RoundStarted
    | LeftOut
    | KeyChanged
    | CohortDivided
    | CohortCommitted
    | EpsilonSpent
    | SumOpened
    | SumFailed
    | BudgetSpent
    | RoundFinished
    | RunFinished
)
OnEvent: TypeAlias = Callable[[Event], None]


def unheard(event: Event) -> None:
    """The listener of a run that nobody listens to."""
