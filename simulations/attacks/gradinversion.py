"""Inputs found by optimisation, with what is known of pictures and of the model's layers besides.

Yin, Mallya, Vahdat, Alvarez, Kautz and Molchanov 2021, "See through Gradients: Image Batch Recovery
via GradInversion" (CVPR, arXiv:2104.07586), section 3: minimise over inputs x

    distance(gradient of x, update) + R_fidelity(x) + R_group(x)

- R_fidelity (section 3.3): total variation, the length of x, and how far the mean and variance of
  what batch normalisation sees are from statistics that the server holds;
- R_group (section 3.4): how far each restart is from the mean of all of them, so that they settle
  on what the update tells and average away what it does not. The paper aligns the restarts first,
  by image registration; here they are taken pixel by pixel.

The statistics may be the running ones of the model that was sent, as in the paper. But a device
that trains under batch normalisation moves them, and by how much is a part of its update:

    running' = (1 - momentum) * running + momentum * batch

tells those of the batch itself, exactly after one step. Huang et al. 2021, "Evaluating Gradient
Inversion Attacks and Defenses in Federated Learning" (NeurIPS), section 3, call this the strongest
assumption that such attacks make; where all of a model's state is averaged, it is simply true.

Each device normalises by its own batch: in a sum, every one is simulated with an equal share of the
inputs. The update is taken for one full-batch step.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from tacit.client.trainer import LocalPlan
from tacit.crypto.errors import ParameterError
from tacit.simulations.attacks.base import (
    Conduct,
    Knows,
    Target,
    View,
    array_of,
    granted_labels,
    require,
    require_even,
    require_shape,
)
from tacit.simulations.attacks.descent import Descent, OnStep, Slope, slope_of
from tacit.simulations.attacks.surrogate import (
    Build,
    Distance,
    Prior,
    Surrogate,
    Weights,
    cosine,
    matching,
    total_variation,
)
from tacit.simulations.attacks.traced import device_of
from tacit.simulations.attacks.unrolled import simulated

Layers: TypeAlias = dict[str, _BatchNorm]
Moments: TypeAlias = tuple[Tensor, Tensor]  # mean and variance, shape (channels,) each

_ONE_STEP = LocalPlan(epochs=1, batch_size=0, learning_rate=1.0)
_LEAST = 1e-12


class Statistics(Enum):
    """Which statistics of batch normalisation the inputs are held to."""

    SENT = "sent"  # the running ones of the model, as it was sent
    BATCH = "batch"  # those of the batch, from what the update did to the running ones


@dataclass(frozen=True, slots=True)
class GradInversion:
    """The attack on a model that `build` makes, with inputs of `shape` = (channels, rows, columns).

    `tv`, `l2`, `bn` and `group` weigh the total variation, the length, the statistics and the
    distance from the other restarts; a weight of 0 leaves a term out. The rest is as in
    `InvertingGradients`.
    """

    build: Build = field(repr=False)
    shape: tuple[int, ...]
    steps: int = 200
    restarts: int = 4
    tv: float = 0.005
    l2: float = 1e-4
    bn: float = 0.1
    group: float = 0.01
    statistics: Statistics = Statistics.BATCH
    lr: float = 0.1
    low: float = 0.0
    high: float = 1.0
    distance: Callable[[Weights], Distance] = field(default=cosine, repr=False)
    dtype: torch.dtype = torch.float32
    device: str | None = None
    compiled: bool | None = None
    on_step: OnStep | None = field(default=None, repr=False, compare=False)
    name: str = "GradInversion"
    needs: Knows = Knows.LABELS
    conduct: Conduct = Conduct.HONEST
    target: Target = Target.INPUTS

    def __post_init__(self) -> None:
        require_shape(self.shape)
        if self.restarts < 1:
            raise ParameterError(f"restarts={self.restarts}, expected at least 1")
        if min(self.tv, self.l2, self.bn, self.group) < 0:
            raise ParameterError("the weights tv, l2, bn and group must not be negative")
        self._descent()

    def reconstruct(self, view: View, rng: np.random.Generator) -> NDArray[np.float64]:
        """Shape (inputs, *shape), the best of all restarts by the attack's own objective.

        Raises ParameterError if labels are missing, if inputs cannot be shared out evenly, if the
        arrays do not fit the model, or if the update is zero.
        """
        require(view, self.needs, self.name)
        labels, device = self._labels(view), device_of(self.device)
        surrogate = Surrogate.of(self.build, view, labels, dtype=self.dtype, device=device)
        layers = by_batch(surrogate.model)
        devices = view.clients if layers else 1  # without them a sum is one large batch
        objective = matching(
            simulated(surrogate, _ONE_STEP, devices),
            self.distance(surrogate.target),
            self._priors(view, surrogate, layers, devices),
        )
        span = self.high - self.low
        drawn = self.low + span * rng.random((self.restarts, view.inputs, *self.shape))
        starts = torch.tensor(drawn, dtype=self.dtype, device=device)
        slope = drawn_together(slope_of(objective), self.group)
        found, value = self._descent().follow(slope, starts)
        guess: NDArray[np.float64] = found[int(value.argmin())].cpu().numpy().astype(np.float64)
        return guess

    def _descent(self) -> Descent:
        return Descent(self.steps, self.lr, self.low, self.high, self.on_step, self.compiled)

    def _labels(self, view: View) -> tuple[int, ...]:
        require_even(view)
        return granted_labels(view, self.name)

    def _priors(
        self, view: View, surrogate: Surrogate, layers: Layers, devices: int
    ) -> list[tuple[float, Prior]]:
        priors: list[tuple[float, Prior]] = [
            (self.tv, total_variation),
            (self.l2, _root_mean_square),
        ]
        known = {
            name: moments_held(view, name, layer, self.statistics, surrogate)
            for name, layer in layers.items()
            if self.bn and layer.running_mean is not None
        }
        if known:
            priors.append((self.bn, _unlike(known, surrogate, layers, devices)))
        return [(weight, prior) for weight, prior in priors if weight]


def by_batch(model: nn.Module) -> Layers:
    """The layers of batch normalisation, told to normalise by the batch, as in training.

    They no longer keep running statistics: simulating a step must not change the model.
    """
    layers = {n: layer for n, layer in model.named_modules() if isinstance(layer, _BatchNorm)}
    for layer in layers.values():
        layer.train()
        layer.track_running_stats = False
    return layers


def moments_held(
    view: View, name: str, layer: _BatchNorm, statistics: Statistics, like: Surrogate
) -> Moments:
    """What the server holds of one layer, as `statistics` says; tensors as those of `like`.

    Raises ParameterError if the model, or the update, lacks them.
    """
    sample = next(iter(like.moving.values()))
    found = []
    for kind in ("running_mean", "running_var"):
        value = array_of(view.model, f"{name}.{kind}", "model")
        if statistics is Statistics.BATCH:
            moved = array_of(view.update, f"{name}.{kind}", "update")
            value = value + moved / _share(view, name, layer)
        found.append(torch.tensor(value, dtype=sample.dtype, device=sample.device))
    mean, variance = found
    return mean, variance.clamp_min(layer.eps)  # noise on an update may leave it below 0


def _share(view: View, name: str, layer: _BatchNorm) -> float:
    """Of the batch in the running statistics after it. Without a momentum they are plain means."""
    if layer.momentum is not None:
        return layer.momentum
    return 1 / (1 + float(array_of(view.model, f"{name}.num_batches_tracked", "model")))


def _unlike(known: dict[str, Moments], surrogate: Surrogate, layers: Layers, devices: int) -> Prior:
    """How far the moments of what these layers see are from `known`, on average over the layers.

    The paper's R_BN, with each distance in units of what it is a distance from.
    """

    def prior(x: Tensor) -> Tensor:
        shares = x.reshape(devices, -1, *x.shape[1:])
        found = vmap(lambda share: moments(surrogate, layers, share))(shares)
        apart = []
        for name, (mean, variance) in known.items():
            means, variances = found[name]
            apart += [
                _norm(means.mean(0) - mean) / _norm(variance.sqrt()),
                _norm(variances.mean(0) - variance) / _norm(variance),
            ]
        return torch.stack(apart).sum() / len(known)

    return prior


def moments(surrogate: Surrogate, layers: Layers, x: Tensor) -> dict[str, Moments]:
    """Of each channel of what each layer is given, when the model is given one batch."""
    found: dict[str, Moments] = {}

    def keep(name: str, layer: nn.Module, given: tuple[Tensor]) -> None:
        channels = given[0].transpose(0, 1).flatten(1)
        found[name] = channels.mean(1), channels.var(1)  # unbiased, as the running one is

    handles = [
        layer.register_forward_pre_hook(partial(keep, name)) for name, layer in layers.items()
    ]
    try:
        functional_call(surrogate.model, {**surrogate.moving, **surrogate.fixed}, (x,))
    finally:
        for handle in handles:
            handle.remove()
    return found


def drawn_together(slope: Slope, weight: float) -> Slope:
    """`slope` with the paper's R_group added: `weight` times the distance from the mean restart."""

    def pulled(x: Tensor) -> tuple[Tensor, Tensor]:
        direction, value = slope(x)
        away = (x - x.mean(0)).flatten(1)
        # Root mean square, so that the weight does not depend on the number of coordinates.
        far = away.square().mean(1).sqrt()
        pull = away / (far * away.shape[1]).clamp_min(_LEAST)[:, None]
        return direction + weight * pull.view(x.shape), value + weight * far

    return pulled if weight else slope


def _root_mean_square(x: Tensor) -> Tensor:
    return (x.square().mean() + _LEAST).sqrt()


def _norm(x: Tensor) -> Tensor:
    return (x.square().sum() + _LEAST).sqrt()  # has a slope at 0, too
