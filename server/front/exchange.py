"""One connection: requests come in, and each is answered before the next is read.

Nothing of a body is read, nor passed on, before its sender is known to be a node. A connection on
which anything was refused ends with the refusal.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate

import h11

from tacit.server.front.asked import ACTIVATE, HEALTH, KEY, Asked, read
from tacit.server.front.credentials import Credentials
from tacit.server.front.doors import Place
from tacit.server.front.ledger import Ledger
from tacit.server.front.limits import Limits
from tacit.server.front.refusal import FLEET, MALFORMED, SLOW, Refusal
from tacit.server.front.upstream import AWAY, Away, Upstream, told

_PIECE = 1 << 16
_LINGER = 1.0  # seconds for a refused sender to stop, so that the answer reaches him
ACTIVATION_FAILED = 2004  # FLEET_NODE_ACTIVATION_FAILED: a node shows the words that come with it
# Of the Fleet API, beside 403: that says that a run is over, and is part of every run.
_REFUSALS = frozenset({400, 401, 404, 405, 412, 413, 415, 422})


class Gone(Exception):
    """The other side has ended the connection, or was dropped."""


@dataclass(frozen=True, slots=True)
class House:
    """What all connections have in common."""

    limits: Limits
    credentials: Credentials
    upstream: Upstream
    ledger: Ledger
    now: Callable[[], float] = time.time


class Exchange:
    """The server's side of HTTP/1.1 on one TLS connection, from `host`."""

    def __init__(
        self,
        house: House,
        place: Place,
        host: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._house, self._place, self._host = house, place, host
        self._reader, self._writer = reader, writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=house.limits.head_bytes)
        self._is_over = False  # the other side will send no more

    async def run(self) -> None:
        """Until the other side has no more to ask, or has asked what it may not."""
        with suppress(Gone, OSError):
            while await self._turn():
                self._http.start_next_cycle()

    async def _turn(self) -> bool:
        """One request and its answer; whether there may be another."""
        try:
            request = await self._request()
            if request is None:
                return False
            asked = read(request, self._house.limits)
            if asked.path == HEALTH:
                if asked.header(KEY):  # a device that asks whether its key would be let in
                    self._known(asked)
                await self._answer(await self._house.upstream.health())
                return False
            who = self._known(asked)
            await self._pass_on(asked, who)
        except Refusal as refusal:
            self._house.ledger.refused(refusal, self._host)
            await self._refuse(refusal)
            return False
        except Away:
            await self._answer(AWAY)
            return False
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    def _known(self, asked: Asked) -> str:
        try:
            who = self._house.credentials.check(asked, self._house.now())
        except Refusal as refusal:
            if refusal.words and asked.path == ACTIVATE:
                refusal.status = 412  # at 401 a SuperNode would end without showing the words
            raise
        self._place.node = who
        return who

    async def _request(self) -> h11.Request | None:
        """The next one, None if there is none. All of it has one deadline: who sends a byte now and
        then gains nothing."""
        limits = self._house.limits
        wait = limits.idle if self._place.node else limits.head
        event = await self._event(wait, is_first=True)
        deadline = time.monotonic() + limits.head
        while event is h11.NEED_DATA:
            event = await self._event(deadline - time.monotonic())
        return event if isinstance(event, h11.Request) else None

    async def _pass_on(self, asked: Asked, who: str) -> None:
        async with self._house.upstream.send(asked, self._body(asked.length)) as response:
            if response.status_code in _REFUSALS:
                reason = f"{FLEET}: {response.status_code}"
                self._house.ledger.turned_away(reason, self._host, who)
            await self._send(h11.Response(
                status_code=response.status_code, headers=[_date(), *told(response)]
            ))  # fmt: skip
            async for piece in response.aiter_raw(_PIECE):
                await self._send(h11.Data(data=piece))
            await self._send(h11.EndOfMessage())

    async def _body(self, length: int) -> AsyncIterator[bytes]:
        limits = self._house.limits
        deadline = time.monotonic() + limits.stall + length / limits.slowest
        if self._http.they_are_waiting_for_100_continue:
            await self._send(h11.InformationalResponse(status_code=100, headers=[]))
        while True:
            event = await self._event(min(limits.stall, deadline - time.monotonic()))
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return
            elif event is not h11.NEED_DATA:
                raise Gone

    async def _event(self, wait: float, *, is_first: bool = False) -> object:
        """What h11 has, or NEED_DATA after one more piece was read."""
        try:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                piece = await asyncio.wait_for(self._reader.read(_PIECE), wait)
                self._is_over = not piece
                self._http.receive_data(piece)
                if self._is_over and is_first:
                    raise Gone
        except TimeoutError:
            if is_first and self._place.node:
                raise Gone from None  # an idle node may come back
            raise Refusal(SLOW, 408, who=self._place.node) from None
        except h11.RemoteProtocolError as bad:
            if self._is_over:
                raise Gone from None
            raise Refusal(MALFORMED, bad.error_status_hint, who=self._place.node) from None
        return event

    async def _refuse(self, refusal: Refusal) -> None:
        body = b""
        if refusal.words:
            body = json.dumps({"code": ACTIVATION_FAILED, "detail": refusal.words}).encode()
        await self._answer(refusal.status, body)

    async def _answer(self, status: int, body: bytes = b"") -> None:
        """An answer of our own, and the last one."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            raise Gone  # in the middle of another
        length = (b"content-length", b"%d" % len(body))
        headers = [_date(), length, (b"connection", b"close")]
        await self._send(h11.Response(status_code=status, headers=headers))
        if body:
            await self._send(h11.Data(data=body))
        await self._send(h11.EndOfMessage())
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER):
                while await self._reader.read(_PIECE):
                    pass

    async def _send(self, event: h11.Event) -> None:
        if data := self._http.send(event):
            self._writer.write(data)
        try:
            await asyncio.wait_for(self._writer.drain(), self._house.limits.stall)
        except TimeoutError:
            self._house.ledger.turned_away(SLOW, self._host, self._place.node)
            raise Gone from None


def _date() -> tuple[bytes, bytes]:
    return b"date", formatdate(usegmt=True).encode()
