"""A run's folder: everything that is left of a run, its own files whole or not there.

config.toml         the settings, resolved
metrics.jsonl       what happened, an event a line
audit.log           the same, and what was kept, so that tampering shows: tacit log verify
audit.key           what signs it
devices.log         what devices would log and tell nobody: why one failed
checkpoint.npz      the state after the last finished round
model.safetensors   the model; for a finished run
ledger/             what a private run has cost its devices; where rounds have noise in common,
                    until it ends, sums as they were without: for its owner's eyes
seen/               updates as the server saw them, without noise of its own: for the same eyes
attacks/            what attacks made of them
facts.json          what was found about the run as a whole
trackers.json       by which names trackers know the run
status.json         queued, running, interrupted, failed or finished
report.html
release.json        a signed report, and a page, about what attacks on the model got
release.html
"""

import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from flwr.app import ArrayRecord

from tacit.app import journal, lines
from tacit.app.config import Settings, load
from tacit.app.journal import Journal, digest_of
from tacit.app.trackers import KEPT as TRACKED
from tacit.app.trackers import Tracking
from tacit.client.vault import locked
from tacit.crypto.errors import ParameterError
from tacit.server.checkpoint import Checkpoint
from tacit.server.entries import CheckpointKept, Released
from tacit.server.events import Event, RoundFinished
from tacit.server.inbox import Seen

STATUS = "status.json"
MODEL = "model.safetensors"
DEVICE_LOG = "devices.log"
LEDGER = "ledger"
LOCK = "lock"  # in it
OWNERS = 0o700  # of folders that nobody but the server's owner may look into
FILES = (
    "config.toml",
    "metrics.jsonl",
    journal.LOG,
    journal.KEY,
    DEVICE_LOG,
    "checkpoint.npz",
    MODEL,
    "facts.json",
    TRACKED,
    "report.html",
    "release.json",
    "release.html",
    STATUS,
)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run on disk. As a context manager it leaves the right status behind, whatever happens."""

    path: Path
    settings: Settings
    journal: Journal = field(repr=False, compare=False)
    tracking: Tracking = field(default_factory=Tracking, repr=False, compare=False)

    @classmethod
    def create(
        cls, path: Path, settings: Settings, *, replace: bool = False, status: str = "running"
    ) -> "RunFolder":
        """A new folder. Raises ParameterError if there is a run in it, unless it is to be
        replaced, or if nothing can be written there; a folder that holds anything but a run is
        never touched."""
        folder = cls(path, settings, Journal(path))
        try:
            if path.exists() and any(path.iterdir()):
                folder._vacate(replace)
            path.mkdir(parents=True, exist_ok=True)
            folder._set_status(status)
            _write(path / "config.toml", settings.toml().encode())
        except OSError as bad:
            raise ParameterError(f"no run's folder can be made at {path}: {bad.strerror}") from None
        return folder

    def _vacate(self, replace: bool) -> None:
        """Remove the run that is there. Raises ParameterError if it is none, or is to stay."""
        path = self.path
        if not (path / STATUS).exists():
            raise ParameterError(f"{path} is not a run's folder and not empty: choose another")
        if not replace:
            status = self.status()
            on = "" if status == "finished" else "--resume continues it, "
            raise ParameterError(
                f"{path} holds a run ({status}): {on}"
                "--replace starts it anew, --out names another folder"
            )
        _clear(path)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """An existing run. Raises ParameterError if there is none."""
        if not (path / STATUS).exists():
            raise ParameterError(f"no run in {path}: tacit simulate --out {path} makes one")
        return cls(path, load(path / "config.toml"), Journal(path))

    def resume(self) -> Checkpoint | None:
        """The last checkpoint, None before the first round. Later lines of metrics are dropped.

        Raises ParameterError for a run that is finished.
        """
        if self.status() == "finished":
            raise ParameterError(f"the run in {self.path} is finished: nothing to resume")
        there = (self.path / "checkpoint.npz").exists()
        checkpoint = Checkpoint.load(self.path / "checkpoint.npz") if there else None
        last = checkpoint.round if checkpoint else 0
        kept = [line for line in self.events() if 0 < line.get("round", 0) <= last]
        _write(self.path / "metrics.jsonl", "".join(map(lines.of, kept)).encode())
        for later in (self.path / "seen").glob("round-*.npz"):
            if int(later.name.split("-")[1]) > last:  # that round will be run again
                later.unlink()
        self._set_status("running")
        return checkpoint

    def record(self, event: Event) -> None:
        """Append one event to metrics.jsonl and to the audit log, and tell the run's trackers."""
        self.journal.note(event)
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(lines.of_event(event))
        self.tracking.hear(event, self.settings, self.path)

    def events(self) -> list[dict[str, Any]]:
        """The recorded events. A line that a crash cut off is left out."""
        path = self.path / "metrics.jsonl"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [event for line in text.splitlines() if (event := _parsed(line)) is not None]

    def keep(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint in place of the one before."""
        checkpoint.save(self.path / "checkpoint.npz")
        digest = digest_of(self.path / "checkpoint.npz")
        self.journal.note(CheckpointKept(checkpoint.round, digest))

    @property
    def storage(self) -> "Slots":
        """Where the ledger of a private run is."""
        return Slots(self.path / LEDGER)

    def saw(self, seen: Seen) -> None:
        """Keep an update as the server saw it, for as many rounds as the settings say.

        Not where the server is trusted to add the noise: then a sum without it is not to be kept.
        """
        if seen.round > self.settings.run.keep_seen or self.settings.privacy.mode == "central":
            return
        folder = self.path / "seen"
        folder.mkdir(mode=OWNERS, exist_ok=True)
        number = len(list(folder.glob(f"round-{seen.round:04d}-*.npz")))
        save_seen(folder / f"round-{seen.round:04d}-{number:04d}.npz", seen)

    def seen(self) -> Iterator[Seen]:
        """The kept updates, in order."""
        for path in sorted((self.path / "seen").glob("round-*.npz")):
            yield load_seen(path)

    def finish(self, arrays: ArrayRecord) -> None:
        """Keep the model; the run is finished."""
        from safetensors.numpy import save

        model = {name: np.asarray(array.numpy(), order="C") for name, array in arrays.items()}
        _write(self.path / MODEL, save(model))
        self.journal.note(Released(MODEL, digest_of(self.path / MODEL)))
        self._set_status("finished")

    def note(self, **facts: float) -> None:
        """Keep what was found about the run as a whole."""
        _write(self.path / "facts.json", json.dumps({**self.facts(), **facts}).encode() + b"\n")

    def facts(self) -> dict[str, float]:
        """What `note` kept."""
        path = self.path / "facts.json"
        if not path.exists():
            return {}
        try:
            return {name: float(value) for name, value in json.loads(path.read_bytes()).items()}
        except (ValueError, TypeError, AttributeError):
            raise ParameterError(f"{path} is damaged: delete it, it only adds to reports") from None

    def rounds(self) -> list[dict[str, Any]]:
        """The RoundFinished events, in order."""
        return [e for e in self.events() if e["event"] == RoundFinished.__name__]

    def status(self) -> str:
        """queued, running, interrupted, failed or finished. Raises ParameterError if damaged."""
        path = self.path / STATUS
        try:
            return str(json.loads(path.read_text(encoding="utf-8"))["status"])
        except (ValueError, TypeError, KeyError):
            raise ParameterError(f"{path} is damaged: it does not say a run's status") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._set_status("interrupted" if issubclass(kind, KeyboardInterrupt) else "failed")
        self.journal.close()
        self.tracking.close("finished" if kind is None else self.status())

    def _set_status(self, status: str) -> None:
        _write(self.path / STATUS, json.dumps({"status": status}).encode() + b"\n")


@dataclass(frozen=True, slots=True)
class Slots:
    """A ledger's storage in a folder of its own: a file for each slot."""

    path: Path

    def read(self, slot: str) -> bytes | None:
        try:
            return (self.path / slot).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, slot: str, value: bytes) -> None:
        self.path.mkdir(mode=OWNERS, exist_ok=True)
        _write(self.path / slot, value)

    def alone(self) -> AbstractContextManager[None]:
        """A run's folder is one process's; that another goes on with it must not save a device."""
        self.path.mkdir(mode=OWNERS, exist_ok=True)
        return locked(self.path / LOCK)


