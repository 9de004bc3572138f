"""The ledger: nothing is let out that it has not counted, whatever breaks, and nothing beyond."""

import math
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tacit.client.vault import FileVault
from tacit.crypto.errors import BudgetExceeded, MalformedMessage, ParameterError
from tacit.privacy.accountants import Adversary, compose
from tacit.privacy.books import Books
from tacit.privacy.gaussian import epsilon_of, limit
from tacit.privacy.ledger import Budget, Ledger, Storage
from tacit.privacy.releases import (
    Concentrated,
    Discrete,
    Gaussian,
    Neighbours,
    Release,
    Source,
    Unit,
    Use,
)
from tacit.privacy.samplers import Skellam
from tests.privacy.records import Shelf, gaussian, release

SLOT = "ledger_client_zero_out"
SERVER, OUTSIDER = Adversary.SERVER, Adversary.OUTSIDER
BUDGET = Budget(4.0, 1e-5)
EIGHT = Gaussian(1.0, 8 / math.sqrt(7))  # of seven honest shares: a multiplier of 8


def ledger(storage: Storage, budget: Budget = BUDGET, whole: Budget | None = None) -> Ledger:
    """A new object each time, as after a restart."""
    return Ledger(storage, Unit.CLIENT, Neighbours.ZERO_OUT, budget, whole)


def shared(**changes: object) -> Release:
    return release(EIGHT, **changes)


# Crashes


class PowerCut(BaseException):
    """Not an Exception: nothing that catches errors may go on after it."""


class Flaky(Shelf):
    """Loses power once where it is told to: before it has written, or after."""

    cut: str | None = None

    def write(self, slot: str, value: bytes) -> None:
        cut, self.cut = self.cut, None
        if cut == "before":
            raise PowerCut
        super().write(slot, value)
        if cut == "after":
            raise PowerCut


cuts = st.sampled_from([None, None, None, "before", "after"])
cohorts = st.lists(st.integers(1, 6), min_size=1, max_size=6, unique=True)


