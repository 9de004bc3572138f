"""The gate's view of a module: probabilities and the last layer's inputs."""

import numpy as np
import pytest
import torch
from torch import nn

from tacit.crypto.errors import ParameterError
from tacit.server.gate.model import TorchModel
from tacit.simulations.models import factory


def test_it_gives_the_modules_probabilities_and_features() -> None:
    module = factory("cnn")((1, 8, 8), 10)
    model = TorchModel(module, (1, 8, 8))
    x = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)
    scored = model.scored(x)
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).softmax(1).numpy()
        again = module.fc(torch.from_numpy(scored.features)).softmax(1).numpy()
    assert model.classes == 10
    assert np.array_equal(scored.probabilities, expected)
    assert np.allclose(again, expected, atol=1e-6)


def test_dropout_is_off() -> None:
    module = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 2))
    model = TorchModel(module, (4,))
    x = np.ones((1, 4), np.float32)
    assert all(
        np.array_equal(model.scored(x).probabilities, model.scored(x).probabilities)
        for _ in range(20)
    )


@pytest.mark.parametrize(
    ("module", "shape", "reason"),
    [
        (nn.Sequential(nn.Flatten()), (4,), "no dense layer"),
        (nn.Linear(4, 2), (5,), "cannot take inputs of shape"),
        (nn.Linear(4, 2), (3, 4), "one row of class scores"),
    ],
)
def test_what_cannot_be_served_is_refused(module: nn.Module, shape: tuple, reason: str) -> None:
    with pytest.raises(ParameterError, match=reason):
        TorchModel(module, shape)
