"""The gate's side of the audit log: entries are durable before what they say is told."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict

from tacit.crypto.errors import TacitError
from tacit.crypto.loghead import SignedHead
from tacit.server.auditlog import AuditLog
from tacit.server.entries import noted
from tacit.server.gate.base import Denial
from tacit.server.gate.events import Events
from tacit.server.kinds import Denied, Kind

STAGE = "log"
CANNOT = "the gate cannot keep its log: it answers nothing"
OTHERS_EVERY = 5.0  # seconds between entries about denials: strangers must not fill the disk


class Journal:
    """The log as all threads of the gate write it, and what it is not yet told.

    `also` puts there what others left for it, every few seconds: entries about keys.

    Once writing has failed nothing more is written, since it is unknown how much was: the log is
    opened anew, and verified, when the gate is.
    """

    def __init__(
        self, log: AuditLog, events: Events, also: Callable[[AuditLog], object] = bool,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._log, self._events, self._also, self._clock = log, events, also, clock
        self._alone = threading.Lock()
        self._is_sound = True
        self._denials: Counter[tuple[str, str]] = Counter()  # by key and stage
        self._told = clock()

    @property
    def is_sound(self) -> bool:
        """Whether entries can be kept."""
        return self._is_sound

    @property
    def head(self) -> SignedHead:
        """Of all that is kept."""
        return self._log.head

    def keep(self, entries: Sequence[Kind]) -> None:
        """Durably, and with them, every few seconds, how many requests were denied. Raises Denial
        (503) if that fails, and ever after."""
        with self._alone:
            at = self._clock()
            if is_time := at - self._told >= OTHERS_EVERY:
                entries, self._told = [*entries, *self._denied()], at
            self._append(entries, at, others=is_time)

    def denied(self, key: str, stage: str) -> None:
        """Count a request that is not answered; "" is no key."""
        with self._alone:
            self._denials[key, stage] += 1

    def close(self) -> None:
        """Keep what was counted, and let others append. May be called again."""
        with self._alone:
            try:
                if self._is_sound:
                    self._append(self._denied(), self._clock(), others=True)
            finally:
                self._is_sound = False
                self._log.close()
                self._events.close()

    def _denied(self) -> list[Kind]:
        counted, self._denials = self._denials, Counter()
        return [Denied(key, stage, requests) for (key, stage), requests in counted.items()]

    def _append(self, entries: Sequence[Kind], at: float, *, others: bool) -> None:
        if not self._is_sound:
            raise Denial(STAGE, 503, CANNOT)
        try:
            self._log.append([_line(entry, at) for entry in entries])
            if others:
                self._take_over()
        except (OSError, TacitError) as broken:
            self._is_sound = False
            raise Denial(STAGE, 503, CANNOT) from broken
        for entry in entries:
            self._events.hear(entry, at)

    def _take_over(self) -> None:
        with suppress(Denial):  # others are at work there: the next time will do
            self._also(self._log)


def _line(entry: Kind, at: float) -> bytes:
    return noted({"event": type(entry).__name__, **asdict(entry), "at": round(at, 3)})
