"""A run in the trackers that people have: TensorBoard, MLflow, Weights & Biases.

`run.track` names them, as in "tensorboard:DIR, mlflow:DIR, wandb:PROJECT". None is imported unless
it is named, and none sends anything out of the house unless its owner says so: files and a database
in DIR; W&B's files under ./wandb, until WANDB_MODE says online. MLflow and wandb are imported by
name, since they are no dependencies of ours. One that fails is told of once and then left alone: a
run never stops for it.

Written against the writer in torch 2.13, and what MLflow 3 and wandb 0.2x say of theirs.
"""

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from tacit.crypto.errors import ParameterError
from tacit.server.events import (
    EpsilonSpent,
    Event,
    LeftOut,
    Metrics,
    RoundFinished,
    RunStarted,
    SumOpened,
)

if TYPE_CHECKING:
    from tacit.app.config import Settings

KEPT = "trackers.json"  # in a run's folder: by which name each tracker knows it
EXPERIMENT = "tacit"  # of MLflow
_BATCH = 100  # parameters in a call of MLflow
_LONGEST = 500  # characters of one

log = logging.getLogger("tacit.trackers")


@dataclass(frozen=True, slots=True)
class Start:
    """A run that is begun, or goes on after a round under the name that a tracker gave it."""

    name: str
    settings: Mapping[str, Any]
    after: int = 0
    known_as: str = ""


class Tracker(Protocol):
    """`known_as` is what `Start` has to say for the run to go on here."""

    known_as: str

    def log(self, round: int, values: Metrics) -> None: ...

    def close(self, status: str) -> None:
        """`status` is finished, interrupted or failed."""
        ...


class TensorBoard:
    """Event files in a folder of the run's name. They need tensorboard beside torch."""

    def __init__(self, target: str, start: Start) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.known_as = start.name
        # What was written after the checkpoint happens again.
        purge = start.after + 1 if start.after else None
        self._writer: Any = SummaryWriter(str(Path(target) / start.name), purge_step=purge)

    def log(self, round: int, values: Metrics) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, round)
        self._writer.flush()

    def close(self, status: str) -> None:
        self._writer.close()


class MLflow:
    """A database of SQLite in a folder: MLflow 3.13 refuses to write plain files."""

    def __init__(self, target: str, start: Start) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        folder = Path(target).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        self._client: Any = import_module("mlflow").MlflowClient(
            tracking_uri=f"sqlite:///{folder / 'mlflow.db'}"
        )
        if start.known_as:
            self.known_as = start.known_as
            self._client.update_run(self.known_as, status="RUNNING")
            return
        found = self._client.get_experiment_by_name(EXPERIMENT)
        experiment = found.experiment_id if found else self._client.create_experiment(
            EXPERIMENT, artifact_location=(folder / "artifacts").as_uri()
        )  # fmt: skip
        self.known_as = self._client.create_run(experiment, run_name=start.name).info.run_id
        self._say(start.settings)

    def _say(self, settings: Mapping[str, Any]) -> None:
        parameter = import_module("mlflow.entities").Param
        said = [parameter(key, str(value)[:_LONGEST]) for key, value in settings.items()]
        for first in range(0, len(said), _BATCH):
            self._client.log_batch(self.known_as, params=said[first : first + _BATCH])

    def log(self, round: int, values: Metrics) -> None:
        for name, value in values.items():
            self._client.log_metric(self.known_as, name, value, step=round)

    def close(self, status: str) -> None:
        states = {"finished": "FINISHED", "interrupted": "KILLED"}
        self._client.set_terminated(self.known_as, states.get(status, "FAILED"))


class WandB:
    """A run of a project, offline unless WANDB_MODE says otherwise: `wandb sync` sends it later."""

    def __init__(self, target: str, start: Start) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SILENT", "true")
        self.known_as = start.known_as or f"{start.name}-{os.urandom(4).hex()}"
        self._run: Any = import_module("wandb").init(
            project=target, name=start.name, id=self.known_as, config=dict(start.settings),
            resume="allow", mode=os.environ.get("WANDB_MODE", "offline"),
        )  # fmt: skip

    def log(self, round: int, values: Metrics) -> None:
        self._run.log(dict(values), step=round)

    def close(self, status: str) -> None:
        self._run.finish(exit_code=0 if status == "finished" else 1)


