"""What the command shows while it works: on a terminal, in a log, or as JSON lines.

Three voices, chosen once: `normal` has progress bars with the time left, `quiet` says nothing but
errors, `json` prints one object a line on standard output, events first, the result last.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from tacit.app import lines
from tacit.crypto.errors import ParameterError
from tacit.server.events import (
    BudgetSpent,
    CohortDivided,
    Event,
    LeftOut,
    RoundFinished,
    RunStarted,
    SumFailed,
)

INTERRUPTED = 130  # exit code

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on standard output.")]


class Voice(StrEnum):
    """How much is said, and to whom."""

    NORMAL = "normal"
    QUIET = "quiet"
    JSON = "json"


class Screen:
    """Where everything the command says goes."""

    def __init__(self, voice: Voice) -> None:
        self.voice = voice
        self.console = Console(quiet=voice is not Voice.NORMAL, highlight=False)
        self._progress: Progress | None = None
        # Flower logs each call of a strategy; what happens is told here, in fewer words. A filter,
        # because Flower sets the level of its logger when it is imported, which may be later.
        logging.getLogger("flwr").addFilter(_is_error)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing but errors is said."""
        return self.voice is Voice.QUIET

    def say(self, text: str, style: str = "") -> None:
        """One line for a person, never wrapped and never read as markup: it may hold a path."""
        self.console.print(text, style=style, markup=False, soft_wrap=True)

    def fact(self, **fields: Any) -> None:
        """One of many things that the command found, for a program: a line in JSON mode."""
        if self.voice is Voice.JSON:
            _print(lines.of(fields))

    def result(self, **fields: Any) -> None:
        """What the command found, for a program: the last line in JSON mode."""
        if self.voice is Voice.JSON:
            _print(lines.of({"event": "Result", **fields}))

    @contextmanager
    def progress(self) -> Iterator[None]:
        """Show bars inside the block: see `hear` and `bar`."""
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=self.voice is not Voice.NORMAL,
        ) as progress:
            self._progress = progress
            try:
                yield
            finally:
                self._progress = None

    def hear(self, title: str) -> Callable[[Event], None]:
        """A listener for one run's events, with a bar of its own."""
        bar, said = self.bar(title), ""

        def listen(event: Event) -> None:
            if self.voice is Voice.JSON:
                _print(lines.of_event(event, run=title))
            nonlocal said
            match event:
                case RunStarted(rounds, resumed_from):
                    bar(resumed_from, rounds)
                case RoundFinished(number, rounds):
                    accuracy = event.server.get("accuracy")
                    bar(number, rounds, "" if accuracy is None else f"accuracy {accuracy:.3f}")
                case CohortDivided(number) if event.words != said:
                    said = event.words  # once, and again if it is no longer so
                    self.say(f"  round {number}: {said}")
                case LeftOut(number, stage, device, reason):
                    self.say(f"  round {number}: device {device} left out at {stage}: {reason}")
                case SumFailed(number, purpose, reason):
                    self.say(f"  round {number}: no sum to {purpose}: {reason}; the model stays")
                case BudgetSpent(number, reason):
                    self.say(f"  the run ends before round {number}, with its model: {reason}")

        return listen

    def bar(self, title: str) -> Callable[..., None]:
        """A progress bar: call it with (done, total, note)."""
        if self._progress is None:
            return lambda done, total, note="": None
        progress = self._progress
        task = progress.add_task(title, total=None, note="")

        def move(done: int, total: int, note: str = "") -> None:
            progress.update(task, completed=done, total=total, note=note)

        return move


def screen_of(quiet: bool, json: bool) -> Screen:
    """The screen that a command's options ask for."""
    if quiet and json:
        raise ParameterError("--quiet and --json exclude each other")
    return Screen(Voice.JSON if json else Voice.QUIET if quiet else Voice.NORMAL)


def complain(text: str) -> None:
    """An error, on standard error, in every voice."""
    line = Text.assemble(("error", "bold red"), f": {text}")
    Console(stderr=True, highlight=False).print(line, soft_wrap=True)


@contextmanager
def interruptible(remedy: str) -> Iterator[None]:
    """Ctrl-C ends with a word on what to do, not with a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        complain(f"interrupted: {remedy}")
        raise typer.Exit(INTERRUPTED) from None


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _print(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()
