"""Lines are held against targets, and figures have the intervals that they say."""

from math import isnan, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, ttest_1samp

from tacit.simulations.duels.base import Figure, Fought, Line, Role, mean_of, share_of


@pytest.mark.parametrize(
    ("value", "target", "at_most", "holds"),
    [
        (0.9, 0.8, False, True),
        (0.7, 0.8, False, False),
        (0.7, 0.8, True, True),
        (0.9, 0.8, True, False),
        (nan, 0.8, True, False),
        (nan, 0.8, False, False),
        (nan, None, False, True),
    ],
)
def test_a_line_holds_or_not(value: float, target: float, at_most: bool, holds: bool) -> None:
    line = Line("s", "w", Figure(value), Role.DEFENCE, target, at_most)
    assert line.holds is holds
    assert Fought("d", "a", "d", "digits", (line,), 1.0).holds is holds


@given(st.integers(1, 200), st.data())
def test_a_share_has_the_exact_interval(trials: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, trials))
    share = share_of(hits, trials)
    assert share.low <= hits / trials <= share.high
    if hits:
        assert binom.sf(hits - 1, trials, share.low) == pytest.approx(0.025, rel=1e-6)
    if hits < trials:
        assert binom.cdf(hits, trials, share.high) == pytest.approx(0.025, rel=1e-6)


def test_a_mean_has_students_interval() -> None:
    values = np.array([0.2, 0.4, 0.7])
    found = mean_of(values.tolist())
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert isnan(mean_of([0.5]).low)
