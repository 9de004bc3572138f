"""Lists of byte strings over a local socket: how a node and its app's process talk."""

import select
import socket
import struct
import time
from collections.abc import Callable, Sequence

_HEAD = struct.Struct("!Q")
_MOST = 1 << 20  # bytes in one call
_FOREVER = 3600.0


class Cut(Exception):
    """The other side is gone, or was too slow."""


def send(to: socket.socket, parts: Sequence[bytes], until: float | None = None) -> None:
    """Raises Cut if it is not done at `until`, of the monotonic clock; None waits for ever."""
    try:
        _put(to, _HEAD.pack(len(parts)), until)
        for part in parts:
            _put(to, _HEAD.pack(len(part)), until)
            _put(to, part, until)
    except OSError as bad:
        raise Cut(str(bad)) from None


def receive(
    of: socket.socket,
    until: float | None = None,
    meanwhile: Callable[[], float] = lambda: _FOREVER,
) -> list[bytes]:
    """What was sent. `meanwhile` is called again after as many seconds as it returned.

    Raises Cut as `send` does, and if the other side closes.
    """

    def exactly(count: int) -> bytes:
        got = bytearray(count)
        view, have = memoryview(got), 0
        while have < count:
            left = _FOREVER if until is None else until - time.monotonic()
            if left <= 0:
                raise Cut("out of time")
            if not select.select([of], [], [], min(left, max(meanwhile(), 0.0)))[0]:
                continue
            more = of.recv_into(view[have:], min(_MOST, count - have))
            if not more:
                raise Cut("closed")
            have += more
        return bytes(got)

    try:
        (parts,) = _HEAD.unpack(exactly(_HEAD.size))
        return [exactly(*_HEAD.unpack(exactly(_HEAD.size))) for _ in range(parts)]
    except OSError as bad:
        raise Cut(str(bad)) from None


def _put(to: socket.socket, data: bytes, until: float | None) -> None:
    left = None if until is None else until - time.monotonic()
    if left is not None and left <= 0:
        raise Cut("out of time")
    to.settimeout(left)
    to.sendall(data)
    to.settimeout(None)
