"""Checkpoints and kept sums that are damaged: the run goes on from what is left, or says that it
cannot and touches nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tacit.app.folder import RunFolder
from tacit.crypto.errors import ParameterError
from tacit.server import auditlog, entries
from tacit.server.events import Event, RoundFinished, RoundStarted, SumOpened
from tacit.server.kinds import CheckpointDamaged
from tests.app.kills import World, undisturbed, watched
from tests.app.small import small

FEW = small("data.devices=3", "train.epochs=1")
NEWEST, BEFORE = "checkpoint.npz", "checkpoint.before.npz"


class Stop(BaseException):
    """No error that anybody handles."""


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a bit": flipped,
    "cut short": lambda content: content[: len(content) // 3],
    "empty": lambda content: b"",
}


def until(world: World, when: Callable[[Event], bool], patch: pytest.MonkeyPatch) -> None:
    """Run until an event for which `when` holds, and no further."""
    record = RunFolder.record

    def heard(folder: RunFolder, event: Event) -> None:
        record(folder, event)
        if when(event):
            raise Stop

    with patch.context() as patched, watched(world):
        patched.setattr(RunFolder, "record", heard)
        with pytest.raises(Stop):
            world.start()


@pytest.fixture
def world(tmp_path: Path) -> World:
    (tmp_path / "world").mkdir()
    return World(tmp_path / "world", FEW)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return undisturbed(tmp_path_factory.mktemp("whole") / "run", FEW).model


@pytest.mark.parametrize("damage", list(DAMAGES))
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_damaged_newest_checkpoint_costs_nothing(
    damage: str, after: int, world: World, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its round is done again with the sums that were kept of it; after the first one, from the
    start."""
    until(world, lambda e: isinstance(e, RoundFinished) and e.round == after, monkeypatch)
    path = world.run / NEWEST
    damaged = DAMAGES[damage](path.read_bytes())
    path.write_bytes(damaged)
    with watched(world):
        world.start()
    world.check()
    assert world.model == whole
    assert not world.events("SumFailed")
    assert (world.run / "checkpoint.damaged.npz").read_bytes() == damaged
    with (world.run / "audit.log").open("rb") as file:
        said = [entries.read(e).entry for batch in auditlog.batches(file) for e in batch.entries]
    (told,) = [each for each in said if isinstance(each, CheckpointDamaged)]
    assert told.round == after - 1
    assert "is damaged" in told.reason
    recalled = {each["round"] for each in world.events("SumOpened") if each["recalled"]}
    assert recalled == {after}


def test_killed_again_after_a_damage_it_goes_on_as_well(
    world: World, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The good one is not pushed out by the damaged one."""
    until(world, lambda e: isinstance(e, RoundFinished) and e.round == 2, monkeypatch)
    (world.run / NEWEST).write_bytes(b"")
    until(world, lambda e: isinstance(e, RoundStarted) and e.round == 2, monkeypatch)
    until(world, lambda e: isinstance(e, RoundStarted) and e.round == 3, monkeypatch)
    (world.run / NEWEST).write_bytes(b"again")
    with watched(world):
        world.start()
    world.check()
    assert world.model == whole
    assert not world.events("SumFailed")


@pytest.mark.parametrize("which", ["both", "newest and none before", "all gone"])
def test_without_a_checkpoint_nothing_is_asked_again(
    which: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    until(world, lambda e: isinstance(e, RoundStarted) and e.round == 3, monkeypatch)
    for name in (NEWEST, BEFORE):
        (world.run / name).write_bytes(b"damaged")
    if which != "both":
        (world.run / BEFORE).unlink()
    if which == "all gone":
        (world.run / NEWEST).unlink()
    there = {p: p.read_bytes() for p in sorted(world.run.rglob("*")) if p.is_file()}
    revealed = world.reveals()
    with watched(world), pytest.raises(ParameterError, match=r"bring|Bring") as told:
        world.start()
    assert "start the run anew" in str(told.value)
    assert {p: p.read_bytes() for p in sorted(world.run.rglob("*")) if p.is_file()} == there
    assert world.reveals() == revealed
    assert not RunFolder.open(world.run).is_held()


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_sum_is_lost_and_not_asked_for_again(
    damage: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    until(world, lambda e: isinstance(e, SumOpened) and e.round == 2, monkeypatch)
    path = world.run / "ahead" / "train_2"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with watched(world):
        world.start()
    world.check()
    assert world.lost("train") == [2]
    assert "is damaged" in world.events("SumFailed")[0]["reason"]


def test_what_is_kept_of_sums_is_its_owners(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    until(world, lambda e: isinstance(e, SumOpened), monkeypatch)
    assert list((world.run / "ahead").iterdir())
    assert (world.run / "ahead").stat().st_mode & 0o077 == 0
