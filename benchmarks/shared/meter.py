"""Who pays for what when a server and all its devices share one process.

CPU time goes to the party that is in charge of the process at that moment: the server, one of the
devices, or nobody (drawing updates, and turning messages into bytes and back, which is the same
work for every system). Memory is what Python's allocators and numpy hand out, as `tracemalloc`
sees it: a party's peak counts from what was there before and was not its own.
"""

import gc
import sys
import time
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

SERVER, NOBODY = -1, -2  # parties; all others are devices, 0 and up


def settle() -> None:
    """Spare the garbage collector what is imported: it would walk it at somebody's expense."""
    gc.collect()
    gc.freeze()


class Memory:
    """Peaks of traced memory by party, in bytes. Tracing slows everything down: time without it."""

    def __init__(self) -> None:
        self.peaks: dict[int, int] = defaultdict(int)
        self._floor: int | None = None  # until the server begins
        tracemalloc.start()

    def close(self) -> None:
        """Stop tracing."""
        tracemalloc.stop()

    def enter(self) -> None:
        """A party begins to work."""
        if self._floor is None:
            self._floor = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()

    def leave(self, party: int) -> None:
        """`party` is done, or interrupted."""
        if self._floor is not None:
            highest = tracemalloc.get_traced_memory()[1] - self._floor
            self.peaks[party] = max(self.peaks[party], highest)

    @contextmanager
    def turn(self) -> Iterator[list[bytes]]:
        """A device's turn: inside, memory counts from here. What is left of it at the end is the
        device's and not the server's, but for what was put into the list."""
        outer, before = self._floor or 0, tracemalloc.get_traced_memory()[0]
        self._floor = before
        handed_over: list[bytes] = []
        gc.freeze()  # what the server left lying about stays, and counts
        yield handed_over
        gc.collect()  # what the device did is gone, or it would be taken for what it keeps
        gc.unfreeze()
        given = sum(sys.getsizeof(data) for data in handed_over)
        self._floor = outer + tracemalloc.get_traced_memory()[0] - before - given


class Meter:
    """CPU seconds by (party, round), bytes by (device, round), and seconds by round."""

    def __init__(self, memory: Memory | None = None) -> None:
        self.round = 1
        self.seconds: dict[tuple[int, int], float] = defaultdict(float)
        self.sent: Counter[tuple[int, int]] = Counter()
        self.received: Counter[tuple[int, int]] = Counter()
        self.wall: dict[int, float] = {}  # seconds from start to end, by round
        self.memory = memory
        self._party = NOBODY
        self._since = time.process_time()

    @contextmanager
    def charge(self, party: int) -> Iterator[None]:
        """Inside, `party` pays and whoever is charged around it does not."""
        outer = self._switch(party)
        try:
            yield
        finally:
            self._switch(outer)

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """The server's part of a round, from start to end."""
        began = time.perf_counter()
        with self.charge(SERVER):
            yield
        self.wall[self.round] = time.perf_counter() - began

    @contextmanager
    def turn(self) -> Iterator[list[bytes]]:
        """See `Memory.turn`."""
        if self.memory is None:
            yield []
        else:
            with self.memory.turn() as handed_over:
                yield handed_over

    def _switch(self, party: int) -> int:
        now = time.process_time()
        outer = self._party
        self.seconds[outer, self.round] += now - self._since
        if self.memory is not None:
            self.memory.leave(outer)
            self.memory.enter()
        self._party, self._since = party, time.process_time()
        return outer
