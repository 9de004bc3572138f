"""Correlated noise: as far apart as it says and no further, of the variance it says, and of use."""

import math
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.crypto.errors import MalformedMessage, ParameterError
from tacit.crypto.vector import Floats
from tacit.privacy import banded
from tacit.privacy.accountants import DISTANCE, GDP, Adversary, compose, cost, gdp
from tacit.privacy.banded import Banded, Stream, prefix_error
from tacit.privacy.equivalents import equivalent
from tacit.privacy.releases import Discrete, Release, Source
from tacit.privacy.samplers import Integers, Skellam

PLAN = Banded(rounds=9, bands=3, separation=3, coordinates=5, bits=28, bound=50, noise=2.0)
Totals = list[list[int]]


def key(number: int) -> bytes:
    return number.to_bytes(32, "little")


def turns(plan: Banded, totals: Totals, *, of: int = 3) -> tuple[list[Floats], list[Stream]]:
    """Estimates of totals, cohorts in rotation, keys by the round; and all states."""
    stream, states, found = Stream(plan), [], []
    for t, total in enumerate(totals):
        states.append(stream)
        ring = np.array(total, np.int64).astype(np.uint32)
        estimate, stream = stream.advance(ring, frozenset({t % of}), key(t))
        found.append(estimate)
    return found, [*states, stream]


def released(plan: Banded, estimates: list[Floats]) -> Integers:
    """y_1, y_2, .. as anybody can work them out: (rounds, coordinates)."""
    found = np.zeros((len(estimates), plan.coordinates))
    for t in range(len(estimates)):
        for k, a in enumerate(plan.coefficients[: t + 1]):
            found[t] += a * estimates[t - k]
    return np.rint(found).astype(np.int64)


def matrix(plan: Banded) -> Integers:
    """C, by its definition."""
    a = [*plan.coefficients, *[0] * plan.rounds]
    return np.array(
        [[a[t - s] if t >= s else 0 for s in range(plan.rounds)] for t in range(plan.rounds)]
    )


def patterns(rounds: int, separation: int) -> list[tuple[int, ...]]:
    """All ways to take part."""
    return [
        when
        for size in range(1, rounds + 1)
        for when in combinations(range(rounds), size)
        if all(later - earlier >= separation for earlier, later in pairwise(when))
    ]


def furthest(plan: Banded, separation: int) -> int:
    """The square of how far a device with vectors of one coordinate, B or -B, moves y at most."""
    c = matrix(plan)
    return max(
        int(sum((c[:, list(when)] @ np.array(signs)) ** 2)) * plan.bound
        for when in patterns(plan.rounds, separation)
        for signs in product((1, -1), repeat=len(when))
    )


# What a device costs


@pytest.mark.parametrize(
    ("rounds", "bands", "separation"),
    [(1, 1, 1), (6, 1, 1), (7, 2, 2), (8, 3, 3), (9, 3, 4), (8, 5, 7), (6, 6, 6), (5, 2, 9)],
)
def test_sensitivity_is_the_largest_of_all_patterns(
    rounds: int, bands: int, separation: int
) -> None:
    """Bounded by it, and met but where the last round cuts off the last of a device's bands."""
    plan = replace(PLAN, rounds=rounds, bands=bands, separation=separation)
    most = max(len(when) for when in patterns(rounds, separation))
    assert plan.participations == most
    assert furthest(plan, separation) <= plan.sensitivity == most * plan.square
    if (most - 1) * separation + bands <= rounds:
        assert furthest(plan, separation) == plan.sensitivity


def test_rounds_that_overlap_would_cost_more_and_are_refused() -> None:
    assert furthest(PLAN, PLAN.bands) == 3 * PLAN.square
    near = [when for when in patterns(9, 2) if len(when) == 2]
    moved = [int((matrix(PLAN)[:, list(when)].sum(1) ** 2).sum()) * PLAN.bound for when in near]
    assert max(moved) > 2 * PLAN.square
    with pytest.raises(ParameterError, match="overlap"):
        replace(PLAN, separation=2)


