"""The benchmark of privacy: it measures what it says, and a target can be missed."""

import math

import numpy as np
import pytest

from benchmarks.privacy import DECODE, ENCODE, GOAL, NORMAL, PLAIN, measure, rows_of, rows_of_sums
from benchmarks.shared import accounts, plain_mechanism
from tacit.privacy.mechanisms import Mechanism


def test_all_kinds_are_timed_and_compared() -> None:
    measured = measure(samples=2000, repeats=1, length=1 << 14, rounds=2, devices=300)
    assert all(seconds > 0 for seconds in measured["noise"].values())
    rows = rows_of(measured, 2000)
    compared = [row for row in rows if row.ok is not None]
    assert len(compared) == 2 * len(GOAL)
    for row in compared:
        assert 0 < row.value < 1e6
    sums = {row.name: row for row in rows_of_sums(measured, 2000)}
    assert sums[ENCODE].value > 0 < sums[DECODE].value
    errors = [row.value for name, row in sums.items() if name.startswith("squared error")]
    # Two rounds, of 2**14 numbers or as many as a sketch has, 11250: within 7 deviations.
    assert errors == pytest.approx([1.0, 1.05], abs=7 * math.sqrt(2 / (2 * 11_250)) + 0.02)
    assert all(row.ok for name, row in sums.items() if name.startswith("epsilon"))
    counted = accounts.rows_of(measured["accounts"], 300)
    assert [row.ok is None for row in counted] == [False] * 3 + [True] * 2
    assert all(row.value > 0 for row in counted)


def test_a_target_is_missed_by_noise_that_is_slow() -> None:
    kinds = [f"{law}, variance {name}" for law in ("Skellam", "DiscreteGaussian") for name in GOAL]
    noise = dict.fromkeys(kinds, 2.0) | {NORMAL: 4.0}
    rows = rows_of({"noise": noise, "tables": {}}, 1_000_000)
    ratios = {row.name: row for row in rows if row.ok is not None}
    assert {row.value for row in ratios.values()} == {0.5}
    assert [row.ok for row in ratios.values()] == [goal == 1.0 for goal in GOAL.values()] * 2
    assert rows[0].value == 2000.0


def test_targets_of_sums_are_missed_too() -> None:
    sums = {ENCODE: 0.02, PLAIN: 0.1, DECODE: 0.02}
    errors = {"whole": 1.03, "sketch": 1.2, "bits": 2.0, "epsilon": 0.6}
    rows = rows_of_sums({"sums": sums, "errors": errors}, 1_000_000)
    assert [row.value for row in rows[:4]] == pytest.approx([20.0, 100.0, 20.0, 0.2])
    assert [row.ok for row in rows] == [None] * 3 + [False] * 5


def test_plain_numpy_does_the_same() -> None:
    """Its Hadamard matrix, and its noise and rounding together, within 7 deviations."""
    whole = [plain_mechanism.walsh_hadamard(row) for row in np.eye(8)]
    parity = [[(-1) ** (i & j).bit_count() for j in range(8)] for i in range(8)]
    assert np.array_equal(whole, parity)
    mechanism = Mechanism(1 << 14, 10, 0, 0, clip=1.0, noise=1.0)
    share = float(mechanism.share)
    update = np.random.default_rng(1).normal(size=1 << 14)
    plain = plain_mechanism.encode(update, mechanism.radius, 1.0, share, 16, seed=1)
    square = float(np.sum(plain.astype(np.uint16).view(np.int16).astype(float) ** 2))
    expected = mechanism.radius**2 + (1 << 14) * (share + 1 / 6)
    assert square == pytest.approx(expected, rel=7 * math.sqrt(2 / (1 << 14)))


def test_a_target_is_missed_by_a_ledger_that_is_slow() -> None:
    times = {accounts.WHOLE: 0.9e-3, accounts.HALF: 1.1e-3, accounts.DRAWN: 51e-3, accounts.ONE: 1}
    rows = accounts.rows_of(times, 10_000)
    assert [row.ok for row in rows] == [True, False, False, None]
    assert rows[0].name == "a round of 10,000 devices, all in a sum"
