"""Whole texts read off the attention layers of a decoder, token by token, exactly.

Petrov, Dimitrov, Baader, Müller and Vechev 2024, "DAGER: Exact Gradient Inversion for Large
Language Models" (NeurIPS, arXiv:2405.15586), section 4. A projection Q = Z W^T of the inputs Z,
one row per token of the batch, has dL/dW = (dL/dQ)^T Z: every row of the gradient is a mixture of
rows of Z. With fewer tokens than Z is wide they span a part of space only, and a token that is not
in the batch falls outside of it:

- ahead of the first attention layer a row of Z depends on one token and its position, so that all
  tokens can be tried, one by one, at every position;
- ahead of the second it depends on the tokens before it too, and in a decoder on none behind it: a
  text is found from its beginning, each time longer by one of the tokens that were found for the
  next position, and a beginning that is in no text falls outside.

Queries, keys and values see the same Z. Their gradients are stacked here: one alone misses a
direction, as the first query has nothing to choose from, and the slopes of a query's keys sum to 0.

What counts as outside is derived, where the paper has thresholds: noise of deviation s per entry
turns the direction of singular value v_i by about s / v_i times a standard normal in each of the
dimensions that are left over, and s shows in the singular values beyond the number of tokens. It
takes one full-batch step: several blur the directions, as each has other weights. An encoder would
need the paper's search over whole texts.

A sum over devices is the same matrix over their texts together: it protects by being long, once
there are as many beginnings of texts, each counted once, as Z is wide. Noise protects by drowning
the singular values, those of many tokens long before those of one text.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from math import sqrt
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tacit.crypto.errors import ParameterError
from tacit.simulations.attacks.base import Conduct, Knows, Target, View, array_of, require
from tacit.simulations.attacks.surrogate import Build

Floats: TypeAlias = NDArray[np.float64]
Tokens: TypeAlias = NDArray[np.int64]

_ROUNDING = 1e-4  # of the length of an input: what float32 does to it on its way through a layer
_EXACT = 1e-7  # of the largest singular value: below is rounding
_DEVIATIONS = 4.0  # by which the residual of a token of the batch may exceed what noise makes of it
_CHUNK = 1024  # texts that go through the model at a time


@dataclass(frozen=True, slots=True)
class Dager:
    """Reads texts of `length` tokens below `vocabulary` off the model that `build` makes.

    It is a decoder that takes shorter texts too, as rows of whole numbers. `first` and `second`
    name the layers that project the inputs of its first and its second attention. At most `beam`
    beginnings of texts are followed at a time, the nearest ones.
    """

    build: Build = field(repr=False)
    length: int
    vocabulary: int
    first: tuple[str, ...] = (
        "blocks.0.attention.query",
        "blocks.0.attention.key",
        "blocks.0.attention.value",
    )
    second: tuple[str, ...] = (
        "blocks.1.attention.query",
        "blocks.1.attention.key",
        "blocks.1.attention.value",
    )
    beam: int = 32
    name: str = "DAGER"
    needs: Knows = Knows.NOTHING
    conduct: Conduct = Conduct.HONEST
    target: Target = Target.TOKENS

    def __post_init__(self) -> None:
        if self.length < 1 or self.vocabulary < 2 or self.beam < 1:
            raise ParameterError(
                f"length={self.length}, vocabulary={self.vocabulary}, beam={self.beam}: expected "
                "at least one token of at least two, and a beam of at least 1"
            )
        if not self.first or not self.second:
            raise ParameterError("no layers named to read the first or the second attention off")

    def reconstruct(self, view: View, rng: np.random.Generator) -> Tokens:
        """The texts, shape (inputs, length), the surest first. Of texts that are alike all but one
        are missing, and the next best stand in for them.

        None, if there is nothing to tell tokens apart by: as many of them as the layers are wide,
        or so much noise that no direction stands out. Draws nothing from `rng`. Raises
        ParameterError if a layer is missing, is shaped otherwise, or did not move.
        """
        require(view, self.needs, self.name)
        model = self._model(view)
        tokens = view.inputs * self.length
        spans = [
            _Span.of(self._gradient(view, names), tokens) for names in (self.first, self.second)
        ]
        if not all(span.tells for span in spans):
            return np.empty((0, self.length), dtype=np.int64)
        found = np.empty((1, 0), dtype=np.int64)
        inside, distance = np.ones(1, dtype=bool), np.zeros(1)
        for candidates in self._candidates(model, spans[0], view.inputs):
            longer = np.column_stack(
                [found.repeat(len(candidates), axis=0), np.tile(candidates, len(found))]
            )
            fits, off = spans[1].holds(_inputs_of(model, self.second[0], longer)[:, -1])
            fits &= inside.repeat(len(candidates))
            off += distance.repeat(len(candidates))
            kept = _nearest(fits, off, view.inputs)[: self.beam]
            found, inside, distance = longer[kept], fits[kept], off[kept]
        return found[: view.inputs]

    def _candidates(self, model: nn.Module, span: "_Span", texts: int) -> list[Tokens]:
        """For every position the tokens that may be there, the nearest first."""
        every = np.arange(self.vocabulary)[:, None].repeat(self.length, axis=1)
        inputs = _inputs_of(model, self.first[0], every)
        return [_nearest(*span.holds(inputs[:, i]), texts) for i in range(self.length)]

    def _model(self, view: View) -> nn.Module:
        """The model as it was sent, in float64, without dropout."""
        model = self.build().eval().double()
        layers = dict(model.named_modules())
        for name in (*self.first, *self.second):
            if not isinstance(layers.get(name), nn.Linear):
                raise ParameterError(f"the model that was built has no linear layer {name!r}")
        like = model.state_dict()
        for name, tensor in like.items():
            value = array_of(view.model, name, "model")
            if value.shape != tuple(tensor.shape):
                raise ParameterError(
                    f"{name!r} of the model is {value.shape}, the built model's is "
                    f"{tuple(tensor.shape)}: is `build` the model that was trained?"
                )
            tensor.copy_(torch.from_numpy(value))
        return model

    def _gradient(self, view: View, names: tuple[str, ...]) -> Floats:
        """The updates of these layers' weights, one above the other, shape (_, width)."""
        updates = [array_of(view.update, f"{name}.weight", "update") for name in names]
        widths = {update.shape[1:] for update in updates}
        if len(widths) > 1 or updates[0].ndim != 2:
            raise ParameterError(f"{', '.join(names)} do not project inputs of one width")
        stacked = np.concatenate(updates)
        if not stacked.any():
            raise ParameterError(f"{', '.join(names)} did not move: there is nothing to read")
        return stacked


