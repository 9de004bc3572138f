"""How long a node waits: for the next message, after a failure, and for its share of the network.

All three are for one process, and draw their jitter from the system: many devices that lost the
same server at the same moment should not all come back at the same moment.
"""

import os
import threading
import time
from dataclasses import dataclass, field

QUICKEST, SHARE = 0.1, 0.2
_JITTER = 0.2


@dataclass(slots=True)
class Pace:
    """The wait before the server is asked for the next message.

    A fifth of the time since the last one, so whoever sends the next leg of a protocol waits for
    the node a fifth longer than it took anyway; from `QUICKEST` up to `idle` seconds.
    """

    idle: float = 3.0
    _since: float = field(default_factory=time.monotonic)

    def next(self) -> float:
        quiet = time.monotonic() - self._since
        return jittered(min(max(QUICKEST, SHARE * quiet), self.idle))

    def begin(self) -> None:
        """There was a message just now."""
        self._since = time.monotonic()


@dataclass(slots=True)
class BackOff:
    """The wait before another try: twice as long each time, from `first` up to `longest`."""

    first: float
    longest: float
    _tries: int = 0

    def next(self) -> float:
        self._tries += 1
        doubled: float = self.first * 2.0 ** min(self._tries - 1, 16)
        return jittered(min(doubled, self.longest))

    def begin(self) -> None:
        """It worked."""
        self._tries = 0


@dataclass(slots=True)
class Allowance:
    """Lets through `rate` bytes a second over both directions, 0 for as many as come.

    What goes through at once waits for it afterwards, so the mean holds and no message is too large
    to be sent.
    """

    rate: float = 0.0
    _free: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def spend(self, count: int) -> None:
        if not self.rate:
            return
        with self._lock:
            now = time.monotonic()
            self._free = max(self._free, now) + count / self.rate
            wait = self._free - now
        time.sleep(wait)


def jittered(seconds: float) -> float:
    """Within a fifth of it."""
    share = int.from_bytes(os.urandom(4)) / 2**32
    return seconds * (1 - _JITTER + 2 * _JITTER * share)
