"""As tests/app/test_kills.py, of groups: a device stays in the group that it was asked in."""

from pathlib import Path
from typing import Any

import pytest

from tacit.app import server
from tacit.strategies.robust import Robust
from tests.app.kills import killed_everywhere, undisturbed
from tests.app.small import small

GROUPS = 2
GROUPED = small(
    "data.devices=6",
    "train.epochs=1",
    f"secure.groups={GROUPS}",
    "secure.hostile=0",
    "strategy.name=fedmedian",
    "run.rounds=2",
)


def by_chance(*args: Any, **kwargs: Any) -> Robust:
    return Robust(*args, **{**kwargs, "seed": None})


@pytest.mark.parametrize("anew", [False, True])
def test_killed_anywhere_no_device_is_in_two_groups(
    anew: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where groups are drawn anew, and by chance that no seed repeats."""
    settings = GROUPED.changed([f"secure.regroup={anew}".lower()])
    if anew:
        monkeypatch.setattr(server, "Robust", by_chance)
    whole = undisturbed(tmp_path / "whole", settings).model
    as_if_nothing, partly, recalled = 0, 0, 0
    for world in killed_everywhere(tmp_path / "killed", settings):
        world.check(sums=GROUPS)
        lost = world.events("SumFailed")
        assert len([each for each in lost if "interrupted" in each["reason"]]) <= GROUPS
        if not world.lost("train"):
            as_if_nothing += 1
            assert anew or world.model == whole
        opened = [each for each in world.events("SumOpened") if each["purpose"] == "train"]
        for round in (1, 2):
            here = [each for each in opened if each["round"] == round]
            said = [each for each in lost if each["round"] == round]
            gone = [each for each in said if each["reason"].startswith("group ")]
            assert len(here) + len(gone) == GROUPS
            partly += len({each["recalled"] for each in here}) == 2 or bool(here and gone)
        recalled += sum(each["recalled"] for each in opened)
    assert as_if_nothing
    assert partly
    assert recalled
