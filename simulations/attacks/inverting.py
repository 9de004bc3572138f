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

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from tacit.crypto.errors import ParameterError
from tacit.simulations.attacks.base import Conduct, Knows, Target, View, array_of, require

Build: TypeAlias = Callable[[], nn.Module]
OnStep: TypeAlias = Callable[[int, int], None]
Objective: TypeAlias = Callable[[Tensor], Tensor]

_DECAY_AFTER = (3 / 8, 5 / 8, 7 / 8)
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True, slots=True)
class InvertingGradients:
    """The attack on a model that `build` makes, with inputs of `shape` = (channels, rows, columns).

    `tv` weighs the total variation, `lr` is the first step size in units of the data, `low` and
    `high` are its range. With `infer_labels` the label of a lone input is read off the update
    instead of being granted. `on_step(done, total)` is called after every step.
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
    on_step: OnStep | None = field(default=None, repr=False, compare=False)
    name: str = "inverting gradients"
    conduct: Conduct = Conduct.HONEST
    target: Target = Target.INPUTS

    def __post_init__(self) -> None:
        if not self.shape or min(self.shape) < 1:
            raise ParameterError(f"shape={self.shape}, expected positive sides")
        if self.steps < 1 or self.restarts < 1:
            raise ParameterError(f"steps={self.steps}, restarts={self.restarts}: at least 1 each")
        if self.tv < 0 or not self.lr > 0:
            raise ParameterError(f"tv={self.tv} must not be negative, lr={self.lr} must be above 0")
        if not self.low < self.high:
            raise ParameterError(f"data range {self.low}..{self.high} is empty")

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
        starts = self.low + span * rng.random((self.restarts, view.inputs, *self.shape))
        found, value = self.descend(objective, torch.tensor(starts, dtype=self.dtype))
        guess: NDArray[np.float64] = found[int(value.argmin())].numpy().astype(np.float64)
        return guess

    def objective(self, view: View) -> Objective:
        """The loss of one set of inputs, shape (inputs, *shape), as this view defines it."""
        # Evaluation mode: dropout is noise to the adversary, and batch statistics cannot be
        # updated inside vmap. A model with either is attacked approximately.
        model = self.build().eval()
        names = [name for name, weight in model.named_parameters() if weight.requires_grad]
        weights = self._tensors(model.state_dict(), view, "model", list(model.state_dict()))
        target = self._direction(self._tensors(model.state_dict(), view, "update", names))
        labels = torch.tensor(self._labels(view, names))
        fixed = {name: value for name, value in weights.items() if name not in names}
        moving = {name: weights[name] for name in names}

        def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
            scores = functional_call(model, {**parameters, **fixed}, (x,))
            return nn.functional.cross_entropy(scores, labels)

        def mismatch(x: Tensor) -> Tensor:
            gradient = grad(loss)(moving, x)
            aligned = torch.stack([(gradient[n] * target[n]).sum() for n in names]).sum()
            length = torch.stack([gradient[n].square().sum() for n in names]).sum().sqrt()
            return 1 - aligned / length.clamp_min(1e-12) + self.tv * _total_variation(x)

        return mismatch

    def descend(self, objective: Objective, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Follow every start on its own; per start, the inputs of lowest objective and its value.

        `starts` has shape (restarts, inputs, *shape); the values have shape (restarts,).
        """

        def twice(x: Tensor) -> tuple[Tensor, Tensor]:
            value = objective(x)
            return value, value

        slope = vmap(grad(twice, has_aux=True))
        x, best = starts, starts
        lowest = torch.full((len(starts),), inf, dtype=starts.dtype)
        first, second = torch.zeros_like(x), 0.0
        for done in range(self.steps):
            direction, value = slope(x)
            better = value < lowest
            lowest = torch.where(better, value, lowest)
            best = torch.where(better.view(-1, *[1] * (x.ndim - 1)), x, best)
            # Adam fed with signs: its second moment is one number, the same in every coordinate.
            first = _BETA1 * first + (1 - _BETA1) * direction.sign()
            second = _BETA2 * second + (1 - _BETA2)
            scale = (second / (1 - _BETA2 ** (done + 1))) ** 0.5 + _EPSILON
            pace = self._pace(done) / (1 - _BETA1 ** (done + 1)) / scale
            x = (x - pace * first).clamp(self.low, self.high)
            if self.on_step is not None:
                self.on_step(done + 1, self.steps)
        return best, lowest

    def _pace(self, done: int) -> float:
        passed = sum(done >= part * self.steps for part in _DECAY_AFTER)
        return float(self.lr * 0.1**passed)

    def _tensors(
        self, like: Mapping[str, Tensor], view: View, what: str, names: list[str]
    ) -> dict[str, Tensor]:
        arrays = view.model if what == "model" else view.update
        found: dict[str, Tensor] = {}
        for name in names:
            value = array_of(arrays, name, what)
            if value.shape != tuple(like[name].shape):
                raise ParameterError(
                    f"{name!r} of the {what} is {value.shape}, the built model's is "
                    f"{tuple(like[name].shape)}: is `build` the model that was trained?"
                )
            kind = self.dtype if like[name].is_floating_point() else like[name].dtype
            found[name] = torch.tensor(value, dtype=kind)
        return found

    def _direction(self, update: dict[str, Tensor]) -> dict[str, Tensor]:
        """The unit vector the gradient of one SGD step would have."""
        length = float(torch.stack([part.square().sum() for part in update.values()]).sum().sqrt())
        if length == 0:
            raise ParameterError("the update is zero: there is nothing to invert")
        return {name: -part / length for name, part in update.items()}

    def _labels(self, view: View, names: list[str]) -> list[int]:
        if not self.infer_labels:
            if view.labels is None or len(view.labels) != view.inputs:
                raise ParameterError(
                    f"{self.name} needs one label for each of {view.inputs} inputs"
                )
            return list(view.labels)
        if view.inputs != 1:
            raise ParameterError(
                f"labels are inferred for one input, this update has {view.inputs}: grant LABELS"
            )
        return [infer_label(array_of(view.update, names[-1], "update"))]


def infer_label(bias_update: NDArray[np.float64]) -> int:
    """The label of the only input behind an update, from the last layer's bias, shape (classes,).

    Zhao, Mopuri and Bilen 2020, "iDLG: Improved Deep Leakage from Gradients": the gradient of the
    cross-entropy is softmax - onehot, negative for the label alone, so that only its bias grows.
    """
    if bias_update.ndim != 1:
        raise ParameterError("the last layer has no bias to read the label from: grant LABELS")
    return int(bias_update.argmax())


def _total_variation(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbours along each of the last two axes; 0 for vectors."""
    if x.ndim < 3:
        return x.new_zeros(())
    axes = [axis for axis in (-2, -1) if x.shape[axis] > 1]
    return torch.stack([x.diff(dim=axis).abs().mean() for axis in axes] or [x.new_zeros(())]).sum()
