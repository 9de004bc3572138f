"""What leaves a device in the clear: no longer than its privacy allows for, right on average."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.crypto.errors import ParameterError
from tacit.crypto.secagg.clear import LARGEST, Clear
from tacit.privacy import clear as in_the_clear
from tacit.privacy.accountants import DISTANCE, Adversary, Spent, gdp
from tacit.privacy.accountants import cost as cost_of
from tacit.privacy.clear import draw_noise, release_of, released
from tacit.privacy.equivalents import left_out
from tacit.privacy.gaussian import delta_of, epsilon_of
from tacit.privacy.releases import Neighbours, Release, Source, Unit, Use
from tacit.privacy.samplers import DiscreteGaussian
from tests.crypto.federation import Counted
from tests.crypto.lattice import slow

KEY = bytes(range(32))
SIZES = st.integers(1, 300) | st.sampled_from([70_000])
VALUES = st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0, -1.0, 1e-9])


def part(size: int, norm: float = 1.0, sigma: float = 1.0) -> Clear:
    return Clear(((3, 3 + size),), norm, sigma)


def once(clear: Clear) -> Release:
    return release_of(clear, run=7, round=2, cohort=10)


def cost(clear: Clear) -> Spent:
    return cost_of(once(clear), Adversary.SERVER)


def epsilon(clear: Clear, delta: float = 1e-5) -> float:
    return cost(clear).epsilon(delta)


def quiet(clear: Clear) -> np.ndarray:
    return np.zeros(clear.size, np.int64)


def square(values: np.ndarray) -> int:
    return sum(value * value for value in values.tolist())


@settings(max_examples=60)
@given(st.data(), SIZES, st.floats(1e-3, 1e3), st.floats(1e-6, 1.0))
def test_nothing_is_longer_than_its_privacy_allows_for(
    data: st.DataObject, size: int, norm: float, share: float
) -> None:
    clear = part(size, norm)
    few = data.draw(st.lists(VALUES, min_size=1, max_size=20))
    update = np.resize(few, size)
    sent = released(
        clear, update, share, quiet(clear), data.draw(st.binary(min_size=32, max_size=32))
    )
    assert square(sent) <= clear.square
    # And it is what it should be: each coordinate is one of the two whole numbers around it.
    length = math.sqrt(math.fsum(x * x for x in update.tolist()))
    exact = update * (share / clear.step) * min(1.0, norm / length if length else 1.0)
    assert np.all(np.abs(sent - exact) < 1 + 1e-6)


def test_the_bound_is_about_that_of_the_norm() -> None:
    """7% above it, and so is the square of m, however many coordinates there are."""
    for size in (1, 1000, 10**6, LARGEST):
        clear = part(size)
        assert clear.levels**2 < clear.square < 1.075 * clear.levels**2
        assert 4 < gdp(once(clear)) < 1.075 * 4  # (2 norm)**2 / (sigma norm)**2


@pytest.mark.parametrize("longest", [0.999, 1.0])
def test_what_chance_makes_too_long_is_rounded_towards_zero(
    longest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clear = part(2, norm=1024.0)
    update = np.array([longest * 600.6, -longest * 829.3])
    monkeypatch.setattr(in_the_clear, "_rounded", lambda steps, rand: np.array([1024, 800]))
    sent = released(clear, update, 1.0, quiet(clear), KEY)
    assert sent.tolist() == np.trunc(update).tolist()
    monkeypatch.setattr(in_the_clear, "clip", lambda update, norm: update)
    with pytest.raises(ParameterError, match="clipping does not hold"):
        released(clear, update * 2, 1.0, quiet(clear), KEY)


def test_it_is_right_on_average_over_the_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all 2**16 values of the dither, each for all coordinates: no statistics."""
    clear, share = part(5, norm=1024.0), 0.37
    update = np.array([0.01, -0.3, 0.5, 20.001, -7.77])
    total = quiet(clear)
    for dither in range(0, 1 << 16, 64):
        # Every 64th, and the value is on a grid of 2**-10: as good as all.
        monkeypatch.setattr(
            in_the_clear,
            "keystream",
            lambda key, size, r=dither: np.full(size // 2, r, "<u2").tobytes(),
        )
        total += released(
            clear, np.rint(update * share * 1024) / 1024 / share, share, quiet(clear), KEY
        )
    assert (total / 1024).tolist() == pytest.approx(np.rint(update * share * 1024) / 1024, abs=1e-9)


def test_the_dither_is_the_keys() -> None:
    clear, update = part(64, norm=1024.0), np.full(64, 0.5)
    one = released(clear, update, 1.0, quiet(clear), KEY)
    assert set(one.tolist()) == {0, 1}
    assert np.array_equal(one, released(clear, update, 1.0, quiet(clear), KEY))
    assert not np.array_equal(one, released(clear, update, 1.0, quiet(clear), KEY[::-1]))


@settings(max_examples=40)
@given(st.integers(1, LARGEST), st.floats(2.0**-10, 2.0**10))
def test_nothing_ever_wraps(size: int, sigma: float) -> None:
    """The longest that may be, all of it in one coordinate, and the largest sample."""
    clear = part(size, sigma=sigma)
    largest = math.isqrt(clear.square) + DiscreteGaussian(clear.variance).reach
    assert largest < 1 << (clear.bits - 1)
    assert largest > 1 << (clear.bits - 3)  # and no more than two bits are given away


@pytest.mark.parametrize("share", [0.0, -0.1, 1.0000001, math.nan, math.inf])
def test_a_share_of_more_than_all_is_refused(share: float) -> None:
    clear = part(3)
    with pytest.raises(ParameterError, match="at a share of"):
        released(clear, np.zeros(3), share, quiet(clear), KEY)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    clear = part(3)
    with pytest.raises(ParameterError, match="not finite"):
        released(clear, np.array([0.0, bad, 0.0]), 1.0, quiet(clear), KEY)


def test_another_size_is_refused() -> None:
    clear = part(3)
    with pytest.raises(ParameterError, match=r"\(2,\) clear coordinates"):
        released(clear, np.zeros(2), 1.0, quiet(clear), KEY)


# The noise


def test_the_noise_is_that_of_the_variance() -> None:
    clear = part(1000, sigma=0.3)
    assert clear.variance == (Fraction(0.3) * clear.levels) ** 2
    noise = draw_noise(clear, KEY)
    assert noise.shape == (1000,)
    assert not np.array_equal(noise, draw_noise(clear, KEY[::-1]))
    assert np.array_equal(released(clear, np.zeros(1000), 1.0, noise, KEY), noise)


def spread(sent: np.ndarray, clear: Clear) -> float:
    """A statistic with the law of a chi square of clear.size degrees, if noise is all there is."""
    return float(np.sum(sent.astype(np.float64) ** 2) / float(clear.variance))


@pytest.mark.parametrize("sigma", [0.01, 1.0, 5.0])
def test_noise_of_half_the_deviation_is_told_apart(sigma: float) -> None:
    """By the length of what is sent of an update of nothing: that of the true noise is in a range
    that it leaves once in 2**40, and that of half the deviation is not, nor of 5% less."""
    clear, draw = part(20_000, sigma=sigma), Counted(b"noise")
    most, least = slow.most(clear.size), slow.least(clear.size, 0.0)
    sent = released(clear, np.zeros(clear.size), 1.0, draw_noise(clear, draw(32)), draw(32))
    assert least < spread(sent, clear) < most
    for times in (Fraction(1, 2), Fraction(95, 100), Fraction(105, 100)):
        wrong = Clear(clear.ranges, clear.norm, float(sigma * times))
        other = released(clear, np.zeros(clear.size), 1.0, draw_noise(wrong, draw(32)), draw(32))
        assert not least < spread(other, clear) < most


def test_the_mean_of_many_is_the_update() -> None:
    """With all its noise: 400 devices that send the same. The mean is off by more than 7 of its own
    deviations once in 2**38, for one coordinate; there are 50."""
    clear, draw = part(50, sigma=0.5), Counted(b"many")
    update, share, devices = np.linspace(-0.1, 0.1, 50), 0.5, 400
    total = sum(
        released(clear, update, share, draw_noise(clear, draw(32)), draw(32))
        for _ in range(devices)
    )
    deviation = math.sqrt((float(clear.variance) + 0.25) / devices)
    assert np.all(np.abs(total / devices - update * share / clear.step) < 7 * deviation)


# What it costs


def test_a_release_says_what_it_is() -> None:
    """Of any data against any other, however many devices are beside it."""
    clear = part(1000)
    found = once(clear)
    assert (found.unit, found.neighbours) == (Unit.CLIENT, Neighbours.REPLACE_ONE)
    assert (found.source, found.use, found.shares) == (Source.OWN, Use.TRAIN, 1)
    assert (found.run, found.round, found.cohort) == (7, 2, 10)
    for cohort in (1, 10**6):
        crowded = release_of(clear, 7, 2, cohort)
        assert np.array_equal(cost_of(crowded, Adversary.SERVER).plain, cost(clear).plain)
    assert Release.decode(found.encode()) == found


@settings(max_examples=40)
@given(st.integers(1, LARGEST), st.floats(2.0**-10, 2.0**10))
def test_each_part_has_a_release(size: int, sigma: float) -> None:
    """That can be kept, and costs no less than normal noise of the same variance would."""
    clear = part(size, sigma=sigma)
    assert Release.decode(once(clear).encode()) == once(clear)
    assert gdp(once(clear)) >= float(4 * clear.square / clear.variance)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0, 100.0])
