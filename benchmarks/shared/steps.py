"""Who spends what on one round, step by step."""

import statistics
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import Enum, auto
from pathlib import Path

SERVER = 0  # in the place of a device, for what the server does once


class Step(Enum):
    """What is timed, each for one device but for the server's once a round."""

    KEYS = auto()  # a device, once a run: who is who, and secrets with them
    HIDE = auto()  # a device: from its update to the bytes that it sends
    HELP = auto()  # a device: its part in opening the sum for all
    OPEN = auto()  # a device: from the bytes of the sum to numbers
    TAKE = auto()  # the server: a device's bytes into the sum
    FOLD = auto()  # the part of TAKE that loads and adds; not there where it is all of it
    APART = auto()  # TAKE in a process of its own, both processes
    ONCE = auto()  # the server: all else
    APART_ONCE = auto()


@dataclass(frozen=True, slots=True)
class Round:
    """What one round takes: CPU seconds of the median device, and of the server; bytes of a device.

    `take`, `fold` and `apart` are the server's for one device (the last on average, as every eighth
    time it saves the sum), `once` and `apart_once` for the round, `server` is all of the round.
    `apart` and `apart_once` are 0 where no process is started. `model` are those bytes of `down`
    that carry the sum. `error` is the largest in any coordinate of the mean; `exact`: whether the
    sum is that of the integers that devices put in, bit for bit, None where there are none.
    """

    keys: float
    hide: float
    help: float
    open: float
    take: float
    fold: float
    apart: float
    once: float
    apart_once: float
    server: float
    up: float
    down: float
    model: float
    error: float
    exact: bool | None

    @property
    def client(self) -> float:
        """A device in any round but the first."""
        return self.hide + self.help + self.open


def middle(rounds: list[Round]) -> Round:
    """The median of each figure; exact if all are."""
    listed = [asdict(one) for one in rounds]
    exact = [one.pop("exact") for one in listed]
    medians = {name: statistics.median(one[name] for one in listed) for name in listed[0]}
    return Round(**medians, exact=None if None in exact else all(exact))


class Steps:
    """CPU seconds by step and device, bytes by device."""

    def __init__(self) -> None:
        self.seconds: dict[Step, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        self.sent: Counter[int] = Counter()
        self.received: Counter[int] = Counter()

    @contextmanager
    def __call__(self, step: Step, device: int = SERVER) -> Iterator[None]:
        """Inside, the work is that step's, for that device."""
        with_children = step in (Step.APART, Step.APART_ONCE)
        began = _now(with_children)
        yield
        self.seconds[step][device] += _now(with_children) - began

    def round(self, model: int, error: float, exact: bool | None) -> Round:
        """The devices' medians and the server's sums."""
        take, once = (sum(self.seconds[step].values()) for step in (Step.TAKE, Step.ONCE))
        return Round(
            keys=self._median(Step.KEYS),
            hide=self._median(Step.HIDE),
            help=self._median(Step.HELP),
            open=self._median(Step.OPEN),
            take=self._median(Step.TAKE),
            fold=self._median(Step.FOLD) or self._median(Step.TAKE),
            apart=self._mean(Step.APART),
            once=once,
            apart_once=sum(self.seconds[Step.APART_ONCE].values()),
            server=take + once,
            up=statistics.median(self.sent.values()),
            down=statistics.median(self.received.values()),
            model=model,
            error=error,
            exact=exact,
        )

    def _median(self, step: Step) -> float:
        """Of the devices that did it; 0 if none did."""
        return statistics.median(self.seconds[step].values() or [0.0])

    def _mean(self, step: Step) -> float:
        return statistics.mean(self.seconds[step].values() or [0.0])


def sees_children() -> bool:
    """Whether the CPU time of processes that we start can be read while they run: on Linux."""
    return _children().exists()


def _children() -> Path:
    return Path(f"/proc/self/task/{threading.get_native_id()}/children")


def _now(with_children: bool) -> float:
    """CPU seconds of this process, and of those that it has started and that still run."""
    seconds = time.process_time()
    if with_children:
        # How clock_getcpuclockid(3) of Linux names the clock of a process.
        clocks = ((~int(pid) << 3) | 2 for pid in _children().read_text().split())
        seconds += sum(map(time.clock_gettime, clocks))
    return seconds
