"""The devices that every system in a comparison sums: the same updates, weights and silences."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Layers = list[NDArray[np.float32]]
T = TypeVar("T", bound=np.floating[Any])

DEVIATION = 0.05  # of a coordinate of an update
LIGHTEST, HEAVIEST = 100, 1000  # weights, as numbers of examples are
LAYERS = 8  # arrays that a model of the benchmark consists of
CHUNK = 1 << 22  # coordinates drawn at once


@dataclass(frozen=True, slots=True)
class Cohort:
    """Devices 0..devices-1 with updates of `length` coordinates, drawn from `seed`.

    A share `drop` of them says nothing when its masked vector is due, in every round.
    """

    devices: int
    length: int
    drop: float = 0.0
    seed: int = 1

    @property
    def silent(self) -> frozenset[int]:
        """Devices whose update is missing from every sum."""
        many = round(self.drop * self.devices)
        chosen = np.random.default_rng([self.seed, 0]).permutation(self.devices)[:many]
        return frozenset(chosen.tolist())

    @property
    def survivors(self) -> list[int]:
        """All other devices."""
        silent = self.silent
        return [device for device in range(self.devices) if device not in silent]

    @property
    def weights(self) -> list[int]:
        """A whole number for each device, LIGHTEST..HEAVIEST."""
        rng = np.random.default_rng([self.seed, 1])
        drawn: list[int] = rng.integers(LIGHTEST, HEAVIEST + 1, self.devices).tolist()
        return drawn

    def update(self, device: int, round: int) -> Layers:
        """What a device adds to the model in `round`, as LAYERS arrays. Drawn anew at each call."""
        vector = np.empty(self.length, np.float32)
        rng = np.random.Generator(np.random.SFC64([self.seed, round, device]))
        for part in _chunks(vector):
            rng.standard_normal(dtype=np.float32, out=part)
            part *= np.float32(DEVIATION)
        return split(vector)

    def model(self) -> Layers:
        """The model sent out: zeros, so that an update is also what a device's model becomes."""
        return split(np.zeros(self.length, np.float32))

    def error(self, mean: Layers, round: int, weights: Sequence[int] | None = None) -> float:
        """The largest distance of `mean` from the weighted mean of the survivors, in float64.
        `weights` are by device; None: those of the cohort."""
        weights, exact = weights or self.weights, np.zeros(self.length)
        total = sum(weights[device] for device in self.survivors)
        for device in self.survivors:
            for layer, part in zip(self.update(device, round), split(exact), strict=True):
                part += layer * np.float64(weights[device] / total)
        pairs = zip(mean, split(exact), strict=True)
        return max(float(np.max(np.abs(got - wanted), initial=0)) for got, wanted in pairs)


def split(vector: NDArray[T]) -> list[NDArray[T]]:
    """Views of a vector as LAYERS arrays of nearly the same size."""
    return np.array_split(vector, LAYERS)


def _chunks(vector: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, vector.size, CHUNK):
        yield vector[start : start + CHUNK]
