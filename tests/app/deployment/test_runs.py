"""Runs are begun one after the other, and again until they are done; Flower is the test's own."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tacit.app.config import Settings
from tacit.app.deployment import runs as module
from tacit.app.deployment import ticket
from tacit.app.deployment.control import Control, FlowerRun, NotDone, Unreachable
from tacit.app.deployment.ordered import parsed
from tacit.app.deployment.places import Places
from tacit.app.deployment.runs import FEW, MANY, RAISED, Runs
from tacit.app.deployment.told import Told
from tacit.app.folder import RunFolder
from tacit.app.journal import Journal
from tacit.app.run_lock import RunLock
from tacit.crypto.errors import ParameterError
from tacit.server.deployed import RunBegun, RunEnded, RunOrdered, StrangerEnded
from tacit.server.events import RoundFinished
from tacit.server.kinds import Kind
from tests.app.small import small

SETTINGS = small().toml()


@dataclass
class Flower:
    """SuperLink, as far as runs go; and the ServerApps, which the test plays."""

    found: dict[int, FlowerRun] = field(default_factory=dict)
    stopped: list[int] = field(default_factory=list)
    is_there: bool = True

    def begin(self, settings: dict) -> int:
        self.asked()
        number = 100 + len(self.found)
        self.found[number] = FlowerRun(number, settings["run.name"], False, "", "")
        return number

    def stop(self, number: int) -> None:
        self.asked()
        self.stopped.append(number)
        self.found[number] = replace(self.found[number], is_over=True, how="stopped")

    def runs(self) -> list[FlowerRun]:
        self.asked()
        return list(self.found.values())

    def run(self, number: int) -> FlowerRun:
        self.asked()
        if number not in self.found:
            raise NotDone("unknown")
        return self.found[number]

    def asked(self) -> None:
        if not self.is_there:
            raise Unreachable("SuperLink does not answer")

    def gave_up(self, number: int, why: str) -> None:
        self.found[number] = replace(self.found[number], is_over=True, how="failed", details=why)


@dataclass
class Bench:
    """What a test has: the runs, Flower, the clock, and what was noted."""

    runs: Runs
    flower: Flower
    clock: list[float]
    noted: list[Kind]
    unready: list[str]
    killed: list[bool]

    def step(self, seconds: float = 0.0) -> None:
        self.clock[0] += seconds
        self.runs.step()

    def place(self, name: str) -> Path:
        return self.runs.places.runs / name

    def ticket(self, name: str) -> ticket.Ticket:
        found = ticket.read(self.place(name))
        assert found is not None
        return found

    def count(self, kind: type) -> int:
        return sum(isinstance(each, kind) for each in self.noted)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return bench_in(tmp_path, monkeypatch)


def bench_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    places, flower, clock = Places(folder), Flower(), [1000.0]
    places.runs.mkdir(exist_ok=True)
    monkeypatch.setattr("tacit.app.deployment.runs.time.monotonic", lambda: clock[0])
    noted: list[Kind] = []
    unready, killed = [""], []
    told = Told(Journal(folder), lambda line: None)
    monkeypatch.setattr(Told, "note", lambda self, entry: noted.append(entry))
    control: Control = flower
    ready: Callable[[Settings], str] = lambda settings: unready[0]  # noqa: E731
    runs = Runs(places, control, told, ready, lambda: killed.append(True))
    runs.load()
    return Bench(runs, flower, clock, noted, unready, killed)


class ServerApp:
    """Holds a run's lock, as the process does that runs it."""

    def __init__(self, place: Path) -> None:
        self.folder, self.lock = RunFolder.open(place), RunLock(place)
        self.lock.take()
        self.folder.mark("running")

    def round(self, number: int) -> None:
        self.folder.record(RoundFinished(number, 3, 0.1, {}, {}, {"accuracy": 0.5}))
        self.folder.journal.close()

    def ends(self, status: str = "running") -> None:
        """Killed, unless it could say something else."""
        self.folder.mark(status)
        self.lock.release()


def ordered(bench: Bench, *names: str) -> None:
    for at, name in enumerate(names):
        bench.runs.order(name, SETTINGS, "alice", f"{at:064x}")
        time.sleep(0.002)  # orders have a time of their own


def test_a_run_goes_from_its_order_to_its_end(bench: Bench) -> None:
    ordered(bench, "one")
    assert RunFolder.open(bench.place("one")).status() == "queued"
    bench.step()
    assert bench.flower.found[100].name == "one"
    app = ServerApp(bench.place("one"))
    bench.step(5)
    app.round(1)
    bench.step(5)
    app.ends("finished")
    bench.step(1)
    assert bench.ticket("one").how == "finished"
    assert bench.runs.current is None
    assert [type(each) for each in bench.noted] == [RunOrdered, RunBegun, RunEnded]
    assert bench.flower.stopped == []


