"""Work that waits at the same time is done together, in one thread of its own.

One call of a model for all who ask, one `fsync` for all who are answered. Nobody waits for a batch
to fill: it is what came while the one before was done.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeAlias, TypeVar

from tacit.server.gate.base import Denial

Asked = TypeVar("Asked")
Done = TypeVar("Done")
_Waiting: TypeAlias = tuple[Asked, asyncio.Future[Done]]

RETRY_AFTER = 1.0  # seconds


class Batches(Generic[Asked, Done]):
    """`work` takes up to `most` of what was asked, and returns as many results in their order. What
    it raises is raised to all of that batch. At most `room` wait or are being worked on.

    One event loop asks at a time. It is to be closed, and may be asked until then.
    """

    def __init__(
        self, name: str, work: Callable[[list[Asked]], Sequence[Done]], most: int, room: int
    ) -> None:
        self._name, self._work, self._most, self._room = name, work, most, room
        self._queue: queue.SimpleQueue[_Waiting[Asked, Done] | None] = queue.SimpleQueue()
        self._inside = 0  # touched by the event loop alone
        self._is_closed = False
        self._thread: threading.Thread | None = None

    @property
    def inside(self) -> int:
        """How many wait or are being worked on."""
        return self._inside

    async def do(self, asked: Asked) -> Done:
        """Raises Denial (503) where there is no room left, or what `work` raised."""
        if self._inside >= self._room or self._is_closed:
            raise Denial(self._name, 503, "too much is being asked at once", RETRY_AFTER)
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name=f"gate {self._name}", daemon=True
            )
            self._thread.start()
        future: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        self._inside += 1
        self._queue.put((asked, future))
        return await future

    async def close(self) -> None:
        """Finish what waits, and take nothing more."""
        self._is_closed = True
        if self._thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)
            self._thread = None

    def _run(self) -> None:
        is_open = True
        while is_open:
            batch: list[_Waiting[Asked, Done]] = []
            one = self._queue.get()
            while one is not None:
                batch.append(one)
                if len(batch) == self._most or self._queue.empty():
                    break
                one = self._queue.get()
            is_open = one is not None
            if batch:
                self._do(batch)

    def _do(self, batch: list[_Waiting[Asked, Done]]) -> None:
        futures = [future for _, future in batch]
        loop = futures[0].get_loop()
        try:
            done = self._work([asked for asked, _ in batch])
        except Exception as failed:  # noqa: BLE001 whatever it is, somebody waits for it
            loop.call_soon_threadsafe(self._fail, futures, failed)
        else:
            loop.call_soon_threadsafe(self._finish, futures, done)

    def _finish(self, futures: list["asyncio.Future[Done]"], done: Sequence[Done]) -> None:
        self._inside -= len(futures)
        for future, result in zip(futures, done, strict=True):
            if not future.done():  # whoever asked may have gone
                future.set_result(result)

    def _fail(self, futures: list["asyncio.Future[Done]"], failed: Exception) -> None:
        self._inside -= len(futures)
        for future in futures:
            if not future.done():
                future.set_exception(failed)
