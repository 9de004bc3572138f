"""What is written ahead of a sum: nothing, an intent or what it came to, and never two answers."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.secagg.session import Session
from tacit.server.ahead import Ahead, Came, Lost
from tacit.server.events import SumOpened

MODEL = b"m" * 32
OPENED = SumOpened(7, "train", 3, 4, 0.25, "pairwise")
SESSION = cast(
    Session,
    SimpleNamespace(run=2**61, id=b"s" * 32, model=MODEL, codec=SimpleNamespace(length=6)),
)


@dataclass
class Held:
    """A shelf in memory, with a note of all that was done to it."""

    held: dict[str, bytes] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    room: int = 1 << 40

    def read(self, slot: str) -> bytes | None:
        return self.held.get(slot)

    def write(self, slot: str, value: bytes) -> None:
        self.done.append(f"write {slot}")
        self.held[slot] = value

    def remove(self, slot: str) -> None:
        self.done.append(f"remove {slot}")
        self.held.pop(slot, None)

    def slots(self) -> list[str]:
        return sorted(self.held)

    def check_room(self, size: int) -> None:
        if size > self.room:
            raise OSError("full")


def reply(arrays: dict[str, np.ndarray[Any, Any]] | None, **metrics: float) -> RecordDict:
    content = RecordDict({"metrics": MetricRecord(dict(metrics))})
    if arrays is not None:
        content["arrays"] = ArrayRecord({name: Array(each) for name, each in arrays.items()})
    return content


def same(one: RecordDict, other: RecordDict) -> None:
    assert list(one) == list(other)
    assert list(one["metrics"].items()) == list(other["metrics"].items())
    if "arrays" in one:
        for (a, x), (b, y) in zip(one["arrays"].items(), other["arrays"].items(), strict=True):
            assert a == b
            assert x.dtype == y.dtype
            assert x.shape == y.shape
            assert x.numpy().tobytes() == y.numpy().tobytes()


NUMBERS = st.floats(allow_nan=False)


@given(
    st.lists(NUMBERS, max_size=6),
    st.dictionaries(st.text(max_size=5), NUMBERS, max_size=3),
    st.booleans(),
)
def test_what_is_kept_comes_back_bit_for_bit(
    values: list[float], metrics: dict[str, float], trains: bool
) -> None:
    arrays = {"w/0": np.array(values), "": np.array(3, np.int64), "ü": np.zeros((0, 2), np.float16)}
    shelf = Held()
    entry = Ahead(shelf).entry(7, "train")
    entry.intend(SESSION)
    given_ = reply(arrays if trains else None, **metrics)
    entry.keep(Came(OPENED, given_))
    came = Ahead(shelf).entry(7, "train").recall(lambda: MODEL)
    assert came is not None
    assert came.opened == replace(OPENED, recalled=True)
    same(came.reply, given_)


def test_the_three_things_that_a_run_finds() -> None:
    shelf = Held()
    entry = Ahead(shelf).entry(7, "train", 2)
    assert not entry.is_there
    assert entry.recall(lambda: MODEL) is None
    entry.intend(SESSION)
    entry.intend(SESSION)
    assert shelf.done == ["write train_7_2"]
    again = Ahead(shelf).entry(7, "train", 2)
    assert again.is_there
    with pytest.raises(Lost, match="nobody is asked again"):
        again.recall(lambda: MODEL)
    entry.keep(Came(OPENED, reply(None, loss=1.0)))
    assert again.recall(lambda: MODEL) is not None
    with pytest.raises(Lost, match="for another model"):
        again.recall(lambda: b"o" * 32)
    for other in (entry, Ahead(shelf).entry(7, "train", 1), Ahead(shelf).entry(8, "train", 2)):
        assert other.is_there == (other is entry)


def test_an_intent_that_came_to_nothing_is_forgotten() -> None:
    shelf = Held()
    entry = Ahead(shelf).entry(1, "train")
    entry.forget()
    entry.intend(SESSION)
    entry.forget()
    assert not entry.is_there
    Ahead(shelf).entry(1, "train").forget()
    assert shelf.done == ["write train_1", "remove train_1"]


@given(st.data())
def test_whatever_is_there_it_is_not_asked_for_again(data: st.DataObject) -> None:
    """Every damage: Lost, or the very same; never None, and never another sum."""
    shelf = Held()
    entry = Ahead(shelf).entry(7, "train")
    entry.intend(SESSION)
    kept = reply({"w": np.arange(6, dtype=np.float32)}, loss=0.5)
    entry.keep(Came(OPENED, kept))
    good = shelf.held["train_7"]
    at = data.draw(st.integers(0, len(good) - 1))
    if data.draw(st.booleans()):
        shelf.held["train_7"] = good[:at]
    else:
        bad = good[at] ^ data.draw(st.integers(1, 255))
        shelf.held["train_7"] = good[:at] + bytes([bad]) + good[at + 1 :]
    try:
        came = entry.recall(lambda: MODEL)
    except Lost:
        return
    assert came is not None
    same(came.reply, kept)


def test_sums_of_earlier_rounds_go() -> None:
    shelf = Held()
    ahead = Ahead(shelf)
    for round in (9, 10, 11):
        for group in (0, 1):
            ahead.entry(round, "train", group).intend(SESSION)
        ahead.entry(round, "evaluate").intend(SESSION)
        ahead.place(round, {1: 0})
    assert ahead.rounds() == {9, 10, 11}
    ahead.drop_before(11)
    assert shelf.slots() == ["evaluate_11", "places_11", "train_11", "train_11_1"]
    assert ahead.rounds("train") == {11}


def test_places_are_of_the_round_or_the_latest() -> None:
    ahead = Ahead(Held())
    assert ahead.places(1, latest=True) == {}
    ahead.place(9, {1: 0, 2: 1})
    ahead.place(10, {1: 1, 2: 0, 2**40: 1})
    assert ahead.places(9, latest=False) == {1: 0, 2: 1}
    assert ahead.places(11, latest=False) == {}
    assert ahead.places(11, latest=True) == {1: 1, 2: 0, 2**40: 1}


def test_without_room_there_is_no_intent() -> None:
    shelf = Held(room=1 << 20)
    entry = Ahead(shelf).entry(1, "train")
    with pytest.raises(OSError, match="full"):
        entry.intend(SESSION)
    assert not entry.is_there


def test_a_run_that_leaves_nothing_writes_nothing() -> None:
    ahead = Ahead()
    entry = ahead.entry(1, "train")
    entry.intend(SESSION)
    entry.keep(Came(OPENED, reply(None)))
    entry.forget()
    ahead.place(1, {1: 0})
    ahead.drop_before(9)
    assert entry.recall(lambda: MODEL) is None
    assert ahead.rounds() == set()
    assert ahead.places(1, latest=True) == {}