Opens: TypeAlias = Callable[[str, Start], Tracker]

TRACKERS: dict[str, Opens] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}


def parse(text: str) -> tuple[tuple[str, str], ...]:
    """Kinds and targets. Raises ParameterError for anything else than KIND:TARGET, by commas."""
    found = []
    for part in filter(None, map(str.strip, text.split(","))):
        kind, _, target = part.partition(":")
        if kind not in TRACKERS or not target:
            raise ParameterError(
                f"{part}: expected a tracker and where to, as in tensorboard:DIR, mlflow:DIR or "
                "wandb:PROJECT"
            )
        found.append((kind, target))
    if len({kind for kind, _ in found}) < len(found):
        raise ParameterError("each tracker once")
    return tuple(found)


@dataclass(slots=True)
class Tracking:
    """The trackers of one run, open from its first event on."""

    _open: dict[str, Tracker] = field(default_factory=dict)
    _values: dict[str, float] = field(default_factory=dict)  # of the round that is under way
    _left_out: Counter[str] = field(default_factory=Counter)

    def hear(self, event: Event, settings: "Settings", folder: Path) -> None:
        """Never raises: see the module."""
        match event:
            case RunStarted():
                self._begin(settings, folder, event.resumed_from)
            case LeftOut():
                self._left_out[event.stage] += 1
            case EpsilonSpent(epsilon=float(epsilon)):
                self._values[f"epsilon/{event.unit} against {event.against}"] = epsilon
            case SumOpened(purpose="train"):
                self._values |= {
                    "devices/survivors": event.survivors,
                    "devices/cohort": event.cohort,
                }
            case RoundFinished():
                self._log(event)

    def close(self, why: type[BaseException] | None) -> None:
        """The run ended, None where it is finished."""
        stopped = why is not None and issubclass(why, KeyboardInterrupt)
        status = "finished" if why is None else "interrupted" if stopped else "failed"
        for kind, tracker in list(self._open.items()):
            self._try(kind, tracker.close, status)
        self._open.clear()

    def _begin(self, settings: "Settings", folder: Path, after: int) -> None:
        kept = _kept(folder / KEPT) if after else {}
        name = _plain(settings.run.name or folder.resolve().name)
        for kind, target in parse(settings.run.track):
            start = Start(name, settings.flat(), after, kept.get(kind, ""))
            self._try(kind, self._begin_one, kind, target, start, folder / KEPT)

    def _begin_one(self, kind: str, target: str, start: Start, kept: Path) -> None:
        tracker = TRACKERS[kind](target, start)
        self._open[kind] = tracker
        known = {name: each.known_as for name, each in self._open.items()}
        kept.write_text(json.dumps(known) + "\n", encoding="utf-8")

    def _log(self, event: RoundFinished) -> None:
        values = self._values | {f"left out/{s}": float(n) for s, n in self._left_out.items()}
        for source in ("train", "evaluate", "server"):
            for name, value in getattr(event, source).items():
                values[f"{source}/{_plain(name)}"] = value
        values["seconds"] = event.seconds
        self._values, self._left_out = {}, Counter()
        for kind, tracker in list(self._open.items()):
            self._try(kind, tracker.log, event.round, values)

    def _try(self, kind: str, act: Callable[..., None], *given: Any) -> None:
        try:
            act(*given)
        except Exception as failed:  # noqa: BLE001 it is somebody else's code, and the run goes on
            self._open.pop(kind, None)
            log.warning("%s tracks this run no more: %s: %s", kind, type(failed).__name__, failed)


def _plain(name: str) -> str:
    """Without what a tracker would not take in a name."""
    return re.sub(r"[^A-Za-z0-9_. -]", "_", name)


def _kept(path: Path) -> Mapping[str, str]:
    """By which names trackers know a run; none that cannot be read: it is a new run to them."""
    try:
        said = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in said.items()} if isinstance(said, dict) else {}
