"""What releases cost: against other ways to work it out, published figures, and the laws of it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from random import Random
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tacit.crypto.errors import ParameterError
from tacit.privacy.accountants import (
    DISTANCE,
    GDP,
    ORDERS,
    RELEASES,
    ZCDP,
    Adversary,
    Spent,
    compose,
    cost,
    gdp,
    is_amplified,
    sampled,
)
from tacit.privacy.gaussian import epsilon_of, limit
from tacit.privacy.releases import (
    Concentrated,
    Discrete,
    Gaussian,
    Neighbours,
    Release,
    Source,
    Unit,
)
from tacit.privacy.samplers import DiscreteGaussian, Skellam
from tests.privacy import exact
from tests.privacy.records import SKELLAM, gaussian, release, releases

SERVER, OUTSIDER = Adversary.SERVER, Adversary.OUTSIDER
DELTA = 1e-5

deltas = st.floats(-12, -1).map(lambda exponent: 10.0**exponent)


def counted(*records: Release, against: Adversary = SERVER, delta: float = DELTA) -> float:
    return compose(records, against).epsilon(delta)


# Published figures


def old_epsilon(divergences: np.ndarray, delta: float) -> float:
    """By Mironov 2017, arXiv:1702.07476, proposition 3, as these figures were worked out."""
    return float((divergences - math.log(delta) / (ORDERS - 1)).min())


@pytest.mark.parametrize(
    ("batch", "multiplier", "epochs", "published"),
    [
        (256, 1.3, 15, 1.19),  # TensorFlow Privacy, tutorials/README.md: MNIST
        (256, 1.1, 60, 3.01),
        (256, 0.7, 45, 7.10),
        (240, 1.3, 15, 1.16),  # Opacus, examples/mnist_README.md
        (240, 1.1, 60, 2.91),
        (240, 0.7, 45, 6.86),
    ],
)
def test_published_figures(batch: int, multiplier: float, epochs: int, published: float) -> None:
    """Six of 60,000 examples at delta 1e-5. Today's formula gives less."""
    steps = epochs * 60_000 // batch
    curve = steps * sampled(gaussian(multiplier, batch / 60_000, unit=Unit.RECORD))
    assert old_epsilon(curve, DELTA) == pytest.approx(published, abs=0.01)
    assert Spent(np.zeros((1, 4)), curve[np.newaxis]).epsilon(DELTA) < 0.92 * published


@pytest.mark.parametrize(
    ("multiplier", "rate", "steps", "delta", "epsilon"),
    [
        (1.0, 0.01, 1000, 1e-5, 2.101),
        (0.6, 0.01, 1000, 1e-5, 8.680),
        (1.0, 0.1, 100, 1e-5, 7.904),
        (1.0, 0.001, 10_000, 1e-6, 0.980),
    ],
)
def test_drawn_releases_cost_what_dp_accounting_says(
    multiplier: float, rate: float, steps: int, delta: float, epsilon: float
) -> None:
    """By its Rényi accountant, whose orders are others: 0.1% either way."""
    curve = steps * sampled(gaussian(multiplier, rate))
    found = Spent(np.zeros((1, 4)), curve[np.newaxis]).epsilon(delta)
    assert found == pytest.approx(epsilon, rel=1.5e-3)


# One release


def test_noise_of_shares_adds_up() -> None:
    """Seven honest shares: those of a law with seven times the variance, or of one device."""
    shared = release()
    whole = Discrete(Skellam(SKELLAM.law.variance * 7), SKELLAM.square, SKELLAM.length)
    assert gdp(shared) == pytest.approx(gdp(release(whole, source=Source.OWN)), rel=1e-14)
    assert gdp(shared) == pytest.approx(1 / (1 - 1 / 3e6), rel=1e-9)
    assert gdp(release(Gaussian(3.0, 2.0))) == pytest.approx(9 / 4 / 7)


