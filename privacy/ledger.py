"""Who has spent what, durably, and the refusal to spend more.

Write-ahead: `reserve` is durable before a sum is opened, or a report leaves a device; `settle`
records what came of it. What was reserved and not settled counts in full, so that a crash between
the two, or a server that never says how a sum ended, costs privacy on paper and never in fact.

A device has one of a single row, a server one with all of its devices. All of it is one slot of a
`Storage`, by the unit and the relation, read and written anew at each step: there is nothing else
that a crash could lose. An empty slot is a ledger where nothing was spent, and an old copy of it
forgets what came later: who can write to the storage can reset it.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tacit.crypto.errors import BudgetExceeded, ParameterError
from tacit.privacy.accountants import DISTANCE, GDP, RELEASES, Adversary, Spent
from tacit.privacy.books import EVERYONE, Books, Entry, Listed
from tacit.privacy.gaussian import LARGEST_EPSILON, guessed
from tacit.privacy.releases import Neighbours, Release, Unit
from tacit.privacy.statement import CANDIDATES, Figure, Statement


class Storage(Protocol):
    """Slots of bytes, as a device's vault has them."""

    def read(self, slot: str) -> bytes | None:
        """The slot's content, None if it is empty."""
        ...

    def write(self, slot: str, value: bytes) -> None:
        """Replace the slot's content in one step; durable when this returns."""
        ...

    def alone(self) -> AbstractContextManager[None]:
        """While this is entered nobody else is in the storage."""
        ...


@dataclass(frozen=True, slots=True)
class Budget:
    """(epsilon, delta) as `against` sees it; by default, as the one who sees most.

    An infinite epsilon is no limit: what is spent is written down, and never refused.
    """

    epsilon: float
    delta: float
    against: Adversary = Adversary.SERVER

    def __post_init__(self) -> None:
        if not (0 < self.epsilon <= LARGEST_EPSILON or self.epsilon == math.inf):  # not for NaN
            raise ParameterError(
                f"epsilon={self.epsilon}, expected 0 < epsilon <= {LARGEST_EPSILON:g}, or infinity"
            )
        if not 0 < self.delta < 1:
            raise ParameterError(f"delta={self.delta}, expected 0 < delta < 1")
        if not isinstance(self.against, Adversary):  # any other would be taken for an outsider
            raise ParameterError(f"against={self.against!r}, expected an Adversary")


