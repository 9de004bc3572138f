"""Privacy that adds up: zero-concentrated differential privacy, and what epsilon it comes to.

A release is rho-zCDP if its Renyi divergence of any order a > 1, between any two inputs that it is
to keep apart, is a * rho at most. What several of them cost is the sum, also where one is chosen
after another was seen (Bun and Steinke 2016, arXiv:1605.02065). Whole numbers with a discrete
Gaussian of parameter v on each are rho-zCDP with rho = s / 2v, s the largest square of the distance
of two inputs: k apart in one coordinate, that is k**2 / 2v (Canonne, Kamath and Steinke 2020,
arXiv:2004.00010, theorem 4), and divergences of independent coordinates add up.

No float decides on the way: sums are fractions, kept to a multiple of UNIT and rounded up, and
epsilon is worked out in 50 decimal digits and rounded up.
"""

import math
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from fractions import Fraction

from tacit.crypto.wire import Reader, Writer

DELTA = Fraction(1, 10**6)
OF_SAMPLERS = DELTA / 100  # of it, for noise that is not quite what it should be
UNIT = Fraction(1, 1 << 128)

_CONTEXT = Context(prec=50)
_SLACK = Decimal("1e-30")  # far more than what 50 digits are rounded by, wherever epsilon matters
_HOPELESS = 1000  # epsilon from which on no sampler is good enough


@dataclass(frozen=True, slots=True)
class Spent:
    """What releases cost together: their `rho`, and by how much the noise that was drawn is away
    from the law it should have (`distance`, total variation, the sum over all samples)."""

    rho: Fraction = Fraction(0)
    distance: Fraction = Fraction(0)

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.rho + other.rho, self.distance + other.distance)

    def times(self, releases: int) -> "Spent":
        """So many releases of the same cost."""
        return Spent(self.rho * releases, self.distance * releases)

    @property
    def epsilon(self) -> float:
        """The least epsilon that is known for DELTA, rounded up. None is, and it is infinite, where
        the distance of the samples takes up more than OF_SAMPLERS: from about 45 on.

        Samples that are `distance` away from their law add (1 + exp(epsilon)) * distance to delta.
        """
        if not self.rho:
            return 0.0
        found = epsilon(self.rho, DELTA - OF_SAMPLERS)
        if found > _HOPELESS:
            return math.inf
        with localcontext(_CONTEXT):
            if (1 + Decimal(found).exp()) * _decimal(self.distance) > _decimal(OF_SAMPLERS):
                return math.inf
        return found

    def encode(self) -> bytes:
        """Each number as a multiple of UNIT, rounded up."""
        writer = Writer()
        for number in (self.rho, self.distance):
            units = math.ceil(number / UNIT)
            writer.blob(units.to_bytes(-(-units.bit_length() // 8), "little"))
        return writer.data()

    @classmethod
    def decode(cls, data: bytes) -> "Spent":
        """Inverse of `encode`. Raises MalformedMessage."""
        reader = Reader(data, sender=0, stage="vault")
        rho, distance = (int.from_bytes(reader.blob(), "little") for _ in range(2))
        reader.end()
        return cls(rho * UNIT, distance * UNIT)


def gaussian(square: int, variance: Fraction) -> Fraction:
    """The rho of whole numbers under discrete Gaussian noise; `square` is the largest square of the
    distance of two inputs. A multiple of UNIT, rounded up."""
    return math.ceil(Fraction(square) / (2 * variance) / UNIT) * UNIT


def epsilon(rho: Fraction, delta: Fraction) -> float:
    """An epsilon, rounded up, for which rho-zCDP is (epsilon, delta)-differentially private.

    Canonne, Kamath and Steinke 2020, section 2.3: for every a > 1 delta is at most

        exp((a - 1) (a rho - epsilon)) / (a - 1) * (1 - 1/a)**a.

    Solved for epsilon, and least where rho (a - 1)**2 = -ln(a delta). That is looked for in floats,
    as any a gives a bound.
    """
    order = _order(float(rho), float(delta))
    with localcontext(_CONTEXT):
        above = Decimal(order)  # a - 1
        room = -_decimal(delta).ln() - (1 + above).ln()
        found = (1 + above) * _decimal(rho) + (above / (1 + above)).ln() + room / above
        return max(0.0, math.nextafter(float(found + _SLACK), math.inf))


def _order(rho: float, delta: float) -> float:
    """a - 1, between 0 and 1 / delta, where the bound is least."""
    low, high = -700.0, -math.log(delta)  # of its logarithm
    for _ in range(60):
        middle = (low + high) / 2
        above = math.exp(middle)
        if rho * above * above + math.log1p(above) + math.log(delta) < 0:
            low = middle
        else:
            high = middle
    return math.exp(high)


def _decimal(number: Fraction) -> Decimal:
    return Decimal(number.numerator) / number.denominator
