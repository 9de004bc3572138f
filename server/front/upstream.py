"""SuperLink, behind the front: a request written anew, sent on piece by piece, and its answer."""

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from tacit.server.front.asked import Asked
from tacit.server.front.limits import Limits

_log = logging.getLogger(__name__)

AWAY = 503  # what a SuperNode tries again after
_LATELY = 1.0  # seconds that an answer about health is good for
_TOLD = (b"content-type", b"content-length", b"flwr-version-incompatibility-message")


class Away(Exception):
    """SuperLink cannot be reached, or did not answer. Nothing that a device can do about."""


class Upstream:
    """A pool of connections to SuperLink at `address`, HOST:PORT, whose certificate is from `ca`.

    Raises OSError if there is no such file.
    """

    def __init__(self, address: str, ca: Path, limits: Limits) -> None:
        context = ssl.create_default_context(cafile=str(ca))
        self._client = httpx.AsyncClient(
            base_url=f"https://{address}",
            verify=context,
            trust_env=False,  # no proxy that the environment names
            follow_redirects=False,
            timeout=httpx.Timeout(limits.answer, connect=5.0),
            # uvicorn drops a connection that was idle for 5 s, and a request on it would be lost
            limits=httpx.Limits(max_connections=limits.connections, keepalive_expiry=3.0),
        )
        self._is_away = False
        self._health = (0, float("-inf"))
        self._asking = asyncio.Lock()

    @asynccontextmanager
    async def send(self, asked: Asked, body: AsyncIterator[bytes]) -> AsyncIterator[httpx.Response]:
        """SuperLink's answer, whose body is to be read in the block. Raises Away."""
        request = httpx.Request(  # not by the client, which would put in headers of its own
            "POST",
            self._client.base_url.join(asked.path.decode("ascii")),
            headers=[*asked.headers, (b"content-length", b"%d" % asked.length)],
            content=body,
            extensions={"timeout": self._client.timeout.as_dict()},
        )
        try:
            response = await self._client.send(request, stream=True)
        except httpx.TransportError as bad:
            raise self._away(bad) from bad
        self._is_away = False
        try:
            yield response
        except httpx.TransportError as bad:
            raise self._away(bad) from bad
        finally:
            await response.aclose()

    async def health(self) -> int:
        """The status that SuperLink says of its health, asked at most once a second."""
        async with self._asking:
            status, at = self._health
            if time.monotonic() - at >= _LATELY:
                try:
                    status = (await self._client.get("/health", timeout=5.0)).status_code
                except httpx.TransportError as bad:
                    self._away(bad)
                    status = AWAY
                self._health = (status, time.monotonic())
            return status

    async def close(self) -> None:
        await self._client.aclose()

    def _away(self, bad: Exception) -> Away:
        if not self._is_away:
            _log.warning("SuperLink is away: %s %s", type(bad).__name__, bad)
        self._is_away = True
        return Away()


def told(response: httpx.Response) -> list[tuple[bytes, bytes]]:
    """Of an answer's headers, those that a node reads."""
    return [(name.lower(), value) for name, value in response.headers.raw if name.lower() in _TOLD]
