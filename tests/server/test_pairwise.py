"""The parameters of a pairwise sum, and the session made of them."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.client.policy import Policy
from tacit.crypto.errors import ParameterError, TooFewClients
from tacit.crypto.identity import RunKey
from tacit.crypto.secagg.session import Purpose, Session
from tacit.server.pairwise import MAX_COHORT, Binding, Pairwise

BINDING = Binding(bytes(32), b"m" * 32, b"c" * 32)


def session(devices: int, protocol: Pairwise | None = None, length: int = 10) -> Session:
    # Not in order: a server hears its devices as they come.
    keys = [RunKey(d, d.to_bytes(32, "big"), bytes(64)) for d in range(devices, 0, -1)]
    return (protocol or Pairwise()).session(3, 2, Purpose.TRAIN, keys, length, BINDING)


@given(devices=st.integers(3, 120), corrupt=st.floats(0, 0.6))
def test_its_sessions_pass_the_policy_that_assumes_the_same(devices: int, corrupt: float) -> None:
    made = session(devices, Pairwise(corrupt=corrupt))
    assert made.devices == tuple(range(1, devices + 1)) == made.committee
    traitors = int(corrupt * devices)
    # The smallest threshold for which two sets can never both be attested.
    assert 2 * made.threshold > devices + traitors >= 2 * (made.threshold - 1)
    if made.min_survivors - traitors >= 2:
        Policy(corrupt=corrupt, min_survivors=2).check(made)


def test_a_session_is_about_what_it_is_bound_to() -> None:
    made = session(5)
    assert (made.run, made.round, made.purpose) == (3, 2, Purpose.TRAIN)
    assert (made.roster, made.model, made.config) == (bytes(32), b"m" * 32, b"c" * 32)
    assert (made.codec.length, made.codec.clients) == (10, 5)


def test_fewer_survivors_than_the_threshold_can_be_asked_for() -> None:
    assert session(10).min_survivors == session(10).threshold == 7
    assert session(10, Pairwise(min_survivors=5)).min_survivors == 5
    assert session(10, Pairwise(min_survivors=9)).min_survivors == 9


@pytest.mark.parametrize(("devices", "least"), [(0, None), (1, None), (4, 5)])
def test_too_few(devices: int, least: int | None) -> None:
    with pytest.raises(TooFewClients, match=f"a cohort of {devices}, at least"):
        session(devices, Pairwise(min_survivors=least))


def test_too_many_says_what_to_do() -> None:
    assert len(session(MAX_COHORT).cohort) == MAX_COHORT
    with pytest.raises(ParameterError, match=r"at most 128: sample fewer per round"):
        session(MAX_COHORT + 1)


def test_no_room_in_the_ring_says_what_to_do() -> None:
    with pytest.raises(ParameterError, match="no room in 16 bits: raise bits or lower"):
        session(120, Pairwise(bits=16, max_weight=1000.0))


@pytest.mark.parametrize(
    "bad",
    [
        {"corrupt": 1.0},
        {"corrupt": -0.1},
        {"corrupt": float("nan")},
        {"stage_deadline": 0.0},
        {"stage_deadline": float("nan")},
        {"min_survivors": 1},
        {"bits": 7},
        {"bits": 63},
        {"bound": 0.0},
        {"bound": float("inf")},
        {"max_weight": -1.0},
        {"metrics": 256},
    ],
)
def test_impossible_parameters_are_refused_before_the_first_round(bad: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        replace(Pairwise(), **bad)
