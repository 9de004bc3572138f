"""Runs an attack on a view and scores it: the only place that holds a guess and the truth."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.server.inbox import Seen
from tacit.simulations.attacks.base import Attack, Knows, View, view_of
from tacit.simulations.measure import Measure, of_updates
from tacit.simulations.score import RECOVERED_DB, Score, floor_of, score

Floats: TypeAlias = NDArray[np.float64]

_JSON = "outcomes.json"
_NPZ = "outcomes.npz"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """One attack on one view. `guess[i]` is the guess matched with `truth[i]`; same shape."""

    attack: str
    protocol: str
    clients: int
    round: int
    knows: Knows
    guess: Floats = field(repr=False, compare=False)
    truth: Floats = field(repr=False, compare=False)
    score: Score
    floor: Score
    seconds: float


def evaluate(
    attack: Attack,
    view: View,
    truth: NDArray[Any],
    gallery: NDArray[Any],
    rng: np.random.Generator,
    *,
    public: NDArray[Any] | None = None,
    threshold: float = RECOVERED_DB,
) -> Outcome:
    """Let `attack` guess from `view` and `rng` alone, then compare with `truth`.

    `truth` (n, *shape) in [0, 1]; `gallery` (m, *shape) contains it. The floor uses `public`
    data, or else the gallery without the truth. Guesses beyond n are dropped: the attack ranks.
    `seconds` counts the attack only.
    """
    known = truth.astype(np.float64)
    candidates = gallery.astype(np.float64)
    others = _without(candidates, known) if public is None else public.astype(np.float64)
    if len(others) == 0:
        raise ParameterError("the floor needs public data, or a gallery larger than the truth")
    floor = floor_of(known, candidates, others, threshold)
    started = perf_counter()
    guess = attack.reconstruct(view, rng)
    seconds = perf_counter() - started
    found, matched = score(guess[: len(known)], known, candidates, threshold)
    return Outcome(
        attack=attack.name,
        protocol=view.protocol,
        clients=view.clients,
        round=view.round,
        knows=view.knows,
        guess=matched,
        truth=known,
        score=found,
        floor=floor,
        seconds=seconds,
    )


def over_rounds(
    attack: Attack,
    history: Sequence[Seen],
    updates: Mapping[tuple[int, int], Floats],
    counts: Sequence[int],
    rng: np.random.Generator,
) -> Iterator[tuple[int, Measure]]:
    """Let `attack` guess updates after the first so many sums of a run, for each of `counts`.

    The truth for a member of the last of them is the mean of its own `updates`, by round and node,
    over those of the rounds that it was in. The floor is the mean of the sums over these rounds.
    """
    for count in counts:
        so_far = history[:count]
        last = so_far[-1]
        sums = [np.concatenate([np.ravel(a) for a in seen.update.values()]) for seen in so_far]
        truth, blind = [], []
        for node in last.members:
            there = [at for at, seen in enumerate(so_far) if node in seen.members]
            own = [updates[so_far[at].round, node] for at in there]
            truth.append(np.mean(own, axis=0))
            blind.append(np.mean([sums[at] for at in there], axis=0))
        guess = attack.reconstruct(view_of(last, history=so_far), rng)
        yield count, of_updates(guess, np.array(truth), np.array(blind))


def save_outcomes(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write outcomes.json and outcomes.npz into the folder `path`, replacing what was there."""
    path.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {}
    for number, outcome in enumerate(outcomes):
        arrays[f"guess{number}"] = outcome.guess
        arrays[f"truth{number}"] = outcome.truth
    np.savez_compressed(path / _NPZ, **arrays)
    records = {"version": _VERSION, "outcomes": [_record(outcome) for outcome in outcomes]}
    (path / _JSON).write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


def load_outcomes(path: Path) -> tuple[Outcome, ...]:
    """What `save_outcomes` wrote; ParameterError if it is missing or damaged."""
    try:
        records = json.loads((path / _JSON).read_text(encoding="utf-8"))
        if records["version"] != _VERSION:
            raise ParameterError(f"{path / _JSON} has version {records['version']}, not {_VERSION}")
        with np.load(path / _NPZ, allow_pickle=False) as arrays:
            return tuple(
                _outcome(record, arrays[f"guess{number}"], arrays[f"truth{number}"])
                for number, record in enumerate(records["outcomes"])
            )
    except FileNotFoundError as error:
        raise ParameterError(f"no attack outcomes in {path}: run an attack first") from error
    except (KeyError, TypeError, ValueError, OSError, EOFError) as error:
        if isinstance(error, ParameterError):
            raise
        raise ParameterError(f"the attack outcomes in {path} cannot be read: {error}") from error


def _record(outcome: Outcome) -> dict[str, Any]:
    return {
        "attack": outcome.attack,
        "protocol": outcome.protocol,
        "clients": outcome.clients,
        "round": outcome.round,
        "knows": [flag.name for flag in Knows if flag in outcome.knows],
        "score": outcome.score.to_json(),
        "floor": outcome.floor.to_json(),
        "seconds": outcome.seconds,
    }


def _outcome(record: dict[str, Any], guess: Floats, truth: Floats) -> Outcome:
    knows = Knows.NOTHING
    for name in record["knows"]:
        knows |= Knows[name]
    return Outcome(
        attack=str(record["attack"]),
        protocol=str(record["protocol"]),
        clients=int(record["clients"]),
        round=int(record["round"]),
        knows=knows,
        guess=guess,
        truth=truth,
        score=Score.from_json(record["score"]),
        floor=Score.from_json(record["floor"]),
        seconds=float(record["seconds"]),
    )


def _without(gallery: Floats, truth: Floats) -> Floats:
    flat = truth.reshape(len(truth), -1)
    kept = [one for one in gallery if not (flat == one.reshape(-1)).all(axis=1).any()]
    return np.array(kept).reshape(-1, *truth.shape[1:])
