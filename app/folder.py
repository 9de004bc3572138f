"""A run's folder: everything that is left of a run, its own files whole or not there.

config.toml         the settings, resolved
metrics.jsonl       what happened, an event a line
audit.log           the same, and what was kept, so that tampering shows: tacit log verify
audit.key           what signs it
devices.log         what devices would log and tell nobody: why one failed
checkpoint.npz      the state after the last finished round; beside it the one before, while it runs
ahead/              sums of the round that it is in: for its owner's eyes
model.safetensors   the model; for a finished run
ledger/             what a private run has cost its devices; where rounds have noise in common,
                    until it ends, sums as they were without: for its owner's eyes
seen/               updates as the server saw them, without noise of its own: for the same eyes
attacks/            what attacks made of them
facts.json          what was found about the run as a whole
trackers.json       by which names trackers know the run
status.json         queued, running, interrupted, failed or finished
run.lock            held by the process that runs it
report.html
release.json        a signed report, and a page, about what attacks on the model got
release.html
"""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from flwr.app import ArrayRecord

from tacit.app import journal, lines
from tacit.app.config import Settings, load
from tacit.app.journal import Journal, digest_of
from tacit.app.run_lock import CAN_TELL, LOCK, RunLock, is_held
from tacit.app.seen_files import load_seen, save_seen
from tacit.app.slots import FRESH, OWNERS, Slots, disk_full, told_if_full, write
from tacit.app.trackers import KEPT as TRACKED
from tacit.app.trackers import Tracking
from tacit.crypto.errors import ParameterError
from tacit.server.ahead import Ahead
from tacit.server.checkpoint import Checkpoint, Newest, before, newest
from tacit.server.events import Event, RoundFinished
from tacit.server.inbox import Seen
from tacit.server.kinds import CheckpointDamaged, CheckpointKept, Released

STATUS, _CONFIG = "status.json", "config.toml"
METRICS, MODEL = "metrics.jsonl", "model.safetensors"
DEVICE_LOG = "devices.log"
LEDGER, AHEAD = "ledger", "ahead"
CHECKPOINT, DAMAGED = "checkpoint.npz", "checkpoint.damaged.npz"
_LEAST = 4 << 20  # bytes a round, where there is no checkpoint to tell by

