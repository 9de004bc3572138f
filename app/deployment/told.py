"""The supervisor's own log, which takes an entry even when the disk is full: later, then.

An operator who fills the disk must not be able to have something done that nobody can read of: what
could not be written waits in memory, in order, and is written before anything else is.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import astuple, dataclass, field

from tacit.app.journal import Journal
from tacit.crypto.errors import TacitError
from tacit.server.kinds import Kind

MOST = 10_000  # entries that wait; the oldest are the ones that matter, later ones are dropped


@dataclass(slots=True)
class Told:
    """Entries on their way into the log."""

    journal: Journal
    say: Callable[[str], None]
    waiting: deque[Kind] = field(default_factory=deque)
    trouble: str = ""

    def note(self, entry: Kind) -> None:
        """Keep an entry, now if it can be."""
        self.say(_line(entry))
        if len(self.waiting) < MOST:
            self.waiting.append(entry)
        self.write()

    def write(self) -> bool:
        """Write what waits. Whether all is written."""
        while self.waiting:
            try:
                self.journal.note(self.waiting[0])
            except (OSError, TacitError) as bad:
                self.trouble = f"the log cannot be written: {bad}"
                self.journal.close()  # what failed takes nothing more; it is opened anew
                return False
            self.waiting.popleft()
        self.trouble = ""
        return True


def _line(entry: Kind) -> str:
    """An entry for the supervisor's own output, which is read while it works."""
    return " ".join([type(entry).__name__, *map(str, filter(None, astuple(entry)))])
