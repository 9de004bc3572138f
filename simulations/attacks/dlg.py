"""Inputs found by optimisation: those whose gradient is the one that was seen, to the last digits.

Zhu, Liu and Han 2019, "Deep Leakage from Gradients" (NeurIPS, arXiv:1906.08935), section 3.2 and
algorithm 1: minimise over inputs x, and labels y where they are not known,

    |dL(x, y)/dw - gradient|^2

with L-BFGS. The paper asks for a model that is twice differentiable: on a net of sigmoids a small
batch comes out exactly, to the last digits that the update has. ReLUs often do no harm; max-pooling
does, as the slope of the distance then knows nothing of the pixels that were passed over.

An update of one full-batch step of SGD is -learning_rate * gradient, so the learning rate must be
known. Where the last layer is dense, the labels need not be granted: section 3 of Zhao et al.
2020, "iDLG" (arXiv:2001.02610), reads off a lone one, and `LabelCounts` those of a batch. The
paper's own way is to optimise them too, as probabilities.

All is in float64, as an exact match is what ends it: float32 has no room below 1e-7. The restart of
lowest distance is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from math import inf, prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tacit.crypto.errors import ParameterError
from tacit.simulations.attacks.base import (
    Conduct,
    Knows,
    Target,
    View,
    granted_labels,
    require,
    require_range,
    require_shape,
)
from tacit.simulations.attacks.descent import OnStep, slope_of
from tacit.simulations.attacks.labels import LabelCounts, LoneLabel
from tacit.simulations.attacks.lbfgs import minimise
from tacit.simulations.attacks.surrogate import Build, Objective, Surrogate, squared
from tacit.simulations.attacks.traced import device_of

# Of the square of the gradient's length: what float64 leaves of a distance that is 0.
_EXACT = 1e-26


class Labels(Enum):
    """Where the labels of the inputs come from."""

    GRANTED = "granted"
    INFERRED = "inferred"  # off the last layer, before the descent
    OPTIMISED = "optimised"  # as probabilities, along with the inputs


@dataclass(frozen=True, slots=True)
class DeepLeakage:
    """The attack on a model that `build` makes, with inputs of `shape`.

    `evaluations` of the distance, at most, are spent on each restart. The guess is clipped to
    `low`..`high`, the range of the data. `device` and `compiled` are as in `InvertingGradients`.
    `on_step(done, total)` is called after every evaluation.
    """

    build: Build = field(repr=False)
    shape: tuple[int, ...]
    evaluations: int = 500
    restarts: int = 8
    labels: Labels = Labels.GRANTED
    low: float = 0.0
    high: float = 1.0
    device: str | None = None
    compiled: bool | None = None
    on_step: OnStep | None = field(default=None, repr=False, compare=False)
    name: str = "deep leakage from gradients"
    conduct: Conduct = Conduct.HONEST
    target: Target = Target.INPUTS

    def __post_init__(self) -> None:
        require_shape(self.shape)
        if self.evaluations < 1 or self.restarts < 1:
            raise ParameterError(
                f"evaluations={self.evaluations}, restarts={self.restarts}: at least 1 each"
            )
        require_range(self.low, self.high)

    @property
    def needs(self) -> Knows:
        granted = Knows.LABELS if self.labels is Labels.GRANTED else Knows.NOTHING
        return Knows.LEARNING_RATE | granted

    def reconstruct(self, view: View, rng: np.random.Generator) -> NDArray[np.float64]:
        """Shape (inputs, *shape), the best of all restarts by the attack's own objective.

        Raises ParameterError if a grant is missing, the arrays do not fit the model, or the update
        is zero.
        """
        require(view, self.needs, self.name)
        labels, device = self._labels(view, rng), device_of(self.device)
        surrogate = Surrogate.of(self.build, view, labels, dtype=torch.float64, device=device)
        # One row for each input: its coordinates, and behind them the scores of its labels.
        width = prod(self.shape)
        free = _classes(surrogate) if self.labels is Labels.OPTIMISED else 0
        starts = rng.normal(size=(self.restarts, view.inputs, width + free))
        found, value = minimise(
            slope_of(self._objective(surrogate, view)),
            torch.tensor(starts, device=device),
            self.evaluations,
            enough=_EXACT,
            compiled=self.compiled,
            on_step=self.on_step,
        )
        best = found[int(value.nan_to_num(inf).argmin()), :, :width].clamp(self.low, self.high)
        guess: NDArray[np.float64] = best.reshape(-1, *self.shape).cpu().numpy()
        return guess

    def _objective(self, surrogate: Surrogate, view: View) -> Objective:
        """The distance for one set of rows, shape (inputs, coordinates + scores)."""
        assert view.learning_rate is not None
        rate, width = view.learning_rate, prod(self.shape)
        distance = squared({name: part / rate for name, part in surrogate.target.items()})

        def objective(rows: Tensor) -> Tensor:
            x = rows[:, :width].reshape(-1, *self.shape)
            if self.labels is not Labels.OPTIMISED:
                return distance(surrogate.one_step(x))
            return distance(replace(surrogate, labels=rows[:, width:].softmax(1)).one_step(x))

        return objective

    def _labels(self, view: View, rng: np.random.Generator) -> Sequence[int] | NDArray[np.int64]:
        if self.labels is Labels.OPTIMISED:
            return [0] * view.inputs  # nobody looks at them
        if self.labels is Labels.INFERRED:
            layer = _last_layer(self.build())
            attack = LoneLabel(layer) if view.inputs == 1 else LabelCounts(layer)
            return attack.reconstruct(view, rng)
        return granted_labels(view, self.name)


def _last_layer(model: nn.Module) -> str:
    *_, last = (name for name, weight in model.named_parameters() if weight.requires_grad)
    return last.rpartition(".")[0]


def _classes(surrogate: Surrogate) -> int:
    """How many: the first side of the last layer's weight, and of its bias."""
    return len(list(surrogate.target.values())[-1])
