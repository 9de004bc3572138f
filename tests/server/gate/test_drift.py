"""What most keys show is drift, what one shows is that key; each is told once, and nothing acts."""

import numpy as np
import pytest

from tacit.crypto.errors import ParameterError
from tacit.server.gate.drift import RECENT, Drift, Moved
from tacit.server.gate.fitting import fit
from tacit.server.gate.watch import KeyWatch
from tests.server.gate.blobs import Blobs, drawn, grant

BASELINE = fit(Blobs(), drawn(400), np.random.default_rng(0), streams=30, length=300)


class Gate:
    """A watch, and what comes of it, for as many keys as one likes."""

    def __init__(self, **how):
        self.watch, self.drift, self.at = KeyWatch(BASELINE), Drift(BASELINE, **how), 0.0

    def ask(self, key, off=0.0, seed=0, count=100):
        self.at += 1
        x = drawn(count, 1000 * seed + int(self.at), off=off)
        scored = Blobs().scored(x)
        suspicion = self.watch.saw(grant(key), x, scored, self.at)
        return self.drift.saw(grant(key), scored, suspicion, self.at)

    def round(self, keys, off=0.0):
        told = [self.ask(f"key {i}", off) for i in range(keys)]
        return [one for one in told if one]


def test_honest_keys_give_nothing_to_tell():
    gate = Gate()
    assert not [one for _ in range(10) for one in gate.round(10)]
    assert gate.drift.share < 0.5


def test_one_odd_key_is_that_key_and_told_once():
    gate = Gate()
    gate.round(10)
    told = [gate.ask("odd", 4.0) for _ in range(5)]
    assert [one.moved for one in told if one] == [Moved.KEY]
    assert told[0].keys == ("odd",)
    assert not gate.round(10)


def test_most_keys_are_the_world_and_told_once():
    gate = Gate()
    gate.round(10)
    told = [one for _ in range(4) for one in gate.round(10, off=4.0)]
    world = [one for one in told if one.moved is Moved.WORLD]
    assert len(world) == 1
    assert world[0].share > 0.5
    assert len(world[0].keys) == 6
    assert not [one for one in told if one.at > world[0].at]


def test_a_world_that_came_back_can_move_again():
    gate = Gate()
    for _ in range(2):
        assert Moved.WORLD in [one.moved for one in gate.round(10, off=4.0)]
        for _ in range(3):
            gate.round(10)
        assert gate.drift.share <= 0.25


def test_one_key_that_asks_most_is_not_the_world():
    gate = Gate()
    gate.round(10)
    told = [gate.ask("busy", 4.0) for _ in range(200)]
    assert {one.moved for one in told if one} == {Moved.KEY}


def test_two_keys_are_no_world():
    gate = Gate()
    told = [gate.ask(f"key {i % 2}", 4.0) for i in range(10)]
    assert [one.moved for one in told if one] == [Moved.KEY, Moved.KEY]


def test_adwin_says_when_confidence_changed():
    """Odd inputs that are also between classes: answers are less sure than they were."""
    gate = Gate()
    for _ in range(10):
        gate.round(10)
    assert gate.drift.change is None
    rng = np.random.default_rng(0)
    for _ in range(100):
        x = (np.ones((100, 8)) + rng.normal(0, 0.2, (100, 8))).astype(np.float32)
        scored = Blobs().scored(x)
        gate.drift.saw(grant("new"), scored, gate.watch.saw(grant("new"), x, scored, 400.0), 400.0)
    change = gate.drift.change
    assert change is not None
    assert change[0] > change[1]


def test_keys_that_no_longer_ask_do_not_count():
    gate = Gate()
    gate.round(10, off=4.0)
    gate.at += 2 * RECENT
    gate.ask("now")
    assert gate.drift.share == 0.0


def test_memory_is_bounded():
    gate = Gate(most_keys=20)
    for i in range(100):
        gate.ask(f"key {i}", off=4.0 * (i % 9 == 0))
    assert len(gate.drift._keys) == 20
    assert gate.drift._told <= gate.drift._keys.keys()


def test_a_drift_of_nobody_is_refused():
    with pytest.raises(ParameterError, match="most_keys=2"):
        Drift(BASELINE, most_keys=2)
