"""What the server came to see: the only thing an attack is ever built from.

A secure sum shows the server one update per cohort; plain averaging shows one per device. Both
arrive here in the same shape, so that the same attack runs against either. What devices of a secure
sum send in the clear shows too, one by one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from numpy.typing import NDArray

Arrays: TypeAlias = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Seen:
    """One update the server could read.

    `update` is the weighted mean of (trained - sent) over `clients` devices: of one device if it
    was sent in the clear, of the whole cohort if a secure sum was opened. `weight` is the sum of
    the devices' weights (their example counts), which the server learns with the update.

    `members` are the nodes whose updates are in it, in order, as far as they are known: who takes
    part in a sum is no secret from the server that asks them.

    Of a single device of a secure sum it is the arrays that were sent in the clear, clipped, under
    noise, and times its share of the largest weight; its weight is not known, and 0 here.
    """

    round: int
    model: Arrays
    update: Arrays
    clients: int
    weight: float
    protocol: str  # "plain", or the name of the secure sum
    members: tuple[int, ...] = ()


Tap: TypeAlias = Callable[[Seen], None]
