"""Neighbours and committees: the bounds against counting, against chance, and by hand."""

import math
from dataclasses import asdict
from fractions import Fraction
from functools import cache
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, hypergeom

from tacit.crypto.errors import ParameterError
from tacit.crypto.secagg.parameters import (
    COMPLETE,
    LIVENESS,
    SECURITY,
    choose,
    choose_committee,
    cut_risk,
    least_degree,
    most_corrupt,
    stall_risk,
)
from tacit.crypto.secagg.session import threshold_for
from tacit.crypto.shamir import MAX_POINTS
from tests.crypto import parameter_table

# The bound on a cut, by hand.

BY_HAND = [
    # p = 1/2, and one device alone of three: it misses both others.
    ((3, 0, 0, 1), 3 * Fraction(1, 2) ** 2),
    # p = 2/3, three honest ones of four: the same, and 4/3 for perhaps having four honest ones.
    ((4, 1, 0, 2), Fraction(4, 3) * 3 * Fraction(1, 3) ** 2),
    # p = 3/4, one removed: P[Bin(4, p) = 1] = 12/256 with the factor 1/12; for pairs
    # P[Bin(3, 15/16) = 1] = 45/4096 with the factor 1/45.
    (
        (5, 0, 1, 3),
        5 * Fraction(12, 256) / (1 - Fraction(1, 12))
        + 10 * Fraction(45, 4096) / (1 - Fraction(1, 45)),
    ),
]


@pytest.mark.parametrize(("case", "bound"), BY_HAND)
def test_the_bound_by_hand(case: tuple[int, int, int, int], bound: Fraction) -> None:
    assert cut_risk(*case) == pytest.approx(math.log2(bound), abs=1e-12)


@pytest.mark.parametrize(
    ("case", "risk"),
    [
        ((2, 0, 0, 1), -math.inf),
        ((10, 3, 3, 9), -math.inf),
        ((10, 3, 3, 100), -math.inf),
        ((10, 5, 4, 9), 0.0),  # one honest device left: it is what it is
        ((10, 9, 9, 9), 0.0),
        ((10, 12, 0, 9), 0.0),
        ((1, 0, 0, 1), 0.0),
        ((100, 10, 20, 0), 0.0),
        ((100, 10, 20, 20), 0.0),  # fewer neighbours than may be removed
    ],
)
def test_the_ends_of_the_bound(case: tuple[int, int, int, int], risk: float) -> None:
    assert cut_risk(*case) == risk


@pytest.mark.parametrize("case", [(50, 5, 10, 30), (300, 60, 60, 150), (1000, 100, 200, 346)])
def test_the_bound_is_what_its_formula_says(case: tuple[int, int, int, int]) -> None:
    """In rational arithmetic, with P[Bin <= d] summed in full: never below, and hardly above."""
    devices, corrupt, removable, degree = case
    honest, miss = devices - corrupt, 1 - Fraction(degree, devices - 1)
    total = 0.0
    for size in range(1, 4):  # what comes later adds next to nothing
        trials, nothing = honest - size, miss**size
        few = sum(
            math.comb(trials, k) * (1 - nothing) ** k * nothing ** (trials - k)
            for k in range(removable + 1)
        )
        total += float(math.comb(honest, size) * few)
    formula = math.log2(devices / honest * total)
    assert formula - 1e-8 <= cut_risk(*case) <= formula + 0.1


# Against all graphs on few devices.


