"""Processes that a test starts, and that are gone when it ends, however it ends."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

GRACE_S = 5.0


class Processes:
    """Starts each command in a process group of its own, with its output in a file of `folder`.

    At the end every group is told to end, and what is left after GRACE_S is killed. Nothing else
    is ever signalled: a group has the number of the process that this object started, and that
    number is not given back to the system before the group is gone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[tuple[str, subprocess.Popen[bytes]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        started = [process for _, process in reversed(self._started)]
        for process in started:
            _signal(process, signal.SIGTERM)
        end = time.monotonic() + GRACE_S
        for process in started:
            _ended(process, end - time.monotonic())
            _signal(process, signal.SIGKILL)  # also if it has ended: it may have children
            process.wait()

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> None:
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                env=dict(env),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append((name, process))

    def wait_for(self, name: str, timeout: float) -> None:
        """Wait until a process has ended well."""
        code = _ended(dict(self._started)[name], timeout)
        assert code is not None, f"{name} still runs after {timeout} s\n{self.logs()}"
        assert code == 0, f"{name} ended with {code}\n{self.logs()}"

    def wait_until(self, what: str, ready: Callable[[], bool], timeout: float) -> None:
        end = time.monotonic() + timeout
        while not ready():
            assert time.monotonic() < end, f"no {what} after {timeout} s\n{self.logs()}"
            time.sleep(0.2)

    def logs(self) -> str:
        """The last lines of every process."""
        parts = []
        for name, _ in self._started:
            text = (self._folder / f"{name}.log").read_text(errors="replace")
            parts.append(f"--- {name}\n" + "\n".join(text.splitlines()[-40:]))
        return "\n".join(parts)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _ended(process: subprocess.Popen[bytes], timeout: float) -> int | None:
    """The exit status, None if it still runs. The process stays a zombie, so its number is ours."""
    end = time.monotonic() + timeout
    while True:
        how = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if how is not None:
            return how.si_status
        if time.monotonic() >= end:
            return None
        time.sleep(0.1)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
