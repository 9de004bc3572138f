"""What a data set is to a simulation, and the few operations everything else is made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.client.trainer import Examples
from tacit.crypto.errors import ParameterError
from tacit.simulations.data.table import Table

TEST_FRACTION = 0.2
SPLIT_SEED = 0  # of the train/test split: part of what a data set is, never of an experiment
CHANNELS = (1, 3)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled data to train and to test on.

    `x` of both halves is (n, *shape) float32, images channels first in [0, 1]; labels are
    0..classes-1. `sites`, where the data come from several places, names the place of each
    training example, shape (n,); `table`, where examples are rows of one, what its columns are.
    `source` says where the data come from and under which licence.

    Raises ParameterError if anything of that does not hold, or if a half is empty.
    """

    name: str
    train: Examples
    test: Examples
    classes: int
    shape: tuple[int, ...]
    sites: NDArray[Any] | None = None
    class_names: tuple[str, ...] = ()
    source: str = ""
    table: Table | None = None

    def __post_init__(self) -> None:
        for half, examples in (("training", self.train), ("test", self.test)):
            _check(f"{self.name}: {half} data", examples, self.shape, self.classes)
        if self.sites is not None and self.sites.shape != (len(self.train),):
            raise ParameterError(
                f"{self.name}: sites have shape {self.sites.shape}, expected ({len(self.train)},)"
            )
        if self.class_names and len(self.class_names) != self.classes:
            raise ParameterError(
                f"{self.name}: {len(self.class_names)} class names for {self.classes} classes"
            )
        if self.table is not None and self.shape != (self.table.inputs,):
            raise ParameterError(
                f"{self.name}: a table of {self.table.inputs} inputs for examples of {self.shape}"
            )


def _check(what: str, examples: Examples, shape: tuple[int, ...], classes: int) -> None:
    if not len(examples):
        raise ParameterError(f"{what} is empty")
    if examples.x.shape[1:] != shape:
        raise ParameterError(f"{what} has examples of shape {examples.x.shape[1:]}, not {shape}")
    if examples.x.dtype != np.float32 or examples.y.dtype != np.int64:
        raise ParameterError(
            f"{what} is {examples.x.dtype} with {examples.y.dtype} labels, "
            "expected float32 with int64 labels"
        )
    if not np.isfinite(examples.x).all():
        raise ParameterError(f"{what} holds NaN or infinity: fill or drop missing values first")
    low, high = int(examples.y.min()), int(examples.y.max())
    if low < 0 or high >= classes:
        raise ParameterError(f"{what} has labels {low}..{high}, expected 0..{classes - 1}")


def take(examples: Examples, indices: NDArray[np.int64]) -> Examples:
    """The examples at `indices`, in that order; a copy."""
    return Examples(examples.x[indices], examples.y[indices])


def hold_out(examples: Examples, fraction: float, seed: int) -> tuple[Examples, Examples]:
    """Split one device's examples at random into (to train on, held out).

    `fraction` (0 <= fraction < 1) of them, rounded, is held out: at least one if the fraction is
    above 0 and there are two or more, and never all. A single example stays in training.
    """
    if not 0 <= fraction < 1:
        raise ParameterError(f"hold-out fraction={fraction}, expected 0 <= fraction < 1")
    count = len(examples)
    held = min(max(round(fraction * count), fraction > 0), max(count - 1, 0))
    order = np.random.default_rng(seed).permutation(count)
    return take(examples, np.sort(order[held:])), take(examples, np.sort(order[:held]))


def split(
    strata: NDArray[Any], fraction: float = TEST_FRACTION
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices (train, test), the same at every call: `fraction` of each stratum, rounded, to test.

    `strata` (n,) holds a value per example, usually its label. A stratum of two or more gives at
    least one to each half.
    """
    rng = np.random.default_rng(SPLIT_SEED)
    tested = np.zeros(len(strata), dtype=bool)
    for value in np.unique(strata):
        members = rng.permutation(np.flatnonzero(strata == value))
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        tested[members[:count]] = True
    return np.flatnonzero(~tested), np.flatnonzero(tested)


def divided(
    name: str,
    examples: Examples,
    class_names: Sequence[str],
    source: str,
) -> Dataset:
    """A `Dataset` from examples that nobody has split yet, stratified by label."""
    train, test = split(examples.y)
    return Dataset(
        name=name,
        train=take(examples, train),
        test=take(examples, test),
        classes=len(class_names),
        shape=examples.x.shape[1:],
        class_names=tuple(class_names),
        source=source,
    )


def images(pixels: NDArray[Any], what: str) -> NDArray[np.float32]:
    """Images as (n, channels, height, width) float32; integer pixels are scaled to [0, 1].

    Takes (n, h, w), (n, h, w, c) and (n, c, h, w) with 1 or 3 channels. Raises ParameterError for
    any other shape, and for one that could be either of the last two.
    """
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.ndim == 4 and (pixels.shape[1] in CHANNELS) != (pixels.shape[3] in CHANNELS):
        if pixels.shape[3] in CHANNELS:
            pixels = pixels.transpose(0, 3, 1, 2)
    else:
        raise ParameterError(
            f"{what} has shape {pixels.shape}, expected images as (n, height, width), or with "
            "1 or 3 channels first or last"
        )
    return scaled(pixels)


def scaled(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """A float32 copy of the same shape; integer pixels are scaled to [0, 1]."""
    # In float32 from the start: in float64 a large set would need eight times its bytes.
    values = np.array(pixels, dtype=np.float32, order="C")
    if pixels.dtype.kind in "iu":
        values /= np.float32(np.iinfo(pixels.dtype).max)
    return values


def labels(values: NDArray[Any], what: str) -> NDArray[np.int64]:
    """Labels as int64. Raises ParameterError unless they are a row of integers."""
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise ParameterError(
            f"{what} is {values.dtype} of shape {values.shape}, expected integers of shape (n,)"
        )
    return values.astype(np.int64)