@settings(max_examples=30, deadline=None)
@given(
    st.data(),
    st.sampled_from([(9, 3, 3), (9, 3, 4), (8, 2, 2), (6, 1, 1)]),
)
def test_a_run_moves_as_far_as_the_ledger_says(
    data: st.DataObject, shape: tuple[int, int, int]
) -> None:
    """By running it twice with the same noise: exactly, not in a model of it."""
    rounds, bands, separation = shape
    plan = replace(PLAN, rounds=rounds, bands=bands, separation=separation)
    when = data.draw(st.sampled_from(patterns(rounds, separation)))
    part = st.lists(st.integers(-3, 3), min_size=5, max_size=5)
    others = data.draw(st.lists(part, min_size=rounds, max_size=rounds))
    mine = {t: data.draw(part.filter(any)) for t in when}
    with_me = [
        [x + y for x, y in zip(row, mine.get(t, [0] * 5), strict=True)]
        for t, row in enumerate(others)
    ]
    of = max(separation, 1)
    first, second = turns(plan, others, of=of)[0], turns(plan, with_me, of=of)[0]
    moved = released(plan, second) - released(plan, first)
    vectors = np.zeros((rounds, 5), np.int64)
    for t, vector in mine.items():
        vectors[t] = vector
    assert np.array_equal(moved, matrix(plan) @ vectors)
    assert all(sum(x * x for x in vector) <= plan.bound for vector in mine.values())
    law = Skellam(plan.variance)
    entries = [plan.release(1, t, 4, 4) for t in when]
    spent = compose(entries, Adversary.OUTSIDER)
    assert int((moved**2).sum()) / equivalent(law) <= float(spent.plain[0, GDP]) * (1 + 1e-12)


def test_rounds_of_a_device_add_up_to_its_whole_run() -> None:
    plan = replace(PLAN, bound=10**6)
    when = range(0, plan.rounds, plan.separation)
    entries = [plan.release(7, t, 12, 10) for t in when]
    spent = compose(entries, Adversary.OUTSIDER)
    whole = replace(entries[0], mechanism=Discrete(Skellam(plan.variance), plan.sensitivity, 5))
    assert float(spent.plain[0, GDP]) == pytest.approx(gdp(whole), rel=1e-12)
    # Skellam noise is worth its variance less 1/3 and a bit, of some 10**10 here.
    assert float(spent.plain[0, GDP]) == pytest.approx(3 / plan.noise**2, rel=1e-9)
    # Each device is hidden by the samples of all rounds that it moves.
    one = Skellam(plan.variance).distance
    assert float(spent.plain[0, DISTANCE]) == pytest.approx(3 * 3 * 5 * one, rel=1e-12, abs=0)
    assert math.isinf(cost(entries[0], Adversary.SERVER).plain[0, GDP])
    assert all((entry.source, entry.rate) == (Source.SERVER, 1.0) for entry in entries)
    assert Release.decode(entries[1].encode()) == entries[1]


def test_one_band_is_independent_noise() -> None:
    plan = replace(PLAN, bands=1, separation=1)
    assert plan.square == 64**2 * plan.bound
    assert plan.release(1, 1, 2, 2).mechanism == Discrete(
        Skellam(64**2 * Fraction(4) * 50), 64**2 * 50, 5
    )
    assert prefix_error(99, 1) == pytest.approx(math.sqrt(50), rel=1e-12)


# The noise


WIDE = Banded(rounds=40, bands=8, separation=8, coordinates=4000, bits=32, bound=90, noise=3.0)


@pytest.fixture(scope="module")
def noisy() -> list[Floats]:
    return turns(WIDE, [[7] * 4000] * 40, of=8)[0]


def is_variance(noise: Integers | Floats, variance: float) -> bool:
    """Within 6 deviations of a mean of squares, which are 2 v**2 each, and 1/v more of that."""
    return abs(float(np.mean(noise**2)) / variance - 1) < 6 * math.sqrt(2.1 / noise.size)


def test_noise_has_the_variance_that_is_accounted(noisy: list[Floats]) -> None:
    """Independent from round to round where it is released, whatever becomes of it later."""
    totals = np.full((40, 4000), 7)
    noise = released(WIDE, noisy) - matrix(WIDE) @ totals
    variance = float(WIDE.variance)
    assert is_variance(noise, variance)
    assert not is_variance(noise, 0.95 * variance)
    assert not is_variance(noise, 1.05 * variance)
    for lag in range(1, 10):
        together = float(np.mean(noise[lag:] * noise[:-lag])) / variance
        assert abs(together) < 6 / math.sqrt(noise[lag:].size)


