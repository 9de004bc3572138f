"""Whether a device may train now, by the rules that its owner has written: see `settings`.

The rules hold for what begins something. What ends a sum that the device is in already, or learns
whom it is with, is a matter of milliseconds, and others would wait for it in vain: it is answered
whenever it is asked. A device that is to be silent altogether is not running.

A reason names the rule, for the owner's diary. The server is not told: when somebody is at home, or
what a battery has, is not its business.
"""

import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeAlias

from tacit.client.diary import DEEDS, TookPart
from tacit.client.journal import Journal
from tacit.client.node.base import Refusal
from tacit.client.node.machine import LinuxMachine
from tacit.client.node.settings import DAY_MINUTES, FILE, Settings, load
from tacit.client.vault import FileVault
from tacit.crypto.errors import ParameterError
from tacit.crypto.secagg import stages

HOOK_SECONDS = 5.0
HOOK_HOLDS = 30.0  # seconds that a hook's answer is gone by
AROUND = (  # what goes before and after a contribution, and costs next to nothing
    stages.ENROL,
    stages.ENCAPSULATE,
    stages.DECAPSULATE,
    stages.DEAL,
    stages.KEY,
    stages.ATTEST,
    stages.REVEAL,
)
_HOOK_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}

Rule: TypeAlias = Callable[[str, float], Refusal | None]


@dataclass(slots=True)
class OwnersRules:
    """A `tacit.client.node.base.Allowed` by a vault's `node.toml`, which is read again when it has
    changed. One that cannot be read allows nothing."""

    vault: FileVault
    machine: LinuxMachine = field(default_factory=LinuxMachine)
    local: Callable[[float], time.struct_time] = time.localtime
    _read: tuple[tuple[int, int], Settings | Refusal] | None = None
    _hook: tuple[str, float, Refusal | None] = ("", 0.0, None)
    _rounds: tuple[tuple[int, int, int], str, int] = ((0, 0, 0), "", 0)

    def __call__(self, kind: str, now: float) -> Refusal | None:
        """The first rule that says no to a message of this type."""
        if kind in AROUND:
            return None
        settings = self._settings()
        if isinstance(settings, Refusal):
            return settings
        for rule in self._rules(settings):
            if (refusal := rule(kind, now)) is not None:
                return refusal
        return None

    def _settings(self) -> Settings | Refusal:
        try:
            found = (self.vault.folder / FILE).stat()
            version = found.st_mtime_ns, found.st_size
        except OSError:
            version = 0, 0
        if self._read is None or self._read[0] != version:
            try:
                self._read = version, load(self.vault.folder)
            except ParameterError:
                self._read = version, Refusal(f"the device's {FILE} is not valid")
        return self._read[1]

    def _rules(self, settings: Settings) -> Iterator[Rule]:
        """The cheap ones first."""
        if windows := settings.schedule.parsed:

            def scheduled(kind: str, now: float) -> Refusal | None:
                at = self.local(now)
                minute = at.tm_hour * 60 + at.tm_min
                if any(window.holds(at.tm_wday, minute) for window in windows):
                    return None
                ahead = range(1, 7 * DAY_MINUTES)
                wait = next(
                    step
                    for step in ahead
                    if any(w.holds(*_later(at.tm_wday, minute, step)) for w in windows)
                )
                return Refusal("outside of schedule.windows", wait * 60.0 - at.tm_sec)

            yield scheduled
        if settings.power.mains or settings.power.battery_above:
            yield lambda kind, now: self._powered(settings)
        if settings.network.interfaces or settings.network.metered:
            yield lambda kind, now: self._connected(settings)
        if settings.machine.max_load or settings.machine.max_temperature:
            yield lambda kind, now: self._idle(settings)
        if settings.max_rounds_per_day:
            yield lambda kind, now: self._counted(settings.max_rounds_per_day, now)
        if settings.hook:
            yield lambda kind, now: self._hooked(settings.hook, kind, now)

    def _powered(self, settings: Settings) -> Refusal | None:
        asked, power = settings.power, self.machine.power()
        if power is None:
            return Refusal("this machine does not say what power it is on (power)")
        if power.on_mains:
            return None
        if asked.mains:
            return Refusal("not on mains (power.mains)")
        if power.percent is None or power.percent <= asked.battery_above:
            return Refusal("the battery is low (power.battery_above)")
        return None

    def _connected(self, settings: Settings) -> Refusal | None:
        asked, name = settings.network, self.machine.interface()
        if name is None:
            return Refusal("this machine does not say what network it is on (network)")
        if any(fnmatchcase(name, pattern) for pattern in asked.metered):
            return Refusal("on a metered network (network.metered)")
        if asked.interfaces and not any(fnmatchcase(name, each) for each in asked.interfaces):
            return Refusal("on another network (network.interfaces)")
        return None

    def _idle(self, settings: Settings) -> Refusal | None:
        asked = settings.machine
        if asked.max_load:
            load = self.machine.load()
            if load is None or load > asked.max_load:
                return Refusal("the machine is busy (machine.max_load)", 60.0)
        if asked.max_temperature:
            temperature = self.machine.temperature()
            if temperature is None or temperature > asked.max_temperature:
                return Refusal("the machine is hot (machine.max_temperature)", 60.0)
        return None

    def _counted(self, most: int, now: float) -> Refusal | None:
        """By the diary, which is read again when it has changed, or the day has."""
        journal, today = Journal.of(self.vault, DEEDS), self._day(now)
        version = journal.version()
        if self._rounds[:2] != (version, today):
            entries = (each for each in journal.read().entries if each.kind == TookPart.__name__)
            count = len(
                {
                    (entry.fields["run"], entry.fields["round"])
                    for entry in entries
                    if self._day(entry.at) == today
                }
            )
            self._rounds = version, today, count
        if self._rounds[2] < most:
            return None
        at = self.local(now)
        left = DAY_MINUTES * 60.0 - (at.tm_hour * 3600 + at.tm_min * 60 + at.tm_sec)
        return Refusal(f"{most} rounds today are enough (max_rounds_per_day)", left)

    def _day(self, at: float) -> str:
        return time.strftime("%Y-%m-%d", self.local(at))

    def _hooked(self, program: str, kind: str, now: float) -> Refusal | None:
        asked, at, refusal = self._hook
        if asked != program or not 0 <= now - at < HOOK_HOLDS:
            refusal = _ask(program, kind)
            self._hook = program, now, refusal
        return refusal


def _later(day: int, minute: int, step: int) -> tuple[int, int]:
    days, minute = divmod(minute + step, DAY_MINUTES)
    return (day + days) % 7, minute


def _ask(program: str, kind: str) -> Refusal | None:
    """Run an owner's program: no shell, no input, no output, nothing of our environment."""
    try:
        mode = Path(program).stat().st_mode
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            return Refusal("others than its owner may write to the hook: chmod go-w it (hook)")
        child = subprocess.Popen(  # noqa: S603 - the owner's own choice, by a whole path
            [program, kind],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_HOOK_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
    except OSError as bad:
        return Refusal(f"the hook does not start: {bad.strerror} (hook)")
    try:
        code = child.wait(HOOK_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)  # and all that it started
        child.wait()
        return Refusal(f"the hook did not answer in {HOOK_SECONDS:g} s (hook)")
    return Refusal(f"the hook says no, with exit code {code} (hook)") if code else None
