"""How long to wait before something that failed is tried again.

Twice as long each time, up to a bound, and shortened by chance, so that those who failed together
do not come back together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from os import urandom

Draw = Callable[[], float]


def chance() -> float:
    """A number from [0, 1), of the system's randomness."""
    return int.from_bytes(urandom(4)) / (1 << 32)


@dataclass(frozen=True, slots=True)
class Backoff:
    """`first` seconds, then twice as many each time, `most` at most; half of it is up to chance."""

    first: float = 0.5
    most: float = 30.0

    def after(self, failures: int, draw: Draw = chance) -> float:
        """Seconds to wait after so many failures in a row; 0 after none."""
        if failures <= 0:
            return 0.0
        whole = min(self.most, self.first * 2.0 ** min(failures - 1, 32))
        return whole * (0.5 + draw() / 2)