log = logging.getLogger("tacit.server")
FILES = (
    _CONFIG,
    METRICS,
    journal.LOG,
    journal.KEY,
    DEVICE_LOG,
    CHECKPOINT,
    "checkpoint.before.npz",
    DAMAGED,
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
    """One run on disk. As a context manager it is the one that runs it, held by its lock, and
    leaves the right status behind, whatever happens."""

    path: Path
    settings: Settings
    journal: Journal = field(repr=False, compare=False)
    lock: RunLock = field(repr=False, compare=False)
    tracking: Tracking = field(default_factory=Tracking, repr=False, compare=False)

    @classmethod
    def _of(cls, path: Path, settings: Settings) -> "RunFolder":
        return cls(path, settings, Journal(path), RunLock(path))

    @classmethod
    def create(
        cls, path: Path, settings: Settings, *, replace: bool = False, status: str = "running"
    ) -> "RunFolder":
        """A new folder. Raises ParameterError if there is a run in it, unless it is to be
        replaced, or if nothing can be written there; a folder that holds anything but a run is
        never touched."""
        folder = cls._of(path, settings)
        try:
            if path.exists() and any(each.name != LOCK for each in path.iterdir()):
                folder._vacate(replace)
            path.mkdir(parents=True, exist_ok=True)
            folder._set_status(status)
            write(path / _CONFIG, settings.toml().encode())
        except OSError as bad:
            raise ParameterError(f"no run's folder can be made at {path}: {bad.strerror}") from None
        return folder

    def _vacate(self, replace: bool) -> None:
        """Remove the run that is there. Raises ParameterError if it is none, or is to stay."""
        path = self.path
        if {each.name for each in path.iterdir()} <= {
            LOCK,
            STATUS,
            STATUS + FRESH,
            _CONFIG + FRESH,
        }:
            return  # it was being made
        if not (path / STATUS).exists():
            raise ParameterError(f"{path} is not a run's folder and not empty: choose another")
        if not replace:
            status = self.status()
            on = "" if status == "finished" else "--resume continues it, "
            raise ParameterError(
                f"{path} holds a run ({status}): {on}"
                "--replace starts it anew, --out names another folder"
            )
        self.lock.take()
        try:
            _clear(path)
        finally:
            self.lock.release()

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """An existing run. Raises ParameterError if there is none."""
        if not is_run(path):
            raise ParameterError(f"no run in {path}: tacit simulate --out {path} makes one")
        return cls._of(path, load(path / _CONFIG))

    def resume(self) -> Checkpoint | None:
        """The last checkpoint, None before the first round. Later lines of metrics are dropped.

        From here on this is the one that runs it. Raises ParameterError for a run that is finished,
        and while another process runs it.
        """
        with told_if_full(self.path, self._need):
            self.lock.take()
            try:
                return self._resumed()
            except BaseException:
                self.lock.release()
                raise

    def _resumed(self) -> Checkpoint | None:
        if self.status() == "finished":
            raise ParameterError(f"the run in {self.path} is finished: nothing to resume")
        found = newest(self.path / CHECKPOINT)
        last = found.checkpoint.round if found.checkpoint else 0
        self._check_sums(found, last)
        if found.damage:
            self._put_aside(found, last)
        self._tidy(last)
        self._set_status("running")
        finished = found.checkpoint and found.checkpoint.finished
        if finished and last not in {each["round"] for each in self.rounds()}:
            self.record(finished)  # the run was killed when it had been kept, and not yet told
        return found.checkpoint

    def _check_sums(self, found: Newest, last: int) -> None:
        """Raises ParameterError unless all that was opened since this checkpoint is written down:
        without it devices would be asked again for what they have given."""
        rounds = self.ahead.rounds()
        if found.damage and not found.checkpoint and 1 not in rounds:
            raise ParameterError(f"{found.damage}: bring back a copy, or start the run anew")
        if rounds and max(rounds) > last + 1 + bool(found.damage):
            raise ParameterError(
                f"the run in {self.path} has opened sums of round {max(rounds)}, and its newest "
                f"checkpoint is of round {last}: one is missing. Bring it back, or start the run "
                "anew; nothing was changed"
            )

    def _put_aside(self, found: Newest, last: int) -> None:
        log.warning("%s: going on from round %d", found.damage, last)
        self.journal.note(CheckpointDamaged(last, found.damage))
        if (self.path / CHECKPOINT).exists():
            (self.path / CHECKPOINT).replace(self.path / DAMAGED)

    def _tidy(self, last: int) -> None:
        """Remove what is of later rounds, and what a killed process left half-written."""
        kept = [line for line in self.events() if 0 < line.get("round", 0) <= last]
        write(self.path / METRICS, "".join(map(lines.of, kept)).encode())
        opened = self.ahead.rounds("train")
        for later in (self.path / "seen").glob("round-*.npz"):
            number = int(later.name.split("-")[1])
            if number > last and number not in opened:  # that round will be run again
                later.unlink()
        for folder in (self.path, *(self.path / each for each in ("seen", LEDGER, AHEAD))):
            for left in folder.glob(f"*{FRESH}"):
                left.unlink()

    def record(self, event: Event) -> None:
        """Append one event to metrics.jsonl and to the audit log, and tell the run's trackers."""
        self.journal.note(event)
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(lines.of_event(event))
        self.tracking.hear(event, self.settings, self.path)

    def events(self) -> list[dict[str, Any]]:
        """The recorded events. A line that a crash cut off is left out."""
        path = self.path / METRICS
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [event for line in text.splitlines() if (event := _parsed(line)) is not None]

    def keep(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint, and the one before; sums of earlier rounds are of no more use."""
        _sync_file(self.path / METRICS)
        checkpoint.save(self.path / CHECKPOINT)
        self.journal.note(CheckpointKept(checkpoint.round, digest_of(self.path / CHECKPOINT)))
        self.ahead.drop_before(checkpoint.round)

    @property
    def ahead(self) -> Ahead:
        """Where sums are written before they are opened, and before they are used."""
        return Ahead(Slots(self.path / AHEAD))

    @property
    def storage(self) -> Slots:
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
        write(self.path / MODEL, save(model))
        self.journal.note(Released(MODEL, digest_of(self.path / MODEL)))
        shutil.rmtree(self.path / AHEAD, ignore_errors=True)
        before(self.path / CHECKPOINT).unlink(missing_ok=True)
        self._set_status("finished")

    def note(self, **facts: float) -> None:
        """Keep what was found about the run as a whole."""
        write(self.path / "facts.json", json.dumps({**self.facts(), **facts}).encode() + b"\n")

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
        """queued, running, interrupted, failed or finished. Raises ParameterError if damaged.

        A run whose process was killed is interrupted, whatever was written last.
        """
        path = self.path / STATUS
        try:
            said = str(json.loads(path.read_text(encoding="utf-8"))["status"])
        except (ValueError, TypeError, KeyError):
            raise ParameterError(f"{path} is damaged: it does not say a run's status") from None
        if said == "running" and CAN_TELL and not self.is_held():
            return "interrupted"
        return said

    def is_held(self) -> bool:
        """Whether a process, this one or another, runs it now: see `is_held`."""
        return is_held(self.path)

    def __enter__(self) -> Self:
        with told_if_full(self.path, self._need):
            self.lock.take()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        full = disk_full(error, self.path, self._need)
        try:
            if kind is None:
                with told_if_full(self.path, self._need):
                    self.journal.close()
            else:
                stopped = full is not None or issubclass(kind, KeyboardInterrupt)
                with contextlib.suppress(OSError, ParameterError):  # one is on its way already
                    self._set_status("interrupted" if stopped else "failed")
                with contextlib.suppress(OSError, ParameterError):
                    self.journal.close()
        finally:
            self.lock.release()
            self.tracking.close(kind)
        if full is not None:
            raise full from error

    @property
    def _need(self) -> int:
        """Bytes that a round writes, about: a checkpoint, a sum, and what a server saw of it."""
        path = self.path / CHECKPOINT
        return max(_LEAST, 4 * path.stat().st_size) if path.exists() else _LEAST

    def mark(self, status: str) -> None:
        """Say what has become of a run that nobody runs."""
        self._set_status(status)

    def _set_status(self, status: str) -> None:
        write(self.path / STATUS, json.dumps({"status": status}).encode() + b"\n")


def is_run(path: Path) -> bool:
    """Whether there is a run in this folder: not one whose making was interrupted."""
    return (path / STATUS).exists() and (path / _CONFIG).exists()


def _clear(path: Path) -> None:
    """Remove what a run leaves, and nothing else; last of all what says that it is a run."""
    for part in ("seen", "attacks", LEDGER, AHEAD):
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


def _sync_file(path: Path) -> None:
    if path.exists():
        with path.open("rb") as file:
            os.fsync(file.fileno())
