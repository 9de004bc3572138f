"""What honest users and thieves ask of a model, as streams of queries; no attack sees the truth."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tacit.client.trainer import Examples
from tacit.server.gate.model import Floats32, Model, Scored

_BATCH = 256

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Asked:
    """Queries `x` (n, *shape), and what a model made of them."""

    x: Floats32
    scored: Scored

    @classmethod
    def of(cls, model: Model, x: Floats32) -> "Asked":
        parts = [model.scored(x[start : start + _BATCH]) for start in range(0, len(x), _BATCH)]
        probabilities = np.concatenate([part.probabilities for part in parts])
        return cls(x, Scored(probabilities, np.concatenate([part.features for part in parts])))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: "slice | Rows") -> "Asked":
        scored = Scored(self.scored.probabilities[rows], self.scored.features[rows])
        return Asked(self.x[rows], scored)

    def joined(self, other: "Asked") -> "Asked":
        """These, and then those of the other."""
        scored = Scored(
            np.concatenate([self.scored.probabilities, other.scored.probabilities]),
            np.concatenate([self.scored.features, other.scored.features]),
        )
        return Asked(np.concatenate([self.x, other.x]), scored)


def honest(
    examples: Examples, clean: Asked, noisy: Asked, streams: int, length: int, seed: int
) -> Iterator[Asked]:
    """A third of all classes, a third of one to three, a third of all under a sensor's noise; drawn
    with replacement from the asked `examples`."""
    rng = np.random.default_rng([seed, 51])
    classes = np.unique(examples.y)
    for i in range(streams):
        rows = np.arange(len(clean))
        if i % 3 == 1:
            few = rng.choice(classes, 1 + i // 3 % 3, replace=False)
            rows = np.flatnonzero(np.isin(examples.y, few))
        yield (noisy if i % 3 == 2 else clean)[rng.choice(rows, length)]


def mixed(bad: Asked, good: Asked, covers: int, length: int, rng: np.random.Generator) -> Asked:
    """A stream in which after each query of `bad` come `covers` of `good`, as cover."""
    is_bad = np.arange(length) % (covers + 1) == 0
    both = bad.joined(good)
    rows = np.where(is_bad, rng.choice(len(bad), length), len(bad) + rng.choice(len(good), length))
    return both[rows]


def shots(x: Floats32, noise: float, rng: np.random.Generator) -> Floats32:
    """Each input as a sensor with this noise has it, within 0 and 1."""
    seen = x + noise * rng.standard_normal(x.shape, np.float32)
    return seen.clip(0, 1).astype(np.float32)


def off_by_one(x: Floats32) -> Floats32:
    """The same pictures from a camera that is one pixel off."""
    moved = np.roll(x, 1, axis=-1)
    moved[..., 0] = 0
    return moved


def inversion(model: Model, target: int, step: float, length: int) -> Floats32:
    """The first queries of MI-Face without gradients (Fredrikson, Jha and Ristenpart 2015,
    doi:10.1145/2810103.2813677, algorithm 1): from grey, a difference of `step` a pixel and back,
    and then along the slope of the target's probability that they give."""
    x = np.full(model.shape, 0.5, np.float32)
    asked: list[Floats32] = []
    while sum(map(len, asked)) < length:
        offsets = step * np.eye(x.size, dtype=np.float32).reshape(-1, *model.shape)
        pairs = np.stack([x + offsets, x - offsets], 1).reshape(-1, *model.shape).clip(0, 1)
        asked.append(pairs)
        told = np.concatenate(
            [
                model.scored(pairs[start : start + _BATCH]).probabilities[:, target]
                for start in range(0, len(pairs), _BATCH)
            ]
        )
        slope = (told[0::2] - told[1::2]).reshape(model.shape)
        x = (x + 0.1 * np.sign(slope)).clip(0, 1).astype(np.float32)
    return np.concatenate(asked)[:length]


def jacobian(module: nn.Module, x: Floats32, step: float = 0.1) -> Floats32:
    """`x`, and `x` moved by `step` a pixel to where its class's score grows: one round of Papernot
    et al. 2017 (arXiv:1602.02697, section 4.4), by the victim's own slope, which no copy's beats.
    """
    inputs = torch.from_numpy(x).requires_grad_()
    module(inputs).max(1).values.sum().backward()
    assert inputs.grad is not None
    moved = (x + step * np.sign(inputs.grad.numpy())).clip(0, 1)
    return np.concatenate([x, moved]).astype(np.float32)
