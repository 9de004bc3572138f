"""Everything that is done is in the log once, in order, wherever a crash comes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tacit.crypto.identity import Identity
from tacit.server.auditlog import AuditLog, LogInUse, batches
from tacit.server.entries import noted, read
from tacit.server.gate import desk, said
from tacit.server.gate.base import Role
from tacit.server.gate.said import hand_over, waits
from tacit.server.gate.store import Store
from tacit.server.kinds import Answered, Kind
from tests.server.gate.gates import AT, World

KEEPER = Identity(bytes(32))
OTHER = noted({"event": "Answered", "key": "k", "queries": 1, "digest": "d", "at": AT})


class Crash(BaseException):
    """Stands for kill -9: nothing that tidies up is called."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    AuditLog.create(tmp_path / "audit.log", KEEPER, bytes(16)).close()
    return tmp_path / "audit.log"


def logged(path: Path) -> Iterator[Kind]:
    with path.open("rb") as file:
        for batch in batches(file):
            for entry in batch.entries:
                kind = read(entry).entry
                if not isinstance(kind, Answered):
                    yield kind


def act(gate: World, times: int = 3) -> None:
    for _ in range(times):
        desk.suspend(gate.store, gate.by[Role.OPERATOR], gate.by[Role.CLIENT].key, "why", AT)


def test_all_of_it_once_in_order(gate: World, path: Path) -> None:
    with AuditLog.open(path, KEEPER) as log:
        assert hand_over(gate.store, log, path) == len(gate.said) > 0
        assert hand_over(gate.store, log, path) == 0
        log.append([OTHER])
        act(gate)
        assert waits(gate.store) == 3
        assert hand_over(gate.store, log, path) == 3
        assert waits(gate.store) == 0
    assert list(logged(path)) == gate.said


def test_more_than_a_batch(gate: World, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(said, "_MOST", 2)
    act(gate, 4)
    with AuditLog.open(path, KEEPER) as log:
        assert hand_over(gate.store, log, path) == len(gate.said)
    assert list(logged(path)) == gate.said


STEPS = ["before the note", "before the log", "amid the log", "after the log", "amid forgetting"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("between", [False, True])
def test_a_crash_at_any_step(
    gate: World, path: Path, monkeypatch: pytest.MonkeyPatch, step: str, between: bool
) -> None:
    """`between`: whoever has the log next says something of his own before he takes over."""
    append, writing, writes = AuditLog.append, Store.writing, iter(range(100))

    def appended(log: AuditLog, entries: list[bytes]) -> None:
        if step == "before the log":
            raise Crash
        if step == "amid the log":
            append(log, entries)
            size = path.stat().st_size
            with path.open("r+b") as file:
                file.truncate(size - 50)  # within the batch's head
            raise Crash
        append(log, entries)
        if step == "after the log":
            raise Crash

    def wrote(store: Store):
        number = next(writes)
        if (step, number) in (("before the note", 0), ("amid forgetting", 1)):
            raise Crash
        return writing(store)

    act(gate)
    log = AuditLog.open(path, KEEPER)
    with monkeypatch.context() as patched:
        patched.setattr(AuditLog, "append", appended)
        patched.setattr(Store, "writing", wrote)
        with pytest.raises(Crash):
            hand_over(gate.store, log, path)
    log.close()  # as the system does
    with AuditLog.open(path, KEEPER) as log:
        if between:
            log.append([OTHER, OTHER])
        act(gate, 1)
        hand_over(gate.store, log, path)
        act(gate, 1)
        hand_over(gate.store, log, path)
    assert list(logged(path)) == gate.said
    assert waits(gate.store) == 0


def test_one_process_has_the_log(path: Path) -> None:
    with AuditLog.open(path, KEEPER), pytest.raises(LogInUse):
        AuditLog.open(path, KEEPER)
