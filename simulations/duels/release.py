"""A release as duels have it: the model of a finished run, and what it is attacked with.

Duels about a victim of their own (`ground.py`) say what a layer is worth; the same attacks on a
release say how that one stands. An attack that can be pointed at a release is a `Probe`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from tacit.client.trainer import Examples
from tacit.server.gate.model import TorchModel
from tacit.simulations.data.dataset import take
from tacit.simulations.duels.base import Fought, Scale, Tell
from tacit.simulations.duels.ground import Ground


@dataclass(frozen=True, slots=True)
class Release:
    """`ground.trained` is what its devices learned from; of what they did not, one half is for the
    judge (`held`), and the other is what a thief may own (`owned`)."""

    name: str
    ground: Ground
    model: TorchModel


Probe: TypeAlias = Callable[[Release, Scale, Tell], Fought]


def divided(data: str, classes: int, trained: Examples, others: Examples) -> Ground:
    """The ground of a release: `others` in two halves, drawn."""
    order = np.random.default_rng(8).permutation(len(others))
    middle = len(others) // 2
    held, owned = (take(others, np.sort(part)) for part in (order[:middle], order[middle:]))
    return Ground(data, classes, trained, held, owned)
