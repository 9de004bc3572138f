"""What the examples of a batch add to the gradients of known layers, apart from each other.

A layer's input and the gradient of its output, with a row of each for every example, give the
gradients in its parameters (Bu et al. 2023, arXiv:2210.00038). In a linear layer that of an example
is the outer product of its two rows and the norm is the product of theirs (Goodfellow 2015,
arXiv:1510.01799), so one product of matrices is the weighted sum of all. Where an example meets
weights at many positions, as in a convolution, its gradient is written out and measured as it is.
It could be measured without (Li et al. 2022, arXiv:2110.05679), but by terms that cancel: a norm
that comes out too small is a clip that does not hold.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import group_norm, layer_norm, unfold

CACHE = 1 << 20  # numbers in patches of images at a time
_RANGE = 2.0**128  # of the square of a row's norm: a product of two rows is far from float32's ends

Places: TypeAlias = dict[Tensor, Tensor]  # where each parameter's gradients are added up


class Part(Protocol):
    """The gradients of m examples in some parameters."""

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
        return squares_of(self.gradients)

    def keep(self, good: Tensor) -> None:
        self.gradients = kept(self.gradients, good)

    def add_up(self, weights: Tensor, places: Places) -> None:
        torch.mv(self.gradients.t(), weights, out=places[self.parameter].view(-1))


@dataclass(slots=True)
class Outer:
    """Outer products of rows: `deltas` (m, outputs) and `inputs` (m, inputs). A bias has deltas."""

    weight: Tensor
    bias: Tensor | None
    deltas: Tensor
    inputs: Tensor

    @property
    def numbers(self) -> int:
        return 0

    def squares(self) -> Tensor:
        of_deltas, of_inputs = squares_of(self.deltas), squares_of(self.inputs)
        if self.bias is not None:
            of_inputs += 1  # a bias is a weight whose input is 1
        fits = (of_deltas < _RANGE) & (of_inputs < _RANGE)
        return torch.where(fits, of_deltas * of_inputs, math.inf)

    def keep(self, good: Tensor) -> None:
        self.deltas, self.inputs = kept(self.deltas, good), kept(self.inputs, good)

    def add_up(self, weights: Tensor, places: Places) -> None:
        weighted = self.deltas * weights[:, None]
        torch.mm(weighted.t(), self.inputs, out=places[self.weight])
        if self.bias is not None:
            torch.sum(weighted, 0, out=places[self.bias])


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
        return found.index_add_(0, self.of, squares_of(self.rows))

    def keep(self, good: Tensor) -> None:
        self.rows = kept(self.rows, good[self.of])

    def add_up(self, weights: Tensor, places: Places) -> None:
        weighted = self.rows * weights[self.of, None]
        places[self.parameter].zero_().index_add_(0, self.words, weighted)


def parts_of(layer: nn.Module, inputs: Tensor, delta: Tensor) -> list[Part] | None:
    """From a layer's input and the gradient of its output, m rows each; None if it is not known, or
    set in a way that is not."""
    known = KNOWN.get(type(layer))
    return None if known is None else known(layer, inputs, delta)


def squares_of(rows: Tensor) -> Tensor:
    return rows.double().square_().sum(1)


def kept(rows: Tensor, good: Tensor) -> Tensor:
    return torch.where(good.view(-1, *[1] * (rows.dim() - 1)), rows, 0.0)


def _linear(layer: nn.Linear, inputs: Tensor, delta: Tensor) -> list[Part]:
    weight: Tensor = layer.weight
    bias: Tensor | None = layer.bias
    if delta.dim() == 2 and weight.requires_grad and (bias is None or bias.requires_grad):
        return [Outer(weight, bias, delta, inputs)]
    many = delta.reshape(len(delta), -1, layer.out_features)
    few = inputs.reshape(len(delta), -1, layer.in_features)
    parts = _written(weight, lambda: many.mT @ few)
    return parts + _written(bias, lambda: many.sum(1))


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


KNOWN: dict[type[nn.Module], Callable[[Any, Tensor, Tensor], list[Part] | None]] = {
    nn.Linear: _linear,
    nn.Conv1d: _sequence,
    nn.Conv2d: _convolution,
    nn.LayerNorm: _normalised,
    nn.GroupNorm: _grouped,
    nn.Embedding: _embedding,
}
