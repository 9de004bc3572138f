"""What a ledger knows, as one frozen value, and its bytes: no storage, no budget.

Row i says what device `devices[i]` has spent of what is settled; row 0 is somebody who is in every
release. What is reserved is kept as it was asked for, and added whenever somebody looks: so it goes
without a trace when something else came of it.
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.crypto.identity import MAX_DEVICES
from tacit.crypto.vector import Floats
from tacit.crypto.wire import Reader, Writer
from tacit.privacy.accountants import GDP, ORDERS, Adversary, Spent, compose, is_amplified
from tacit.privacy.releases import FORMAT, Gaussian, Neighbours, Release, Source, Unit

Devices = NDArray[np.uint64]  # sorted, without repeats
Rows = NDArray[np.intp] | slice
Listed = Sequence[int] | NDArray[np.integer[Any]]

EVERYONE = 0  # devices are numbered from 1
MAX_OPEN = 1 << 16  # reservations
MAX_RELEASES = 1 << 8  # of one of them

_NOBODY = np.zeros(0, np.uint64)


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """Releases of one sum, or what may have been released of it.

    `devices` pay for them, and where drawing them counts all of `pool` does, from whom they were
    drawn: see `accountants.is_amplified`.
    """

    serial: int
    releases: tuple[Release, ...]
    devices: Devices
    pool: Devices

    def costs(self, adversary: Adversary) -> Iterable[tuple[Devices, Spent]]:
        """Who pays what."""
        drawn = [r for r in self.releases if _drawn(r) and is_amplified(r, adversary)]
        named = [r for r in self.releases if r not in drawn]
        for devices, releases in ((self.devices, named), (self.pool, drawn)):
            if releases:
                yield devices, compose(releases, adversary)

    def became(self, survivors: int | None, devices: Listed | None) -> "Entry | None":
        """With what came of it: see `Ledger.settle`. Raises ParameterError for what cannot be."""
        if survivors == 0:
            return None
        releases, paying = self.releases, self.devices
        if survivors is not None:
            releases = tuple(replace(release, survivors=survivors) for release in releases)
        if devices is not None:
            paying = _sorted(devices)
            if _rows(self.devices, paying) is None:
                raise ParameterError("a device that is not in the reservation")
            if paying.size > min(release.survivors for release in releases):
                raise ParameterError(f"{paying.size} devices among fewer survivors")
        return replace(self, releases=releases, devices=paying)

    @property
    def payers(self) -> Devices:
        return np.union1d(self.devices, self.pool) if self.pool.size else self.devices

    def has_less(self, than: "Entry") -> bool:
        """Whether there is less noise in any of the releases, which are the same as those."""
        pairs = zip(self.releases, than.releases, strict=True)
        return any(ours.shares < theirs.shares for ours, theirs in pairs)

    @property
    def corrupt(self) -> float:
        """The smallest part of corrupt devices in shared noise; 1.0 where none is shared."""
        shared = (r for r in self.releases if r.source is Source.SHARED)
        return min((r.corrupt / r.survivors for r in shared), default=1.0)

    @property
    def differs(self) -> bool:
        """Whether it does not cost the same against the server as against others."""
        return any(
            release.source is Source.SERVER or is_amplified(release, Adversary.OUTSIDER)
            for release in self.releases
        )

    def write(self, writer: Writer) -> None:
        writer.u64(self.serial).u32(len(self.releases))
        for release in self.releases:
            writer.blob(release.encode())
        for devices in (self.devices, self.pool):
            writer.blob(devices.astype("<u8", copy=False).tobytes())

    @classmethod
    def read(cls, reader: Reader) -> "Entry":
        serial, count = reader.u64(), reader.count(MAX_RELEASES)
        if not count:
            raise reader.bad("a reservation of nothing")
        releases = tuple(Release.decode(reader.blob()) for _ in range(count))
        devices, pool = _read_devices(reader), _read_devices(reader)
        if EVERYONE in (*devices[:1], *pool[:1]):
            raise reader.bad("a reservation of everyone")
        return cls(serial, releases, devices, pool)


@dataclass(frozen=True, slots=True, eq=False)
class Books:
    """`outsider` is None as long as it would be the same as `server`.

    `corrupt` is the smallest share of corrupt devices that any shared noise was counted with.
    """

    unit: Unit
    neighbours: Neighbours
    devices: Devices
    server: Spent
    outsider: Spent | None = None
    open: tuple[Entry, ...] = ()
    serial: int = 0
    corrupt: float = 1.0
    is_real: bool = False  # some noise was in floating point
    is_drawn: bool = False  # some units were drawn

    @classmethod
    def empty(cls, unit: Unit, neighbours: Neighbours) -> "Books":
        return cls(unit, neighbours, np.zeros(1, np.uint64), Spent.nothing(1))

    def reserving(self, releases: Sequence[Release], devices: Listed, pool: Listed) -> "Books":
        """With one more reservation, the last of `open`. Raises ParameterError if it is none."""
        if not 1 <= len(releases) <= MAX_RELEASES or len(self.open) >= MAX_OPEN:
            raise ParameterError(
                f"{len(releases)} releases beside {len(self.open)} open reservations: expected 1 "
                f".. {MAX_RELEASES}, beside fewer than {MAX_OPEN}"
            )
        entry = Entry(self.serial + 1, tuple(releases), _sorted(devices), _pool(releases, pool))
        for release in releases:
            self._check(release, entry)
        return replace(
            self._knowing(entry.payers),
            open=(*self.open, entry),
            serial=entry.serial,
            corrupt=min(self.corrupt, entry.corrupt),
            is_real=self.is_real or any(isinstance(r.mechanism, Gaussian) for r in releases),
            is_drawn=self.is_drawn or any(r.rate < 1 for r in releases),
        )

    def _check(self, release: Release, entry: Entry) -> None:
        if (release.unit, release.neighbours) != (self.unit, self.neighbours):
            raise ParameterError(
                f"a ledger for {self.unit.name}, {self.neighbours.name} has no place for "
                f"{release.unit.name}, {release.neighbours.name}"
            )
        if not 1 <= entry.devices.size <= release.cohort:
            raise ParameterError(f"{entry.devices.size} devices in a cohort of {release.cohort}")
        if entry.pool.size and _rows(entry.pool, entry.devices) is None:
            raise ParameterError("a device that is not among those it was drawn from")

    def entry(self, serial: int) -> Entry:
        """Raises ParameterError if it is not open."""
        for entry in self.open:
            if entry.serial == serial:
                return entry
        raise ParameterError(f"there is no open reservation {serial}")

    def settling(self, entry: Entry, became: Entry | None) -> "Books":
        """With a reservation closed, and what became of it, None for nothing."""
        books = replace(self, open=tuple(other for other in self.open if other is not entry))
        if became is None:
            return books
        outsider = self.server if self.outsider is None and became.differs else self.outsider
        return replace(
            books,
            corrupt=min(self.corrupt, became.corrupt),  # who is credited is taken to be honest
            server=books._charged(self.server, became, Adversary.SERVER),
            outsider=outsider and books._charged(outsider, became, Adversary.OUTSIDER),
        )

    def spent(self, adversary: Adversary) -> Spent:
        """All rows, with what is reserved."""
        is_server = adversary is Adversary.SERVER or self.outsider is None
        found = self.server if is_server else self.outsider
        assert found is not None
        for entry in self.open:
            found = self._charged(found, entry, adversary)
        return found

    @property
    def differs(self) -> bool:
        """Whether an outsider sees less than the server does."""
        return self.outsider is not None or any(entry.differs for entry in self.open)

    def rows(self, devices: Devices) -> Rows:
        """Where devices are; all of them have to be known. A slice for every device."""
        found = _rows(self.devices, devices)
        assert found is not None
        return found

    def _charged(self, spent: Spent, entry: Entry, adversary: Adversary) -> Spent:
        for devices, paid in entry.costs(adversary):
            rows = self.rows(devices)
            both = slice(None) if isinstance(rows, slice) else np.append(EVERYONE, rows)
            spent = spent.charged(both, paid)
        return spent

    def _knowing(self, devices: Devices) -> "Books":
        """With a row for each of these devices."""
        if _rows(self.devices, devices) is not None:
            return self
        every = np.union1d(self.devices, devices)
        if every.size > MAX_DEVICES:
            raise ParameterError(f"{every.size - 1} devices, at most {MAX_DEVICES - 1} allowed")
        places = np.searchsorted(every, self.devices)

        def moved(spent: Spent) -> Spent:
            curve = spent.curve
            return Spent(
                _spread(spent.plain, places, every.size),
                None if curve is None else _spread(curve, places, every.size),
            )

        return replace(
            self,
            devices=every,
            server=moved(self.server),
            outsider=self.outsider and moved(self.outsider),
        )

    def encode(self) -> bytes:
        writer = Writer().u8(FORMAT).u8(self.unit).u8(self.neighbours).u64(self.serial)
        writer.f64(self.corrupt).u8(self.is_real).u8(self.is_drawn)
        writer.blob(self.devices.astype("<u8", copy=False).tobytes()).u8(self.outsider is not None)
        for spent in (self.server, self.outsider):
            if spent is not None:
                curve = np.zeros(0) if spent.curve is None else spent.curve
                for table in (spent.plain, curve):
                    writer.blob(table.astype("<f8", copy=False).tobytes())
        writer.u32(len(self.open))
        for entry in self.open:
            entry.write(writer)
        return writer.data()

    @classmethod
    def decode(cls, data: bytes) -> "Books":
        """Inverse of `encode`. Raises MalformedMessage."""
        reader = Reader(data, sender=0, stage="ledger")
        if (version := reader.u8()) != FORMAT:
            raise reader.bad(f"format {version}")
        try:
            unit, neighbours = Unit(reader.u8()), Neighbours(reader.u8())
        except ValueError as bad:
            raise reader.bad(str(bad)) from None
        serial, corrupt, real, drawn = reader.u64(), reader.f64(), reader.u8(), reader.u8()
        devices, differs = _read_devices(reader), reader.u8()
        if not 0 <= corrupt <= 1 or max(real, drawn, differs) > 1 or devices[:1].tolist() != [0]:
            raise reader.bad("no ledger looks like this")
        server = _read_spent(reader, devices.size)
        outsider = _read_spent(reader, devices.size) if differs else None
        entries = tuple(Entry.read(reader) for _ in range(reader.count(MAX_OPEN)))
        reader.end()
        serials = [entry.serial for entry in entries]
        if serials != sorted(set(serials)) or serials[-1:] > [serial]:
            raise reader.bad("reservations out of order")
        if any(_rows(devices, some) is None for e in entries for some in (e.devices, e.pool)):
            raise reader.bad("a reservation of a device without a row")
        books = cls(
            unit, neighbours, devices, server, outsider, entries, serial, corrupt,
            bool(real), bool(drawn),
        )  # fmt: skip
        try:
            for entry in entries:
                for release in entry.releases:
                    books._check(release, entry)
        except ParameterError as bad:
            raise reader.bad(str(bad)) from None
        return books


def _drawn(release: Release) -> bool:
    """Whether it is devices that were drawn, to an outsider's loss."""
    return release.unit is Unit.CLIENT and is_amplified(release, Adversary.OUTSIDER)


