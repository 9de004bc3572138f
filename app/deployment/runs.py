"""The runs of a deployed server: ordered, one after the other, and begun again until they are done.

    ordered ──> queued ──> begun ──> held by a ServerApp ──> finished
                  ^                        │ it died, or raised
                  └──── after a while ─────┘ ──> failed, when trying again is no use

Flower gives a run up after a minute of silence and never goes on with one. A run here is its folder
instead: whoever holds the folder's lock runs it. When nobody does and it is not finished, Flower is
told to end its own run of it, and is given a new one that goes on from the checkpoint. So no two
ServerApps serve one folder at a time, and the lock makes sure.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tacit.app.config import Settings
from tacit.app.deployment import ticket as tickets
from tacit.app.deployment.backoff import Backoff
from tacit.app.deployment.control import Control, NotDone
from tacit.app.deployment.ordered import parsed
from tacit.app.deployment.places import Places
from tacit.app.deployment.ticket import Ticket
from tacit.app.deployment.told import Told
from tacit.app.folder import STATUS, RunFolder
from tacit.app.run_lock import is_held
from tacit.crypto.errors import Damaged, ParameterError
from tacit.server.deployed import RunBegun, RunEnded, RunOrdered, StrangerEnded

FEW, MANY = 8, 30  # tries without a new round: of what looks wrong for good, and of what does not
RAISED = "ServerApp failed with exception: "  # as Flower says it
SAYS_WITHIN = 10.0  # seconds in which a ServerApp that raised tells Flower why
STARTS_WITHIN = 90.0  # seconds from its beginning to the lock
ENDS_WITHIN = 15.0  # seconds for a ServerApp to end by itself
LOOK_EVERY = 3.0  # seconds between looks at what Flower says of a run
RETRIES = Backoff(first=1.0, most=60.0)

Ready = Callable[[Settings], str]


@dataclass(slots=True)
class Current:
    """The run that is at work, since `at` of the monotonic clock."""

    name: str
    number: int
    at: float
    was_held: bool = False
    is_over: bool = False
    details: str = ""
    ends_by: float | None = None
    says_by: float | None = None
    looked: float = 0.0


@dataclass(slots=True)
class Waiting:
    """A run that is to be begun at `due`, after so many `tries` since it last got on."""

    tries: int = 0
    due: float = 0.0
    rounds: int = 0


@dataclass(slots=True)
class Runs:
    """All of them. `ready` says why a run cannot be begun now, or nothing; `end_serverapps` ends
    those that do not end by themselves."""

    places: Places
    control: Control
    told: Told
    ready: Ready
    end_serverapps: Callable[[], None]
    current: Current | None = None
    _open: dict[str, Ticket] = field(default_factory=dict)
    _waiting: dict[str, Waiting] = field(default_factory=dict)
    _numbers: set[int] = field(default_factory=set)  # of Flower's runs that were begun here

    def load(self) -> None:
        """Find what an earlier supervisor left undone."""
        for folder in self.places.runs.iterdir():
            found = tickets.read(folder)
            if found is None:
                continue
            self._numbers.add(found.number)
            if found.how == tickets.OPEN:
                self._open[folder.name] = found

    def order(self, name: str, settings: str, by: str, digest: str) -> None:
        """Queue a new run. To order the very same again is no mistake: it may not be known whether
        that was done. Raises ParameterError."""
        wanted, place = parsed(name, settings), self.places.runs / name
        held = tickets.read(place)
        is_there = (place / STATUS).exists()
        if held is not None and (held.digest, held.by) == (digest, by):
            return  # open or over, it was admitted then
        if held is not None or (is_there and RunFolder.open(place).status() != "queued"):
            raise ParameterError(f"there is a run {name} already: choose another --name")
        RunFolder.create(place, wanted, replace=is_there, status="queued")
        self._admit(name, Ticket(by, digest, time.time()))

    def resume(self, name: str, by: str) -> None:
        """Go on with a run that failed or was stopped. Raises ParameterError."""
        folder = RunFolder.open(self._place(name))
        if folder.status() == "finished":
            raise ParameterError(f"run {name} is finished: nothing to resume")
        if name in self._open:
            return
        held = tickets.read(folder.path)
        digest = held.digest if held is not None else ""
        folder.mark("queued")
        self._admit(name, Ticket(by, digest, time.time(), held.begun if held else 0))

    def stop(self, name: str, by: str) -> None:
        """End a run; it can be gone on with. Raises ParameterError."""
        self._place(name)
        if name not in self._open:
            raise ParameterError(f"run {name} is over: nothing to stop")
        self._keep(name, replace(self._open[name], is_to_stop=True))
        if self.current is None or self.current.name != name:
            self._end(name, "stopped", f"by {by}")

    def end_strangers(self) -> None:
        """End what Flower runs and nobody ordered here, and say so: whoever is on this machine can
        ask SuperLink for a run. Raises as `Control` does."""
        for each in self.control.runs():
            if not each.is_over and each.number not in self._numbers:
                self.control.stop(each.number)
                self.told.note(StrangerEnded(each.number, each.name))

    def step(self) -> None:
        """Do what is to be done next. Raises as `Control` does, and goes on when called again."""
        if self.current is None:
            self._begin_next()
        else:
            self._watch(self.current)

    def _begin_next(self) -> None:
        now = time.monotonic()
        for name in sorted(self._open, key=lambda name: self._open[name].ordered):
            if self._waiting_of(name).due <= now:
                try:
                    self._begin(name)
                except (ParameterError, Damaged) as bad:
                    self._close(name, "failed", str(bad))
            return  # one at a time, and the oldest first

    def _begin(self, name: str) -> None:
        folder = RunFolder.open(self._place(name))
        if folder.status() == "finished":
            return self._end(name, "finished", "")
        if self._open[name].is_to_stop:
            return self._end(name, "stopped", "as it was ordered")
        if is_held(folder.path):
            return self._wait(
                name, "the ServerApp of an earlier try is still at work", counts=False
            )
        if why := self.ready(folder.settings):
            return self._wait(name, why)
        self.end_strangers()
        for each in self.control.runs():
            if not each.is_over:
                self.control.stop(each.number)
        done = self._gets_on(folder)
        try:
            number = self.control.begin(folder.settings.flat())
        except NotDone as refused:
            return self._wait(name, str(refused))
        self._numbers.add(number)
        self.current = Current(name, number, time.monotonic())
        held = self._open[name]
        self._keep(name, replace(held, begun=held.begun + 1, number=number, reason=""))
        self.told.note(RunBegun(name, number, done))
        return None

    def _watch(self, current: Current) -> None:
        now, place = time.monotonic(), self._place(current.name)
        held = is_held(place)
        current.was_held |= held
        if now - current.looked >= LOOK_EVERY or (current.was_held and not held):
            current.looked = now
            self._look(current)
        if held:
            self._let_end(current, now)
            return
        status = RunFolder.open(place).status()
        if status == "finished":
            self._end(current.name, "finished", "")
        elif self._open[current.name].is_to_stop:
            self._stop(current)
            self._end(current.name, "stopped", "as it was ordered")
        elif self._is_dead(current, status, now):
            self._again(current)

    def _is_dead(self, current: Current, status: str, now: float) -> bool:
        """Whether nobody runs it any more, and what there is to say of that was said."""
        if current.is_over:
            return True
        if not current.was_held:
            return now - current.at > STARTS_WITHIN
        return status != "failed" or self._has_said(current, now)

    def _look(self, current: Current) -> None:
        try:
            found = self.control.run(current.number)
        except NotDone:  # its database is another one
            current.is_over, current.details = True, "SuperLink does not know it any more"
        else:
            current.is_over, current.details = found.is_over, found.details

    def _let_end(self, current: Current, now: float) -> None:
        """A ServerApp that has nothing to do any more ends by itself, or is ended."""
        is_to_stop = self._open[current.name].is_to_stop
        if not (is_to_stop or current.is_over):
            return
        if current.ends_by is None:
            current.ends_by = now + ENDS_WITHIN
            self._stop(current)
        elif now >= current.ends_by:
            self.end_serverapps()

    def _has_said(self, current: Current, now: float) -> bool:
        """Whether a ServerApp that raised had time to tell Flower why."""
        if current.says_by is None:
            current.says_by = now + SAYS_WITHIN
        return now >= current.says_by

    def _stop(self, current: Current) -> None:
        if not current.is_over:
            self.control.stop(current.number)

    def _again(self, current: Current) -> None:
        """It stopped before it was done: Flower's run of it is ended, and it waits for its turn."""
        self._stop(current)
        why = current.details or "its ServerApp was killed"
        self.current = None
        self.told.note(RunEnded(current.name, "interrupted", why))
        self._gets_on(RunFolder.open(self._place(current.name)))
        self._wait(current.name, why, few=why.startswith(RAISED))

    def _gets_on(self, folder: RunFolder) -> int:
        """How many rounds it has; a new one makes up for tries."""
        name, done = folder.path.name, len(folder.rounds())
        if done > self._waiting_of(name).rounds:
            self._waiting[name] = Waiting(rounds=done)
        return done

    def _wait(self, name: str, why: str, *, counts: bool = True, few: bool = False) -> None:
        waiting = self._waiting_of(name)
        waiting.tries += counts
        if waiting.tries >= (FEW if few or not waiting.rounds else MANY):
            return self._end(name, "failed", f"{why} (tried {waiting.tries} times)")
        waiting.due = time.monotonic() + RETRIES.after(max(1, waiting.tries))
        if self._open[name].reason != why:
            self._keep(name, replace(self._open[name], reason=why))
        return None

    def _end(self, name: str, how: str, why: str) -> None:
        """It is over, and the next may begin."""
        if how != "finished":
            RunFolder.open(self._place(name)).mark("failed" if how == "failed" else "interrupted")
        self._close(name, how, why)

    def _close(self, name: str, how: str, why: str) -> None:
        self.told.note(RunEnded(name, how, why))
        self._keep(name, replace(self._open[name], how=how, reason=why))
        self._open.pop(name)
        self._waiting.pop(name, None)
        if self.current is not None and self.current.name == name:
            self.current = None

    def _admit(self, name: str, made: Ticket) -> None:
        self.told.note(RunOrdered(name, made.digest, made.by))
        self._keep(name, made)

    def _keep(self, name: str, made: Ticket) -> None:
        made.write(self._place(name))
        self._open[name] = made

    def _waiting_of(self, name: str) -> Waiting:
        return self._waiting.setdefault(name, Waiting())

    def _place(self, name: str) -> Path:
        """Raises ParameterError for a name that is none, or of no run."""
        place = self.places.runs / name
        if place.parent != self.places.runs or not place.is_dir():
            raise ParameterError(f"no run {name}: tacit status lists them")
        return place
