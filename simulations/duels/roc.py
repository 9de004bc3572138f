"""How well scores tell members from others: true positives where false ones are rare.

An attack that is right about a few people for certain does more harm than one that is a little
better than chance about all (Carlini et al. 2022, arXiv:2112.03570, section III). So what counts
is the share of members found while at most 0.1 % or 1 % of the others are taken for members.
"""

import numpy as np
from scipy.stats import rankdata

from tacit.simulations.attacks.membership import Reals
from tacit.simulations.duels.base import Figure, share_of


def found(members: Reals, others: Reals, rate: float) -> Figure:
    """The share of members above the lowest threshold that at most `rate` of the others are above.

    The interval is Clopper and Pearson's, with the threshold taken as given and scores as
    independent. With fewer than 1 / rate others nothing can be told: the value is then NaN.
    """
    allowed = int(rate * len(others))
    if allowed < 1:
        return Figure(float("nan"), trials=len(members))
    threshold = np.sort(others)[-allowed - 1]
    return share_of(int((members > threshold).sum()), len(members))


def area(members: Reals, others: Reals) -> float:
    """The chance that a member scores above somebody else, ties counting half: 0.5 is luck."""
    ranks = rankdata(np.concatenate([members, others]))[: len(members)]
    above = float(ranks.sum()) - len(members) * (len(members) + 1) / 2
    return above / (len(members) * len(others))
