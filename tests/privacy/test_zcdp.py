"""What releases cost: against the laws that they stand for, and never less."""

import math
from decimal import Context, Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.errors import MalformedMessage
from tacit.privacy.zcdp import DELTA, OF_SAMPLERS, UNIT, Spent, epsilon, gaussian

RHOS = [1e-6, 1e-3, 0.025, 0.1, 0.5, 1.0, 2.2, 10.0, 44.0, 100.0, 1e4]
NUMBERS = st.fractions(0, 10**6, max_denominator=10**9)


def log_delta(rho: float, eps: float, above: float) -> float:
    """The logarithm of delta by the formula of the docstring, at a - 1 = `above`."""
    order = 1 + above
    return above * (order * rho - eps) - math.log(above) + order * math.log1p(-1 / order)


@pytest.mark.parametrize("rho", RHOS)
def test_epsilon_is_the_least_of_the_bounds(rho: float) -> None:
    """At a grid of orders: some has the delta, none a smaller one. The grid is 0.1% fine, and at
    its minimum the bound is flat."""
    eps = epsilon(Fraction(rho), DELTA)
    found = min(log_delta(rho, eps, math.exp(k / 1000)) for k in range(-9000, 13000))
    assert math.log(DELTA) - 1e-9 < found < math.log(DELTA) + 1e-5 * max(1, rho)


@pytest.mark.parametrize("rho", RHOS)
def test_it_is_rounded_up(rho: float) -> None:
    """In 60 digits, at the best order: delta is enough, and two floats below it no longer is."""

    def least(eps: float) -> Decimal:
        with localcontext(prec=60):
            low, high = Decimal(-12), Decimal(14)  # of the logarithm of a - 1
            for _ in range(300):
                third = (high - low) / 3
                left, right = (exactly(eps, at.exp()) for at in (low + third, high - third))
                low, high = (low, high - third) if left < right else (low + third, high)
            return exactly(eps, low.exp())

    def exactly(eps: float, above: Decimal) -> Decimal:
        order = 1 + above
        loss = above * (order * Decimal(rho) - Decimal(eps))
        return loss - above.ln() + order * (above / order).ln()

    eps, wanted = epsilon(Fraction(rho), DELTA), -6 * Decimal(10).ln(Context(prec=60))
    assert least(eps) <= wanted
    assert least(math.nextafter(math.nextafter(eps, 0), 0)) > wanted


@pytest.mark.parametrize("rho", RHOS)
def test_it_is_between_the_true_one_and_the_simple_bound(rho: float) -> None:
    """A Gaussian shifted by sqrt(2 rho) deviations is rho-zCDP, and its delta is known (Balle and
    Wang 2018, arXiv:1805.06530, theorem 8). The simple bound is that of Bun and Steinke 2016."""
    eps, shift = epsilon(Fraction(rho), DELTA), math.sqrt(2 * rho)
    above = math.erfc((eps / shift - shift / 2) / math.sqrt(2)) / 2
    below = math.erfc((eps / shift + shift / 2) / math.sqrt(2)) / 2
    assert above - math.exp(min(eps, 700)) * below <= DELTA
    assert 0.5 * eps < eps <= rho + 2 * math.sqrt(rho * math.log(1 / DELTA))


@pytest.mark.parametrize("variance", [0.5, 1.0, 3.7, 40.0])
@pytest.mark.parametrize("shift", [1, 2, 5])
@pytest.mark.parametrize("order", [1.5, 2.0, 7.0])
def test_shifted_discrete_gaussians_have_the_divergence(
    variance: float, shift: int, order: float
) -> None:
    """By its definition, summed up: order * rho, or less where order * shift is not whole."""
    reach = int(order * shift + 50 * math.sqrt(variance)) + 1
    logs = {x: -x * x / (2 * variance) for x in range(-reach - shift, reach + shift + 1)}
    whole = math.log(math.fsum(map(math.exp, logs.values())))
    terms = [order * logs[x] + (1 - order) * logs[x - shift] for x in range(-reach, reach + 1)]
    largest = max(terms)
    summed = largest + math.log(math.fsum(math.exp(term - largest) for term in terms)) - whole
    rho = float(gaussian(shift**2, Fraction(variance)))
    if order * shift == int(order * shift):
        assert summed / (order - 1) == pytest.approx(order * rho, rel=1e-9)
    else:
        assert 0.95 * order * rho < summed / (order - 1) < order * rho * (1 + 1e-9)


@given(st.integers(0, 1 << 40), st.fractions(Fraction(1, 2), 10**12, max_denominator=10**6))
def test_rho_is_rounded_up_and_no_more_than_a_unit(square: int, variance: Fraction) -> None:
    rho = gaussian(square, variance)
    assert rho / UNIT == int(rho / UNIT)
    assert 0 <= rho - square / (2 * variance) < UNIT


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_costs_add_up(a: Fraction, b: Fraction, c: Fraction, d: Fraction) -> None:
    both = Spent(a, b) + Spent(c, d)
    assert both == Spent(a + c, b + d)
    assert Spent(a, b).times(3) == Spent(a, b) + Spent(a, b) + Spent(a, b)
    assert both.epsilon >= Spent(a).epsilon


@given(NUMBERS, NUMBERS)
def test_what_is_kept_is_what_was_spent_or_a_unit_more(a: Fraction, b: Fraction) -> None:
    kept = Spent.decode(Spent(a, b).encode())
    assert 0 <= kept.rho - a < UNIT
    assert 0 <= kept.distance - b < UNIT
    assert Spent.decode(kept.encode()) == kept


def test_bytes_that_are_no_cost_are_refused() -> None:
    data = Spent(Fraction(1), Fraction(2)).encode()
    for bad in (b"", data[:-1], data + b"\0"):
        with pytest.raises(MalformedMessage):
            Spent.decode(bad)


def test_nothing_costs_nothing() -> None:
    assert Spent().epsilon == 0.0
    assert Spent.decode(Spent().encode()) == Spent()


@pytest.mark.parametrize("rho", [0.1, 3.0])
def test_samples_that_are_off_use_up_delta(rho: float) -> None:
    """exp(epsilon) + 1 times their distance; once that is too much, nothing is known."""
    cost = Spent(Fraction(rho))
    least = Fraction(float(OF_SAMPLERS) / (1 + math.exp(cost.epsilon)))
    assert Spent(cost.rho, least * Fraction(999, 1000)).epsilon == cost.epsilon
    assert Spent(cost.rho, least * Fraction(1001, 1000)).epsilon == math.inf
    assert cost.epsilon == epsilon(cost.rho, DELTA - OF_SAMPLERS)


def test_epsilon_goes_on_to_infinity() -> None:
    assert Spent(Fraction(600)).epsilon < 1000
    assert Spent(Fraction(1 << 300)).epsilon == math.inf


@given(st.fractions(Fraction(1, 10**9), 10**5), st.integers(1, 10**9))
def test_more_never_costs_less(rho: Fraction, more: int) -> None:
    assert epsilon(rho, DELTA) <= epsilon(rho + Fraction(1, more), DELTA)