@pytest.mark.parametrize("mechanism", [SKELLAM, Gaussian(1.0, 2.0)])
def test_another_in_its_place_is_twice_as_far(mechanism: Discrete | Gaussian) -> None:
    other = release(mechanism, neighbours=Neighbours.REPLACE_ONE)
    assert gdp(other) == pytest.approx(4 * gdp(release(mechanism)))


def test_zcdp_is_counted_by_its_own_rule() -> None:
    """Epsilon is the least of the bounds over all orders: the grid of them costs under 0.1%."""
    rho = 0.3
    found = counted(release(Concentrated(rho, 0.0), source=Source.OWN))
    orders = 1 + np.exp(np.linspace(-3, 6, 100_001))
    bounds = rho * orders + np.log1p(-1 / orders) - np.log(DELTA * orders) / (orders - 1)
    assert bounds.min() <= found <= bounds.min() * 1.001
    with pytest.raises(ParameterError, match="there is no m for it"):
        gdp(release(Concentrated(rho, 0.0), source=Source.OWN))


def test_zcdp_knows_less_than_the_closed_form() -> None:
    """Of the same discrete Gaussian, rho = square / 2v."""
    law = DiscreteGaussian(Fraction(10**6))
    closed = counted(release(Discrete(law, 10**6, 1000), source=Source.OWN))
    assert 1.05 < counted(release(Concentrated(0.5, 0.0), source=Source.OWN)) / closed < 1.15


def test_narrow_shares_of_discrete_gaussians_are_refused() -> None:
    narrow = Discrete(DiscreteGaussian(Fraction(2)), 1, 1)
    with pytest.raises(ParameterError, match="share Skellam noise"):
        cost(release(narrow), SERVER)
    assert counted(release(narrow, source=Source.OWN)) < 6


def test_noise_of_the_server_hides_nothing_from_it() -> None:
    assert counted(gaussian(1.0)) == math.inf
    assert counted(gaussian(1.0), against=OUTSIDER) == pytest.approx(epsilon_of(1.0, DELTA))
    assert not compose([gaussian(1e6)], SERVER).within(700, 0.9).any()


def test_distances_of_samplers_are_counted() -> None:
    """All samples of all shares, and what wide discrete Gaussians are approximated by."""
    law = DiscreteGaussian(Fraction(10**6))
    record = release(Discrete(law, 1, 1000))
    distance = float(cost(record, SERVER).plain[0, DISTANCE])
    assert distance == pytest.approx(7000 * law.distance + 7000 * 2.0**-112, rel=1e-9)
    assert cost(release(), SERVER).plain[0, DISTANCE] == release().distance


@pytest.mark.parametrize("distance", [1e-12, 1e-8, 3e-7])
def test_distance_makes_epsilon_larger(distance: float) -> None:
    near = counted(release(Concentrated(0.1, distance), source=Source.OWN))
    exactly = counted(release(Concentrated(0.1, 0.0), source=Source.OWN))
    grows = (1 + math.exp(near)) * distance
    assert near == pytest.approx(
        counted(release(Concentrated(0.1, 0.0), source=Source.OWN), delta=DELTA - grows)
    )
    assert near > exactly


def test_too_large_a_distance_is_the_end() -> None:
    record = release(Concentrated(0.1, 1e-5), source=Source.OWN)
    assert counted(record) == math.inf
    assert not compose([record], SERVER).within(700, DELTA).any()
    assert counted(record, delta=1e-3) < math.inf


# Drawing


def binomial(square: float, rate: float, order: int) -> float:
    """Mironov, Talwar and Zhang 2019, section 3.3: a finite sum for whole orders."""
    terms = [
        math.log(math.comb(order, j))
        + (order - j) * math.log1p(-rate)
        + j * math.log(rate)
        + j * (j - 1) * square / 2
        for j in range(order + 1)
    ]
    most = max(terms)
    return (most + math.log(sum(math.exp(term - most) for term in terms))) / (order - 1)