class Life(RuleBasedStateMachine):
    """A server's ledger beside what really happened. A sum is opened only once `reserve` came
    back, by as many survivors as were reserved or more; who tells the ledger may crash, forget,
    or come late."""

    @initialize(whole=st.booleans())
    def begin(self, whole: bool) -> None:
        self.storage = Flaky()
        self.budget = Budget(3.0, 1e-5)
        self.whole = Budget(5.0, 1e-5) if whole else None
        self.counted: dict[int, tuple[Release, list[int]]] = {}  # as the ledger should have it
        self.may_open: set[int] = set()
        self.opened: dict[int, tuple[Release, list[int]]] = {}
        self.before: dict[int, float] = {}
        self.last = 0

    @property
    def ledger(self) -> Ledger:
        return ledger(self.storage, self.budget, self.whole)

    @rule(devices=cohorts, multiplier=st.sampled_from([1.5, 3.0, 8.0]), cut=cuts)
    def reserve(self, devices: list[int], multiplier: float, cut: str | None) -> None:
        record = release(Gaussian(1.0, multiplier), cohort=9, survivors=4, corrupt=2)
        content, self.storage.cut = self.storage.get(SLOT), cut
        try:
            serial = self.ledger.reserve([record], devices)
        except BudgetExceeded:
            assert self.storage.get(SLOT) == content
            assert any(self.would_break(device, record) for device in [0, *devices])
        except PowerCut:
            if cut == "after":
                self.last += 1
                self.counted[self.last] = (record, devices)
        else:
            assert not any(self.would_break(device, record) for device in [0, *devices])
            assert serial == self.last + 1
            self.last = serial
            self.counted[serial] = (record, devices)
            self.may_open.add(serial)
        self.storage.cut = None

    @precondition(lambda self: self.may_open)
    @rule(data=st.data(), survivors=st.integers(4, 9))
    def open(self, data: st.DataObject, survivors: int) -> None:
        serial = data.draw(st.sampled_from(sorted(self.may_open)))
        self.may_open.remove(serial)
        record, devices = self.counted[serial]
        there = data.draw(st.lists(st.sampled_from(devices), unique=True, max_size=survivors))
        self.opened[serial] = (replace(record, survivors=survivors), there)

    @precondition(lambda self: self.opened)
    @rule(data=st.data(), cut=cuts, exactly=st.booleans())
    def settle(self, data: st.DataObject, cut: str | None, exactly: bool) -> None:
        serial = data.draw(st.sampled_from(sorted(self.opened)))
        record, there = self.opened[serial]
        is_open = serial in [entry.serial for entry in self.ledger.open()]
        self.storage.cut = cut
        try:
            if exactly:
                self.ledger.settle(serial, record.survivors, there)
            else:
                self.ledger.settle(serial)
        except PowerCut:
            assert is_open
            is_open = cut == "after"
        except ParameterError:
            assert not is_open
        if is_open and exactly:
            self.counted[serial] = (record, there)
        self.storage.cut = None

    @precondition(lambda self: self.may_open)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        serial = data.draw(st.sampled_from(sorted(self.may_open)))
        self.may_open.remove(serial)
        self.ledger.settle(serial, 0)
        del self.counted[serial]

    def spent(self, found: dict[int, tuple[Release, list[int]]], device: int) -> list[Release]:
        return [record for record, there in found.values() if device in (0, *there)]

    def would_break(self, device: int, record: Release) -> bool:
        budget = self.budget if device else self.whole
        if budget is None:
            return False
        paid = [*self.spent(self.counted, device), record]
        return compose(paid, SERVER).epsilon(budget.delta) > budget.epsilon * (1 + 1e-9)

    @invariant()
    def what_was_let_out_is_counted_and_within_the_budget(self) -> None:
        for device in range(7):
            told = self.ledger.epsilon(device, 1e-5)
            expected = compose(self.spent(self.counted, device), SERVER).epsilon(1e-5)
            assert told == pytest.approx(expected, rel=1e-9)
            real = compose(self.spent(self.opened, device), SERVER).epsilon(1e-5)
            assert real <= told * (1 + 1e-9)
            budget = self.budget if device else self.whole
            if budget is not None:
                assert told <= budget.epsilon * (1 + 1e-9)


Life.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestLife = Life.TestCase


def test_a_ledger_that_counts_late_would_be_caught() -> None:
    """The law of `Life`, of one that writes only once a sum is settled."""
    storage = Flaky()
    serial = ledger(Shelf()).reserve([shared()], [1])  # on paper that burns
    with pytest.raises(ParameterError, match="no open reservation"):
        ledger(storage).settle(serial)
    assert ledger(storage).epsilon(1, 1e-5) == 0 < compose([shared()], SERVER).epsilon(1e-5)


def test_it_lives_in_a_device_s_vault(tmp_path: Path) -> None:
    """Durable, and found again by another process."""
    vault = FileVault.create(tmp_path / "vault", bytes(32))
    ledger(vault).reserve([shared()], [5])
    spent = ledger(FileVault.open(tmp_path / "vault")).epsilon(5, 1e-5)
    assert spent == pytest.approx(epsilon_of(1 / 8, 1e-5))


# Reserving and settling


def test_reserved_counts_in_full_until_it_is_settled() -> None:
    storage = Shelf()
    serial = ledger(storage).reserve([shared(survivors=6)], range(1, 10))
    full = ledger(storage).epsilon(3, 1e-5)
    assert full == pytest.approx(epsilon_of(math.sqrt(7 / 3) / 8, 1e-5))
    ledger(storage).settle(serial, 10)
    credited = ledger(storage).epsilon(3, 1e-5)
    assert credited == pytest.approx(epsilon_of(1 / 8, 1e-5))
    assert ledger(storage).open() == ()


