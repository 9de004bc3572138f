"""Inputs found by optimisation: those that local training would have turned into the update.

Where a device takes several steps of SGD, its update is no gradient, and inputs whose gradient
points there are none of its own. But the server sends out how a device trains, and with that the
training can be simulated on any inputs x, and differentiated through all its steps (Geiping et al.
2020, "Inverting Gradients", NeurIPS, section 6; Dimitrov et al. 2022, "Data Leakage in Federated
Averaging", TMLR, section 4): minimise

    distance(trained(sent, x, y) - sent, update) + tv * TV(x)

Batches are drawn as a device draws them, from the plan's seed. Of the labels only the multiset is
granted, though: which example has which is not known, and counts where examples are taken in
batches. Dimitrov et al. look for the inputs of every epoch apart, as they do not know the order.

A sum over devices is the mean of trainings that never met: every one is simulated by itself, on an
equal share of the inputs.

One step of the descent costs as much as all the local steps together, memory included.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import vmap

from tacit.client.fitting import batches
from tacit.client.trainer import LocalPlan
from tacit.crypto.errors import ParameterError
from tacit.simulations.attacks.base import (
    Conduct,
    Knows,
    Target,
    View,
    granted_labels,
    require,
    require_even,
    require_shape,
)
from tacit.simulations.attacks.descent import Descent, OnStep, slope_of
from tacit.simulations.attacks.surrogate import (
    Build,
    Distance,
    Simulate,
    Surrogate,
    Weights,
    cosine,
    matching,
    total_variation,
)
from tacit.simulations.attacks.traced import device_of


@dataclass(frozen=True, slots=True)
class UnrolledTraining:
    """The attack on a model that `build` makes, with inputs of `shape` = (channels, rows, columns).

    `plan` is what devices were told: passes, batches, momentum, and the learning rate, which must
    be the one that is granted. `distance` is `cosine`, or `squared`, which looks at the size of the
    update too. The rest is as in `InvertingGradients`.
    """

    build: Build = field(repr=False)
    shape: tuple[int, ...]
    plan: LocalPlan
    steps: int = 200
    restarts: int = 1
    tv: float = 0.005
    lr: float = 0.1
    low: float = 0.0
    high: float = 1.0
    distance: Callable[[Weights], Distance] = field(default=cosine, repr=False)
    dtype: torch.dtype = torch.float32
    device: str | None = None
    compiled: bool | None = None
    on_step: OnStep | None = field(default=None, repr=False, compare=False)
    name: str = "unrolled training"
    needs: Knows = Knows.LABELS | Knows.LEARNING_RATE
    conduct: Conduct = Conduct.HONEST
    target: Target = Target.INPUTS

    def __post_init__(self) -> None:
        require_shape(self.shape)
        if self.restarts < 1:
            raise ParameterError(f"restarts={self.restarts}, expected at least 1")
        if self.tv < 0:
            raise ParameterError(f"tv={self.tv} must not be negative")
        self._descent()

    def reconstruct(self, view: View, rng: np.random.Generator) -> NDArray[np.float64]:
        """Shape (inputs, *shape), the best of all restarts by the attack's own objective.

        Raises ParameterError if a grant is missing or is another learning rate than the plan's, if
        inputs cannot be shared out evenly, if the arrays do not fit the model, or if the update is
        zero.
        """
        require(view, self.needs, self.name)
        labels, device = self._labels(view), device_of(self.device)
        surrogate = Surrogate.of(self.build, view, labels, dtype=self.dtype, device=device)
        objective = matching(
            simulated(surrogate, self.plan, view.clients),
            self.distance(surrogate.target),
            [(self.tv, total_variation)],
        )
        span = self.high - self.low
        drawn = self.low + span * rng.random((self.restarts, view.inputs, *self.shape))
        starts = torch.tensor(drawn, dtype=self.dtype, device=device)
        found, value = self._descent().follow(slope_of(objective), starts)
        guess: NDArray[np.float64] = found[int(value.argmin())].cpu().numpy().astype(np.float64)
        return guess

    def _descent(self) -> Descent:
        return Descent(self.steps, self.lr, self.low, self.high, self.on_step, self.compiled)

    def _labels(self, view: View) -> tuple[int, ...]:
        if view.learning_rate != self.plan.learning_rate:
            raise ParameterError(
                f"the plan's learning rate is {self.plan.learning_rate}, granted is "
                f"{view.learning_rate}: they must be the same"
            )
        require_even(view)
        return granted_labels(view, self.name)


def simulated(surrogate: Surrogate, plan: LocalPlan, clients: int = 1) -> Simulate:
    """The mean update of `clients` devices that each train on an equal share of the inputs."""

    def one_device(x: Tensor, labels: Tensor) -> Weights:
        return _trained(surrogate, plan, x, labels)

    def mean_update(x: Tensor) -> Weights:
        if clients == 1:  # no need for a model of its own: convolutions stay fast
            return one_device(x, surrogate.labels)
        shared = x.reshape(clients, -1, *x.shape[1:]), surrogate.labels.reshape(clients, -1)
        return {name: part.mean(0) for name, part in vmap(one_device)(*shared).items()}

    return mean_update


def _trained(surrogate: Surrogate, plan: LocalPlan, x: Tensor, labels: Tensor) -> Weights:
    """What `TorchTrainer.fit` makes of the weights, less the weights: SGD, step by step."""
    sent = surrogate.moving
    weights, velocity = sent, {name: torch.zeros_like(w) for name, w in sent.items()}
    for chosen in batches(len(x), plan):
        batch = replace(surrogate, labels=labels[chosen])
        slope = batch.gradient(x[chosen], weights)
        for name, w in weights.items():
            pull = plan.proximal_mu * (w - sent[name]) + plan.weight_decay * w
            velocity[name] = plan.momentum * velocity[name] + slope[name] + pull
        weights = {name: w - plan.learning_rate * velocity[name] for name, w in weights.items()}
    return {name: w - sent[name] for name, w in weights.items()}
