"""A device's own mark, as a term of its loss: weights lean towards directions that it alone knows.

Loss + weight / bits * sum over directions r of max(0, margin - <r, w>), w the array's weights: the
feature-based marks of FedIPR (Li et al. 2022, arXiv:2109.13236), after the regulariser of Uchida et
al. 2017 (arXiv:1701.04082, section 3.2), with a hinge in place of their cross-entropy, so that a
bit that is there pulls no more. Nothing of it depends on examples.

Each device pulls by itself, and the mean of updates moves as far as one device in n: it takes as
many rounds as that for all bits of all devices to be there.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tacit.client.trainer import Arrays, Examples, LocalPlan, Trainer
from tacit.crypto.errors import ParameterError

MARGIN = 0.2  # of a projection: some four deviations of what weights of a fresh layer have
WEIGHT = 5.0  # so that a device of few steps gets its bits in, too


@dataclass(frozen=True, slots=True)
class Signature:
    """`rows` (bits, n) float32, for the first n weights of `array`: see `tacit.crypto.mark.Signs`.

    `weight` is how hard it pulls, beside a cross-entropy of weight 1.
    """

    array: str
    rows: NDArray[np.float32] = field(repr=False)
    weight: float = WEIGHT
    margin: float = MARGIN

    def __post_init__(self) -> None:
        if self.rows.ndim != 2 or self.rows.dtype != np.float32:
            raise ParameterError("the directions of a signature are (bits, weights) in float32")
        if not (self.weight > 0 and self.margin > 0):
            raise ParameterError(
                f"weight={self.weight}, margin={self.margin} of a signature, expected above 0"
            )

    def require_place(self, model: Arrays) -> None:
        """Raises ParameterError unless the model has such an array, of so many float32."""
        if self.array not in model:
            raise ParameterError(f"the model has no array {self.array!r} to sign")
        found = model[self.array]
        if found.dtype != np.float32 or found.size < self.rows.shape[1]:
            raise ParameterError(
                f"array {self.array!r} of {found.size} {found.dtype} cannot be signed: "
                f"{self.rows.shape[1]} float32 are expected"
            )

    def hits(self, model: Arrays) -> int:
        """How many of the bits are there. Raises ParameterError as `require_place`."""
        self.require_place(model)
        weights = model[self.array].ravel()[: self.rows.shape[1]]
        return int((self.rows @ weights > 0).sum())


class SigningTrainer(Trainer, Protocol):
    """A trainer that can sign."""

    def fit_signed(
        self, model: Arrays, examples: Examples, plan: LocalPlan, signature: Signature
    ) -> tuple[Arrays, float]:
        """As `fit`, with the signature's term in the loss that is descended; the loss that is
        returned is without it. Raises ParameterError too where it has no place in the model."""
        ...