@dataclass(frozen=True, slots=True)
class Ledger:
    """One unit and relation under a budget.

    `budget` is each device's. `whole` is that of somebody who is in every release, None for no
    limit: it ends a run however its devices take turns.
    """

    storage: Storage
    unit: Unit
    neighbours: Neighbours
    budget: Budget
    whole: Budget | None = None

    @property
    def slot(self) -> str:
        """Where in the storage it is."""
        return f"ledger_{self.unit.name}_{self.neighbours.name}".lower()

    def reserve(self, releases: Sequence[Release], devices: Listed, pool: Listed = ()) -> int:
        """Count all `releases` of one sum as made, durably. Returns the number to settle by.

        Count the fewest survivors that the sum may be opened with. `devices` are those of the
        cohort whom this ledger is for. Where drawing them counts they were drawn from `pool`, and
        all of it pays: see `accountants.is_amplified`.

        Raises BudgetExceeded, and nothing is reserved, if somebody would be beyond the budget.
        """
        with self.storage.alone():
            books = self._read().reserving(releases, devices, pool)
            self._check(books, books.open[-1])
            self.storage.write(self.slot, books.encode())
        return books.serial

    def spend(self, releases: Sequence[Release], devices: Listed, pool: Listed = ()) -> None:
        """As `reserve`, and settled in full: for whoever knows for certain who is in a sum that is
        about to be opened, and for a device, which is never told more."""
        with self.storage.alone():
            books = self._read().reserving(releases, devices, pool)
            entry = books.open[-1]
            self._check(books, entry)
            self.storage.write(self.slot, books.settling(entry, entry).encode())

    def settle(
        self, serial: int, survivors: int | None = None, devices: Listed | None = None
    ) -> None:
        """Close a reservation: how much of it was released, and at whose cost.

        `survivors` is how many devices were in the sum, 0 if it was not opened and never will be;
        None leaves all as it was reserved. `devices` are those of the reservation who were in it,
        by default all. More survivors than were reserved have left noise over, which is credited.
        Whoever does not know for certain, as a device mostly does not, leaves it as it was.

        What happened is recorded, whatever it was. BudgetExceeded is raised after that if it broke
        a budget, which takes fewer survivors than were reserved.
        """
        with self.storage.alone():
            books = self._read()
            entry = books.entry(serial)
            became = entry.became(survivors, devices)
            books = books.settling(entry, became)
            self.storage.write(self.slot, books.encode())
        if became is not None and became.has_less(entry):
            self._check(books, became)

    def affordable(
        self, releases: Sequence[Release], devices: Listed, pool: Listed = ()
    ) -> list[int]:
        """Those of `devices` whose own budget has room for the releases."""
        books = self._read().reserving(releases, devices, pool)
        asked = books.open[-1].devices
        if math.isinf(self.budget.epsilon):
            return [int(device) for device in asked]
        found = books.spent(self.budget.against).only(books.rows(asked))
        affording: list[int] = asked[found.within(self.budget.epsilon, self.budget.delta)].tolist()
        return affording

    def open(self) -> tuple[Entry, ...]:
        """What is reserved and not settled, the oldest first."""
        return self._read().open

    def epsilon(self, device: int, delta: float, against: Adversary = Adversary.SERVER) -> float:
        """What a device has spent, and for device 0 somebody who is in every release.

        0.0 for a device that is not known; inf if nothing is guaranteed at this delta.
        """
        books = self._read()
        row = int(np.searchsorted(books.devices, device))
        if row == books.devices.size or books.devices[row] != device:
            return 0.0
        return books.spent(against).only(slice(row, row + 1)).epsilon(delta)

    def chance(self, prior: float, against: Adversary = Adversary.SERVER) -> float | None:
        """The most that a guess at what one device sent is right with, which would be right with
        probability `prior`, 0 < prior < 1, without all that was let out: see
        `tacit.privacy.gaussian.guessed`. Of the device that spent most; None where noise is
        accounted for in another way."""
        return _chance(self._read().spent(against), prior)

    def statement(self, loss: float | None = None) -> Statement:
        """What may be said about all that was spent, at the budget's delta.

        `loss` is epsilon against an outsider of somebody who is in every release, by an accountant
        that has read them all: see `tacit.privacy.pld`.
        """
        books, delta = self._read(), self.budget.delta
        server, outsider = (books.spent(adversary) for adversary in Adversary)
        return Statement(
            unit=books.unit,
            neighbours=books.neighbours,
            delta=delta,
            budget=self.budget.epsilon,
            budget_against=self.budget.against,
            devices=books.devices.size - 1,
            releases=int(server.plain[EVERYONE, RELEASES]),
            unsettled=len(books.open),
            corrupt=books.corrupt,
            distance=float(server.plain[EVERYONE, DISTANCE]),
            server=_figure(server, delta),
            outsider=_figure(outsider, delta) if books.differs else None,
            loss=loss,
            is_real=books.is_real,
            is_drawn=books.is_drawn,
        )

    def _read(self) -> Books:
        data = self.storage.read(self.slot)
        if data is None:
            return Books.empty(self.unit, self.neighbours)
        books = Books.decode(data)
        if (books.unit, books.neighbours) != (self.unit, self.neighbours):
            raise ParameterError(
                f"this storage holds a ledger for {books.unit.name}, {books.neighbours.name}"
            )
        return books

    def _check(self, books: Books, entry: Entry) -> None:
        """Raises BudgetExceeded if somebody who pays for `entry` is beyond a budget."""
        if not math.isinf(self.budget.epsilon):
            self._check_each(books, entry)
        if self.whole is not None and not math.isinf(self.whole.epsilon):
            found = books.spent(self.whole.against)
            if not found.only(slice(1)).within(self.whole.epsilon, self.whole.delta)[0]:
                raise _beyond("somebody who is in every release", found, EVERYONE, self.whole)

    def _check_each(self, books: Books, entry: Entry) -> None:
        found, payers = books.spent(self.budget.against), entry.payers
        rows = found.only(books.rows(payers))
        broken = np.flatnonzero(~rows.within(self.budget.epsilon, self.budget.delta))
        if broken.size:
            first = int(broken[0])
            raise _beyond(f"device {payers[first]}", rows, first, self.budget)


def _beyond(who: str, found: Spent, row: int, budget: Budget) -> BudgetExceeded:
    spent = found.only(slice(row, row + 1)).epsilon(budget.delta)
    return BudgetExceeded(
        f"{who} would have spent epsilon {spent:.4g} of {budget.epsilon:g}, at delta "
        f"{budget.delta:g} against the {budget.against.value}"
    )


def _figure(spent: Spent, delta: float) -> Figure:
    """Of all devices; of somebody who is in every release where there are none."""
    found = np.sort(
        spent.only(slice(1, None) if len(spent.plain) > 1 else slice(1)).epsilons(delta)
    )
    everyone = spent.only(slice(1)).epsilon(delta)
    told = _chance(spent, 1 / CANDIDATES)
    is_mixed = bool(spent.mixed.any())
    return Figure(float(found[-1]), float(found[found.size // 2]), everyone, is_mixed, told)


def _chance(spent: Spent, prior: float) -> float | None:
    if spent.mixed.any():
        return None
    m = math.sqrt(float(spent.plain[:, GDP].max()))
    # The samplers' distance, far below any other digit, adds to a chance as it is.
    return min(1.0, guessed(m, prior) + float(spent.plain[:, DISTANCE].max()))
