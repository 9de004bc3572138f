"""Inputs of a linear first layer told apart by how little they have in common.

Kariyappa, Guo, Maeng, Xiong, Suh, Qureshi and Lee 2023, "Cocktail Party Attack: Breaking
Aggregation-Based Privacy in Federated Learning using Independent Component Analysis" (ICML,
arXiv:2209.05578), on networks whose first layer is fully connected. The rows of dL/dW are mixtures
of the inputs, whatever comes after the layer; independent component analysis finds the unmixing
under which they are least like mixtures.

Two things differ from the paper. It asks for a small total variation beside independence; here the
analysis is fed with differences of neighbouring pixels, which are mixed just as the pixels are and
are sparse and far more independent (filtering before the analysis: Hyvärinen and Oja 2000,
"Independent component analysis: algorithms and applications", section 5.3). And scale, sign and
mean, which the analysis leaves open, are read off dL/db, where a 1 of each input is mixed likewise.

It needs no ReLU and gets further than `tacit.simulations.attacks.spear`, but approximately: what
two pictures have in common by chance stays mixed. More pixels per input make that less.
"""

import warnings
from dataclasses import dataclass
from math import prod, sqrt

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
)

Floats = NDArray[np.float64]

_EXACT = 1e-10  # of the largest singular value: below is rounding
_LIMIT = 2**31  # of seeds that scikit-learn takes


@dataclass(frozen=True, slots=True)
class CocktailParty:
    """Reads images of `shape` = (..., rows, columns) off `layer`, the first one.

    `low` and `high` bound the data; `steps` is the most that FastICA takes.
    """

    layer: str
    shape: tuple[int, ...]
    low: float = 0.0
    high: float = 1.0
    steps: int = 500
    name: str = "cocktail party"
    needs: Knows = Knows.NOTHING
    conduct: Conduct = Conduct.HONEST
    target: Target = Target.INPUTS

    def __post_init__(self) -> None:
        if len(self.shape) < 2 or min(self.shape) < 1 or min(self.shape[-2:]) < 2:
            raise ParameterError(f"shape={self.shape}, expected an image's, at least 2 by 2")
        require_range(self.low, self.high)
        if self.steps < 1:
            raise ParameterError(f"steps={self.steps}, expected at least 1")

    def reconstruct(self, view: View, rng: np.random.Generator) -> Floats:
        """Shape (inputs, *shape); fewer where the gradient's rank says so, and none where
        all of it could be noise.

        Raises ParameterError if the layer is missing, does not see inputs of this shape, or did not
        move.
        """
        require(view, self.needs, self.name)
        weight = array_of(view.update, f"{self.layer}.weight", "update")
        bias = array_of(view.update, f"{self.layer}.bias", "update")
        if weight.shape != (len(bias), prod(self.shape)):
            raise ParameterError(
                f"{self.layer}.weight is {weight.shape}: it does not see inputs of {self.shape}"
            )
        gradient = np.column_stack([weight, bias])
        if not gradient.any():
            raise ParameterError(f"{self.layer} did not move: there is nothing to read")
        mixed = _compressed(gradient, view.inputs)
        if len(mixed) == 0:
            return np.empty((0, *self.shape))
        found = self._unmixing(mixed[:, :-1], rng) @ mixed
        with np.errstate(divide="ignore", invalid="ignore"):
            guesses = np.nan_to_num(found[:, :-1] / found[:, -1:])
        return guesses.clip(self.low, self.high).reshape(-1, *self.shape)

    def _unmixing(self, mixed: Floats, rng: np.random.Generator) -> Floats:
        """Shape (inputs, inputs): rows that make the differences of pixels independent."""
        from sklearn.decomposition import FastICA
        from sklearn.exceptions import ConvergenceWarning

        if len(mixed) == 1:
            return np.eye(1)
        images = mixed.reshape(-1, *self.shape)
        across, down = (np.diff(images, axis=axis).reshape(len(mixed), -1) for axis in (-1, -2))
        analysis = FastICA(
            whiten="unit-variance",
            max_iter=self.steps,
            tol=1e-5,
            random_state=int(rng.integers(_LIMIT)),
        )
        with warnings.catch_warnings():
            # Out of its regime it does not converge, and the score says so.
            warnings.simplefilter("ignore", ConvergenceWarning)
            analysis.fit(np.column_stack([across, down]).T)
        return np.asarray(analysis.components_, dtype=np.float64)


def _compressed(gradient: Floats, inputs: int) -> Floats:
    """The gradient in as many rows as inputs show in it, orthogonal to each other."""
    _, values, right = np.linalg.svd(gradient, full_matrices=False)
    rows, columns = gradient.shape
    rest = max(1, rows - inputs) * max(1, columns - inputs)
    # A matrix of noise alone has no singular value above this (Marchenko and Pastur 1967).
    noise = sqrt(float((values[inputs:] ** 2).sum()) / rest) * (sqrt(rows) + sqrt(columns))
    shown = min(inputs, int((values > max(noise, _EXACT * values[0])).sum()))
    kept: Floats = values[:shown, None] * right[:shown]
    return kept
