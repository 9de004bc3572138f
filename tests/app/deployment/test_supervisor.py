"""The supervisor around fake processes: what it starts, signals, says, and goes on after."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tacit.app import acts, server_folder
from tacit.app.authority import opened
from tacit.app.deployment import founding, link, local, supervisor
from tacit.app.deployment.child import Child, Spec
from tacit.app.deployment.control import FlowerNode, FlowerRun, Unreachable
from tacit.app.deployment.fleet import Fleet
from tacit.app.deployment.orders import place
from tacit.app.deployment.proc import is_alive, started
from tacit.app.deployment.state import Shown, State, read
from tacit.app.deployment.supervisor import Supervisor
from tacit.app.deployment.told import Told
from tacit.app.deployment.waking import until_told
from tacit.app.folder import RunFolder
from tacit.app.journal import Journal
from tacit.app.server_folder import joined
from tacit.crypto.answers import decode_answer
from tacit.crypto.order import Act
from tests.app.small import small

NOW = int(time.time())
SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")


@dataclass
class Flower:
    """SuperLink as its Control interface shows it."""

    known: list[FlowerNode] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    is_there: bool = True

    def nodes(self) -> list[FlowerNode]:
        if not self.is_there:
            raise Unreachable("SuperLink does not answer")
        return list(self.known)

    def register(self, name: str, key: bytes) -> None:
        self.known.append(FlowerNode(len(self.known), name, key, "online"))

    def unregister(self, node: FlowerNode) -> None:
        self.known.remove(node)

    def begin(self, settings: dict) -> int:
        self.begun.append(settings["run.name"])
        return len(self.begun)

    def runs(self) -> list[FlowerRun]:
        return []

    def run(self, number: int) -> FlowerRun:
        return FlowerRun(number, self.begun[number - 1], False, "", "")

    def stop(self, number: int) -> None: ...

    def close(self) -> None: ...


@dataclass
class Bench:
    """A supervisor, and what surrounds it."""

    it: Supervisor
    flower: Flower
    said: list[str]
    fleet: Fleet

    def ticks(self, until: Callable[[], bool], within: float = 10.0) -> None:
        end = time.monotonic() + within
        while not until():
            assert time.monotonic() < end, self.said
            self.it.tick()
            time.sleep(0.02)

    @property
    def pids(self) -> dict[str, int]:
        return {name: child.pid for name, child in self.it.children.items() if child.pid}

    def order(self, act: Act, name: str, settings: str = "") -> None:
        place(self.fleet.places, None, act, name, settings)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(supervisor, "NODES_EVERY", 0.0)
    fleet = local.make(tmp_path / "federation", 3, NOW, lambda line: None)
    journal = Journal(fleet.places.folder)
    founding.found(fleet.places, journal, fleet.first_roles)
    said: list[str] = []
    flower = Flower()
    names = (link.SUPERLINK, link.SUPEREXEC, link.FRONT, "site-1")
    specs = [Spec(name, SLEEP, os.environ, fleet.places.logs / f"{name}.log") for name in names]
    children = {spec.name: Child(spec, draw=lambda: 0.0) for spec in specs}
    told = Told(journal, said.append)
    it = Supervisor(fleet, 20_000, said.append, told, flower, children, deque())
    yield Bench(it, flower, said, fleet)
    it.end()


def test_superlink_comes_first_and_all_nodes_are_registered(bench: Bench) -> None:
    bench.flower.is_there = False
    for _ in range(3):
        bench.it.tick()
    assert list(bench.pids) == [link.SUPERLINK]
    assert bench.said[-1] == "nodes: SuperLink is starting"
    bench.flower.is_there = True
    bench.ticks(lambda: len(bench.pids) == 4)
    assert [node.name for node in bench.flower.known] == ["site-1", "site-2", "site-3"]
    shown = read(bench.fleet.places)
    assert shown.is_ready
    assert (shown.pid, shown.start) == (os.getpid(), started(os.getpid()))
    assert {each.name: each.pid for each in shown.processes} == bench.pids
    assert shown.troubles == ()


def test_a_killed_process_is_started_again(bench: Bench) -> None:
    bench.ticks(lambda: len(bench.pids) == 4)
    before = bench.pids
    os.kill(before["site-1"], signal.SIGKILL)
    bench.ticks(lambda: bench.pids.get("site-1", before["site-1"]) != before["site-1"])
    assert {name: pid for name, pid in bench.pids.items() if name != "site-1"} == {
        name: pid for name, pid in before.items() if name != "site-1"
    }
    assert "ProcessEnded site-1 SIGKILL" in bench.said


def test_a_new_answer_of_the_authority_changes_who_is_let_in(bench: Bench) -> None:
    bench.ticks(lambda: len(bench.flower.known) == 3)
    places, folder = bench.fleet.places, bench.fleet.places.folder
    with opened(folder.parent / "authority") as authority:
        answers = acts.revoke(authority, "site-2", "sold", NOW)
    (path,) = (path for path in answers if path.name.startswith("server"))
    server_folder.join(folder, decode_answer(path.read_bytes()), NOW)
    bench.ticks(lambda: len(bench.flower.known) == 2)
    assert [node.name for node in bench.flower.known] == ["site-1", "site-3"]
    assert {node.key for node in bench.flower.known} == {node.key for node in joined(folder).nodes}
    assert any(line.startswith("NodeUnregistered site-2") for line in bench.said)
    assert len(read(places).nodes) == 2


def test_somebody_else_who_is_registered_is_put_out(bench: Bench) -> None:
    bench.flower.register("mallory", b"\2" * 49)
    bench.ticks(lambda: len(bench.flower.known) == 3)
    assert "mallory" not in [node.name for node in bench.flower.known]


def test_an_order_is_carried_out_and_a_refusal_is_shown(bench: Bench) -> None:
    bench.ticks(lambda: len(bench.pids) == 4)
    bench.order(Act.RUN, "one", small("data.devices=3").toml())
    bench.ticks(lambda: bench.flower.begun == ["one"])
    bench.order(Act.RUN, "one", small("data.devices=2").toml())
    bench.ticks(lambda: bool(read(bench.fleet.places).refused))
    (refused,) = read(bench.fleet.places).refused
    assert (refused.order, refused.by) == ("run one", "operator")
    assert "already" in refused.reason
    assert any(line.startswith("OrderRefused run one operator") for line in bench.said)


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda bench: (bench.fleet.places.folder / "server.key").chmod(0o644), "chmod 600"),
        (lambda bench: (bench.fleet.places.folder / "roster.bin").write_bytes(b""), "roster.bin"),
        (lambda bench: bench.flower.known.clear(), "devices are online"),
    ],
)
def test_a_run_does_not_begin_with_faults(
    bench: Bench, break_it: Callable[[Bench], object], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.ticks(lambda: len(bench.pids) == 4)
    monkeypatch.setattr(Flower, "register", lambda *_: None)
    break_it(bench)
    bench.order(Act.RUN, "one", small("data.devices=3").toml())
    place = bench.fleet.places.runs / "one"
    bench.ticks(lambda: place.exists() and reason in (place / "deployed.json").read_text())
    assert bench.flower.begun == []
    assert RunFolder.open(place).status() == "queued"


def test_a_full_disk_is_said_and_nothing_begins_on_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.ticks(lambda: len(bench.pids) == 4)
    monkeypatch.setattr(supervisor, "LEAST_FREE", 1 << 62)
    bench.order(Act.RUN, "one", small("data.devices=3").toml())
    place = bench.fleet.places.runs / "one"
    bench.ticks(lambda: place.exists() and "disk is full" in (place / "deployed.json").read_text())
    assert bench.flower.begun == []


def test_what_fails_does_not_hold_up_the_rest(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.ticks(lambda: len(bench.pids) == 4)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(supervisor, "taken", full)
        before = bench.pids["site-1"]
        os.kill(before, signal.SIGKILL)
        bench.ticks(lambda: bench.pids.get("site-1", before) != before)
        assert any("No space left" in each for each in bench.it.troubles.values())
    monkeypatch.setattr(bench.it, "_due", {})
    bench.ticks(lambda: "orders" not in bench.it.troubles)


def test_a_superlink_that_hangs_is_killed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.ticks(lambda: len(bench.pids) == 4)
    monkeypatch.setattr(supervisor, "HUNG", 0.2)
    bench.flower.is_there = False
    bench.ticks(lambda: "ProcessEnded superlink SIGKILL" in bench.said)


def test_the_end_is_in_order_and_complete(bench: Bench) -> None:
    bench.ticks(lambda: len(bench.pids) == 4)
    pids = list(bench.pids.values())
    bench.it.end()
    ends = [line.split()[1] for line in bench.said if line.startswith("ProcessEnded")]
    assert ends == ["site-1", link.FRONT, link.SUPEREXEC, link.SUPERLINK]
    assert [started(pid) for pid in pids] == [None] * 4


def test_what_an_earlier_supervisor_left_is_ended_and_nobody_else() -> None:
    with (
        subprocess.Popen(SLEEP, start_new_session=True) as left,
        subprocess.Popen(SLEEP, start_new_session=True) as stranger,
    ):
        try:
            before = State(
                processes=(
                    Shown("site-1", "running", left.pid, started(left.pid)),
                    Shown("site-2", "running", stranger.pid, "of another boot:1"),
                    Shown("site-3", "waiting"),
                )
            )
            supervisor._end_left_over(before, lambda line: None)
            assert left.wait(5) == -signal.SIGKILL
            assert is_alive(stranger.pid, started(stranger.pid))
        finally:
            left.kill()
            stranger.kill()


def test_a_supervisor_wakes_up_and_ends_when_it_is_told(tmp_path: Path) -> None:
    with until_told() as asleep:
        assert not asleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        began = time.monotonic()
        assert asleep(30.0)
        assert time.monotonic() - began < 10
