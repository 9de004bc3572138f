"""Worker processes: each loads the ClientApp once and handles one message at a time.

Started fresh, not forked: a forked copy of a process whose thread pools are running (torch's,
Flower's) can hang. So the loader must be something pickle can name, and a script that starts a
run must do so under `if __name__ == "__main__":`.
"""

import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from flwr.app import Context
from flwr.clientapp import ClientApp

from tacit.crypto.errors import ParameterError
from tacit.server.flower import ErrorCode, error_reply
from tacit.simulations.engine.device import Answer, Job, die, handle
from tacit.simulations.engine.spool import Parcel, Spool, Unpacker

Loader = Callable[[], ClientApp]

LONGEST_WAIT_S = 86_400.0  # a day; the system call behind a wait takes no much larger number
GOODBYE_S = 2.0


def pickled_loader(loader: Loader) -> bytes:
    """The loader as bytes for `WorkerProcess`. Raises ParameterError if pickle cannot name it."""
    try:
        return pickle.dumps(loader)
    except (pickle.PicklingError, AttributeError, TypeError) as why:
        raise ParameterError(
            "worker processes need a loader that can be pickled: a function at the top level of "
            f"a module, or functools.partial of one, not a lambda or an inner function ({why})"
        ) from None


class WorkerProcess:
    """The near end of one worker. One thread at a time may call `answer`; any may call `kill`."""

    def __init__(self, loader: bytes, spool: Spool) -> None:
        self._loader = loader
        self._folder = spool.inner()
        self._unpacker = Unpacker()
        self._lock = threading.Lock()
        self._closed = False
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._broken = ""  # why this worker will never handle a message

    def start(self) -> None:
        """Start the process and wait until it has loaded the app, or cannot."""
        with self._lock:
            if self._closed:
                return
            spawn = multiprocessing.get_context("spawn")
            self._pipe, far_end = spawn.Pipe()
            self._process = spawn.Process(
                target=serve, args=(far_end, self._folder), name="tacit-worker"
            )
            self._process.start()
            far_end.close()
            pipe = self._pipe
        try:
            pipe.send_bytes(self._loader)
            self._broken = pipe.recv_bytes().decode()
        except (EOFError, OSError):
            code = self._bury()
            self._broken = (
                f"worker process ended with exit code {code} before it had loaded the ClientApp; "
                'does the script start the run under `if __name__ == "__main__":`?'
            )

    def answer(
        self, job: Job, context: Context, parcel: Parcel | None, deadline: float
    ) -> tuple[Answer, Context] | None:
        """Have the worker handle a message; None if its time ran out at `deadline` (monotonic).

        A worker that dies, or is killed since its time ran out, is replaced when the next message
        comes; the context is then the one before this message.
        """
        if self._process is None and not self._broken:
            self.start()
        pipe = self._pipe
        if self._broken or pipe is None:
            code = ErrorCode.LOAD_CLIENT_APP_EXCEPTION
            return Answer(error_reply(job.message, code, self._broken or "run is over")), context
        request = (job.message, context, job.plan.crash)
        packed = parcel.pack(request) if parcel else pickle.dumps(request)
        try:
            pipe.send_bytes(packed)
            if not pipe.poll(min(max(deadline - time.monotonic(), 0.0), LONGEST_WAIT_S)):
                self.kill(for_good=False)
                self._bury()
                return None
            answer, kept = self._unpacker.unpack(pipe.recv_bytes())
            self._unpacker.discard()
        except (EOFError, OSError):
            reason = f"worker process died (exit code {self._bury()}) while it handled the message"
            code = ErrorCode.CLIENT_APP_CRASHED
            return Answer(error_reply(job.message, code, reason)), context
        return answer, kept

    def kill(self, *, for_good: bool = True) -> None:
        """End the process at once; whoever waits in `answer` gets to know."""
        with self._lock:
            self._closed = self._closed or for_good
            if self._process is not None and self._process.is_alive():
                self._process.kill()

    def close(self) -> None:
        """Let the process go: it ends by itself when the pipe does, else it is killed."""
        with self._lock:
            self._closed = True
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.join(GOODBYE_S)
            self.kill()
        self._bury()

    def _bury(self) -> int | None:
        """Clean up after a process that has ended or is about to; returns its exit code."""
        process, self._process = self._process, None
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.close()
        if process is None:
            return None
        process.join()
        code = process.exitcode
        process.close()
        return code


def serve(pipe: Connection, folder: str | None) -> None:
    """The worker's whole life: load the app, then answer until the other end closes the pipe.

    Large replies go into `folder`, or through the pipe if there is none.
    """
    # Ctrl-C goes to every process of a terminal; the parent decides what it means for workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # As many workers as cores: one thread each. Read by OpenMP when something first loads it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    app = _load(pipe)
    if app is None:
        return
    unpacker, spool = Unpacker(), Spool([folder] if folder else [])
    while (packed := _received(pipe)) is not None:
        answer = _reply(app, unpacker, spool, packed)
        try:
            pipe.send_bytes(answer)
        except OSError:
            break
    if folder:  # the run is over, and a parent that was killed removes nothing
        shutil.rmtree(folder, ignore_errors=True)


def _received(pipe: Connection) -> bytes | None:
    """The next request; None when the parent has closed its end, or is gone."""
    try:
        return pipe.recv_bytes()
    except (EOFError, OSError):
        return None


def _load(pipe: Connection) -> ClientApp | None:
    """Load the app and tell the parent how it went: nothing if well, else the reason."""
    loader = _received(pipe)
    if loader is None:
        return None
    try:
        app = pickle.loads(loader)()  # noqa: S301 - the parent's own bytes
        if not isinstance(app, ClientApp):
            raise TypeError(f"the loader returned {type(app).__name__}, expected a ClientApp")
    except (Exception, SystemExit) as error:  # noqa: BLE001
        # Loading runs the user's module, which may raise anything; the parent passes it on.
        pipe.send_bytes(f"{type(error).__name__}: {error}".encode())
        return None
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)
    pipe.send_bytes(b"")
    return app


def _reply(app: ClientApp, unpacker: Unpacker, spool: Spool, packed: bytes) -> bytes:
    message, context, crash = unpacker.unpack(packed)
    if crash:
        die()
    answer = handle(app, message, context)
    replies = [answer.reply] if answer.reply.has_content() else []
    parcel = spool.share(replies, at_least=1)
    try:
        return parcel.pack((answer, context)) if parcel else pickle.dumps((answer, context))
    except (pickle.PicklingError, AttributeError, TypeError) as why:
        _, context, _ = unpacker.unpack(packed)  # what came is what can travel back
        reason = f"reply or context cannot leave the worker process: {why}"
        code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
        return pickle.dumps((Answer(error_reply(message, code, reason)), context))
