"""Models that servers design: what they do to gradients, and what they cannot be made of."""

from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from tacit.crypto.errors import ParameterError
from tacit.server.inbox import Arrays, Seen
from tacit.simulations.attacks.base import Conduct, Knows, Target, view_of
from tacit.simulations.attacks.fishing import ClassFishing, FeatureFishing
from tacit.simulations.attacks.imprint import Imprint
from tacit.simulations.attacks.inconsistency import Inconsistency, deadened
from tacit.simulations.hostile import HostileServer, Malicious, Sent, ideal_sum
from tacit.simulations.models import mlp, softmax
from tests.simulations.test_attacks import IMAGES, LABELS, SHAPE

X, Y = IMAGES[:100], LABELS[:100]
PUBLIC = IMAGES[1000:]
RNG = np.random.default_rng(0)
EXACT = 1e-6  # mean squared error: 60 dB


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@cache
def model() -> dict[str, NDArray[np.float32]]:
    torch.manual_seed(0)
    return {name: t.numpy() for name, t in mlp(SHAPE, 10).state_dict().items()}


def sent(attack: Malicious, members: range = range(4)) -> Sent:
    return attack.send(model(), members, PUBLIC, np.random.default_rng(0))


def update(arrays: Arrays, x: NDArray[np.float64], y: NDArray[np.int64]) -> Seen:
    """One step of SGD on all of x in float32, as a device takes it: with what it rounds off."""
    net = mlp(SHAPE, 10)
    net.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
    inputs, labels = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    nn.functional.cross_entropy(net(inputs), labels).backward()
    torch.optim.SGD(net.parameters(), lr=0.1).step()
    moved = {name: p.detach().double().numpy() - arrays[name] for name, p in net.named_parameters()}
    return Seen(1, arrays, moved, len(x), float(len(x)), "pairwise")


