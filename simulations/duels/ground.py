"""What duels about a released model are fought over: a victim, and what a thief has without it.

The data are in three parts: the victim is trained on one, measured on another, and the third is
what a thief may own of the same kind. Photographs are what he finds anywhere.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tacit.client.torch_trainer import TorchTrainer
from tacit.client.trainer import Arrays, Examples, LocalPlan
from tacit.server.gate.model import Floats32, TorchModel
from tacit.simulations.data.dataset import take
from tacit.simulations.data.sources import load
from tacit.simulations.models import factory

Floats64: TypeAlias = NDArray[np.float64]

PARTS, EPOCHS = (1000, 400), 30  # of the digits, which are 1,797
LARGE_PARTS, LARGE_EPOCHS = (20_000, 5_000), 6  # of a data set of tens of thousands
LARGE = 10_000

LARGEST = 2.5  # of a photograph's pixels in one of a patch's, along a side
CUTS = (0.2, 0.8)  # quantiles of a patch between which it is cut
BOTH_SIDES = 0.3  # of the patches are kept on both sides of the cut


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
    """(count, *shape) in [0, 1]: squares of two photographs, a pixel for one to `LARGEST` by as
    many of the photograph's, made to look drawn; grey where `shape` is.

    A thief knows what is asked of the model that he copies: something bright on a black ground. So
    each square is cut at one of its own grey levels, what lies above it, or below, or on either
    side is kept, and brightened. Photographs of China and of a flower come with scikit-learn.
    """
    from sklearn.datasets import load_sample_images

    photos = [np.asarray(photo, np.float64) / 255 for photo in load_sample_images().images]
    rng = np.random.default_rng([seed, count, shape[1]])
    out = np.empty((count, *shape), np.float32)
    for i, photo in enumerate(photos):
        seen = photo.mean(2, keepdims=True) if shape[0] == 1 else photo
        found = _squares(seen, len(out[i :: len(photos)]), shape[1:], rng)
        out[i :: len(photos)] = _drawn(found, rng).transpose(0, 3, 1, 2)
    return out


def _squares(
    photo: Floats64, count: int, size: tuple[int, ...], rng: np.random.Generator
) -> Floats64:
    """(count, *size, channels): means over equal boxes of squares of the photograph."""
    # In a table of sums over all that is above and to the left, a box is four look-ups.
    table = np.pad(photo.cumsum(0).cumsum(1), ((1, 0), (1, 0), (0, 0)))
    side = rng.integers(min(size), int(LARGEST * min(size)) + 1, count)
    edges = []
    for pixels, whole in zip(size, photo.shape[:2], strict=True):
        length = side * pixels // min(size)
        start = rng.integers(0, whole - length + 1)
        edges.append(start[:, None] + length[:, None] * np.arange(pixels + 1) // pixels)
    rows, columns = edges
    sums = table[rows[:, :, None], columns[:, None, :]]
    area = np.diff(rows)[:, :, None] * np.diff(columns)[:, None, :]
    means: Floats64 = np.diff(np.diff(sums, axis=1), axis=2) / area[..., None]
    return means


def _drawn(squares: Floats64, rng: np.random.Generator) -> Floats64:
    flat = squares.reshape(len(squares), -1)
    count = len(flat)
    ranked = np.sort(flat, axis=1)
    cut = ranked[np.arange(count), (rng.uniform(*CUTS, count) * flat.shape[1]).astype(int)]
    above = (flat - cut[:, None]) * rng.choice(np.array([-1.0, 1.0]), (count, 1))
    kept = np.where(rng.random((count, 1)) < BOTH_SIDES, abs(above), above.clip(0))
    # A square of one colour stays black.
    bright = kept / kept.max(1, keepdims=True).clip(1e-3) * rng.uniform(1, 2, (count, 1))
    drawn: Floats64 = bright.clip(0, 1).reshape(squares.shape)
    return drawn
