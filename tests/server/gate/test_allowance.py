"""base x trust x (1 - risk): pinned, and its laws."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.server.gate.allowance import (
    DEFAULT_BUDGET,
    MOST_AHEAD,
    MOST_TRUST,
    RISK_STEP,
    TRUST_PERIOD,
    ahead,
    allowance,
    stepped,
    trust,
)
from tacit.server.gate.base import State

BASES, SPENT, AGES = st.integers(1, 10**12), st.integers(0, 10**13), st.floats(-1e9, 1e9)
RISKS = st.integers(0, 20).map(lambda steps: steps * RISK_STEP)


@pytest.mark.parametrize(
    ("base", "trusted", "risk", "state", "answers"),
    [
        (100, 1, 0.0, State.OK, 100),
        (100, 4, 0.0, State.OK, 400),
        (100, 1, 0.0, State.DEGRADED, 50),
        (100, 1, 0.5, State.OK, 50),
        (100, 1, 0.5, State.DEGRADED, 25),
        (100, 1, 1.0, State.OK, 0),
        (100, 1, 9 * 0.05, State.OK, 55),  # no hair less
        (7, 1, 0.0, State.DEGRADED, 3),
        (100, 4, 0.0, State.SUSPENDED, 0),
        (0, 1, 0.0, State.OK, 0),
    ],
)
def test_pinned(base: int, trusted: int, risk: float, state: State, answers: int) -> None:
    assert allowance(base, trusted, risk, state) == answers


@given(BASES, st.integers(1, MOST_TRUST), RISKS, RISKS)
def test_risk_never_gives(base: int, trusted: int, a: float, b: float) -> None:
    less, more = sorted((a, b))
    assert allowance(base, trusted, more, State.OK) <= allowance(base, trusted, less, State.OK)
    for risk in (less, more):
        whole = allowance(base, trusted, risk, State.OK)
        assert 0 <= whole <= base * trusted
        assert allowance(base, trusted, risk, State.DEGRADED) == whole // 2


@given(BASES, SPENT, AGES)
def test_trust_takes_time_and_use(base: int, spent: int, age: float) -> None:
    found = trust(base, spent, age)
    assert 1 <= found <= MOST_TRUST
    assert found - 1 <= spent // base
    assert (found - 1) * TRUST_PERIOD <= max(0.0, age)
    assert trust(base, spent + 1, age) >= found
    assert trust(base, spent, age + 1) >= found


def test_trust_is_pinned() -> None:
    day = 86400.0
    assert trust(DEFAULT_BUDGET, 0, 1000 * day) == 1  # bought and left alone
    assert trust(DEFAULT_BUDGET, 10**6, 1 * day) == 1  # all at once
    assert trust(DEFAULT_BUDGET, 100, 30 * day - 1) == 1
    assert trust(DEFAULT_BUDGET, 99, 30 * day) == 1
    assert trust(DEFAULT_BUDGET, 100, 30 * day) == 2
    assert trust(DEFAULT_BUDGET, 10**6, 1000 * day) == MOST_TRUST
    assert trust(0, 100, 1000 * day) == 1


@given(st.integers(1, 10**13))
def test_no_block_is_more_than_an_eighth(left: int) -> None:
    assert 1 <= ahead(left) <= max(1, left // 8)
    assert ahead(left) <= MOST_AHEAD


@given(st.floats(allow_nan=True))
def test_steps_of_risk(risk: float) -> None:
    step = stepped(risk)
    assert 0.0 <= step <= 1.0
    if math.isnan(risk):
        assert step == 1.0
    elif 0.0 <= risk <= 1.0:
        assert risk - RISK_STEP - 1e-6 < step <= risk + 1e-6
        assert stepped(step) == step
