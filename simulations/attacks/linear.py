"""Inputs read off the update of a linear first layer, in closed form.

A layer z = W x + b has dL/dW[k] = dL/dz[k] * x and dL/db[k] = dL/dz[k], so that
dL/dW[k] / dL/db[k] = x for every neuron k with dL/db[k] != 0 (Phong, Aono, Hayashi, Wang and
Moriai 2018, "Privacy-Preserving Deep Learning via Additively Homomorphic Encryption", IEEE TIFS
13(5), where gradients are shown to leak local data). The quotient of the *update* is the same, as
plain SGD scales both alike:

- one input: exact, and for any number of local steps, since each step adds a multiple of (x, 1);
- several inputs: exact where a neuron answered to one of them only (ReLU layers), else a
  weighted mixture. A mixture with weights of both signs usually leaves the data's range.

Momentum keeps this; weight decay and a proximal term break it gently.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.simulations.attacks.base import (
    Conduct,
    Knows,
    Target,
    View,
    array_of,
    require,
    require_range,
    require_shape,
)

Floats = NDArray[np.float64]

# Rows with a smaller share of the largest bias update hold rounding noise, not data.
_SILENT = 1e-6
# A single input repeats in every neuron that saw it alone; this far apart (root mean square over
# coordinates, data in units of its range) is still the same input.
_SAME = 1e-3


@dataclass(frozen=True, slots=True)
class LinearReadout:
    """Reads inputs of `shape` off `layer`.weight and `layer`.bias, the first layer of the model.

    `low` and `high` bound the data; `tolerance`, in the same units, is how far a candidate may
    leave that range and still count as one input rather than a mixture.
    """

    layer: str
    shape: tuple[int, ...]
    low: float = 0.0
    high: float = 1.0
    tolerance: float = 1e-3
    name: str = "linear read-out"
    needs: Knows = Knows.NOTHING
    conduct: Conduct = Conduct.HONEST
    target: Target = Target.INPUTS

    def __post_init__(self) -> None:
        require_shape(self.shape)
        require_range(self.low, self.high)
        if self.tolerance < 0:
            raise ParameterError(f"tolerance={self.tolerance} must not be negative")

    def reconstruct(self, view: View, rng: np.random.Generator) -> Floats:
        """The distinct inputs first, the most repeated ahead; then the mixtures nearest the range.

        Draws nothing from `rng`. Raises ParameterError if the layer does not see inputs of this
        shape, or if its bias did not move at all.
        """
        require(view, self.needs, self.name)
        weight, bias = self._layer(view)
        found, single = self._candidates(weight, bias)
        guesses = _distinct(found[single], bias[single], (self.high - self.low) * _SAME)
        if len(guesses) < view.inputs:
            guesses = np.concatenate([guesses, self._mixtures(found[~single])])
        guesses = guesses[: view.inputs].clip(self.low, self.high)
        return guesses.reshape(-1, *self.shape)

    def _layer(self, view: View) -> tuple[Floats, Floats]:
        """Update of the weight (k, inputs) and bias (k,), without neurons that did not move."""
        weight = array_of(view.update, f"{self.layer}.weight", "update")
        bias = array_of(view.update, f"{self.layer}.bias", "update")
        if weight.shape != (len(bias), prod(self.shape)):
            raise ParameterError(
                f"{self.layer}.weight is {weight.shape}: it does not see inputs of {self.shape}"
            )
        moved = np.abs(bias) > _SILENT * np.abs(bias).max()
        if not moved.any():
            raise ParameterError(f"{self.layer}.bias did not move: there is nothing to read")
        return weight[moved], bias[moved]

    def _candidates(self, weight: Floats, bias: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """One quotient per neuron, and whether it can be one input, judged by its range."""
        found = weight / bias[:, None]
        inside = (found >= self.low - self.tolerance) & (found <= self.high + self.tolerance)
        return found, np.asarray(inside.all(axis=1))

    def _mixtures(self, found: Floats) -> Floats:
        excess = np.maximum(self.low - found, found - self.high).max(axis=1, initial=0.0)
        order: Floats = found[np.argsort(excess, kind="stable")]
        return order


def _distinct(found: Floats, bias: Floats, same: float) -> Floats:
    """Merge candidates within `same` (root mean square) of each other; most frequent first.

    The members of one group are (x * d_k, d_k) with different d_k, so x is their least-squares
    fit, sum(d_k^2 x_k) / sum(d_k^2): neurons that moved further are less rounded.
    """
    squares = (found**2).sum(axis=1)
    distance = (squares[:, None] + squares[None] - 2 * found @ found.T) / found.shape[1]
    near = distance < same**2
    groups: list[Floats] = []
    free = np.ones(len(found), dtype=bool)
    for centre in np.argsort(-near.sum(axis=1), kind="stable"):
        if free[centre]:
            members = near[centre] & free
            members[centre] = True
            free &= ~members
            groups.append(np.average(found[members], axis=0, weights=bias[members] ** 2))
    return np.array(groups).reshape(-1, found.shape[1])
