"""LiRA finds members where a model has learned them by heart, and nobody where it saw nobody."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from tacit.client.trainer import Examples
from tacit.crypto.errors import ParameterError
from tacit.simulations.attacks.membership import FEW, confidences, gap, lira, lira_offline
from tacit.simulations.duels.ground import ground
from tacit.simulations.duels.membership import each_the_victim, whole
from tacit.simulations.duels.roc import area, found
from tacit.simulations.duels.shadows import halves, scored_by_all

MODELS, N, EPOCHS = 8, 200, 250


@pytest.fixture(scope="module")
def noisy() -> tuple[Examples, np.ndarray, np.ndarray]:
    """Digits whose labels are half of them wrong: who knows them has them by heart."""
    every = whole(ground("digits"))
    rng = np.random.default_rng(0)
    wrong = np.where(rng.random(N) < 0.5, rng.integers(0, 10, N), every.y[:N])
    examples = Examples(every.x[:N], wrong)
    member = halves(MODELS, N, 0)
    return examples, member, scored_by_all(examples, 10, member, epochs=EPOCHS, seed=0)


def test_it_finds_members_of_models_that_learned_by_heart(noisy) -> None:
    examples, member, rows = noisy
    scores = each_the_victim(confidences(rows, examples.y), member)
    assert area(scores[member], scores[~member]) > 0.9
    assert found(scores[member], scores[~member], 0.01).value > 0.3
    right = gap(rows, examples.y)
    assert area(right[member], right[~member]) > 0.7


def test_offline_it_finds_them_too_and_a_little_less(noisy) -> None:
    examples, member, rows = noisy
    known = confidences(rows, examples.y)
    scores = np.stack(
        [
            lira_offline(known[k], np.delete(known, k, 0), np.delete(member, k, 0))
            for k in range(MODELS)
        ]
    )
    assert area(scores[member], scores[~member]) > 0.85


def test_it_finds_nobody_where_nobody_was_learned(noisy) -> None:
    """Models of other examples: those that were drawn have no mark. Of 1,600 scores in halves the
    area varies by sqrt(2 / (12 * 800)) = 0.015: four of that, as they are not independent."""
    examples, member, _ = noisy
    every = whole(ground("digits"))
    strangers = Examples(
        np.concatenate([every.x[600:1400], examples.x]),
        np.concatenate([every.y[600:1400], examples.y]),
    )
    learned = np.hstack([halves(MODELS, 800, 1), np.zeros((MODELS, N), bool)])
    rows = scored_by_all(strangers, 10, learned, epochs=30, seed=1)[:, 800:]
    scores = each_the_victim(confidences(rows, examples.y), member)
    assert area(scores[member], scores[~member]) == pytest.approx(0.5, abs=0.06)
    assert found(scores[member], scores[~member], 0.01).low < 0.02


def test_the_ratio_is_that_of_two_normal_laws() -> None:
    rng = np.random.default_rng(0)
    member = halves(FEW, 5, 0)
    shadows = np.where(member, rng.normal(3, 1, (FEW, 5)), rng.normal(0, 2, (FEW, 5)))
    victim = rng.normal(1, 1, 5)
    laws = [
        [(shadows[chosen[:, i], i].mean(), shadows[chosen[:, i], i].std(ddof=1)) for i in range(5)]
        for chosen in (member, ~member)
    ]
    inside, outside = (
        np.array([norm(*law).logpdf(victim[i]) for i, law in enumerate(each)]) for each in laws
    )
    assert lira(victim, shadows, member) == pytest.approx(inside - outside)
    chance = [norm(*law).cdf(victim[i]) for i, law in enumerate(laws[1])]
    assert norm.cdf(lira_offline(victim, shadows, member)) == pytest.approx(chance)


def test_few_shadows_share_one_deviation() -> None:
    member = halves(4, 3, 0)
    shadows = np.where(member, 5.0, 0.0) + np.array([[1.0], [-1.0], [1.0], [-1.0]])
    scores = lira(np.array([5.0, 0.0, 2.5]), shadows, member)
    assert np.isfinite(scores).all()
    assert scores[0] > scores[2] > scores[1]


def test_an_example_that_no_shadow_left_out_is_refused() -> None:
    with pytest.raises(ParameterError, match="in two shadows, and out of two"):
        lira(np.zeros(2), np.zeros((4, 2)), np.ones((4, 2), bool))


@given(st.floats(0.001, 0.999), st.integers(0, 2))
def test_confidences_are_logits(p: float, y: int) -> None:
    row = np.full((1, 3), (1 - p) / 2)
    row[0, y] = p
    assert confidences(row, np.array([y]))[0] == pytest.approx(np.log(p / (1 - p)), abs=1e-9)


def test_what_is_nearly_certain_keeps_its_digits() -> None:
    """In float32 p is 1, and 1 - p would be nothing; the other probabilities are as they were."""
    row = np.array([[1.0, 1e-12, 1e-12]], np.float32)
    assert confidences(row, np.array([0]))[0] == pytest.approx(-np.log(2e-12), rel=1e-6)


def test_a_zero_that_was_rounded_is_half_a_unit() -> None:
    found_ = confidences(np.array([[1.0, 0.0]]), np.array([0]), 0.005)
    assert found_[0] == pytest.approx(np.log(1 / 0.005))
    assert confidences(np.array([[1.0, 0.0]]), np.array([1]), 0.005)[0] == -found_[0]


@pytest.mark.parametrize("models", [3, 2, 0])
def test_halves_need_pairs(models: int) -> None:
    with pytest.raises(ParameterError, match="even number from 4"):
        halves(models, 5, 0)


@given(st.integers(2, 10), st.integers(1, 30), st.integers(0, 5))
def test_each_example_is_in_half_of_the_models(pairs: int, examples: int, seed: int) -> None:
    drawn = halves(2 * pairs, examples, seed)
    assert (drawn.sum(0) == pairs).all()
    assert (drawn[0::2] == ~drawn[1::2]).all()


def test_where_there_is_nothing_to_find_members_score_as_others_do() -> None:
    """Confidences that know nothing of who learned what. Were the other of a pair among the
    shadows, of 8 models, members would have three to four of them, and an area of 0.47. That of as
    many independent scores varies by sqrt(1 / (6 * 24,000)) = 0.0026: four of that."""
    examples = 6000
    member = halves(8, examples, 0)
    scores = each_the_victim(np.random.default_rng(0).normal(size=(8, examples)), member)
    assert area(scores[member], scores[~member]) == pytest.approx(0.5, abs=0.0105)


def test_models_are_trained_alone(noisy) -> None:
    """What one learns does not depend on what the others do."""
    examples, member, rows = noisy
    again = scored_by_all(examples, 10, member, epochs=EPOCHS, seed=0)
    assert np.array_equal(again, rows)
    right = rows.argmax(2) == examples.y
    assert right[member].mean() > 0.99
    assert right[~member].mean() < 0.75


def test_who_has_fewer_learns_no_others(noisy) -> None:
    """Rows are as long as the longest, and what fills the shorter ones up is never learned."""
    examples, _, _ = noisy
    member = np.ones((2, N), bool)
    member[0, :100] = False
    rows = scored_by_all(examples, 10, member, epochs=EPOCHS, seed=0)
    right = rows.argmax(2) == examples.y
    assert right[0, 100:].mean() > 0.99
    assert right[0, :100].mean() < 0.7
    assert right[1].mean() > 0.95


def test_few_examples_are_refused() -> None:
    every = whole(ground("digits"))
    with pytest.raises(ParameterError, match="few examples"):
        scored_by_all(Examples(every.x[:20], every.y[:20]), 10, halves(4, 20, 0), epochs=1, seed=0)
