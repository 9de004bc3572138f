"""Noise of whole numbers against normal noise: in exact arithmetic, and by what a test can see."""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.crypto.errors import ParameterError
from tacit.privacy.equivalents import equivalent, left_out
from tacit.privacy.gaussian import delta_of
from tacit.privacy.samplers import ONE_TABLE, DiscreteGaussian, Law, Skellam
from tests.privacy import exact

NORMAL = NormalDist()
CASES: list[tuple[type[Law], Fraction]] = [
    (Skellam, Fraction(1, 3)),
    (Skellam, Fraction(1)),
    (Skellam, Fraction(77, 3)),
    (Skellam, Fraction(1000)),
    (DiscreteGaussian, Fraction(1, 2)),
    (DiscreteGaussian, Fraction(2)),
    (DiscreteGaussian, Fraction(77, 3)),
    (DiscreteGaussian, Fraction(1000)),
]
WEIGHTS = {Skellam: exact.skellam, DiscreteGaussian: exact.gaussian}


def steps(weights: Sequence[int]) -> list[float]:
    """How much y = Phi**-1(P[X <= x]) grows from x - 1 to x, for x = 0, 1, ..: by weights of
    0, 1, .., of which probabilities above 2**-200 come out to 2**-100."""
    whole = 2 * sum(weights) - weights[0]
    tails = list(itertools.accumulate(weights[:0:-1]))[::-1]  # of P[X >= 1], P[X >= 2], ..
    y = [-NORMAL.inv_cdf(float(Fraction(tail, whole))) for tail in tails if tail << 200 > whole]
    return [2 * y[0], *np.diff(y).tolist()]


@pytest.mark.parametrize(("law", "variance"), CASES)
def test_no_step_is_larger_than_the_one_over_zero(law: type[Law], variance: Fraction) -> None:
    """In exact probabilities, and steps by floats: 1e-9 of a step where y is off by 1e-13."""
    found = steps(WEIGHTS[law](variance))
    assert len(found) > 10
    assert max(found) <= found[0] * (1 + 1e-9)
    assert equivalent(law(variance)) == pytest.approx(1 / found[0] ** 2, rel=1e-8)


@pytest.mark.parametrize("variance", [Fraction(1, 3), Fraction(1), Fraction(77, 3), Fraction(1000)])
def test_steps_of_skellam_noise_fall(variance: Fraction) -> None:
    """What the proof goes by."""
    found = steps(exact.skellam(variance))
    assert all(after < before * (1 + 1e-9) for before, after in itertools.pairwise(found))
    assert found[-1] < found[0] * 0.99


@settings(max_examples=200)
@given(st.floats(math.log(2), math.log(2.0**60)).map(math.exp))
def test_little_is_lost(variance: float) -> None:
    """Nearly 1/3 of Skellam noise, and 1/12 of a narrow discrete Gaussian or 4 of a wide one."""
    lost = variance - equivalent(Skellam(Fraction(variance)))
    rounded = 2e-15 * variance
    assert 1 / 3 - rounded < lost < 1 / 3 + 0.2 / variance + rounded
    gaussian = variance - equivalent(DiscreteGaussian(Fraction(variance)))
    if variance > ONE_TABLE:
        assert gaussian == pytest.approx(4, abs=rounded)
    else:
        assert 1 / 12 - 1e-6 * variance < gaussian < 1 / 12 + 1 / variance + 1e-5 * variance


def test_both_ways_to_the_centre_agree() -> None:
    """500 is where the series takes over."""
    below, above = (equivalent(Skellam(Fraction(v))) for v in (500 - 2.0**-30, 500))
    assert above - below == pytest.approx(2.0**-30, abs=1e-10)


# What a test can see


def law_of(weights: Sequence[int]) -> tuple[list[int], int]:
    """Weights of -reach, .., reach, and their sum."""
    both = [*weights[:0:-1], *weights]
    return both, sum(both)


def seen(weights: Sequence[int], shift: tuple[int, ...], epsilon: float) -> float:
    """The smallest delta for one, or two independent, numbers that are moved: the sum of
    (p - exp(epsilon) q)+ over all outcomes, in floats of exact probabilities."""
    both, whole = law_of(weights)
    p = np.array([float(Fraction(w, whole)) for w in both])
    total_p, total_q = np.ones(1), np.ones(1)
    for move in shift:
        here, there = np.pad(p, (move, 0)), np.pad(p, (0, move))
        total_p, total_q = np.outer(total_p, here).ravel(), np.outer(total_q, there).ravel()
    return float(np.maximum(total_p - math.exp(epsilon) * total_q, 0).sum())


@pytest.mark.parametrize(
    ("law", "variance", "more"),
    [
        (Skellam, Fraction(3), 1.5),
        (Skellam, Fraction(77, 3), 1.1),
        (DiscreteGaussian, Fraction(2), 1.5),
        (DiscreteGaussian, Fraction(77, 3), 1.1),
    ],
)
@pytest.mark.parametrize("shift", [(1,), (3,), (1, 1), (2, 3)])
def test_moved_noise_gives_away_no_more_than_normal_noise(
    law: type[Law], variance: Fraction, more: float, shift: tuple[int, ...]
) -> None:
    """At each epsilon; and more than normal noise of somewhat more variance, at one."""
    weights, length = WEIGHTS[law](variance), math.hypot(*shift)
    same = equivalent(law(variance))
    grid = [0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0]
    deltas = [seen(weights, shift, epsilon) for epsilon in grid]
    for epsilon, delta in zip(grid, deltas, strict=True):
        assert delta <= delta_of(length / math.sqrt(same), epsilon) * (1 + 1e-9) + 1e-15
    too_little = [delta_of(length / math.sqrt(same * more), epsilon) for epsilon in grid]
    assert any(delta > other for delta, other in zip(deltas, too_little, strict=True))


