"""What a device does between receiving a model and sending an update.

A `Trainer` knows one model family and nothing about federations, protocols or Flower. Two stand
beside this file: `torch_trainer` for any `torch.nn.Module`, `numpy_trainer` for a device without
torch. They name parameters alike, so both kinds of device can train one model together.
"""

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError

Arrays: TypeAlias = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Examples:
    """Labelled data: `x` (n, ...) float32 in data units, `y` (n,) int64 class indices."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ParameterError(f"{len(self.x)} inputs and {len(self.y)} labels")

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, slots=True)
class LocalPlan:
    """How a device trains in one round: minibatch SGD, `epochs` passes over its own data.

    `batch_size` 0 takes all of it at once. `proximal_mu` > 0 adds FedProx's
    mu/2 * |w - w_received|^2 (Li et al. 2020, section 3.2). `seed` orders the batches.
    """

    epochs: int = 1
    batch_size: int = 32
    learning_rate: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    proximal_mu: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ParameterError(f"epochs={self.epochs}, expected at least 1")
        if self.batch_size < 0:
            raise ParameterError(f"batch_size={self.batch_size}, expected 0 (all) or more")
        if not self.learning_rate > 0:
            raise ParameterError(f"learning_rate={self.learning_rate}, expected above 0")
        if not 0 <= self.momentum < 1:
            raise ParameterError(f"momentum={self.momentum}, expected 0 <= momentum < 1")
        if self.weight_decay < 0 or self.proximal_mu < 0:
            raise ParameterError("weight_decay and proximal_mu must not be negative")


class Trainer(Protocol):
    """One model family. Every array dict has the same names, shapes and dtypes, in one order."""

    def initial(self, seed: int) -> Arrays:
        """Freshly initialised parameters; the same seed gives the same bits."""
        ...

    def fit(self, model: Arrays, examples: Examples, plan: LocalPlan) -> tuple[Arrays, float]:
        """Train from `model`; return the new parameters and the mean training loss.

        Deterministic in its arguments. `model` is left as it was.
        Raises ParameterError if there are no examples.
        """
        ...

    def evaluate(self, model: Arrays, examples: Examples) -> tuple[float, float]:
        """Mean cross-entropy loss (nats) and accuracy (0..1) on `examples`."""
        ...