def test_the_settings_that_flower_gets_are_the_orders_under_its_name(bench: Bench) -> None:
    given: list[dict] = []

    def begin(settings: dict) -> int:
        given.append(settings)
        return 1

    bench.flower.begin = begin  # type: ignore[method-assign]
    ordered(bench, "one")
    bench.step()
    assert Settings.from_flat(given[0]) == small("run.name=one")


def test_one_at_a_time_in_the_order_of_their_orders(bench: Bench) -> None:
    ordered(bench, "b", "a")
    bench.step()
    app = ServerApp(bench.place("b"))
    for _ in range(5):
        bench.step(5)
    assert len(bench.flower.found) == 1
    app.ends("finished")
    bench.step(1)
    bench.step(1)
    assert bench.flower.found[101].name == "a"


def test_a_killed_serverapp_is_replaced_once_flower_ended_the_old_run(bench: Bench) -> None:
    ordered(bench, "one")
    bench.step()
    app = ServerApp(bench.place("one"))
    bench.step(1)
    app.round(1)
    app.ends()
    bench.step(1)
    assert bench.flower.stopped == [100], "or two could serve one run"
    bench.step(2)
    begun = [each for each in bench.noted if isinstance(each, RunBegun)]
    assert [(each.number, each.after) for each in begun] == [(100, 0), (101, 1)]
    assert bench.ticket("one").begun == 2


def test_none_is_begun_while_another_process_holds_the_run(bench: Bench) -> None:
    ordered(bench, "one")
    app = ServerApp(bench.place("one"))
    for _ in range(100):
        bench.step(60)
    assert not bench.flower.found
    assert not bench.ticket("one").how, "that it waits is no failed try"
    app.ends()
    bench.step(60)
    assert len(bench.flower.found) == 1


def test_what_flower_still_has_of_an_earlier_supervisor_is_ended_first(bench: Bench) -> None:
    bench.flower.begin({"run.name": "one"})
    ordered(bench, "one")
    bench.step()
    assert bench.flower.stopped == [100]
    assert set(bench.flower.found) == {100, 101}


def test_a_run_that_nobody_ordered_is_ended_and_noted_once(bench: Bench) -> None:
    ordered(bench, "one")
    bench.step()
    stranger = bench.flower.begin({"run.name": "one"})
    for _ in range(2):
        bench.runs.end_strangers()
    assert bench.flower.stopped == [stranger]
    assert [each for each in bench.noted if isinstance(each, StrangerEnded)] == [
        StrangerEnded(stranger, "one")
    ]


def test_our_own_runs_are_no_strangers_whoever_is_supervisor_and_after_their_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordered(bench, "one")
    bench.step()
    app = ServerApp(bench.place("one"))
    again = bench_in(bench.runs.places.folder, monkeypatch)
    again.flower.found = bench.flower.found
    again.runs.end_strangers()
    bench.step(1)
    app.ends("finished")
    bench.step(1)
    bench.runs.end_strangers()  # Flower hears of the end a moment later
    assert bench.flower.stopped == again.flower.stopped == []
    assert bench.count(StrangerEnded) == again.count(StrangerEnded) == 0


def test_a_run_that_flower_gave_up_is_begun_again(bench: Bench) -> None:
    ordered(bench, "one")
    bench.step()
    app = ServerApp(bench.place("one"))
    bench.step(5)
    bench.flower.gave_up(100, "No heartbeat received from the task")
    bench.step(5)
    assert not bench.killed, "it may end by itself"
    bench.step(module.ENDS_WITHIN + 1)
    assert bench.killed
    app.ends()
    bench.step(1)
    bench.step(5)
    assert len(bench.flower.found) == 2


def test_a_serverapp_that_never_came_is_given_up(bench: Bench) -> None:
    ordered(bench, "one")
    bench.step()
    bench.step(module.STARTS_WITHIN - 1)
    assert bench.flower.stopped == []
    bench.step(2)
    assert bench.flower.stopped == [100]


def fail(bench: Bench, name: str, why: str) -> None:
    """One try in which the ServerApp raises."""
    number = max(bench.flower.found)
    app = ServerApp(bench.place(name))
    bench.step(1)
    app.ends("failed")
    bench.step(1)
    bench.flower.gave_up(number, why)
    bench.step(1)


def test_one_that_raises_each_time_fails_with_its_reason(bench: Bench) -> None:
    ordered(bench, "one")
    why = RAISED + "the policy of all devices refuses"
    tries = 0
    while not bench.ticket("one").how:
        bench.step(120)
        fail(bench, "one", why)
        tries += 1
        assert tries <= FEW
    assert tries == FEW
    assert bench.ticket("one").reason == f"{why} (tried {FEW} times)"
    assert RunFolder.open(bench.place("one")).status() == "failed"


