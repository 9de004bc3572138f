"""What honest use of a model looks like in the space of its features, learnt once at its release.

A query is placed by how its features differ from the mean of those of its class, in units of how
they differ among honest ones: Mahalanobis' distance, with one covariance for all classes (Lee et
al. 2018, arXiv:1807.03888, section 2.1). Directions in which features hardly vary share one mean
variance (Tipping and Bishop 1999), for there are more of them than examples to learn them from.
Whether two queries show one thing is told by the inputs themselves, by a random projection of them.

The file holds means, directions and limits, and no input. Means of features are of the examples it
was fitted on: keep it as you keep the model.
"""

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import Damaged, ParameterError
from tacit.server.gate.model import Floats32, Scored

Floats: TypeAlias = NDArray[np.floating[Any]]
Ints: TypeAlias = NDArray[np.int64]

FIGURES = ("distance", "shift", "near", "coverage", "unsure", "prada")
"""What has an honest range, in the order of `Baseline.typical` and `Baseline.limits`."""

SKETCH = 32
_SAMPLED = 4096  # values of an input at most that are projected
_FORMAT = 1
_FARTHEST = 1e3  # deviations: what lies beyond, or is no number at all, is put there


@dataclass(frozen=True, slots=True)
class Placed:
    """n queries in the space of a baseline: `points` (n, directions) in deviations, each one's
    `distance` (n,) from its class, about 1 for honest ones, its `sketch` (n, SKETCH), whose
    differences are as long as those of inputs, within an eighth or so, `labels` and `confidence`.
    """

    points: NDArray[np.float32]
    sketch: NDArray[np.float32]
    distance: NDArray[np.float32]
    labels: Ints
    confidence: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice | Ints) -> "Placed":
        return Placed(*(getattr(self, name)[rows] for name in _PARTS))

    @classmethod
    def joined(cls, parts: Sequence["Placed"]) -> "Placed":
        """All of them as one, in their order."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in _PARTS))


_PARTS = tuple(field.name for field in fields(Placed))


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """`means` (classes, width) of features; `directions` (width, k), orthonormal, in which honest
    ones vary most about them; `scales` (k,) their deviations there, and `rest` that of all others.
    `projection` (inputs, SKETCH) is random; of large inputs it takes every second or third value.
    """

    means: NDArray[np.float32]
    directions: NDArray[np.float32]
    scales: NDArray[np.float32]
    rest: float
    projection: NDArray[np.float32]

    def placed(self, x: Floats32, scored: Scored) -> Placed:
        """`x` (n, *shape), and what the model made of it. Raises ParameterError for another model's
        inputs or scores."""
        width = self.means.shape[1]
        if scored.features.shape[1] != width or scored.probabilities.shape[1] != len(self.means):
            raise ParameterError(
                f"{scored.features.shape[1]} features and {scored.probabilities.shape[1]} classes, "
                f"and the baseline is of {width} and {len(self.means)}: fit one for this model"
            )
        flat = sampled(x)
        if flat.shape[1] != len(self.projection):
            raise ParameterError("the baseline is of other inputs: fit one for this model")
        labels = scored.probabilities.argmax(1)
        with np.errstate(over="ignore", invalid="ignore"):
            apart = scored.features - self.means[labels]
            along = apart @ self.directions
            beside = (np.square(apart).sum(1) - np.square(along).sum(1)).clip(0) / self.rest**2
            points = _near(along / self.scales)
            distance = _near(np.sqrt((np.square(points).sum(1) + beside) / width))
            sketch = _near(flat @ self.projection)
        return Placed(points, sketch, distance, labels, scored.probabilities.max(1))


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """A space, `frequencies` (classes,) of labels in it, and what `FIGURES` are among honest users.

    A figure is `typical` as a median over honest users' windows, and above its limit for none of
    them. Queries not farther apart than `nearest` are of one thing, seen twice. `fitting.fit` makes
    one.
    """

    space: Space
    frequencies: Floats
    nearest: float
    typical: Floats
    limits: Floats

    def __post_init__(self) -> None:
        space = self.space
        shapes = (
            space.projection.shape[1:] == (SKETCH,)
            and space.directions.shape == (space.means.shape[-1], space.scales.size)
            and self.frequencies.shape == space.means.shape[:1]
            and self.typical.shape == self.limits.shape == (len(FIGURES),)
        )
        if not shapes:
            raise ParameterError("a baseline's arrays do not have the shapes of one space")
        arrays = (*(getattr(space, field.name) for field in fields(Space)), self.frequencies)
        if not all(np.isfinite(array).all() for array in (*arrays, self.typical, self.limits)):
            raise ParameterError("a baseline holds finite numbers alone")
        if not (space.scales.min() > 0 and space.rest > 0 and self.nearest >= 0):
            raise ParameterError("a baseline's deviations must be above 0")
        if not (self.typical < self.limits).all():
            raise ParameterError("what is typical lies below its limit")

    def excess(self, figures: Mapping[str, float]) -> dict[str, float]:
        """How far each is up from typical towards its limit: 0 or less, at it 1, above it more."""
        return {
            name: (figures[name] - typical) / (limit - typical)
            for name, typical, limit in zip(
                FIGURES, self.typical.tolist(), self.limits.tolist(), strict=True
            )
        }

    def save(self, path: Path) -> None:
        """Write the file in one step, readable by its owner alone."""
        buffer = io.BytesIO()
        arrays = {field.name: getattr(self.space, field.name) for field in fields(Space)}
        arrays |= {name: getattr(self, name) for name in _OWN}
        np.savez(buffer, allow_pickle=False, format=np.array(_FORMAT), **arrays)
        fresh = path.with_name(path.name + ".new")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Baseline":
        """Raises ParameterError if there is none, or of another format; Damaged for anything else
        that `save` did not write."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except FileNotFoundError:
            raise ParameterError(f"no baseline at {path}: fit one at the model's release") from None
        except Exception as bad:  # numpy and zipfile raise what they like for damaged bytes
            raise Damaged(f"the baseline at {path} cannot be read: {bad}") from bad
        return _read(arrays, path)


_OWN = tuple(field.name for field in fields(Baseline) if field.name != "space")


def _read(arrays: dict[str, NDArray[Any]], path: Path) -> Baseline:
    names = {"format", *_OWN, *(field.name for field in fields(Space))}
    if arrays.keys() != names or any(array.dtype.kind not in "fi" for array in arrays.values()):
        raise Damaged(f"the file at {path} is no baseline")
    if arrays["format"] != _FORMAT:
        raise ParameterError(f"the baseline at {path} is of another format: fit it again")
    try:
        space = Space(
            arrays["means"].astype(np.float32),
            arrays["directions"].astype(np.float32),
            arrays["scales"].astype(np.float32),
            float(arrays["rest"]),
            arrays["projection"].astype(np.float32),
        )
        return Baseline(
            space,
            arrays["frequencies"],
            float(arrays["nearest"]),
            arrays["typical"],
            arrays["limits"],
        )
    except (ParameterError, TypeError, ValueError, IndexError) as bad:
        raise Damaged(f"the baseline at {path} makes no sense: {bad}") from None


def sampled(x: Floats32) -> Floats32:
    """`x` (n, *shape) as rows, of every value or as many as are projected."""
    flat = x.reshape(len(x), -1)
    return flat[:, :: -(-flat.shape[1] // _SAMPLED)]


def _near(deviations: Floats) -> NDArray[np.float32]:
    # Of a number and NaN both of these take the number.
    bounded = np.fmax(np.fmin(deviations, _FARTHEST), -_FARTHEST)
    return bounded.astype(np.float32, copy=False)
