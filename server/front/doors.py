"""How many connections there are, and which one has to go.

Each address has so many. When all places are taken, the oldest connection on which no node has
spoken yet makes way: whoever means to keep nodes out by connecting has to be faster than they are,
for ever, from many addresses.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tacit.server.front.limits import Limits


@dataclass(slots=True, eq=False)
class Place:
    """One connection's. `drop` ends it at once."""

    place: str
    drop: Callable[[], object] = bool
    node: str = ""  # that has spoken on it


class Doors:
    """The connections that there are, the oldest first."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: dict[Place, None] = {}
        self._of: Counter[str] = Counter()

    def enter(self, place: str) -> tuple[Place | None, str | None]:
        """A place for a new connection, None if there is none; and whose was taken from him."""
        if self._of[place] >= self._limits.per_address:
            return None, None
        lost = None
        if len(self._open) >= self._limits.connections:
            stranger = next((each for each in self._open if not each.node), None)
            if stranger is None:
                return None, None
            lost = stranger.place
            stranger.drop()
            self.leave(stranger)
        made = Place(place)
        self._open[made] = None
        self._of[place] += 1
        return made, lost

    def leave(self, place: Place) -> None:
        """It is free again. May be called again."""
        if place in self._open:
            del self._open[place]
            self._of[place.place] -= 1
            self._of += Counter()  # forget those at 0

    def __len__(self) -> int:
        return len(self._open)
