"""Gaussian differential privacy: the closed form is what the definition says."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.errors import ParameterError
from tacit.privacy import gaussian
from tacit.privacy.gaussian import LARGEST_EPSILON, beside, delta_of, epsilon_of, guessed, limit

ms = st.floats(1e-3, 60)
deltas = st.floats(-300, -0.01).map(lambda exponent: 10.0**exponent)
epsilons = st.floats(1e-2, LARGEST_EPSILON)


def summed(m: float, epsilon: float) -> float:
    """The integral of (p - exp(epsilon) q)+ over the line, p and q of N(m, 1) and N(0, 1).

    Simpson's rule from where it begins to 40 beyond: off by h**4 / 2880 times the sum of fourth
    derivatives, so less than 1e-13 of what is largest.
    """
    x, h = np.linspace(epsilon / m + m / 2, epsilon / m + m / 2 + 40, 80_001, retstep=True)
    log_p = -((x - m) ** 2) / 2 - math.log(2 * math.pi) / 2
    y = np.exp(log_p) * -np.expm1(epsilon + m * m / 2 - m * x)
    weights = np.full(x.size, 2.0)
    weights[1::2], weights[0], weights[-1] = 4.0, 1.0, 1.0
    return float(weights @ y) * h / 3


@pytest.mark.parametrize("m", [0.01, 0.3, 1.0, 4.0, 30.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0, 8.0, 60.0, 600.0])
def test_delta_is_that_of_the_definition(m: float, epsilon: float) -> None:
    expected = summed(m, epsilon)
    if expected > 1e-250:
        assert delta_of(m, epsilon) == pytest.approx(expected, rel=1e-8, abs=1e-15 * m)
    else:
        assert delta_of(m, epsilon) < 1e-240


@pytest.mark.parametrize("x", [0.0, 0.5, 2.5, 6.0, 19.9, 20.0, 25.0, 35.0])
def test_the_tail_by_its_density(x: float) -> None:
    """Both ways to work it out; an exponential is off by as many last digits as its argument says.
    From 37 on erfc is 0."""
    tail = math.erfc(x / math.sqrt(2)) / 2
    density = math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    assert gaussian._mills(x) == pytest.approx(tail / density, rel=2e-13)
    assert gaussian._mills(1e6) == pytest.approx(1e-6, rel=1e-11)


@pytest.mark.parametrize(
    ("asked", "epsilon"), [(0.5, 0.353), (1, 0.751), (4, 3.51), (8, 7.91), (16, 18.9), (60, 128.6)]
)
def test_what_the_classic_formula_really_gives(asked: float, epsilon: float) -> None:
    """sigma = sqrt(2 ln(1.25 / delta)) / epsilon is proven below 1 only. As others measured it."""
    found = epsilon_of(asked / math.sqrt(2 * math.log(1.25 / 1e-5)), 1e-5)
    assert found == pytest.approx(epsilon, rel=3e-3)


def test_a_hundred_releases() -> None:
    """By a privacy loss distribution of 1e-4: 13.207."""
    assert epsilon_of(10 / 4, 1e-5) == pytest.approx(13.207, abs=6e-4)


@given(ms, deltas)
def test_epsilon_is_the_smallest(m: float, delta: float) -> None:
    found = epsilon_of(m, delta)
    assert delta_of(m, found) <= delta
    if found:
        assert delta_of(m, found * (1 - 1e-9)) > delta * (1 - 1e-9)
    else:
        assert math.erf(m / math.sqrt(8)) <= delta * (1 + 1e-9)


@pytest.mark.parametrize("delta", [0.0, -1e-9, 1.0, math.nan])
def test_there_is_no_epsilon_for_no_delta(delta: float) -> None:
    """What floats make of the tail of a normal law is 0 from epsilon 38 m on, and below 0 never."""
    with pytest.raises(ParameterError, match="expected 0 < delta < 1"):
        epsilon_of(0.1, delta)


@given(epsilons, deltas)
def test_the_limit_is_the_largest(epsilon: float, delta: float) -> None:
    found = limit(epsilon, delta)
    assert delta_of(found, epsilon) <= delta
    assert delta_of(found * (1 + 1e-9), epsilon) >= delta * (1 - 1e-9)
    assert epsilon_of(found, delta) <= epsilon * (1 + 1e-9)


@given(ms, st.floats(0, LARGEST_EPSILON), st.floats(1, 2))
def test_delta_grows_with_m_and_falls_with_epsilon(m: float, epsilon: float, by: float) -> None:
    slack = 1 + 1e-12
    assert delta_of(m, epsilon) <= delta_of(m * by, epsilon) * slack + 1e-15
    assert delta_of(m, epsilon * by) <= delta_of(m, epsilon) * slack + 1e-15


@pytest.mark.parametrize("m", [0.0, 1e-300, 1e-5])
def test_next_to_nothing_costs_nothing(m: float) -> None:
    assert epsilon_of(m, 1e-5) == 0.0
    assert delta_of(m, 0.0) <= 1e-5 * 0.4


@given(ms, st.floats(-12, -1), st.floats(-40, -3))
def test_another_law_is_paid_for_in_delta(m: float, delta: float, distance: float) -> None:
    """What comes out meets its own equation, and less does not."""
    whole, apart = 10.0**delta, 10.0**distance

    def ideal(left: float) -> float:
        return epsilon_of(m, left)

    def all_in(epsilon: float) -> float:
        return delta_of(m, epsilon) + (1 + math.exp(epsilon)) * apart

    found = beside(ideal, whole, apart)
    if math.isinf(found):
        grid = np.linspace(0, 1, 2000) * LARGEST_EPSILON
        assert min(all_in(float(epsilon)) for epsilon in grid) >= whole * (1 - 1e-9)
    else:
        assert found >= epsilon_of(m, whole)
        assert all_in(found) <= whole * (1 + 1e-9)
        if found > epsilon_of(m, whole) * (1 + 1e-6):
            assert all_in(found * (1 - 1e-6)) > whole * (1 - 1e-9)


def test_no_distance_changes_nothing() -> None:
    assert beside(lambda delta: epsilon_of(1.0, delta), 1e-5, 0.0) == epsilon_of(1.0, 1e-5)
    assert beside(lambda delta: epsilon_of(1.0, delta), 1e-5, 1e-30) == epsilon_of(1.0, 1e-5)
    assert beside(lambda delta: epsilon_of(1.0, delta), 1e-5, 1e-5) == math.inf


@pytest.mark.parametrize("prior", [1e-6, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("m", [0.0, 0.1, 1.0, 4.0])
def test_a_guess_is_right_as_often_as_the_best_test_allows(m: float, prior: float) -> None:
    """Of all events with probability `prior` under N(0, 1), the tail has the most under N(m, 1); a
    guess among 1 / prior candidates that looks for the largest of as many tests comes close."""
    most = guessed(m, prior)
    assert most >= prior * (1 - 1e-9)
    normal = NormalDist()
    threshold = normal.inv_cdf(1 - prior)
    assert most == pytest.approx(1 - NormalDist(m, 1).cdf(threshold), rel=1e-9)
    for epsilon in (0.0, 0.5, 2.0):  # what epsilon and delta promise of any event
        assert most <= math.exp(epsilon) * prior + delta_of(m, epsilon) + 1e-12


def test_without_a_bound_a_guess_may_always_be_right() -> None:
    assert guessed(math.inf, 0.01) == 1.0
