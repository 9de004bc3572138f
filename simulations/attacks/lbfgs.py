"""Limited-memory BFGS, many starts in step with one another.

The two-loop recursion of Nocedal and Wright 2006, "Numerical Optimization", algorithm 7.4, with
the line search of Lewis and Overton 2013, "Nonsmooth optimization via quasi-Newton methods"
(Mathematical Programming 141), algorithm 2.6: it halves and doubles until the weak Wolfe conditions
hold, so that every step keeps the approximation of the Hessian positive definite.

Each start ("lane") has its own history and its own line search. One evaluation serves all lanes:
whichever accepts its trial point goes on to its next direction, while the others go on searching.
"""

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from tacit.simulations.attacks.descent import OnStep, Slope
from tacit.simulations.attacks.traced import PAYS_FROM, traced

_DECREASE, _CURVATURE = 1e-4, 0.9  # c1 and c2 of the Wolfe conditions
_HISTORY = 50
_TRIALS = 40  # halvings until a direction is given up: 2**-40 is near the rounding of a step


def minimise(
    slope: Slope,
    starts: Tensor,
    evaluations: int,
    *,
    enough: float = -inf,
    compiled: bool | None = None,
    on_step: OnStep | None = None,
) -> tuple[Tensor, Tensor]:
    """The point that each start led down to, shaped as `starts`, and its value, shape (lanes,).

    Calls `slope` at most `evaluations` times: less if a value is at most `enough`, or if no lane
    can go lower. `on_step(done, evaluations)` follows each call, and the last says all are done.
    A lane whose start has no finite value stays there; no lane ends higher than it began.
    `compiled` is as in `Descent`.
    """

    compiled = evaluations >= PAYS_FROM if compiled is None else compiled
    quick = traced(lambda x: tuple(slope(x)), (starts,), compiled=compiled)

    def measured(points: Tensor) -> tuple[Tensor, Tensor]:
        gradients, values = quick(points.view(starts.shape))
        return gradients.reshape(points.shape), values

    points = starts.reshape(len(starts), -1)
    lanes = _Lanes.at(points, *measured(points))
    for done in range(1, evaluations):
        if bool((lanes.value <= enough).any()) or not bool(lanes.moving.any()):
            break
        if on_step is not None:
            on_step(done, evaluations)
        points = lanes.trial()
        lanes.judge(points, *measured(points))
    if on_step is not None:
        on_step(evaluations, evaluations)
    return lanes.point.view(starts.shape), lanes.value


