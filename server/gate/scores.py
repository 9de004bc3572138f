"""From a window's figures to one risk: what may act by itself, and what only weighs.

Distance, shift and how unsure the model is have flagged no honest stream that was tried. The other
figures do flag honest users (who shoot each scene three times, say): they take a quarter at most.
"""

from dataclasses import dataclass, field
from typing import Any

from river.anomaly import HalfSpaceTrees

from tacit.server.gate.base import Suspicion
from tacit.server.gate.baseline import Baseline
from tacit.server.gate.recent import Habits, Seen

ACTING = ("distance", "shift", "unsure")
WEIGHT = 0.25  # of what may not act
_STEEP = 4  # who is half way from typical to the limit has a risk of 6 %
_LEARNT = 100  # windows before the trees say anything


def rated(excess: float) -> float:
    """From how far up to its limit a figure is to [0, 1): a half at the limit, and rising."""
    up = min(max(excess, 0.0), 1e3) ** _STEEP
    return up / (1 + up)


@dataclass(slots=True)
class Forest:
    """Half-space trees over how keys ask, one for all keys (Tan, Ting and Liu 2011). They learn
    from the windows that they see, since how users ask is in no data set; not from flagged ones."""

    seed: int = 0
    _trees: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._trees = HalfSpaceTrees(n_trees=10, height=6, window_size=_LEARNT, seed=self.seed)

    def oddness(self, habits: Habits, *, learn: bool) -> float:
        """In [0, 1], high for the odd; 0 until there is something to compare with."""
        odd = float(self._trees.score_one(habits))
        if learn:
            self._trees.learn_one(habits)
        return min(max(odd, 0.0), 1.0)


def judged(seen: Seen, baseline: Baseline, forest: Forest) -> Suspicion:
    """A key's suspicion by one window. Its figures are those of `baseline.FIGURES` and `odd`."""
    excess = baseline.excess(seen.figures)
    is_flagged = any(excess[name] > 1 for name in ACTING)
    odd = forest.oddness(seen.habits, learn=not is_flagged)
    acting = max(rated(excess[name]) for name in ACTING)
    others = [rated(excess[name]) for name in excess if name not in ACTING]
    weighing = max(*others, rated(2 * odd - 1))
    risk = 1 - (1 - acting) * (1 - WEIGHT * weighing)
    return Suspicion(risk, is_flagged, {**seen.figures, "odd": odd})
