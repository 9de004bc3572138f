"""The process that gives strangers' ciphertexts to the library: `he_loader` starts it.

It reads requests from standard input and writes replies to what was standard output, until the
input ends. It holds no key. Whatever happens here is the business of `he_loader`: all that an error
does is end the process.
"""

import os
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from tacit.crypto.errors import MalformedMessage
from tacit.crypto.he.bfv import Summer
from tacit.crypto.he.frames import Kind, frame_bytes
from tacit.crypto.he.packing import Packing
from tacit.crypto.he.sets import SCHEMES

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

HEADER = struct.Struct("<BQ")  # an operation or a status, and the length of what follows
SETUP = struct.Struct("<BIBId")  # scheme, size, bits, clients, seconds of CPU for each request

START, ADD, RESTORE, TOTAL = range(1, 5)
DONE, REFUSED = range(2)

SLACK_BYTES = 1 << 28  # for what the library and the allocator keep beyond the ciphertexts


def main() -> None:
    """Serve until standard input ends."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # the library writes to standard output now and then
    requests = Requests(0, SETUP.size)
    operation, body = requests.read()
    if operation != START:
        return
    number, size, bits, clients, seconds = SETUP.unpack(body)
    packing = Packing(SCHEMES[number], size, bits, clients)
    requests = Requests(0, max(frame_bytes(kind, packing) for kind in Kind))
    summer = Summer(packing)
    _limit_memory(packing)
    _write(replies, DONE, b"")
    with suppress(EOFError):
        while True:
            operation, body = requests.read()
            _limit_time(seconds)
            _write(replies, *_serve(summer, operation, body))


class Requests:
    """What comes from a pipe, into one buffer again and again: fresh memory is slow to come by."""

    def __init__(self, descriptor: int, most: int) -> None:
        self._descriptor = descriptor
        self._buffer = memoryview(bytearray(max(most, HEADER.size)))

    def read(self) -> tuple[int, memoryview]:
        """Operation and body, which the next request overwrites. Raises EOFError at the end."""
        operation, size = HEADER.unpack(self._exactly(HEADER.size))
        return operation, self._exactly(size)

    def _exactly(self, size: int) -> memoryview:
        if size > len(self._buffer):
            raise EOFError
        left = self._buffer[:size]
        while left:
            if not (read := os.readv(self._descriptor, [left])):
                raise EOFError
            left = left[read:]
        return self._buffer[:size]


def _serve(summer: Summer, operation: int, body: memoryview) -> tuple[int, bytes]:
    steps: dict[int, Callable[[], bytes | None]] = {
        ADD: lambda: summer.add(body, sender=0),
        RESTORE: lambda: summer.add_sum(body),
        TOTAL: summer.total,
    }
    try:
        return DONE, steps[operation]() or b""
    except MalformedMessage:  # the sum is as it was
        return REFUSED, b""


def _limit_memory(packing: Packing) -> None:
    """What is held by now, and room for the sum, one contribution and the bytes of both."""
    if resource is None:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The only files are in memory, of one ciphertext each.
    largest = 2 * packing.scheme.ciphertext_bytes
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    held = Path("/proc/self/statm")
    if held.exists():
        pages = int(held.read_text().split()[0])
        room = 8 * packing.blocks * packing.scheme.ciphertext_bytes + SLACK_BYTES
        limit = pages * resource.getpagesize() + room
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _limit_time(seconds: float) -> None:
    """From now on; what goes beyond it ends the process."""
    if resource is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        limit = int(time.process_time() + seconds) + 1
        if hard == resource.RLIM_INFINITY or limit <= hard:
            resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))


def _write(stream: BinaryIO, status: int, body: bytes) -> None:
    stream.write(HEADER.pack(status, len(body)))
    stream.write(body)
    stream.flush()