@cache
def cuttable(honest: int, removable: int) -> list[int]:
    """How many graphs on `honest` devices can be cut by removing `removable`, by their edges."""
    pairs = list(combinations(range(honest), 2))
    graphs = np.arange(2 ** len(pairs))
    near = np.zeros((honest, len(graphs)), np.int64)
    for edge, (one, other) in enumerate(pairs):
        near[one] |= (graphs >> edge & 1) << other
        near[other] |= (graphs >> edge & 1) << one
    cut = np.zeros(len(graphs), bool)
    for count in range(removable + 1):
        for left in combinations(range(honest), honest - count):
            alive = sum(1 << device for device in left)
            reached = np.full(len(graphs), 1 << left[0])
            for _ in left:
                for device in left:
                    reached |= np.where(reached >> device & 1, near[device] & alive, 0)
            cut |= reached != alive
    edges = [graph.bit_count() for graph in range(len(graphs))]
    return np.bincount(np.array(edges)[cut], minlength=len(pairs) + 1).tolist()


def rate(honest: int, removable: int, p: float) -> float:
    """The exact chance of a cut, each edge there with probability p."""
    counts = cuttable(honest, removable)
    most = len(counts) - 1
    return sum(count * p**edges * (1 - p) ** (most - edges) for edges, count in enumerate(counts))


SMALL = [
    (devices, corrupt, removable, degree)
    for devices in range(3, 7)
    for corrupt in range(devices - 1)
    for removable in range(devices - corrupt - 1)
    for degree in range(1, devices)
]


def test_no_small_cohort_is_cut_more_often_than_the_bound() -> None:
    """For every number of corrupt devices up to the assumed one."""
    promised = 0
    for devices, corrupt, removable, degree in SMALL:
        bound = 2 ** cut_risk(devices, corrupt, removable, degree)
        promised += 0 < bound < 1
        for honest in range(devices - corrupt, devices + 1):
            assert rate(honest, removable, degree / (devices - 1)) <= bound * (1 + 1e-9)
    assert promised > 20


def test_where_a_single_device_is_the_weak_spot_the_bound_is_close() -> None:
    """Inclusion and exclusion: P >= S1 - S2, and S2 is small where the bound is."""
    close = 0
    for devices, corrupt, removable, degree in SMALL:
        bound = 2 ** cut_risk(devices, corrupt, removable, degree)
        if not corrupt and 0 < bound < 0.1:
            close += 1
            assert bound < 1.25 * rate(devices, removable, degree / (devices - 1))
    assert close >= 3


# Against chance: the cheapest attack on cohorts too large to count.

TRIALS = 2000


def cuts(devices: int, corrupt: int, removable: int, degree: int) -> int:
    """How often it is enough to remove all neighbours of the device with the fewest."""
    rng = np.random.default_rng(devices + corrupt)
    honest, found = devices - corrupt, 0
    for _ in range(TRIALS):
        upper = np.triu(rng.random((honest, honest)) < degree / (devices - 1), 1)
        near = upper | upper.T
        victim = near.sum(axis=0).argmin()
        if near[victim].sum() <= removable:
            left = ~near[victim]
            assert left.sum() >= 2  # the victim, and others it has no neighbour among
            found += 1
    return found