def divergence(weights: Sequence[int], shift: int, order: int) -> float:
    """Rényi's, of a law and itself moved, for a whole order: one sum in whole numbers."""
    both, whole = law_of(weights)
    unit = 1 << 64  # how fine a term is, beside the square of the largest
    total = 0
    for here, there in zip(both, both[shift:], strict=False):
        if there:
            total += here**order * unit // there ** (order - 1)
    return (math.log(total) - math.log(unit) - math.log(whole)) / (order - 1)


@pytest.mark.parametrize("order", [2, 3, 5, 9])
@pytest.mark.parametrize("shift", [1, 2, 7])
def test_divergences_of_shares_that_were_added_up(order: int, shift: int) -> None:
    """Three shares, convolved: their divergence is below that of the normal law, and by less than
    what a smaller variance would make of it."""
    shares = [exact.skellam(Fraction(9, 2)) for _ in range(3)]
    total, _ = law_of(shares[0])
    for share in shares[1:]:
        total = exact.convolved(total, law_of(share)[0], 1)
    found = divergence(total[len(total) // 2 :], shift, order)
    variance = equivalent(Skellam(Fraction(9, 2)), 3)
    assert found == pytest.approx(divergence(exact.skellam(Fraction(27, 2)), shift, order), 1e-12)
    assert found <= order * shift**2 / (2 * variance)
    if order * shift <= 6:
        assert found > order * shift**2 / (2 * (variance + 1))


@pytest.mark.parametrize("order", [2, 3, 5, 9, 17])
@pytest.mark.parametrize("variance", [1, 10, 100])
def test_it_is_sharper_than_the_published_bound(order: int, variance: int) -> None:
    """Agarwal, Kairouz and Liu 2021, arXiv:2110.04995: for a norm of 1 in both senses

        a / 2v + min((2 a + 5) / 4 v**2, 3 / 2v)

    which holds, and is above ours unless the order is high."""
    found = divergence(exact.skellam(Fraction(variance)), 1, order)
    published = order / (2 * variance) + min(
        (2 * order + 5) / (4 * variance**2), 3 / (2 * variance)
    )
    assert found <= published
    if order < 6 or variance > 1:
        assert order / (2 * equivalent(Skellam(Fraction(variance)))) < published


# Discrete Gaussians that are wide, or shared


@pytest.mark.parametrize("rest", [0.25, 0.5])
def test_a_last_step_makes_discrete_gaussians(rest: float) -> None:
    """Of the variance `rest`, in place of 4: they are as near as the exponential says. Nearer, as
    its waves mostly cancel; but they are seen."""
    variance, h = 20.0, 1 / 64
    x = np.arange(-100, 101)
    y = np.arange(-60, 60, h)
    weights = np.exp(-((x[:, np.newaxis] - y) ** 2) / (2 * rest))
    start = np.exp(-(y**2) / (2 * (variance - rest)))
    got = (weights / weights.sum(axis=0)) @ start
    wanted = np.exp(-(x**2) / (2 * variance))
    away = np.abs(got / got.sum() - wanted / wanted.sum()).sum() / 2
    wave = math.exp(-2 * math.pi**2 * rest)
    assert 0.05 * wave**2 < away < 3 * wave
    assert 3 * math.exp(-8 * math.pi**2) < 2.0**-112


def test_wide_ones_are_no_worse_than_what_is_counted() -> None:
    """By all their steps, which is more than the proof needs."""
    from tacit.privacy.equivalents import _narrow

    variance = Fraction(ONE_TABLE + 1)
    assert equivalent(DiscreteGaussian(variance)) == variance - 4
    assert _narrow(variance) > variance - 1


@pytest.mark.parametrize("share", [Fraction(8), Fraction(77, 3)])
def test_shares_from_eight_on_add_up(share: Fraction) -> None:
    law = DiscreteGaussian(share)
    parts = exact.masses(law.digits[0].bounds)
    total = exact.convolved(parts, parts, 1)
    whole = DiscreteGaussian(2 * share)
    away = exact.variation(total, exact.masses(whole.digits[0].bounds))
    assert away < Fraction(left_out(law, 2)) + 2 * Fraction(law.distance) + Fraction(whole.distance)


def test_narrower_shares_do_not() -> None:
    law, whole = DiscreteGaussian(Fraction(2)), DiscreteGaussian(Fraction(4))
    parts = exact.masses(law.digits[0].bounds)
    away = exact.variation(exact.convolved(parts, parts, 1), exact.masses(whole.digits[0].bounds))
    assert away > 2.0**-40
    with pytest.raises(ParameterError, match="share Skellam noise"):
        equivalent(law, 2)
    assert equivalent(law) < 2


def test_what_is_left_out_is_counted() -> None:
    narrow, wide = DiscreteGaussian(Fraction(8)), DiscreteGaussian(Fraction(1 << 20))
    assert left_out(Skellam(Fraction(10**9)), 100) == 0.0
    assert 0 < left_out(narrow) < 2.0**-125
    assert left_out(wide) == pytest.approx(2.0**-112)
    assert left_out(wide, 10) == pytest.approx(10 * 2.0**-112)
