"""The benchmark of secure sums: its systems sum the same, and its meter charges who worked."""

import time
import tracemalloc
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks.shared.alone import nothing_remembered
from benchmarks.shared.cohort import HEAVIEST, LIGHTEST, Cohort
from benchmarks.shared.comparison import case_rows, drawing
from benchmarks.shared.flower_secagg import flower_round
from benchmarks.shared.meter import NOBODY, SERVER, Memory, Meter
from benchmarks.shared.plain_mean import fedavg_round, plain_round
from benchmarks.shared.sums import FLOWER, TACIT, Cost, Task
from benchmarks.shared.tacit_sum import TERMS, committee, tacit_rounds
from tacit.crypto import identity
from tacit.crypto.identity import Roster, RunKey
from tacit.crypto.simulated import simulated_identity

COHORT = Cohort(devices=14, length=500, drop=0.15)
# A device's coordinate is rounded by less than a step; the mean divides what all devices are off by
# the sum of their weights, and no weight is below LIGHTEST / HEAVIEST of the heaviest.
STRETCH = HEAVIEST / LIGHTEST
FLOWERS_STEP = 16 / (2**22 - 1)
OUR_STEP = 2.0**-15  # 16 bits for +-0.5, at least


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_all_systems_find_the_same_mean() -> None:
    assert len(COHORT.silent) == 2
    plain, fedavg, flower, tacit = Meter(), Meter(), Meter(), Meter()
    (mean,) = plain_round(COHORT, plain)
    assert COHORT.error(mean, 1) < 1e-7
    (mean,) = fedavg_round(COHORT, fedavg)
    assert COHORT.error(mean, 1) < 1e-7
    (mean,) = flower_round(COHORT, flower)
    assert COHORT.error(mean, 1) < 2 * STRETCH * FLOWERS_STEP  # its weights are rounded as well
    means = tacit_rounds(COHORT, tacit, TERMS["like"], 2)
    for number, mean in enumerate(means, 1):
        assert COHORT.error(mean, number) < STRETCH * OUR_STEP

    silent, others = min(COHORT.silent), COHORT.survivors
    for meter, rounds in ((plain, [1]), (fedavg, [1]), (flower, [1]), (tacit, [1, 2])):
        for number in rounds:
            assert meter.seconds[SERVER, number] > 0
            assert all(meter.seconds[device, number] > 0 for device in others)
            assert min(meter.sent[device, number] for device in others) > COHORT.length * 2
    assert plain.sent[silent, 1] == 0
    assert 0 < tacit.sent[silent, 1] < COHORT.length  # enrolled, and then silent


def test_a_cohort_is_the_same_for_all() -> None:
    same = Cohort(14, 500, 0.15)
    assert (same.silent, same.weights) == (COHORT.silent, COHORT.weights)
    for one, other in zip(same.update(3, 2), COHORT.update(3, 2), strict=True):
        np.testing.assert_array_equal(one, other)
    assert replace(COHORT, seed=2).weights != COHORT.weights


def test_the_one_who_works_pays() -> None:
    meter = Meter()
    with meter.exchange():
        burn(0.02)
        with meter.charge(NOBODY):
            burn(0.05)
            with meter.charge(3):
                burn(0.03)
        burn(0.02)
    paid = {party: round(seconds, 2) for (party, _), seconds in meter.seconds.items()}
    assert paid[SERVER] == pytest.approx(0.04, abs=0.01)
    assert paid[3] == pytest.approx(0.03, abs=0.01)


def test_memory_is_told_apart() -> None:
    memory = Memory()
    try:
        meter = Meter(memory)
        before = bytes(1 << 20)  # no one's: it was there
        with meter.exchange():
            held = [bytes(2 << 20)]
            with meter.charge(NOBODY), meter.turn() as handed_over:
                with meter.charge(0):
                    own = bytes(5 << 20)
                    del own
                    kept = bytes(3 << 20)
                handed_over.append(bytes(1 << 20))
            held.append(bytes(2 << 20))
        assert memory.peaks[0] == pytest.approx(5 << 20, rel=0.01)
        assert memory.peaks[SERVER] == pytest.approx(5 << 20, rel=0.01)  # 2 + 1 + 2, and not 3
        assert len(before) < len(kept)
    finally:
        memory.close()
    assert not tracemalloc.is_tracing()


def test_the_committee_opens_for_all() -> None:
    assert len(committee(50, TERMS["like"])) == 21
    assert committee(14, TERMS["default"]) == frozenset(range(14))


def test_rows_and_picture() -> None:
    task = Task(TACIT, 100, 1_000_000, 0.1)
    ours = Cost(0.02, 0.03, 0.025, 0.2, 0.25, 2.9e6, 4e6, 1e-5, 1, 1, 1, 6e-10, 5e-10, 20, 21, 11)
    theirs = replace(ours, client=0.2, member=0, server=6.0, up=8e6)
    costs = {TACIT: ours, FLOWER: theirs}
    rows = {row.name: row for row in case_rows(task, costs, with_targets=True)}
    assert rows["client: Flower / Tacit"].ok
    assert rows["server: Flower / Tacit"].ok is False
    assert rows["up: Tacit"].ok
    easier = case_rows(replace(task, drop=0.0), costs, with_targets=True)
    assert next(row for row in easier if row.name == "server: Flower / Tacit").ok is None
    assert all(row.ok is None for row in case_rows(task, costs, with_targets=False))
    ElementTree.fromstring(drawing([(task, costs)]))


def test_a_device_alone_remembers_nothing_of_others() -> None:
    key = simulated_identity(1)
    run_key = RunKey.signed(key, 1, 1, bytes(range(32)))
    run_key.verify(1, key.public)
    kept = identity._is_signed.cache_info()
    assert kept.currsize > 0
    with nothing_remembered():
        assert identity._is_signed.cache_info().currsize == 0
        run_key.verify(1, key.public)
        assert identity._is_signed.cache_info().misses == 1
        encoded = Roster.signed(key, 1, [], bytes(32)).encode()
        assert Roster.decode(encoded) is Roster.decode(encoded)
    assert identity._is_signed.cache_info() == kept