def test_who_was_missing_does_not_pay() -> None:
    storage = Shelf()
    serial = ledger(storage).reserve([shared(survivors=4)], [1, 2, 3, 4, 5])
    ledger(storage).settle(serial, 4, [1, 2, 4])
    assert [device for device in range(7) if ledger(storage).epsilon(device, 1e-5)] == [0, 1, 2, 4]


def test_what_was_not_opened_costs_nothing() -> None:
    storage = Shelf()
    serial = ledger(storage).reserve([shared()], [1])
    ledger(storage).settle(serial, 0)
    assert ledger(storage).epsilon(1, 1e-5) == ledger(storage).epsilon(0, 1e-5) == 0.0


def test_rows_stay_those_of_their_devices_when_others_come() -> None:
    storage = Shelf()
    for times, device in enumerate((5, 2, 9, 1), 1):
        ledger(storage).settle(ledger(storage).reserve([shared()] * times, [device]))
    for times, device in enumerate((5, 2, 9, 1), 1):
        expected = epsilon_of(math.sqrt(times) / 8, 1e-5)
        assert ledger(storage).epsilon(device, 1e-5) == pytest.approx(expected)


def test_a_reservation_is_settled_once() -> None:
    storage = Shelf()
    serial = ledger(storage).reserve([shared()], [1])
    ledger(storage).settle(serial)
    with pytest.raises(ParameterError, match="no open reservation 1"):
        ledger(storage).settle(serial)
    assert ledger(storage).reserve([shared()], [1]) == serial + 1


@pytest.mark.parametrize(
    ("survivors", "devices", "why"),
    [
        (3, None, "corrupt < survivors"),
        (13, None, "survivors <= cohort"),
        (5, [7], "not in the reservation"),
        (4, [1, 2, 3, 4, 5], "5 devices among fewer survivors"),
    ],
)
def test_what_cannot_have_been_is_not_recorded(
    survivors: int, devices: list[int] | None, why: str
) -> None:
    storage = Shelf()
    serial = ledger(storage).reserve([shared()], [1, 2, 3, 4, 5])
    content = storage[SLOT]
    with pytest.raises(ParameterError, match=why):
        ledger(storage).settle(serial, survivors, devices)
    assert storage[SLOT] == content


def test_what_did_happen_is_recorded_even_beyond_the_budget() -> None:
    """Whoever opened a sum over fewer than were reserved hears of it, and may let out no more."""
    storage = Shelf()
    serial = ledger(storage).reserve([release(Gaussian(1.0, 1.0), survivors=10)], [1])
    with pytest.raises(BudgetExceeded, match=r"device 1 would have spent epsilon 4\.377 of 4"):
        ledger(storage).settle(serial, 4)
    assert ledger(storage).epsilon(1, 1e-5) == pytest.approx(epsilon_of(1.0, 1e-5))
    with pytest.raises(BudgetExceeded):
        ledger(storage).reserve([release(Gaussian(1.0, 1e6))], [1])


def test_a_release_that_lost_noise_beside_one_that_has_little_is_told_of() -> None:
    """What devices make private by themselves has one share, and hides no other's loss."""
    storage = Shelf()
    own = release(Gaussian(1.0, 50.0), source=Source.OWN)
    serial = ledger(storage).reserve([release(Gaussian(1.0, 1.0), survivors=10), own], [1])
    with pytest.raises(BudgetExceeded):
        ledger(storage).settle(serial, 4)
    assert ledger(storage).epsilon(1, 1e-5) > 4.0


def test_a_budget_that_was_lowered_since_does_not_stop_what_is_settled() -> None:
    storage = Shelf()
    serials = [ledger(storage).reserve([shared()], [1]) for _ in range(2)]
    ledger(storage, Budget(0.1, 1e-5)).settle(serials[0], 12)
    ledger(storage, Budget(0.1, 1e-5)).settle(serials[1])
    with pytest.raises(BudgetExceeded):
        ledger(storage, Budget(0.1, 1e-5)).reserve([shared()], [1])


