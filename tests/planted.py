"""Models that a malicious server names in a run's configuration, and data to be robbed of."""

from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from tacit.client.trainer import Examples
from tacit.simulations.attacks.imprint import Bins, plant, slip_in
from tacit.simulations.data.dataset import Dataset
from tacit.simulations.models import mlp

BINS = 512
PUBLIC = 200  # digits that no device holds: from these the server knows how bright digits are
SHAPE = (1, 8, 8)


def digits() -> Dataset:
    """One half that devices have, one that is public; pixels in [0, 1]."""
    held = load_digits()
    x, y = (held.images[:, None] / 16).astype(np.float32), held.target.astype(np.int64)
    devices, public = Examples(x[PUBLIC:], y[PUBLIC:]), Examples(x[:PUBLIC], y[:PUBLIC])
    return Dataset("digits", devices, public, 10, SHAPE)


@cache
def bins() -> Bins:
    return Bins.fitted(digits().test.x, BINS, np.random.default_rng(5))


def wide(shape: tuple[int, ...], classes: int) -> nn.Module:
    """What an owner may have agreed to: one hidden layer."""
    return mlp(shape, classes, (BINS,))


def planted(shape: tuple[int, ...], classes: int) -> nn.Module:
    """The same structure with other values. A device that builds `wide` and loads them has this."""
    net = wide(shape, classes)
    sent = plant({name: t.numpy() for name, t in net.state_dict().items()}, "fc0", "head", bins())
    net.load_state_dict({name: torch.from_numpy(array) for name, array in sent.items()})
    return net


def slipped_in(shape: tuple[int, ...], classes: int) -> nn.Module:
    """An mlp behind an imprint module."""
    return slip_in(mlp(shape, classes), shape, bins())
