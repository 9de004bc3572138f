"""Labels read off the last layer: exactly where that is possible, and not at all from noise."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tacit.crypto.errors import ParameterError
from tacit.server.inbox import Seen
from tacit.simulations.attacks.base import Attack, Knows, View, view_of
from tacit.simulations.attacks.labels import (
    DistinctLabels,
    LabelCounts,
    LoneLabel,
)
from tacit.simulations.measure import of_labels
from tacit.simulations.score import interval
from tests.simulations.test_attacks import IMAGES, LABELS, relu_mlp, sigmoid_lenet, softmax, train

RATE, CLASSES = 0.1, 10


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def untaught() -> nn.Module:
    """As many frameworks begin: the last layer's weights are 0, so all inputs score alike."""
    net = relu_mlp()
    nn.init.zeros_(net.head.weight)
    return net


def rated(seen: Seen, rate: float = RATE) -> View:
    return view_of(seen, knows=Knows.LEARNING_RATE, learning_rate=rate)


def drawn(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice(len(IMAGES), count, replace=False)


def truth(chosen: np.ndarray) -> tuple[int, ...]:
    return tuple(LABELS[chosen].tolist())


def infer(attack: Attack, view: View) -> tuple[int, ...]:
    return tuple(attack.reconstruct(view, np.random.default_rng(0)).tolist())


def labels_right(guess: Sequence[int], truth: Sequence[int]) -> float:
    return of_labels(guess, truth, 100).mean


def labels_floor(truth: Sequence[int]) -> float:
    return of_labels(truth, truth, CLASSES).mean_floor


def share(attack: Attack, count: int, *, build=relu_mlp, noise: float = 0.0) -> list[float]:
    """What the attack gets right of 20 sums over `count` devices with one digit each. `noise` is
    its deviation in each coordinate of the update, in units of the update's own."""
    found = []
    for seed in range(20):
        chosen = drawn(count, seed)
        seen = train(build, IMAGES[chosen], LABELS[chosen], clients=count, seed=seed, lr=RATE)
        found.append(labels_right(infer(attack, rated(noised(seen, noise, seed))), truth(chosen)))
    return found


def noised(seen: Seen, noise: float, seed: int) -> Seen:
    rng = np.random.default_rng(seed)
    size = np.sqrt(np.mean(np.concatenate([v.ravel() ** 2 for v in seen.update.values()])))
    update = {n: v + rng.normal(0, noise * size, v.shape) for n, v in seen.update.items()}
    return replace(seen, update=update)


class TestOneInput:
    @pytest.mark.parametrize("attack", [LoneLabel("head"), DistinctLabels("head"),
                                        LabelCounts("head")])  # fmt: skip
    def test_every_attack_is_exact(self, attack: Attack) -> None:
        assert share(attack, 1) == [1.0] * 20

    def test_the_sign_alone_tells_it_after_a_step_of_any_length(self) -> None:
        for lr in (1e-3, 10.0):
            seen = train(relu_mlp, IMAGES[5:6], LABELS[5:6], lr=lr)
            assert infer(LoneLabel("head"), view_of(seen)) == (LABELS[5],)


class TestSums:
    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.integers(0, len(IMAGES) - 1), min_size=1, max_size=200))
    def test_counts_are_exact_of_any_sum_where_inputs_score_alike(self, chosen: list[int]) -> None:
        # p is the same for all inputs, so what the attack takes for its mean is that mean.
        seen = train(untaught, IMAGES[chosen], LABELS[chosen], clients=len(chosen), lr=RATE)
        found = infer(LabelCounts("head"), rated(seen))
        assert found == tuple(sorted(truth(np.array(chosen))))

    def test_adding_up_hides_no_counts_where_the_model_is_fresh(self) -> None:
        for count in (4, 16, 64):
            floor = np.mean([labels_floor(truth(drawn(count, s))) for s in range(20)])
            found = share(LabelCounts("head"), count)
            assert np.mean(found) > 0.99 > floor

    def test_counts_need_what_inputs_score_on_average(self) -> None:
        # Weights in ±0.5: classes differ by what all inputs have in common, so 1/10 will not do
        # for mean(p), nor will what the classes that are there say of it.
        found = [
            labels_right(infer(LabelCounts("5"), rated(seen)), truth(chosen))
            for chosen in (drawn(16, seed) for seed in range(10))
            for seen in [train(sigmoid_lenet, IMAGES[chosen], LABELS[chosen], clients=16, lr=RATE)]
        ]
        assert np.mean(found) > 0.99

    def test_ten_distinct_labels_of_many_classes(self) -> None:
        def wide() -> nn.Module:
            net = relu_mlp()
            net.head = nn.Linear(512, 100)
            return net

        labels = np.random.default_rng(0).choice(100, 10, replace=False)
        seen = train(wide, IMAGES[:10], labels, clients=10)
        assert infer(DistinctLabels("head"), view_of(seen)) == tuple(sorted(labels.tolist()))

    def test_distinct_labels_are_found_and_repeated_ones_are_not(self) -> None:
        one_of_each = [int(np.flatnonzero(c == LABELS)[3]) for c in (7, 1, 4)]
        seen = train(relu_mlp, IMAGES[one_of_each], LABELS[one_of_each], clients=3)
        assert infer(DistinctLabels("head"), view_of(seen)) == (1, 4, 7)
        seven = np.flatnonzero(LABELS == 7)[:3]
        seen = train(relu_mlp, IMAGES[seven], LABELS[seven], clients=3)
        # It has one guess per class, so two of three sevens must be missed.
        assert labels_right(infer(DistinctLabels("head"), view_of(seen)), (7,) * 3) == 1 / 3

    def test_the_wrong_learning_rate_spoils_the_counts(self) -> None:
        """So the grant is one: what is tested above needs it."""
        sevens = np.flatnonzero(LABELS == 7)[:10]
        seen = train(untaught, IMAGES[sevens], LABELS[sevens], clients=10, lr=RATE)
        assert infer(LabelCounts("head"), rated(seen)) == (7,) * 10
        assert infer(LabelCounts("head"), rated(seen, 4 * RATE)) != (7,) * 10

    def test_noise_brings_counts_to_the_floor(self) -> None:
        # 100 times the update: an entry of dL/db is then known to more than 1, and all it can say
        # is between -1 and 1.
        for count in (1, 16):
            clear, drowned = (share(LabelCounts("head"), count, noise=noise) for noise in (0, 100))
            floor = [labels_floor(truth(drawn(count, seed))) for seed in range(20)]
            ahead = interval(np.subtract(drowned, floor).tolist(), np.random.default_rng(0))
            assert ahead.low <= 0
            assert np.mean(clear) > np.mean(floor) + 0.3

    def test_pure_noise_never_breaks_it(self) -> None:
        chosen = drawn(8, 0)
        seen = train(relu_mlp, IMAGES[chosen], LABELS[chosen], clients=8)
        for seed in range(200):
            rng = np.random.default_rng(seed)
            update = {name: rng.normal(0, 1, v.shape) for name, v in seen.update.items()}
            update["head.bias"] = rng.normal(rng.choice([-9, 0, 9]), 1, 10)  # also all of one sign
            found = infer(LabelCounts("head"), rated(replace(seen, update=update)))
            assert len(found) == 8


