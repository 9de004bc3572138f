"""A softmax layer that devices learn together: what each of them sends in a round.

Two kinds of updates. Where a device is protected, it is what some steps of gradient descent on its
own examples do to the model; whoever sums clips it. Where an example is protected, it is the sum
of the gradients of all examples, each clipped to a norm of 1: gradients of a softmax layer are
outer products, so their norms are known without them.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tacit.simulations.data.sources import load

Reals = NDArray[np.float32]
Labels = NDArray[np.int64]

MOST_TESTED = 10_000
SMALLER = {
    "fashion-mnist": 2
}  # pixels, each way, whose mean is taken: fewer parameters, less noise
DARKER = {"fashion-mnist": 0.3}  # off each pixel: about the mean, and gradients are shorter so
SHORTER = np.float32(1 - 2**-20)  # so that no rounding of floats makes a gradient too long


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Examples of devices (devices, examples, features), of which the last is 1 for a bias, what
    they are (devices, examples), and those of a test."""

    inputs: Reals
    labels: Labels
    test_inputs: Reals
    test_labels: Labels
    classes: int

    @classmethod
    def of(cls, name: str, devices: int, examples: int, seed: int) -> "Parts":
        """Divided at random: what no device gets is for the test."""
        inputs, labels = pool(name)
        order = np.random.default_rng([seed, 1]).permutation(len(labels))
        train, test, _ = np.split(order, [devices * examples, devices * examples + MOST_TESTED])
        return cls(
            inputs[train].reshape(devices, examples, -1),
            labels[train].reshape(devices, examples),
            inputs[test],
            labels[test],
            int(labels.max()) + 1,
        )

    @property
    def length(self) -> int:
        """Parameters of the model."""
        return int(self.inputs.shape[2]) * self.classes

    def model(self) -> Reals:
        """Before training: (features, classes)."""
        return np.zeros((self.inputs.shape[2], self.classes), np.float32)

    def steps(self, model: Reals, rate: float, batch: int, rng: np.random.Generator) -> Reals:
        """What a pass over its examples does to each device's model: (devices, parameters)."""
        devices, examples, _ = self.inputs.shape
        local = np.repeat(model[np.newaxis], devices, axis=0)
        order = rng.permutation(examples)
        for start in range(0, examples, batch):
            chosen = order[start : start + batch]
            inputs = self.inputs[:, chosen]
            off = self._off(inputs @ local, self.labels[:, chosen])
            local -= np.float32(rate / chosen.size) * (inputs.transpose(0, 2, 1) @ off)
        return (local - model).reshape(devices, -1)

    def gradients(self, model: Reals, is_clipped: bool = True) -> Reals:
        """Sums of each device's examples' gradients, downhill: (devices, parameters)."""
        off = self._off(self.inputs @ model, self.labels)
        if is_clipped:
            norms = np.linalg.norm(off, axis=2) * np.linalg.norm(self.inputs, axis=2)
            off *= (SHORTER / np.maximum(1, norms))[..., np.newaxis]
        return -(self.inputs.transpose(0, 2, 1) @ off).reshape(len(off), -1)

    def accuracy(self, model: Reals) -> float:
        return float(np.mean((self.test_inputs @ model).argmax(axis=1) == self.test_labels))

    def _off(self, scores: Reals, labels: Labels) -> Reals:
        """How far the model's chances are from what is so."""
        chances = np.exp(scores - scores.max(axis=2, keepdims=True))
        chances /= chances.sum(axis=2, keepdims=True)
        off: Reals = chances - np.eye(self.classes, dtype=np.float32)[labels]
        return off


@cache
def pool(name: str) -> tuple[Reals, Labels]:
    """All examples of a data set, in one order. Raises ParameterError if it is not there."""
    data = load(name)
    x = np.concatenate([data.train.x, data.test.x])
    if side := SMALLER.get(name):
        n, channels, height, width = x.shape
        x = x.reshape(n, channels, height // side, side, width // side, side).mean(axis=(3, 5))
    flat = x.reshape(len(x), -1) - np.float32(DARKER.get(name, 0))
    biased = np.hstack([flat, np.ones((len(x), 1), np.float32)])
    return biased.astype(np.float32), np.concatenate([data.train.y, data.test.y])
