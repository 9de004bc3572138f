"""What a run needs to go on after it was interrupted: round, model, the strategy's own state.

The newest is in a file, and the one before it in another beside it, in case the newest is damaged.
"""

import io
import json
import os
from collections.abc import Mapping
from copy import copy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.server.broadcast import Arrays
from tacit.server.events import RoundFinished

Kept: TypeAlias = ArrayRecord | Mapping[str, NDArray[Any]] | list[NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state after `round` rounds. `strategy` holds arrays such as momentum, by attribute;
    `finished` is what listeners are told of the round once this is kept."""

    round: int
    arrays: Arrays
    strategy: Mapping[str, Kept] = field(default_factory=dict)
    finished: RoundFinished | None = None

    @classmethod
    def of(
        cls,
        round: int,
        arrays: ArrayRecord,
        strategy: Strategy,
        finished: RoundFinished | None = None,
    ) -> "Checkpoint":
        """Take down what `strategy` remembers between rounds: every attribute made of arrays."""
        held = vars(innermost(strategy))
        state = {name: copy(value) for name, value in held.items() if _is_kept(value)}
        model = {name: array.numpy() for name, array in arrays.items()}
        return cls(round, model, state, finished)

    def restore(self, strategy: Strategy) -> ArrayRecord:
        """Give `strategy` its memory back; returns the model to go on from.

        Raises ParameterError if the memory is of another kind of strategy.
        """
        strategy = innermost(strategy)
        for name, value in self.strategy.items():
            if not hasattr(strategy, name):
                raise ParameterError(
                    f"the checkpoint holds {name!r}, which {type(strategy).__name__} does not "
                    "have: go on with the strategy that the run was started with"
                )
            setattr(strategy, name, copy(value))
        return ArrayRecord({name: Array(array) for name, array in self.arrays.items()})

    def save(self, path: Path) -> None:
        """Write the file, and leave what was in it in `before(path)`. After a crash at least one of
        the two is there, and both are whole: `newest` reads what is."""
        buffer = io.BytesIO()
        np.savez(buffer, **_flat(self))  # type: ignore[arg-type]  # numpy types **kwds as bool
        fresh = path.with_suffix(".new")
        try:
            with fresh.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
        except OSError:  # a full disk: make no use of what room there is
            fresh.unlink(missing_ok=True)
            raise
        if path.exists():
            path.replace(before(path))
        fresh.replace(path)
        _sync(path.parent)

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Raises ParameterError if there is no checkpoint, or it is damaged."""
        try:
            with np.load(path, allow_pickle=False) as file:
                index = json.loads(str(file["index"]))
                arrays = {name: file[f"model/{i}"] for i, name in enumerate(index["model"])}
                state = {name: _read(file, name, kind) for name, kind in index["strategy"].items()}
                told = index.get("finished")
                finished = None if told is None else RoundFinished(**told)
                return cls(int(index["round"]), arrays, state, finished)
        except FileNotFoundError:
            raise ParameterError(f"no checkpoint at {path}") from None
        except Exception as bad:  # numpy and zipfile raise what they like for damaged bytes
            raise ParameterError(f"the checkpoint at {path} is damaged: {bad}") from bad


@dataclass(frozen=True, slots=True)
class Newest:
    """What a run can go on from: `checkpoint`, None if no round was kept. `damage` says what is
    wrong with the newest one, "" if nothing is."""

    checkpoint: Checkpoint | None
    damage: str = ""


def before(path: Path) -> Path:
    """Where the checkpoint before that in `path` is."""
    return path.with_name(f"{path.stem}.before{path.suffix}")


def newest(path: Path) -> Newest:
    """The newest checkpoint that can be read. Nothing is written.

    Raises ParameterError if there are some and none of them can be.
    """
    damage = ""
    for each in (path, before(path)):
        if each.exists():
            try:
                return Newest(Checkpoint.load(each), damage)
            except ParameterError as bad:
                damage = f"{damage}; {bad}" if damage else str(bad)
    if damage and before(path).exists():
        raise ParameterError(
            f"{damage}: bring back a copy of one of them, or start the run anew; nothing was "
            "changed"
        )
    return Newest(None, damage)


def innermost(strategy: Strategy) -> Strategy:
    """The strategy that remembers: one that stands around another, its `inner`, keeps nothing."""
    while isinstance(inner := getattr(strategy, "inner", None), Strategy):
        strategy = inner
    return strategy


def _is_kept(value: object) -> bool:
    if isinstance(value, ArrayRecord):
        return True
    items: list[object] = []
    if isinstance(value, dict):
        items = list(value.values())
    elif isinstance(value, list):
        items = value
    # Arithmetic on a 0-d array gives a numpy scalar, so a momentum may hold both.
    return bool(items) and all(isinstance(item, np.ndarray | np.generic) for item in items)


def _flat(checkpoint: Checkpoint) -> dict[str, NDArray[Any]]:
    """All arrays under plain names, and an index that says what they are."""
    out = {f"model/{i}": array for i, array in enumerate(checkpoint.arrays.values())}
    kinds: dict[str, list[str] | int | dict[str, list[str]]] = {}
    for name, value in checkpoint.strategy.items():
        items: list[NDArray[Any]]
        if isinstance(value, ArrayRecord):
            kinds[name] = {"records": list(value)}
            items = [array.numpy() for array in value.values()]
        elif isinstance(value, list):
            kinds[name] = len(value)
            items = value
        else:
            kinds[name] = list(value)
            items = list(value.values())
        out.update({f"strategy/{name}/{i}": item for i, item in enumerate(items)})
    told = None if checkpoint.finished is None else asdict(checkpoint.finished)
    index = {
        "round": checkpoint.round,
        "model": list(checkpoint.arrays),
        "strategy": kinds,
        "finished": told,
    }
    return {**out, "index": np.array(json.dumps(index))}


def _read(file: Any, name: str, kind: Any) -> Kept:
    if isinstance(kind, int):
        return [file[f"strategy/{name}/{i}"] for i in range(kind)]
    names = kind["records"] if isinstance(kind, dict) else kind
    arrays = {key: file[f"strategy/{name}/{i}"] for i, key in enumerate(names)}
    if isinstance(kind, dict):
        return ArrayRecord({key: Array(array) for key, array in arrays.items()})
    return arrays


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
