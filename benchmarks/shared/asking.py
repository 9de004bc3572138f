"""Clients that ask an HTTP server as fast as it answers: raw sockets, one process, one request
out per connection."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import uvloop


@dataclass
class Asked:
    """Seconds that each answer took, and that all of it took."""

    times: list[float] = field(default_factory=list)
    wall: float = 0.0

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.times) / self.wall

    def quantile(self, q: float) -> float:
        return float(np.quantile(self.times, q))


class _Client(asyncio.Protocol):
    """Asks again whenever it is answered, until the time is over."""

    def __init__(self, request: bytes, until: float, asked: Asked) -> None:
        self._request, self._until, self._asked = request, until, asked
        self._got = b""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport  # uvloop's are not asyncio's by type
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._got += data
        if not self._got.endswith(b"}"):
            return
        now = time.perf_counter()
        if not self._got.startswith(b"HTTP/1.1 200"):
            self._fail(RuntimeError(self._got.decode(errors="replace")))
            return
        self._asked.times.append(now - self._began)
        if now < self._until:
            self._ask()
        else:
            self.over.set_result(None)
            self._transport.close()

    def connection_lost(self, failed: Exception | None) -> None:
        self._fail(failed or ConnectionError("the server hung up"))

    def _ask(self) -> None:
        self._got, self._began = b"", time.perf_counter()
        self._transport.write(self._request)

    def _fail(self, failed: Exception) -> None:
        if not self.over.done():
            self.over.set_exception(failed)


def ask(port: int, request: bytes, connections: int, seconds: float) -> Asked:
    """`request` from all `connections` at once. Raises what went wrong: an answer that is none."""

    async def run() -> Asked:
        loop, asked = asyncio.get_running_loop(), Asked()
        began = time.perf_counter()
        clients = [_Client(request, began + seconds, asked) for _ in range(connections)]
        for client in clients:
            await loop.create_connection(lambda each=client: each, "127.0.0.1", port)  # type: ignore[misc]
        await asyncio.gather(*(client.over for client in clients))
        asked.wall = time.perf_counter() - began
        return asked

    return uvloop.run(run())