@dataclass(frozen=True, slots=True)
class _Span:
    """The part of space that the inputs behind a gradient span.

    directions   orthonormal, shape (rank, width)
    turned       deviation of each along any one dimension outside, shape (rank,)
    """

    directions: Floats
    turned: Floats

    @classmethod
    def of(cls, gradient: Floats, tokens: int) -> "_Span":
        _, values, right = np.linalg.svd(gradient, full_matrices=False)
        rows, columns = gradient.shape
        rest = max(1, rows - tokens) * max(1, columns - tokens)
        noise = sqrt(float((values[tokens:] ** 2).sum()) / rest)
        # A matrix of noise alone has no singular value above this (Marchenko and Pastur 1967).
        drowned = noise * (sqrt(rows) + sqrt(columns))
        rank = int((values > max(drowned, _EXACT * values[0])).sum())
        return cls(right[:rank], noise / values[:rank])

    @property
    def tells(self) -> bool:
        rank, width = self.directions.shape
        return bool(0 < rank < width)

    def holds(self, inputs: Floats) -> tuple[NDArray[np.bool_], Floats]:
        """Whether each input may be inside but for noise, and which part of it is outside."""
        rank, width = self.directions.shape
        inside = inputs @ self.directions.T
        length = np.linalg.norm(inputs, axis=1)
        outside = np.linalg.norm(inputs - inside @ self.directions, axis=1)
        noise = np.sqrt((width - rank) * (inside**2 @ self.turned**2))
        return outside <= _DEVIATIONS * (noise + _ROUNDING * length), outside / length


def _nearest(inside: NDArray[np.bool_], distance: Floats, texts: int) -> Tokens:
    """Which are inside, the nearest first, and never fewer than there are texts, as noise may have
    taken some out."""
    order = np.lexsort((distance, ~inside))
    return order[: max(texts, int(inside.sum()))]


class _Enough(Exception):
    """Ends a pass through the model: what was to be seen of it has been seen."""


@torch.no_grad()
def _inputs_of(model: nn.Module, layer: str, texts: Tokens) -> Floats:
    """What `layer` is given at each position of the texts, shape (texts, length, width)."""
    caught: list[Tensor] = []

    def catch(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        caught.append(given[0])
        raise _Enough

    watch = model.get_submodule(layer).register_forward_pre_hook(catch)
    try:
        for chunk in torch.split(torch.from_numpy(texts), _CHUNK):
            with suppress(_Enough):
                model(chunk)
    except (IndexError, RuntimeError) as refused:
        raise ParameterError(f"the model cannot take texts {texts.shape}: {refused}") from refused
    finally:
        watch.remove()
    if not caught:
        raise ParameterError(f"the model does not ask its layer {layer!r}")
    found: Floats = torch.cat(caught).numpy()
    return found
