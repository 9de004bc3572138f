"""What a run needs to go on after it was interrupted: round, model, the strategy's own state."""

import io
import json
import os
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.server.broadcast import Arrays

Kept: TypeAlias = ArrayRecord | Mapping[str, NDArray[Any]] | list[NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state after `round` rounds. `strategy` holds arrays such as momentum, by attribute."""

    round: int
    arrays: Arrays
    strategy: Mapping[str, Kept] = field(default_factory=dict)

    @classmethod
    def of(cls, round: int, arrays: ArrayRecord, strategy: Strategy) -> "Checkpoint":
        """Take down what `strategy` remembers between rounds: every attribute made of arrays."""
        held = vars(innermost(strategy))
        state = {name: copy(value) for name, value in held.items() if _is_kept(value)}
        return cls(round, {name: array.numpy() for name, array in arrays.items()}, state)

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
        """Write the file in one step: after a crash it is the old checkpoint or the new."""
        buffer = io.BytesIO()
        np.savez(buffer, **_flat(self))  # type: ignore[arg-type]  # numpy types **kwds as bool
        fresh = path.with_suffix(".new")
        with fresh.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Raises ParameterError if there is no checkpoint, or it is damaged."""
        try:
            with np.load(path, allow_pickle=False) as file:
                index = json.loads(str(file["index"]))
                arrays = {name: file[f"model/{i}"] for i, name in enumerate(index["model"])}
                state = {name: _read(file, name, kind) for name, kind in index["strategy"].items()}
                return cls(int(index["round"]), arrays, state)
        except FileNotFoundError:
            raise ParameterError(f"no checkpoint at {path}") from None
        except Exception as bad:  # numpy and zipfile raise what they like for damaged bytes
            raise ParameterError(f"the checkpoint at {path} is damaged: {bad}") from bad


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
    index = {"round": checkpoint.round, "model": list(checkpoint.arrays), "strategy": kinds}
    return {**out, "index": np.array(json.dumps(index))}


def _read(file: Any, name: str, kind: Any) -> Kept:
    if isinstance(kind, int):
        return [file[f"strategy/{name}/{i}"] for i in range(kind)]
    names = kind["records"] if isinstance(kind, dict) else kind
    arrays = {key: file[f"strategy/{name}/{i}"] for i, key in enumerate(names)}
    if isinstance(kind, dict):
        return ArrayRecord({key: Array(array) for key, array in arrays.items()})
    return arrays