@pytest.mark.parametrize("multiplier", [0.26, 0.5, 1.0, 4.0, 100.0])
@pytest.mark.parametrize("rate", [1e-4, 0.01, 0.3, 0.99])
def test_drawing_by_the_trapezoid_rule_is_drawing_by_the_sum(
    multiplier: float, rate: float
) -> None:
    whole = [(i, int(order)) for i, order in enumerate(ORDERS.tolist()) if order == int(order)]
    assert [order for _, order in whole] == [2, 3, 5, 9, 17, 33, 65, 129, 257, 513]
    found = sampled(gaussian(multiplier, rate))
    for i, order in whole:
        expected = binomial(multiplier**-2, rate, order)
        assert found[i] == pytest.approx(expected, rel=1e-9, abs=2e-15 * order)


def drawn_divergence(p: Sequence[float], shift: int, rate: float, order: float) -> list[float]:
    """Of a mixture and its base, both ways, by their definition."""
    base, moved = np.array(p[shift:]), np.array(p[:-shift])
    mixed = (1 - rate) * base + rate * moved
    return [
        math.log(float((a * (a / b) ** (order - 1)).sum())) / (order - 1)
        for a, b in ((mixed, base), (base, mixed))
    ]


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("shift", [1, 2])
def test_drawn_skellam_costs_no_more_than_is_counted(rate: float, shift: int) -> None:
    """By exact probabilities, summed in floats; the mixture against the base is the worse way."""
    variance = Fraction(100)
    weights = exact.skellam(variance)
    both = [*weights[:0:-1], *weights]
    p = [float(Fraction(weight, sum(both))) for weight in both]
    p = [value for value in p if value > 1e-40]
    record = release(
        Discrete(Skellam(variance), shift**2, 1),
        unit=Unit.RECORD,
        source=Source.OWN,
        rate=rate,
        is_count_hidden=True,
    )
    curve = sampled(record)
    for i, order in enumerate(ORDERS.tolist()):
        if order < 8:
            forward, backward = drawn_divergence(p, shift, rate, order)
            assert backward <= forward + 1e-12
            assert 0.9 * curve[i] < forward <= curve[i] * (1 + 1e-9)


@pytest.mark.parametrize("multiplier", [0.05, 0.2])
def test_little_noise_is_counted_roughly(multiplier: float) -> None:
    """As if it came out who was drawn: above the sum, and not above no drawing."""
    found = sampled(gaussian(multiplier, 0.01))
    assert (found <= ORDERS / multiplier**2 / 2).all()
    for i, order in enumerate(ORDERS.tolist()):
        if order in (2, 3, 5):
            assert found[i] >= binomial(multiplier**-2, 0.01, int(order))


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({"unit": Unit.RECORD}, True),
        ({"unit": Unit.RECORD, "source": Source.OWN}, True),
        ({"unit": Unit.RECORD, "neighbours": Neighbours.ADD_OR_REMOVE}, True),
        ({"source": Source.SERVER}, True),
        ({"source": Source.SERVER, "neighbours": Neighbours.ADD_OR_REMOVE}, True),
        ({}, False),  # the noise tells how many were drawn
        ({"source": Source.OWN}, False),
        ({"unit": Unit.RECORD, "neighbours": Neighbours.REPLACE_ONE}, False),
        ({"unit": Unit.RECORD, "rate": 1.0}, False),
        ({"unit": Unit.RECORD, "is_count_hidden": False}, False),
        ({"source": Source.SERVER, "is_count_hidden": False}, False),
    ],
)
def test_drawing_counts_where_it_is_proven(changes: dict[str, object], counts: bool) -> None:
    record = release(**({"rate": 0.01, "is_count_hidden": True} | changes))
    assert is_amplified(record, OUTSIDER) is counts
    assert not is_amplified(record, SERVER)
    everywhere = compose([replace(record, rate=1.0)], OUTSIDER).epsilon(DELTA)
    assert (counted(record, against=OUTSIDER) < 0.9 * everywhere) is counts
    assert counted(record) == counted(replace(record, rate=1.0))