@pytest.mark.parametrize(
    ("devices", "corrupt", "removable", "security"),
    [(60, 0, 6, 4), (60, 12, 12, 5), (120, 12, 24, 6), (200, 20, 10, 5)],
)
def test_the_cheapest_attack_succeeds_as_often_as_the_bound_says_and_no_more(
    devices: int, corrupt: int, removable: int, security: int
) -> None:
    """A binomial count this far from its mean has a chance of 1e-6.

    The bound's allowance for fewer corrupt devices is taken off before it is called close: here
    there are just `corrupt`.
    """
    degree = least_degree(devices, corrupt, removable, security)
    bound = 2 ** cut_risk(devices, corrupt, removable, degree)
    assert 2 ** -(security + 1) < bound <= 2**-security
    found = cuts(devices, corrupt, removable, degree)
    assert binom.sf(found - 1, TRIALS, bound) > 1e-6
    assert binom.cdf(found, TRIALS, 0.8 * bound * (1 - corrupt / devices)) > 1e-6
    assert found > 0
    # The same count would not do for a graph with a tenth fewer neighbours.
    thin = cuts(devices, corrupt, removable, degree * 9 // 10)
    assert binom.sf(thin - 1, TRIALS, bound) < 1e-6


# Laws.

cohorts = st.integers(2, 400).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(0, n // 2), st.integers(0, n // 2))
)


@given(cohorts, st.data())
def test_more_neighbours_never_hurt_and_more_removals_never_help(cohort, data) -> None:
    devices, corrupt, removable = cohort
    degree = data.draw(st.integers(0, devices))
    risk = cut_risk(devices, corrupt, removable, degree)
    assert risk <= 0
    assert cut_risk(devices, corrupt, removable, degree + 1) <= risk
    assert cut_risk(devices, corrupt, removable + 1, degree) >= risk


@given(cohorts, st.integers(1, 60))
def test_the_least_degree_is_the_least(cohort, security: int) -> None:
    devices, corrupt, removable = cohort
    degree = least_degree(devices, corrupt, removable, security)
    assert 1 <= degree <= devices - 1
    if devices - corrupt - removable >= 2:
        assert cut_risk(devices, corrupt, removable, degree) <= -security
    assert cut_risk(devices, corrupt, removable, degree - 1) > -security


# Committees.

draws = st.integers(1, 300).flatmap(
    lambda r: st.tuples(st.just(r), st.integers(0, r), st.integers(1, min(r, 100)))
)


@given(draws)
def test_corrupt_seats_are_hypergeometric(draw) -> None:
    """Near 2**-10, where scipy's own error is far below the gap between two neighbouring tails."""
    roster, corrupt, seats = draw
    most = most_corrupt(roster, corrupt, seats, 10)
    more = hypergeom(roster, corrupt, seats)
    assert most <= min(seats, corrupt)
    assert more.sf(most) <= 2**-10 * (1 + 1e-9)
    assert most == 0 or more.sf(most - 1) >= 2**-10 * (1 - 1e-9)


@given(draws, st.data())
def test_silent_seats_are_hypergeometric(draw, data) -> None:
    roster, silent, seats = draw
    threshold = data.draw(st.integers(1, seats))
    risk = stall_risk(roster, silent, seats, threshold)
    stalled = hypergeom(roster, roster - silent, seats).cdf(threshold - 1)
    assert 2**risk == pytest.approx(stalled, rel=1e-8, abs=1e-12)


def test_committees_by_hand() -> None:
    """Two seats out of four devices: both marked in 1 draw of 6, none in 1 of 6."""
    assert stall_risk(4, 2, 2, 1) == pytest.approx(math.log2(1 / 6))
    assert stall_risk(4, 2, 2, 2) == pytest.approx(math.log2(5 / 6))
    assert stall_risk(4, 0, 2, 2) == -math.inf
    assert most_corrupt(4, 2, 2, 2) == 1  # more than one: 1/6, at most 1/4
    assert most_corrupt(4, 2, 2, 3) == 2
    assert most_corrupt(4, 4, 2) == 2
    assert most_corrupt(4, 0, 2) == 0


@given(draws)
def test_more_corruption_never_takes_fewer_seats(draw) -> None:
    roster, corrupt, seats = draw
    most = most_corrupt(roster, corrupt, seats)
    assert most_corrupt(roster, min(corrupt + 1, roster), seats) >= most
    assert most_corrupt(roster, corrupt, seats, 60) >= most


# The choice.

CHOICES = [
    # devices, gamma, drop: degree, seats, threshold, min_survivors
    ((3, 1 / 3, 0.0), (2, 0, 3, 3)),
    ((10, 1 / 3, 1 / 3), (9, 0, 7, 7)),
    ((32, 0.1, 0.2), (31, 0, 18, 26)),
    ((50, 0.1, 0.2), (39, 0, 28, 40)),
    ((100, 0.2, 0.2), (68, 0, 61, 80)),
    ((100, 1 / 3, 1 / 3), (89, 0, 67, 67)),
    ((500, 0.05, 0.1), (126, 51, 35, 450)),
    ((1000, 0.1, 0.2), (346, 155, 101, 800)),
    ((5000, 0.1, 0.2), (1381, 182, 119, 4000)),
]


@pytest.mark.parametrize(("asked", "chosen"), CHOICES)
def test_what_is_chosen(asked, chosen) -> None:
    found = choose(*asked)
    assert (found.degree, found.seats, found.threshold, found.min_survivors) == chosen
    assert (found.devices, found.roster) == (asked[0], asked[0])


@given(
    st.integers(2, 600),
    st.floats(0, 0.4),
    st.floats(0, 0.3),
    st.integers(0, 3000),
)
def test_what_is_chosen_is_safe(devices: int, gamma: float, drop: float, others: int) -> None:
    roster = devices + others
    try:
        committee = choose_committee(devices, gamma, drop, roster)
    except ParameterError:
        with pytest.raises(ParameterError):
            choose(devices, gamma, drop, roster)
        return
    chosen = choose(devices, gamma, drop, roster)  # where a committee is safe, some graph is
    assert asdict(chosen).items() >= asdict(committee).items()
    missing = devices - chosen.min_survivors
    assert chosen.corrupt == math.floor(gamma * devices)
    assert missing == math.floor(drop * devices)
    assert chosen.min_survivors - chosen.corrupt >= 2
    assert chosen.cut_risk == cut_risk(devices, chosen.corrupt, missing, chosen.degree)
    assert chosen.cut_risk <= -(SECURITY + 1)
    assert chosen.stall_risk <= -LIVENESS
    if chosen.seats:
        assert devices > COMPLETE
        assert chosen.seats <= min(MAX_POINTS, roster)
        corrupt = most_corrupt(roster, math.floor(gamma * roster), chosen.seats)
        assert chosen.threshold == threshold_for(chosen.seats, corrupt) <= chosen.seats
    else:
        assert devices <= MAX_POINTS
        assert chosen.threshold == threshold_for(devices, chosen.corrupt) <= chosen.min_survivors
    if devices <= COMPLETE:
        assert chosen.degree == devices - 1


def test_a_larger_roster_makes_no_graph_larger() -> None:
    alone, among = choose(300, 0.1, 0.2), choose(300, 0.1, 0.2, 10_000)
    assert among.degree == alone.degree
    assert among.seats > alone.seats  # more of a small roster is known to be honest


def test_a_drawn_committee_is_worth_its_beacon() -> None:
    """It is half the cohort at most: else the cohort itself, of which nothing is left to chance."""
    assert 0 < choose(200, 0.1, 0.2).seats <= 100
    assert choose(200, 0.1, 0.2, 10_000).seats == 0


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((1000, 1 / 3, 1 / 3), "at most 255"),
        ((1000, 1 / 3, 1 / 3), "gamma + 2 * drop"),
        ((33, 1 / 3, 1 / 3), "Lower gamma or drop"),
        ((9, 1 / 3, 1 / 3), "Lower gamma or drop"),
        ((5000, 0.2, 0.2), "at most 255"),
        ((2, 0.9, 0.0), "fewer than two honest ones"),
        ((100, 0.6, 0.6), "fewer than two honest ones"),
        ((1, 0.0, 0.0), "expected 2 to"),
        ((100, 0.1, 0.1, 50), "roster of 50"),
        ((100, 1.0, 0.1), "below 1"),
        ((100, 0.1, -0.1), "0 or more"),
        ((100, math.nan, 0.1), "gamma=nan"),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(asked, said: str) -> None:
    with pytest.raises(ParameterError) as refused:
        choose(*asked)
    assert said in str(refused.value)


def test_the_document_has_what_is_chosen() -> None:
    text = parameter_table.DOC.read_text(encoding="utf-8")
    assert parameter_table.between_marks(text).strip() == parameter_table.table().strip()
    assert parameter_table.with_table(text) == text
