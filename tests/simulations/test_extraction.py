"""Copies are good where nothing defends, cost what they say, and are the same again."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.crypto.errors import BudgetExceeded, ParameterError
from tacit.server.gate.model import Floats32, Scored
from tacit.server.gate.reveal import Detail, Reveal
from tacit.simulations.attacks import jbda as growing
from tacit.simulations.attacks.blackbox import BlackBox
from tacit.simulations.attacks.equations import fitted, solved
from tacit.simulations.attacks.extraction import imitate, labels_of
from tacit.simulations.attacks.jbda import STEP, jbda
from tacit.simulations.attacks.knockoff import knockoff
from tacit.simulations.attacks.transfer import crafted, scattered
from tacit.simulations.attacks.varied import varied
from tacit.simulations.duels.ground import ground, patches
from tacit.simulations.duels.theft import FULL, LABEL, Scene

PICTURES = patches((1, 8, 8), 1000)


class Softmax:
    """A softmax regression in double precision, so that what is lost is the attack's loss."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray) -> None:
        self.weight, self.bias = weight, bias
        self.shape, self.classes = (weight.shape[1],), len(weight)
        self.met: list[Floats32] = []

    def scored(self, x: Floats32) -> Scored:
        self.met.append(x)
        scores = x.astype(np.float64) @ self.weight.T + self.bias
        powers = np.exp(scores - scores.max(1, keepdims=True))
        return Scored(powers / powers.sum(1, keepdims=True), x)


def softmax(classes: int, width: int, seed: int = 0) -> Softmax:
    rng = np.random.default_rng(seed)
    return Softmax(rng.normal(size=(classes, width)), rng.normal(size=classes))


@settings(max_examples=50, deadline=None)
@given(classes=st.integers(2, 6), width=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
def test_equations_give_all_weights_but_their_common_shift(
    classes: int, width: int, seed: int
) -> None:
    """The error of a logarithm is some 2**-50, and the system makes it its condition larger."""
    model = softmax(classes, width, seed)
    box = BlackBox(model, FULL, budget=width + 1)
    found = solved(box, width + 1, np.random.default_rng(seed))
    condition = np.linalg.cond(np.hstack([model.met[0], np.ones((width + 1, 1))]))
    bound = 2**-44 * condition * (1 + width)
    weight = model.weight - model.weight[0]
    assert np.abs(found.weight - weight).max() <= bound
    assert np.abs(found.bias - (model.bias - model.bias[0])).max() <= bound
    assert box.left == 0


def test_equations_need_as_many_answers_as_unknowns_and_scores() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ParameterError, match="5 answers for 6 unknowns"):
        solved(BlackBox(softmax(3, 5), FULL), 5, rng)
    with pytest.raises(ParameterError, match="no logarithm"):
        solved(BlackBox(softmax(3, 5), LABEL), 6, rng)


def test_a_linear_model_is_its_unknowns_in_answers() -> None:
    scene = Scene("digits", "softmax")
    copy = solved(scene.box(FULL, 65), 65, np.random.default_rng(0))
    assert scene.agreement(copy.labels(scene.where.held.x)) >= 0.999


def test_a_fit_is_better_the_more_is_told_and_asked() -> None:
    scene = Scene("digits", "softmax")

    def agreement(reveal: Reveal, count: int) -> float:
        copy = fitted(scene.box(reveal, count), count, np.random.default_rng(0))
        return scene.agreement(copy.labels(scene.where.held.x))

    rounded = Reveal(Detail.ROUNDED, 2)
    assert agreement(LABEL, 65) < agreement(LABEL, 650) < agreement(rounded, 650)
    assert agreement(LABEL, 65) < agreement(rounded, 65)
    assert agreement(rounded, 650) >= 0.99


def test_knockoff_copies_a_model_that_tells_all() -> None:
    scene = Scene("digits")
    copy = knockoff(scene.box(FULL), PICTURES, 0)
    assert scene.fidelity(copy) >= 0.7  # 0.1 is chance
    few = knockoff(scene.box(LABEL, 50), PICTURES, 0)
    assert scene.fidelity(few) <= scene.fidelity(copy) - 0.2


def test_knockoff_asks_its_budget_and_is_the_same_again() -> None:
    box = Scene("digits").box(LABEL, 30)
    one = knockoff(box, PICTURES, 1)
    assert (box.asked, box.left) == (30, 0)
    again = knockoff(Scene("digits").box(LABEL, 30), PICTURES, 1)
    other = knockoff(Scene("digits").box(LABEL, 30), PICTURES, 2)
    assert same(one, again)
    assert not same(one, other)
    with pytest.raises(BudgetExceeded):
        box.ask(PICTURES[:1])
    with pytest.raises(ParameterError, match="0 inputs"):
        knockoff(box, PICTURES, 1)


@pytest.mark.parametrize(("budget", "asked"), [(None, 40), (35, 35), (20, 20), (6, 6)])
def test_jacobian_augmentation_doubles_until_its_budget_ends(
    budget: int | None, asked: int
) -> None:
    examples = ground("digits").owned.x[:10]
    boxes = [Scene("digits").box(FULL, budget) for _ in range(2)]
    copies = [jbda(box, examples, 2, 0, "softmax") for box in boxes]
    assert boxes[0].asked == asked
    assert same(*copies)