def test_the_cost_is_that_of_two_updates_as_far_apart_as_can_be(sigma: float) -> None:
    clear = part(1000, sigma=sigma)
    square = float(4 * clear.square / clear.variance)
    # The whole numbers cost 4 of the variance, which is above 2**18.
    assert square < gdp(once(clear)) < square * (1 + 2.0**-15)
    law = DiscreteGaussian(clear.variance)
    distance = 1000 * (law.distance + left_out(law))
    assert cost(clear).plain[0, DISTANCE] == pytest.approx(distance, rel=1e-12, abs=0)
    assert epsilon(clear) >= epsilon_of(math.sqrt(square), 1e-5)


def concentrated(rho: float, delta: float) -> float:
    """Epsilon of rho-zCDP: the least, over the orders, of the bounds by Canonne, Kamath and Steinke
    2020, arXiv:2004.00010, section 2.3."""
    above = np.exp(np.linspace(-7, 12, 200_001))
    terms = (1 + above) * rho + np.log(above / (1 + above))
    return float((terms - (math.log(delta) + np.log1p(above)) / above).min())


@pytest.mark.parametrize("delta", [1e-6, 1e-5])
@pytest.mark.parametrize("sigma", [1.0, 2.0, 4.0, 8.0, 16.0, 100.0])
@pytest.mark.parametrize("size", [1, 10**6])
def test_it_costs_a_little_less_than_concentrated_privacy_says(
    size: int, sigma: float, delta: float
) -> None:
    """Two normal laws that are m apart are m**2 / 2-zCDP, and no more is said of them by that than
    a bound: 5% to 10% above what they are."""
    clear = part(size, sigma=sigma)
    loose = concentrated(float(2 * clear.square / clear.variance), delta)
    assert 0.88 * loose < epsilon(clear, delta) < 0.95 * loose


