"""SPEAR gets every input of a small batch, to the last digits, and none of a long sum."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import nn

from tacit.crypto.errors import ParameterError
from tacit.server.inbox import Seen
from tacit.simulations.attacks.base import Knows, view_of
from tacit.simulations.attacks.spear import Spear
from tacit.simulations.evaluate import Outcome, evaluate
from tacit.simulations.models import mlp
from tacit.simulations.score import at_floor
from tests.simulations.test_attacks import IMAGES, LABELS, softmax, train

X, Y, SHAPE = IMAGES, LABELS, (1, 8, 8)
GALLERY = X[:200]
ATTACK = Spear("fc0", SHAPE)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def wide() -> nn.Module:
    return mlp(SHAPE, 10, (256,))


def summed(count: int, seed: int, *, build=wide, **more: object) -> tuple[Seen, np.ndarray]:
    """A sum over `count` devices with one digit each, and which ones."""
    chosen = np.random.default_rng(seed).choice(len(GALLERY), count, replace=False)
    return train(build, X[chosen], Y[chosen], clients=count, seed=seed, **more), chosen


def attacked(seen: Seen, chosen: np.ndarray, attack: Spear = ATTACK) -> Outcome:
    return evaluate(attack, view_of(seen), X[chosen], GALLERY, np.random.default_rng(0))


def noisy(seen: Seen, noise: float) -> Seen:
    """With noise of so many times the update's own deviation in every coordinate."""
    rng = np.random.default_rng(5)
    update = {n: v + rng.normal(0, noise * v.std(), v.shape) for n, v in seen.update.items()}
    return replace(seen, update=update)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_all_of_a_small_sum_comes_back(count: int) -> None:
    # float64 rounds at 1e-16, and Q is far from singular: 60 dB, an error of 1e-3, is not near.
    for seed in range(2):
        outcome = attacked(*summed(count, seed))
        assert min(outcome.score.psnr) > 60
        assert outcome.score.identified == 1


def test_an_update_in_float32_gives_a_small_sum_away_too() -> None:
    outcome = attacked(*summed(2, 0, kind=torch.float32))
    assert min(outcome.score.psnr) > 40
    assert outcome.score.identified == 1


def test_the_rank_is_read_off_the_update() -> None:
    """One device's weight may be fixed, or larger than what it holds: n is at most what shows."""
    seen, chosen = summed(2, 0)
    view = view_of(seen, knows=Knows.BATCH_SIZE, batch_size=5)
    found = ATTACK.reconstruct(view, np.random.default_rng(0))
    assert len(found) == 2
    errors = np.abs(found[:, None] - X[chosen]).max(axis=(2, 3, 4))
    assert errors.min(axis=0).max() < 1e-6


@pytest.mark.parametrize("count", [32, 48])
def test_no_digit_of_a_long_sum_is_found(count: int) -> None:
    # Not `at_floor`: a wrong Q makes mixtures of digits, and of 32 different ones some are
    # nearer to a digit than grey is. None is that digit, and who was in it is luck.
    outcome = attacked(*summed(count, 0), replace(ATTACK, draws=4096))
    assert outcome.score.recovered == 0
    hits = round(outcome.score.identified * count)
    assert binom.sf(hits - 1, count, count / len(GALLERY)) > 0.05


def test_without_a_relu_nothing_tells_inputs_apart() -> None:
    """What the attack lives on: with a layer that cuts nothing off, it is at the floor."""

    def smooth() -> nn.Module:
        net = wide()
        net.relu0 = nn.Tanh()
        return net

    outcome = attacked(*summed(4, 0, build=smooth))
    assert at_floor(outcome.score, outcome.floor)


def test_noise_brings_it_to_the_floor() -> None:
    seen, chosen = summed(4, 2)
    assert attacked(seen, chosen).score.recovered == 1
    drowned = attacked(noisy(seen, 10.0), chosen)
    assert at_floor(drowned.score, drowned.floor)


def test_what_could_all_be_noise_gives_few_guesses_or_none() -> None:
    seen, _ = summed(4, 2)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        update = {n: rng.normal(0, 1, v.shape) for n, v in seen.update.items()}
        view = view_of(replace(seen, update=update))
        assert len(ATTACK.reconstruct(view, rng)) <= 4


def test_the_truth_and_the_draws_decide_nothing_else() -> None:
    seen, chosen = summed(4, 2)
    guess = attacked(seen, chosen).guess
    assert np.array_equal(guess, attacked(seen, chosen).guess)
    other = ATTACK.reconstruct(view_of(seen), np.random.default_rng(99))
    assert np.abs(guess[:, None] - other).max(axis=(2, 3, 4)).min(axis=1).max() < 1e-6


@pytest.mark.parametrize(
    ("attack", "says"),
    [
        (Spear("nowhere", (1, 8, 8)), "no 'nowhere.weight'"),
        (Spear("fc", (1, 4, 4)), "does not see inputs"),
    ],
)
def test_wrong_layer_is_named(attack: Spear, says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        attack.reconstruct(view_of(train(softmax, IMAGES[:2], LABELS[:2])), np.random.default_rng())


def test_what_cannot_be_read_is_named() -> None:
    seen, _ = summed(2, 0)
    still = {name: np.zeros_like(value) for name, value in seen.update.items()}
    with pytest.raises(ParameterError, match="did not move"):
        ATTACK.reconstruct(view_of(replace(seen, update=still)), np.random.default_rng())
    half = {"fc0.weight": seen.model["fc0.weight"][:9], "fc0.bias": seen.model["fc0.bias"][:9]}
    with pytest.raises(ParameterError, match="not shaped as that of the model"):
        ATTACK.reconstruct(view_of(replace(seen, model=half)), np.random.default_rng())


@pytest.mark.parametrize("wrong", [{"shape": ()}, {"low": 1.0}, {"draws": 0}, {"agreed": 0.0}])
def test_impossible_settings_cannot_be_built(wrong: dict[str, object]) -> None:
    with pytest.raises(ParameterError):
        Spear(**{"layer": "fc0", "shape": SHAPE, **wrong})