@pytest.mark.parametrize(("multiplier", "rate"), [(1.0, 0.01), (1.0, 0.1), (0.8, 0.05)])
def test_why_drawing_does_not_count_where_it_comes_out_how_many_were(
    multiplier: float, rate: float
) -> None:
    """All others send 1, and the device -1 or 0. If ten of a thousand were drawn, their sum is 10
    without it, and 8 or 9 with it. At the epsilon for drawing apart, delta is ten times too large.
    """
    epsilon = counted(gaussian(multiplier, rate), against=OUTSIDER)
    deltas = []
    for seen in np.linspace(-6 * multiplier, 0, 200).tolist():  # at most this, less 10
        without, one, none = (NormalDist(x, multiplier).cdf(seen) for x in (0, -2, -1))
        there, not_there = ((1 - rate) * without + rate * other for other in (one, none))
        deltas.append(there - math.exp(epsilon) * not_there)
    assert max(deltas) > 10 * DELTA


def test_why_drawing_does_not_count_where_shares_come_and_go() -> None:
    """Of 100 devices one is drawn with probability 0.01, and adds a share of noise if it is. The
    spread of 2**20 coordinates says whether it did: the two laws of a mean square hardly overlap.
    """
    coordinates, devices = 1 << 20, 100
    apart = math.log(devices / (devices - 1))  # of the logarithm of the variance
    deviation = math.sqrt(2 / coordinates)  # of its estimate
    assert apart > 7 * deviation


# Many releases


@given(st.lists(releases(), max_size=5), st.randoms(use_true_random=False))
def test_order_and_grouping_do_not_matter(records: list[Release], chance: Random) -> None:
    assume(all(_countable(record) for record in records))
    mixed = records.copy()
    chance.shuffle(mixed)
    for adversary in Adversary:
        one, other = compose(records, adversary), compose(mixed, adversary)
        np.testing.assert_allclose(one.plain, other.plain, rtol=1e-12)
        parts = compose(records[:2], adversary).charged(
            slice(None), compose(records[2:], adversary)
        )
        np.testing.assert_allclose(parts.plain, one.plain, rtol=1e-12)
        assert one.plain[0, RELEASES] == len(records)
        if one.curve is not None:
            np.testing.assert_allclose(other.curve, one.curve, rtol=1e-12)


def _countable(record: Release) -> bool:
    try:
        cost(record, SERVER)
    except ParameterError:
        return False
    return True


@given(st.lists(st.floats(0.5, 50), min_size=1, max_size=20))
def test_normal_noise_is_exact(multipliers: list[float]) -> None:
    """The closed form is that of a single release with the root of the sum of squares."""
    found = compose([gaussian(multiplier) for multiplier in multipliers], OUTSIDER)
    square = math.fsum(multiplier**-2 for multiplier in multipliers)
    assert found.plain[0, GDP] == pytest.approx(square, rel=1e-12)
    assert found.epsilon(DELTA) == pytest.approx(epsilon_of(math.sqrt(square), DELTA), rel=1e-9)


def test_a_ledger_of_many_rounds_is_the_closed_form() -> None:
    """A thousand rounds of other survivors: to 1e-9."""
    rounds = [replace(release(), survivors=4 + t % 9) for t in range(1000)]
    honest = [1 + t % 9 for t in range(1000)]
    share = Fraction(10**6, 7)
    square = math.fsum(10**6 / (float(share * count) - 1 / 3) for count in honest)
    found = compose(rounds, SERVER)
    assert found.plain[0, GDP] == pytest.approx(square, rel=1e-9)


@given(releases(), releases(), st.sampled_from(Adversary), deltas)
def test_more_releases_cost_more(
    first: Release, second: Release, adversary: Adversary, delta: float
) -> None:
    assume(_countable(first) and _countable(second))
    alone, both = (compose(some, adversary) for some in ([first], [first, second]))
    assert alone.epsilon(delta) <= both.epsilon(delta) * (1 + 1e-12)


