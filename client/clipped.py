"""Sums of gradients of single examples, each clipped to a norm: what record-level DP-SGD adds up.

Abadi et al. 2016, arXiv:1607.00133, algorithm 1, without the noise. One pass forward and one back
give, for each layer, its input and the gradient of its output, a row of each for every example, and
these are enough (Bu et al. 2023, arXiv:2210.00038). In a linear layer the gradient of an example is
the outer product of its two rows and the norm is the product of theirs (Goodfellow 2015,
arXiv:1510.01799), so one product of matrices is the weighted sum of all. Where an example meets
weights at many positions, as in a convolution, its gradient is written out and measured as it is.
It could be measured without (Li et al. 2022, arXiv:2110.05679), but by terms that cancel: a norm
that comes out too small is a clip that does not hold.

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
a shape of inputs, by going both on a few made-up examples. Where they differ, as they also do for a
model that mixes the examples of a batch, each goes by itself. Batch normalisation is refused.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.functional import cross_entropy, group_norm, layer_norm, unfold

from tacit.crypto.errors import ParameterError

ROWS = 256  # examples in one sum of floats
SLACK = 2 * ROWS * (ROWS + 4) / 2**24  # of the clip: by so much a neighbour's sum may be farther
SMALLEST, LARGEST = 2.0**-32, 2.0**32  # of a clip
MEMORY = 1 << 26  # numbers in gradients that are written out at a time
CACHE = 1 << 20  # numbers in patches of images at a time
_RANGE = 2.0**128  # of the square of a row's norm: a product of two rows is far from float32's ends
_PROBES = (2, 3)  # made-up examples: no other dimension is both
_ALIKE = 1e-3

Places: TypeAlias = dict[Tensor, Tensor]  # where each parameter's gradients are added up


class Part(Protocol):
    """The gradients of m examples in one parameter."""

    @property
    def numbers(self) -> int:
        """Written out for each example."""
        ...

    def squares(self) -> Tensor:
        """Of the norm of each: (m,) float64, at least those of what is added up."""
        ...

    def keep(self, good: Tensor) -> None:
        """Set those of all others (m,) to zero: what is not finite is so even times nothing."""
        ...

    def add_up(self, weights: Tensor, places: Places) -> None:
        """Write their sum, each times its weight (m,)."""
        ...


@dataclass(slots=True)
class Written:
    """Written out: (m, size of the parameter)."""

    parameter: Tensor
    gradients: Tensor

    @property
    def numbers(self) -> int:
        return self.gradients.shape[1]

    def squares(self) -> Tensor:
        return _squares(self.gradients)

    def keep(self, good: Tensor) -> None:
        self.gradients = _kept(self.gradients, good)

    def add_up(self, weights: Tensor, places: Places) -> None:
        torch.mv(self.gradients.t(), weights, out=places[self.parameter].view(-1))


@dataclass(slots=True)
class Outer:
    """Outer products of rows: `deltas` (m, outputs) and `inputs` (m, inputs)."""

    parameter: Tensor
    deltas: Tensor
    inputs: Tensor

    @property
    def numbers(self) -> int:
        return 0

    def squares(self) -> Tensor:
        of_deltas, of_inputs = _squares(self.deltas), _squares(self.inputs)
        fits = (of_deltas < _RANGE) & (of_inputs < _RANGE)
        return torch.where(fits, of_deltas * of_inputs, math.inf)

    def keep(self, good: Tensor) -> None:
        self.deltas, self.inputs = _kept(self.deltas, good), _kept(self.inputs, good)

    def add_up(self, weights: Tensor, places: Places) -> None:
        weighted = self.deltas * weights[:, None]
        torch.mm(weighted.t(), self.inputs, out=places[self.parameter])


@dataclass(slots=True)
class Looked:
    """Rows (k, width) of a table, each of an example, `of` (k,), and a word, `words` (k,)."""

    parameter: Tensor
    examples: int
    rows: Tensor
    of: Tensor
    words: Tensor

    @property
    def numbers(self) -> int:
        return -(-self.rows.numel() // self.examples)

    def squares(self) -> Tensor:
        found = torch.zeros(self.examples, dtype=torch.float64, device=self.rows.device)
        return found.index_add_(0, self.of, _squares(self.rows))

    def keep(self, good: Tensor) -> None:
        self.rows = _kept(self.rows, good[self.of])

    def add_up(self, weights: Tensor, places: Places) -> None:
        weighted = self.rows * weights[self.of, None]
        places[self.parameter].zero_().index_add_(0, self.words, weighted)


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
        out = torch.empty(self.length, device=x.device)
        for some, labels in zip(x.tensor_split(pieces), y.tensor_split(pieces), strict=True):
            parts = self._parts(some, labels) if rows else None
            if parts is None:
                yield out, self._one_by_one(some, labels, clip, out)
            else:
                yield out, self._weighted(*parts, clip, out)

    def _rows_at_once(self, x: Tensor) -> int:
        """How many such examples go together: 0 if each goes by itself."""
        shape = tuple(x.shape[1:])
        if shape not in self._rows:
            training = self._module.training
            self._module.eval()  # what draws at random would differ
            try:
                self._rows[shape] = min(self._try(x, count) for count in _PROBES)
            finally:
                self._module.train(training)
        return self._rows[shape]

    def _try(self, x: Tensor, count: int) -> int:
        random = torch.Generator().manual_seed(count)
        some = torch.rand((count, *x.shape[1:]), generator=random).to(x)
        with torch.no_grad():
            classes = self._scores(self._module, some).shape[1]
        y = torch.arange(count, device=x.device) % classes
        if (found := self._parts(some, y)) is None:
            return 0
        one, other = (torch.empty(self.length, device=x.device) for _ in range(2))
        self._one_by_one(some, y, 1.0, one)
        self._weighted(*found, 1.0, other)
        if not torch.linalg.vector_norm(one - other) <= _ALIKE * torch.linalg.vector_norm(one):
            return 0
        return max(1, min(ROWS, MEMORY // max(1, sum(part.numbers for part in found[0]))))

    def _parts(self, x: Tensor, y: Tensor) -> tuple[list[Part], Tensor] | None:
        """Gradients and losses of all examples by one pass; None if that is not known to do it."""
        layers = [layer for layer in self._module.modules() if _own(layer)]
        if any(type(layer) not in _KNOWN for layer in layers):
            return None
        calls: list[tuple[nn.Module, Tensor, GradientEdge]] = []
        strange: list[nn.Module] = []

        def called(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            if not inputs or not output.requires_grad:
                strange.append(layer)
                return
            # The edge, as what comes after may overwrite the output.
            calls.append((layer, inputs[0].detach(), get_gradient_edge(output)))

        hooks = [layer.register_forward_hook(called) for layer in layers]
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
            found = _KNOWN[type(layer)](layer, inputs, delta) if len(delta) == len(y) else None
            if found is None:
                return None
            parts += found
        return parts, losses.detach()

    @torch.no_grad()
    def _weighted(self, parts: list[Part], losses: Tensor, clip: float, out: Tensor) -> float:
        places = self._places(out)
        norms = torch.stack([part.squares() for part in parts]).sum(0).sqrt_()
        weights = (clip / norms).clamp_(max=1.0)
        good = torch.isfinite(norms)
        if not good.all():
            weights = _kept(weights, good)
            for part in parts:
                part.keep(good)
        if len(parts) < len(places):  # a layer that was not called
            out.zero_()
        for part in parts:
            part.add_up(weights.float(), places)
        return _total(losses)

    def _one_by_one(self, x: Tensor, y: Tensor, clip: float, out: Tensor) -> float:
        out.zero_()
        places, total = self._places(out), 0.0
        for i in range(len(y)):
            loss = cross_entropy(self._scores(self._module, x[i : i + 1]), y[i : i + 1])
            found = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
            square = sum(float(_squares(g.reshape(1, -1))) for g in found)
            weight = clip / max(clip, math.sqrt(square)) if math.isfinite(square) else 0.0
            for w, g in zip(self.parameters, found, strict=True) if weight else ():
                places[w].add_(g, alpha=weight)
            total += _total(loss.detach())
        return total

    def _places(self, out: Tensor) -> Places:
        parts = torch.split(out, [w.numel() for w in self.parameters])
        return {w: part.view(w.shape) for w, part in zip(self.parameters, parts, strict=True)}


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


def _own(layer: nn.Module) -> bool:
    return any(w.requires_grad for w in layer.parameters(recurse=False))


def _squares(rows: Tensor) -> Tensor:
    return rows.double().square_().sum(1)


def _kept(rows: Tensor, good: Tensor) -> Tensor:
    return torch.where(good.view(-1, *[1] * (rows.dim() - 1)), rows, 0.0)


def _total(losses: Tensor) -> float:
    return float(losses.nan_to_num(0.0, 0.0, 0.0).sum(dtype=torch.float64))


# From a layer's input and the gradient of its output to the gradients in its parameters; None for a
# layer that is set in a way that is not known here.


def _linear(layer: nn.Linear, inputs: Tensor, delta: Tensor) -> list[Part]:
    parts: list[Part] = []
    if delta.dim() == 2:
        if layer.weight.requires_grad:
            parts.append(Outer(layer.weight, delta, inputs))
        return parts + _written(layer.bias, lambda: delta)
    many, few = delta.flatten(1, -2), inputs.flatten(1, -2)
    parts += _written(layer.weight, lambda: many.mT @ few)
    return parts + _written(layer.bias, lambda: many.sum(1))


def _convolution(layer: nn.Conv2d, inputs: Tensor, delta: Tensor) -> list[Part] | None:
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        return None
    patches = partial(
        unfold,
        kernel_size=layer.kernel_size,
        dilation=layer.dilation,
        padding=layer.padding,
        stride=layer.stride,
    )
    return _convolved(layer, inputs, delta, patches)


def _sequence(layer: nn.Conv1d, inputs: Tensor, delta: Tensor) -> list[Part] | None:
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        return None
    patches = partial(
        unfold,
        kernel_size=(1, *layer.kernel_size),
        dilation=(1, *layer.dilation),
        padding=(0, *layer.padding),
        stride=(1, *layer.stride),
    )
    return _convolved(layer, inputs.unsqueeze(2), delta, patches)


def _convolved(
    layer: nn.Conv1d | nn.Conv2d,
    inputs: Tensor,
    delta: Tensor,
    patches: Callable[[Tensor], Tensor],
) -> list[Part]:
    """A convolution is a product of matrices with the patches (m, channels * kernel, positions)."""
    m, groups = len(delta), layer.groups
    rows = delta.reshape(m, groups, layer.out_channels // groups, -1)
    numbers = layer.weight[0].numel() * groups * rows.shape[-1]
    step = max(1, CACHE // numbers)

    def weights() -> Tensor:
        out = delta.new_empty((m, groups, rows.shape[2], layer.weight[0].numel()))
        for i in range(0, m, step):
            few = patches(inputs[i : i + step])
            few = few.view(len(few), groups, -1, few.shape[-1])
            torch.matmul(rows[i : i + step], few.mT, out=out[i : i + step])
        return out

    return _written(layer.weight, weights) + _written(layer.bias, lambda: rows.sum(-1))


def _normalised(layer: nn.LayerNorm, inputs: Tensor, delta: Tensor) -> list[Part]:
    shape = tuple(layer.normalized_shape)
    plain = layer_norm(inputs, shape, eps=layer.eps)

    def over(gradients: Tensor) -> Tensor:
        return gradients.reshape(len(delta), -1, math.prod(shape)).sum(1)

    parts = _written(layer.weight, lambda: over(delta * plain))
    return parts + _written(layer.bias, lambda: over(delta))


def _grouped(layer: nn.GroupNorm, inputs: Tensor, delta: Tensor) -> list[Part]:
    plain = group_norm(inputs, layer.num_groups, eps=layer.eps)
    parts = _written(layer.weight, lambda: (delta * plain).flatten(2).sum(2))
    return parts + _written(layer.bias, lambda: delta.flatten(2).sum(2))


def _embedding(layer: nn.Embedding, inputs: Tensor, delta: Tensor) -> list[Part] | None:
    if layer.max_norm is not None or layer.scale_grad_by_freq:
        return None
    words = inputs.reshape(len(delta), -1)
    own = torch.arange(len(delta), device=words.device)[:, None] * layer.num_embeddings + words
    which, place = torch.unique(own, return_inverse=True)
    rows = delta.new_zeros((len(which), layer.embedding_dim))
    rows.index_add_(0, place.view(-1), delta.reshape(-1, layer.embedding_dim))
    of, at = which // layer.num_embeddings, which % layer.num_embeddings
    if layer.padding_idx is not None:
        rows[at == layer.padding_idx] = 0
    return [Looked(layer.weight, len(delta), rows, of, at)]


def _written(parameter: Tensor | None, gradients: Callable[[], Tensor]) -> list[Part]:
    if parameter is None or not parameter.requires_grad:
        return []
    return [Written(parameter, gradients().flatten(1))]


_KNOWN: dict[type[nn.Module], Callable[[Any, Tensor, Tensor], list[Part] | None]] = {
    nn.Linear: _linear,
    nn.Conv1d: _sequence,
    nn.Conv2d: _convolution,
    nn.LayerNorm: _normalised,
    nn.GroupNorm: _grouped,
    nn.Embedding: _embedding,
}
