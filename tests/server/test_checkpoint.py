"""What a run goes on from: complete, whole or not at all, and never another run's."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM

from tacit.crypto.errors import ParameterError
from tacit.server.checkpoint import Checkpoint, Newest, before, newest
from tacit.server.events import RoundFinished

MODEL = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b/ias": np.array(0.5),
    "n": np.array([1, 2], np.int64),
    "ünïcode": np.zeros((0, 3), np.float16),
}


def record(arrays: dict[str, Any]) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(a)) for name, a in arrays.items()})


def adam() -> FedAdam:
    strategy = FedAdam()
    strategy.current_arrays = dict(MODEL)
    strategy.m_t = {name: array * 0.25 for name, array in MODEL.items()}  # 0-d becomes a scalar
    strategy.v_t = {name: array**2 * 1.0 for name, array in MODEL.items()}
    return strategy


def momentum() -> FedAvgM:
    strategy = FedAvgM(server_momentum=0.9)
    strategy.current_arrays = record(MODEL)
    strategy.momentum_vector = [array * 0.5 for array in MODEL.values()]
    return strategy


def same(one: Any, other: Any) -> None:
    if isinstance(one, ArrayRecord):
        one = {name: array.numpy() for name, array in one.items()}
        other = {name: array.numpy() for name, array in other.items()}
    pairs = zip(one.values(), other.values(), strict=True) if isinstance(one, dict) else None
    if isinstance(one, dict):
        assert list(one) == list(other)
    for a, b in pairs or zip(one, other, strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        assert np.shape(a) == np.shape(b)
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("make", [adam, momentum, FedAvg])
def test_what_is_saved_comes_back(make: Callable[[], FedAvg], tmp_path: Path) -> None:
    strategy = make()
    path = tmp_path / "state.npz"
    Checkpoint.of(7, record(MODEL), strategy).save(path)
    loaded = Checkpoint.load(path)
    assert loaded.round == 7
    same(loaded.arrays, MODEL)
    fresh = type(strategy)()
    same(loaded.restore(fresh), record(MODEL))
    for name in ("current_arrays", "m_t", "v_t", "momentum_vector"):
        value = getattr(strategy, name, None)
        assert (value is None) == (getattr(fresh, name, None) is None), name
        if value is not None:
            same(getattr(fresh, name), value)


def test_a_kept_checkpoint_does_not_change_when_the_strategy_goes_on() -> None:
    strategy = adam()
    kept = Checkpoint.of(1, record(MODEL), strategy)
    assert strategy.m_t is not None
    before = strategy.m_t["w"].copy()
    strategy.m_t["w"] = strategy.m_t["w"] * 0
    again = FedAdam()
    kept.restore(again)
    assert again.m_t is not None
    np.testing.assert_array_equal(again.m_t["w"], before)
    again.m_t["w"] = again.m_t["w"] * 0
    kept.restore(strategy)
    np.testing.assert_array_equal(strategy.m_t["w"], before)


def test_the_memory_of_another_strategy_is_refused() -> None:
    kept = Checkpoint.of(1, record(MODEL), adam())
    with pytest.raises(ParameterError, match=r"'m_t', which FedAvgM does not have"):
        kept.restore(FedAvgM())


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=f"no checkpoint at {tmp_path / 'none.npz'}"):
        Checkpoint.load(tmp_path / "none.npz")


def test_damage_is_noticed_or_harmless(tmp_path: Path) -> None:
    """Every byte in turn: a ParameterError, or the very same checkpoint; never another one."""
    path = tmp_path / "state.npz"
    Checkpoint.of(7, record(MODEL), momentum()).save(path)
    good = path.read_bytes()
    noticed = 0
    for at in range(0, len(good), 13):
        path.write_bytes(good[:at] + bytes([good[at] ^ 0x55]) + good[at + 1 :])
        try:
            loaded = Checkpoint.load(path)
        except ParameterError:
            noticed += 1
            continue
        assert loaded.round == 7
        same(loaded.arrays, MODEL)
        same(loaded.strategy["momentum_vector"], momentum().momentum_vector)
    assert noticed > len(good) / 13 / 2


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04", b"\x93NUMPY\x01\x00"])
def test_what_is_no_checkpoint(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    path.write_bytes(content)
    with pytest.raises(ParameterError, match="is damaged"):
        Checkpoint.load(path)


def test_other_files_of_numpys_are_no_checkpoint(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    np.savez(tmp_path / "b.npz", index=np.array("[]"))
    np.savez(tmp_path / "c.npz", index=np.array(['{"round": 1}'], dtype=object))  # a pickle inside
    for name in ("a.npy", "a.npz", "b.npz", "c.npz"):
        with pytest.raises(ParameterError, match="is damaged"):
            Checkpoint.load(tmp_path / name)


def test_cut_short_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    Checkpoint.of(7, record(MODEL), adam()).save(path)
    good = path.read_bytes()
    for size in range(0, len(good), 97):
        path.write_bytes(good[:size])
        with pytest.raises(ParameterError, match="is damaged"):
            Checkpoint.load(path)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_crash_while_saving_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "state.npz"
    Checkpoint.of(1, record(MODEL), FedAvg()).save(path)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os if step == "fsync" else Path, step, crash)
        with pytest.raises(KeyboardInterrupt):
            Checkpoint.of(2, record(MODEL), FedAvg()).save(path)
    assert Checkpoint.load(path).round == 1
    Checkpoint.of(3, record(MODEL), FedAvg()).save(path)
    assert Checkpoint.load(path).round == 3
    assert Checkpoint.load(before(path)).round == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["state.before.npz", "state.npz"]


def kept(path: Path, *rounds: int) -> None:
    for number in rounds:
        Checkpoint.of(number, record(MODEL), adam()).save(path)


def test_the_one_before_is_kept_and_read_where_the_newest_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    assert newest(path) == Newest(None)
    kept(path, 1, 2, 3)
    content = path.read_bytes()
    for damaged in (b"", content[:-40], content[: len(content) // 2], b"\0" * len(content)):
        path.write_bytes(damaged)
        found = newest(path)
        assert found.checkpoint is not None
        assert found.checkpoint.round == 2
        assert f"{path} is damaged" in found.damage
    path.unlink()  # as a crash between two renamings leaves it
    found = newest(path)
    assert found.checkpoint is not None
    assert (found.checkpoint.round, found.damage) == (2, "")


def test_two_damaged_ones_are_left_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    kept(path, 1, 2)
    for each in (path, before(path)):
        each.write_bytes(each.read_bytes()[:100])
    there = {each: each.read_bytes() for each in tmp_path.iterdir()}
    with pytest.raises(ParameterError, match="bring back a copy of one of them"):
        newest(path)
    assert {each: each.read_bytes() for each in tmp_path.iterdir()} == there


def test_what_was_told_of_a_round_comes_back(tmp_path: Path) -> None:
    told = RoundFinished(7, 9, 1.5, {"loss": 0.25}, {}, {"accuracy": 1 / 3})
    Checkpoint.of(7, record(MODEL), FedAvg(), told).save(tmp_path / "state.npz")
    assert Checkpoint.load(tmp_path / "state.npz").finished == told
