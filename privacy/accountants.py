"""What releases cost: readers of `tacit.privacy.releases`.

**In closed form** wherever there is one. Squares of m, of m-GDP, add up over releases, also where
one was chosen by what another let out (Smith and Thakurta 2022, arXiv:2210.17520), and epsilon
follows: see `tacit.privacy.gaussian`. Noise of whole numbers has an m too, proven in
`tacit.privacy.equivalents`. So a single number is all that there is to keep for a device.

**Rényi divergences** are for the rest: zCDP, and drawing at random. They are kept at ORDERS and add
up as well, where costs were not chosen by what was let out. Whoever is drawn from costs what the
sampled Gaussian mechanism of the same m does (Mironov, Talwar and Zhang 2019, arXiv:1908.10530): a
mixture of two laws is made of the mixture of two normal ones by the step that makes each of its
own. Epsilon is by Canonne, Kamath and Steinke 2020, arXiv:2004.00010, proposition 12.

**Who may count on drawing.** Not the server, which draws. And nobody where it comes out how many
were drawn: that is as if so many had been drawn for certain, another in the place of each who was
not. Then who is drawn is hidden by no more than others like him, and of a single release epsilon
can be twice what the formula for drawing apart says. A mean by the number of devices tells it, as
its noise is smaller the more there are. So does, in a long vector, noise of which each device adds
a share. That leaves, if sums are divided by what was expected (`Release.is_count_hidden`), devices
under the noise of the server, and examples on devices that stay. For `Neighbours.REPLACE_ONE`
nothing is proven here.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.crypto.vector import Floats
from tacit.privacy.equivalents import equivalent, left_out
from tacit.privacy.gaussian import ROOT, beside, epsilon_of, limit
from tacit.privacy.releases import (
    Concentrated,
    Discrete,
    Gaussian,
    Neighbours,
    Release,
    Source,
    Unit,
)

ORDERS = 1 + 2.0 ** (np.arange(-36, 109) / 12)  # of divergences: 1.125 .. 513
LEAST_NOISE = 16.0  # the square of m from which drawing is counted roughly

# What one release, or many, cost a unit: columns of `Spent.plain`.
GDP, ZCDP, DISTANCE, RELEASES = range(4)  # squares of m; rho; total variation; a count

_LOG_ORDERS = np.log1p(-1 / ORDERS) - np.log(ORDERS) / (ORDERS - 1)


class Adversary(Enum):
    """Who looks on.

    SERVER    sees each sum, knows who is in it, and is told by corrupt devices what they sent
    OUTSIDER  sees each sum, and knows neither who was drawn nor what the server knows, and how many
              were drawn only where `Release.is_count_hidden` is false
    """

    SERVER = "server"
    OUTSIDER = "outsider"


@dataclass(frozen=True, slots=True, eq=False)
class Spent:
    """What releases have cost n devices. Costs add up: so do rows.

    `plain` is (n, 4), by the columns above; `curve` (n, orders) has Rényi divergences at ORDERS
    beside those of `plain`, None for zeros. Neither is ever written to.
    """

    plain: Floats
    curve: Floats | None = None

    @classmethod
    def nothing(cls, devices: int) -> "Spent":
        return cls(np.zeros((devices, 4)))

    def charged(self, rows: NDArray[np.intp] | slice, cost: "Spent") -> "Spent":
        """With `cost`, of one row, added to some rows."""
        plain, curve = self.plain.copy(), self.curve
        plain[rows] += cost.plain[0]
        if cost.curve is not None:
            curve = np.zeros((len(plain), ORDERS.size)) if curve is None else curve.copy()
            curve[rows] += cost.curve[0]
        return Spent(plain, curve)

    def times(self, count: int) -> "Spent":
        """The same so many times."""
        curve = None if self.curve is None else self.curve * count
        return Spent(self.plain * count, curve)

    def only(self, rows: NDArray[np.intp] | slice) -> "Spent":
        """Some rows, in the order given."""

        def some(table: Floats) -> Floats:  # of many, `take` is several times as fast
            return table[rows] if isinstance(rows, slice) else table.take(rows, axis=0)

        return Spent(some(self.plain), None if self.curve is None else some(self.curve))

    def epsilon(self, delta: float) -> float:
        """Of a single row; inf if there is none for this delta."""
        (plain,), (is_mixed,) = self.plain, self.mixed
        if not np.isfinite(plain).all():
            return math.inf

        def ideal(left: float) -> float:
            return (
                float(self._renyi(left)[0]) if is_mixed else epsilon_of(math.sqrt(plain[GDP]), left)
            )

        return beside(ideal, delta, float(plain[DISTANCE]))

    def epsilons(self, delta: float) -> Floats:
        """Of each row: (n,)."""
        columns = self.plain[:, :RELEASES]
        told = columns if self.curve is None else np.hstack([columns, self.curve])
        _, first, which = np.unique(told, axis=0, return_index=True, return_inverse=True)
        found = [self.only(slice(row, row + 1)).epsilon(delta) for row in first.tolist()]
        return np.array(found, np.float64)[which.ravel()]

    def within(self, epsilon: float, delta: float) -> NDArray[np.bool_]:
        """Which rows have an epsilon of at most this: (n,)."""
        distance = float(self.plain[:, DISTANCE].max(initial=0))
        # Distances hardly ever take up more than 0.2% of delta; up to `least` they cannot. So two
        # looks at all rows settle it: with so much less of it, and as if they took up nothing.
        least = min(epsilon, math.log(delta / 1000 / distance)) if distance else epsilon
        good = np.zeros(len(self.plain), np.bool_)
        if least >= 0:
            good = self._ideally_within(least, 0.998 * delta)
        if not good.all():
            rows = np.flatnonzero(~good & self._ideally_within(epsilon, delta))
            good[rows] = self.only(rows).epsilons(delta) <= epsilon
        return good

    def _ideally_within(self, epsilon: float, delta: float) -> NDArray[np.bool_]:
        good: NDArray[np.bool_] = self.plain[:, GDP] <= limit(epsilon, delta) ** 2
        mixed = self.mixed
        if mixed.any():
            some = self if mixed.all() else self.only(np.flatnonzero(mixed))
            largest = Spent(some.plain.max(0), None if some.curve is None else some.curve.max(0))
            # Mostly all are: then the largest of each column is, too.
            whole = largest if largest._renyi(delta) <= epsilon else some
            good[mixed] = whole._renyi(delta) <= epsilon
        return good

    def _renyi(self, delta: float) -> Floats:
        """Epsilon by Rényi divergences, were noise by its law: of each row."""
        linear = self.plain[..., GDP] / 2 + self.plain[..., ZCDP]
        found: Floats = linear[..., np.newaxis] * ORDERS
        if self.curve is not None:
            found += self.curve
        found += _LOG_ORDERS - math.log(delta) / (ORDERS - 1)
        least: Floats = found.min(axis=-1)
        return np.maximum(least, 0.0)

    @property
    def mixed(self) -> NDArray[np.bool_]:
        """Rows that have no closed form: (n,)."""
        found = self.plain[:, ZCDP] > 0
        if self.curve is not None:
            found |= self.curve.any(axis=1)
        return found


@lru_cache(maxsize=1024)
def cost(release: Release, adversary: Adversary) -> Spent:
    """What one release costs a unit: one row. It pays if it was in the release, or could have been
    drawn for one that `is_amplified`."""
    plain, curve = np.zeros((1, 4)), None
    plain[0, RELEASES] = 1
    plain[0, DISTANCE] = release.distance
    if isinstance(release.mechanism, Discrete):
        apart = left_out(release.mechanism.law, release.shares)
        plain[0, DISTANCE] += apart * release.mechanism.length
    if release.source is Source.SERVER and adversary is Adversary.SERVER:
        plain[0, GDP] = math.inf
    elif is_amplified(release, adversary):
        curve = sampled(release)[np.newaxis]
    elif isinstance(release.mechanism, Concentrated):
        plain[0, ZCDP] = release.mechanism.rho
    else:
        plain[0, GDP] = gdp(release)
    plain.setflags(write=False)  # it is kept
    return Spent(plain, curve)


def compose(releases: Iterable[Release], adversary: Adversary) -> Spent:
    """What all of them together cost a unit that is in each: one row."""
    total = Spent.nothing(1)
    for release in releases:
        total = total.charged(slice(None), cost(release, adversary))
    return total


def is_amplified(release: Release, adversary: Adversary) -> bool:
    """Whether a release costs less since who is in it was drawn: see the module's docstring.

    It then costs all that could have been drawn, not only those who were.
    """
    return (
        release.rate < 1
        and release.is_count_hidden
        and adversary is Adversary.OUTSIDER
        and release.neighbours is not Neighbours.REPLACE_ONE
        and (release.unit is Unit.RECORD or release.source is Source.SERVER)
        and not isinstance(release.mechanism, Concentrated)
    )


def gdp(release: Release) -> float:
    """The square of m of a release, by all of its noise that counts, as if nobody was drawn.

    Raises ParameterError for narrow shares of discrete Gaussians, and for zCDP.
    """
    times = 4 if release.neighbours is Neighbours.REPLACE_ONE else 1  # twice as far
    match release.mechanism:
        case Gaussian(sensitivity, sigma):
            return times * (sensitivity / sigma) ** 2 / release.shares
        case Discrete(law, square, _):
            return times * square / equivalent(law, release.shares)
        case Concentrated():
            raise ParameterError("zCDP says less than GDP: there is no m for it")


def sampled(release: Release) -> Floats:
    """Divergences at ORDERS where each unit was drawn with `release.rate`. Kept once worked out."""
    return _drawn(gdp(release), release.rate)


@lru_cache(maxsize=256)
def _drawn(square: float, rate: float) -> Floats:
    """log E[((1 - q) + q exp((2 x - 1) / 2 z**2))**a] / (a - 1) for x of N(0, z**2), z = 1/m.

    By the trapezoid rule, which converges geometrically here: the integrand has nothing singular
    nearer to the real line than pi z**2, and x ends 12 deviations beyond both of its humps. With so
    little noise that it would take long, by convexity: the bracket's power is at most (1 - q) + q
    exp(..)**a, as if who was drawn came out afterwards.
    """
    whole = ORDERS * (square / 2)
    if rate == 1:
        return whole
    stay, draw = math.log1p(-rate), math.log(rate)
    found = np.logaddexp(stay, draw + (ORDERS - 1) * whole) / (ORDERS - 1)
    if square <= LEAST_NOISE:
        z = 1 / math.sqrt(square)
        step = min(z, z * z) / 2
        for i, order in enumerate(ORDERS.tolist()):
            x = np.arange(-12 * z, order + 12 * z, step)
            terms = order * np.logaddexp(stay, draw + (2 * x - 1) / (2 * z * z)) - (x / z) ** 2 / 2
            most = float(terms.max())
            total = most + math.log(np.exp(terms - most).sum() * step / (ROOT * z))
            found[i] = max(total, 0.0) / (order - 1)
    found = np.minimum(found, whole)  # drawing never costs anything; floats must not say it does
    found.setflags(write=False)
    return found
