"""Updates out of sums over rounds: exact where they do not change, the cohort's mean at best where
nobody is ever apart."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tacit.crypto.errors import ParameterError
from tacit.server.inbox import Seen
from tacit.simulations.attacks.base import Knows, view_of
from tacit.simulations.attacks.disaggregation import Disaggregation
from tacit.simulations.evaluate import over_rounds

ATTACK = Disaggregation()
Floats = np.ndarray


def rounds(there: Floats, updates: Floats, weights: Floats) -> list[Seen]:
    """Weighted means of `updates` (devices, 6) over those who are `there` (rounds, devices)."""
    seen = []
    for number, row in enumerate(there, start=1):
        mean = np.average(updates, axis=0, weights=row * weights)
        parts = {"a": mean[:4].reshape(2, 2), "b": mean[4:]}
        members = tuple(100 + int(at) for at in np.flatnonzero(row))
        total = float(row @ weights)
        seen.append(Seen(number, parts, parts, len(members), total, "pairwise", members))
    return seen


def guessed(history: list[Seen]) -> Floats:
    view = view_of(history[-1], history=history)
    return ATTACK.reconstruct(view, np.random.default_rng(0))


@given(st.integers(0, 2**32 - 1), st.integers(2, 8))
def test_updates_that_do_not_change_are_exact(seed: int, devices: int) -> None:
    """Whatever the weights: the totals of these are as linear as the sums."""
    rng = np.random.default_rng(seed)
    there = rng.integers(0, 2, (3 * devices, devices)).astype(float)
    there = there[there.any(axis=1)]
    singular = np.linalg.svd(there, compute_uv=False)
    assume(len(singular) == devices and singular.min() > 0.1)
    updates, weights = rng.standard_normal((devices, 6)), rng.integers(1, 100, devices)
    found = guessed(rounds(there, updates, weights))
    assert np.allclose(found, updates[there[-1] > 0], atol=1e-10)


def test_devices_that_are_never_apart_are_not_told_apart() -> None:
    """Two cohorts in turn: each member is guessed at by its cohort's weighted mean, however many
    rounds there are."""
    rng = np.random.default_rng(0)
    updates, weights = rng.standard_normal((6, 6)), np.array([1.0, 2, 3, 4, 5, 6])
    there = np.array([[1.0, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 1]] * 20)
    found = guessed(rounds(there, updates, weights))
    mean = np.average(updates[1::2], axis=0, weights=weights[1::2])
    assert np.allclose(found, mean, atol=1e-12)


def test_the_cosine_over_rounds() -> None:
    """With as many independent rounds as devices it is 1; the floor is the mean sum."""
    rng = np.random.default_rng(1)
    updates = rng.standard_normal((4, 6))
    there = np.array([[1.0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [0, 1, 0, 1]])
    history = rounds(there, updates, np.ones(4))
    own = {(seen.round, node): updates[node - 100] for seen in history for node in seen.members}
    found = dict(over_rounds(ATTACK, history, own, (1, 4), rng))
    assert found[1].values == pytest.approx(found[1].floor)
    assert found[4].values == pytest.approx((1.0, 1.0))
    assert found[4].mean_floor < 0.95


def test_other_models_do_not_count() -> None:
    history = rounds(np.eye(3), np.arange(18.0).reshape(3, 6), np.ones(3))
    other = replace(history[0], update={"c": np.zeros(3)}, members=(102,))
    assert np.array_equal(guessed([other, *history]), guessed(history))


def test_what_has_no_weight_does_not_count() -> None:
    """A part in the clear, say, beside the sum."""
    history = rounds(np.eye(3), np.arange(18.0).reshape(3, 6), np.ones(3))
    assert np.array_equal(guessed([replace(history[0], weight=0.0), *history]), guessed(history))


def test_too_few_rounds_do_not_turn_an_update_round() -> None:
    """Least squares give the third device here a weight of -3.2."""
    there, weights = np.array([[0.0, 1, 1], [1, 1, 0], [0, 1, 1]]), np.array([10.0, 0.1, 0.1])
    updates = np.tile(weights[:, None], 6)  # such that totals are weights, squared
    found = guessed(rounds(there, updates, weights))
    least = np.linalg.pinv(there) @ there @ weights**2
    assert np.allclose(found[1], least[2] / 0.1, atol=1e-9)


@pytest.mark.parametrize("lacks", [{"members": ()}, {"weight": 0.0}])
def test_members_and_weight_have_to_be_known(lacks: dict[str, Any]) -> None:
    seen = replace(rounds(np.eye(2), np.eye(2, 6), np.ones(2))[0], **lacks)
    with pytest.raises(ParameterError, match="the members of a sum, and its weight"):
        guessed([seen])
    assert ATTACK.needs == Knows.NOTHING