def test_several_releases_of_a_sum_stand_or_fall_together() -> None:
    storage = Shelf()
    bit = release(Discrete(Skellam(Fraction(4)), 1, 1), use=Use.CLIP_BIT)
    ledger(storage).reserve([shared(), bit], [1])
    both = compose([shared(), bit], SERVER).epsilon(1e-5)
    assert ledger(storage).epsilon(1, 1e-5) == pytest.approx(both)
    content = storage[SLOT]
    with pytest.raises(BudgetExceeded):
        ledger(storage).reserve([bit, release(Gaussian(1.0, 0.1))], [1])
    assert storage[SLOT] == content


# Budgets


def test_the_last_release_that_fits_is_made() -> None:
    """As many as the closed form allows, and not one more."""
    storage, most = Shelf(), math.floor((limit(4.0, 1e-5) * 8) ** 2)
    for _ in range(most):
        ledger(storage).settle(ledger(storage).reserve([shared()], [1]))
    with pytest.raises(BudgetExceeded, match="device 1 would have spent epsilon 4"):
        ledger(storage).reserve([shared()], [1])
    assert ledger(storage).epsilon(1, 1e-5) <= 4.0
    assert ledger(storage).epsilon(1, 1e-5) > 4.0 - 0.05
    ledger(storage).reserve([shared()], [2])


def test_one_who_is_spent_stops_the_sum_and_is_named() -> None:
    storage = Shelf()
    half = release(Gaussian(1.0, 0.5))
    ledger(storage).reserve([half], [3])
    assert ledger(storage).affordable([half], [1, 2, 3, 4]) == [1, 2, 4]
    with pytest.raises(BudgetExceeded, match="device 3"):
        ledger(storage).reserve([half], [1, 2, 3, 4])
    ledger(storage).reserve([half], [1, 2, 4])
    assert ledger(storage).affordable([half], [1, 2, 3, 4]) == []


def test_a_run_ends_however_devices_take_turns() -> None:
    storage, whole = Shelf(), Budget(4.0, 1e-5)
    record = release(Gaussian(1.0, 1.0))
    for device in range(1, 6):
        ledger(storage, whole=whole).reserve([record], [device])
    with pytest.raises(BudgetExceeded, match="somebody who is in every release"):
        ledger(storage, whole=whole).reserve([record], [6])
    ledger(storage).reserve([record], [6])


@pytest.mark.parametrize(
    ("epsilon", "delta"),
    [
        (0.0, 1e-5),
        (-1.0, 1e-5),
        (math.nan, 1e-5),
        (-math.inf, 1e-5),
        (701.0, 1e-5),
        (1.0, 0.0),
        (1.0, 1.0),
        (1.0, -1e-5),
        (1.0, math.nan),
    ],
)
def test_impossible_budgets_are_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(ParameterError, match="expected 0 <"):
        Budget(epsilon, delta)


def test_a_budget_is_against_somebody() -> None:
    with pytest.raises(ParameterError, match="against='server', expected an Adversary"):
        Budget(1.0, 1e-5, "server")  # type: ignore[arg-type]


def test_a_generous_budget_is_no_obstacle() -> None:
    """At epsilon 600 any sampler's distance is too much for any delta; what was spent is not."""
    storage = Shelf()
    ledger(storage, Budget(600.0, 1e-5)).reserve([release()], [1])
    assert 0 < ledger(storage).epsilon(1, 1e-5) < 10