class TestRefusals:
    @pytest.mark.parametrize(
        ("attack", "says"),
        [
            (LoneLabel("head"), "for one input, this update has 12"),
            (DistinctLabels("head"), "12 inputs have no more than 10 classes"),
            (LabelCounts("head"), "needs to know learning rate: grant it"),
        ],
    )
    def test_what_an_attack_needs(self, attack: Attack, says: str) -> None:
        seen = train(relu_mlp, IMAGES[:12], LABELS[:12], clients=12)
        with pytest.raises(ParameterError, match=says):
            infer(attack, view_of(seen))

    @pytest.mark.parametrize("kind", [LoneLabel, DistinctLabels, LabelCounts])
    def test_layers_that_are_not_there_or_did_not_move(self, kind: type) -> None:
        seen = train(softmax, IMAGES[:1], LABELS[:1])
        still = replace(seen, update={n: np.zeros_like(v) for n, v in seen.update.items()})
        for layer, update, says in (("head", seen, "no 'head"), ("fc", still, "did not move")):
            with pytest.raises(ParameterError, match=says):
                infer(kind(layer), rated(update))

    def test_a_model_of_another_shape(self) -> None:
        seen = train(softmax, IMAGES[:1], LABELS[:1])
        other = replace(seen, model={**seen.model, "fc.weight": np.zeros((10, 3))})
        with pytest.raises(ParameterError, match="not shaped as that of the model"):
            infer(LabelCounts("fc"), rated(other))
