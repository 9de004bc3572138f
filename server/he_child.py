"""The process that gives strangers' ciphertexts to the library: `he_loader` starts it.

Requests come on standard input and replies go to what was standard output, each a HEADER; what
belongs to it, a contribution or a sum, stands at the beginning of a file that both sides hold. It
goes on until the input ends. There is no key here. Whatever happens is the business of `he_loader`:
all that an error does is end the process.
"""

import os
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

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
    """Serve until standard input ends. The file's descriptor is the last argument."""
    replies = os.dup(1)
    os.dup2(2, 1)  # the library writes to standard output now and then
    file = int(sys.argv[-1])
    buffer = memoryview(bytearray(SETUP.size))
    operation, size = _request()
    number, length, bits, clients, seconds = SETUP.unpack(_body(file, buffer, size))
    packing = Packing(SCHEMES[number], length, bits, clients)
    largest = max(frame_bytes(kind, packing) for kind in Kind)
    summer = Summer(packing)
    buffer = memoryview(bytearray(largest))  # one for all: fresh memory is slow to come by
    _limit_memory(packing, largest)
    os.write(replies, HEADER.pack(DONE, 0))
    with suppress(EOFError):
        while True:
            operation, size = _request()
            _limit_time(seconds)
            status, body = _serve(summer, operation, _body(file, buffer, size))
            if body:
                _put(file, body)
            os.write(replies, HEADER.pack(status, len(body)))


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


def _limit_memory(packing: Packing, largest: int) -> None:
    """What is held by now, and room for the sum, one contribution and the bytes of both."""
    if resource is None:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
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


def _request() -> tuple[int, int]:
    """Operation and size of the body. Raises EOFError at the end."""
    if len(header := os.read(0, HEADER.size)) < HEADER.size:
        raise EOFError
    operation, size = HEADER.unpack(header)
    return operation, size


def _body(file: int, buffer: memoryview, size: int) -> memoryview:
    """What the file begins with; overwritten by the next request's."""
    body = buffer[:size]
    if os.preadv(file, [body], 0) < size:
        raise EOFError
    return body


def _put(file: int, body: bytes) -> None:
    left = memoryview(body)
    while left:
        left = left[os.pwrite(file, left, len(body) - len(left)) :]