@given(st.integers(1, 11), st.integers(1, 11), st.integers(0, 5), deltas)
def test_more_survivors_and_fewer_corrupt_cost_less(
    few: int, more: int, corrupt: int, delta: float
) -> None:
    record = release(cohort=30, survivors=few + corrupt, corrupt=corrupt)
    epsilon = counted(record, delta=delta)
    assert counted(replace(record, survivors=few + more + corrupt), delta=delta) <= epsilon
    if corrupt:
        assert counted(replace(record, corrupt=corrupt - 1), delta=delta) <= epsilon


@given(st.floats(0.3, 20), st.floats(1e-4, 0.999), st.floats(0.01, 1), deltas)
def test_drawing_less_costs_less(multiplier: float, rate: float, part: float, delta: float) -> None:
    """All divergences do; 1e-13 is what floats leave over."""
    whole, less = gaussian(multiplier, rate), gaussian(multiplier, rate * part)
    assert (sampled(less) <= sampled(whole) * (1 + 1e-9) + 1e-13).all()
    assert (sampled(whole) <= sampled(gaussian(multiplier))).all()
    costs = [counted(record, against=OUTSIDER, delta=delta) for record in (less, whole)]
    assert costs[0] <= costs[1] * (1 + 1e-9) + 1e-12


# Tables of devices


rows = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1e-3, 0.5, 4.0, 90.0, math.inf]),
        st.sampled_from([0.0, 0.0, 0.01, 2.0]),
        st.sampled_from([0.0, 1e-30, 1e-9, 1e-4]),
        st.sampled_from([0.0, 0.0, 0.003]),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=150)
@given(rows, st.floats(0.01, 60), st.floats(1e-9, 0.01))
def test_a_table_says_of_each_row_what_the_row_says(
    found: list[tuple[float, ...]], epsilon: float, delta: float
) -> None:
    plain = np.array([[square, rho, distance, 1] for square, rho, distance, _ in found])
    drawn = np.array([[part] for *_, part in found])
    curve = drawn * ORDERS if drawn.any() else None
    table = Spent(plain, curve)
    single = [table.only(slice(i, i + 1)).epsilon(delta) for i in range(len(found))]
    np.testing.assert_array_equal(table.epsilons(delta), single)
    for good, own in zip(table.within(epsilon, delta).tolist(), single, strict=True):
        if abs(own - epsilon) > 1e-9 * epsilon:
            assert good == (own < epsilon)


@given(releases(), st.integers(1, 100), st.sampled_from(Adversary))
def test_many_of_the_same_cost_as_much_as_each_of_them(
    record: Release, many: int, adversary: Adversary
) -> None:
    assume(_countable(record))
    once, added = cost(record, adversary), compose([record] * many, adversary)
    times = once.times(many)
    np.testing.assert_allclose(times.plain, added.plain, rtol=1e-13)
    assert (times.curve is None) == (added.curve is None)
    if times.curve is not None and added.curve is not None:
        np.testing.assert_allclose(times.curve, added.curve, rtol=1e-13)


def test_only_some_rows_are_charged() -> None:
    paid = compose(
        [gaussian(1.0, 0.01), release(Concentrated(0.1, 0.0), source=Source.OWN)], OUTSIDER
    )
    before = Spent.nothing(5)
    after = before.charged(np.array([1, 3]), paid)
    assert after.plain[:, RELEASES].tolist() == [0, 2, 0, 2, 0]
    assert after.plain[1, ZCDP] == 0.1
    assert after.curve is not None
    assert after.curve.any(axis=1).tolist() == [False, True, False, True, False]
    assert before.curve is None
    assert not before.plain.any()


def test_what_is_kept_of_a_release_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        cost(release(), SERVER).plain[0, GDP] = 0
    with pytest.raises(ValueError, match="read-only"):
        sampled(gaussian(1.0, 0.5))[0] = 0


def test_the_limit_says_how_much_noise_a_run_needs() -> None:
    """A hundred releases at this multiplier are just within (2, 1e-5)."""
    multiplier = math.sqrt(100) / limit(2.0, DELTA)
    assert counted(*[gaussian(multiplier)] * 100, against=OUTSIDER) == pytest.approx(2.0, rel=1e-9)
