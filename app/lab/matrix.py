"""Running a matrix: what is left of it to do, over several processes, kept as it comes."""

import logging
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import tomli_w
import torch

from tacit.app.folder import STATUS
from tacit.app.lab.attempt import attempt
from tacit.app.lab.plan import Plan, Skipped
from tacit.client.vault import locked
from tacit.crypto.errors import ParameterError, TacitError
from tacit.simulations.pooling import by_cell
from tacit.simulations.trial import PICTURES, PLAN, TRIALS, Cell, Trial, TrialLog, key_of

LOCK = "lock"

OnTrial = Callable[[Trial, int, int], None]


@dataclass(frozen=True, slots=True)
class Matrix:
    """A plan and the folder of its trials."""

    plan: Plan
    trials: tuple[tuple[Cell, int], ...]
    skipped: tuple[Skipped, ...]
    log: TrialLog

    @classmethod
    def open(cls, plan: Plan, path: Path, *, replace: bool = False) -> "Matrix":
        """Begin in a folder without trials, or go on in one of this very plan's; trials that are
        there are removed if they are to be replaced. Raises ParameterError, and removes nothing,
        for a plan that cannot be, and for a folder of a run, of another plan's trials, or where
        another command is at work on those that are to be replaced."""
        trials, skipped = plan.checked()
        text = tomli_w.dumps(plan.model_dump())
        kept, status = path / PLAN, path / STATUS
        if status.exists():
            raise ParameterError(f"{path} holds a run: give another folder with --out")
        if replace and path.exists():
            with alone(path / LOCK):
                clear(path)
        if not kept.exists():
            path.mkdir(parents=True, exist_ok=True)
            fresh = kept.with_suffix(".new")  # a kill leaves all of the plan, or none
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(kept)
        elif kept.read_text(encoding="utf-8") != text:
            raise ParameterError(
                f"{path} holds the trials of another matrix: --replace removes them, "
                "or give another folder with --out"
            )
        return cls(plan, trials, skipped, TrialLog(path))

    def done(self) -> tuple[Trial, ...]:
        """The trials that there are, in the plan's order."""
        kept = {trial.key: trial for trial in self.log.trials()}
        keys = (key_of(cell, seed) for cell, seed in self.trials)
        return tuple(kept[key] for key in keys if key in kept)

    def run(self, on_trial: OnTrial, workers: int = 1) -> tuple[str, ...]:
        """Do what is left to do; what failed, in words, which the same command tries again.

        `on_trial(trial, done, total)` hears of each trial once it is kept; each of the `workers`,
        if more than one, is a process of its own. Raises ParameterError if another command is at
        work here, and TacitError if a process died.
        """
        failed = []
        with alone(self.log.path / LOCK):
            there = {trial.key for trial in self.log.trials()}
            left = [each for each in self.trials if key_of(*each) not in there]
            name = self.plan.perceptual
            found = _in_turn(left, name) if workers == 1 else _together(left, name, workers)
            done = len(self.trials) - len(left)
            for each in found:
                if isinstance(each, str):
                    failed.append(each)
                    continue
                self.log.add(each)
                done += 1
                on_trial(each, done, len(self.trials))
        return tuple(failed)


def violations(trials: Sequence[Trial]) -> Iterator[str]:
    """The cells whose attack identified more than their bound says any attack can, in words."""
    for each in by_cell(trials):
        found, cell = each.identified, each.cell
        if found is not None and found.breaks_bound:
            yield (
                f"{cell.attack} identified {found.hits / found.of:.1%} under {cell.defence}, "
                f"{cell.threat}: no attack can more than {found.bound:.1%}"
            )


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Raises ParameterError if another process is in here, by this file."""
    with ExitStack() as held:
        try:
            held.enter_context(locked(path, wait=False))
        except BlockingIOError:
            raise ParameterError(
                f"another command is at work in {path.parent}: wait for it, or give another folder "
                "with --out"
            ) from None
        yield


def _in_turn(left: Sequence[tuple[Cell, int]], perceptual: str) -> Iterator[Trial | str]:
    return (_tried(cell, seed, perceptual) for cell, seed in left)


def _together(
    left: Sequence[tuple[Cell, int]], perceptual: str, workers: int
) -> Iterator[Trial | str]:
    # Spawned: a fork of a process that has used torch, or runs threads, may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_quiet)
    waiting, running = iter(left), set[Future[Trial | str]]()
    try:
        while True:
            # No more than are worked on: what is killed then has not been handed out for nothing.
            for cell, seed in islice(waiting, workers - len(running)):
                running.add(pool.submit(_tried, cell, seed, perceptual))
            if not running:
                return
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (each.result() for each in ended)
    except BrokenProcessPool:
        raise TacitError(
            "a process of the lab died, for want of memory perhaps: the same command goes on, with "
            "--workers 1 it needs less"
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _tried(cell: Cell, seed: int, perceptual: str) -> Trial | str:
    """The trial, or why there is none: one that fails must not keep others from being tried."""
    try:
        return attempt(cell, seed, perceptual).trial
    except Exception as broken:  # noqa: BLE001  # one's own attacks, models, data: anything
        return f"{cell.attack}, {cell.defence}, {cell.threat}, seed {seed}: {_words(broken)}"


def _words(broken: Exception) -> str:
    known = isinstance(broken, TacitError)
    return str(broken) if known else f"{type(broken).__name__}: {broken}"


def _quiet() -> None:
    """In a process of its own: one thread, and what Flower logs is for the one who shows it."""
    torch.set_num_threads(1)
    logging.getLogger("flwr").addFilter(lambda record: record.levelno >= logging.ERROR)


def clear(path: Path) -> None:
    """Remove what a matrix leaves in its folder, and nothing else: not the lock either, since who
    waits for a file that is gone is not kept from a new one."""
    for name in (PLAN, TRIALS, "trials.csv", "report.html"):
        (path / name).unlink(missing_ok=True)
    for picture in (path / PICTURES).glob("*.npz"):
        picture.unlink()