def _pool(releases: Sequence[Release], pool: Listed) -> Devices:
    """Nobody where drawing does not count: then only those who were drawn pay."""
    if not any(_drawn(release) for release in releases):
        return _NOBODY
    if not len(pool):
        raise ParameterError("devices were drawn: from which? All of those pay for it")
    return _sorted(pool)


def _sorted(devices: Listed) -> Devices:
    try:
        # Through numpy a list of large and small numbers would become floats.
        given = devices if isinstance(devices, np.ndarray) else np.array(array("Q", devices))
    except (TypeError, OverflowError):
        given = np.zeros(1)
    if given.ndim != 1 or given.dtype.kind not in "iu" or given.min(initial=1) < 1:
        raise ParameterError("devices have whole numbers from 1")
    found: Devices = given.astype(np.uint64)
    if not _is_ordered(found):
        found.sort()
        if not _is_ordered(found):
            raise ParameterError("a device twice")
    return found


def _is_ordered(devices: Devices) -> bool:
    return bool((devices[1:] > devices[:-1]).all())


def _rows(every: Devices, some: Devices) -> Rows | None:
    """Where some devices are among all; None if one is not there."""
    if some.size + 1 == every.size and np.array_equal(every[1:], some):
        return slice(1, None)  # numpy is ten times as fast with it
    if some.size == 0:
        return np.zeros(0, np.intp)
    if some[-1] > every[-1]:
        return None
    if every[-1] == every.size - 1:  # 0, 1, 2, ..: no need to search
        return some.astype(np.intp)
    found = np.searchsorted(every, some)
    return found if np.array_equal(every[found], some) else None