def test_noise_of_the_server_needs_a_budget_against_others() -> None:
    record = gaussian(2.0)
    with pytest.raises(BudgetExceeded, match="epsilon inf"):
        ledger(Shelf()).reserve([record], [1])
    storage, outside = Shelf(), Budget(4.0, 1e-5, OUTSIDER)
    ledger(storage, outside).settle(ledger(storage, outside).reserve([record], [1]))
    assert ledger(storage).epsilon(1, 1e-5) == math.inf
    assert ledger(storage).epsilon(1, 1e-5, OUTSIDER) == pytest.approx(epsilon_of(0.5, 1e-5))
    with pytest.raises(BudgetExceeded):
        ledger(storage, outside).reserve([gaussian(0.3)], [1])


# Drawing


def test_all_who_could_have_been_drawn_pay_where_it_counts() -> None:
    storage, outside = Shelf(), Budget(4.0, 1e-5, OUTSIDER)
    record = gaussian(1.0, 0.25)
    with pytest.raises(ParameterError, match="from which"):
        ledger(storage, outside).reserve([record], [2])
    with pytest.raises(ParameterError, match="not among those"):
        ledger(storage, outside).reserve([record], [2], [1, 3])
    serial = ledger(storage, outside).reserve([record], [2], [1, 2, 3, 4])
    reserved = [ledger(storage).epsilon(device, 1e-5, OUTSIDER) for device in range(6)]
    ledger(storage, outside).settle(serial, 10, [2])
    assert [ledger(storage).epsilon(device, 1e-5, OUTSIDER) for device in range(6)] == reserved
    drawn = compose([record], OUTSIDER).epsilon(1e-5)
    assert reserved == [drawn] * 5 + [0.0]
    assert 0 < drawn < epsilon_of(1.0, 1e-5)
    assert [ledger(storage).epsilon(device, 1e-5) for device in range(4)] == [
        math.inf,
        0.0,
        math.inf,
        0.0,
    ]


def test_where_it_does_not_count_only_those_in_the_sum_pay() -> None:
    storage = Shelf()
    record = shared(rate=0.25, is_count_hidden=True)
    ledger(storage).settle(ledger(storage).reserve([record], [2], [1, 2, 3]))
    for adversary in Adversary:
        found = [ledger(storage).epsilon(device, 1e-5, adversary) for device in (1, 2, 3)]
        assert found == [0.0, pytest.approx(epsilon_of(1 / 8, 1e-5)), 0.0]


def test_drawn_examples_cost_their_devices_less_against_others() -> None:
    storage = Shelf()
    books = Ledger(storage, Unit.RECORD, Neighbours.ZERO_OUT, BUDGET)
    record = replace(shared(rate=0.01, is_count_hidden=True), unit=Unit.RECORD)
    for _ in range(30):
        books.settle(books.reserve([record], [1, 2]), 12, [1])
    server, outsider = (books.epsilon(1, 1e-5, adversary) for adversary in Adversary)
    paid = [replace(record, survivors=12)] * 30
    assert server == pytest.approx(compose(paid, SERVER).epsilon(1e-5), rel=1e-9)
    assert outsider == pytest.approx(compose(paid, OUTSIDER).epsilon(1e-5), rel=1e-9)
    assert outsider < server / 10
    assert books.epsilon(2, 1e-5) == 0.0


# What it refuses


@pytest.mark.parametrize(
    ("releases", "devices", "why"),
    [
        ([], [1], "0 releases"),
        ([shared()] * 257, [1], "257 releases"),
        ([shared()], [], "0 devices in a cohort of 12"),
        ([shared()], range(1, 14), "13 devices in a cohort of 12"),
        ([shared()], [1, 1], "a device twice"),
        ([shared()], [0], "whole numbers from 1"),
        ([shared()], [-1], "whole numbers from 1"),
        ([shared()], [1.5], "whole numbers from 1"),
        ([shared()], [[1]], "whole numbers from 1"),
        ([replace(shared(), unit=Unit.RECORD)], [1], "has no place for RECORD"),
        ([replace(shared(), neighbours=Neighbours.REPLACE_ONE)], [1], "no place for"),
    ],
)
def test_reservations_without_a_sense_are_refused(
    releases: list[Release], devices: list[int], why: str
) -> None:
    storage = Shelf()
    with pytest.raises(ParameterError, match=why):
        ledger(storage).reserve(releases, devices)
    assert not storage


