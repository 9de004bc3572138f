"""The cocktail-party attack tells pictures in a sum apart, whatever follows the first layer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import nn

from tacit.crypto.errors import ParameterError
from tacit.server.inbox import Seen
from tacit.simulations.attacks.base import view_of
from tacit.simulations.attacks.cocktail import CocktailParty
from tacit.simulations.attacks.linear import LinearReadout
from tacit.simulations.data.embedded import photos
from tacit.simulations.evaluate import Outcome, evaluate
from tacit.simulations.models import mlp
from tacit.simulations.score import at_floor
from tests.simulations.test_attacks import IMAGES, LABELS, softmax, train

PHOTOS = photos().train
X, Y = PHOTOS.x.astype(np.float64), PHOTOS.y
SHAPE = (3, 32, 32)
ATTACK = CocktailParty("fc0", SHAPE)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def smooth() -> nn.Module:
    """No ReLU, so that no neuron saw one input alone."""
    net = mlp(SHAPE, 10, (128,))
    net.relu0 = nn.Tanh()
    return net


def summed(count: int, seed: int) -> tuple[Seen, np.ndarray]:
    """A sum over `count` devices with one photograph each, and which ones."""
    chosen = np.random.default_rng(seed).choice(len(X), count, replace=False)
    return train(smooth, X[chosen], Y[chosen], clients=count, seed=seed), chosen


def attacked(attack: CocktailParty | LinearReadout, seen: Seen, chosen: np.ndarray) -> Outcome:
    gallery = np.concatenate([X[chosen], X[:200]])
    return evaluate(attack, view_of(seen), X[chosen], gallery, np.random.default_rng(0))


def test_a_lone_input_is_exact() -> None:
    assert min(attacked(ATTACK, *summed(1, 0)).score.psnr) > 100


def test_eight_photographs_are_told_apart() -> None:
    for seed in range(2):
        seen, chosen = summed(8, seed)
        outcome = attacked(ATTACK, seen, chosen)
        assert outcome.score.identified == 1
        assert outcome.score.mean_psnr > outcome.floor.mean_psnr + 10
        # The read-out is lost here: every neuron saw all of them.
        assert attacked(LinearReadout("fc0", SHAPE), seen, chosen).score.identified < 0.5


def test_who_is_in_a_sum_of_sixteen_is_told_far_better_than_by_luck() -> None:
    outcome = attacked(ATTACK, *summed(16, 0))
    hits = round(outcome.score.identified * 16)
    assert binom.sf(hits - 1, 16, 16 / 216) < 1e-6
    assert not at_floor(outcome.score, outcome.floor)


def test_more_inputs_than_neurons_cannot_be_told_apart() -> None:
    seen, chosen = summed(160, 0)
    outcome = attacked(replace(ATTACK, steps=20), seen, chosen)
    hits = round(outcome.score.identified * 160)
    assert binom.sf(hits - 1, 160, min(1.0, 160 / 360)) > 0.05


def test_noise_brings_it_to_the_floor() -> None:
    seen, chosen = summed(8, 0)
    rng = np.random.default_rng(5)
    update = {n: v + rng.normal(0, 10 * v.std(), v.shape) for n, v in seen.update.items()}
    outcome = attacked(ATTACK, replace(seen, update=update), chosen)
    assert at_floor(outcome.score, outcome.floor)


def test_what_could_all_be_noise_gives_few_guesses_or_none() -> None:
    seen, _ = summed(4, 0)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        update = {n: rng.normal(0, 1, v.shape) for n, v in seen.update.items()}
        view = view_of(replace(seen, update=update))
        assert len(ATTACK.reconstruct(view, rng)) <= 1


def test_the_same_draws_give_the_same_guess() -> None:
    seen, chosen = summed(4, 0)
    one, other = (attacked(ATTACK, seen, chosen).guess for _ in range(2))
    assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("attack", "says"),
    [
        (CocktailParty("nowhere", (1, 8, 8)), "no 'nowhere.weight'"),
        (CocktailParty("fc", (1, 4, 4)), "does not see inputs"),
    ],
)
def test_wrong_layer_is_named(attack: CocktailParty, says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        attack.reconstruct(view_of(train(softmax, IMAGES[:2], LABELS[:2])), np.random.default_rng())


def test_a_layer_that_did_not_move_is_named() -> None:
    seen, _ = summed(2, 0)
    still = {name: np.zeros_like(value) for name, value in seen.update.items()}
    with pytest.raises(ParameterError, match="did not move"):
        ATTACK.reconstruct(view_of(replace(seen, update=still)), np.random.default_rng())


@pytest.mark.parametrize(
    "wrong", [{"shape": (30,)}, {"shape": (1, 8, 1)}, {"low": 1.0}, {"steps": 0}]
)
def test_impossible_settings_cannot_be_built(wrong: dict[str, object]) -> None:
    with pytest.raises(ParameterError):
        CocktailParty(**{"layer": "fc0", "shape": SHAPE, **wrong})
