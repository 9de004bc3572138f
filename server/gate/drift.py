"""Has the world changed, or one user? What most keys show is drift, what one shows is that key.

The confidence of all answers goes through ADWIN (Bifet and Gavalda 2007), which says when it
changed, and from what to what. Who it changed for is told by each key's own figures: the distance
and the shift of its features, and how unsure the model is of it. Nothing here acts: a proposal is
for a person, who may train anew, restore keys that the watch degraded, or look at one of them.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from river.drift import ADWIN

from tacit.crypto.errors import ParameterError
from tacit.server.gate.base import Grant, Suspicion
from tacit.server.gate.baseline import Baseline
from tacit.server.gate.model import Scored

MOST_KEYS = 4096
LEAST_KEYS = 3  # fewer are no world
RECENT = 24 * 3600.0  # seconds for which a key counts
_MOVING = ("distance", "shift", "unsure")
_HALF_WAY = 0.5  # from typical to its limit: chance takes one honest key there, and not most
_SETTLED = 0.25  # of the keys: so few must be off again before another drift is told


class Moved(StrEnum):
    """What moved."""

    WORLD = "world"  # most keys: the data are no longer those that the model learnt
    KEY = "key"  # one key, or a few among many


@dataclass(frozen=True, slots=True)
class Proposal:
    """What `moved`, which `keys` are off, as a `share` of those seen lately, and `advice`.
    `change` is what ADWIN last saw of the confidence of all answers: from what, to what; it takes a
    few dozen requests more than keys do."""

    moved: Moved
    keys: tuple[str, ...]
    share: float
    at: float
    advice: str
    change: tuple[float, float] | None = None


_ADVICE = {
    Moved.WORLD: "most keys ask for what the model did not learn: look at new data, train and "
    "release again, and restore the keys that were degraded for it",
    Moved.KEY: "this key asks unlike the others: look at what it is used for",
}


@dataclass(slots=True)
class _Last:
    at: float
    off: float  # the largest excess of the figures that tell a move


@dataclass(slots=True)
class Drift:
    """Remembers a few numbers of `most_keys` keys. Deterministic; for one thread at a time.

    Each change is told once: that the world moved until it is settled, and of a key until it is
    back.
    """

    baseline: Baseline
    most_keys: int = MOST_KEYS
    change: tuple[float, float] | None = None
    _keys: "OrderedDict[str, _Last]" = field(default_factory=OrderedDict, repr=False)
    _adwin: Any = field(init=False, repr=False)
    _told: set[str] = field(default_factory=set, repr=False)
    _is_world: bool = False

    def __post_init__(self) -> None:
        if self.most_keys < LEAST_KEYS:
            raise ParameterError(f"most_keys={self.most_keys}, expected {LEAST_KEYS} or more")
        self._adwin = ADWIN()  # type: ignore[no-untyped-call]

    def saw(self, grant: Grant, scored: Scored, suspicion: Suspicion, at: float) -> Proposal | None:
        """`suspicion` is what the watch made of the same queries; returns what there is to tell."""
        self._weigh(float(scored.probabilities.max(1).mean()))
        if not suspicion.figures:
            return None
        excess = self.baseline.excess(suspicion.figures)
        self._keys[grant.key] = _Last(at, max(excess[name] for name in _MOVING))
        self._keys.move_to_end(grant.key)
        while len(self._keys) > self.most_keys or next(iter(self._keys.values())).at < at - RECENT:
            self._told.discard(self._keys.popitem(last=False)[0])
        return self._told_of(grant.key, at)

    @property
    def share(self) -> float:
        """Of the keys seen lately, those that are half way to a limit or farther."""
        seen = list(self._keys.values())  # in one go: whoever looks may be another thread
        return sum(last.off >= _HALF_WAY for last in seen) / len(seen) if seen else 0.0

    def _weigh(self, confidence: float) -> None:
        before = float(self._adwin.estimation)
        self._adwin.update(confidence)
        if self._adwin.drift_detected:
            self.change = (before, float(self._adwin.estimation))

    def _told_of(self, key: str, at: float) -> Proposal | None:
        share, off = self.share, self._keys[key].off
        if share <= _SETTLED:
            self._is_world = False
        if off < _HALF_WAY:
            self._told.discard(key)
        if len(self._keys) >= LEAST_KEYS and share > 0.5:
            if self._is_world:
                return None
            self._is_world = True
            names = tuple(name for name, last in self._keys.items() if last.off >= _HALF_WAY)
            return self._proposal(Moved.WORLD, names, share, at)
        if off > 1 and key not in self._told and not self._is_world:
            self._told.add(key)
            return self._proposal(Moved.KEY, (key,), share, at)
        return None

    def _proposal(self, moved: Moved, keys: tuple[str, ...], share: float, at: float) -> Proposal:
        return Proposal(moved, keys, share, at, _ADVICE[moved], self.change)
