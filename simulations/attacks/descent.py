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
from tacit.simulations.attacks.base import require_range
from tacit.simulations.attacks.surrogate import Objective
from tacit.simulations.attacks.traced import PAYS_FROM, Function, traced

OnStep: TypeAlias = Callable[[int, int], None]
# Points of shape (restarts, inputs, *shape) -> slopes of that shape, objectives (restarts,).
Slope: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]

_DECAY_AFTER = (3 / 8, 5 / 8, 7 / 8)
_BETA1, _EPSILON = 0.9, 1e-8


def slope_of(objective: Objective) -> Slope:
    """The slope of the objective of one point, at many points at once."""

    def twice(x: Tensor) -> tuple[Tensor, Tensor]:
        value = objective(x)
        return value, value

    one = grad(twice, has_aux=True)
    many = vmap(one)

    def slope(x: Tensor) -> tuple[Tensor, Tensor]:
        if len(x) > 1:
            at_each: tuple[Tensor, Tensor] = many(x)
            return at_each
        direction, value = one(x[0])  # half of the operations are those that keep points apart
        return direction[None], value[None]

    return slope


@dataclass(frozen=True, slots=True)
class Descent:
    """So many `steps`, the first of them `lr` long in units of the data, between `low` and `high`.

    `compiled` makes machine code of a step; None does so where there are enough steps to pay for
    it, see `traced`. `on_step(done, total)` is called after every step.
    """

    steps: int
    lr: float = 0.1
    low: float = 0.0
    high: float = 1.0
    on_step: OnStep | None = field(default=None, repr=False, compare=False)
    compiled: bool | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ParameterError(f"steps={self.steps}, expected at least 1")
        if not self.lr > 0:
            raise ParameterError(f"lr={self.lr} must be above 0")
        require_range(self.low, self.high)

    def follow(self, slope: Slope, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Per start the point of lowest objective, and its value.

        `starts` has shape (restarts, inputs, *shape); the values have shape (restarts,).
        """
        compiled = self.steps >= PAYS_FROM if self.compiled is None else self.compiled
        lowest = torch.full((len(starts),), inf, dtype=starts.dtype, device=starts.device)
        state = (starts, torch.zeros_like(starts), starts, lowest)
        paces = torch.tensor(self._paces(), dtype=starts.dtype, device=starts.device).unbind()
        step = traced(self._step(slope), (*state, paces[0]), compiled=compiled)
        for done, pace in enumerate(paces, start=1):
            x, momentum, best, lowest = step(*state, pace)
            state = (x, momentum, best, lowest)
            if self.on_step is not None:
                self.on_step(done, self.steps)
        return state[2], state[3]

    def _step(self, slope: Slope) -> Function:
        def step(
            x: Tensor, momentum: Tensor, best: Tensor, lowest: Tensor, pace: Tensor
        ) -> tuple[Tensor, ...]:
            direction, value = slope(x)
            better = value < lowest
            best = torch.where(better.view(-1, *[1] * (x.ndim - 1)), x, best)
            lowest = torch.where(better, value, lowest)
            momentum = _BETA1 * momentum + (1 - _BETA1) * direction.sign()
            x = (x - pace * momentum).clamp(self.low, self.high)
            return x, momentum, best, lowest

        return step

    def _paces(self) -> list[float]:
        """What the momentum is multiplied with in every step: all of Adam but the momentum.

        Fed with signs, its second moment is one number, the same in every coordinate.
        """
        paces = []
        for done in range(self.steps):
            passed = sum(done >= part * self.steps for part in _DECAY_AFTER)
            rate = self.lr * 0.1**passed
            paces.append(rate / (1 - _BETA1 ** (done + 1)) / (1 + _EPSILON))
        return paces
