"""A server killed at every place where it makes something durable goes on, and no sum is opened
twice, nor a device asked again for what it gave."""

import os
import signal
import time
from pathlib import Path

import pytest

from tacit.app.run_lock import is_held
from tests.app.kills import World, killed_everywhere, models_without, undisturbed, watched
from tests.app.small import small

PROTOCOLS = {"pairwise": (), "lattice": ("secure.protocol=lattice", "policy.lattice=true")}
FEW = ("data.devices=3", "train.epochs=1")


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_killed_anywhere_it_ends_as_if_nothing_had_been(protocol: str, tmp_path: Path) -> None:
    """Bit for bit; where a round was lost, as a run in which that round had no sum."""
    settings = small(*FEW, *PROTOCOLS[protocol])
    models = models_without(tmp_path, settings)
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
    assert places > 50


def test_killed_again_and_again_by_the_system(tmp_path: Path) -> None:
    """Real processes, killed for real: what they held is free at once, each time."""
    settings = small(*FEW)
    world = World(tmp_path, settings)
    for left in range(3, 60, 3):
        child = os.fork()
        if child == 0:
            count = 0

            def reached(left: int = left) -> None:
                nonlocal count
                count += 1
                if count > left:
                    os.kill(os.getpid(), signal.SIGKILL)

            try:
                with watched(world, reached):
                    world.start()
                os._exit(0)
            finally:
                os._exit(1)
        _, ended = os.waitpid(child, 0)
        if ended == 0:
            break
        assert os.WTERMSIG(ended) == signal.SIGKILL
        assert not is_held(world.run)
    else:
        with watched(world):
            world.start()
    world.check()


def test_a_clock_that_jumps_back_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small(*FEW)
    whole = undisturbed(tmp_path / "whole", settings)
    real, began = time.time, time.time()
    monkeypatch.setattr(time, "time", lambda: began - 86400.0 * (real() - began))
    back = undisturbed(tmp_path / "back", settings)
    back.check()
    assert back.model == whole.model
