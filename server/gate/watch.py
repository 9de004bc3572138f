"""Who asks as honest users do not: one risk a key, from a bounded memory of what it asked.

A detector sees how somebody asks, not that he steals. It misses who mixes nine honest queries with
each of his own, or has honest data himself, and it flags a camera that is a pixel off. So a flag
may degrade a key, and no more; the budget has to hold without it.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from tacit.crypto.errors import ParameterError
from tacit.server.gate.base import Grant, Suspicion
from tacit.server.gate.baseline import Baseline
from tacit.server.gate.model import Floats32, Scored
from tacit.server.gate.recent import Recent
from tacit.server.gate.scores import Forest, judged

MOST_KEYS = 2048
UNKNOWN = Suspicion(0.0, False)


@dataclass(slots=True)
class _Kept:
    recent: Recent
    suspicion: Suspicion = UNKNOWN


@dataclass(slots=True)
class KeyWatch:
    """A `Watch` by a model's baseline, of `most_keys` keys and as many flagged ones.

    Who was not seen for longest is forgotten first, and a flagged key only for another flagged one:
    no crowd of keys makes the watch forget a suspect. A suspicion is of the key's last window, so
    one that asks as honest users do again is no longer flagged here; that it stays degraded until a
    person restores it is in the records. Deterministic; for one thread at a time.
    """

    baseline: Baseline
    most_keys: int = MOST_KEYS
    forest: Forest = field(default_factory=Forest)
    _clear: "OrderedDict[str, _Kept]" = field(default_factory=OrderedDict, repr=False)
    _flagged: "OrderedDict[str, _Kept]" = field(default_factory=OrderedDict, repr=False)

    def __post_init__(self) -> None:
        if self.most_keys < 1:
            raise ParameterError(f"most_keys={self.most_keys}, expected 1 or more")

    def __len__(self) -> int:
        return len(self._clear) + len(self._flagged)

    def saw(self, grant: Grant, x: Floats32, scored: Scored, at: float) -> Suspicion:
        """The worst of the windows that this fills, or the last suspicion if it fills none; none
        before 50 queries. Raises ParameterError if the model is not the baseline's."""
        placed = self.baseline.space.placed(x, scored)
        kept = self._clear.pop(grant.key, None) or self._flagged.pop(grant.key, None)
        kept = kept or _Kept(Recent(self.baseline))
        windows = kept.recent.add(placed, at)
        found = [judged(window, self.baseline, self.forest) for window in windows]
        if found:
            kept.suspicion = found[-1]
        self._keep(grant.key, kept)
        return max(found, key=lambda one: (one.is_flagged, one.risk), default=kept.suspicion)

    def suspicion_of(self, key: str) -> Suspicion:
        """The last one; one of nothing for a key that is not remembered."""
        kept = self._flagged.get(key) or self._clear.get(key)
        return kept.suspicion if kept else UNKNOWN

    def _keep(self, key: str, kept: _Kept) -> None:
        shelf = self._flagged if kept.suspicion.is_flagged else self._clear
        shelf[key] = kept
        if len(shelf) > self.most_keys:
            shelf.popitem(last=False)