def test_two_updates_as_far_apart_as_can_be_are_that_far_apart() -> None:
    """So the bound is needed: a norm and its opposite are 2 norms apart."""
    clear = part(1, norm=1.0)
    one, other = (released(clear, np.array([x]), 1.0, quiet(clear), KEY) for x in (5.0, -5.0))
    assert square(one - other) == 4 * clear.levels**2
    assert 4 * clear.levels**2 <= 4 * clear.square


@pytest.mark.parametrize("sigma", [1.0, 4.0])
@pytest.mark.parametrize("eps", [0.5, 1.0, 2.0, 4.0])
def test_no_threshold_tells_a_norm_from_its_opposite_any_better(sigma: float, eps: float) -> None:
    """By the law of the noise, summed up: the best of all tests on one coordinate is as good as
    that of normal laws so far apart, as a deviation is 1024 steps or more, and within the cost."""
    clear = part(1, sigma=sigma)
    variance, apart = float(clear.variance), 2 * clear.levels
    reach = int(12 * math.sqrt(variance)) + apart
    x = np.arange(-reach, reach + 1)
    weights = np.exp(-(x.astype(np.float64) ** 2) / (2 * variance))
    above = np.cumsum(weights[::-1])[::-1] / weights.sum()  # P[X >= x]
    told = float((above[:-apart] - math.exp(eps) * above[apart:]).max())
    assert told <= delta_of(math.sqrt(gdp(once(clear))), eps)
    assert told == pytest.approx(delta_of(apart / math.sqrt(variance), eps), rel=1e-4)


def test_more_noise_costs_less_and_more_coordinates_the_same() -> None:
    costs = [epsilon(part(10, sigma=sigma)) for sigma in (1.0, 2.0, 4.0, 8.0)]
    assert costs == sorted(costs, reverse=True)
    assert gdp(once(part(10**6))) <= gdp(once(part(1))) * 1.07
