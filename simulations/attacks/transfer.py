"""Inputs that fool a copy fool the victim: what else a thief has from it.

Fast gradient sign: Goodfellow, Shlens and Szegedy 2015 (ICLR, arXiv:1412.6572), section 4.
Projected gradient descent: Madry, Makelov, Schmidt, Tsipras and Vladu 2018 (ICLR,
arXiv:1706.06083), section 2.1, from the input itself. That what is crafted on a copy works on the
victim: Papernot et al. 2017 (arXiv:1602.02697), section 5.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tacit.server.gate.model import Floats32
from tacit.simulations.attacks.extraction import sign_of_slope

STEPS = 10


def crafted(
    copy: nn.Module, x: Floats32, labels: NDArray[np.int64], radius: float, steps: int = STEPS
) -> Floats32:
    """`x` (n, *shape) in [0, 1] moved by at most `radius` in each value, so that `copy` no longer
    gives `labels` (n,). One step is the fast gradient sign."""
    wanted = torch.from_numpy(labels)

    def loss(scores: Tensor) -> Tensor:
        return cross_entropy(scores, wanted, reduction="sum")

    rate = np.float32(radius if steps == 1 else 2.5 * radius / steps)
    low, high = (x - np.float32(radius)).clip(0), (x + np.float32(radius)).clip(max=1)
    moved = x
    for _ in range(steps):
        moved = (moved + rate * sign_of_slope(copy, moved, loss)).clip(low, high)
    return moved


def scattered(x: Floats32, radius: float, rng: np.random.Generator) -> Floats32:
    """`x` moved by `radius` up or down in each value by chance: what crafting is held against."""
    signs = rng.choice(np.array([-1, 1], np.float32), size=x.shape)
    return (x + np.float32(radius) * signs).clip(0, 1)
