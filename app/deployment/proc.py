"""Which process is which: a number is given away again, a number and a start time are not.

Read from Linux's /proc. Where there is none, nobody's start is known, and what an earlier
supervisor left behind is not recognised, and not signalled.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_START_FIELD = 19  # of /proc/PID/stat after the name in brackets, from 0
_STATE_FIELD = 0


def started(pid: int) -> str | None:
    """When a process was started: this boot, and ticks since. None if it is not there, or it has
    ended and nobody has asked how."""
    fields = _stat(pid)
    if fields is None or fields[_STATE_FIELD] in "ZX":
        return None
    return f"{_boot()}:{fields[_START_FIELD]}"


def is_alive(pid: int, start: str | None) -> bool:
    """Whether the process of this number is the one that was started then."""
    return start is not None and started(pid) == start


def dying_with_parent() -> Callable[[], None]:
    """To be called between fork and exec: the child is killed as soon as its parent is gone,
    however that ended. Nothing where the system cannot do that."""
    parent = os.getpid()
    if not sys.platform.startswith("linux"):
        return lambda: None
    library = ctypes.CDLL(None, use_errno=True)  # here: nothing may be loaded after the fork

    def bind() -> None:
        library.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:  # it was gone before we asked
            os._exit(1)

    return bind


def signal_group(leader: int, number: int) -> None:
    """Signal a process and all in its group. Only for a leader that is known to be ours: its number
    is not given away while it, or any of its group, is there."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def _stat(pid: int) -> list[str] | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def _boot() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
