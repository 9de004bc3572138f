"""What the benchmarks of faults make of what they saw: each target can be missed."""

import numpy as np
import pytest

from benchmarks.kills import DEVICES, LENGTH, ROUNDING, ROUNDS, Campaign, Ended, rows_of
from benchmarks.shared.local import KINDS, kind_of
from benchmarks.shared.table import Row
from benchmarks.soak import Look, growth

CALM = Ended(20.0, np.zeros(LENGTH), 0.9, (DEVICES,) * ROUNDS, 0, True)


def row(found: list[Ended], name: str, kills: int = 1) -> Row:
    (one,) = [each for each in rows_of([Campaign(CALM, found, [])], kills) if name in each.name]
    return one


def ended(shift: float = 0.0, **more: object) -> Ended:
    model = np.zeros(LENGTH)
    model[3] = shift
    fields = {"seconds": 30.0, "accuracy": 0.9, "survivors": CALM.survivors, "twice": 0}
    return Ended(model=model, verifies=True, **{**fields, **more})  # type: ignore[arg-type]


def test_a_run_that_was_not_disturbed_meets_every_target() -> None:
    assert all(each.ok is not False for each in rows_of([Campaign(CALM, [ended()], [])], 1))


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (ended(2 * ROUNDING), "their models"),
        (ended(accuracy=0.87, survivors=(DEVICES, DEVICES)), "accuracy these lost"),
        (ended(twice=1), "opened twice"),
    ],
)
def test_each_target_can_be_missed(found: Ended, name: str) -> None:
    assert row([found], name).ok is False
    assert row([ended()], name).ok


def test_a_run_that_did_not_finish_counts() -> None:
    assert row([ended()], "runs that finished", kills=2).ok is False


def test_a_model_of_another_sum_is_not_held_against_the_undisturbed_one() -> None:
    less = ended(1.0, survivors=(DEVICES, DEVICES - 1, DEVICES))
    assert row([less], "their models").value == 0
    assert row([less], "lost a device or a round").value == 1


def test_growth_is_of_the_warm_part_in_a_hundred_rounds() -> None:
    seen = [Look(number, {}, 0.0) for number in range(10, 90, 10)]
    memory = [500.0, 900.0, *(1000.0 + number for number in range(30, 90, 10))]
    assert growth(seen, memory) == pytest.approx(100)
    assert growth(seen, [*memory[:2], *[1000.0] * 6]) == pytest.approx(0, abs=1e-9)


def test_processes_are_told_apart_by_what_they_were_started_with() -> None:
    run = "python -m tacit.app.deployment.executor"
    assert kind_of(f"{run} --serverapp") == "serverapp"
    assert kind_of(f"{run} --runtime-api-address here") == "superexec"
    assert kind_of("python -m tacit.app.cli.main up --foreground") == "supervisor"
    assert {kind_of(f"x{words}y") for words in KINDS.values()} == set(KINDS)
