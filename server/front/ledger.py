"""The front's own audit log: DIR/front/audit.log, signed with the key beside it.

The front has a log of its own, since it is the process that strangers talk to: it can write to no
other. An entry is there some seconds after what it tells of; a front that is killed takes these
seconds with it. While the log cannot be written, on a full disk say, the front goes on turning
people away and counting them.
"""

import asyncio
import logging
import os
import time
from dataclasses import asdict
from pathlib import Path

from tacit.crypto.errors import ParameterError, TacitError
from tacit.crypto.identity import KEY_BYTES, Identity
from tacit.crypto.loghead import LOG_BYTES
from tacit.server.auditlog import AuditLog
from tacit.server.deployed import TurnedAway
from tacit.server.entries import noted
from tacit.server.front import files
from tacit.server.front.refusal import Refusal
from tacit.server.front.tally import Tally, place_of

_log = logging.getLogger(__name__)

LOG, KEY = "audit.log", "audit.key"  # as a run has them
SECONDS = 2.0


class Ledger:
    """The open log. Used by one event loop, and by one front at a time."""

    def __init__(self, folder: Path) -> None:
        """Goes on with the log in `folder`, or makes it. Raises as `AuditLog.open`."""
        self._folder = folder
        self._log: AuditLog | None = _opened(folder)
        self._tally = Tally(time.monotonic())
        self._left: list[TurnedAway] = []  # that could not be written

    def turned_away(self, reason: str, host: str, who: str = "") -> None:
        """Count somebody who was not let through."""
        self._tally.add(reason, place_of(host), who)

    def refused(self, refusal: Refusal, host: str) -> None:
        self.turned_away(refusal.reason, host, refusal.who)

    async def keep(self) -> None:
        """Write what there is every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(SECONDS)
            await self.write()

    async def write(self, *, all_of_it: bool = False) -> None:
        """Write what is due, durably."""
        for entry in self._left:
            self._tally.add(entry.reason, entry.address, entry.who, entry.times)
        due = self._tally.due(time.monotonic(), all_of_it=all_of_it)
        self._left = due
        try:
            if due:
                await asyncio.to_thread(self._append, due)
            self._left = []
        except (OSError, TacitError) as broken:
            self._close()
            _log.error("the front's log cannot be written: %s", broken)

    async def close(self) -> None:
        """Write everything, and let others append."""
        await self.write(all_of_it=True)
        self._close()

    def _append(self, due: list[TurnedAway]) -> None:
        if self._log is None:  # it failed before: what of it was written shows when it is opened
            self._log = _opened(self._folder)
        at = round(time.time(), 3)
        self._log.append([noted({"event": "TurnedAway", **asdict(e), "at": at}) for e in due])

    def _close(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None


def _opened(folder: Path) -> AuditLog:
    if (folder / LOG).exists():
        return AuditLog.open(folder / LOG, _key(folder))
    folder.mkdir(mode=0o700, exist_ok=True)
    if not (folder / KEY).exists():
        files.write(folder / KEY, os.urandom(KEY_BYTES))
    return AuditLog.create(folder / LOG, _key(folder), os.urandom(LOG_BYTES))


def _key(folder: Path) -> Identity:
    try:
        return Identity((folder / KEY).read_bytes())
    except (OSError, ParameterError):
        raise ParameterError(f"{folder / KEY}, which signs the front's log, is not there") from None
