"""A server that designs the model: inputs told apart inside the sum, and read out of it.

The imprint module of Fowl, Geiping, Czaja, Goldblum and Goldstein 2022, "Robbing the Fed: Directly
Obtaining Private Data in Federated Learning with Modified Models" (ICLR, arXiv:2110.13057). All
neurons of a linear layer measure the same h(x) = a . x, each against an edge of its own:

    z_i = ReLU(h(x) - c_i),        c_0 < c_1 < ... < c_{k-1}.

What follows treats all of them alike, so that g(x) = dL/dz_i is the same for each i with
h(x) > c_i, and 0 for the others. The gradients of weight and bias of neuron i are then the sums of
g(x) x and of g(x) over all inputs above edge i, and the differences of two neighbours are these
sums over the inputs in between. With one input there, their quotient is that input.

Gradients of different devices add up as those of one batch do: a sum over all devices is read as
the update of one. Of n inputs, each is alone in its bin with probability (1 - 1/k)**(n - 1), if
the edges are quantiles of h: that takes a rough knowledge of the data, and no victim's.

**One step.** A device that takes several has other weights in the second: inputs wander from bin
to bin. A server that chooses the training settings asks for one step over all examples.

**Two ways in.** `slip_in` puts the layer in front of any model, which is then of another structure:
an owner's `Policy.models` refuses it. `plant` writes the edges into a linear layer that is there
anyway, if ReLU and another linear layer follow it, as in any `mlp` (that values alone will do is
the finding of Boenisch et al. 2021, "When the Curious Abandon Honesty", arXiv:2112.02918). No check
of the structure sees that: noise bounds both.

`Imprint` is all of it for an `mlp`: it plants, and reads. `ImprintReadout` only reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tacit.crypto.errors import ParameterError
from tacit.server.inbox import Arrays
from tacit.simulations.attacks.base import Conduct, Knows, Target, View, array_of, require
from tacit.simulations.attacks.linear import LinearReadout
from tacit.simulations.hostile import Sent
from tacit.simulations.models import mlp

Floats = NDArray[np.float64]

BINS = 256


@dataclass(frozen=True, slots=True)
class Bins:
    """What is measured of an input, `direction` . x, and the edges between which it may lie.

    `direction` (inputs,), `edges` (k,) ascending. Bin i reaches from edge i to the next, the last
    one without end. What is below the first edge is in none.
    """

    direction: Floats = field(repr=False)
    edges: Floats = field(repr=False)

    def __post_init__(self) -> None:
        if self.direction.ndim != 1 or not np.isfinite(self.direction).all():
            raise ParameterError("a direction is one row of finite numbers")
        if self.edges.ndim != 1 or len(self.edges) < 2 or not (np.diff(self.edges) > 0).all():
            raise ParameterError("expected two edges or more, each above the one before")

    @classmethod
    def fitted(cls, public: NDArray[Any], count: int, rng: np.random.Generator) -> "Bins":
        """`count` bins that are about equally likely, by public data (m, *shape).

        The direction is drawn: a sum over many pixels is about normal, whatever the pixels, and its
        mean and deviation can be had from few examples. Raises ParameterError for data without any
        difference in it.
        """
        rows = public.reshape(len(public), -1).astype(np.float64)
        direction = rng.standard_normal(rows.shape[1])
        measured = rows @ direction
        if count < 2 or not measured.std() > 0:
            raise ParameterError("bins take two edges or more, and public examples that differ")
        # In units of the deviation, so that what follows has numbers of one size.
        law = NormalDist(float(measured.mean() / measured.std()), 1.0)
        edges = [law.inv_cdf((i + 0.5) / count) for i in range(count)]
        return cls(direction / measured.std(), np.array(edges))

    def of(self, inputs: NDArray[Any]) -> NDArray[np.int64]:
        """The bin of each input (n, *shape); -1 is none."""
        measured = inputs.reshape(len(inputs), -1).astype(np.float64) @ self.direction
        return np.searchsorted(self.edges, measured) - 1

    def alone(self, inputs: NDArray[Any]) -> NDArray[np.bool_]:
        """Which inputs share their bin with no other: those that can be read out."""
        bins = self.of(inputs)
        counts = np.bincount(bins + 1, minlength=len(self.edges) + 1)
        return np.asarray((bins >= 0) & (counts[bins + 1] == 1))

    def layer(self) -> tuple[Floats, Floats]:
        """Weight (k, inputs) and bias (k,) that measure, divided by k: so the layer's outputs add
        up to numbers of one size, and what float32 rounds off its weights is little."""
        count = len(self.edges)
        return np.tile(self.direction / count, (count, 1)), -self.edges / count

    def module(self) -> dict[str, Floats]:
        """The three arrays of an imprint module by name: see `slip_in`."""
        weight, bias = self.layer()
        signs = np.sign(self.direction)[:, None]  # any row will do that nothing else knows of
        spread = np.tile(signs, (1, len(self.edges)))
        return {"imprint.weight": weight, "imprint.bias": bias, "spread.weight": spread}


class Imprinted(nn.Module):
    """`inner`, with an imprint module in front: see `slip_in`."""

    def __init__(self, inner: nn.Module, shape: tuple[int, ...], bins: Bins) -> None:
        super().__init__()
        inputs, count = len(bins.direction), len(bins.edges)
        self.imprint = nn.Linear(inputs, count)
        self.spread = nn.Linear(count, inputs, bias=False)
        self.inner = inner
        self.shape = shape
        with torch.no_grad():
            for name, value in bins.module().items():
                self.get_parameter(name).copy_(torch.from_numpy(value))

    def forward(self, x: Tensor) -> Tensor:
        measured = torch.relu(self.imprint(x.flatten(1)))
        scores: Tensor = self.inner(x + self.spread(measured).view(-1, *self.shape))
        return scores


def slip_in(inner: nn.Module, shape: tuple[int, ...], bins: Bins) -> nn.Module:
    """A model that adds to each input what an imprint module makes of it, and goes on as `inner`.

    Its arrays are imprint.weight, imprint.bias, spread.weight, and those of `inner`. Raises
    ParameterError if the bins are for inputs of another size.
    """
    if len(bins.direction) != prod(shape):
        raise ParameterError(f"bins for {len(bins.direction)} numbers, inputs of shape {shape}")
    return Imprinted(inner, shape, bins)


def imprinted(shape: tuple[int, ...], classes: int) -> nn.Module:
    """An `mlp` with an imprint module of BINS bins in front: what a server makes devices build that
    chooses the architecture. Its values are for `SlippedIn` to send."""
    inputs = prod(shape)
    blank = Bins(np.ones(inputs), np.linspace(0.0, inputs, BINS))
    return slip_in(mlp(shape, classes), shape, blank)


def plant(model: Arrays, layer: str, following: str, bins: Bins) -> dict[str, NDArray[Any]]:
    """`model` with the bins as the values of `layer`, and of the linear layer `following` its ReLU.

    All arrays stay of their shape and dtype. The scores of all classes follow the sum over all
    bins, up or down in turn: then dL/dz_i is the mean sign under softmax, less that of the label,
    which is never 0. Raises ParameterError if these are not two such layers, as wide as there are
    bins.
    """
    weight, bias = bins.layer()
    scores, count = array_of(model, f"{following}.weight", "model").shape
    signs = np.where(np.arange(scores) % 2, -1.0, 1.0)
    values = {
        f"{layer}.weight": weight,
        f"{layer}.bias": bias,
        f"{following}.weight": np.tile(signs[:, None], (1, count)),
        f"{following}.bias": np.zeros(scores),
    }
    planted = dict(model)
    for name, value in values.items():
        if array_of(model, name, "model").shape != value.shape:
            raise ParameterError(f"{name} is {model[name].shape}, these bins take {value.shape}")
        planted[name] = value.astype(model[name].dtype)
    return planted


@dataclass(frozen=True, slots=True)
class ImprintReadout:
    """Reads inputs of `shape` off `layer`, an imprint module or a layer that bins were planted in.

    Needs nothing but what the server sent and saw. `low`, `high` and `tolerance` are as in
    `LinearReadout`, which reads the differences of neighbours as it would read neurons.
    """

    layer: str
    shape: tuple[int, ...]
    low: float = 0.0
    high: float = 1.0
    tolerance: float = 1e-3
    name: str = "imprint"
    needs: Knows = Knows.NOTHING
    conduct: Conduct = Conduct.MALICIOUS
    target: Target = Target.INPUTS

    def reconstruct(self, view: View, rng: np.random.Generator) -> Floats:
        """Inputs that were alone in their bins first; then mixtures, of those that were not.

        Draws nothing from `rng`. Raises ParameterError as `LinearReadout` does.
        """
        require(view, self.needs, self.name)
        reader = LinearReadout(
            self.layer, self.shape, self.low, self.high, self.tolerance, name=self.name
        )
        between = {
            name: -np.diff(array_of(view.update, name, "update"), axis=0, append=0.0)
            for name in (f"{self.layer}.weight", f"{self.layer}.bias")
        }
        return reader.reconstruct(replace(view, update=between), rng)


@dataclass(frozen=True, slots=True)
class Imprint:
    """Plants as many bins as `layer` is wide, fitted to public data, and reads them out of the sum.

    `following` is the linear layer after the ReLU of `layer`; the rest is as in `ImprintReadout`.
    """

    shape: tuple[int, ...]
    layer: str = "fc0"
    following: str = "head"
    low: float = 0.0
    high: float = 1.0
    tolerance: float = 1e-3
    name: str = "imprint, planted"
    needs: Knows = Knows.PUBLIC_DATA
    conduct: Conduct = Conduct.MALICIOUS
    target: Target = Target.INPUTS

    def send(
        self,
        model: Arrays,
        members: Sequence[int],
        public: NDArray[Any] | None,
        rng: np.random.Generator,
    ) -> Sent:
        """The model with the bins in it, to all. Raises ParameterError as `Bins.fitted` and `plant`
        do."""
        assert public is not None  # HostileServer sees to it
        count = len(array_of(model, f"{self.layer}.bias", "model"))
        return Sent(plant(model, self.layer, self.following, Bins.fitted(public, count, rng)))

    def reconstruct(self, view: View, rng: np.random.Generator) -> Floats:
        """As `ImprintReadout` does, and only of what was sent and seen."""
        require(view, self.needs, self.name)
        reader = ImprintReadout(self.layer, self.shape, self.low, self.high, self.tolerance)
        return reader.reconstruct(view, rng)


@dataclass(frozen=True, slots=True)
class SlippedIn:
    """Reads inputs out of an imprint module in front of the model that was agreed on.

    The devices' app builds the model that `imprinted` makes, as the server's configuration has it
    do. The rest is as in `ImprintReadout`.
    """

    shape: tuple[int, ...]
    low: float = 0.0
    high: float = 1.0
    tolerance: float = 1e-3
    name: str = "imprint, slipped in"
    needs: Knows = Knows.PUBLIC_DATA
    conduct: Conduct = Conduct.MALICIOUS
    target: Target = Target.INPUTS

    def send(
        self,
        model: Arrays,
        members: Sequence[int],
        public: NDArray[Any] | None,
        rng: np.random.Generator,
    ) -> Sent:
        """The model with bins in its imprint module that fit public data, to all. Raises
        ParameterError if it has no such module, and as `Bins.fitted` does."""
        assert public is not None  # HostileServer sees to it
        count = len(array_of(model, "imprint.bias", "model"))
        bins = Bins.fitted(public, count, rng).module()
        values = {name: value.astype(model[name].dtype) for name, value in bins.items()}
        return Sent({**model, **values})

    def reconstruct(self, view: View, rng: np.random.Generator) -> Floats:
        """As `ImprintReadout` does, and only of what was sent and seen."""
        require(view, self.needs, self.name)
        reader = ImprintReadout("imprint", self.shape, self.low, self.high, self.tolerance)
        return reader.reconstruct(view, rng)
