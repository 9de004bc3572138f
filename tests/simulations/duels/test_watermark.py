"""The watermark duel, as quick as it gets."""

import pytest

from tacit.simulations.duels.base import Fought, Role, Scale
from tacit.simulations.duels.watermark import Size, Watermark, removals


@pytest.fixture(scope="module")
def fought() -> Fought:
    told: list[float] = []
    found = Watermark().fight(Scale(quick=True), told.append)
    assert told == sorted(told)
    assert told[-1] == 1
    return found


def test_every_target_is_met(fought: Fought) -> None:
    missed = [line for line in fought.lines if not line.holds]
    assert not missed
    assert {line.role for line in fought.lines} == set(Role)
    assert fought.limits


def test_both_attacks_succeed_where_nothing_defends(fought: Fought) -> None:
    values = {
        (line.setting, line.what): line.figure.value
        for line in fought.lines
        if line.role is Role.ATTACK
    }
    assert values == {
        ("no mark", "stolen models that owners can claim"): 0.0,
        ("a mark made afterwards", "claims that verify, no log asked for"): 1.0,
    }


def test_what_takes_marks_away_is_listed_and_not_judged() -> None:
    listed = {each.name for each in removals(Size()) if each.triggers is None}
    assert listed >= {
        "fine-tuned 100 epochs, rate 1e-2",
        "new head, then fine-tuned",
        "distilled on the thief's digits",
        "extracted by photo patches",
    }
