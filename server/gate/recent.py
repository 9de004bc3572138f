"""What is remembered of one key: its last queries, and what they are like.

Queries are looked at in strides of 25, however they come, so that it makes no difference how they
are sent. A question asked again teaches nothing, and a scene shot twice little: both count towards
how far off a key's queries are, and only once towards where their mean is.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tacit.server.gate.baseline import SKETCH, Baseline, Floats, Ints, Placed

STRIDE, WINDOW, MEMORY = 25, 50, 100  # queries
_SAME = 1e-3  # a difference of inputs that is rounding

Figures: TypeAlias = dict[str, float]
Habits: TypeAlias = dict[str, float]
"""How a key asks, each in [0, 1]: what the half-space trees see."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A window's `figures` by the names of `baseline.FIGURES`, and the key's `habits` in it."""

    figures: Figures
    habits: Habits


class Recent:
    """A key's last MEMORY queries at most; a few ten kB."""

    def __init__(self, baseline: Baseline) -> None:
        self._baseline = baseline
        k = baseline.space.scales.size
        self._waiting: list[tuple[Placed, Floats]] = []
        self._count = 0  # of rows that wait
        self._things: Floats = np.empty((0, k), np.float32)
        self._sketches: Floats = np.empty((0, SKETCH), np.float32)
        self._kinds: Ints = np.empty(0, np.int64)  # the things' labels
        self._labels: Ints = np.empty(0, np.int64)
        self._distance, self._unsure, self._near = (np.empty(0) for _ in range(3))
        self._times, self._gaps = np.empty(0), np.empty(0)

    def add(self, placed: Placed, at: float) -> list[Seen]:
        """One for each stride that is now full, from the second on."""
        self._waiting.append((placed, np.full(len(placed), at)))
        self._count += len(placed)
        if self._count < STRIDE:
            return []
        rows = Placed.joined([part for part, _ in self._waiting])
        times = np.concatenate([when for _, when in self._waiting])
        full = self._count - self._count % STRIDE
        seen: list[Seen] = []
        for start in range(0, full, STRIDE):
            self._take(rows[start : start + STRIDE], times[start : start + STRIDE])
            if len(self._distance) == WINDOW:
                seen.append(self._seen())
        rest = np.arange(full, self._count)  # a copy: a view would keep all of a large request
        self._waiting, self._count = [(rows[rest], times[rest])], len(rest)
        return seen

    def _take(self, rows: Placed, times: Floats) -> None:
        near, gaps, is_thing = self._compared(rows)
        self._things = np.concatenate([self._things, rows.points[is_thing]])[-MEMORY:]
        self._sketches = np.concatenate([self._sketches, rows.sketch[is_thing]])[-MEMORY:]
        self._kinds = np.concatenate([self._kinds, rows.labels[is_thing]])[-MEMORY:]
        self._labels = np.concatenate([self._labels, rows.labels])[-MEMORY:]
        told = np.isfinite(gaps) & (gaps > _SAME)
        self._gaps = np.concatenate([self._gaps, gaps[told]])[-MEMORY:]
        self._distance = np.concatenate([self._distance, rows.distance])[-WINDOW:]
        self._unsure = np.concatenate([self._unsure, 1 - rows.confidence[is_thing]])[-MEMORY:]
        self._near = np.concatenate([self._near, near])[-WINDOW:]
        self._times = np.concatenate([self._times, times])[-WINDOW:]

    def _compared(self, rows: Placed) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """Of each row whether it is near an earlier thing and not the same, how far it is from the
        nearest of its label (infinite: there is none), and whether it is a thing of its own."""
        known = len(self._things)
        pool = np.concatenate([self._sketches, rows.sketch])
        distances = apart(rows.sketch, pool)
        kinds = np.concatenate([self._kinds, rows.labels])
        alike = np.where(rows.labels[:, None] == kinds, distances, np.inf)
        is_thing = np.ones(len(pool), bool)
        near, gaps = np.zeros(len(rows)), np.full(len(rows), np.inf)
        for i in range(len(rows)):
            earlier = is_thing[: known + i]
            closest = distances[i, : known + i].min(initial=np.inf, where=earlier)
            gaps[i] = alike[i, : known + i].min(initial=np.inf, where=earlier)
            near[i] = _SAME < closest <= self._baseline.nearest
            is_thing[known + i] = closest > max(_SAME, self._baseline.nearest)
        return near, gaps, is_thing[known:]

    def _seen(self) -> Seen:
        shift = 0.0
        if len(self._things) >= WINDOW:
            shift = float(np.sqrt(np.square(self._things.mean(0)).mean() * len(self._things)))
        counts = np.bincount(self._labels, minlength=len(self._baseline.frequencies))
        off = np.abs(counts / len(self._labels) - self._baseline.frequencies).sum() / 2
        figures = {
            "distance": float(self._distance.mean()),
            "shift": shift,
            "near": float(self._near.mean()),
            "coverage": float(off),
            "unsure": float(self._unsure.mean()) if len(self._unsure) >= WINDOW else 0.0,
            "prada": 1 - normality(self._gaps) if len(self._gaps) == MEMORY else 0.0,
        }
        return Seen(figures, self._habits(figures))

    def _habits(self, figures: Figures) -> Habits:
        waits = np.diff(self._times).clip(0)
        rate = 1 / max(float(waits.mean()), 1e-9)  # queries a second
        spread = float(waits.std()) * rate
        changes = np.diff(self._labels[-WINDOW:]) != 0
        return {
            "rate": rate / (1 + rate),
            "spread": spread / (1 + spread),
            "changes": float(changes.mean()),
            "distance": figures["distance"] / (1 + figures["distance"]),
            "near": figures["near"],
        }


