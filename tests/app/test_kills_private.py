"""As tests/app/test_kills.py, of private sums: a ledger holds what may have been let out, and
nothing twice."""

from pathlib import Path

import pytest

from tacit.app import reporting
from tacit.app.folder import RunFolder
from tests.app.kills import World, killed_everywhere
from tests.app.small import small

EPOCHS = "train.epochs=1"
MODES = {
    "distributed": (EPOCHS, "data.devices=3", "privacy.mode=distributed", "privacy.noise=2"),
    "central": (EPOCHS, "data.devices=3", "privacy.mode=central", "privacy.quantile=0.5"),
    "banded": (
        *(EPOCHS, "data.devices=6", "privacy.mode=central", "privacy.noise=2"),
        *("privacy.bands=2", "privacy.cohorts=2", "policy.min_cohort=2", "policy.min_survivors=2"),
    ),
}


def releases(world: World) -> int:
    statement = reporting.statement_of(RunFolder.open(world.run))
    assert statement is not None
    return statement.releases


@pytest.mark.parametrize("mode", list(MODES))
def test_killed_anywhere_nothing_is_counted_twice(mode: str, tmp_path: Path) -> None:
    settings = small(*MODES[mode])
    lost, recalled = 0, 0
    for world in killed_everywhere(tmp_path / "killed", settings):
        world.check()
        revealed = {round for round, _ in world.reveals(intended=False)}
        opened = {each["round"] for each in world.events("SumOpened")}
        gone = set(world.lost("train"))
        assert opened | gone == set(range(1, settings.run.rounds + 1))
        assert len(gone) <= 1
        each = 2 if settings.privacy.quantile else 1  # releases of a sum
        assert len(revealed | opened) <= releases(world) / each <= settings.run.rounds
        lost += len(gone)
        recalled += any(each["recalled"] for each in world.events("SumOpened"))
    assert lost
    assert recalled
