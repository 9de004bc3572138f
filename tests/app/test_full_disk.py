"""A disk that is full at any place of a run's: the run ends with what to free, nothing that was
kept is lost, and it goes on once there is room."""

import errno
import os
import re
import shutil
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tacit.app.folder import RunFolder, is_run
from tacit.app.slots import DiskFull, Slots, write
from tacit.crypto.errors import ParameterError
from tacit.server.auditlog import AuditLog
from tacit.server.checkpoint import newest
from tests.app import kills
from tests.app.kills import World, models_without, watched
from tests.app.small import SMALL, small

MESSAGE = r"disk is full: free \d+ MB|no run's folder can be made"


@contextmanager
def full_after(places: int) -> Iterator[list[int]]:
    """A disk that has room for so many writings of the server's, and then for none."""
    count = [0]

    def take() -> None:
        if not kills._at_devices:
            count[0] += 1
            if count[0] > places:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def limited(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            take()
            return real(*args, **kwargs)

        return call

    def opened(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if "r" not in mode:
            take()
        return path_open(path, mode, *args, **kwargs)

    def half(log: AuditLog, data: bytes) -> None:
        try:
            take()
        except OSError:
            log._file.write(data[: len(data) // 2])
            raise
        log_write(log, data)

    path_open, log_write = Path.open, AuditLog._write
    with pytest.MonkeyPatch.context() as patch:
        for name in ("fsync", "mkdir"):
            patch.setattr(os, name, limited(getattr(os, name)))
        patch.setattr(Path, "open", opened)
        patch.setattr(AuditLog, "_write", half)
        yield count


@pytest.mark.parametrize(
    "more",
    [
        ("run.rounds=2", "strategy.fraction_evaluate=0"),
        ("run.rounds=1", "privacy.mode=distributed", "privacy.noise=2"),
    ],
)
def test_a_disk_that_is_full_anywhere(more: tuple[str, ...], tmp_path: Path) -> None:
    settings = small("data.devices=3", "train.epochs=1", *more)
    rounds, is_private = settings.run.rounds, settings.private is not None
    models = {} if is_private else models_without(tmp_path, settings)
    places, lost = 0, 0
    while True:
        root = tmp_path / str(places)
        root.mkdir()
        world = World(root, settings)
        try:
            with watched(world), full_after(places):
                world.start()
            break  # it had room for all
        except ParameterError as full:
            said = str(full)
        assert re.search(MESSAGE, said)
        status = RunFolder.open(world.run).status() if is_run(world.run) else "not begun"
        assert status in ("not begun", "interrupted", "finished")
        assert not newest(world.run / "checkpoint.npz").damage
        if status != "finished":  # where only its folder could not be synced
            with watched(world):
                world.start()
        world.check()
        gone = [*world.lost("train"), *world.lost("evaluate")]
        assert len(gone) <= 1
        if not is_private:
            trained = world.lost("train")
            assert world.model == models[trained[0] if trained else 0]
        lost += len(gone)
        places += 1
        shutil.rmtree(root)
    assert places > 25 * rounds
    assert 0 < lost < places / 5  # only where a sum was opened and not yet kept


def test_without_room_for_it_no_sum_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    world = World(tmp_path, small("run.rounds=1"))
    with monkeypatch.context() as patch, watched(world):
        patch.setattr(shutil, "disk_usage", lambda _: usage(1 << 40, 1 << 40, 1 << 20))
        with pytest.raises(DiskFull, match=r"free 5 MB where .*--resume"):
            world.start()
    assert not world.reveals()
    with watched(world):
        world.start()
    world.check()
    assert not world.lost("train")


def test_what_there_was_no_room_for_takes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a", b"old")
    slots = Slots(tmp_path / "slots")
    slots.write("b", b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for writing in (lambda: write(tmp_path / "a", b"new"), lambda: slots.write("b", b"new")):
            with pytest.raises(OSError, match="full"):
                writing()
    assert (tmp_path / "a").read_bytes() == slots.read("b") == b"old"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "slots"]
    assert slots.slots() == ["b"]


def test_another_error_of_the_systems_is_told_as_it_is(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, SMALL)
    with pytest.raises(PermissionError), folder:
        raise PermissionError(errno.EACCES, "no")
    assert folder.status() == "failed"
