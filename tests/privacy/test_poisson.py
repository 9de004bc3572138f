"""Drawing examples: with the probability that is stated, apart from each other."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.errors import ParameterError
from tacit.crypto.prg import keystream
from tacit.privacy.poisson import drawn
from tests.crypto.federation import Counted

RAND = bytes(range(32))
COUNT = 1 << 18
RATES = st.floats(0, 1, exclude_min=True) | st.sampled_from([1.0, 0.5, 2.0**-64, 1 - 2.0**-53])


@given(st.integers(0, 40), RATES, st.binary(min_size=32, max_size=32))
def test_whole_numbers_decide(count: int, rate: float, rand: bytes) -> None:
    stream = keystream(rand, 8 * count)
    words = [int.from_bytes(stream[8 * i : 8 * i + 8], "little") for i in range(count)]
    expected = [i for i, word in enumerate(words) if word + 1 <= Fraction(rate) * 2**64]
    assert drawn(count, rate, rand).tolist() == expected


def test_all_or_none() -> None:
    assert drawn(1000, 1.0, RAND).tolist() == list(range(1000))
    assert drawn(1000, 5e-324, RAND).size == 0
    assert drawn(0, 0.5, RAND).size == 0


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.9])
def test_the_rate_is_what_is_stated(rate: float) -> None:
    """Within 7 deviations, which another rate is not."""
    found = drawn(COUNT, rate, RAND).size
    deviation = math.sqrt(COUNT * rate * (1 - rate))
    assert abs(found - COUNT * rate) < 7 * deviation
    assert abs(found - COUNT * rate * 1.2) > 7 * deviation


def test_examples_are_drawn_apart_from_each_other() -> None:
    """Next to each other, and the same one in two batches: as often as two that know nothing."""
    rand = Counted(b"poisson")
    rate = 0.25
    one, other = (np.zeros(COUNT, bool) for _ in range(2))
    for batch in (one, other):
        batch[drawn(COUNT, rate, rand(32))] = True
    deviation = math.sqrt(COUNT * rate**2 * (1 - rate**2)) * 2  # neighbours overlap in pairs
    for pairs in (one[1:] & one[:-1], one & other):
        assert abs(int(pairs.sum()) - COUNT * rate**2) < 7 * deviation


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, math.nan, math.inf])
def test_impossible_rates_are_refused(rate: float) -> None:
    with pytest.raises(ParameterError, match="rate="):
        drawn(3, rate, RAND)
