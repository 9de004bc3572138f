"""A server killed at every place where it makes something durable goes on, and no sum is opened
twice, nor a device asked again for what it gave."""

from pathlib import Path

import pytest

from tests.app.kills import killed_everywhere, undisturbed
from tests.app.small import small

PROTOCOLS = {"pairwise": (), "lattice": ("secure.protocol=lattice", "policy.lattice=true")}
FEW = ("data.devices=3", "train.epochs=1")


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_killed_anywhere_it_ends_as_if_nothing_had_been(protocol: str, tmp_path: Path) -> None:
    """Bit for bit; where a round was lost, as a run in which that round had no sum."""
    settings = small(*FEW, *PROTOCOLS[protocol])
    models = {
        lost: undisturbed(tmp_path / f"without-{lost}", settings.changed(faults)).model
        for lost in (0, 1, 2, 3)
        if (faults := [f'faults=["drop report 0-2 @{lost}"]'] if lost else []) is not None
    }
    assert len(set(models.values())) == 4
    lost, recalled, places = 0, 0, 0
    for world in killed_everywhere(tmp_path / "killed", settings):
        world.check()
        trained, evaluated = world.lost("train"), world.lost("evaluate")
        assert len(trained) + len(evaluated) <= 1  # of one kill
        assert world.model == models[trained[0] if trained else 0]
        lost += len(trained) + len(evaluated)
        recalled += any(each["recalled"] for each in world.events("SumOpened"))
        places += 1
    assert lost
    assert recalled
    print(protocol, places, lost, recalled)
