"""Inputs found by optimisation: those whose gradient points where the update points.

Geiping, Bauermeister, Dröge and Moeller 2020, "Inverting Gradients - How easy is it to break
privacy in federated learning?" (NeurIPS), section 4: minimise over inputs x in the data's range

    1 - cos(dL(x, y)/dw, -update) + tv * TV(x)

with Adam on the sign of the gradient and a step size that falls to a tenth after 3/8, 5/8 and
7/8 of the steps. The update of one full-batch SGD step is -learning_rate * gradient, and a cosine
does not see the factor, so no learning rate is needed. Several local steps are attacked as if
they were one, which is what makes long local training harder to invert.

All restarts run as one batch, and the one with the lowest objective is kept: the adversary's
own measure, as it has no other.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tacit.crypto.errors import ParameterError
from tacit.simulations.attacks.base import (
    Conduct,
    Knows,
    Target,
    View,
    array_of,
    granted_labels,
    require,
    require_range,
    require_shape,
)
from tacit.simulations.attacks.descent import Descent, OnStep, slope_of
from tacit.simulations.attacks.labels import infer_label
from tacit.simulations.attacks.surrogate import (
    Build,
    Objective,
    Surrogate,
    cosine,
    matching,
    total_variation,
)
from tacit.simulations.attacks.traced import device_of


@dataclass(frozen=True, slots=True)
class InvertingGradients:
    """The attack on a model that `build` makes, with inputs of `shape` = (channels, rows, columns).

    `tv` weighs the total variation, `lr` is the first step size in units of the data, `low` and
    `high` are its range. With `infer_labels` the label of a lone input is read off the update
    instead of being granted. It runs on `device`, by default on a GPU if there is one. `compiled`
    makes machine code of a step: by default where a single attack pays for it, see `traced`; to
    attack many victims of one model, set it. `on_step(done, total)` is called after every step.
    """

    build: Build = field(repr=False)
    shape: tuple[int, ...]
    steps: int = 200
    restarts: int = 4
    tv: float = 0.005
    lr: float = 0.1
    low: float = 0.0
    high: float = 1.0
    infer_labels: bool = False
    dtype: torch.dtype = torch.float32
    device: str | None = None
    compiled: bool | None = None
    on_step: OnStep | None = field(default=None, repr=False, compare=False)
    name: str = "inverting gradients"
    conduct: Conduct = Conduct.HONEST
    target: Target = Target.INPUTS

    def __post_init__(self) -> None:
        require_shape(self.shape)
        if self.steps < 1 or self.restarts < 1:
            raise ParameterError(f"steps={self.steps}, restarts={self.restarts}: at least 1 each")
        if self.tv < 0 or not self.lr > 0:
            raise ParameterError(f"tv={self.tv} must not be negative, lr={self.lr} must be above 0")
        require_range(self.low, self.high)

    @property
    def needs(self) -> Knows:
        return Knows.NOTHING if self.infer_labels else Knows.LABELS

    def reconstruct(self, view: View, rng: np.random.Generator) -> NDArray[np.float64]:
        """Shape (inputs, *shape), the best of all restarts by the attack's own objective.

        Raises ParameterError if labels are missing, the arrays do not fit the model, or the update
        is zero.
        """
        require(view, self.needs, self.name)
        objective = self.objective(view)
        span = self.high - self.low
        drawn = self.low + span * rng.random((self.restarts, view.inputs, *self.shape))
        starts = torch.tensor(drawn, dtype=self.dtype, device=device_of(self.device))
        found, value = self.descend(objective, starts)
        guess: NDArray[np.float64] = found[int(value.argmin())].cpu().numpy().astype(np.float64)
        return guess

    def objective(self, view: View) -> Objective:
        """The loss of one set of inputs, shape (inputs, *shape), as this view defines it."""
        labels, device = self._labels(view), device_of(self.device)
        surrogate = Surrogate.of(self.build, view, labels, dtype=self.dtype, device=device)
        distance = cosine(surrogate.target)
        return matching(surrogate.one_step, distance, [(self.tv, total_variation)])

    def descend(self, objective: Objective, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Follow every start on its own; per start, the inputs of lowest objective and its value.

        `starts` has shape (restarts, inputs, *shape); the values have shape (restarts,).
        """
        descent = Descent(self.steps, self.lr, self.low, self.high, self.on_step, self.compiled)
        return descent.follow(slope_of(objective), starts)

    def _labels(self, view: View) -> list[int]:
        if not self.infer_labels:
            return list(granted_labels(view, self.name))
        if view.inputs != 1:
            raise ParameterError(
                f"labels are inferred for one input, this update has {view.inputs}: grant LABELS"
            )
        *_, last = (
            name for name, weight in self.build().named_parameters() if weight.requires_grad
        )
        return [infer_label(array_of(view.update, last, "update"))]