def test_errors_of_sums_are_what_is_told(noisy: list[Floats]) -> None:
    """Over 4000 coordinates that are independent; rounds are not."""
    sums = np.cumsum(np.array(noisy) - 7, axis=0)
    each = (sums**2).mean(axis=0)
    found, spread = float(each.mean()), float(each.std()) / math.sqrt(each.size)
    told = WIDE.noise**2 * WIDE.bound
    assert abs(found - told * prefix_error(40, 8) ** 2) < 6 * spread
    assert found + 6 * spread < told * prefix_error(40, 6) ** 2
    assert found + 6 * spread < told * prefix_error(40, 1) ** 2 / 2


@pytest.mark.parametrize(
    ("bands", "participations", "error"),
    [(1, 1, 22.4), (1, 5, 50.0), (1000, 1, 3.10), (200, 5, 7.45), (50, 20, 21.0)],
)
def test_published_errors(bands: int, participations: int, error: float) -> None:
    """1000 rounds; those of the coefficients as they are, rounded in their last digit. One band of
    20 rounds each is exactly 100."""
    found = prefix_error(1000, bands) * math.sqrt(participations)
    assert found == pytest.approx(error, rel=0.003)


def test_whole_coefficients_are_hardly_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [(100, 10), (100, 50), (1000, 20), (1000, 100), (1000, 1000)]
    whole = [prefix_error.__wrapped__(*case) for case in cases]
    for name, value in (("FIRST", 1 << 20), ("coefficients", banded.coefficients.__wrapped__)):
        monkeypatch.setattr(banded, name, value)
    fine = [prefix_error.__wrapped__(*case) for case in cases]
    assert whole == pytest.approx(fine, rel=0.005)


def test_coefficients_are_those_of_the_square_root() -> None:
    assert banded.coefficients(6) == (64, 32, 24, 20, 18, 16)
    root = [math.comb(2 * k, k) / 4**k for k in range(300)]
    assert np.abs(np.array(banded.coefficients(300)) / 64 - root).max() <= 0.5 / 64
    assert np.convolve(root, root)[:300] == pytest.approx(np.ones(300), rel=1e-12)


# The ring


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-(1 << 27), 1 << 27), min_size=5, max_size=5), st.integers(0, 15))
def test_totals_matter_modulo_the_ring_only(total: list[int], times: int) -> None:
    """Else a device that pushes a total to the edge makes a step of another's 2**bits long."""
    moved = [x + times * (1 << PLAN.bits) for x in total]
    one, other = (turns(PLAN, [x, [0] * 5, x])[0] for x in (total, moved))
    assert np.array_equal(one, other)


def test_at_the_edge_of_the_ring_a_step_is_a_step() -> None:
    """What is released are elements of the ring, so a step of 2**bits is none."""
    plan, whole = replace(PLAN, bits=20), 1 << 20
    edge = whole // 2 - 1
    near, over = (released(plan, turns(plan, [[x] * 5, [0] * 5])[0]) for x in (edge, edge + 1))
    assert max(np.abs(near).max(), np.abs(over).max()) <= whole // 2
    assert np.array_equal((over - near) % whole, [[64] * 5, [32] * 5])


# A state


def test_states_survive_a_restart() -> None:
    totals = [[t, -t, 3, 0, 10**6] for t in range(9)]
    estimates, states = turns(PLAN, totals)
    for t, state in enumerate(states):
        data = state.encode()
        again = Stream.decode(data)
        assert again.encode() == data
        assert (again.banded, again.round, again.cohorts) == (PLAN, t + 1, state.cohorts)
        if t < 9:
            ring = np.array(totals[t], np.int64).astype(np.uint32)
            estimate, after = again.advance(ring, frozenset({t % 3}), key(t))
            assert np.array_equal(estimate, estimates[t])
            assert after.encode() == states[t + 1].encode()


