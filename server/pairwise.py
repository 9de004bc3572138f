"""The parameters of secure sums, and how a session is made from them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

from tacit.crypto.codec import Codec
from tacit.crypto.errors import ParameterError, TooFewClients
from tacit.crypto.identity import Roster, RunKey
from tacit.crypto.secagg.clear import Clear
from tacit.crypto.secagg.hybrid import check_available
from tacit.crypto.secagg.noised import MOST_BITS, Noised
from tacit.crypto.secagg.parameters import (
    COMPLETE,
    choose_committee,
    choose_degree,
    most_corrupt,
)
from tacit.crypto.secagg.session import Purpose, Session, threshold_for
from tacit.crypto.vector import Layout


@dataclass(frozen=True, slots=True)
class Binding:
    """What a session is about: digests of the model and the configuration."""

    model: bytes
    config: bytes


@dataclass(frozen=True, slots=True)
class Asked:
    """Of what a private sum has to be, for noise to be chosen for it.

    least       fewest devices that it may be opened over
    corrupt     so many of them may tell the server their noise
    most_bits   of a ring element, that the protocol has room for
    """

    length: int
    clients: int
    least: int
    corrupt: int
    most_bits: int


Noising: TypeAlias = Callable[[Asked], Noised | None]


@dataclass(frozen=True, slots=True)
class Shape:
    """Who masks with whom and who opens, in a cohort of a certain size: fields of a Session."""

    degree: int
    seats: int
    threshold: int
    min_survivors: int


@dataclass(frozen=True, slots=True)
class SecureSum(ABC):
    """What all secure sums have in common.

    bound           largest |coordinate| of an update
    metrics         slots for metrics; metric_bound is the largest |value|
    max_weight      largest weight (example count) of a device
    corrupt         fraction of the devices that may collude with the server
    drop            fraction that may fall silent, from which larger cohorts get graph and committee
    min_survivors   fewest reports a sum is opened over
    seats           committee members drawn by the roster's beacon; 0 is the whole cohort
    hybrid          secrets of ML-KEM beside those of X25519, so that a recorded sum stands up to a
                    later quantum computer: two more stages in the first round, 3.8 kB for a pair
    stage_deadline  seconds for each stage but report
    clear           patterns of names, as `fc*.bias`: these arrays devices send in the clear, where
                    their policy allows it
    clear_norm      L2 norm to which a device clips these, all together
    clear_noise     deviation of the noise that it adds to each coordinate, in norms

    What is None follows from `corrupt`, `drop` and the size of the cohort (see `shape`). What a
    device refuses is its policy's business: see `tacit.client.policy.Policy`.
    """

    bound: float = 8.0
    metrics: int = 16
    metric_bound: float = 1000.0
    max_weight: float = 10_000.0
    corrupt: float = 1 / 3
    drop: float = 0.3
    min_survivors: int | None = None
    seats: int | None = None
    hybrid: bool = False
    stage_deadline: float = 60.0
    clear: tuple[str, ...] = ()
    clear_norm: float = 1.0
    clear_noise: float = 4.0

    name: ClassVar[str]

    def __post_init__(self) -> None:
        for name in ("corrupt", "drop"):
            if not 0 <= getattr(self, name) < 1:
                raise ParameterError(f"{name}={getattr(self, name)}, expected 0 <= {name} < 1")
        if not self.stage_deadline > 0:
            raise ParameterError(f"stage_deadline={self.stage_deadline}, expected seconds above 0")
        if self.min_survivors is not None and self.min_survivors < 2:
            raise ParameterError(f"min_survivors={self.min_survivors}, expected at least 2")
        self.codec(0, 2)  # fails here rather than in a round
        Clear(((0, 1),), self.clear_norm, self.clear_noise)
        if self.hybrid:
            check_available()

    @property
    def lattice(self) -> str:
        """`Session.lattice`."""
        return ""

    @property
    def he(self) -> str:
        """`Session.he`."""
        return ""

    def kind(self, session: Session) -> str:
        """The name of the protocol that a session of this sum follows."""
        return self.name

    def clear_of(self, layout: Layout) -> Clear | None:
        """`Session.clear` of sums for training such a model. Raises ParameterError for a pattern
        that matches no array, and if all would be in the clear."""
        if not self.clear:
            return None
        return Clear.of(layout, self.clear, self.clear_norm, self.clear_noise)

    @abstractmethod
    def codec(self, length: int, clients: int) -> Codec:
        """How `clients` updates of `length` coordinates are written as ring elements."""

    def room(self, length: int, clients: int) -> int:
        """Bits of a ring element that a private sum may have."""
        return MOST_BITS

    def asked(self, length: int, clients: int, roster: int) -> Asked:
        """Of what a private sum of so many out of `roster` has to be. Raises as `shape` does."""
        least, corrupt = self.shape(clients, roster).min_survivors, int(self.corrupt * clients)
        return Asked(length, clients, least, corrupt, self.room(length, clients))

    def _codec(self, length: int, clients: int, bits: int) -> Codec:
        return Codec(
            length=length,
            clients=clients,
            metrics=self.metrics,
            bound=self.bound,
            metric_bound=self.metric_bound,
            max_weight=self.max_weight,
            bits=bits,
        )

    @abstractmethod
    def shape(self, devices: int, roster: int) -> Shape:
        """Graph and committee of a cohort of `devices` out of `roster`.

        A small cohort is its own committee and masks all with all; a larger one gets what
        `tacit.crypto.secagg.parameters` finds: a sum without masks the committee alone. Raises
        TooFewClients for a cohort that is smaller than its min_survivors, and ParameterError for
        one that no committee protects.
        """

    def _shape(self, devices: int, roster: int, degree: int | None) -> Shape:
        """`shape` of a graph of this degree, None: of the least that will do."""
        if self.min_survivors is not None:
            _check_cohort(devices, self.min_survivors)
        whole = threshold_for(devices, math.floor(self.corrupt * devices))
        shape = Shape(devices - 1, 0, whole, max(2, whole))
        if devices > COMPLETE and None in (degree, self.seats):
            found = choose_committee(devices, self.corrupt, self._drop(devices), roster)
            shape = Shape(devices - 1, found.seats, found.threshold, found.min_survivors)
            degree = choose_degree(found) if degree is None else degree
        if degree is not None:
            shape = replace(shape, degree=min(degree, devices - 1))
        if self.seats is not None:
            shape = replace(shape, seats=0, threshold=whole)
        if self.seats:
            seats = min(self.seats, roster)
            corrupt = most_corrupt(roster, math.floor(self.corrupt * roster), seats)
            shape = replace(shape, seats=seats, threshold=threshold_for(seats, corrupt))
        if self.min_survivors is not None:
            shape = replace(shape, min_survivors=self.min_survivors)
        _check_cohort(devices, shape.min_survivors)
        return shape

    def _drop(self, devices: int) -> float:
        """The fraction of a cohort that a sum may miss."""
        if self.min_survivors is None:
            return self.drop
        return (devices - self.min_survivors + 0.5) / devices  # half: rounding cannot cost one

    def session(
        self,
        run: int,
        round: int,
        purpose: Purpose,
        cohort: Sequence[RunKey],
        roster: Roster,
        others: Mapping[int, RunKey],
        length: int,
        binding: Binding,
        epoch: bytes = b"",
        clear: Clear | None = None,
        noising: Noising | None = None,
    ) -> Session:
        """One sum over `cohort` of updates of `length` coordinates, those of `clear` among them;
        `epoch` and `clear` are the session's. With `noising` it is a private one.

        `others` are the run keys of devices that are there and not in the cohort: whom a seat is
        drawn for, of these, is a witness. Raises TooFewClients if the committee is too few, and
        what `shape` raises. For hybrid sums all keys are those of hybrid runs.
        """
        shape = self.shape(len(cohort), len(roster.members))
        ordered = tuple(sorted(cohort, key=lambda key: key.device))
        committee = tuple(key.device for key in ordered)
        witnesses: tuple[RunKey, ...] = ()
        if shape.seats:
            known = {**others, **{key.device: key for key in ordered}}
            witnesses = tuple(
                known[d] for d in roster.drawn(shape.seats) if d in known and d not in committee
            )
            committee = tuple(d for d in roster.drawn(shape.seats) if d in known)
        if len(committee) < shape.threshold:
            raise TooFewClients(
                f"{len(committee)} committee members are there, {shape.threshold} needed"
            )
        noised = None
        if noising is not None:
            noised = noising(self.asked(length, len(ordered), len(roster.members)))
        hidden = length - (0 if clear is None else clear.size)
        return Session(
            run=run,
            round=round,
            purpose=purpose,
            codec=noised or self.codec(hidden, len(ordered)),
            cohort=ordered,
            witnesses=witnesses,
            degree=shape.degree,
            committee=committee,
            seats=shape.seats,
            threshold=shape.threshold,
            min_survivors=shape.min_survivors,
            hybrid=self.hybrid,
            lattice=self.lattice,
            he=self.he,
            epoch=epoch,
            roster=roster.digest(),
            model=binding.model,
            config=binding.config,
            clear=clear,
        )


def _check_cohort(devices: int, least: int) -> None:
    if devices < least:
        raise TooFewClients(f"a cohort of {devices}, at least {least} needed")


@dataclass(frozen=True, slots=True)
class Pairwise(SecureSum):
    """Sums under pairwise masks.

    precision       bits of one device's coordinate; the sum of a cohort takes a few more, and up
                    to 32 in all are one machine word
    degree          neighbours of a device, on average

    and what a `SecureSum` has.
    """

    precision: int = 25
    degree: int | None = None

    name: ClassVar[str] = "pairwise"

    def codec(self, length: int, clients: int) -> Codec:
        """In the narrowest ring in which `clients` values of `precision` bits add up."""
        return self._codec(length, clients, self.precision + clients.bit_length())

    def shape(self, devices: int, roster: int) -> Shape:
        return self._shape(devices, roster, self.degree)
