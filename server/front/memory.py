"""Up to when signatures may have been used that this front does not know of.

What it let in a front knows only while it runs. One that ended by itself has left the time, in
DIR/front/ended; after one that was killed everything up to now may have been used. Nodes whose
clocks are right notice nothing of that but, for five seconds, that they have to try again.
"""

from pathlib import Path

from tacit.server.front import files
from tacit.server.front.credentials import NEWEST

ENDED = "ended"


def unknown_until(folder: Path, now: float, *, is_first: bool) -> float:
    """Unix time; for the first front of a server, that of nothing. To be called once, before
    anybody is let in: the next front must not find what this one found."""
    ended = files.take(folder / ENDED)
    if is_first:
        return float("-inf")
    try:
        before = float("nan" if ended is None else ended)
    except ValueError:
        before = now
    # A clock that was set back since may not keep nodes out until it is where it was.
    return (before if before < now else now) + NEWEST


def keep_end(folder: Path, now: float) -> None:
    """Nobody is let in any more from `now` on."""
    files.write(folder / ENDED, str(now).encode())