def test_a_storage_is_for_one_unit_and_relation() -> None:
    storage = Shelf()
    ledger(storage).reserve([shared()], [1])
    other = Ledger(storage, Unit.CLIENT, Neighbours.REPLACE_ONE, BUDGET)
    assert other.epsilon(1, 1e-5) == 0  # each has a slot of its own
    storage[other.slot] = storage[SLOT]
    with pytest.raises(ParameterError, match="holds a ledger for CLIENT, ZERO_OUT"):
        other.epsilon(1, 1e-5)


# Its bytes


def full() -> bytes:
    """Of a ledger that has something of everything."""
    storage, outside = Shelf(), Budget(600.0, 0.1, OUTSIDER)
    records = [
        gaussian(1.0, 0.25),
        shared(),
        release(Concentrated(0.1, 1e-9), source=Source.OWN),
        release(rate=0.5, is_count_hidden=True),
    ]
    for devices in ([1, 5, 1 << 63], [2, 5]):
        ledger(storage, outside).settle(
            ledger(storage, outside).reserve(records, devices, [1, 2, 3, 5, 1 << 63])
        )
    ledger(storage, outside).reserve(records[:2], [3, 5], [3, 4, 5])
    ledger(storage, outside).reserve(records[1:], [5])
    return storage[SLOT]


def test_books_come_back_from_their_bytes() -> None:
    data = full()
    books = Books.decode(data)
    assert books.encode() == data
    assert books.devices.tolist() == [0, 1, 2, 3, 4, 5, 1 << 63]
    assert [entry.serial for entry in books.open] == [3, 4]


def test_books_that_were_cut_short_are_refused() -> None:
    data = full()
    for end in [*range(200), *range(200, len(data), 97), len(data) - 1]:
        with pytest.raises(MalformedMessage):
            Books.decode(data[:end])
    with pytest.raises(MalformedMessage):
        Books.decode(data + b"\0")


@pytest.fixture(scope="module")
def written() -> bytes:
    return full()


@settings(max_examples=300)
@given(at=st.integers(0, 10**9), flip=st.integers(1, 255))
def test_damaged_books_are_refused_or_read_as_they_are(written: bytes, at: int, flip: int) -> None:
    """Whatever decodes encodes the same, and no cost in it is below 0."""
    data = bytearray(written)
    data[at % len(data)] ^= flip
    try:
        books = Books.decode(bytes(data))
    except MalformedMessage:
        return
    assert books.encode() == bytes(data)
    for spent in (books.server, books.outsider):
        assert spent is not None
        assert spent.plain.min() >= 0


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"releases": (replace(shared(), unit=Unit.RECORD),)}, "has no place for RECORD"),
        ({"devices": np.zeros(0, np.uint64)}, "0 devices in a cohort"),
        ({"devices": np.zeros(1, np.uint64)}, "a reservation of everyone"),
        ({"pool": np.zeros(1, np.uint64)}, "a reservation of everyone"),
        ({"pool": np.array([5], np.uint64)}, "not among those it was drawn from"),
        ({"devices": np.array([4], np.uint64)}, "without a row"),
    ],
)
def test_reservations_that_could_not_be_made_are_not_read(
    changes: dict[str, object], why: str
) -> None:
    storage = Shelf()
    ledger(storage).settle(ledger(storage).reserve([shared()], [5]))
    ledger(storage).reserve([shared()], [3])
    books = Books.decode(storage[SLOT])
    wrong = replace(books, open=(replace(books.open[0], **changes),))
    with pytest.raises(MalformedMessage, match=why):
        Books.decode(wrong.encode())


