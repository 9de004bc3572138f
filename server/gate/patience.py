"""Connections that keep the gate waiting are closed: a request is to be whole within some seconds,
and so is what it is told to be taken.

uvicorn times what is idle between requests, and not one that is sent a byte at a time (slow loris),
nor answers that nobody reads, nor does it bound how long a head is. Here this is looked at once per
connection and interval, and not by a timer per request, which would cost more than finding out who
asks.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

WHOLE_IN = 10.0  # seconds, from a request's first byte to its last
HEAD_BYTES = 1 << 15
MOST_HEADERS = 256  # those after the body, too, of which uvicorn keeps all that come
IGNORED_BYTES = 1 << 22  # of a request that was refused before it was whole


class Patient(asyncio.Protocol):
    """uvicorn's own protocol, and a clock: to be passed to its `Config` as `http`."""

    seconds = WHOLE_IN

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._inner: Any = AutoHTTPProtocol(*arguments, **named)
        self._loop = asyncio.get_running_loop()
        self._since: float | None = None  # when what is not whole began
        self._unread: float | None = None  # since when something was seen to wait to be read
        self._head = 0  # bytes of a request before its head was whole
        self._ignored = 0  # bytes of it after its answer
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport  # uvloop's are not asyncio's by type
        self._since = self._loop.time()
        self._timer = self._loop.call_later(self.seconds, self._look)
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        before = self._inner.cycle
        self._inner.data_received(data)
        cycle = self._inner.cycle
        if cycle is None or (cycle is before and not cycle.more_body):
            self._head += len(data)
            if self._head > HEAD_BYTES:
                self._close()
        elif not cycle.more_body:
            self._since, self._head, self._ignored = None, 0, 0
            return
        else:
            self._ignored += len(data) * cycle.response_complete
            if len(self._inner.headers) > MOST_HEADERS or self._ignored > IGNORED_BYTES:
                self._close()
        if self._since is None:
            self._since = self._loop.time()

    def connection_lost(self, failed: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._inner.connection_lost(failed)

    def eof_received(self) -> bool | None:
        self._inner.eof_received()
        return None

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def _look(self) -> None:
        now = self._loop.time()
        if not self._transport.get_write_buffer_size():
            self._unread = None
        elif self._unread is None:
            self._unread = now
        late = max(now - (now if at is None else at) for at in (self._since, self._unread))
        if late >= self.seconds:
            self._close()
        else:
            self._timer = self._loop.call_later(self.seconds - late, self._look)

    def _close(self) -> None:
        """At once: whoever is slow to send is slow to be told, too."""
        self._transport.abort()
