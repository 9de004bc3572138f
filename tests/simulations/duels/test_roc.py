"""Rates where they are rare: a threshold lets no more than its share of others through."""

from math import isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from tacit.simulations.duels.roc import area, found

SCORES = st.lists(st.integers(-5, 5), min_size=1, max_size=40)


@given(SCORES, SCORES)
def test_the_area_is_that_of_the_curve(members: list[int], others: list[int]) -> None:
    truth = [1] * len(members) + [0] * len(others)
    expected = roc_auc_score(truth, members + others)
    assert area(np.array(members, float), np.array(others, float)) == pytest.approx(expected)


@given(SCORES, SCORES, st.floats(0.01, 0.99))
def test_no_lower_threshold_would_do(members: list[int], others: list[int], rate: float) -> None:
    m, o = np.array(members, float), np.array(others, float)
    got = found(m, o, rate)
    if int(rate * len(o)) < 1:
        assert isnan(got.value)
        return
    best = max((m > t).mean() for t in (*o, *m, o.max() + 1) if (o > t).sum() <= rate * len(o))
    assert got.value == pytest.approx(best)
    assert got.low <= got.value <= got.high
    assert got.trials == len(m)


def test_too_few_others_tell_nothing() -> None:
    assert isnan(found(np.ones(5), np.zeros(999), 0.001).value)
    assert found(np.ones(5), np.zeros(1000), 0.001).value == 1.0
