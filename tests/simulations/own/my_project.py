import numpy as np
from torch import nn

from tacit.client.trainer import Examples
from tacit.simulations.data.dataset import Dataset


def model(shape: tuple[int, ...], classes: int) -> nn.Module:
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(8 * height * width, classes),
    )


def data() -> Dataset:
    """Stripes: upright (class 0) or level (class 1), some noise; three cameras took them."""
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=300)
    stripes = np.tile([0.0, 1.0], (6, 3))
    pixels = np.where(y[:, None, None] == 0, stripes, stripes.T) + rng.normal(0, 0.1, (300, 6, 6))
    x = pixels[:, None].astype(np.float32)  # (300, 1, 6, 6): channels first
    return Dataset(
        name="stripes",
        train=Examples(x[:200], y[:200]),
        test=Examples(x[200:], y[200:]),
        classes=2,
        shape=(1, 6, 6),
        sites=rng.integers(3, size=200),
        class_names=("upright", "level"),
    )
