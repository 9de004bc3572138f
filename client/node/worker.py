"""The process in which a run's app handles messages, seen from the node.

It is forked from the node, which has loaded what an app needs already: it begins at once, and
shares that memory with the node. A node forks while it has one thread, which is what makes forking
safe. The two talk over a pair of sockets that nobody else can open: no token, no port and no
argument of a command tells anybody on the machine what goes on.

It stays for the run's next message, since what takes longest is what an app loads for itself: its
data, a library such as torch. A process keeps an app's crashes and its memory apart from the node.
It does not keep the app from the vault: a bundle that the owner has allowed acts as the owner.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tacit.client.node import frames
from tacit.client.node.answering import Job, be_worker
from tacit.client.node.flower import Delivery, Reply


class Crashed(Exception):
    """The app's process ended without an answer, or was stopped."""


@dataclass(slots=True)
class Worker:
    """One such process."""

    run: int
    used: float  # monotonic time of its last message
    _process: int | None  # None when it is known to be gone
    _line: socket.socket = field(repr=False)

    @classmethod
    def start(cls, job: Job) -> "Worker":
        """Raises Crashed if the system has no room for one."""
        try:
            return cls._forked(job)
        except OSError as bad:
            raise Crashed(f"no process could be started: {bad.strerror}") from None

    @classmethod
    def _forked(cls, job: Job) -> "Worker":
        ours, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        process = os.fork()
        if process == 0:
            be_worker(job, theirs, parent)  # and nothing after it
        theirs.close()
        return cls(job.run.run_id, time.monotonic(), process, ours)

    @property
    def is_there(self) -> bool:
        """Whether it can be asked: the system may have ended it meanwhile."""
        if self._process is not None and os.waitpid(self._process, os.WNOHANG) != (0, 0):
            self._process = None
        return self._process is not None

    def ask(
        self,
        delivery: Delivery,
        objects: dict[str, bytes],
        state: bytes | None,
        until: float,
        meanwhile: Callable[[], float],
    ) -> Reply:
        """The app's answer to a message; `objects` is empty afterwards.

        `meanwhile` is called again after as many seconds as it returned. Raises Crashed if there is
        no answer at `until` (monotonic time); then the process is gone.
        """
        parts = delivery.encode(objects, state)
        objects.clear()
        try:
            frames.send(self._line, parts, until)
            parts.clear()
            reply = Reply.decode(frames.receive(self._line, until, meanwhile))
        except frames.Cut:
            is_late = time.monotonic() >= until
            how = self.end()
            raise Crashed(
                "the app did not answer in time, and was stopped"
                if is_late
                else f"the app's process ended without an answer ({how})"
            ) from None
        self.used = time.monotonic()
        return reply

    def end(self) -> str:
        """It is gone when this returns; how it ended."""
        self._line.close()
        if self._process is None:
            return "gone"
        os.kill(self._process, signal.SIGKILL)  # which a process that has ended takes no notice of
        status = os.waitstatus_to_exitcode(os.waitpid(self._process, 0)[1])
        self._process = None
        return f"code {status}" if status >= 0 else signal.Signals(-status).name
