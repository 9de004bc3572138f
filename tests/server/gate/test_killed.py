"""kill -9: nothing is given twice, and no more is lost than was reserved."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tacit.server.gate.allowance import ahead
from tacit.server.gate.base import Denial
from tacit.server.gate.store import Store, one
from tests.server.gate import killed
from tests.server.gate.gates import HERE, World, records

ROOT = Path(__file__).resolve().parents[3]
BUDGET = 400


class Victim:
    """A process that gives answers when it is told to, until it is killed."""

    def __init__(self, gate: World, text: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.server.gate.killed", str(gate.path)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._process.stdin.write(text.encode() + b"\n")  # no argument: those are for all to see

    def give(self, answers: int) -> int:
        """Let it give so many; returns how many it gave."""
        self._process.stdin.write(b"x" * answers)
        said = b""
        while len(said) < answers:
            more = self._process.stdout.read(answers - len(said))
            assert more
            said += more
        return said.count(killed.GIVEN)

    def kill(self, amid: int) -> int:
        """Kill it while it is about to give so many; returns how many of them it gave."""
        self._process.stdin.write(b"x" * amid)
        self._process.kill()
        given = self._process.stdout.read().count(killed.GIVEN)
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        return given


def spent(gate: World, name: str) -> int:
    with gate.store.reading() as db:
        return int(one(db, "SELECT spent FROM keys WHERE name = ?", name)[0])


@pytest.mark.parametrize("amid", [0, 60])
def test_killed_again_and_again(gate: World, amid: int) -> None:
    key = gate.issue(expires=time.time() + 10**9)
    gate.budget(key.name, BUDGET)
    given = 0
    for answers in (1, 70):
        pair = [Victim(gate, key.text) for _ in range(2)]
        given += sum(each.give(answers) for each in pair)
        given += sum(each.kill(amid) for each in pair)
        assert given <= spent(gate, key.name) <= BUDGET
    # Four were killed, each with a block in its hands at most, and amid one answer.
    assert spent(gate, key.name) - given <= 4 * (ahead(BUDGET) + 1)
    last = Victim(gate, key.text)
    rest = BUDGET - spent(gate, key.name)
    assert last.give(BUDGET) == rest
    last.kill(0)
    assert spent(gate, key.name) == BUDGET


def test_the_next_one_goes_on(gate: World) -> None:
    key = gate.issue(expires=time.time() + 10**9)
    victim = Victim(gate, key.text)
    assert victim.give(5) == 5
    victim.kill(0)
    again = Store(gate.path)
    found, at, rest = records(again), time.time(), 0
    try:
        while True:
            found.take(found.grant_of(key.text, HERE, at), 1, at)
            rest += 1
    except Denial:
        pass
    assert rest == 100 - ahead(100)  # its first block is lost, and no more
    again.close()
