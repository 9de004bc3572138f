"""Copying a model through its answers: what every such attack does once it has them.

A thief asks, and trains a model of his own to answer alike. It need not be built like the one that
he copies (Orekondy, Schiele and Fritz 2019, arXiv:1812.02766, section 4). What he asks is what his
attacks differ in: see `knockoff`, `jbda` and `equations`.

What counts is **fidelity**: how often the copy gives the victim's label for data that neither has
seen (Jagielski et al. 2020, arXiv:1909.01838, section 3). The copy's accuracy says less: who has
examples of his own and labels them gets an accurate model without any victim.
"""

from collections.abc import Callable
from functools import partial
from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tacit.client.torch_trainer import TorchTrainer
from tacit.crypto.errors import ParameterError
from tacit.server.gate.model import Floats32
from tacit.server.gate.reveal import Floats
from tacit.simulations.models import factory

COPY = "mlp:256"  # dense, where the victims of the duels convolve
BATCH = 128
RATE = 5e-3  # the highest of a rate that rises and falls again
STEPS_A_ROOT, FEWEST_STEPS = 40, 400  # 4,000 steps on 10,000 pairs: each is met 50 times


def imitate(x: Floats32, rows: Floats, seed: int, model: str = COPY) -> nn.Module:
    """A `model` trained to answer `x` (n, *shape) with the probabilities `rows` (n, classes).

    Adam on the cross-entropy with soft labels. It stops by count, and never looks at the victim.
    Deterministic in its arguments, for one number of threads. Raises ParameterError if there is
    nothing to learn from.
    """
    if len(x) == 0 or len(x) != len(rows):
        raise ParameterError(f"{len(x)} inputs and {len(rows)} answers: expected as many, and some")
    module = _fresh(partial(factory(model), x.shape[1:], rows.shape[1]), seed)
    inputs, targets = _tensor(x), _tensor(rows)
    steps = max(FEWEST_STEPS, int(STEPS_A_ROOT * sqrt(len(x))))
    descent = torch.optim.Adam(module.parameters(), RATE, fused=True)
    pace = torch.optim.lr_scheduler.OneCycleLR(descent, RATE, total_steps=steps)
    order = np.random.default_rng([seed, len(x)]).integers(len(x), size=(steps, BATCH))
    for chosen in torch.from_numpy(order):
        loss = cross_entropy(module(inputs[chosen]), targets[chosen])
        descent.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        descent.step()
        pace.step()
    return module.eval()


def labels_of(module: nn.Module, x: Floats32) -> NDArray[np.int64]:
    """(n,), the classes that a copy gives to `x` (n, *shape)."""
    with torch.inference_mode():
        labels: NDArray[np.int64] = module(_tensor(x)).argmax(1).numpy()
    return labels


def sign_of_slope(module: nn.Module, x: Floats32, slope: Callable[[Tensor], Tensor]) -> Floats32:
    """The sign of the gradient of `slope(scores)`, summed over n inputs, with respect to each of
    them: (n, *shape) of -1, 0 and 1. What crafting needs of a copy, and of a copy alone."""
    inputs = _tensor(x).requires_grad_()
    (gradient,) = torch.autograd.grad(slope(module(inputs)).sum(), inputs)
    signs: Floats32 = gradient.sign().numpy()
    return signs


def _fresh(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A module as it is initialised under `seed`; torch's global state stays as it was."""
    drawn = TorchTrainer(build).initial(seed)
    with torch.device("meta"):  # a module without weights, which draws none
        module = build()
    weights = {name: torch.from_numpy(array) for name, array in drawn.items()}
    module.load_state_dict(weights, assign=True)
    return module.train()


def _tensor(array: Floats) -> Tensor:
    return torch.from_numpy(np.array(array, np.float32))
