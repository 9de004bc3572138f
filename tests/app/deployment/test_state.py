"""What the supervisor says of itself, and whether there is one; and a log on a full disk."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tacit.app.deployment import state
from tacit.app.deployment.environment import environment
from tacit.app.deployment.places import Places
from tacit.app.deployment.state import NodeShown, RefusedShown, Shown, State
from tacit.app.deployment.told import MOST, Told
from tacit.app.journal import LOG, Journal
from tacit.crypto.errors import ParameterError
from tacit.server.auditlog import tree, verify
from tacit.server.deployed import ProcessEnded, ProcessStarted

FULL = State(
    pid=1,
    start="boot:7",
    port=20_000,
    is_ready=True,
    processes=(Shown("superlink", "running", 2, "boot:8", 1.5, 3, "SIGKILL"),),
    nodes=(NodeShown("site-1", True),),
    troubles=("the disk is full",),
    refused=(RefusedShown(1.0, "run x", "bob", "no"),),
)


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    FULL.write(Places(tmp_path))
    assert state.read(Places(tmp_path)) == FULL


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"\xff", b'{"pid": 1}'])
def test_a_state_that_cannot_be_read_is_an_empty_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "supervisor.json").write_bytes(content)
    assert state.read(Places(tmp_path)) == State()


def test_there_is_one_supervisor_at_a_time(tmp_path: Path) -> None:
    places = Places(tmp_path)
    assert not state.is_up(places)
    with pytest.raises(ParameterError, match="tacit up"):
        state.require_up(places)
    with state.alone(places):
        assert state.is_up(places)
        state.require_up(places)
        with pytest.raises(ParameterError, match="up already"), state.alone(places):
            pass
    assert not state.is_up(places)


def test_a_supervisor_that_is_killed_is_none(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from tacit.app.deployment import state
from tacit.app.deployment.places import Places
with state.alone(Places(Path({str(tmp_path)!r}))):
    print("up", flush=True)
    time.sleep(60)
"""
    command, env = [sys.executable, "-c", code], environment(tmp_path, os.environ)
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"up\n"
        assert state.is_up(Places(tmp_path))
        other.kill()
        other.wait()
        assert not state.is_up(Places(tmp_path))


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_nothing_that_was_told_on_a_full_disk_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    told = Told(Journal(tmp_path), said.append)
    told.note(ProcessStarted("a"))
    with monkeypatch.context() as patched:
        patched.setattr("tacit.server.auditlog.os.fsync", full)
        told.note(ProcessEnded("a", "SIGKILL"))
        told.note(ProcessStarted("b"))
        assert "cannot be written" in told.trouble
        assert not told.write()
    assert told.write()
    assert told.trouble == ""
    told.note(ProcessStarted("c"))
    told.journal.close()
    assert verify(tmp_path / LOG).head.head.size >= 4
    entries = (tmp_path / LOG).read_bytes()
    assert entries.index(b'"a"') < entries.index(b'"b"') < entries.index(b'"c"')
    assert said[1] == "ProcessEnded a SIGKILL"
    assert tree(tmp_path / LOG).size >= 4


def test_a_disk_that_stays_full_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(Journal(tmp_path), lambda line: None)
    monkeypatch.setattr(Journal, "note", full)
    told.note(ProcessStarted("first"))
    for _ in range(MOST + 10):
        told.note(ProcessStarted("later"))
    assert len(told.waiting) == MOST
    assert told.waiting[0] == ProcessStarted("first")
