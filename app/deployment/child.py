"""A process that is kept running: started, watched, started again, ended.

Each is the leader of a session and a group of its own, and is killed if the supervisor is: so there
is never a second SuperLink on one database. What it prints goes to a file that is turned over when
it is large.

One that ends again and again is waited for longer and longer, half a minute at most, and is never
given up: what is in its way, such as a full disk or a port that is taken, may be gone some day, and
nobody may be there to say so. It is `failing` until then, with its last words.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tacit.app.deployment.backoff import Backoff, Draw, chance
from tacit.app.deployment.proc import dying_with_parent, signal_group, started
from tacit.server.entries import LONGEST_REASON, one_line

SHORT = 10.0  # seconds; a life shorter than that counts as a failure
MANY = 5  # such lives in a row, and `failing` is said
LARGEST_LOG = 5_000_000  # bytes
KEPT_LOGS = 2  # that were turned over


@dataclass(frozen=True, slots=True)
class Spec:
    """What to start. `grace` is the seconds that it gets to end by itself; it works in `folder`, or
    beside its log."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    log: Path
    grace: float = 10.0
    folder: Path | None = None


@dataclass(slots=True)
class Child:
    """One process, over all its lives."""

    spec: Spec
    backoff: Backoff = field(default_factory=Backoff)
    draw: Draw = chance
    restarts: int = 0
    failures: int = 0
    ended: str = ""
    since: float = 0.0
    began: float = 0.0
    next_try: float = 0.0
    _process: subprocess.Popen[bytes] | None = None
    _start: str | None = None
    _deadline: float | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def start(self) -> str | None:
        """As `proc.started` says it."""
        return self._start

    @property
    def state(self) -> str:
        """running, ending, waiting or failing."""
        if self._process is not None:
            return "running" if self._deadline is None else "ending"
        return "failing" if self.failures >= MANY else "waiting"

    def begin(self) -> None:
        """Start it. Raises OSError if that cannot be done, for example without disk or memory."""
        self.spec.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(_appending(self.spec.log), "ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                self.spec.argv,
                env=dict(self.spec.env),
                cwd=self.spec.folder or self.spec.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=dying_with_parent(),
            )
        self._start, self._deadline = started(self._process.pid), None
        self.since, self.began = time.monotonic(), round(time.time(), 1)

    def is_due(self, now: float) -> bool:
        """Whether it is to be started: `now` as `time.monotonic` has it."""
        return self._process is None and now >= self.next_try

    def failed_to_begin(self, why: str, now: float) -> None:
        """It could not be started: try again later."""
        self.failures += 1
        self.ended, self.next_try = why, now + self.backoff.after(self.failures, self.draw)

    def look(self, now: float) -> str | None:
        """How it ended, if it has just ended: its exit code, or the signal. None otherwise."""
        if self._process is None:
            return None
        if self._deadline is not None and now >= self._deadline:
            self.kill()
        exited = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if exited is None:
            return None
        # Before its number is given back, so that it is still its group's, and nobody else's.
        signal_group(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        was_asked, self._deadline = self._deadline is not None, None
        self._process = self._start = None
        how = _words(code)
        self.ended = how if was_asked or code < 0 else f"{how}: {last_words(self.spec.log)}"
        self._plan(was_asked, now)
        return how

    def _plan(self, was_asked: bool, now: float) -> None:
        if was_asked:
            self.failures, self.next_try = 0, now
            return
        self.restarts += 1
        self.failures = self.failures + 1 if now - self.since < SHORT else 1
        self.next_try = now + self.backoff.after(self.failures, self.draw)

    def end(self, now: float) -> None:
        """Ask it to end; `look` kills it when its grace is over."""
        if self._process is not None and self._deadline is None:
            self._deadline = now + self.spec.grace
            signal_group(self._process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it, and all in its group, at once."""
        if self._process is not None:
            signal_group(self._process.pid, signal.SIGKILL)

    def retry(self) -> None:
        """What was in its way may be gone: do not wait any longer."""
        self.failures, self.next_try = 0, 0.0


def turn_over(log: Path, largest: int = LARGEST_LOG, kept: int = KEPT_LOGS) -> None:
    """Put a log that is large aside, and cut it to nothing: who writes it has it open, and always
    appends. A line that is written just between may be lost."""
    try:
        if log.stat().st_size <= largest:
            return
    except FileNotFoundError:
        return
    for number in range(kept, 1, -1):
        older = aside(log, number - 1)
        if older.exists():
            older.replace(aside(log, number))
    shutil.copyfile(log, aside(log, 1))
    os.truncate(log, 0)


def last_words(log: Path) -> str:
    """The last line that is not empty, as one line that is safe to print."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST_REASON))
            said = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return one_line(next((line.strip() for line in reversed(said) if line.strip()), ""))


def aside(log: Path, number: int) -> Path:
    """Where the log was put the last time but `number - 1`."""
    return log.with_name(f"{log.name}.{number}")


def _appending(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def _words(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