def test_new_versions_of_messages_leave_ledgers_as_they_are() -> None:
    """A ledger that cannot be read is one that somebody deletes."""
    code = (
        "import tacit.crypto.wire as wire; wire.VERSION += 1\n"
        "from tests.privacy.test_ledger import full\n"
        "print(full().hex())"
    )
    root = Path(__file__).parents[2]
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert bytes.fromhex(told.stdout) == full()


@pytest.mark.parametrize(("was", "becomes"), [(0.1, -0.1), (0.1, math.nan), (0.1, math.inf)])
def test_no_cost_is_below_zero_or_no_number(was: float, becomes: float) -> None:
    """The rho of the only zCDP release of a device."""
    data, rho = full(), np.array([was]).tobytes()
    assert data.count(rho) > 2
    with pytest.raises(MalformedMessage, match="a cost that is not a number from 0 on"):
        Books.decode(data.replace(rho, np.array([becomes]).tobytes(), 1))


# What may be said


def test_a_statement_has_the_worst_and_the_median_device() -> None:
    storage = Shelf()
    for device in range(1, 6):
        for _ in range(device):
            ledger(storage).settle(ledger(storage).reserve([shared()], [device]))
    ledger(storage).reserve([shared(survivors=4, corrupt=2)], [1])
    said = ledger(storage).statement()
    assert said.server.worst == ledger(storage).epsilon(5, 1e-5)
    assert said.server.median == sorted(ledger(storage).epsilon(d, 1e-5) for d in range(1, 6))[2]
    assert said.server.everyone == ledger(storage).epsilon(0, 1e-5)
    assert (said.devices, said.releases, said.unsettled) == (5, 16, 1)
    assert said.corrupt == pytest.approx(0.3)
    assert said.outsider is None
    assert said.is_real
    assert not said.is_drawn
    assert not said.server.is_renyi
    assert "worst of 5 devices" in said.text()


def test_who_is_credited_is_not_said_to_be_corrupt() -> None:
    """Five of ten may be corrupt, and of a hundred five: that half of those are is not counted."""
    storage, record = Shelf(), shared(cohort=100, survivors=10, corrupt=5)
    serial = ledger(storage).reserve([record], [1])
    assert ledger(storage).statement().corrupt == 0.5
    ledger(storage).settle(serial, 100)
    assert ledger(storage).statement().corrupt == 0.05


def test_a_statement_has_both_figures_where_they_differ() -> None:
    storage, outside = Shelf(), Budget(4.0, 1e-5, OUTSIDER)
    ledger(storage, outside).reserve([gaussian(1.0, 0.25)], [1], [1, 2])
    said = ledger(storage, outside).statement(loss=0.5)
    assert said.outsider is not None
    assert said.server.worst == math.inf
    assert said.outsider.worst == ledger(storage).epsilon(1, 1e-5, OUTSIDER)
    assert said.outsider.is_renyi
    assert said.is_drawn
    assert said.loss == 0.5
    assert said.budget_against is OUTSIDER


def test_nothing_spent_is_a_statement_too() -> None:
    said = ledger(Shelf()).statement()
    assert (said.devices, said.releases, said.server.worst) == (0, 0, 0.0)


def test_ten_thousand_devices_fit() -> None:
    """All of them, then half: and rows stay where they belong."""
    storage, devices = Shelf(), np.arange(1, 10_001)
    record = release(EIGHT, cohort=10_000, survivors=9000, corrupt=3000)
    ledger(storage).settle(ledger(storage).reserve([record], devices))
    ledger(storage).settle(ledger(storage).reserve([record], devices[::2]))
    one, two = (compose([record] * times, SERVER).epsilon(1e-5) for times in (1, 2))
    assert ledger(storage).epsilon(10_000, 1e-5) == pytest.approx(one)
    assert ledger(storage).epsilon(9_999, 1e-5) == pytest.approx(two)
    assert ledger(storage).statement().server.worst == pytest.approx(two)
