"""Noise of whole numbers, as normal noise that hides no better.

Let P be symmetric and log-concave on the whole numbers, and y(x) = Phi**-1(P[X <= x]). Of tests
between P and P moved by s, those with a threshold are best, since ratios of likelihoods are
monotone (Neyman and Pearson). A threshold does no better there than between normal laws that are
k s deviations apart, if y never grows by more than k from one x to the next. So a vector moved by
s_1, s_2, .. is k |s|_2-GDP, however long it is and however the s_i are spread (Dong, Roth and Su
2019, arXiv:1905.02383, corollary 3.3): normal noise of variance 1 / k**2 is no worse than P, and
whatever is known of it holds for P: composition, epsilon, delta, and what drawing at random gains.

**Skellam noise.** Its largest step is the one over x = 0, from y(-1) to y(0) = -y(-1), so that
2 Phi(k/2) - 1 = P[X = 0]; and 1 / k**2 is the variance less 1/3, nearly. The proof: F = P[X <= x],
of variance t, obeys dF/dt = (F(x+1) - 2 F(x) + F(x-1)) / 2. For small t the steps d(x) = y(x) -
y(x-1) fall from x = 0 on. Let d(x) = d(x+1) = D for the first time, at some x >= 0. There
d(x-1) >= D >= d(x+2), and with y = y(x) >= 0 and dF = phi(y) dy one finds

    d/dt (d(x) - d(x+1)) >= 2 * integral of exp(-s**2/2) sinh(y s) (cosh(D s) - 1), s from 0 to D,

which is not below 0: so they go on falling. Far out they fall at all times.

**Discrete Gaussians.** Up to a variance of 2**15 all steps are looked at; the one over x = 0 is the
largest again, and 1 / k**2 is the variance less 1/12, nearly. Beyond, take y from N(0, v - 4) and
from there a whole number n with probability proportional to exp(-(n - y)**2 / 8): a step that
anybody may take, and that moves along with y. As the sum over n of the weights is the same for all
y but for a factor 1 +- 3 exp(-8 pi**2), the result is the discrete Gaussian of variance v but for a
distance of 2**-112. By the argument of `tacit.privacy.samplers` shares of variance 8 or more add up
to a discrete Gaussian, but for 2**-112 each. `left_out` counts what is left out on this way.
"""

import math
from fractions import Fraction
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from tacit.crypto.errors import ParameterError
from tacit.privacy.gaussian import ROOT
from tacit.privacy.samplers import ONE_TABLE, DiscreteGaussian, Law

STEP_VARIANCE = 4  # of the last step to a wide discrete Gaussian
NARROWEST_SHARE = 2 * STEP_VARIANCE

_APART = 2.0**-112
_UNSEEN = 2.0**-128  # where a table of `tacit.privacy.samplers` ends, too
_NORMAL = NormalDist()


@lru_cache(maxsize=1024)
def equivalent(law: Law, shares: int = 1) -> float:
    """The variance of normal noise that is no worse than so many shares of `law` together.

    Raises ParameterError for two or more narrow discrete Gaussians.
    """
    total = law.variance * shares
    if not isinstance(law, DiscreteGaussian):
        return 1 / _step_over(_centre(float(total))) ** 2
    if shares > 1 and law.variance < NARROWEST_SHARE:
        raise ParameterError(
            f"discrete Gaussians of variance {float(law.variance):g} do not add up to one, from "
            f"{NARROWEST_SHARE} on they do: share Skellam noise"
        )
    return _narrow(total) if total <= ONE_TABLE else float(total) - STEP_VARIANCE


def left_out(law: Law, shares: int = 1) -> float:
    """A bound on the total variation distance between the noise on one coordinate, by its law, and
    what `equivalent` is proven for."""
    if not isinstance(law, DiscreteGaussian):
        return 0.0
    is_wide = law.variance * shares > ONE_TABLE
    return (shares - 1 + is_wide) * _APART + 4 * _UNSEEN


def _centre(variance: float) -> float:
    """P[X = 0] = exp(-v) I_0(v) of Skellam noise."""
    if variance < 500:
        return math.exp(-variance) * float(np.i0(variance))
    term = total = 1.0
    for n in range(1, 10):  # Hankel's expansion: each term is 1/100 of the one before, or less
        term *= (2 * n - 1) ** 2 / (8 * n * variance)
        total += term
    return total / (ROOT * math.sqrt(variance))


def _step_over(centre: float) -> float:
    """k with 2 Phi(k/2) - 1 = centre."""
    if centre > 0.01:
        return 2 * _NORMAL.inv_cdf((1 + centre) / 2)
    s = ROOT * centre / 2  # the series of Phi**-1 at 1/2, up to what a float64 does not see
    return 2 * (s + s**3 / 6 + 7 * s**5 / 120 + 127 * s**7 / 5040)


def _narrow(variance: Fraction) -> float:
    """By the largest of all steps of a discrete Gaussian that are not out of sight."""
    v = float(variance)
    x = np.arange(-math.ceil(14 * math.sqrt(v)) - 16, 1)
    weights = np.exp(-(x**2) / (2 * v))
    below = np.cumsum(weights)[:-1] / (2 * weights.sum() - 1)
    y = [_NORMAL.inv_cdf(p) for p in below[below > _UNSEEN].tolist()]
    return 1 / max(-2 * y[-1], *np.diff(y).tolist()) ** 2
