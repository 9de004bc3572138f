"""Sleeping until there is something to do: a child that ended, or the word to end."""

import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def until_told() -> Iterator[Callable[[float], bool]]:
    """Inside, `asleep(seconds)` sleeps, and says whether SIGTERM or SIGINT came. A child that ends
    wakes it up. For the main thread."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    ending = False

    def asked(_number: int, _frame: object) -> None:
        nonlocal ending
        ending = True

    def asleep(seconds: float) -> bool:
        if not ending and select.select([reading], [], [], seconds)[0]:
            os.read(reading, 4096)
        return ending

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    before[signal.SIGCHLD] = signal.getsignal(signal.SIGCHLD)
    woken = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, asked)
    signal.signal(signal.SIGINT, asked)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    try:
        yield asleep
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)
