"""What duels about a released model are fought over: a victim, and what a thief has without it.

The data are in three parts: the victim is trained on one, measured on another, and the third is
what a thief may own of the same kind. Photographs are what he finds anywhere.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from torch import nn

from tacit.client.torch_trainer import TorchTrainer
from tacit.client.trainer import Arrays, Examples, LocalPlan
from tacit.server.gate.model import Floats32, TorchModel
from tacit.simulations.data.dataset import take
from tacit.simulations.data.sources import load
from tacit.simulations.models import factory

PARTS, EPOCHS = (1000, 400), 30  # of the digits, which are 1,797
LARGE_PARTS, LARGE_EPOCHS = (20_000, 5_000), 6  # of a data set of tens of thousands
LARGE = 10_000


@dataclass(frozen=True, slots=True)
class Ground:
    """`trained` is the victim's own, `held` nobody's but the judge's, `owned` the thief's."""

    data: str
    classes: int
    trained: Examples
    held: Examples
    owned: Examples

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.trained.x.shape[1:])


@lru_cache(maxsize=4)
def ground(data: str, seed: int = 0) -> Ground:
    """The data set, all of it, shuffled by `seed` and divided in three."""
    found = load(data)
    whole = Examples(
        np.concatenate([found.train.x, found.test.x]), np.concatenate([found.train.y, found.test.y])
    )
    trained, held = LARGE_PARTS if len(whole) >= LARGE else PARTS
    order = np.random.default_rng([seed, 8]).permutation(len(whole))
    parts = np.split(order, [trained, trained + held])
    return Ground(data, found.classes, *(take(whole, part) for part in parts))


@lru_cache(maxsize=8)
def arrays_of(data: str, model: str = "cnn", seed: int = 0) -> Arrays:
    """A victim's trained arrays. They are shared: copy before you write."""
    where = ground(data, seed)
    trainer = TorchTrainer(lambda: factory(model)(where.shape, where.classes))
    epochs = LARGE_EPOCHS if len(where.trained) >= LARGE else EPOCHS
    plan = LocalPlan(epochs, batch_size=32, learning_rate=0.05, momentum=0.9)
    return trainer.fit(trainer.initial(seed), where.trained, plan)[0]


def module_of(data: str, model: str, arrays: Arrays) -> nn.Module:
    """The module that holds `arrays`."""
    import torch

    where = ground(data)
    module = factory(model)(where.shape, where.classes)
    module.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in arrays.items()})
    return module.eval()


def victim(data: str, model: str = "cnn", seed: int = 0) -> TorchModel:
    """A trained victim, as the gate serves it."""
    where = ground(data, seed)
    return TorchModel(module_of(data, model, arrays_of(data, model, seed)), where.shape)


@lru_cache(maxsize=4)
def patches(shape: tuple[int, ...], count: int, seed: int = 0) -> Floats32:
    """(count, *shape) in [0, 1]: squares of two photographs, at sizes from `shape` to five times
    that, grey where `shape` is. Photographs of China and of a flower come with scikit-learn."""
    from skimage.color import rgb2gray
    from skimage.transform import resize
    from sklearn.datasets import load_sample_images

    channels, height, width = shape
    photos = [np.asarray(photo, np.float32) / 255 for photo in load_sample_images().images]
    rng = np.random.default_rng([seed, count, height])
    out = np.empty((count, *shape), np.float32)
    for i in range(count):
        photo = photos[i % len(photos)]
        side = int(rng.integers(height, 5 * height + 1))
        top, left = (int(rng.integers(0, size - side + 1)) for size in photo.shape[:2])
        square = resize(photo[top : top + side, left : left + side], (height, width))
        out[i] = rgb2gray(square)[None] if channels == 1 else square.transpose(2, 0, 1)
    return out