def save_seen(path: Path, seen: Seen) -> None:
    """Write one seen update as npz."""
    arrays = {f"model/{name}": array for name, array in seen.model.items()}
    arrays |= {f"update/{name}": array for name, array in seen.update.items()}
    about = {
        "round": seen.round,
        "clients": seen.clients,
        "weight": seen.weight,
        "protocol": seen.protocol,
        "members": seen.members,
        "names": list(seen.model),
    }
    buffer = io.BytesIO()
    np.savez(buffer, about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]
    _write(path, buffer.getvalue())


def load_seen(path: Path) -> Seen:
    """Raises ParameterError for a file that `save_seen` did not write."""
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            names = about.pop("names")
            model = {name: file[f"model/{name}"] for name in names}
            update = {name: file[f"update/{name}"] for name in names}
            about["members"] = tuple(map(int, about["members"]))
        return Seen(model=model, update=update, **about)
    except (OSError, ValueError, KeyError, TypeError) as bad:
        raise ParameterError(f"{path} cannot be read: {bad}") from None


def _write(path: Path, content: bytes) -> None:
    fresh = path.with_suffix(path.suffix + ".new")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _clear(path: Path) -> None:
    """Remove what a run leaves, and nothing else; last of all what says that it is a run."""
    for part in ("seen", "attacks", LEDGER):
        if (path / part).is_dir():
            shutil.rmtree(path / part)
    for name in FILES:
        (path / name).unlink(missing_ok=True)


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except json.JSONDecodeError:
        return None
    return event if isinstance(event, dict) else None
