"""Many small models at once: LiRA takes dozens, and one by one they would take minutes.

An mlp with one hidden layer as `tacit.simulations.models.mlp` builds it, one slice of each array a
model. They share nothing but the steps: each has its own start, examples and order.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from tacit.client.trainer import Examples
from tacit.crypto.errors import ParameterError
from tacit.server.gate.model import Floats32
from tacit.simulations.attacks.membership import Bools

HIDDEN, BATCH, RATE, MOMENTUM = 64, 32, 0.05, 0.9


def halves(models: int, examples: int, seed: int) -> Bools:
    """Which examples each model learns (models, examples): models 0 and 1, 2 and 3, ... are pairs,
    and by the toss of a coin an example is learned by one of each pair.

    Without a pair, the others that learned an example are as many as those that did not, whichever
    of the pair did: how many there are tells nothing of it.

    Raises ParameterError for an odd number of models, or fewer than four.
    """
    if models < 4 or models % 2:
        raise ParameterError(f"{models} models, expected an even number from 4")
    first = np.random.default_rng([seed, 64]).random((models // 2, examples)) < 0.5
    both: Bools = np.stack([first, ~first], axis=1).reshape(models, examples)
    return both


def scored_by_all(
    examples: Examples, classes: int, member: Bools, *, epochs: int, seed: int
) -> Floats32:
    """Train a model on each row of `member` (models, n); the probabilities (models, n, classes)
    that each has for all n examples. The same arguments give the same bits.

    An epoch is one pass over as many of its own as the smallest of the models has, in whole
    batches: who has more sees others of them in the next.
    """
    x = torch.from_numpy(examples.x.reshape(len(examples), -1))
    y = torch.from_numpy(examples.y)
    draw = torch.Generator().manual_seed(seed)
    weights = _start(len(member), x.shape[1], classes, draw)
    own, mask = _own(member)
    steps = int(member.sum(1).min()) // BATCH
    if not steps:
        raise ParameterError(f"a model of few examples: {BATCH} is the least")
    velocity = [torch.zeros_like(w) for w in weights]
    for _ in range(epochs):
        ranks = torch.rand(mask.shape, generator=draw).masked_fill(mask, 2.0).argsort(1)
        for batch in torch.split(ranks[:, : steps * BATCH], BATCH, 1):
            _step(weights, velocity, x, y, own.gather(1, batch))
    with torch.no_grad():
        scores = _forward(weights, x.expand(len(member), -1, -1))
        return scores.softmax(2).numpy()


def _own(member: Bools) -> tuple[Tensor, Tensor]:
    """The examples of each model, filled up to the longest, and where they are filling."""
    longest = int(member.sum(1).max())
    own: NDArray[np.int64] = np.argsort(~member, axis=1, kind="stable")[:, :longest]
    filling = ~np.take_along_axis(member, own, 1)
    return torch.from_numpy(own), torch.from_numpy(filling)


def _start(models: int, inputs: int, classes: int, draw: torch.Generator) -> list[Tensor]:
    """As torch.nn.Linear starts: uniform within one by the root of what comes in."""
    shapes = ((inputs, HIDDEN, inputs), (1, HIDDEN, inputs), (HIDDEN, classes, HIDDEN),
              (1, classes, HIDDEN))  # fmt: skip
    return [
        ((2 * torch.rand(models, rows, columns, generator=draw) - 1) / fan**0.5).requires_grad_()
        for rows, columns, fan in shapes
    ]


def _forward(weights: list[Tensor], x: Tensor) -> Tensor:
    first, first_bias, second, second_bias = weights
    hidden = torch.baddbmm(first_bias, x, first).relu()
    return torch.baddbmm(second_bias, hidden, second)


def _step(
    weights: list[Tensor], velocity: list[Tensor], x: Tensor, y: Tensor, chosen: Tensor
) -> None:
    """One step of each model on its own batch: `chosen` (models, batch)."""
    scores = _forward(weights, x[chosen])
    loss = cross_entropy(scores.flatten(0, 1), y[chosen].flatten(), reduction="sum") / BATCH
    gradients = torch.autograd.grad(loss, weights)
    with torch.no_grad():
        for weight, held, gradient in zip(weights, velocity, gradients, strict=True):
            held.mul_(MOMENTUM).add_(gradient)
            weight.sub_(held, alpha=RATE)
