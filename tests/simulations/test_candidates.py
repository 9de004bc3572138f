"""Recognising the inputs behind an update: surely without noise, and within the bound under it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binom

from tacit.crypto.errors import ParameterError
from tacit.privacy.gaussian import guessed
from tacit.server.inbox import Seen
from tacit.simulations.attacks.base import Knows, View, view_of
from tacit.simulations.attacks.candidates import CandidateMatching
from tests.simulations.test_attacks import IMAGES, LABELS, relu_mlp, softmax, train

RATE, LISTED = 0.1, 100
KNOWS = Knows.CANDIDATES | Knows.LEARNING_RATE


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def listing(seen: Seen) -> View:
    x, y = IMAGES[:LISTED].astype(np.float32), LABELS[:LISTED]
    return view_of(seen, knows=KNOWS, candidates=(x, y), learning_rate=RATE)


def matched(attack: CandidateMatching, view: View) -> np.ndarray:
    """Which of the candidates are taken."""
    found = attack.reconstruct(view, np.random.default_rng(0))
    same = (found[:, None] == IMAGES[:LISTED].astype(np.float32)).reshape(len(found), LISTED, -1)
    return same.all(axis=2).argmax(axis=1)


@pytest.mark.parametrize("build", [relu_mlp, softmax])
def test_one_input_is_recognised(build) -> None:
    for chosen in range(8):
        seen = train(build, IMAGES[[chosen]], LABELS[[chosen]], lr=RATE)
        assert matched(CandidateMatching(build), listing(seen)).tolist() == [chosen]


def test_a_sum_is_taken_apart() -> None:
    right = []
    for seed in range(5):
        chosen = np.random.default_rng(seed).choice(LISTED, 8, replace=False)
        seen = train(relu_mlp, IMAGES[chosen], LABELS[chosen], clients=8, lr=RATE, seed=seed)
        taken = matched(CandidateMatching(relu_mlp), listing(seen))
        assert len(set(taken)) == 8  # none twice
        right.append(len(set(taken) & set(chosen)) / 8)
    assert np.mean(right) > 0.9


def test_it_is_within_the_bound_under_noise_and_not_far_from_it() -> None:
    """One device's update, clipped, under noise of `deviation` clips: m = 1 / deviation. What the
    bound allows is for updates that have nothing in common; those of digits of one class do."""
    rng, trials, clip = np.random.default_rng(0), 40, 0.05
    attack = CandidateMatching(relu_mlp, clip)
    for deviation in (4.0, 0.5, 0.2):
        hits = 0
        for chosen in range(trials):
            seen = train(relu_mlp, IMAGES[[chosen]], LABELS[[chosen]], lr=RATE)
            flat = np.concatenate([value.ravel() for value in seen.update.values()])
            scale = min(1.0, clip / float(np.linalg.norm(flat)))
            assert scale < 1  # or the clip would be no part of this
            update = {
                name: value * scale + rng.normal(0, deviation * clip, value.shape)
                for name, value in seen.update.items()
            }
            taken = matched(attack, listing(replace(seen, update=update)))
            hits += taken[0] == chosen
        bound = guessed(1 / deviation, 1 / LISTED)
        assert binom.sf(hits - 1, trials, bound) > 1e-6
        if deviation == 0.2:
            assert hits / trials > bound / 3
    assert hits > 10


def test_a_clip_that_is_left_out_is_missed() -> None:
    """Candidates of other lengths than what was sent: the longest is not the likeliest."""
    chosen, clip = list(range(20, 28)), 0.01
    seen = train(relu_mlp, IMAGES[chosen], LABELS[chosen], clients=8, lr=RATE)
    flat = np.concatenate([value.ravel() for value in seen.update.values()])
    short = clip / float(np.linalg.norm(flat))
    view = listing(replace(seen, update={n: v * short for n, v in seen.update.items()}))
    with_clip, without = (
        len(set(matched(CandidateMatching(relu_mlp, c), view)) & set(chosen)) for c in (clip, None)
    )
    assert with_clip > without


class TestRefusals:
    def test_it_needs_a_list(self) -> None:
        seen = train(softmax, IMAGES[:1], LABELS[:1])
        with pytest.raises(ParameterError, match="needs to know learning rate, candidates"):
            CandidateMatching(softmax).reconstruct(view_of(seen), np.random.default_rng(0))

    def test_another_model(self) -> None:
        view = listing(train(softmax, IMAGES[:1], LABELS[:1]))
        with pytest.raises(ParameterError, match=r"the model has no '0\.weight'"):
            CandidateMatching(lambda: torch.nn.Sequential(torch.nn.Linear(64, 10))).reconstruct(
                view, np.random.default_rng(0)
            )

    def test_no_clip_is_nothing(self) -> None:
        with pytest.raises(ParameterError, match="clip=0"):
            CandidateMatching(softmax, 0.0)