def test_jacobian_augmentation_moves_towards_more_of_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a copy that is linear in x, the score of the label grows by the step times its slope; and
    after so many rounds the step turns round."""
    model = softmax(3, 4)
    copy = torch.nn.Linear(4, 3)
    with torch.no_grad():
        copy.weight.copy_(torch.from_numpy(model.weight))
        copy.bias.copy_(torch.from_numpy(model.bias))
    monkeypatch.setattr(growing, "imitate", lambda *_: copy)
    monkeypatch.setattr(growing, "PERIOD", 1)
    x = np.full((1, 4), 0.5, np.float32)
    box = BlackBox(model, FULL)
    jbda(box, x, 2, 0)
    label = int(model.scored(x).probabilities.argmax())
    slope = np.sign(model.weight[label])
    assert np.allclose(model.met[1], 0.5 + STEP * slope)
    again = int(model.scored(model.met[1]).probabilities.argmax())
    turned = -STEP * np.sign(model.weight[again])
    assert np.allclose(model.met[2], np.concatenate([x, model.met[1]]) + turned)


def test_what_fools_a_copy_fools_its_victim() -> None:
    scene = Scene("digits")
    x, radius = scene.where.held.x, 0.2
    copy = knockoff(scene.box(FULL), PICTURES, 0)
    for steps in (1, 10):
        moved = crafted(copy, x, scene.truth, radius, steps)
        assert np.abs(moved - x).max() <= radius + 2**-22  # float32, twice
        assert moved.min() >= 0
        assert moved.max() <= 1
        by_chance = scattered(x, radius, np.random.default_rng(0))
        victim = [
            scene.agreement(scene.victim.scored(each).probabilities.argmax(1))
            for each in (moved, by_chance)
        ]
        assert victim[0] <= victim[1] - 0.4
        assert scene.agreement(labels_of(copy, moved)) <= 0.1


def test_soft_labels_are_learnt_as_they_are() -> None:
    x = np.eye(2, dtype=np.float32)
    rows = np.array([[0.3, 0.7], [0.9, 0.1]])
    copy = imitate(x, rows, 0, "mlp:8")
    with torch.inference_mode():
        learnt = copy(torch.from_numpy(x)).softmax(1).numpy()
    assert np.abs(learnt - rows).max() < 0.01


def test_torchs_own_chance_is_left_alone() -> None:
    before = torch.get_rng_state()
    imitate(np.eye(2, dtype=np.float32), np.eye(2), 0, "mlp:8")
    assert torch.equal(before, torch.get_rng_state())


@given(st.integers(0, 50), st.integers(0, 2**32 - 1))
def test_variations_are_near_what_they_are_of(count: int, seed: int) -> None:
    x = ground("digits").owned.x[:20]
    made, of = varied(x, count, np.random.default_rng(seed))
    assert made.shape == (count, 1, 8, 8)
    assert made.dtype == np.float32
    assert of.shape == (count,)
    assert ((made >= 0) & (made <= 1)).all()
    for one, index in zip(made, of, strict=True):
        moves = [np.roll(x[index], (a, b), (1, 2)) for a in (-1, 0, 1) for b in (-1, 0, 1)]
        # 0.1 of noise and up to 0.3 of brightness, where two digits differ by 0.3 on average.
        assert min(np.abs(one - each).mean() for each in moves) < 0.2


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_an_outside_referee_finds_the_same() -> None:
    """The Adversarial Robustness Toolbox's Knockoff Nets, at as many answers, with our thief."""
    pytest.importorskip("art")
    from art.attacks.extraction import KnockoffNets
    from art.estimators.classification import PyTorchClassifier

    from tacit.simulations.duels.ground import arrays_of, module_of
    from tacit.simulations.models import factory

    scene, count = Scene("digits"), 1000
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - the toolbox draws from it

    def estimator(module: torch.nn.Module) -> PyTorchClassifier:
        return PyTorchClassifier(
            module,
            loss=torch.nn.CrossEntropyLoss(),
            input_shape=(1, 8, 8),
            nb_classes=10,
            optimizer=torch.optim.Adam(module.parameters(), 1e-3),
            clip_values=(0, 1),
            device_type="cpu",
        )

    # Their thief is trained to give scores as they are told: those of a module that ends in none.
    victim = torch.nn.Sequential(
        module_of("digits", "cnn", arrays_of("digits")), torch.nn.Softmax(1)
    )
    theirs = KnockoffNets(
        estimator(victim),
        batch_size_fit=64,
        batch_size_query=256,
        nb_epochs=100,
        nb_stolen=count,
        use_probability=True,
        verbose=False,
    ).extract(PICTURES, thieved_classifier=estimator(factory("mlp:256")((1, 8, 8), 10)))
    found = scene.agreement(theirs.predict(scene.where.held.x).argmax(1))
    ours = scene.fidelity(knockoff(scene.box(FULL, count), PICTURES, 0))
    print(f"theirs {found:.3f}, ours {ours:.3f}")
    assert abs(found - ours) <= 0.1  # seeds alone differ by 0.05
