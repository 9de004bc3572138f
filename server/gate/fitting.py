"""A baseline from a model's own honest data: what the figures are among users who mean no harm.

Half of the examples makes the space, and the other half streams that users might send in it. That
is done for several halves, and a limit is a margin above what any of the streams ever came to.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from tacit.crypto.errors import ParameterError
from tacit.server.gate.baseline import FIGURES, SKETCH, Baseline, Floats, Placed, Space, sampled
from tacit.server.gate.model import Floats32, Model, Scored
from tacit.server.gate.recent import MEMORY, Recent, apart

DIRECTIONS = 64
LEAST_EXAMPLES = 100
SPLITS = 4  # of the examples in halves
# Of a limit over the highest that was seen, in the order of FIGURES. Where the mean of a class is
# depends on which few dozen of its examples one has, so users of one class differ most in shift.
MARGINS = np.array([1.75 if name == "shift" else 1.1 for name in FIGURES])
FEW = 3  # classes at most, that a user with an interest of his own asks about
_RIDGE = 0.01  # of the mean variance, added to all: few examples leave directions almost flat
_BATCH = 256


def fit(
    model: Model,
    x: Floats32,
    rng: np.random.Generator,
    *,
    noise: float = 0.05,
    streams: int = 300,
    length: int = 1000,
) -> Baseline:
    """From `x` (n, *shape), honest inputs that the model was not trained on; labels are not needed.

    Streams are of three kinds: all classes, one to three of them, and all under the `noise` of a
    sensor, a deviation in data units. Deterministic in its arguments. Raises ParameterError for
    fewer than 100 inputs.
    """
    if len(x) < LEAST_EXAMPLES:
        raise ParameterError(f"{len(x)} inputs, and a baseline takes {LEAST_EXAMPLES} or more")
    found = []
    for split in range(SPLITS):
        bare, clean, noisy = _halved(model, x, noise, rng)
        share = streams * (split + 1) // SPLITS - streams * split // SPLITS
        for stream in honest(clean, noisy, model.classes, share, length, rng):
            found.append(_windows(bare, stream))
    figures = np.concatenate(found)
    typical, highest = np.median(figures, axis=0), figures.max(0)
    # A figure that none of the streams moves has a range all the same.
    return replace(bare, typical=typical, limits=np.maximum(MARGINS * highest, typical + 0.05))


def _halved(
    model: Model, x: Floats32, noise: float, rng: np.random.Generator
) -> tuple[Baseline, Placed, Placed]:
    """A baseline of one half, without limits, and the other half in it, clean and under noise."""
    order = rng.permutation(len(x))
    made, other = x[order[: len(x) // 2]], x[order[len(x) // 2 :]]
    scored = _scored(model, made)
    space = _space(scored, model.classes, _projection(made, rng))
    clean = space.placed(other, _scored(model, other))
    noisy, again = (space.placed(shot, _scored(model, shot)) for shot in _shots(other, noise, rng))
    frequencies = np.bincount(scored.probabilities.argmax(1), minlength=model.classes) / len(made)
    none = np.zeros(len(FIGURES))
    nearest = _nearest(clean, noisy, again)
    return Baseline(space, frequencies, nearest, none, none + 1), clean, noisy


def honest(
    clean: Placed,
    noisy: Placed,
    classes: int,
    streams: int,
    length: int,
    rng: np.random.Generator,
) -> Iterator[Placed]:
    """Queries of honest users, drawn with replacement; every third of each kind."""
    for i in range(streams):
        rows = np.arange(len(clean))
        if i % 3 == 1:
            few = rng.choice(classes, 1 + i // 3 % FEW, replace=False)
            rows = np.flatnonzero(np.isin(clean.labels, few))
            if not len(rows):  # a class that no example is taken for
                rows = np.arange(len(clean))
        drawn = rng.choice(rows, length)
        yield (noisy if i % 3 == 2 else clean)[drawn]


def _nearest(clean: Placed, first: Placed, second: Placed) -> float:
    """How far apart two shots of one thing may be; nearer than nearly all different things are."""
    twice = np.sqrt(np.square(first.sketch - second.sketch).sum(1))
    others = apart(clean.sketch[:MEMORY], clean.sketch)
    np.fill_diagonal(others, np.inf)
    return float(min(np.quantile(twice, 0.95), np.quantile(others.min(0), 0.01)))


def _windows(baseline: Baseline, stream: Placed) -> Floats:
    """The figures of every window of a stream, (windows, len(FIGURES))."""
    recent = Recent(baseline)
    seen = recent.add(stream, 0.0)
    rows = [[one.figures[name] for name in FIGURES] for one in seen]
    return np.array(rows).reshape(len(rows), len(FIGURES))


def _space(scored: Scored, classes: int, projection: Floats32) -> Space:
    labels = scored.probabilities.argmax(1)
    whole = scored.features.astype(np.float64)
    means = np.stack(
        [
            whole[labels == c].mean(0) if (labels == c).any() else whole.mean(0)
            for c in range(classes)
        ]
    )
    _, lengths, directions = np.linalg.svd(whole - means[labels], full_matrices=False)
    variances = np.square(lengths) / len(whole)
    width = whole.shape[1]
    k = max(1, min(DIRECTIONS, width, len(whole) // 3))
    least = _RIDGE * variances.sum() / width
    rest = variances[k:].sum() / max(1, width - k)
    return Space(
        means.astype(np.float32),
        np.ascontiguousarray(directions[:k].T, np.float32),
        np.sqrt(variances[:k] + least).astype(np.float32),
        float(np.sqrt(rest + least)),
        projection,
    )


def _scored(model: Model, x: Floats32) -> Scored:
    parts = [model.scored(x[start : start + _BATCH]) for start in range(0, len(x), _BATCH)]
    return Scored(
        np.concatenate([part.probabilities for part in parts]),
        np.concatenate([part.features for part in parts]),
    )


def _projection(x: Floats32, rng: np.random.Generator) -> Floats32:
    """Keeps lengths on average (Johnson and Lindenstrauss 1984)."""
    values = sampled(x).shape[1]
    scale = np.sqrt(x[0].size / values / SKETCH)
    projection: Floats32 = (scale * rng.standard_normal((values, SKETCH))).astype(np.float32)
    return projection


def _shots(x: Floats32, noise: float, rng: np.random.Generator) -> Iterator[Floats32]:
    """`x` twice, as a sensor with this noise has it, within its own range."""
    for _ in range(2):
        seen = x + noise * rng.standard_normal(x.shape, np.float32)
        yield seen.clip(x.min(), x.max()).astype(np.float32)
