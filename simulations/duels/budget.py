"""How many answers a key may have in its life, read off what answers are worth to a thief.

Who wants a copy can label examples himself: a hundred are an hour's work. So what counts is what
the victim's answers add to that: the **gain**, agreement with the victim with the answers less
agreement without any. The default budget is the largest whose gain is small, as far as it is known:
its interval lies below.
"""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from tacit.crypto.errors import ParameterError
from tacit.server.gate.reveal import Reveal
from tacit.simulations.attacks.blackbox import BlackBox
from tacit.simulations.attacks.extraction import imitate, labels_of
from tacit.simulations.attacks.varied import varied
from tacit.simulations.duels.base import Figure, mean_of
from tacit.simulations.duels.ground import ground, victim
from tacit.simulations.duels.theft import labels_by

OWNED = 100  # examples that the thief has, and labels himself
SMALL = 0.03  # of all inputs
VARIED = 1000  # pictures that he makes of his own where he has no victim to ask


def default_budget(gains: Mapping[int, Figure], small: float = SMALL) -> int:
    """The largest of these budgets whose gain is at most `small` to the end of its interval, as are
    those of all below it.

    Raises ParameterError if there is none: measure lower budgets, or on more seeds.
    """
    chosen = 0
    for budget in sorted(gains):
        if not gains[budget].high <= small:
            break
        chosen = budget
    if not chosen:
        raise ParameterError(
            f"no budget is known to add at most {small}: measure lower ones, or on more seeds"
        )
    return chosen


def gain(data: str, budget: int, reveal: Reveal, seeds: int) -> Figure:
    """What `budget` answers add for a thief who owns `OWNED` examples: he asks about these first,
    then about variations of them. One value a seed: which examples he owns."""
    values = [_agreement(data, budget, reveal, seed) - floor(data, seed) for seed in range(seeds)]
    return mean_of(values)


@lru_cache(maxsize=32)
def floor(data: str, seed: int) -> float:
    """Agreement of a thief who asks nothing, and labels what he owns himself, correctly. Variations
    carry their example's label."""
    where, owned = ground(data), _owned(data, seed)
    x, y = where.owned.x[owned], where.owned.y[owned]
    more, of = varied(x, VARIED - len(x), np.random.default_rng([seed, 1]))
    labelled = np.eye(where.classes)[np.concatenate([y, y[of]])]
    copy = imitate(np.concatenate([x, more]), labelled, seed)
    return float((labels_of(copy, where.held.x) == labels_by(victim(data), where.held.x)).mean())


def _agreement(data: str, budget: int, reveal: Reveal, seed: int) -> float:
    where, model = ground(data), victim(data)
    x = where.owned.x[_owned(data, seed)][:budget]
    more, _ = varied(x, budget - len(x), np.random.default_rng([seed, 1]))
    asked = np.concatenate([x, more])
    copy = imitate(asked, BlackBox(model, reveal, budget).ask(asked), seed)
    return float((labels_of(copy, where.held.x) == labels_by(model, where.held.x)).mean())


def _owned(data: str, seed: int) -> list[int]:
    order = np.random.default_rng([seed, 2]).permutation(len(ground(data).owned))
    return [int(index) for index in order[:OWNED]]
