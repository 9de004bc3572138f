"""What a page shows, as named values that remember when they last changed.

A viewer who was told everything up to a version is told what is newer, and of a value that changed
often in between only the last: so nothing is told twice, however slow he is and however often he
comes back, and nothing has to be kept for him.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Version:
    """Counts changes of all boards together."""

    now: int = 0

    def next(self) -> int:
        self.now += 1
        return self.now


@dataclass(slots=True)
class Board:
    """Named values of JSON, each with the version in which it became what it is."""

    version: Version
    _values: dict[str, Any] = field(default_factory=dict)
    _since: dict[str, int] = field(default_factory=dict)
    _born: int = 0

    def __post_init__(self) -> None:
        self._born = self.version.next()

    def put(self, name: str, value: Any) -> None:
        """A value that is as it was has not changed."""
        if name not in self._values or self._values[name] != value:
            self._values[name] = value
            self._since[name] = self.version.next()

    def get(self, name: str) -> Any:
        """None where there is no such value."""
        return self._values.get(name)

    def clear(self) -> None:
        """Nothing of it counts any more: who is told of it next forgets what he had."""
        self._values, self._since = {}, {}
        self._born = self.version.next()

    def told(self, since: int) -> dict[str, Any] | None:
        """What is newer than a version: `values`, and whether all is `anew`. None if nothing is."""
        if since < self._born:
            return {"anew": True, "values": dict(self._values)}
        values = {name: self._values[name] for name, at in self._since.items() if at > since}
        return {"anew": False, "values": values} if values else None
