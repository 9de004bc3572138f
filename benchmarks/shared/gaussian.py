"""The privacy of the Gaussian mechanism, in closed form."""

import math


def epsilon(multiplier: float, delta: float) -> float:
    """Of one release whose noise has a deviation of `multiplier` sensitivities, from above.

    Balle and Wang 2018, arXiv:1805.06530, theorem 8. 0.0 where delta alone is enough. For
    multipliers from 0.04 on: below, e**epsilon is no float64.
    """
    mu = 1 / multiplier

    def least(eps: float) -> float:
        return _below(mu / 2 - eps / mu) - math.exp(eps) * _below(-mu / 2 - eps / mu)

    if least(0.0) <= delta:
        return 0.0
    low, high = 0.0, mu**2 / 2 + mu * math.sqrt(2 * math.log(1 / delta))  # as zCDP has it
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if least(middle) <= delta else (middle, high)
    return high


def _below(x: float) -> float:
    """The normal distribution function, to the last digits of its lower tail."""
    return math.erfc(-x / math.sqrt(2)) / 2
