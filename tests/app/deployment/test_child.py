"""Processes that are kept running, with fake ones: `python -c`."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tacit.app.deployment import child as children
from tacit.app.deployment.child import MANY, Child, Spec, aside, last_words, turn_over
from tacit.app.deployment.environment import environment
from tacit.app.deployment.proc import is_alive, started

SLEEP = "import time; time.sleep(60)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True);"


@pytest.fixture
def of(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    made: list[Child] = []

    def make(code: str, grace: float = 5.0) -> Child:
        spec = Spec("fake", (sys.executable, "-c", code), os.environ, tmp_path / "fake.log", grace)
        made.append(Child(spec, draw=lambda: 0.0))
        return made[-1]

    yield make
    for each in made:
        each.kill()
        ended(each)


def ended(child: Child, within: float = 10.0) -> str:
    """How it ended, once it has."""
    end = time.monotonic() + within
    while child.pid is not None:
        if (how := child.look(time.monotonic())) is not None:
            return how
        assert time.monotonic() < end
        time.sleep(0.02)
    return ""


def until(what: Callable[[], bool], within: float = 10.0) -> None:
    end = time.monotonic() + within
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_one_that_ends_is_to_be_started_again_after_a_while(of: Callable[..., Child]) -> None:
    child = of("print('no disk'); raise SystemExit(3)")
    assert child.is_due(0.0)
    child.begin()
    assert child.state == "running"
    assert not child.is_due(time.monotonic())
    assert ended(child) == "exit code 3"
    assert child.ended == "exit code 3: no disk"
    assert child.restarts == 1
    assert not child.is_due(child.next_try - 0.01)
    assert child.is_due(child.next_try)


def test_waits_grow_and_it_is_never_given_up(of: Callable[..., Child]) -> None:
    child, waits = of("raise SystemExit(2)"), []
    child.begin()
    ended(child)
    child.failures, now = 0, time.monotonic()
    for _ in range(12):
        child._plan(False, now)
        waits.append(child.next_try - now)
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(15.0)  # half of the bound: the draw is 0
    assert child.failures > MANY
    assert child.state == "failing"
    child.retry()
    assert child.is_due(now)


def test_a_long_life_makes_up_for_failures(of: Callable[..., Child]) -> None:
    child = of(SLEEP)
    child.failures, child.since = MANY, 0.0
    child._plan(False, children.SHORT + 1)
    assert child.failures == 1


def test_a_killed_one_says_which_signal(of: Callable[..., Child]) -> None:
    child = of(SLEEP)
    child.begin()
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    assert ended(child) == child.ended == "SIGKILL"


def test_it_ends_when_it_is_asked_and_that_is_no_failure(of: Callable[..., Child]) -> None:
    child = of(SLEEP)
    child.begin()
    child.end(time.monotonic())
    assert child.state == "ending"
    assert ended(child) == "SIGTERM"
    assert (child.restarts, child.failures) == (0, 0)


def test_one_that_does_not_listen_is_killed_when_its_grace_is_over(
    of: Callable[..., Child],
) -> None:
    child = of(DEAF + SLEEP, grace=0.1)
    child.begin()
    until(lambda: b"deaf" in child.spec.log.read_bytes())
    child.end(time.monotonic())
    assert ended(child) == "SIGKILL"


def test_what_it_started_ends_with_it(of: Callable[..., Child], tmp_path: Path) -> None:
    child = of(
        "import subprocess, sys;"
        f"p = subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); print(p.pid, flush=True)"
    )
    child.begin()
    ended(child)
    pid = int((tmp_path / "fake.log").read_text())
    until(lambda: started(pid) is None)


def test_it_does_not_outlive_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    code = f"""
import os, sys, time
from pathlib import Path
from tacit.app.deployment.child import Child, Spec
argv = (sys.executable, "-c", {SLEEP!r})
child = Child(Spec("x", argv, os.environ, Path({str(tmp_path)!r}) / "x"))
child.begin()
print(child.pid, flush=True)
time.sleep(60)
"""
    env = environment(tmp_path, os.environ)
    supervisor = Child(Spec("s", (sys.executable, "-c", code), env, tmp_path / "s.log"))
    supervisor.begin()
    until(lambda: (tmp_path / "s.log").read_bytes().endswith(b"\n"), within=30)
    pid = int((tmp_path / "s.log").read_text())
    start = started(pid)
    assert is_alive(pid, start)
    assert supervisor.pid is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    until(lambda: not is_alive(pid, start))
    ended(supervisor)


def test_what_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    child = Child(Spec("x", (str(tmp_path / "none"),), {}, tmp_path / "x.log"))
    with pytest.raises(FileNotFoundError):
        child.begin()
    child.failed_to_begin("cannot be started", 5.0)
    assert child.pid is None
    assert child.next_try > 5.0


def test_a_large_log_is_turned_over_and_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab", buffering=0) as file:
        for number in (b"1", b"2", b"3", b"4"):
            file.write(number * 10)
            turn_over(log, largest=9, kept=2)
        file.write(b"5")
    assert log.read_bytes() == b"5"
    assert aside(log, 1).read_bytes() == b"4" * 10
    assert aside(log, 2).read_bytes() == b"3" * 10
    assert not aside(log, 3).exists()
    turn_over(log)
    assert log.read_bytes() == b"5"


def test_last_words_are_one_line_that_is_safe_to_print(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    assert last_words(log) == ""
    log.write_bytes(b"first\n\xff\x1b[31mlast\n\n  \n")
    assert last_words(log) == "\N{REPLACEMENT CHARACTER} [31mlast"


def test_a_number_alone_is_not_a_process() -> None:
    assert is_alive(os.getpid(), started(os.getpid()))
    assert not is_alive(os.getpid(), "another boot:1")
    assert not is_alive(os.getpid(), None)
    assert started(0) is None
