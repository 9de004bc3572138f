"""Adding up ciphertexts of strangers, in a process that may be lost.

TenSEAL 0.3.18 carries SEAL 4.3, whose authors call 4.4 a critical security update, for the loading
of untrusted bytes and for memory safety. A server loads the bytes of every device. So a process of
its own does: without a key, without the server's environment, with limits to its memory, to the
size of a message and to the time that one may take. What hangs or breaks it is blamed on the device
whose message it was, and the next process takes up the sum where it stood.

What was accepted since the sum was last saved is kept, `keep` messages at most, and replayed:
memory is bounded, however many devices there are, and each message is loaded once while all is
well.

This is a fence against accidents and against crashes on purpose. It is no sandbox: code that takes
over the process may do there what the server's user may. It cannot have a wrong sum opened, though:
a device opens only what has the right tag (`tacit.crypto.he.tags`).
"""

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from tacit.crypto.errors import MalformedMessage, ParameterError, TacitError, TooFewClients
from tacit.crypto.he.frames import Kind, frame_bytes, library, read_frame
from tacit.crypto.he.packing import Packing
from tacit.server.he_child import (
    ADD,
    DONE,
    HEADER,
    REFUSED,
    RESTORE,
    SETUP,
    START,
    TOTAL,
)

START_SECONDS = 60.0  # to import the library on a busy machine
ATTEMPTS = 3  # at taking up a sum in a fresh process

_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from tacit.server.he_child import main; main()"
)
# What a program may need in order to start; nothing that could be a secret.
_ENVIRONMENT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


class LoaderFailed(TacitError):
    """The process that loads ciphertexts does not do its work; no device is to blame."""


class _Lost(Exception):
    """The process ended, hung, or said what it never says."""


def child_command() -> list[str]:
    """Python without the user's own settings, importing from where we import."""
    path = [str(Path(entry).absolute()) for entry in sys.path]
    return [sys.executable, "-I", "-c", _CODE, json.dumps(path)]