def test_bytes_that_are_no_state_are_refused() -> None:
    data = turns(replace(PLAN, bits=21), [[1, 2, 3, 4, 5]] * 4)[1][-1].encode()
    ends = [data[:-8] + np.float64(x).tobytes() for x in (math.nan, math.inf)]
    two = np.array([0, 1], "<u8").tobytes()
    stream = Stream(PLAN).advance(np.zeros(5, np.uint32), frozenset({0, 1}), key(1))[1].encode()
    swaps = [stream.replace(two, np.array(ids, "<u8").tobytes()) for ids in ([1, 0], [1, 1])]
    assert stream.count(two) == 1
    for bad in (data + b"\0", *ends, *swaps, *(data[:end] for end in range(len(data)))):
        with pytest.raises(MalformedMessage):
            Stream.decode(bad)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_whatever_decodes_encodes_to_the_same(at: int, flip: int) -> None:
    data = bytearray(turns(replace(PLAN, bits=21), [[1, 2, 3, 4, 5]] * 4)[1][-1].encode())
    data[at % len(data)] ^= flip
    try:
        state = Stream.decode(bytes(data))
    except MalformedMessage:
        return
    assert state.encode() == data


def test_whoever_was_in_a_round_rests() -> None:
    plan = replace(PLAN, separation=4)
    total = np.zeros(5, np.uint32)
    stream = Stream(plan)
    assert stream.resting == frozenset()
    _, stream = stream.advance(total, frozenset({1, 2}), key(0))
    for t in (3, 4, 5):
        assert {1, 2} <= stream.resting
        with pytest.raises(ParameterError, match="device 2 "):
            stream.advance(total, frozenset({9, 2}), key(1))
        with pytest.raises(ParameterError, match="device 2 "):
            Stream.decode(stream.encode()).advance(total, frozenset({9, 2}), key(1))
        _, stream = stream.advance(total, frozenset({t}), key(t))
    assert stream.resting == {3, 4, 5}
    stream.advance(total, frozenset({1, 2}), key(9))


def test_what_a_step_refuses() -> None:
    stream, total, me = Stream(PLAN), np.zeros(5, np.uint32), frozenset({1})
    for wrong in (total[:4], total.astype(np.int64), total.reshape(5, 1)):
        with pytest.raises(ParameterError, match="a total of shape"):
            stream.advance(wrong, me, key(1))
    with pytest.raises(ParameterError, match="nobody would pay"):
        stream.advance(total + np.uint32(1), frozenset(), key(1))
    with pytest.raises(ParameterError, match="32 bytes"):
        stream.advance(total, me, b"short")
    with pytest.raises(ParameterError, match="round 10 of 9"):
        turns(PLAN, [[0] * 5] * 9)[1][-1].advance(total, me, key(1))


def test_a_round_that_nobody_was_in_lets_others_follow() -> None:
    _, stream = Stream(PLAN).advance(np.zeros(5, np.uint32), frozenset(), key(1))
    assert not stream.resting
    again = Stream.decode(stream.encode())
    assert (again.round, again.cohorts) == (2, (frozenset(),))
    _, after = again.advance(np.ones(5, np.uint32), frozenset({1}), key(2))
    assert after.resting == {1}


def test_nothing_secret_is_shown_or_shared() -> None:
    total = np.full(5, 123456, np.uint32)
    estimate, stream = Stream(PLAN).advance(total, frozenset({1}), key(3))
    assert "123456" not in repr(stream)
    assert str(float(estimate[0])) not in repr(stream)
    before = stream.encode()
    total[:] = 0
    estimate[:] = 0
    assert stream.encode() == before


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rounds": 0}, "rounds"),
        ({"rounds": 1 << 18}, "rounds"),
        ({"bands": 0}, "bands"),
        ({"bands": 10, "separation": 10}, "bands"),
        ({"coordinates": 0}, "coordinates"),
        ({"coordinates": 1 << 31}, "coordinates"),
        ({"bits": 7}, "bits"),
        ({"bits": 33}, "bits"),
        ({"bound": 0}, "bound"),
        ({"bound": 1 << 50}, "square|variance"),
        ({"noise": 0.0}, "noise"),
        ({"noise": math.nan}, "noise"),
        ({"noise": math.inf}, "noise"),
        ({"noise": 1e9}, "variance"),
    ],
)
def test_what_cannot_be_is_not_built(changes: dict[str, float], reason: str) -> None:
    with pytest.raises(ParameterError, match=reason):
        replace(PLAN, **changes)  # type: ignore[arg-type]
