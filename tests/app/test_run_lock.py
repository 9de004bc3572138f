"""One process runs a run, others can ask whether one does, and a killed one holds nothing."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tacit.app.folder import RunFolder
from tacit.app.run_lock import RunLock, is_held
from tacit.crypto.errors import ParameterError
from tests.app.small import SMALL


@contextmanager
def elsewhere(run: Callable[[], None]) -> Iterator[int]:
    """Another process that has done `run`, and waits to be killed; its number."""
    ready, done = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            run()
            os.write(done, b"!")
            while True:
                signal.pause()
        finally:
            os._exit(1)
    os.close(done)
    assert os.read(ready, 1) == b"!"
    os.close(ready)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_one_process_runs_a_run_and_a_killed_one_is_told(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, SMALL, status="queued")
    assert not folder.is_held()

    def run() -> None:
        theirs = RunFolder.open(tmp_path)
        theirs.resume()
        theirs.__enter__()

    with elsewhere(run):
        assert folder.is_held()
        assert folder.status() == "running"
        for wrong in (folder.__enter__, folder.resume):
            with pytest.raises(ParameterError, match="another process runs the run"):
                wrong()
        with pytest.raises(ParameterError, match="another process runs the run"):
            RunFolder.create(tmp_path, SMALL, replace=True)
        assert folder.status() == "running"
    assert not folder.is_held()
    assert folder.status() == "interrupted"
    assert folder.resume() is None
    with folder:
        assert folder.status() == "running"


def test_a_lock_is_let_go_however_a_run_ends(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, SMALL)
    held = []

    def fail() -> None:
        with folder:
            held.append(folder.is_held())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert held == [True]
    assert not folder.is_held()
    (tmp_path / "status.json").write_text('{"status": "finished"}')
    with pytest.raises(ParameterError, match="nothing to resume"):
        folder.resume()
    assert not folder.is_held()
    assert folder.status() == "finished"


def test_whoever_asks_keeps_nobody_out(tmp_path: Path) -> None:
    """Askers hold the lock for an instant: who takes it waits for that long, and askers do not see
    each other."""

    RunFolder.create(tmp_path, SMALL)
    lock = RunLock(tmp_path)
    lock.take()
    lock.release()

    def asking() -> None:
        signal.signal(signal.SIGALRM, lambda *_: is_held(tmp_path))
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)

    with elsewhere(asking):
        for _ in range(50):
            lock.take()
            lock.release()
            assert not is_held(tmp_path)
