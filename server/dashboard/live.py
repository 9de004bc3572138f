"""Telling viewers what is new, as server-sent events (WHATWG HTML, section 9.2, checked).

Files are looked at only while somebody is there, and once for all who are. Each event has as its
number the version up to which its viewer then knows everything: a browser that comes back with it
in `Last-Event-ID` is told what is newer, and nothing twice.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tacit.server.dashboard.house import House

EVERY = 0.5  # seconds between looks
STILL_HERE = 15.0  # seconds after which a viewer who was told nothing is told that
ASK_AGAIN = 5.0  # seconds after which it is asked whether a viewer still may see
COME_BACK = 2000  # ms after which a browser that lost its connection tries again


@dataclass(slots=True)
class Live:
    """`session` names this process: versions of another one mean nothing here."""

    house: House
    session: str
    clock: Callable[[], float] = time.monotonic
    viewers: int = 0
    is_over: bool = False
    _alone: asyncio.Lock = field(default_factory=asyncio.Lock)
    _looked: float = -EVERY
    _ready: dict[tuple[str, int], bytes] = field(default_factory=dict)  # events of one version
    _version: int = -1

    @asynccontextmanager
    async def looked(self) -> AsyncIterator[House]:
        """Look at the files, unless somebody just did. The house stays as it is in the block."""
        async with self._alone:
            if self.clock() - self._looked >= EVERY:
                await asyncio.to_thread(self.house.look)
                self._looked = self.clock()
            yield self.house

    async def events(
        self, run: str, last: str, is_let: Callable[[], bool] = lambda: True
    ) -> AsyncGenerator[bytes, None]:
        """What a viewer of a run is told, for as long as `is_let`, who was told up to `last`."""
        since, told_at = self._since(last), self.clock()
        let_at = told_at
        self.viewers += 1
        try:
            yield f"retry: {COME_BACK}\n\n".encode()
            while not self.is_over:
                async with self.looked() as house:
                    event, now = self._event(run, since), house.version.now
                if event:
                    yield event
                    since, told_at = now, self.clock()
                elif self.clock() - told_at >= STILL_HERE:
                    yield b": nothing is new\n\n"
                    told_at = self.clock()
                await asyncio.sleep(EVERY)
                if self.clock() - let_at >= ASK_AGAIN:
                    if not await asyncio.to_thread(is_let):
                        return
                    let_at = self.clock()
        finally:
            self.viewers -= 1

    def end(self) -> None:
        """Tell nobody anything any more: pages that are open are let go, and come back later."""
        self.is_over = True

    def _event(self, run: str, since: int) -> bytes:
        """Empty if nothing is new. Viewers who know the same are told the same bytes."""
        now = self.house.version.now
        if now != self._version:
            self._ready, self._version = {}, now
        if (run, since) not in self._ready:
            self._ready[run, since] = self._made(run, since, now)
        return self._ready[run, since]

    def _made(self, run: str, since: int, now: int) -> bytes:
        boards = {"house": self.house.board}
        if run in self.house.runs:
            boards["run"] = self.house.runs[run].board
        told = {name: board.told(since) for name, board in boards.items()}
        parts: dict[str, Any] = {name: each for name, each in told.items() if each is not None}
        if not parts:
            return b""
        data = json.dumps(parts, separators=(",", ":"), allow_nan=False)
        return f"id: {self.session}-{now}\ndata: {data}\n\n".encode()

    def _since(self, last: str) -> int:
        session, _, version = last.rpartition("-")
        is_ours = session == self.session and version.isascii() and version.isdigit()
        since = int(version[:20]) if is_ours else 0
        return since if since <= self.house.version.now else 0
