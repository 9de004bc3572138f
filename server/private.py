"""How sums are made private: whose noise, how much of it, and what a sum then costs."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

from tacit.crypto.errors import ParameterError
from tacit.crypto.secagg.noised import Noised
from tacit.crypto.secagg.session import Session
from tacit.privacy.accountants import Adversary
from tacit.privacy.charges import releases_of
from tacit.privacy.example_sums import ExampleSum
from tacit.privacy.gaussian import limit
from tacit.privacy.ledger import Budget
from tacit.privacy.mechanisms import TOLERANCE, choose
from tacit.privacy.releases import Release, Unit
from tacit.server.pairwise import Asked
from tacit.server.turns import Turns

QUANTILE_NOISE = 5.0  # what norms say costs 4 % of what updates cost
NO_LIMIT = Budget(math.inf, 1e-5)
_MARGIN = 1.0 + 2.0**-10  # of noise, over that of a Gaussian: for the grid, and samplers' distance


@dataclass(frozen=True, slots=True)
class Adaptive:
    """Moves the clip towards a quantile of the norms of updates.

    After each round it is multiplied with exp(-rate * (unclipped - quantile)), where `unclipped` is
    the share of updates within it (Andrew et al. 2019, arXiv:1905.03871, algorithm 1). How many are
    is told by the same sum, under noise of QUANTILE_NOISE times what updates have in units of the
    bound: it is charged for, and the noise of updates does not follow a clip that is yet to come.
    """

    quantile: float = 0.5
    rate: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.quantile < 1:
            raise ParameterError(f"quantile={self.quantile}, expected 0 < quantile < 1")
        if not 0 < self.rate <= 10:
            raise ParameterError(f"rate={self.rate}, expected 0 < rate <= 10")

    def moved(self, clip: float, unclipped: float) -> float:
        """The next clip. What noise makes of a share is brought back to 0 .. 1 first."""
        share = min(max(unclipped, 0.0), 1.0)
        return min(max(clip * math.exp(-self.rate * (share - self.quantile)), 2.0**-60), 2.0**60)


@dataclass(frozen=True, slots=True)
class Privacy(ABC):
    """How sums are made private.

    clip        largest norm of an update; of what one example adds, with `records`
    noise       deviation of the noise in a sum, in units of the clip: see `noise_for`
    budget      what the run may cost each device; by default there is no limit
    tolerance   how much more variance rounding may cost: fewer bits for more of it
    sketch      share of the noise's error that shorter vectors may add; 0: they stay as long
    records     examples in an update, where each of them is protected; 0: all of it is
    adaptive    how the clip follows the norms; None: it stays
    """

    clip: float = 1.0
    noise: float = 1.0
    budget: Budget = NO_LIMIT
    tolerance: float = TOLERANCE
    sketch: float = 0.0
    records: int = 0
    adaptive: Adaptive | None = None

    name: ClassVar[str]

    def __post_init__(self) -> None:
        self._check()

    def _check(self) -> None:
        """What cannot be fails here rather than in a round."""
        some = self._some
        self.noised(Asked(16, some, some, 0, 32))

    @property
    def _some(self) -> int:
        """Devices of a sum that there may be."""
        return 16

    @abstractmethod
    def _corrupt(self, asked: Asked) -> int:
        """Devices whose noise does not count."""

    def noised(self, asked: Asked) -> Noised | None:
        """What the session of such a sum says; None where it says nothing of noise. Raises
        ParameterError if there is no room."""
        return choose(
            asked.length,
            asked.clients,
            asked.clients - asked.least,
            self._corrupt(asked),
            self.clip,
            self.noise,
            tolerance=self.tolerance,
            sketch=self.sketch,
            central=isinstance(self, Central),
            records=self.records,
            quantile=self.noise * QUANTILE_NOISE if self.adaptive else 0.0,
            most=asked.most_bits,
        ).agreed

    def releases(self, session: Session, survivors: int) -> tuple[Release, ...]:
        """What a sum over so many lets out."""
        agreed = session.codec
        assert isinstance(agreed, Noised)
        return releases_of(agreed, session.run, session.round, survivors, agreed.corrupt)

    @property
    def unit(self) -> Unit:
        return Unit.RECORD if self.records else Unit.CLIENT


@dataclass(frozen=True, slots=True)
class Distributed(Privacy):
    """Each device adds a share of the noise: the server sees no sum without it. Enough, whoever
    drops out and however many devices are corrupt, of those that the protocol reckons with."""

    name: ClassVar[str] = "distributed"

    def _corrupt(self, asked: Asked) -> int:
        return asked.corrupt


@dataclass(frozen=True, slots=True)
class Local(Privacy):
    """Each device adds all of the noise: enough if every other one is corrupt, and as many times
    too much in the sum if none is."""

    name: ClassVar[str] = "local"

    def _corrupt(self, asked: Asked) -> int:
        return asked.least - 1


@dataclass(frozen=True, slots=True)
class Central(Privacy):
    """The server adds the noise to sums that it has seen: for those who trust it, against all
    others.

    With `turns` devices are not in every round, and what the noise of one makes wrong, later ones
    make good in part. The grid may not move then: without sketch, records or adaptive clip.
    """

    turns: Turns | None = None

    name: ClassVar[str] = "central"

    def __post_init__(self) -> None:
        if self.budget.against is Adversary.SERVER:
            object.__setattr__(self, "budget", replace(self.budget, against=Adversary.OUTSIDER))
        if self.turns is not None and (self.sketch or self.records or self.adaptive):
            raise ParameterError(
                "rounds with noise in common need one grid for all: leave out sketch, records and "
                "adaptive"
            )
        self._check()

    @property
    def _some(self) -> int:
        return 16 if self.turns is None else self.turns.size

    def noised(self, asked: Asked) -> Noised | None:
        if self.turns is None:
            return Privacy.noised(self, asked)
        return choose(
            asked.length,
            asked.clients,
            asked.clients - asked.least,
            0,
            self.clip,
            self.noise,
            tolerance=self.tolerance,
            central=True,
            bands=self.turns.bands,
            divisor=self.turns.size,
            most=asked.most_bits,
        ).agreed

    def _corrupt(self, asked: Asked) -> int:
        return 0


@dataclass(frozen=True, slots=True)
class OnDevice(Privacy):
    """Devices train by DP-SGD: `steps` steps each round, with all the noise that each step takes,
    on batches into which an example comes with probability `rate`. What they then send needs no
    more, so its sum is one like any other, but for weights and metrics.

    `clip` is of one example's gradient, and `noise` in units of it. What devices really do the
    server takes their word for, as it does for all that they train.
    """

    steps: int = 1
    rate: float = 1.0

    name: ClassVar[str] = "on-device"

    def _check(self) -> None:
        if not self.records or self.adaptive or self.sketch:
            raise ParameterError(
                "DP-SGD protects examples: give records, and neither a sketch nor an adaptive clip"
            )
        self.step(1)

    def step(self, length: int) -> ExampleSum:
        """One of the steps, of a model with so many coordinates."""
        return ExampleSum(length, self.clip, self.noise, self.rate)

    def noised(self, asked: Asked) -> Noised | None:
        return None

    def releases(self, session: Session, survivors: int) -> tuple[Release, ...]:
        step = self.step(session.codec.length).release(session.run, session.round)
        return (replace(step, cohort=len(session.devices), survivors=survivors),) * self.steps

    def _corrupt(self, asked: Asked) -> int:
        return asked.least - 1


def noise_for(epsilon: float, delta: float, rounds: int, *, adaptive: bool = False) -> float:
    """The noise with which so many sums cost a device that is in all of them (epsilon, delta).

    A thousandth above what Gaussian noise would take. Raises ParameterError for a budget that is
    none.
    """
    Budget(epsilon, delta)
    if math.isinf(epsilon) or rounds < 1:
        raise ParameterError(f"epsilon={epsilon}, rounds={rounds}: noise for what?")
    sums = rounds * (1 + 1 / QUANTILE_NOISE**2 if adaptive else 1)
    return _MARGIN * math.sqrt(sums) / limit(epsilon, delta)
