"""Gaussian differential privacy in epsilon and delta, in closed form.

A release is m-GDP if telling what it hides is no easier than telling N(m, 1) from N(0, 1) (Dong,
Roth and Su 2019, arXiv:1905.02383). For each epsilon that gives the smallest delta, and the other
way round (Balle and Wang 2018, arXiv:1805.06530, theorem 8):

    delta = Phi(m/2 - epsilon/m) - exp(epsilon) Phi(-m/2 - epsilon/m)

In floats, where m is above 1e-4, delta is off by 1e-10 of itself at most. A device needs no more
than this.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist

from tacit.crypto.errors import ParameterError

LARGEST_EPSILON = 700.0  # its exponential is a float64

ROOT = math.sqrt(2 * math.pi)
_NORMAL = NormalDist()


def delta_of(m: float, epsilon: float) -> float:
    """The smallest delta of m-GDP at epsilon >= 0."""
    if m == 0:
        return 0.0
    a, b = epsilon / m - m / 2, epsilon / m + m / 2
    # exp(epsilon) Phi(-b) is phi(a) times Mills' ratio of b: no large number times a small one.
    return max(0.0, math.erfc(a / math.sqrt(2)) / 2 - math.exp(-a * a / 2) / ROOT * _mills(b))


def epsilon_of(m: float, delta: float) -> float:
    """The smallest epsilon >= 0 of m-GDP at 0 < delta < 1, from above.

    Raises ParameterError for another delta: at 0 there is none, though floats would find one where
    they run out.
    """
    if not 0 < delta < 1:
        raise ParameterError(f"delta={delta}, expected 0 < delta < 1")

    def enough(epsilon: float) -> bool:
        return delta_of(m, epsilon) <= delta

    if enough(0.0):
        return 0.0
    high = 1.0
    while not enough(high):
        high *= 2
    return _last(enough, high, 0.0)


@lru_cache(maxsize=1024)
def limit(epsilon: float, delta: float) -> float:
    """The largest m for which m-GDP is (epsilon, delta)-DP, from below; 0 < delta < 1.

    Its square is what all releases together may cost: see `tacit.privacy.accountants`.
    """

    def enough(m: float) -> bool:
        return delta_of(m, epsilon) <= delta

    high = 1.0
    while enough(high):
        high *= 2
    return _last(enough, 0.0, high)


def guessed(m: float, prior: float) -> float:
    """The most that a guess can be right with, after m-GDP, that is right with probability `prior`
    without it: Phi(Phi**-1(prior) + m), 0 < prior < 1. The event of being right is a test
    between the two (Hayes, Mahloujifar and Balle 2023, arXiv:2302.07225, section 3: the blow-up
    function; here that of N(0, 1) and N(m, 1))."""
    return 1.0 if math.isinf(m) else _NORMAL.cdf(_NORMAL.inv_cdf(prior) + m)


def beside(ideal: Callable[[float], float], delta: float, distance: float) -> float:
    """Epsilon where noise is drawn from a law that is `distance` away, in total variation, from
    the right one; inf if there is none.

    `ideal` gives epsilon for the right law, and never grows with delta. What is (epsilon, d)-DP by
    that is (epsilon, d + (1 + exp(epsilon)) distance)-DP.
    """
    found = ideal(delta)
    if distance == 0:
        return found
    for _ in range(100):  # from below: in floats it soon stands still, or grows out of sight
        if found > LARGEST_EPSILON or (left := delta - (1 + math.exp(found)) * distance) <= 0:
            return math.inf
        if (again := ideal(left)) <= found:
            return found
        found = again
    return math.inf


def _mills(x: float) -> float:
    """(1 - Phi(x)) / phi(x) for x >= 0."""
    if x < 20:
        return ROOT / 2 * math.exp(x * x / 2) * math.erfc(x / math.sqrt(2))
    below = 0.0  # Laplace's continued fraction
    for n in range(24, 0, -1):
        below = n / (x + below)
    return 1 / (x + below)


def _last(enough: Callable[[float], bool], inside: float, outside: float) -> float:
    """The last number, from `inside` on, for which `enough` holds, as it does there and does not
    `outside`; up to 2**-50 of it."""
    while abs(outside - inside) > 2.0**-50 * max(inside, outside):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if enough(middle) else (inside, middle)
    return inside
