"""Running duels in processes of their own, and what is written down about them."""

import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from math import isfinite
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeAlias

from tacit import __version__
from tacit.crypto.errors import ParameterError, TacitError
from tacit.simulations.data.sources import EMBEDDED
from tacit.simulations.duels.base import Duel, Figure, Fought, Line, Scale
from tacit.simulations.duels.registry import duel

FORMAT = 1  # of the JSON: more fields may come, none goes
Find: TypeAlias = Callable[[str], Duel]


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of a duel is done, 0 to 1."""

    name: str
    share: float


@dataclass(frozen=True, slots=True)
class Ended:
    """A duel that was fought; or was `skipped`, as something it needs is not there; or `failed`."""

    name: str
    fought: Fought | None = None
    skipped: str = ""
    failed: str = ""


News: TypeAlias = Progress | Ended


def fight(names: Sequence[str], scale: Scale, workers: int, find: Find = duel) -> Generator[News]:
    """Fight them, each of the `workers` in a process, and tell how it goes, as it comes.

    Whoever stops listening stops the processes. `find` is imported in them by its name. A process
    that dies takes its duel with it, as failed, and no other.
    """
    waiting, crew = list(names), list[_Worker]()
    try:
        for _ in range(min(workers, len(waiting))):
            crew.append(_Worker.started(find, scale))
        busy = {worker for worker in crew if worker.take(waiting)}
        while busy:
            by_pipe = {worker.pipe: worker for worker in busy}
            for pipe in wait(list(by_pipe)):
                worker = by_pipe[pipe]  # type: ignore[index]
                news = worker.heard()
                yield news
                if isinstance(news, Progress):
                    continue
                busy.discard(worker)
                if not worker.process.is_alive():
                    worker.stop()
                    worker = _Worker.started(find, scale)
                    crew.append(worker)
                if worker.take(waiting):
                    busy.add(worker)
    finally:
        for worker in crew:
            worker.stop()


@dataclass(eq=False, slots=True)
class _Worker:
    """The near end of a process, and the duel it is at."""

    process: BaseProcess
    pipe: Connection
    name: str = ""

    @classmethod
    def started(cls, find: Find, scale: Scale) -> "_Worker":
        spawn = multiprocessing.get_context("spawn")  # a fork of torch's threads may hang
        near, far = spawn.Pipe()
        process = spawn.Process(target=_work, args=(far, find, scale), daemon=True)
        process.start()
        far.close()
        return cls(process, near)

    def take(self, waiting: list[str]) -> bool:
        """Begin with the next one, if there is any."""
        if not waiting:
            return False
        self.name = waiting.pop(0)
        self.pipe.send(self.name)
        return True

    def heard(self) -> News:
        try:
            news: News = self.pipe.recv()
            return news
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            why = f"its process died (exit code {code}): of too little memory perhaps"
            return Ended(self.name, failed=f"{why}, try --workers 1")

    def stop(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.join()


def _work(pipe: Connection, find: Find, scale: Scale) -> None:
    """In the process: one duel after the other, until nobody is there any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started this
    os.environ["OMP_NUM_THREADS"] = "1"  # torch reads it when a duel first loads it
    # What Flower logs of federations that are part of a duel would run through the bars.
    logging.getLogger("flwr").addFilter(lambda record: record.levelno >= logging.ERROR)
    try:
        while True:
            pipe.send(_fought(pipe, pipe.recv(), find, scale))
    except (EOFError, OSError):
        sys.exit(0)


def _fought(pipe: Connection, name: str, find: Find, scale: Scale) -> Ended:
    try:
        found = find(name)
        fought = found.fight(scale, lambda share: pipe.send(Progress(name, share)))
        return Ended(name, fought)
    except ParameterError as wanting:  # no data, or nothing of it that fits this duel
        if scale.data in EMBEDDED:  # then nothing can be missing
            return Ended(name, failed=str(wanting))
        return Ended(name, skipped=str(wanting))
    except Exception as broken:  # noqa: BLE001  # one that fails must not keep others back
        known = isinstance(broken, TacitError)
        return Ended(name, failed=str(broken) if known else f"{type(broken).__name__}: {broken}")


# What is written down


def as_json(ended: Sequence[Ended], scale: Scale) -> dict[str, Any]:
    """All of it as JSON values, numbers that are none as null."""
    return {
        "format": FORMAT,
        "tacit": __version__,
        "data": scale.data,
        "quick": scale.quick,
        "holds": all_hold(ended),
        "duels": [fought_as_json(each.fought) for each in ended if each.fought],
        "skipped": {each.name: each.skipped for each in ended if each.skipped},
        "failed": {each.name: each.failed for each in ended if each.failed},
    }


def all_hold(ended: Sequence[Ended]) -> bool:
    """Whether no line is below its target, no duel failed, and one was fought at least."""
    fought = [each.fought for each in ended if each.fought]
    return bool(fought) and all(f.holds for f in fought) and not any(e.failed for e in ended)


def fought_as_json(fought: Fought) -> dict[str, Any]:
    return {
        "name": fought.duel,
        "attack": fought.attack,
        "defence": fought.defence,
        "data": fought.data,
        "holds": fought.holds,
        "seconds": round(fought.seconds, 3),
        "lines": [_line(line) for line in fought.lines],
        "limits": list(fought.limits),
    }


def _line(line: Line) -> dict[str, Any]:
    return {
        "setting": line.setting,
        "what": line.what,
        **_figure(line.figure),
        "role": line.role.name.lower(),
        "target": line.target,
        "at_most": line.at_most,
        "holds": line.holds,
    }


def _figure(figure: Figure) -> dict[str, Any]:
    numbers = {"value": figure.value, "low": figure.low, "high": figure.high}
    told: dict[str, Any] = {
        name: float(number) if isfinite(number) else None for name, number in numbers.items()
    }
    return {**told, "trials": figure.trials}
