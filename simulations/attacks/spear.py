"""A whole batch read off a linear layer before a ReLU, exactly.

Dimitrov, Baader, Müller and Vechev 2024, "SPEAR: Exact Gradient Inversion of Batches in Federated
Learning" (NeurIPS, arXiv:2403.03945), section 4. For z = W x + b of n inputs the gradient is

    dL/dW = D X,    dL/db = D 1,    D[k, i] = dL/dz[k] of input i, over the neurons k,

a product through n dimensions: [dL/dW, dL/db] = U R with U as narrow as D, and D = U Q for one
unknown n x n matrix Q. What makes Q known is the ReLU, as D[k, i] = 0 wherever it cut input i off,
about half of the time. Draw n - 1 rows of U: if all of them were cut off for input i, column i of Q
is what they map to 0. Most draws are not like that, and show it: their U q has n - 1 zeros, while
a column of D has many more. The directions of most zeros that are independent make Q, and
[X, 1] = Q^-1 R up to a factor per input, which the column of ones gives away.

The right Q is recognised without any truth: D must be zero exactly where W x + b is not positive.

The number of draws grows as 2^n, and faster where inputs are alike, as the ReLU then cuts them off
together: 8 photographs under 256 neurons come out whole, and hardly any of 16. It wants many more
neurons than inputs, inputs that are linearly independent, and one full-batch step. A sum over
devices is the same matrix over their inputs together, so summing protects only by being long. Noise
fills D's zeros; what the layer's other singular values hold is taken for it, and zeros are sought
that deep.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod, sqrt

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.server.inbox import Arrays
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

_CHUNK = 4096  # draws at a time
_KEPT = 64  # directions per input that are kept of a chunk
_MORE = 4  # zeros beyond the n - 1 that any draw has
_EXACT = 1e-10  # of the largest singular value: below is rounding
_NOISES = 4.0  # standard deviations within which an entry of D may be zero
_ROUGH = 64.0  # the same of a draw, before it is fitted
_INDEPENDENT = 1e-3  # sine of the least angle between one direction and all before it


@dataclass(frozen=True, slots=True)
class Spear:
    """Reads inputs of `shape` off `layer`, the first one, which a ReLU follows.

    `low` and `high` bound the data. At most `draws` sets of rows are tried; the attack ends early
    once what it has fits the model, to a share of `agreed` of neurons and inputs.
    """

    layer: str
    shape: tuple[int, ...]
    low: float = 0.0
    high: float = 1.0
    draws: int = 2**16
    agreed: float = 1.0
    name: str = "SPEAR"
    needs: Knows = Knows.NOTHING
    conduct: Conduct = Conduct.HONEST
    target: Target = Target.INPUTS

    def __post_init__(self) -> None:
        require_shape(self.shape)
        require_range(self.low, self.high)
        if self.draws < 1 or not 0 < self.agreed <= 1:
            raise ParameterError(
                f"draws={self.draws}, agreed={self.agreed}: expected 1 or more, and 0 < agreed <= 1"
            )

    def reconstruct(self, view: View, rng: np.random.Generator) -> Floats:
        """All inputs, or none if no Q was found: there is nothing between, as each input takes the
        inverse of all of Q. Shape (inputs, *shape); fewer where inputs depend on each other.

        Raises ParameterError if the layer is missing, does not see inputs of this shape, or did not
        move.
        """
        require(view, self.needs, self.name)
        gradient = self._layer(view.update, "update")
        if not gradient.any():
            raise ParameterError(f"{self.layer} did not move: there is nothing to read")
        sent = self._layer(view.model, "model")
        if sent.shape != gradient.shape:
            raise ParameterError(f"{self.layer} of the update is not shaped as that of the model")
        factors = _Factors.of(gradient, view.inputs)
        best, agreement = np.empty((0, prod(self.shape))), -1.0
        for directions in factors.bases(self.draws, rng):
            found = factors.inputs(directions)
            fits = factors.agreement(directions, found, sent)
            if fits > agreement:
                best, agreement = found, fits
            if agreement >= self.agreed:
                break
        return best.clip(self.low, self.high).reshape(-1, *self.shape)

    def _layer(self, arrays: Arrays, what: str) -> Floats:
        """[weight, bias], shape (neurons, features + 1)."""
        weight = array_of(arrays, f"{self.layer}.weight", what)
        bias = array_of(arrays, f"{self.layer}.bias", what)
        if weight.shape != (len(bias), prod(self.shape)):
            raise ParameterError(
                f"{self.layer}.weight is {weight.shape}: it does not see inputs of {self.shape}"
            )
        return np.column_stack([weight, bias])


@dataclass(frozen=True, slots=True)
class _Factors:
    """The gradient as left @ right, through as many dimensions as there are inputs.

    left     U, shape (neurons, n), orthonormal columns
    right    R, shape (n, features + 1)
    spread   deviation of the noise in each column of U, shape (n,)
    """

    left: Floats
    right: Floats
    spread: Floats

    @classmethod
    def of(cls, gradient: Floats, inputs: int) -> "_Factors":
        left, values, right = np.linalg.svd(gradient, full_matrices=False)
        rows, columns = gradient.shape
        rest = max(1, rows - inputs) * max(1, columns - inputs)
        noise = sqrt(float((values[inputs:] ** 2).sum()) / rest)
        # A matrix of noise alone has no singular value above this (Marchenko and Pastur 1967).
        drowned = noise * (sqrt(rows) + sqrt(columns))
        n = min(inputs, int((values > max(drowned, _EXACT * values[0])).sum()))
        spread = np.maximum(noise, _EXACT * values[0]) / values[:n]
        return cls(left[:, :n], values[:n, None] * right[:n], spread)

    def bases(self, draws: int, rng: np.random.Generator) -> Iterator[Floats]:
        """Q^T after every chunk of draws that has n independent directions, one a row."""
        n = self.left.shape[1]
        pool = np.eye(n) if n == 1 else np.empty((0, n))
        rows = self.left[(np.abs(self.left) > _NOISES * self.spread).any(axis=1)]
        for _ in range(-(-draws // _CHUNK) if len(rows) >= n + _MORE else n == 1):
            if n > 1:
                pool = self._sparsest(np.concatenate([pool, _kernels(rows, rng)]), rows)
            chosen = _independent(pool)
            if len(chosen) == n:
                yield chosen

    def _sparsest(self, directions: Floats, rows: Floats) -> Floats:
        """The directions q with the most zeros in U q, most first, each fitted to all of them.

        Two with the same zeros are one.
        """
        n = len(self.spread)
        # What a draw maps to 0 is off by far more than noise where its rows are nearly dependent.
        zeros = self._zeros(directions, rows, _ROUGH)
        zeros = zeros[zeros.sum(axis=1) >= n - 1 + _MORE]
        if len(zeros) == 0:
            return np.empty((0, n))
        fitted = _fitted(rows, _most(zeros, _KEPT * n))
        fitted = _fitted(rows, _most(self._zeros(fitted, rows), len(fitted)))
        order = np.argsort(-self._zeros(fitted, rows).sum(axis=1), kind="stable")
        return fitted[order]

    def _zeros(
        self, directions: Floats, rows: Floats, deviations: float = _NOISES
    ) -> NDArray[np.bool_]:
        """Where U q may be 0 but for noise, for these rows of U; shape (directions, rows)."""
        noise = np.sqrt((directions**2) @ self.spread**2)
        return np.asarray(np.abs(directions @ rows.T) <= deviations * noise[:, None])

    def inputs(self, directions: Floats) -> Floats:
        """X of this Q, shape (n, features)."""
        scaled = np.linalg.solve(directions.T, self.right)
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Floats = scaled[:, :-1] / scaled[:, -1:]
        return np.nan_to_num(found)

    def agreement(self, directions: Floats, inputs: Floats, sent: Floats) -> float:
        """How often D is zero just where the layer, as it was sent, is not positive."""
        positive = inputs @ sent[:, :-1].T + sent[:, -1] > 0
        return float((positive != self._zeros(directions, self.left)).mean())


def _kernels(rows: Floats, rng: np.random.Generator) -> Floats:
    """For each of a chunk of draws, the direction that its n - 1 rows map to 0; shape (_, n)."""
    n = rows.shape[1]
    drawn = rng.random((_CHUNK, len(rows))).argpartition(n - 2, axis=1)[:, : n - 1]
    kernels: Floats = np.linalg.svd(rows[drawn])[2][:, -1]
    return kernels


def _most(zeros: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """The patterns with the most zeros, at most `count` of them, and each of them once."""
    _, firsts = np.unique(np.packbits(zeros, axis=1), axis=0, return_index=True)
    return zeros[firsts[np.argsort(-zeros[firsts].sum(axis=1), kind="stable")[:count]]]


def _fitted(rows: Floats, zeros: NDArray[np.bool_]) -> Floats:
    """For each pattern the direction that maps its rows nearest to 0; shape (patterns, n)."""
    n = rows.shape[1]
    outer = (rows[:, :, None] * rows[:, None]).reshape(len(rows), -1)
    squares = (zeros.astype(np.float64) @ outer).reshape(-1, n, n)
    fitted: Floats = np.linalg.eigh(squares)[1][:, :, 0]
    return fitted


def _independent(directions: Floats) -> Floats:
    """The first directions, in their order, of which none is a combination of those before it."""
    n = directions.shape[1]
    chosen: list[Floats] = []
    rest = directions.copy()
    while len(chosen) < n and len(rest):
        apart = np.linalg.norm(rest, axis=1) > _INDEPENDENT
        if not apart.any():
            break
        first = int(apart.argmax())
        chosen.append(directions[first])
        axis = rest[first] / np.linalg.norm(rest[first])
        rest = rest - np.outer(rest @ axis, axis)
    return np.array(chosen).reshape(-1, n)