def _spread(table: Floats, places: NDArray[np.intp], rows: int) -> Floats:
    out = np.zeros((rows, table.shape[1]))
    out[places] = table
    return out


def _read_devices(reader: Reader) -> Devices:
    found = np.frombuffer(_view(reader, 8), "<u8").astype(np.uint64, copy=False)
    if not _is_ordered(found):
        raise reader.bad("devices out of order")
    return found


def _read_spent(reader: Reader, rows: int) -> Spent:
    plain = _read_table(reader, rows, 4)
    if plain is None:
        raise reader.bad("no table")
    return Spent(plain, _read_table(reader, rows, ORDERS.size))


def _read_table(reader: Reader, rows: int, columns: int) -> Floats | None:
    """None for an empty one."""
    found = np.frombuffer(_view(reader, 8), "<f8").astype(np.float64, copy=False)
    if found.size == 0:
        return None
    if found.size != rows * columns:
        raise reader.bad(f"{found.size} numbers for {rows} devices")
    table: Floats = found.reshape(rows, columns)
    finite = table[:, GDP + 1 :] if columns == 4 else table  # what the server adds costs inf there
    if not (table.min() >= 0 and finite.max() < np.inf):  # also true for NaN
        raise reader.bad("a cost that is not a number from 0 on")
    return table


def _view(reader: Reader, size: int) -> memoryview:
    length = reader.u32()
    if length % size:
        raise reader.bad(f"{length} bytes of numbers of {size}")
    return reader.view(length)
