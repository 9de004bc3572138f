"""What a report is made from: everything it states comes from one of these records."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tacit.crypto.errors import ParameterError
from tacit.simulations.evaluate import Outcome
from tacit.simulations.score import Interval

MEMORY = "The trained model may remember examples. Only differential privacy bounds that."
UNPROVEN = (
    "An attack that fails is not a proof. These scores are what the attacks shown here got; a "
    "better attack may get more."
)
# What holds for every run of this kind, whatever its numbers.
LIMITS = (
    UNPROVEN,
    "A secure sum hides which device sent what. It does not always hide what was in it: a wide "
    "ReLU layer gives single inputs away even from a sum of ten, if each device holds one input.",
    "The attacks take the server to follow the protocol and to keep what it sees. One that designs "
    "the model to separate inputs gets more out of a sum, and no secure sum stops that. Owners can "
    "list the structures they allow (policy.models); values planted in one only noise bounds.",
    "Sums over changing groups of devices, taken together, can tell more than each alone.",
    MEMORY,
)
# And what holds for one way of hiding sums.
OF_PROTOCOL = {
    "lattice": "Nobody outside has reviewed the sums under lattice keys yet.",
    "auto": "Nobody outside has reviewed the sums under lattice keys yet.",
    "tenseal": "All devices hold one key. A single one of them that is in league with the server "
    "opens every update.",
}


def limits_of(protocol: str, *, private: bool = False) -> tuple[str, ...]:
    """What a run with sums of this kind does not promise: the worst of it first."""
    every = (limit for limit in LIMITS if not private or limit != MEMORY)
    return (*([OF_PROTOCOL[protocol]] if protocol in OF_PROTOCOL else []), *every)


@dataclass(frozen=True, slots=True)
class Dropped:
    """A device that did not count in a round, and the stage at which it was lost."""

    device: int
    round: int
    stage: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The run in figures.

    `sums` secure sums were opened and `single_updates` updates were read in the clear. Of the
    sums, `sums_checked` were compared with the plain mean of the same inputs, and `sums_exact`
    of those were equal on the codec's grid. `facts` are further (label, value) pairs to show.
    """

    devices: int
    rounds: int
    protocol: str
    sums: int
    single_updates: int = 0
    sums_checked: int = 0
    sums_exact: int = 0
    dropped: tuple[Dropped, ...] = ()
    seconds: float | None = None
    facts: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.sums_exact <= self.sums_checked <= self.sums:
            raise ParameterError(
                f"{self.sums_exact} exact of {self.sums_checked} checked of {self.sums} sums"
            )


@dataclass(frozen=True, slots=True)
class Curve:
    """A named series of (x, y) points, x ascending."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class RoundRow:
    """One round; `left_out` says who did not count and why; None where it was not measured."""

    round: int
    cohort: int
    survivors: int
    left_out: tuple[str, ...] = ()
    accuracy: float | None = None
    loss: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class LeakPoint:
    """The mean score of an attack, and the floor and the bound there, if there are any.

    `at` is how strong the defence is: the number of summed devices, or epsilon.
    """

    at: float
    score: Interval
    floor: float | None
    bound: float | None = None


@dataclass(frozen=True, slots=True)
class LeakCurve:
    """How the score of one attack or under one defence, its `name`, moves with the defence."""

    name: str
    points: tuple[LeakPoint, ...]
    measure: str = "SSIM"


@dataclass(frozen=True, slots=True)
class ReportData:
    """A run and what was attacked in it. Any part may be empty; the report leaves it out.

    `accuracy` curves have rounds for x and a fraction for y. `config` may be nested. `statement` is
    what is said of differential privacy, in lines of "label: words".
    """

    title: str
    summary: Summary
    accuracy: tuple[Curve, ...] = ()
    rounds: tuple[RoundRow, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    leakage: tuple[LeakCurve, ...] = ()
    statement: str | None = None
    limits: tuple[str, ...] = LIMITS
    config: Mapping[str, Any] = field(default_factory=dict)
