"""Noise: by the right table bit for bit, and of the distribution it has to have and no other."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from decimal import Context, Decimal
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.crypto.errors import ParameterError
from tacit.privacy import samplers
from tacit.privacy.samplers import DiscreteGaussian, Law, Sampler, Skellam, Table
from tests.crypto.lattice import slow
from tests.privacy import exact

KEY = bytes(range(32))
TRIES = 1 << 20
LAWS: list[type[Law]] = [Skellam, DiscreteGaussian]
EXACT = {Skellam: exact.skellam, DiscreteGaussian: exact.gaussian}
SMALL = Fraction(1, 1 << 128)


def table(law: type[Law], variance: Fraction | int, stride: int = 1) -> Table:
    """The one that `digits` would take, without a limit to its variance."""
    return samplers._table(law, Fraction(variance), stride)


def variances(law: type[Law], largest: int = 1 << 60) -> st.SearchStrategy[Fraction]:
    """Spread over all orders of magnitude, whole or not."""
    exponents = st.floats(math.log2(law.least), math.log2(largest))
    return exponents.map(lambda e: min(max(Fraction(2.0**e), law.least), Fraction(largest)))


# The table


CASES = [(10, 1), (1000, 1), (8192, 1), (1000, 4), (8192, 8), (Fraction(77, 3), 1)]
LITTLE = [Fraction(1, 1 << 30), Fraction(1, 3)]


@pytest.mark.parametrize(
    ("law", "variance", "stride"),
    [(law, *case) for law in LAWS for case in CASES]
    + [(Skellam, variance, 1) for variance in LITTLE]
    + [(DiscreteGaussian, Fraction(1, 2), 1)],
)
def test_a_table_is_that_of_exact_arithmetic(
    law: type[Law], variance: Fraction | int, stride: int
) -> None:
    """Each entry; and its distance from the law is no more than is said."""
    weights = EXACT[law](Fraction(variance), stride)
    found = table(law, variance, stride)
    assert list(found.bounds) == exact.bounds(weights)
    distance = exact.variation(exact.masses(found.bounds), [*weights[:0:-1], *weights])
    assert 0 < distance < (found.reach + 2) * SMALL
    assert distance > found.reach * SMALL / 8  # that what is said can be wrong


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("variance", [1 << 15, (1 << 15) + 1, 1 << 60])
def test_more_digits_of_arithmetic_change_no_bound(
    law: type[Law], variance: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the widest stride, 2**25, where 1 - cos is smallest."""
    usual = [found.bounds for found in law(Fraction(variance)).digits]
    monkeypatch.setattr(samplers, "_table", samplers._table.__wrapped__)
    monkeypatch.setattr(samplers, "_CONTEXT", Context(prec=150))
    monkeypatch.setattr(samplers, "_FINE", 300)
    monkeypatch.setattr(samplers, "_NOTHING", Decimal("1e-91"))
    assert [found.bounds for found in law(Fraction(variance)).digits] == usual


