"""A node's entries in the device's diary: what comes at every turn is written once."""

import time
from collections.abc import Callable

from tacit import __version__
from tacit.client import diary
from tacit.client.vault import FileVault

AGAIN = 3600  # seconds after which a reason that still holds is written again


class NodeDiary:
    """A `tacit.client.node.base.Diary` in the device's vault, for one process.

    A node goes on where an entry cannot be written: it says so in its log.
    """

    def __init__(self, vault: FileVault, clock: Callable[[], float] = time.time) -> None:
        self._vault = vault
        self._clock = clock
        self._runs: set[int] = set()
        self._reason, self._since, self._times = "", 0.0, 0

    def node_began(self) -> None:
        """Write that the node was started."""
        self._note(diary.NodeBegan(__version__))

    def node_ended(self, reason: str) -> None:
        """Write how the node ended, and what it had not written yet."""
        self._waited()
        self._note(diary.NodeEnded(reason))

    def connected(self, address: str, node: int) -> None:
        """Write which server answers."""
        self._note(diary.Connected(address, node))

    def disconnected(self, reason: str) -> None:
        """Write that it does no longer."""
        self._note(diary.Disconnected(reason))

    def message(self, kind: str, run: int, round: str) -> None:
        """Write the first message of a run; what the device makes of each is written elsewhere."""
        self._waited()
        if run not in self._runs:
            self._runs.add(run)
            self._note(diary.Asked(run, kind, round))

    def bundle_refused(self, bundle: str, run: int) -> None:
        """Write which bundle was refused."""
        self._note(diary.BundleRefused(run, bundle))

    def not_now(self, kind: str, run: int, reason: str) -> None:
        """Write a new reason at once, and one that stays once an hour, with how often it held."""
        if reason != self._reason:
            self._waited()
            self._reason, self._since = reason, self._clock()
            self._note(diary.NotNow(run, kind, reason, 1))
            return
        self._times += 1
        if self._clock() - self._since >= AGAIN:
            self._since = self._clock()
            self._note(diary.NotNow(run, kind, reason, self._times))
            self._times = 0

    def failed(self, kind: str, run: int, reason: str) -> None:
        """Write that the app ended without an answer."""
        self._note(diary.Aborted(run, kind, reason))

    def _waited(self) -> None:
        """Waiting is over, or for another reason."""
        if self._times:
            self._note(diary.NotNow(0, "", self._reason, self._times))
        self._reason, self._times = "", 0

    def _note(self, what: diary.Turn) -> None:
        diary.note_if_possible(self._vault, what, self._clock())
