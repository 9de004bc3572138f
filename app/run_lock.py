"""Who runs a run: at most one process, which holds a lock of the system's while it does.

A lock ends with its process, however that ends, so what a run's status says can be checked: a run
that is said to be running, and that nobody holds, was interrupted.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from tacit.crypto.errors import ParameterError

try:
    import fcntl
except ImportError:  # no Unix: one process may use a run's folder at a time, and none can tell
    fcntl = None  # type: ignore[assignment]

LOCK = "run.lock"  # stays: if it were removed, two processes could each hold one of that name
CAN_TELL = fcntl is not None
_PATIENCE, _STEP = 1.0, 0.02  # seconds: whoever asks holds a lock for an instant too


@dataclass(slots=True)
class RunLock:
    """The lock of the run in `folder`, as one process sees it."""

    folder: Path
    _handle: int | None = None

    def take(self) -> None:
        """Be the one who runs it; nothing new if this object is already. The process that does
        may fork, but what it forks must not outlive it: the lock would.

        Raises ParameterError if another process, or another object of this one, holds the lock.
        """
        if self._handle is not None:
            return
        handle = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(handle, self.folder)
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle

    def release(self) -> None:
        """Let another take it."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def is_held(folder: Path) -> bool:
    """Whether a process runs the run in `folder` now. Without such locks (Windows) nobody can
    tell, and it is False."""
    if fcntl is None:
        return False
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: askers do not see each other
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= end:
                raise ParameterError(
                    f"another process runs the run in {folder}: wait for it, or stop it first"
                ) from None
        time.sleep(_STEP)
