"""Noise on sums over examples: the bound holds after rounding, and the noise is there."""

import math
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.crypto.errors import ParameterError
from tacit.privacy import example_sums
from tacit.privacy.accountants import Adversary, gdp, is_amplified
from tacit.privacy.example_sums import ROWS, SLACK, ExampleSum
from tacit.privacy.releases import Neighbours, Source, Unit, Use

RAND = bytes(range(32))
CLIPS = [2.0**-32, 2.0**-20 * 1.3, 0.1, 1.0, 1.7, 300.0, 2.0**32]
LENGTHS = [1, 2, 3, 16, 17, 1000, 1 << 20, (1 << 20) + 1, 1 << 31]


class Silence:
    """In the place of a sampler: no noise."""

    def __init__(self, law: object, rand: bytes, samples: int) -> None:
        pass

    def draw(self, count: int) -> np.ndarray:
        return np.zeros(count, np.int64)


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example_sums, "Sampler", Silence)


def steps(mechanism: ExampleSum, *pieces: np.ndarray) -> np.ndarray:
    """The whole numbers that are summed; small enough here for a float32 to hold them."""
    found = mechanism.noised([p.astype(np.float32) for p in pieces], RAND).astype(np.float64)
    found *= 2.0**mechanism.exponent
    assert np.array_equal(found, np.rint(found))
    return found


# The bound


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("clip", CLIPS)
def test_the_grid_is_fine_and_its_steps_are_powers_of_two(length: int, clip: float) -> None:
    mechanism = ExampleSum(length, clip, 0.5, 0.1)
    root = math.isqrt(length - 1) + 1
    assert 128 * root <= mechanism.radius < 256 * root
    assert mechanism.radius == Fraction(clip) * Fraction(2) ** mechanism.exponent
    scale = np.float32(2.0**mechanism.exponent)
    assert scale > 0
    assert np.isfinite(scale)
    exact = mechanism.radius * (1 + SLACK)
    assert (mechanism.bound - exact) ** 2 >= length  # more than the root
    assert mechanism.bound <= mechanism.radius * Fraction(102, 100) + 2


@settings(max_examples=200)
@given(
    st.integers(1, 60),
    st.sampled_from([0.1, 1.0, 1.7]),
    st.integers(0, 1 << 32),
    st.sampled_from(["spread", "one", "half"]),
)
def test_sums_of_neighbours_are_within_the_bound(
    length: int, clip: float, seed: int, kind: str
) -> None:
    """For any two sums that are the clip and the slack apart, whatever floats do between."""
    mechanism = ExampleSum(length, clip, 1.0, 0.1)
    rng = np.random.default_rng(seed)
    step = 2.0**-mechanism.exponent
    first = (rng.normal(size=length) * clip).astype(np.float32)
    move = rng.normal(size=length)
    if kind == "one":
        move = np.eye(length)[0]
    if kind == "half":  # all coordinates lie between two steps, and go up
        first = (np.rint(first / step) * step + 0.49 * step).astype(np.float32)
        move = np.ones(length)
    move *= clip * (1 + float(SLACK)) * (1 - 1e-6) / np.linalg.norm(move)
    second = (first + move).astype(np.float32)
    other = rng.normal(size=length).astype(np.float32)  # a piece that is the same in both
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example_sums, "Sampler", Silence)
        moved = steps(mechanism, second, other) - steps(mechanism, first, other)
    assert int(np.dot(moved, moved)) <= mechanism.bound**2


@pytest.mark.usefixtures("silent")
def test_rounding_takes_the_root_of_the_length() -> None:
    """A bound without it does not hold: each of d coordinates moves by 129.02 steps, and so by 130
    where it begins just below the middle between two."""
    length, root = 1 << 14, 1 << 7
    mechanism = ExampleSum(length, 1.0, 1.0, 0.1)
    first = np.full(length, 0.499) / 2**mechanism.exponent
    second = first + (1 + float(SLACK)) / root
    moved = steps(mechanism, second) - steps(mechanism, first)
    far = float(np.linalg.norm(moved))
    assert far == 130 * root
    assert mechanism.radius * (1 + SLACK) + root / 2 < far <= mechanism.bound