@settings(max_examples=25)
@given(st.sampled_from(LAWS).flatmap(lambda law: st.tuples(st.just(law), variances(law, 1 << 15))))
def test_a_table_is_symmetric_and_monotone(case: tuple[type[Law], Fraction]) -> None:
    bounds = table(*case).bounds
    assert len(bounds) % 2 == 1
    assert bounds[-1] == 1 << 128
    assert bounds[0] >= 1
    assert list(bounds) == sorted(bounds)
    masses = exact.masses(bounds)
    assert masses == masses[::-1]
    half = masses[len(masses) // 2 :]  # falls from the middle on, but for the rounding of bounds
    assert all(after - before <= 1 for before, after in pairwise(half))


def variance_of(found: Table) -> Fraction:
    places = range(-found.reach, found.reach + 1)
    return sum(x * x * m for x, m in zip(places, exact.masses(found.bounds), strict=True)) * SMALL


@settings(max_examples=25)
@given(st.sampled_from(LAWS).flatmap(lambda law: st.tuples(st.just(law), variances(law))))
def test_variances_of_the_digits_add_up(case: tuple[type[Law], Fraction]) -> None:
    """Discrete Gaussians have the variance of their name, from 2 on to 1e-14: see below. A wider
    table is off by less than its reach squared times its distance, 2**-90."""
    law, variance = case
    digits = law(variance).digits
    total = sum(variance_of(found) * 1024**i for i, found in enumerate(digits))
    if law is Skellam or variance > 2:
        assert abs(total / variance - 1) < 1e-14
    assert len(digits) == 1 or variance > 1 << 15


@pytest.mark.parametrize(("variance", "less"), [(Fraction(1, 2), 2e-3), (Fraction(1), 2e-7)])
def test_narrow_discrete_gaussians_have_less_variance(variance: Fraction, less: float) -> None:
    assert 0.9 * less < 1 - variance_of(table(DiscreteGaussian, variance)) / variance < 1.1 * less


def test_sums_of_skellam_are_skellam_and_those_of_discrete_gaussians_nearly() -> None:
    def distance(law: type[Law], parts: list[Fraction]) -> Fraction:
        first, *others = (exact.masses(table(law, part).bounds) for part in parts)
        for other in others:
            first = exact.convolved(first, other, 1)
        return exact.variation(first, exact.masses(table(law, sum(parts)).bounds))

    parts = [Fraction(1, 3), Fraction(10), Fraction(77, 3)]
    reach = sum(table(Skellam, part).reach + 2 for part in (*parts, sum(parts)))
    assert distance(Skellam, parts) < reach * SMALL
    twice = [
        distance(DiscreteGaussian, [variance] * 2) for variance in (Fraction(1, 2), Fraction(2))
    ]
    assert twice[0] > 1e-3
    assert twice[1] < 1e-8


# Wide noise


def together(law: Law, step: int) -> list[int]:
    """Weights of a sample by the masses of its digits."""
    *lower, out = (exact.masses(found.bounds) for found in law.digits)
    for digit in reversed(lower):
        out = exact.convolved(digit, out, step)
    return out


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("variance", [(1 << 15) + 1, 100_000])
def test_two_digits_have_the_law_of_their_sum(law: type[Law], variance: int) -> None:
    wide = law(Fraction(variance))
    assert len(wide.digits) == 2
    whole = table(law, variance)
    away = exact.variation(together(wide, 32), exact.masses(whole.bounds))
    assert away < Fraction(wide.distance) + (whole.reach + 2) * SMALL
    assert away > 100 * SMALL


@pytest.mark.parametrize("law", LAWS)
def test_so_have_three(law: type[Law], monkeypatch: pytest.MonkeyPatch) -> None:
    """Scaled down, so that there is a table to compare with: the digit is 8 * 8**2, as it is
    8 * 32**2, and up to four digits have one table. E_1 >= 6 * 64 * (1 - cos(pi / 4)) = 112."""
    for name, value in {"STEP": 8, "DIGIT": 8 * 64, "ONE_TABLE": 32 * 64}.items():
        monkeypatch.setattr(samplers, name, value)
    wide = law(Fraction(140_000))
    assert len(wide.digits) == 3
    whole = table(law, 140_000)
    away = exact.variation(together(wide, 8), exact.masses(whole.bounds))
    assert away < Fraction(wide.distance) + (whole.reach + 2) * SMALL


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("digit", [1 << 8, 1 << 10])
def test_a_lower_digit_that_is_too_narrow_would_show(
    law: type[Law], digit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Terms 1 and -1 make waves of 2 exp(-E_1), relative to the law: 2/pi * exp(-E_1) in distance,
    as a mean of |cos| is 2/pi. For the Gaussian, E_1 has (2 pi / g)**2 / 2 in place of 1 - cos."""
    monkeypatch.setattr(samplers, "DIGIT", digit)
    variance = 40_000
    wide = law(Fraction(variance))
    away = exact.variation(together(wide, 32), exact.masses(table(law, variance).bounds))
    angle = 2 * math.pi / 32
    bend = 1 - math.cos(angle) if law is Skellam else angle**2 / 2
    wave = math.exp(-digit * (variance - digit) / variance * bend)
    assert float(away) == pytest.approx(2 / math.pi * wave, rel=0.02)
    assert away > 1000 * Fraction(wide.distance)


# The sample


def joined(numbers: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """u (n,) as cells (n,) and words (n, 2); 16 bits of a first word that have to be ignored."""
    cells = np.array([u >> 112 for u in numbers], np.uint16)
    words = [(u >> 64 & (1 << 48) - 1 | 0xABCD << 48, u & (1 << 64) - 1) for u in numbers]
    return cells, np.array(words, np.uint64).reshape(-1, 2)


def looked_up(found: Table, numbers: Sequence[int]) -> tuple[list[int], list[bool]]:
    """The sample of each u, and whether its cell was open."""
    cells, words = joined(numbers)
    got = found.first[cells].astype(np.intp)
    unsettled = got < -(1 << 14)
    got[unsettled] = found.settle(found.first[cells[unsettled]], cells[unsettled], words[unsettled])
    return got.tolist(), unsettled.tolist()


def check_samples(found: Table, numbers: Sequence[int]) -> None:
    """Each is the number of bounds up to u; a cell is open if not all that begin so agree."""
    samples, unsettled = looked_up(found, numbers)
    assert samples == [bisect_right(found.bounds, u) - found.reach for u in numbers]
    ends = [(u >> 112 << 112, u | (1 << 112) - 1) for u in numbers]
    assert unsettled == [
        bisect_right(found.bounds, low) != bisect_right(found.bounds, high) for low, high in ends
    ]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("variance", [Fraction(1, 2), 10, 8192, 1 << 15])
def test_a_sample_is_the_number_of_bounds_up_to_u(law: type[Law], variance: Fraction | int) -> None:
    """In each cell; and where all 128 bits decide, at each bound and where its upper half begins,
    one below and one above."""
    found = table(law, variance)
    tight = [u + d for b in found.bounds for u in (b, b >> 64 << 64) for d in (-1, 0, 1)]
    numbers = [u for u in tight if 0 <= u < 1 << 128] + [cell << 112 for cell in range(1 << 16)]
    check_samples(found, numbers)
    samples, unsettled = looked_up(found, [0, (1 << 128) - 1])
    assert samples == [-found.reach, found.reach]
    assert unsettled == [True, True]


near = st.builds(
    lambda top, bits, away: min(max((top << bits) + away, 0), (1 << 128) - 1),
    st.integers(0, 9),
    st.sampled_from([0, 64, 112]),
    st.integers(-2, 2),
)


@given(st.lists(near, max_size=8), st.lists(near))
def test_so_it_is_for_any_bounds(bounds: list[int], numbers: list[int]) -> None:
    """Several in a cell, equal ones, some on a cell's edge, some with equal upper halves."""
    inner = sorted(bounds)[len(bounds) % 2 :]
    check_samples(Table.of((*inner, 1 << 128)), [*numbers, *inner])


@pytest.mark.parametrize(
    "law",
    [Skellam(Fraction(10)), DiscreteGaussian(Fraction(5000)), Skellam(Fraction(10**8))],
    ids=str,
)
def test_samples_are_looked_up_one_by_one(law: Law) -> None:
    tables = [found.bounds for found in law.digits]
    assert Sampler(law, KEY, 3000).draw(3000).tolist() == exact.sampled(KEY, tables, 32, 3000)


@pytest.mark.parametrize(
    ("law", "wanted"),
    [
        (Skellam(Fraction(1, 2)), [0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0]),
        (Skellam(Fraction(10)), [-1, 1, 4, 2, -2, 1, -2, 0, 4, 2, 0, 2]),
        (
            Skellam(Fraction(10**6)),
            [-850, 19, 949, 1655, 805, -1533, 336, 957, 938, -1148, 427, -645],
        ),
        (DiscreteGaussian(Fraction(1 << 40)), [214638, -380877, 1665525, 62039, 664965, -152989]),
    ],
    ids=str,
)
def test_known_samples(law: Law, wanted: list[int]) -> None:
    """A key has the same noise in all versions: the first samples of bytes 0 .. 31."""
    assert Sampler(law, KEY, len(wanted)).draw(len(wanted)).tolist() == wanted


@settings(max_examples=30)
@given(st.lists(st.integers(0, 50), max_size=8), st.sampled_from([3, 16, 1000]))
def test_how_samples_are_drawn_changes_none(counts: list[int], chunk: int) -> None:
    law = DiscreteGaussian(Fraction(10**6))
    whole = Sampler(law, KEY, sum(counts)).draw(sum(counts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samplers, "CHUNK", chunk)
        source = Sampler(law, KEY, sum(counts))
        parts = [source.draw(count) for count in counts]
    np.testing.assert_array_equal(np.concatenate([np.empty(0, np.int64), *parts]), whole)


def test_a_long_draw_is_cut_into_chunks() -> None:
    count = samplers.CHUNK + 5
    found = Sampler(Skellam(Fraction(10**6)), KEY, count).draw(count)
    assert found[:99].tolist() == Sampler(Skellam(Fraction(10**6)), KEY, 99).draw(99).tolist()
    assert np.unique(found[-99:]).size > 50


# The distribution


def drawn(law: Law, tries: int = TRIES) -> np.ndarray:
    return Sampler(law, KEY, tries).draw(tries)


def edges(law: Law) -> list[int]:
    """Whole numbers at which a bin begins: 30, 300 and 3000 samples of TRIES from each end, and at
    the 32nd parts; fewer where single numbers have more than that."""
    shares = [30, 300, 3000, *(TRIES // 32 * k for k in range(1, 16))]
    bounds, reach = law.digits[0].bounds[: law.reach], law.reach
    found = {bisect_left(bounds, share * (1 << 128) // TRIES) + 1 - reach for share in shares}
    left = sorted(x for x in found if x <= 0)
    return [*left, *(1 - x for x in reversed(left))]


def expected(law: Law, borders: Sequence[int]) -> np.ndarray:
    found = law.digits[0]
    below = [0, *found.bounds]
    at = [below[min(max(x + found.reach, 0), len(below) - 1)] for x in borders]
    return np.diff([0.0, *(TRIES * float(b * SMALL) for b in at), float(TRIES)])


def counted(samples: np.ndarray, borders: Sequence[int]) -> np.ndarray:
    return np.bincount(np.searchsorted(borders, samples, "right"), minlength=len(borders) + 1)


def other(law: Law, times: Fraction) -> Law:
    return type(law)(law.variance * times)


@pytest.mark.parametrize(
    "law",
    [Skellam(Fraction(1, 2)), *(law(Fraction(v)) for law in LAWS for v in (10, 1000, 1 << 14))],
    ids=str,
)
def test_chi_square_accepts_the_variance_and_no_other(law: Law) -> None:
    """5% less or more would be seen, but for a chance of 2**-40. Tails have bins of their own."""
    borders = edges(law)
    samples, freedom = drawn(law), len(borders)
    assert slow.chi_square(counted(samples, borders), expected(law, borders)) < slow.most(freedom)
    for times in (Fraction(95, 100), Fraction(105, 100)):
        wrong = other(law, times)
        own = edges(wrong)
        away = slow.chi_square(expected(law, own), expected(wrong, own))
        assert slow.least(len(own), away) > slow.most(len(own))
        assert slow.chi_square(counted(samples, own), expected(wrong, own)) > slow.most(len(own))


def test_chi_square_tells_skellam_from_discrete_gaussians() -> None:
    skellam, gaussian = Skellam(Fraction(5)), DiscreteGaussian(Fraction(5))
    borders = edges(gaussian)
    away = slow.chi_square(expected(skellam, borders), expected(gaussian, borders))
    assert slow.least(len(borders), away) > slow.most(len(borders))
    found = slow.chi_square(counted(drawn(skellam), borders), expected(gaussian, borders))
    assert found > slow.most(len(borders))


# Massart 1990 (doi:10.1214/aop/1176990746): an empirical distribution function of n samples is
# further than e from the true one, anywhere, with probability at most 2 exp(-2 n e**2).
KS = math.sqrt(41 * math.log(2) / (2 * TRIES))


def kolmogorov(samples: np.ndarray, variance: float) -> float:
    """The largest gap to the distribution function of the normal law of this variance, taken half
    way between whole numbers, at 2001 places up to 5 deviations away."""
    x = np.unique(np.rint(np.linspace(-5, 5, 2001) * math.sqrt(variance)))
    below = np.searchsorted(np.sort(samples), x, "right") / samples.size
    normal = [(1 + math.erf((v + 0.5) / math.sqrt(2 * variance))) / 2 for v in x.tolist()]
    return float(np.abs(below - normal).max())


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("exponent", [14, 15.5, 20, 40, 60])
def test_kolmogorov_smirnov_accepts_the_variance_and_no_other(
    law: type[Law], exponent: float
) -> None:
    """From a variance of 2**14 on both laws are nearer to the normal one than 1e-5, by their
    cumulants. Normal laws are apart by up to exp(-1/2) / sqrt(2 pi) = 0.242 times the logarithm of
    the ratio of deviations, to first order: 0.0115 for 10%, more than 2 * KS = 0.0074."""
    variance = 2.0**exponent
    samples = drawn(law(Fraction(variance)))
    assert kolmogorov(samples, variance) < KS + 1e-5
    for times in (0.9, 1.1):
        assert 0.24 * abs(math.log(times)) / 2 > 2 * KS + 1e-4
        assert kolmogorov(samples, variance * times) > KS + 1e-5


def test_all_residues_of_wide_noise_are_alike() -> None:
    """Modulo 64, twice the step: without its lowest digit noise would be even, and more."""
    law = Skellam(Fraction(1 << 24))
    even = np.full(64, TRIES / 64)
    samples = drawn(law)
    assert slow.chi_square(np.bincount(samples % 64), even) < slow.most(63)
    highest = exact.sampled(KEY, [law.digits[1].bounds], 32, 1000)
    assert len({32 * digit % 64 for digit in highest}) == 2


@pytest.mark.parametrize(
    "law", [DiscreteGaussian(Fraction(1000)), Skellam(Fraction(1, 2))], ids=str
)
def test_the_largest_of_many_samples_is_as_far_out_as_it_has_to_be(law: Law) -> None:
    """If m are expected beyond a number, there are none with probability exp(-m) at most, and
    there is one with probability m: of 28 and 2**-40 each is as likely as 2**-40."""
    samples, bounds = drawn(law), law.digits[0].bounds
    least = law.reach - bisect_left(bounds, 28 * (1 << 128) // TRIES)
    most = law.reach + 1 - bisect_left(bounds, (1 << 88) // TRIES)
    assert least <= samples.max() < most
    assert least <= -samples.min() < most


# Refusals


@pytest.mark.parametrize(
    ("law", "variance", "why"),
    [
        (Skellam, Fraction(1, (1 << 30) + 1), "expected 1/1073741824 .. 2\\*\\*60"),
        (DiscreteGaussian, Fraction(499, 1000), "expected 1/2 .. 2\\*\\*60"),
        (Skellam, Fraction((1 << 60) + 1), "expected"),
        (DiscreteGaussian, Fraction(1 << 61), "expected"),
        (Skellam, Fraction(0), "expected"),
        (Skellam, Fraction(-1), "expected"),
        (Skellam, 10.0, "give it as a Fraction"),
        (DiscreteGaussian, math.nan, "give it as a Fraction"),
        (Skellam, np.float64(10), "give it as a Fraction"),
    ],
)
def test_a_variance_out_of_range_is_refused(law: type[Law], variance: Fraction, why: str) -> None:
    with pytest.raises(ParameterError, match=why):
        law(variance)


def test_the_ends_of_the_range_work() -> None:
    for law in LAWS:
        assert np.abs(Sampler(law(law.least), KEY, 100).draw(100)).max() < 9
        widest = law(samplers.LARGEST)
        assert len(widest.digits) == 6
        assert widest.reach < 1 << 34
        assert np.abs(Sampler(widest, KEY, 100).draw(100)).max() > 1 << 30


@settings(max_examples=25)
@given(st.sampled_from(LAWS).flatmap(lambda law: st.tuples(st.just(law), variances(law))))
def test_the_distance_is_what_the_module_says(case: tuple[type[Law], Fraction]) -> None:
    law = case[0](case[1])
    reaches = [found.reach for found in law.digits]
    assert law.distance == math.ldexp(sum(reaches) + 2 * len(reaches) + 1, -128)
    assert law.distance <= 2.0**-115
    assert law.reach == sum(reach * 32**i for i, reach in enumerate(reaches))


def test_a_key_of_another_size_or_too_many_samples_are_refused() -> None:
    law = Skellam(Fraction(10))
    with pytest.raises(ParameterError, match="32 bytes, not 31"):
        Sampler(law, bytes(31), 1)
    Sampler(law, KEY, (1 << 32) - 2)
    with pytest.raises(ParameterError, match="bytes from one key"):
        Sampler(law, KEY, (1 << 32) - 1)


def test_the_key_is_in_no_repr() -> None:
    assert KEY.hex() not in repr(Sampler(Skellam(Fraction(10)), KEY, 1))
    assert len(repr(Skellam(Fraction(10)))) < 99
