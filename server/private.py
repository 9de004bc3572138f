"""What a server does about private sums: how much noise, who pays for it, where the clip is."""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from tacit.crypto.codec import Mean
from tacit.crypto.errors import ParameterError
from tacit.crypto.identity import KEY_BYTES
from tacit.crypto.secagg.noised import Noised
from tacit.crypto.secagg.session import Session
from tacit.crypto.vector import Floats, Layout
from tacit.crypto.wire import Reader, Writer
from tacit.privacy.accountants import Adversary
from tacit.privacy.charges import neighbours_of, releases_of
from tacit.privacy.gaussian import limit
from tacit.privacy.ledger import Budget, Ledger, Storage
from tacit.privacy.mechanisms import TOLERANCE, Mechanism, choose
from tacit.privacy.releases import Release, Unit
from tacit.privacy.statement import Statement
from tacit.server.pairwise import Asked

_CLIP_SLOT = "clip"
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
        self.noised(Asked(16, 16, 16, 0, 32))  # fails here rather than in a round

    @abstractmethod
    def _corrupt(self, asked: Asked) -> int:
        """Devices whose noise does not count."""

    def noised(self, asked: Asked) -> Noised:
        """What the session of such a sum says. Raises ParameterError if there is no room."""
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
    others."""

    name: ClassVar[str] = "central"

    def __post_init__(self) -> None:
        if self.budget.against is Adversary.SERVER:
            object.__setattr__(self, "budget", replace(self.budget, against=Adversary.OUTSIDER))
        Privacy.__post_init__(self)

    def _corrupt(self, asked: Asked) -> int:
        return 0


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


@dataclass(slots=True)
class Memory:
    """A ledger's storage that ends with the process: for runs that leave nothing behind."""

    slots: dict[str, bytes] = field(default_factory=dict)

    def read(self, slot: str) -> bytes | None:
        return self.slots.get(slot)

    def write(self, slot: str, value: bytes) -> None:
        self.slots[slot] = value

    def alone(self) -> AbstractContextManager[None]:
        return nullcontext()


class PrivateSums:
    """The private sums of one run: its ledger, and its clip, both in `storage`."""

    def __init__(self, privacy: Privacy, storage: Storage) -> None:
        self.privacy = privacy
        self._storage = storage
        unit = privacy.unit
        self.ledger = Ledger(storage, unit, neighbours_of(unit), privacy.budget)

    @property
    def clip(self) -> float:
        """To which updates are clipped now."""
        kept = self._storage.read(_CLIP_SLOT)
        if kept is None or self.privacy.adaptive is None:
            return self.privacy.clip
        reader = Reader(kept, sender=0, stage="ledger")
        clip = reader.f64()
        reader.end()
        return clip

    def noising(self, asked: Asked) -> Noised:
        """What the session of the next sum says."""
        return replace(self.privacy, clip=self.clip).noised(asked)

    def affordable(self, session: Session) -> tuple[int, ...]:
        """Those of the cohort whom a sum over them may still cost as much as it would."""
        return tuple(self.ledger.affordable(_charges(session), session.devices))

    def charge(self, session: Session, survivors: Sequence[int]) -> None:
        """Count a sum over `survivors`, durably, before it is opened. Raises BudgetExceeded, and
        then it may not be."""
        self.ledger.spend(_charges(session, len(survivors)), survivors)

    def update(self, session: Session, layout: Layout, opened: Mean) -> Floats:
        """The mean update that may be used and kept: a central sum's with the server's noise. The
        clip moves with what it says of norms. Once for each sum."""
        mechanism = mechanism_of(session)
        if mechanism.central:
            opened = mechanism.add_noise(opened, os.urandom(KEY_BYTES))
        if (adaptive := self.privacy.adaptive) is not None:
            moved = adaptive.moved(mechanism.clip, mechanism.unclipped(opened))
            self._storage.write(_CLIP_SLOT, Writer().f64(moved).data())
        return seen_of(session, layout, opened)

    def statement(self) -> Statement:
        """What may be said of all that the run has let out."""
        return self.ledger.statement()


def mechanism_of(session: Session) -> Mechanism:
    """That of a private session."""
    assert isinstance(session.codec, Noised)
    return Mechanism.of(session.codec)


def seen_of(session: Session, layout: Layout, opened: Mean) -> Floats:
    """The mean update that a private sum shows this server: a central one without any noise, which
    is for nobody else to see. Arrays of whole numbers do not move: devices send zeros for them, and
    here they would only gather noise."""
    update = mechanism_of(session).update(opened, session.id)
    parts = layout.split(update)
    for entry in layout.entries:
        if np.dtype(entry.dtype).kind != "f":
            parts[entry.name][...] = 0
    return update


def _charges(session: Session, survivors: int | None = None) -> tuple[Release, ...]:
    """What the sum costs: over so many devices, or over the fewest that there may be."""
    agreed = session.codec
    assert isinstance(agreed, Noised)
    counted = session.min_survivors if survivors is None else survivors
    return releases_of(agreed, session.run, session.round, counted, agreed.corrupt)
