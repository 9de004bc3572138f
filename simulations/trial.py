"""One attack on one run of a federation, with all that is needed to read its figures right.

A matrix of attacks is a list of these: a file with one JSON object to a line, appended to as trials
end, and a folder of pictures beside it. What a kill cut off is run again; the rest is not.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from os import SEEK_END
from pathlib import Path
from typing import Any

import numpy as np

from tacit.crypto.errors import ParameterError
from tacit.simulations.measure import Measure
from tacit.simulations.score import Floats

PLAN, TRIALS, PICTURES = "matrix.toml", "trials.jsonl", "pictures"
MOST_PICTURES = 8


@dataclass(frozen=True, slots=True)
class Cell:
    """What is tried: an attack, on devices that each hold `examples` and train for `steps` on all
    of them at once at rate `rate`, `devices` of them in what the server sees, for `rounds` rounds.

    `attack`, `defence`, `model` and `data` are names.
    """

    attack: str
    defence: str
    model: str
    data: str
    devices: int = 1
    examples: int = 1
    steps: int = 1
    rate: float = 0.1
    rounds: int = 1

    @property
    def threat(self) -> str:
        """The training and what is summed of it, in words: "16 devices, 1 example, 1 step"."""
        return ", ".join((_count(self.devices, "device"), *self.training))

    @property
    def training(self) -> tuple[str, ...]:
        """What each device does, in words: ("1 example", "5 steps at 0.1", "40 rounds")."""
        steps = _count(self.steps, "step") + (f" at {self.rate:g}" if self.steps > 1 else "")
        rounds = [_count(self.rounds, "round")] if self.rounds > 1 else []
        return (_count(self.examples, "example"), steps, *rounds)

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Trial:
    """A cell, tried once.

    conduct, granted   what the server does and is told beyond what it sees, in words
    measures   the main one first; of what was guessed blindly where `stopped`
    stopped    why there was nothing to attack, in the devices' words; empty if there was
    gave_up    why the attack had no guess: then measures are those of guessing blindly
    protocol   what the server's view came through
    epsilon, bound   of a private run: what it cost, and the most that any attack can identify
    hits, of   how many inputs were identified, of how many: what `bound` is held against
    pictures   the first originals and the guesses at them, (n, *shape) each
    """

    cell: Cell
    seed: int
    conduct: str
    granted: str
    measures: tuple[Measure, ...]
    seconds: float
    protocol: str = "plain"
    stopped: str = ""
    gave_up: str = ""
    epsilon: float | None = None
    bound: float | None = None
    hits: int = 0
    of: int = 0
    pictures: tuple[Floats, Floats] | None = field(default=None, repr=False, compare=False)

    @property
    def key(self) -> str:
        return key_of(self.cell, self.seed)


def key_of(cell: Cell, seed: int) -> str:
    """A name for the trial of this cell with this seed: 16 hexadecimal digits."""
    text = json.dumps([cell.to_json(), seed], sort_keys=True)
    return sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class TrialLog:
    """The trials kept in a folder."""

    path: Path

    def add(self, trial: Trial) -> None:
        """Keep a trial: its pictures first, so that what is on a line is there."""
        (self.path / PICTURES).mkdir(parents=True, exist_ok=True)
        if trial.pictures is not None:
            truth, guess = (part[:MOST_PICTURES] for part in trial.pictures)
            np.savez_compressed(self._pictures(trial.key), truth=truth, guess=guess)
        file = self.path / TRIALS
        with file.open("a+b") as lines:
            # A line that a kill cut off has no end: it must not become the head of this one.
            if lines.seek(0, SEEK_END):
                lines.seek(-1, SEEK_END)
                if lines.read(1) != b"\n":
                    lines.write(b"\n")
            lines.write(json.dumps(_record(trial)).encode() + b"\n")

    def trials(self) -> Iterator[Trial]:
        """In the order in which they ended; a line that a kill cut off is left out. Raises
        ParameterError for one that says something else."""
        file = self.path / TRIALS
        if not file.exists():
            return
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            try:
                yield self._trial(record)
            except (KeyError, TypeError, ValueError) as bad:
                raise ParameterError(f"{file} holds a line that is no trial: {bad}") from None

    def _trial(self, record: dict[str, Any]) -> Trial:
        cell = Cell(**record.pop("cell"))
        measures = tuple(
            Measure(each["name"], tuple(each["values"]), tuple(each["floor"]))
            for each in record.pop("measures")
        )
        trial = Trial(cell=cell, measures=measures, **record)
        pictures = self._pictures(trial.key)
        if not pictures.exists():
            return trial
        with np.load(pictures, allow_pickle=False) as file:
            record["pictures"] = (file["truth"], file["guess"])
        return Trial(cell=cell, measures=measures, **record)

    def _pictures(self, key: str) -> Path:
        return self.path / PICTURES / f"{key}.npz"


def table(trials: Sequence[Trial]) -> Iterator[tuple[str, ...]]:
    """Every figure of every trial as rows of a CSV file, the head first."""
    head = (*Cell.__slots__, "seed", "protocol", "conduct", "granted", "stopped", "gave_up")
    yield (*head, "epsilon", "bound", "measure", "mean", "floor", "count", "seconds")
    for trial in trials:
        about = (*trial.cell.to_json().values(), trial.seed, trial.protocol, trial.conduct)
        private = ("" if value is None else value for value in (trial.epsilon, trial.bound))
        common = (*about, trial.granted, trial.stopped, trial.gave_up, *private)
        for each in trial.measures:
            figures = (each.name, each.mean, each.mean_floor, len(each.values), trial.seconds)
            yield tuple(map(str, (*common, *figures)))


def _record(trial: Trial) -> dict[str, Any]:
    record = {name: getattr(trial, name) for name in trial.__slots__ if name != "pictures"}
    record["cell"] = trial.cell.to_json()
    record["measures"] = [
        {"name": each.name, "values": each.values, "floor": each.floor} for each in trial.measures
    ]
    return record


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