def nearest(found: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each input, the error of the best guess at it."""
    return ((found[:, None] - x[None]) ** 2).mean(axis=(2, 3, 4)).min(axis=0)


@pytest.mark.parametrize(
    "attack",
    [
        Imprint(SHAPE),
        Inconsistency("fc0", SHAPE),
        ClassFishing(3, SHAPE),
        FeatureFishing(3, SHAPE, 10),
    ],
    ids=lambda attack: attack.name,
)
def test_what_is_sent_is_of_the_same_structure(attack: Malicious) -> None:
    """And the strategy's model stays as it was."""
    before = {name: array.copy() for name, array in model().items()}
    out = sent(attack)
    for arrays in (out.model, *out.instead.values()):
        shapes = [(name, array.shape, array.dtype) for name, array in arrays.items()]
        assert shapes == [(name, array.shape, array.dtype) for name, array in before.items()]
    assert all(np.array_equal(model()[name], array) for name, array in before.items())
    assert (attack.conduct, attack.target) == (Conduct.MALICIOUS, Target.INPUTS)


class TestInconsistency:
    def test_nothing_moves_a_dead_layer(self) -> None:
        moved = update(deadened(model(), "fc0"), X, Y).update
        assert not moved["fc0.weight"].any()
        assert not moved["fc0.bias"].any()
        assert moved["head.bias"].any()

    def test_all_but_the_victim_get_it(self) -> None:
        out = sent(Inconsistency("fc0", SHAPE, victim=2), range(1000, 1004))
        assert out.model is model()
        assert sorted(out.instead) == [1000, 1001, 1003]

    def test_what_cannot_be(self) -> None:
        with pytest.raises(ParameterError, match="victim=4 of 4"):
            sent(Inconsistency("fc0", SHAPE, victim=4))
        with pytest.raises(ParameterError, match=r"no 'conv0\.weight'"):
            sent(Inconsistency("conv0", SHAPE))


class TestFishing:
    def test_only_the_class_pulls(self) -> None:
        """The first layer moves as if the others were not there: what they add is below what a
        probability of e^-40 leaves of a gradient."""
        arrays = sent(ClassFishing(3, SHAPE)).model
        all_, alone = update(arrays, X, Y).update, update(arrays, X[Y == 3], Y[Y == 3]).update
        share = (Y == 3).mean()
        # Each is off by what float32 rounds: 2**-27 of weights below 1/8.
        assert np.abs(all_["fc0.weight"] - share * alone["fc0.weight"]).max() < 2**-25
        assert np.abs(all_["fc0.weight"]).max() > 2**-12
        others = update(arrays, X[Y != 3], Y[Y != 3]).update
        assert np.abs(others["fc0.weight"]).max() < 1e-15

    @pytest.mark.parametrize("label", range(10))
    def test_one_of_its_class_is_read(self, label: int) -> None:
        first = np.flatnonzero(label == Y)[0]
        rows = np.append(np.flatnonzero(label != Y), first)
        attack = ClassFishing(label, SHAPE)
        view = view_of(update(sent(attack).model, X[rows], Y[rows]))
        found = attack.reconstruct(view, RNG)
        assert nearest(found[:1], X[[first]])[0] < EXACT

    def test_of_a_class_the_largest_feature_is_read(self) -> None:
        """For each feature: exactly one above the cut-off is read, none gives no guess, and several
        give one guess, which is none of them."""
        outcomes = []
        ours = Y == 3
        for feature in range(64):
            attack = FeatureFishing(3, SHAPE, among=int(ours.sum()), feature=feature)
            arrays = sent(attack).model
            weight, bias = arrays["fc0.weight"][feature], arrays["fc0.bias"][feature]
            above = ours & (X.reshape(len(X), -1) @ weight.astype(np.float64) + bias > 0)
            found = attack.reconstruct(
                view_of(update(arrays, X, Y), knows=Knows.PUBLIC_DATA, public_data=PUBLIC),
                RNG,
            )
            outcomes.append(int(above.sum()))
            assert len(found) == bool(above.any())
            if above.sum() == 1:
                assert nearest(found, X[above])[0] < EXACT
            elif above.any():
                assert nearest(found, X[above]).min() > EXACT
        assert {0, 1} < set(outcomes)  # nothing, one, and several: each of them was seen to

    def test_one_in_so_many_public_examples_is_above_the_cut_off(self) -> None:
        for feature in range(64):
            arrays = sent(FeatureFishing(3, SHAPE, among=20, feature=feature)).model
            row = arrays["fc0.weight"][feature].astype(np.float64)
            measured = PUBLIC.reshape(len(PUBLIC), -1) @ row + arrays["fc0.bias"][feature]
            # A quantile lies between two examples, and float32 rounds the edge by next to nothing.
            assert abs((measured > 0).sum() - len(PUBLIC) / 20) <= 1

    def test_a_class_that_nobody_has_gives_no_guess(self) -> None:
        attack = ClassFishing(3, SHAPE)
        seen = update(sent(attack).model, X, Y)
        still = {**seen.update, "fc0.bias": np.zeros(64), "fc0.weight": np.zeros((64, 64))}
        view = view_of(Seen(1, seen.model, still, 4, 4.0, "pairwise"))
        assert attack.reconstruct(view, RNG).shape == (0, *SHAPE)

    @pytest.mark.parametrize(
        ("attack", "says"),
        [
            (ClassFishing(10, SHAPE), "label=10 of 10 classes"),
            (ClassFishing(3, SHAPE, head="fc9"), r"no 'fc9\.weight'"),
            (FeatureFishing(3, SHAPE, 10, feature=64), "feature=64 of 64 in fc0"),
            (FeatureFishing(3, SHAPE, 10, layer="head"), "head does not follow head"),
        ],
    )
    def test_what_cannot_be(self, attack: Malicious, says: str) -> None:
        with pytest.raises(ParameterError, match=says):
            sent(attack)

    def test_one_in_one_is_no_cut(self) -> None:
        with pytest.raises(ParameterError, match="among=1"):
            FeatureFishing(3, SHAPE, 1)

    def test_a_layer_that_is_none(self) -> None:
        flat = {name: array.ravel() for name, array in model().items()}
        with pytest.raises(ParameterError, match="fc0 is no linear layer"):
            FeatureFishing(3, SHAPE, 10, head="fc0").send(flat, [1], PUBLIC, RNG)


class TestImprint:
    def test_it_has_as_many_bins_as_the_layer_is_wide(self) -> None:
        out = sent(Imprint(SHAPE)).model
        assert (np.diff(out["fc0.bias"]) < 0).all()
        assert np.ptp(out["fc0.weight"], axis=0).max() == 0

    def test_a_model_without_two_layers(self) -> None:
        arrays = {name: t.numpy() for name, t in softmax(SHAPE, 10).state_dict().items()}
        with pytest.raises(ParameterError, match=r"no 'fc0\.bias'"):
            Imprint(SHAPE).send(arrays, [1], PUBLIC, RNG)


@pytest.mark.parametrize("attack", [Imprint(SHAPE), FeatureFishing(3, SHAPE, 10)])
def test_public_data_are_granted_or_nothing_is_sent(attack: Malicious) -> None:
    with pytest.raises(ParameterError, match="needs to know public data"):
        HostileServer(attack)
    seen = Seen(1, model(), model(), 4, 4.0, "pairwise")
    with pytest.raises(ParameterError, match="needs to know public data"):
        attack.reconstruct(view_of(seen), RNG)


class TestIdealSum:
    def test_it_is_the_weighted_mean(self) -> None:
        one = Seen(2, {}, {"w": np.array([1.0, 0.0])}, 1, 1.0, "plain", (7,))
        other = Seen(2, {}, {"w": np.array([0.0, 4.0])}, 1, 3.0, "plain", (5,))
        whole = ideal_sum([one, other])
        assert whole.update["w"].tolist() == [0.25, 3.0]
        assert (whole.clients, whole.weight, whole.members) == (2, 4.0, (5, 7))
        assert (whole.round, whole.protocol) == (2, "ideal sum")

    @pytest.mark.parametrize("parts", [[], [(1, 1, 1.0), (2, 1, 1.0)], [(1, 2, 1.0)], [(1, 1, 0)]])
    def test_what_is_no_sum(self, parts: list[tuple[int, int, float]]) -> None:
        seen = [Seen(r, {}, {"w": np.ones(1)}, n, weight, "plain", (1,)) for r, n, weight in parts]
        with pytest.raises(ParameterError, match=r"one round|single devices"):
            ideal_sum(seen)
