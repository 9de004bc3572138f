"""What it takes to keep account of many devices: for `privacy.py`."""

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from benchmarks.shared.table import Row, at_most

if TYPE_CHECKING:
    from tacit.privacy.books import Listed
    from tacit.privacy.ledger import Ledger
    from tacit.privacy.releases import Release

DELTA = 1e-5
WHOLE, HALF, DRAWN = "all in a sum", "every other one in a sum", "one in a hundred drawn"
ONE, ALL = "epsilon of a device", "a statement on all devices"
GOALS_MS = {WHOLE: 1.0, HALF: 1.0, DRAWN: 50.0}
NOTE = (
    "A round is what `reserve` and `settle` take, reading and writing the whole ledger in memory; "
    "every round has another number of survivors. Drawn, the ledger keeps 145 numbers a device."
)


class Memory(dict[str, bytes]):
    """A storage without a disk."""

    def read(self, slot: str) -> bytes | None:
        return self.get(slot)

    def write(self, slot: str, value: bytes) -> None:
        self[slot] = value

    def alone(self) -> AbstractContextManager[None]:
        return nullcontext()


def measure(devices: int, rounds: int) -> dict[str, float]:
    """CPU seconds of a round, and of looking things up once the rounds of WHOLE are over."""
    import numpy as np

    from tacit.privacy.accountants import Adversary
    from tacit.privacy.ledger import Budget, Ledger
    from tacit.privacy.releases import Discrete, Gaussian, Neighbours, Release, Source, Unit, Use
    from tacit.privacy.samplers import Skellam

    everyone = np.arange(1, devices + 1)
    update = Discrete(Skellam(Fraction(10**6)), 10**6, 1 << 20)
    shared = Release(
        update, Unit.CLIENT, Neighbours.ZERO_OUT, Source.SHARED, Use.TRAIN, 1, 1, devices,
        devices // 2, devices // 10,
    )  # fmt: skip
    central = replace(
        shared, mechanism=Gaussian(1.0, 1.0), source=Source.SERVER, rate=0.01, is_count_hidden=True
    )

    def ledger(against: Adversary) -> Ledger:
        return Ledger(Memory(), Unit.CLIENT, Neighbours.ZERO_OUT, Budget(8.0, DELTA, against))

    own, half = ledger(Adversary.SERVER), ledger(Adversary.SERVER)
    drawn = ledger(Adversary.OUTSIDER)
    half.settle(half.reserve([shared], everyone))
    return {
        WHOLE: _rounds(own, shared, everyone, (), rounds),
        HALF: _rounds(half, shared, everyone[::2], (), rounds),
        DRAWN: _rounds(drawn, central, everyone[::100], everyone, rounds),
        ONE: _median(lambda: own.epsilon(1, DELTA), rounds),
        ALL: _median(lambda: own.statement(), rounds),
    }


def _rounds(
    ledger: "Ledger", record: "Release", devices: "Listed", pool: "Listed", rounds: int
) -> float:
    there = iter(range(rounds + 1))

    def once() -> None:
        survivors = record.survivors + next(there)
        serial = ledger.reserve([record], devices, pool)
        ledger.settle(serial, survivors)

    once()
    return _median(once, rounds)


def _median(work: Callable[[], object], repeats: int) -> float:
    taken = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return statistics.median(taken)


def rows_of(times: dict[str, float], devices: int) -> list[Row]:
    """Milliseconds, with their goals."""
    rows = []
    for name, seconds in times.items():
        title = f"a round of {devices:,} devices, {name}" if name in GOALS_MS else name
        milliseconds = seconds * 1e3
        goal = GOALS_MS.get(name)
        rows.append(
            Row(title, milliseconds, "ms")
            if goal is None
            else at_most(title, milliseconds, "ms", goal)
        )
    return rows