@dataclass(slots=True)
class _Lanes:
    """Where every lane is (`point`, `value`, `gradient`), where it is heading, and its history.

    `step` is tried along `direction`; the step to accept is known to be above `low` and below
    `high`. `moves` and `turns` (history, lanes, length) are differences of points and of gradients,
    newest last; `weight` is 1 / (move * turn), or 0 where there is no pair. No lane has more than
    `pairs` of them.
    """

    point: Tensor
    value: Tensor
    gradient: Tensor
    direction: Tensor
    step: Tensor
    low: Tensor
    high: Tensor
    trials: Tensor
    moving: Tensor
    moves: Tensor
    turns: Tensor
    weight: Tensor
    pairs: int = 0

    @classmethod
    def at(cls, point: Tensor, gradient: Tensor, value: Tensor) -> "_Lanes":
        count, length = point.shape
        history = point.new_zeros(_HISTORY, count, length)
        lanes = cls(
            point=point,
            value=value,
            gradient=gradient,
            direction=torch.zeros_like(point),
            step=torch.zeros_like(value),
            low=torch.zeros_like(value),
            high=torch.zeros_like(value),
            trials=torch.zeros_like(value),
            moving=value.isfinite() & gradient.isfinite().all(1) & gradient.any(1),
            moves=history,
            turns=history.clone(),
            weight=point.new_zeros(_HISTORY, count),
        )
        lanes._head(lanes.moving)
        return lanes

    def trial(self) -> Tensor:
        return torch.where(
            self.moving[:, None], self.point + self.step[:, None] * self.direction, self.point
        )

    def judge(self, point: Tensor, gradient: Tensor, value: Tensor) -> None:
        """Accept the trial points that meet the Wolfe conditions, and search on for the rest."""
        along = _dot(self.gradient, self.direction)
        # A value that is not a number is not at most anything.
        low_enough = value <= self.value + _DECREASE * self.step * along
        low_enough &= gradient.isfinite().all(1)
        flat_enough = _dot(gradient, self.direction) >= _CURVATURE * along
        taken = self.moving & low_enough & flat_enough
        self._narrow(self.moving & ~taken, low_enough)
        if bool(taken.any()):
            self._accept(taken, point, gradient, value)
        self._give_up(self.moving & ~taken & (self.trials >= _TRIALS))

    def _narrow(self, searching: Tensor, low_enough: Tensor) -> None:
        self.low = torch.where(searching & low_enough, self.step, self.low)
        self.high = torch.where(searching & ~low_enough, self.step, self.high)
        between = torch.where(self.high.isinf(), 2 * self.low, (self.low + self.high) / 2)
        self.step = torch.where(searching, between, self.step)
        self.trials = self.trials + searching

    def _accept(self, taken: Tensor, point: Tensor, gradient: Tensor, value: Tensor) -> None:
        row = taken[:, None]
        move = torch.where(row, point - self.point, 0)
        turn = torch.where(row, gradient - self.gradient, 0)
        self._remember(taken, move, turn)
        self.point = torch.where(row, point, self.point)
        self.value = torch.where(taken, value, self.value)
        self.gradient = torch.where(row, gradient, self.gradient)
        self.moving = self.moving & self.gradient.any(1)
        self._head(taken)

    def _remember(self, taken: Tensor, move: Tensor, turn: Tensor) -> None:
        product = _dot(move, turn)
        # Above 0 by the second Wolfe condition; rounding can make it 0, and then it says nothing.
        weight = torch.where(product > 0, 1 / product, 0)
        for kept, new in ((self.moves, move), (self.turns, turn), (self.weight, weight)):
            # One after the other: lanes accept at different times, so each rolls on its own.
            kept[:, taken] = torch.cat([kept[1:, taken], new[None, taken]])
        self.pairs = min(self.pairs + 1, _HISTORY)

    def _head(self, lanes: Tensor) -> None:
        """A new direction for these lanes; without a history, down the gradient."""
        direction = -self._two_loops()
        first = self.weight[-1] == 0
        # The first step has no scale to go by: it is as long as 1, or as the gradient if shorter.
        length = _dot(self.gradient, self.gradient).sqrt()
        step = torch.where(first, 1 / length.clamp_min(1), 1)
        self.direction = torch.where(lanes[:, None], direction, self.direction)
        self.step = torch.where(lanes, step, self.step)
        self.low = torch.where(lanes, 0, self.low)
        self.high = torch.where(lanes, inf, self.high)
        self.trials = torch.where(lanes, 0, self.trials)

    def _two_loops(self) -> Tensor:
        """The approximate inverse Hessian times the gradient."""
        q = self.gradient
        used = range(_HISTORY - self.pairs, _HISTORY)
        parts: dict[int, Tensor] = {}
        for i in reversed(used):
            parts[i] = self.weight[i] * _dot(self.moves[i], q)
            q = torch.addcmul(q, parts[i][:, None], self.turns[i], value=-1)
        size = _dot(self.turns[-1], self.turns[-1]) * self.weight[-1]
        q = torch.where(size > 0, 1 / size, 1)[:, None] * q
        for i in used:
            part = parts[i] - self.weight[i] * _dot(self.turns[i], q)
            q = torch.addcmul(q, part[:, None], self.moves[i])
        return q

    def _give_up(self, stuck: Tensor) -> None:
        """Forget the history of lanes whose direction led nowhere; stop those that had none."""
        if bool(stuck.any()):
            self.moving = self.moving & ~(stuck & (self.weight[-1] == 0))
            self.weight[:, stuck] = 0
            self._head(stuck & self.moving)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vecdot(a, b)
    return found
