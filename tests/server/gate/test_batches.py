"""Work that waits is done together, in order, in bounded room, and nobody is left waiting."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from tacit.server.gate.base import Denial
from tacit.server.gate.batches import Batches


def after(go: threading.Event) -> Callable[[list[int]], list[int]]:
    """Work that waits for a word."""

    def work(asked: list[int]) -> list[int]:
        assert go.wait(5)
        return asked

    return work


def test_what_waits_is_done_together_and_each_gets_its_own() -> None:
    sizes, first = [], threading.Event()

    def work(asked: list[int]) -> list[int]:
        first.wait(5)
        sizes.append(len(asked))
        return [10 * each for each in asked]

    async def run() -> list[int]:
        batches = Batches("model", work, most=8, room=100)
        waiting = [asyncio.create_task(batches.do(i)) for i in range(20)]
        await asyncio.sleep(0.05)
        assert batches.inside == 20
        first.set()
        done = await asyncio.gather(*waiting)
        assert batches.inside == 0
        await batches.close()
        return done

    assert asyncio.run(run()) == [10 * i for i in range(20)]
    assert max(sizes) == 8
    assert sum(sizes) == 20
    assert len(sizes) <= 4


def test_where_there_is_no_room_nobody_waits() -> None:
    async def run() -> None:
        go = threading.Event()
        batches = Batches("model", after(go), most=1, room=2)
        waiting = [asyncio.create_task(batches.do(i)) for i in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Denial) as full:
            await batches.do(3)
        assert (full.value.stage, full.value.status) == ("model", 503)
        assert full.value.retry_after
        go.set()
        assert await asyncio.gather(*waiting) == [0, 1]
        assert await batches.do(4) == 4
        await batches.close()

    asyncio.run(run())


def test_a_failure_reaches_all_of_its_batch_and_no_other() -> None:
    def work(asked: list[int]) -> list[int]:
        if 13 in asked:
            raise RuntimeError("broken")
        return asked

    async def run() -> None:
        batches = Batches("model", work, most=8, room=100)
        with pytest.raises(RuntimeError, match="broken"):
            await batches.do(13)
        assert await batches.do(1) == 1
        assert batches.inside == 0
        await batches.close()

    asyncio.run(run())


def test_closing_finishes_what_waits_and_takes_no_more() -> None:
    async def run() -> None:
        batches = Batches("model", lambda asked: asked, most=3, room=100)
        waiting = [asyncio.create_task(batches.do(i)) for i in range(10)]
        await asyncio.sleep(0)
        await batches.close()
        assert await asyncio.gather(*waiting) == list(range(10))
        with pytest.raises(Denial):
            await batches.do(1)
        await batches.close()

    asyncio.run(run())


def test_whoever_goes_away_does_not_hold_up_others() -> None:
    async def run() -> None:
        go = threading.Event()
        batches = Batches("model", after(go), most=8, room=2)
        gone, stays = (asyncio.create_task(batches.do(i)) for i in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        go.set()
        assert await stays == 1
        assert batches.inside == 0
        await batches.close()

    asyncio.run(run())
