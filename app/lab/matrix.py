"""Running a matrix: what is left of it to do, over several processes, kept as it comes."""

import logging
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import tomli_w
import torch

from tacit.app.folder import STATUS
from tacit.app.lab.attempt import attempt
from tacit.app.lab.plan import Plan, Skipped
from tacit.crypto.errors import ParameterError
from tacit.simulations.pooling import by_cell
from tacit.simulations.trial import PICTURES, PLAN, TRIALS, Cell, Trial, TrialLog, key_of

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
        for a plan that cannot be, and for a folder of a run, or of another plan's trials."""
        trials, skipped = plan.checked()
        text = tomli_w.dumps(plan.model_dump())
        kept, status = path / PLAN, path / STATUS
        if status.exists():
            raise ParameterError(f"{path} holds a run: give another folder with --out")
        if replace:
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

    def run(self, on_trial: OnTrial, workers: int = 1) -> None:
        """Do what is left to do. `on_trial(trial, done, total)` hears of each trial once it is
        kept; each of the `workers`, if more than one, is a process of its own."""
        there = {trial.key for trial in self.log.trials()}
        left = [each for each in self.trials if key_of(*each) not in there]
        name = self.plan.perceptual
        found = _alone(left, name) if workers == 1 else _together(left, name, workers)
        for done, trial in enumerate(found, len(self.trials) - len(left) + 1):
            self.log.add(trial)
            on_trial(trial, done, len(self.trials))


def violations(trials: Sequence[Trial]) -> Iterator[str]:
    """The cells whose attack identified more than their bound says any attack can, in words."""
    for each in by_cell(trials):
        found, cell = each.identified, each.cell
        if found is not None and found.breaks_bound:
            yield (
                f"{cell.attack} identified {found.hits / found.of:.1%} under {cell.defence}, "
                f"{cell.threat}: no attack can more than {found.bound:.1%}"
            )


def _alone(left: Sequence[tuple[Cell, int]], perceptual: str) -> Iterator[Trial]:
    return (_tried(cell, seed, perceptual) for cell, seed in left)


def _together(left: Sequence[tuple[Cell, int]], perceptual: str, workers: int) -> Iterator[Trial]:
    # Spawned: a fork of a process that has used torch, or runs threads, may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_quiet)
    waiting, running = iter(left), set[Future[Trial]]()
    try:
        while True:
            # No more than are worked on: what is killed then has not been handed out for nothing.
            for cell, seed in islice(waiting, workers - len(running)):
                running.add(pool.submit(_tried, cell, seed, perceptual))
            if not running:
                return
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (each.result() for each in ended)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _tried(cell: Cell, seed: int, perceptual: str) -> Trial:
    return attempt(cell, seed, perceptual).trial


def _quiet() -> None:
    """In a process of its own: one thread, and what Flower logs is for the one who shows it."""
    torch.set_num_threads(1)
    logging.getLogger("flwr").addFilter(lambda record: record.levelno >= logging.ERROR)


def clear(path: Path) -> None:
    """Remove what a matrix leaves in its folder, and nothing else."""
    for name in (PLAN, TRIALS, "trials.csv", "report.html"):
        (path / name).unlink(missing_ok=True)
    for picture in (path / PICTURES).glob("*.npz"):
        picture.unlink()