def test_a_new_round_makes_up_for_tries(bench: Bench) -> None:
    ordered(bench, "one")
    for tries in range(3 * MANY):
        bench.step(120)
        app = ServerApp(bench.place("one"))
        bench.step(1)
        if tries % 5 == 0:
            app.round(tries // 5 + 1)
        app.ends()
        bench.step(1)
    assert not bench.ticket("one").how


def test_a_round_of_the_last_try_counts(bench: Bench) -> None:
    ordered(bench, "one")
    for _ in range(FEW - 1):
        bench.step(120)
        fail(bench, "one", RAISED + "too few devices")
    bench.step(120)
    app = ServerApp(bench.place("one"))
    bench.step(1)
    app.round(1)
    app.ends()
    bench.step(1)
    assert not bench.ticket("one").how


def test_why_a_run_waits_is_told_and_it_fails_in_the_end(bench: Bench) -> None:
    bench.unready[0] = "2 of 4 devices are online: start the others"
    ordered(bench, "one")
    bench.step()
    assert bench.ticket("one").reason == bench.unready[0]
    for _ in range(FEW):
        bench.step(120)
    assert not bench.flower.found
    assert bench.ticket("one").how == "failed"
    assert bench.unready[0] in bench.ticket("one").reason


def test_that_superlink_is_away_is_no_failed_try(bench: Bench) -> None:
    ordered(bench, "one")
    bench.flower.is_there = False
    for _ in range(5 * MANY):
        with pytest.raises(Unreachable):
            bench.step(60)
    bench.flower.is_there = True
    bench.step(60)
    assert len(bench.flower.found) == 1


def test_another_database_means_that_the_run_is_over_there(bench: Bench) -> None:
    ordered(bench, "one")
    bench.step()
    bench.flower.found.clear()
    bench.step(5)
    bench.step(5)
    assert [each.name for each in bench.flower.found.values()] == ["one"]


def test_a_stopped_run_can_be_gone_on_with(bench: Bench) -> None:
    ordered(bench, "one")
    bench.step()
    app = ServerApp(bench.place("one"))
    bench.step(1)
    bench.runs.stop("one", "alice")
    bench.step(1)
    assert bench.flower.stopped == [100]
    app.ends("failed")
    bench.step(1)
    assert bench.ticket("one").how == "stopped"
    assert RunFolder.open(bench.place("one")).status() == "interrupted"
    bench.runs.resume("one", "bob")
    bench.step(5)
    assert bench.ticket("one").begun == 2


def test_a_stop_outlives_the_supervisor(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    ordered(bench, "one")
    bench.step()
    bench.runs.stop("one", "alice")
    later = bench_in(bench.runs.places.folder, monkeypatch)
    later.step()
    assert later.ticket("one").how == "stopped"
    assert not later.flower.found


def test_the_next_supervisor_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    ordered(bench, "one", "two")
    bench.step()
    later = bench_in(bench.runs.places.folder, monkeypatch)
    later.step()
    assert [each.name for each in later.flower.found.values()] == ["one"]


def test_what_was_ordered_already_is_not_ordered_twice(bench: Bench) -> None:
    ordered(bench, "one")
    bench.step()
    app = ServerApp(bench.place("one"))
    app.ends("finished")
    bench.step(1)
    ordered(bench, "one")  # handed out again after a kill
    bench.step(1)
    assert bench.count(RunOrdered) == bench.count(RunBegun) == bench.count(RunEnded) == 1
    with pytest.raises(ParameterError, match="already"):
        bench.runs.order("one", SETTINGS, "alice", "another")
    with pytest.raises(ParameterError, match="already"):
        bench.runs.order("one", SETTINGS, "mallory", f"{0:064x}")


def test_an_order_that_was_cut_off_is_gone_on_with(bench: Bench) -> None:
    RunFolder.create(bench.place("one"), small("run.name=one"), status="queued")
    ordered(bench, "one")
    bench.step()
    assert len(bench.flower.found) == 1


def test_somebodys_own_run_is_not_taken(bench: Bench) -> None:
    RunFolder.create(bench.place("mine"), small(), status="finished")
    with pytest.raises(ParameterError, match="already"):
        ordered(bench, "mine")


@pytest.mark.parametrize("name", ["../up", "a/b", "..", "UP", ""])
def test_a_name_is_no_path(bench: Bench, name: str) -> None:
    RunFolder.create(bench.runs.places.folder / "up", small(), status="failed")
    before = sorted(bench.runs.places.folder.rglob("*"))
    for act in (
        lambda: bench.runs.order(name, SETTINGS, "a", "d"),
        lambda: bench.runs.stop(name, "a"),
        lambda: bench.runs.resume(name, "a"),
    ):
        with pytest.raises(ParameterError):
            act()
    assert sorted(bench.runs.places.folder.rglob("*")) == before


@pytest.mark.parametrize(
    "settings", ["run = 3", "no toml [", "[run]\nround = 3\n", "[data]\ndevices = 'x'\n"]
)
def test_settings_that_are_none_are_refused(settings: str) -> None:
    with pytest.raises(ParameterError, match="one"):
        parsed("one", settings)


def test_a_damaged_run_does_not_hold_up_the_others(bench: Bench) -> None:
    ordered(bench, "bad", "good")
    (bench.place("bad") / "config.toml").write_text("nothing")
    bench.step()
    assert bench.ticket("bad").how == "failed"
    bench.step(1)
    assert bench.flower.found[100].name == "good"