class Loader:
    """A running sum of contributions, like `bfv.Summer`, safe to give anything to.

    Use as a context manager, or `close` it. Not for two threads at a time. Raises ParameterError
    where the library is missing or the system has no POSIX pipes, and LoaderFailed if the process
    does not start.
    """

    def __init__(
        self,
        packing: Packing,
        *,
        seconds: float = 20.0,
        keep: int = 16,
        command: Sequence[str] | None = None,
    ) -> None:
        """`seconds` are what one message may take; `keep` is how many are kept for a replay."""
        library()
        if os.name != "posix":
            raise ParameterError("sums under TenSEAL need a server with POSIX pipes")
        if not seconds > 0 or keep < 1:
            raise ParameterError(f"seconds={seconds}, keep={keep}: expected more than none")
        self.packing = packing
        self._seconds = seconds
        self._keep = keep
        self._command = list(command) if command is not None else child_command()
        self._saved = b""  # the sum of all but the messages in `_since`
        self._in_saved: list[int] = []
        self._since: list[tuple[int, bytes]] = []
        self._child: _Child | None = None
        self._resume()

    @property
    def senders(self) -> tuple[int, ...]:
        """Whose contributions the sum is of. Ask after `total`: a message that was accepted and
        breaks a process later, when it is replayed, is dropped."""
        return tuple(sorted([*self._in_saved, *(sender for sender, _ in self._since)]))

    @property
    def settled(self) -> Collection[int]:
        """Those of them that no replay can drop any more."""
        return self._in_saved

    def add(self, data: bytes | memoryview, *, sender: int) -> None:
        """Add a contribution. Raises MalformedMessage, the sum as before, if it does not load.

        Raises ParameterError for one more than the packing has room for.
        """
        limit = frame_bytes(Kind.CONTRIBUTION, self.packing)
        if len(data) > limit:
            raise MalformedMessage(
                f"{len(data)} bytes, at most {limit} allowed", sender=sender, stage="report"
            )
        read_frame(data, Kind.CONTRIBUTION, self.packing, sender=sender, stage="report")
        if len(self.senders) == self.packing.clients:
            raise ParameterError(f"room for {self.packing.clients} devices, and no more")
        if self._child is None or self._child.is_dead():  # before this device had any part in it
            self._resume()
        try:
            status, _ = self._ask(ADD, data)
        except _Lost:
            self._resume()
            raise MalformedMessage(
                "its ciphertexts broke the process that loads them", sender=sender, stage="report"
            ) from None
        if status == REFUSED:
            raise MalformedMessage("a ciphertext does not load", sender=sender, stage="report")
        self._since.append((sender, bytes(data)))
        if len(self._since) >= self._keep:
            self._save()

    def total(self) -> bytes:
        """The sum so far. Raises TooFewClients for the sum of nothing: also where what was added
        broke a process later, and was dropped."""
        self._save()
        if not self._saved:
            raise TooFewClients("no contribution is in the sum")
        return self._saved

    def close(self) -> None:
        """End the process; the sum is lost."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def __enter__(self) -> "Loader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _save(self) -> None:
        for _ in range(ATTEMPTS):
            if not self._since:
                return
            with suppress(_Lost):
                status, total = self._ask(TOTAL, b"")
                if status == DONE and self._is_sum(total):
                    self._in_saved += [sender for sender, _ in self._since]
                    self._saved, self._since = total, []
                    return
            self._resume()
        raise LoaderFailed("the process that loads ciphertexts does not give the sum")

    def _is_sum(self, total: bytes) -> bool:
        """Whether what the process says is a sum of as many as were added, as far as one sees."""
        with suppress(MalformedMessage):
            count, _ = read_frame(total, Kind.SUM, self.packing, sender=0, stage="report")
            return count == len(self.senders)
        return False

    def _ask(self, operation: int, body: bytes | memoryview) -> tuple[int, bytes]:
        if self._child is None:
            raise _Lost
        return self._child.ask(operation, body, self._seconds)

    def _resume(self) -> None:
        """Replace the process, and give the sum to the new one.

        Of messages to replay, one that breaks it is dropped: there is an end to that.
        """
        for _ in range(ATTEMPTS + len(self._since)):
            self.close()
            with suppress(_Lost):
                self._child = _Child(self._command, self.packing, self._seconds)
                if self._saved and self._ask(RESTORE, self._saved)[0] != DONE:
                    continue
                if self._replay():
                    return
        self.close()
        raise LoaderFailed("the process that loads ciphertexts does not start, or not take up")

    def _replay(self) -> bool:
        """Whether all messages since the last save went in; one that did not is dropped."""
        for at, (_, message) in enumerate(self._since):
            try:
                status, _ = self._ask(ADD, message)
            except _Lost:
                status = REFUSED
            if status != DONE:
                del self._since[at]
                return False
        return True


class _Child:
    """One process, asked one thing at a time. Raises _Lost for whatever goes wrong."""

    def __init__(self, command: list[str], packing: Packing, seconds: float) -> None:
        self._limit = frame_bytes(Kind.SUM, packing)
        try:
            self._file = _memory_file()
        except OSError:
            raise _Lost from None
        descriptor = self._file.fileno()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
                [*command, str(descriptor)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=[descriptor],
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                cwd="/",
                bufsize=0,
            )
        except OSError:
            self._file.close()
            raise _Lost from None
        scheme = packing.scheme.number
        setup = SETUP.pack(scheme, packing.size, packing.bits, packing.clients, seconds)
        try:
            self.ask(START, setup, START_SECONDS)
        except _Lost:
            self.kill()
            raise

    def ask(self, operation: int, body: bytes | memoryview, seconds: float) -> tuple[int, bytes]:
        """Status and body of the reply. Bodies stand in the file, which neither side maps: who
        shortens it then gives the other an error, and no signal."""
        deadline = time.monotonic() + seconds
        to, out = self._pipes()
        try:
            left = memoryview(body)
            while left:
                left = left[os.pwrite(self._file.fileno(), left, len(body) - len(left)) :]
            os.write(to.fileno(), HEADER.pack(operation, len(body)))  # a pipe takes it at once
            status, size = HEADER.unpack(self._header(out, deadline))
            if status not in (DONE, REFUSED) or size > self._limit:
                raise _Lost
            reply = os.pread(self._file.fileno(), size, 0)
        except OSError:
            raise _Lost from None
        if len(reply) != size:
            raise _Lost
        return status, reply

    def is_dead(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for end in (*self._pipes(), self._file):
            end.close()

    def _header(self, out: IO[bytes], deadline: float) -> bytes:
        header = b""
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            while len(header) < HEADER.size:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise _Lost
                if not (data := os.read(out.fileno(), HEADER.size - len(header))):
                    raise _Lost
                header += data
        return header

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        to, out = self._process.stdin, self._process.stdout
        if to is None or out is None:  # never: both were asked for
            raise _Lost
        return to, out


def _memory_file() -> IO[bytes]:
    """In memory where the system has such files, else on the disk, under no name."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("tacit"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)
