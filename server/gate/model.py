"""What the gate asks of a model: probabilities, and the features they are made from."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError

if TYPE_CHECKING:
    from torch import Tensor, nn

Floats32: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scored:
    """Of n inputs the `probabilities` (n, classes) and the `features` (n, width)."""

    probabilities: Floats32
    features: Floats32


class Model(Protocol):
    """A trained classifier of inputs of one `shape`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def classes(self) -> int: ...

    def scored(self, x: Floats32) -> Scored:
        """For `x` (n, *shape), n >= 1. Safe to call from one thread at a time."""
        ...


class TorchModel:
    """A `torch.nn.Module` in evaluation mode. Its features are what its last dense layer gets.

    Raises ParameterError for a module that has no dense layer, or that cannot take the shape.
    """

    def __init__(self, module: "nn.Module", shape: tuple[int, ...]) -> None:
        import torch
        from torch import nn

        dense = [part for part in module.modules() if isinstance(part, nn.Linear)]
        if not dense:
            raise ParameterError(f"{type(module).__name__} has no dense layer to take features of")
        self._module, self.shape = module.eval(), shape
        self._seen: list[Tensor] = []
        dense[-1].register_forward_pre_hook(self._see)
        try:
            with torch.inference_mode():
                scores = module(torch.zeros((1, *shape)))
        except (RuntimeError, ValueError) as refused:
            raise ParameterError(
                f"the model cannot take inputs of shape {shape}: {refused}"
            ) from None
        if scores.ndim != 2:
            raise ParameterError("the model must return one row of class scores per input")
        self.classes = int(scores.shape[1])

    def scored(self, x: Floats32) -> Scored:
        import torch

        with torch.inference_mode():
            self._seen.clear()
            probabilities = self._module(torch.from_numpy(np.ascontiguousarray(x))).softmax(1)
            features = self._seen[-1].flatten(1)
        return Scored(probabilities.numpy(), features.numpy())

    def _see(self, layer: Any, given: "tuple[Tensor, ...]") -> None:
        self._seen.append(given[0])