def normality(values: Floats) -> float:
    """Shapiro and Wilk's W in (0, 1] of `values` within three deviations of their mean, 1 where
    they are all alike (Royston 1995, algorithm AS R94, for 12 values and more).

    PRADA holds it against a threshold for how far each query is from the nearest earlier one of
    its class (Juuti et al. 2019, section 5.1): here of the last 100, not of all, and in the space
    of features.
    """
    kept = np.sort(values[np.abs(values - values.mean()) <= 3 * values.std()])
    around = kept - kept.mean()
    total = float(np.square(around).sum())
    if total <= 1e-12 * float(np.square(kept).sum()):
        return 1.0
    return min(1.0, float(_weights(len(kept)) @ around) ** 2 / total)


def _weights(n: int) -> Floats:
    found = _WEIGHTS.get(n)
    if found is None:
        normal = NormalDist()
        m = np.array([normal.inv_cdf((i - 0.375) / (n + 0.25)) for i in range(1, n + 1)])
        square, u = float(np.square(m).sum()), n**-0.5
        last = np.polyval([-2.706056, 4.434685, -2.07119, -0.147981, 0.221157, 0], u)
        last += m[-1] / np.sqrt(square)
        next_ = np.polyval([-3.582633, 5.682633, -1.752461, -0.293762, 0.042981, 0], u)
        next_ += m[-2] / np.sqrt(square)
        rest = square - 2 * m[-1] ** 2 - 2 * m[-2] ** 2
        found = m / np.sqrt(rest / (1 - 2 * last**2 - 2 * next_**2))
        found[[0, 1, -2, -1]] = -last, -next_, next_, last
        _WEIGHTS[n] = found
    return found


_WEIGHTS: dict[int, Floats] = {}  # by the number of values, which is MEMORY or a little less


def apart(left: Floats, right: Floats) -> Floats:
    """Lengths of differences, (len(left), len(right)), exact enough to tell repeats."""
    a, b = left.astype(np.float64), right.astype(np.float64)
    squares = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T
    lengths: Floats = np.sqrt(squares.clip(0))
    return lengths
