"""Waiting longer each time, never too long, and never all at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.app.deployment.backoff import Backoff, chance


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_wait_is_between_half_of_it_and_all(failures: int, drawn: float) -> None:
    wait = Backoff(first=0.5, most=30.0).after(failures, lambda: drawn)
    whole = min(30.0, 0.5 * 2.0 ** min(failures - 1, 32))
    assert whole / 2 <= wait <= whole


def test_waits_double_and_then_stay() -> None:
    waits = [Backoff(1.0, 8.0).after(n, lambda: 0.0) for n in range(7)]
    assert waits == [0.0, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0]


def test_chance_is_a_share() -> None:
    drawn = [chance() for _ in range(1000)]
    assert all(0 <= each < 1 for each in drawn)
    # The mean of 1000 uniform draws has deviation 0.0091: 8 of these.
    assert sum(drawn) / len(drawn) == pytest.approx(0.5, abs=0.073)
