"""Sums of gradients of single examples, each clipped to a norm: what record-level DP-SGD adds up.

Abadi et al. 2016, arXiv:1607.00133, algorithm 1, without the noise. One pass forward and one back
are enough: see `tacit.client.example_gradients`.

**What floats do.** Let m <= ROWS examples be added up, u = 2**-24. A norm is measured in float64,
of the very numbers that are then weighted and added up: a weighted gradient is at most (1 + 2u)
clip long. Each of its terms is multiplied twice at most and goes through m - 1 additions at most,
in whichever order, so it counts with a factor 1 + t, |t| <= g = (m + 2) u / (1 - (m + 2) u) (Higham
2002, section 3.1). Put nothing in the place of one example: the sum moves by what was its own, and
by what changes in the factors of the m - 1 others. In norm that is at most

    (1 + 2u) (1 + g) clip + 2 (m - 1) (1 + 2u) g clip < (1 + SLACK) clip.

This takes for granted what any gradient of a single example does: that no kernel takes numbers of
one row for another's. Shapes, and so the order of all additions, are the same in both cases, as an
empty place is a row like others. Underflow is left out: it is below 2**-20 of the smallest clip.

**Which modules.** Linear, Conv1d, Conv2d, LayerNorm, GroupNorm and Embedding are known. Any other
with parameters, and parameters that are used twice or apart from their module, make all of it go
example by example: right for every model, and some ten times as slow. Which way is settled once for
a shape of inputs, by going both on a few made-up examples and weights. Where they differ, as they
also do for a model that mixes the examples of a batch, each goes by itself; so it does where one's
gradient is another beside others, in training, when layers may do otherwise. Batch normalisation is
refused. Buffers stay as they are: a statistic that a layer keeps would have no noise, and tell one
batch of the examples in another.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.functional import cross_entropy

from tacit.client.example_gradients import KNOWN, Part, Places, Written, kept, parts_of, squares_of
from tacit.crypto.errors import ParameterError
from tacit.privacy.example_sums import LARGEST, ROWS, SMALLEST

MEMORY = 1 << 26  # numbers in gradients that are written out at a time
_PROBES = (2, 3)  # made-up examples: no other dimension is both
_ALIKE = 1e-3


class ClippedSums:
    """Of one module that turns inputs into class scores, with `cross_entropy` as the loss.

    Vectors have `length` coordinates: the module's `parameters` that require gradients, in its own
    order. Raises ParameterError for a module that mixes examples by design, or has none of these.
    """

    def __init__(self, module: nn.Module, scores: Callable[[nn.Module, Tensor], Tensor]) -> None:
        """`scores` calls the module, and raises ParameterError for inputs that it cannot take."""
        for name, layer in module.named_modules():
            _refuse_mixing(name, layer)
        self._module, self._scores = module, scores
        self.parameters = [w for w in module.parameters() if w.requires_grad]
        self.length = sum(w.numel() for w in self.parameters)
        if not self.length:
            raise ParameterError("the model has no parameters to train")
        self._layers = [layer for layer in module.modules() if _own(layer)]
        self._out = torch.empty(self.length, device=self.parameters[0].device)
        parts = torch.split(self._out, [w.numel() for w in self.parameters])
        pairs = zip(self.parameters, parts, strict=True)
        self._places: Places = {w: part.view(w.shape) for w, part in pairs}
        self._rows: dict[tuple[int, ...], int] = {}

    def add_up(self, x: Tensor, y: Tensor, clip: float) -> Iterator[tuple[Tensor, float]]:
        """Sums of clipped gradients (length,) and of losses (nats), over ROWS examples at most at a
        time, of inputs `x` (n, ...) and labels `y` (n,).

        The gradient of an example counts min(1, clip / norm) times, and not at all where it is not
        finite or out of all proportion; nor do losses that are not finite. A vector is overwritten
        by the next. Raises ParameterError for a clip outside 2**-32 .. 2**32, and for inputs that
        do not fit.
        """
        if not SMALLEST <= clip <= LARGEST:  # also false for NaN
            raise ParameterError(f"clip={clip}, expected 2**-32 .. 2**32")
        if not len(y):
            return
        rows = self._rows_at_once(x)
        pieces = -(-len(y) // (rows or ROWS))
        for some, labels in zip(x.tensor_split(pieces), y.tensor_split(pieces), strict=True):
            with self._still():
                parts = self._parts(some, labels) if rows else None
            if parts is None:
                yield self._out, self._one_by_one(some, labels, clip)
            else:
                yield self._out, self._weighted(*parts, clip)

    def _rows_at_once(self, x: Tensor) -> int:
        """How many such examples go together: 0 if each goes by itself."""
        shape = tuple(x.shape[1:])
        if shape not in self._rows:
            with self._made_up(), self._still():
                rows = min(self._try(x, count) for count in _PROBES)
                self._rows[shape] = 0 if rows and self._mixes(x) else rows
        return self._rows[shape]

    @contextmanager
    def _made_up(self) -> Iterator[None]:
        """Other weights for a while: with those of a server both ways might agree by chance."""
        training, held = self._module.training, [w.detach().clone() for w in self.parameters]
        random = torch.Generator().manual_seed(0)
        self._module.eval()  # what draws at random would differ
        try:
            with torch.no_grad():
                for w in self.parameters:
                    inputs = max(1, w[:1].numel()) if w.dim() else 1
                    w.copy_(torch.randn(w.shape, generator=random) / math.sqrt(inputs))
            yield
        finally:
            self._module.train(training)
            with torch.no_grad():
                for w, before in zip(self.parameters, held, strict=True):
                    w.copy_(before)

    @contextmanager
    def _still(self) -> Iterator[None]:
        """Buffers are afterwards what they were before."""
        held = [(buffer, buffer.clone()) for buffer in self._module.buffers()]
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in held:
                    buffer.copy_(before)

    def _mixes(self, x: Tensor) -> bool:
        """Whether the gradient of an example is another in training where its batch is."""
        some, y = self._examples(x, max(_PROBES))
        alike = some[:1].expand_as(some)
        self._module.train()
        squares = []
        for batch in (some, alike):
            with torch.random.fork_rng():
                torch.manual_seed(0)  # the same for what draws at random
                found = self._parts(batch, y)
            if found is None:
                return True
            squares.append(sum(float(part.squares()[0]) for part in found[0]))
        one, other = squares
        return not abs(one - other) <= _ALIKE * one

    def _examples(self, x: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Made up."""
        random = torch.Generator().manual_seed(count)
        some = torch.rand((count, *x.shape[1:]), generator=random).to(x)
        with torch.no_grad():
            classes = self._scores(self._module, some).shape[1]
        return some, torch.arange(count, device=x.device) % classes

    def _try(self, x: Tensor, count: int) -> int:
        some, y = self._examples(x, count)
        if (found := self._parts(some, y)) is None:
            return 0
        self._one_by_one(some, y, 1.0)
        expected = self._out.clone()
        self._weighted(*found, 1.0)
        apart, most = (float(v.norm()) for v in (self._out - expected, expected))
        if not apart <= _ALIKE * most:  # also if they are no numbers
            return 0
        return max(1, min(ROWS, MEMORY // max(1, sum(part.numbers for part in found[0]))))

    def _parts(self, x: Tensor, y: Tensor) -> tuple[list[Part], Tensor] | None:
        """Gradients and losses of all examples by one pass; None if that is not known to do it."""
        if any(type(layer) not in KNOWN for layer in self._layers):
            return None
        calls: list[tuple[nn.Module, Tensor, GradientEdge]] = []
        strange: list[nn.Module] = []

        def called(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            if not inputs or not output.requires_grad:
                strange.append(layer)
                return
            # The edge, as what comes after may overwrite the output.
            calls.append((layer, inputs[0].detach(), get_gradient_edge(output)))

        hooks = [layer.register_forward_hook(called) for layer in self._layers]
        try:
            losses = cross_entropy(self._scores(self._module, x), y, reduction="none")
        finally:
            for hook in hooks:
                hook.remove()
        if strange or not calls or len({layer for layer, _, _ in calls}) < len(calls):
            return None
        deltas = torch.autograd.grad(losses.sum(), [edge for _, _, edge in calls])
        parts: list[Part] = []
        for (layer, inputs, _), delta in zip(calls, deltas, strict=True):
            found = parts_of(layer, inputs, delta) if len(delta) == len(y) else None
            if found is None:
                return None
            parts += found
        for layer in set(self._layers) - {layer for layer, _, _ in calls}:
            parts += [Written(w, w.new_zeros((len(y), w.numel()))) for w in _own(layer)]
        return parts, losses.detach()

    @torch.no_grad()
    def _weighted(self, parts: list[Part], losses: Tensor, clip: float) -> float:
        norms = torch.stack([part.squares() for part in parts]).sum(0).sqrt_()
        weights = (clip / norms).clamp_(max=1.0)
        good = torch.isfinite(norms)
        if not good.all():
            weights = kept(weights, good)
            for part in parts:
                part.keep(good)
        single = weights.float()
        for part in parts:
            part.add_up(single, self._places)
        return _total(losses)

    def _one_by_one(self, x: Tensor, y: Tensor, clip: float) -> float:
        self._out.zero_()
        total = 0.0
        for i in range(len(y)):
            with self._still():
                loss = cross_entropy(self._scores(self._module, x[i : i + 1]), y[i : i + 1])
                found = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
            square = sum(float(squares_of(g.reshape(1, -1))) for g in found)
            weight = clip / max(clip, math.sqrt(square)) if math.isfinite(square) else 0.0
            for w, g in zip(self.parameters, found, strict=True) if weight else ():
                self._places[w].add_(g, alpha=weight)
            total += _total(loss.detach())
        return total


def _refuse_mixing(name: str, layer: nn.Module) -> None:
    mixes = isinstance(layer, nn.modules.batchnorm._BatchNorm) or (
        isinstance(layer, nn.modules.instancenorm._InstanceNorm) and layer.track_running_stats
    )
    if mixes:
        raise ParameterError(
            f"{name or 'the model'} is a {type(layer).__name__}: it mixes the examples of a batch "
            "and keeps their statistics, so none can be clipped by itself; put nn.GroupNorm in its "
            "place"
        )


def _own(layer: nn.Module) -> list[nn.Parameter]:
    return [w for w in layer.parameters(recurse=False) if w.requires_grad]


def _total(losses: Tensor) -> float:
    return float(losses.nan_to_num(0.0, 0.0, 0.0).sum(dtype=torch.float64))