@pytest.mark.usefixtures("silent")
def test_an_example_that_is_gone_moves_the_others_up_and_nothing_else() -> None:
    """Examples are alike and far below the clip, and the sums of pieces all just beyond the middle
    between two steps in one set, and just before it in the other."""
    mechanism, count = ExampleSum(1024, 1.0, 1.0, 0.1), 300
    each = 0.744128 / 2**mechanism.exponent

    def pieces(examples: int) -> list[np.ndarray]:
        sizes = [len(part) for part in np.array_split(np.arange(examples), -(-examples // ROWS))]
        return [np.full(1024, size * each) for size in sizes]

    moved = steps(mechanism, *pieces(count * ROWS + 1)) - steps(mechanism, *pieces(count * ROWS))
    assert np.abs(moved).max() <= 2


# The noise


def test_the_noise_is_what_is_stated() -> None:
    """Its variance, within 7 deviations; and half of sigma is none of it."""
    mechanism = ExampleSum(1 << 16, 0.5, 1.3, 0.1)
    nothing = np.zeros(1 << 16, np.float32)
    found = steps(mechanism, nothing)
    variance = float(mechanism.variance)
    assert variance == pytest.approx((1.3 * mechanism.bound) ** 2)
    deviation = math.sqrt(2 / (1 << 16))
    assert float(np.mean(found**2)) / variance == pytest.approx(1, abs=7 * deviation)
    assert abs(float(np.mean(found))) < 7 * math.sqrt(variance / (1 << 16))
    none = mechanism.noised([], RAND)
    assert np.array_equal(none, mechanism.noised([nothing], RAND))
    assert not np.array_equal(none, mechanism.noised([], bytes(32)))


def test_noise_is_drawn_before_the_data_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Told(Silence):
        def draw(self, count: int) -> np.ndarray:
            told.append("noise")
            return super().draw(count)

    def pieces() -> Iterator[np.ndarray]:
        told.append("data")
        yield np.zeros(4, np.float32)

    monkeypatch.setattr(example_sums, "Sampler", Told)
    ExampleSum(4, 1.0, 1.0, 0.1).noised(pieces(), RAND)
    assert told == ["noise", "data"]


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("clip", CLIPS)
def test_the_sum_comes_back(clip: float) -> None:
    mechanism = ExampleSum(50, clip, 0.1, 0.1)
    rng = np.random.default_rng(0)
    pieces = [(rng.normal(size=50) * clip).astype(np.float32) for _ in range(3)]
    found = mechanism.noised(pieces, RAND)
    step = 2.0**-mechanism.exponent
    assert np.abs(found - np.sum(pieces, axis=0, dtype=np.float64)).max() <= 1.5 * step * 1.001


# What the ledger is told


def test_the_release_says_what_was_done() -> None:
    mechanism = ExampleSum(1000, 1.0, 1.1, 0.02)
    release = mechanism.release(7, 3)
    assert (release.unit, release.neighbours) == (Unit.RECORD, Neighbours.ADD_OR_REMOVE)
    assert (release.source, release.use, release.shares) == (Source.OWN, Use.TRAIN, 1)
    assert (release.run, release.round, release.rate) == (7, 3, 0.02)
    # As noise of the Gaussian mechanism of this multiplier, but for 1/3 of the variance.
    variance = float(mechanism.variance)
    assert gdp(release) == pytest.approx(1.1**-2 / (1 - 1 / (3 * variance)), rel=1e-9)
    assert is_amplified(release, Adversary.OUTSIDER)
    assert not is_amplified(release, Adversary.SERVER)
    assert release.decode(release.encode()) == release


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("length", 0),
        ("length", (1 << 31) + 1),
        ("clip", 0.0),
        ("clip", -1.0),
        ("clip", math.nan),
        ("clip", math.inf),
        ("clip", 2.0**-33),
        ("noise", 0.0),
        ("noise", math.nan),
        ("noise", math.inf),
        ("noise", 1e9),
        ("rate", 0.0),
        ("rate", 1.01),
        ("rate", math.nan),
    ],
)
def test_what_is_impossible_cannot_be_built(name: str, value: float) -> None:
    with pytest.raises(ParameterError):
        replace(ExampleSum(10, 1.0, 1.0, 0.5), **{name: value})


@pytest.mark.parametrize("value", [math.nan, math.inf, 3.0 * ROWS])
def test_sums_that_were_not_clipped_are_refused(value: float) -> None:
    piece = np.zeros(4, np.float32)
    piece[1] = value
    with pytest.raises(ParameterError, match="too long"):
        ExampleSum(4, 1.0, 1.0, 0.5).noised([piece], RAND)
    with pytest.raises(ParameterError, match="shape"):
        ExampleSum(4, 1.0, 1.0, 0.5).noised([piece[:3]], RAND)
