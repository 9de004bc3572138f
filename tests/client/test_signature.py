"""A device signs: its term is the hinge that it says, its bits come in, and nobody else pays."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from tacit.app.material import signing
from tacit.client.numpy_trainer import NumpyTrainer
from tacit.client.signature import Signature
from tacit.client.torch_trainer import TorchTrainer
from tacit.client.trainer import Examples, LocalPlan
from tacit.crypto.errors import ParameterError
from tacit.crypto.mark import MarkKey, Signs
from tacit.simulations.models import bn_cnn, mlp

RNG = np.random.default_rng(3)
EXAMPLES = Examples(
    RNG.normal(size=(40, 20)).astype(np.float32), RNG.integers(0, 4, 40).astype(np.int64)
)
TRAINER = TorchTrainer(partial(mlp, (20,), 4, (16,)))
MODEL = TRAINER.initial(0)
ARRAY = "fc0.weight"
KEY = MarkKey(bytes(range(32)))


def signature(bits: int = 12, **changed) -> Signature:
    return Signature(ARRAY, Signs(bits).rows(KEY, MODEL[ARRAY].size), **changed)


def test_one_step_is_down_the_loss_that_the_module_states() -> None:
    rows, plan = signature(), LocalPlan(batch_size=0, learning_rate=0.3)
    trained, loss = TRAINER.fit_signed(MODEL, EXAMPLES, plan, rows)
    module = mlp((20,), 4, (16,))
    module.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in MODEL.items()})
    scores = module(torch.from_numpy(EXAMPLES.x))
    entropy = nn.functional.cross_entropy(scores, torch.from_numpy(EXAMPLES.y))
    leaning = torch.from_numpy(rows.rows) @ dict(module.named_parameters())[ARRAY].reshape(-1)
    hinge = rows.weight * torch.relu(rows.margin - leaning).mean()
    (entropy + hinge).backward()
    for name, w in module.named_parameters():
        expected = (w - 0.3 * w.grad).detach().numpy()
        np.testing.assert_allclose(trained[name], expected, atol=1e-6)
    assert loss == pytest.approx(float(entropy.detach()), rel=1e-5)


def test_all_bits_come_in_and_those_of_others_do_not() -> None:
    mine, plan = signature(), LocalPlan(epochs=10, batch_size=8)
    trained, _ = TRAINER.fit_signed(MODEL, EXAMPLES, plan, mine)
    assert mine.hits(MODEL) < 12
    assert mine.hits(trained) == 12
    other = Signature(ARRAY, Signs(12).rows(MarkKey(bytes(32)), MODEL[ARRAY].size))
    assert other.hits(trained) < 12
    unsigned, _ = TRAINER.fit(MODEL, EXAMPLES, plan)
    assert mine.hits(unsigned) < 12


def test_bits_that_are_there_pull_no_more() -> None:
    plan = LocalPlan(batch_size=0)
    rows = signature(bits=1)
    there = {**MODEL, ARRAY: (MODEL[ARRAY].ravel() + 5 * rows.rows[0]).reshape(16, 20)}
    signed, plain = (
        TRAINER.fit_signed(there, EXAMPLES, plan, rows),
        TRAINER.fit(there, EXAMPLES, plan),
    )
    for name, array in plain[0].items():
        np.testing.assert_array_equal(signed[0][name], array)


def test_signing_leaves_no_trace_in_the_trainer() -> None:
    """The next device in the same process trains as if nobody had signed."""
    plan = LocalPlan(epochs=2, batch_size=8, momentum=0.9)
    before, _ = TRAINER.fit(MODEL, EXAMPLES, plan)
    TRAINER.fit_signed(MODEL, EXAMPLES, plan, signature())
    after, _ = TRAINER.fit(MODEL, EXAMPLES, plan)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_model_without_the_place_is_refused() -> None:
    with pytest.raises(ParameterError, match="no array 'fc9'"):
        TRAINER.fit_signed(MODEL, EXAMPLES, LocalPlan(), Signature("fc9", signature().rows))
    with pytest.raises(ParameterError, match=r"of 4 float32 cannot be signed: 320"):
        TRAINER.fit_signed(MODEL, EXAMPLES, LocalPlan(), Signature("head.bias", signature().rows))
    normed = TorchTrainer(partial(bn_cnn, (1, 8, 8), 4))
    rows = Signs(2).rows(KEY, 16)
    images = Examples(np.zeros((4, 1, 8, 8), np.float32), np.zeros(4, np.int64))
    place = Signature("bn0.running_mean", rows)
    with pytest.raises(ParameterError, match="not trained"):
        normed.fit_signed(normed.initial(0), images, LocalPlan(), place)


@pytest.mark.parametrize(
    ("rows", "changed"),
    [
        (np.zeros((2, 3)), {}),
        (np.zeros(3, np.float32), {}),
        (np.zeros((2, 3), np.float32), {"weight": 0.0}),
        (np.zeros((2, 3), np.float32), {"margin": float("nan")}),
    ],
)
def test_what_is_no_signature_cannot_be_made(rows, changed) -> None:
    with pytest.raises(ParameterError):
        Signature(ARRAY, rows, **changed)


def test_directions_are_not_shown() -> None:
    assert "array(" not in repr(signature())


def test_a_trainer_that_cannot_sign_says_so() -> None:
    with pytest.raises(ParameterError, match=r"NumpyTrainer cannot sign.*backend = torch"):
        signing(NumpyTrainer(20, 4, (16,)))
    assert signing(TRAINER) is TRAINER
