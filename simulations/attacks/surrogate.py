"""The victim's model in the adversary's hands: what update would these inputs have made?

Gradient matching looks for inputs whose simulated update is near the one that the server saw. What
differs between attacks of this kind is put together here from three parts:

    simulate   x -> the update that the inputs would have made: `Surrogate.one_step`, or others
    distance   update -> how far it is from the one that was seen: `cosine`, `squared`
    priors     x -> how unlikely the inputs are by themselves, each with a weight

`matching` makes an objective of them. All of it is a function of tensors alone, without state or
side effects, and holds no more than the `View` does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad

from tacit.crypto.errors import ParameterError
from tacit.simulations.attacks.base import View, array_of

Build: TypeAlias = Callable[[], nn.Module]
Weights: TypeAlias = dict[str, Tensor]
Simulate: TypeAlias = Callable[[Tensor], Weights]  # inputs, shape (inputs, *shape)
Distance: TypeAlias = Callable[[Weights], Tensor]  # of an update, a scalar
Prior: TypeAlias = Callable[[Tensor], Tensor]  # of inputs, a scalar
Objective: TypeAlias = Callable[[Tensor], Tensor]  # of inputs, a scalar, lower is better

_LEAST = 1e-12  # a gradient shorter than this has no direction


@dataclass(frozen=True, slots=True)
class Surrogate:
    """The model as it was sent, and the update that came back.

    `moving` are the trainable weights by name, in the model's order, `fixed` the rest of its state,
    `target` is trained - sent of the trainable ones; `labels` belong to the inputs, shape (inputs,)
    whole numbers, or (inputs, classes) probabilities.
    """

    model: nn.Module = field(repr=False)
    moving: Weights = field(repr=False)
    fixed: Weights = field(repr=False)
    target: Weights = field(repr=False)
    labels: Tensor = field(repr=False)

    @classmethod
    def of(
        cls,
        build: Build,
        view: View,
        labels: Sequence[int] | NDArray[np.int64],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> "Surrogate":
        """What `view` tells of the model that `build` makes.

        Raises ParameterError if an array is missing, not finite or of another shape, or if the
        update is zero.
        """
        # Evaluation mode: dropout is noise to the adversary, and batch statistics cannot be
        # updated in a function. A model with either is attacked approximately.
        model = build().eval()
        like = model.state_dict()
        names = [name for name, weight in model.named_parameters() if weight.requires_grad]
        sent = _tensors(like, view.model, "model", list(like), dtype, device)
        target = _tensors(like, view.update, "update", names, dtype, device)
        if not any(bool(part.any()) for part in target.values()):
            raise ParameterError("the update is zero: there is nothing to invert")
        return cls(
            model=model.to(device),
            moving={name: sent[name] for name in names},
            fixed={name: value for name, value in sent.items() if name not in names},
            target=target,
            labels=torch.tensor(np.asarray(labels), device=device),
        )

    def loss(self, weights: Weights, x: Tensor) -> Tensor:
        """Mean cross-entropy of the inputs, shape (inputs, *shape), under these weights."""
        scores = functional_call(self.model, {**weights, **self.fixed}, (x,))
        return nn.functional.cross_entropy(scores, self.labels)

    def gradient(self, x: Tensor, weights: Weights | None = None) -> Weights:
        """Of the loss, at the weights as they were sent unless told otherwise."""
        found: Weights = grad(self.loss)(self.moving if weights is None else weights, x)
        return found

    def one_step(self, x: Tensor) -> Weights:
        """The update of one full-batch step of SGD, over its learning rate."""
        return {name: -part for name, part in self.gradient(x).items()}


def cosine(target: Weights) -> Distance:
    """1 - cos(update, target): sees no factor, so that no learning rate is needed."""
    unit = {name: part / length(target) for name, part in target.items()}

    def distance(update: Weights) -> Tensor:
        aligned = torch.stack([(update[name] * unit[name]).sum() for name in unit]).sum()
        return 1 - aligned / length(update).clamp_min(_LEAST)

    return distance


def squared(target: Weights) -> Distance:
    """|update - target|^2 / |target|^2: 1 for an update of nothing."""
    scale = length(target).square()

    def distance(update: Weights) -> Tensor:
        parts = [(update[name] - target[name]).square().sum() for name in target]
        return torch.stack(parts).sum() / scale

    return distance


def length(weights: Weights) -> Tensor:
    """Of all of them as one vector."""
    return torch.stack([part.square().sum() for part in weights.values()]).sum().sqrt()


def total_variation(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbours along each of the last two axes; 0 for vectors."""
    if x.ndim < 3:
        return x.new_zeros(())
    axes = [axis for axis in (-2, -1) if x.shape[axis] > 1]
    return torch.stack([x.diff(dim=axis).abs().mean() for axis in axes] or [x.new_zeros(())]).sum()


def matching(
    simulate: Simulate, distance: Distance, priors: Sequence[tuple[float, Prior]] = ()
) -> Objective:
    """distance(simulate(x)) + the weighted priors, for x of shape (inputs, *shape)."""

    def objective(x: Tensor) -> Tensor:
        value = distance(simulate(x))
        for weight, prior in priors:
            value = value + weight * prior(x)
        return value

    return objective


def _tensors(
    like: Mapping[str, Tensor],
    arrays: Mapping[str, NDArray[np.generic]],
    what: str,
    names: Sequence[str],
    dtype: torch.dtype,
    device: torch.device | str,
) -> Weights:
    found: Weights = {}
    for name in names:
        value = array_of(arrays, name, what)
        if value.shape != tuple(like[name].shape):
            raise ParameterError(
                f"{name!r} of the {what} is {value.shape}, the built model's is "
                f"{tuple(like[name].shape)}: is `build` the model that was trained?"
            )
        kind = dtype if like[name].is_floating_point() else like[name].dtype
        found[name] = torch.tensor(value, dtype=kind, device=device)
    return found
