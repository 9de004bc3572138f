"""Down an objective from many starts at once, each on its own way.

Adam on the sign of the slope, as in Geiping et al. 2020, "Inverting Gradients" (NeurIPS), section
4, with a step size that falls to a tenth after 3/8, 5/8 and 7/8 of the steps. Every start keeps the
point of lowest objective on its way: the adversary's own measure, as it has no other.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import TypeAlias

import torch
from torch import Tensor
from torch.func import grad, vmap

from tacit.crypto.errors import ParameterError
from tacit.simulations.attacks.surrogate import Objective

OnStep: TypeAlias = Callable[[int, int], None]
# Points of shape (restarts, inputs, *shape) -> slopes of that shape, objectives (restarts,).
Slope: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]

_DECAY_AFTER = (3 / 8, 5 / 8, 7 / 8)
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


def slope_of(objective: Objective) -> Slope:
    """The slope of the objective of one point, at many points at once."""

    def twice(x: Tensor) -> tuple[Tensor, Tensor]:
        value = objective(x)
        return value, value

    slope: Slope = vmap(grad(twice, has_aux=True))
    return slope


@dataclass(frozen=True, slots=True)
class Descent:
    """So many `steps`, the first of them `lr` long in units of the data, between `low` and `high`.

    `on_step(done, total)` is called after every step.
    """

    steps: int
    lr: float = 0.1
    low: float = 0.0
    high: float = 1.0
    on_step: OnStep | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ParameterError(f"steps={self.steps}, expected at least 1")
        if not self.lr > 0:
            raise ParameterError(f"lr={self.lr} must be above 0")
        if not self.low < self.high:
            raise ParameterError(f"data range {self.low}..{self.high} is empty")

    def follow(self, slope: Slope, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Per start the point of lowest objective, and its value.

        `starts` has shape (restarts, inputs, *shape); the values have shape (restarts,).
        """
        x, best = starts, starts
        lowest = torch.full((len(starts),), inf, dtype=starts.dtype, device=starts.device)
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
