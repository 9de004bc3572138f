"""The benchmark of privacy: it times what it says, and a target can be missed."""

from benchmarks.privacy import GOAL, NORMAL, measure, rows_of
from benchmarks.shared import accounts


def test_all_kinds_are_timed_and_compared() -> None:
    measured = measure(samples=2000, repeats=1, devices=300)
    assert all(seconds > 0 for seconds in measured["noise"].values())
    rows = rows_of(measured, 2000)
    compared = [row for row in rows if row.ok is not None]
    assert len(compared) == 2 * len(GOAL)
    for row in compared:
        assert 0 < row.value < 1e6
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


def test_a_target_is_missed_by_a_ledger_that_is_slow() -> None:
    times = {accounts.WHOLE: 0.9e-3, accounts.HALF: 1.1e-3, accounts.DRAWN: 51e-3, accounts.ONE: 1}
    rows = accounts.rows_of(times, 10_000)
    assert [row.ok for row in rows] == [True, False, False, None]
    assert rows[0].name == "a round of 10,000 devices, all in a sum"
