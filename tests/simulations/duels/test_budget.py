"""The budget that the gate gives is the one that is read off what answers add."""

from math import nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.errors import ParameterError
from tacit.server.gate.allowance import DEFAULT_BUDGET
from tacit.simulations.duels.base import Figure
from tacit.simulations.duels.budget import SMALL, default_budget, gain
from tacit.simulations.duels.theft import LABEL

SEEDS = 5


def test_the_gates_default_is_read_off_the_curve() -> None:
    """That of 100 answers, and the next that was measured, which adds too much."""
    gains = {count: gain("digits", count, LABEL, SEEDS) for count in (DEFAULT_BUDGET, 150)}
    assert default_budget(gains) == DEFAULT_BUDGET
    assert gains[150].value > gains[DEFAULT_BUDGET].value


@given(st.dictionaries(st.integers(1, 10_000), st.floats(-0.1, 0.1), min_size=1))
def test_no_budget_is_passed_over_that_adds_too_much(highs: dict[int, float]) -> None:
    gains = {count: Figure(high - 0.01, high - 0.02, high) for count, high in highs.items()}
    small = [count for count, high in highs.items() if high <= SMALL]
    if highs[min(highs)] > SMALL:
        with pytest.raises(ParameterError, match="no budget"):
            default_budget(gains)
        return
    chosen = default_budget(gains)
    assert chosen in small
    assert all(count in small for count in highs if count < chosen)
    above = [count for count in highs if count > chosen]
    assert not above or min(above) not in small


def test_one_measurement_is_none() -> None:
    with pytest.raises(ParameterError, match="on more seeds"):
        default_budget({100: Figure(0.0, nan, nan)})
