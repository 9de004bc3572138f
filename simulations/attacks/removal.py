"""What a thief who has a model does to it, so that it loses a mark and keeps its worth.

He knows that there is a mark and how marks of its kind are made, has some data of the same kind,
and not the key. What works and what does not depends on the marks: no scheme that Lukas et al. 2022
surveyed withstood all of these ("SoK: How Robust is Image Classification Deep Neural Network
Watermarking?", arXiv:2108.04974, abstract).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tacit.client.fitting import batches
from tacit.client.trainer import Arrays, Examples, LocalPlan
from tacit.server.gate.model import Floats32

BATCH = 32
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


def pruned(model: Arrays, share: float) -> Arrays:
    """The smallest `share` of all weights set to zero, biases and the like left alone."""
    sizes = np.concatenate([np.abs(a).ravel() for a in model.values() if a.ndim > 1])
    least = np.quantile(sizes, share)
    return {
        name: np.where(np.abs(a) < least, 0, a).astype(a.dtype) if a.ndim > 1 else a.copy()
        for name, a in model.items()
    }


def pruned_by_array(model: Arrays, share: float) -> Arrays:
    """As `pruned`, the same share of each array."""
    return {
        name: pruned({name: a}, share)[name] if a.ndim > 1 else a.copy()
        for name, a in model.items()
    }


def quantised(model: Arrays, bits: int) -> Arrays:
    """Weights rounded to `bits` bits, symmetric, one scale for each array."""
    out = {}
    for name, a in model.items():
        step = np.abs(a).max() / (2 ** (bits - 1) - 1) if a.ndim > 1 else 0.0
        out[name] = (np.rint(a / step) * step).astype(a.dtype) if step else a.copy()
    return out


def fine_tuned(module: nn.Module, owned: Examples, epochs: int, rate: float, seed: int) -> None:
    """Train on with Adam, in place, on the thief's own examples."""
    x, y = torch.from_numpy(owned.x), torch.from_numpy(owned.y)
    _descend(module, lambda chosen: cross_entropy(module(x[chosen]), y[chosen]), len(y),
             epochs, rate, seed)  # fmt: skip


def forgets(module: nn.Module, layers: Sequence[str], seed: int) -> None:
    """Draw these layers anew, in place; the module is to be fine-tuned then."""
    named = dict(module.named_modules())
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for layer in layers:
            named[layer].reset_parameters()


def distilled(
    stolen: nn.Module, fresh: nn.Module, inputs: Floats32, epochs: int, rate: float, seed: int
) -> None:
    """Teach `fresh`, in place, the probabilities that the stolen model gives for these inputs."""
    x = torch.from_numpy(inputs)
    with torch.no_grad():
        told = stolen.eval()(x).softmax(1)
    _descend(fresh, lambda chosen: cross_entropy(fresh(x[chosen]), told[chosen]), len(x),
             epochs, rate, seed)  # fmt: skip


def _descend(
    module: nn.Module,
    loss: Callable[[Tensor], Tensor],
    examples: int,
    epochs: int,
    rate: float,
    seed: int,
) -> None:
    """Adam (Kingma and Ba 2015, algorithm 1), written out: torch.optim imports torch's compiler."""
    weights = list(module.train().parameters())
    first = [torch.zeros_like(w) for w in weights]
    second = [torch.zeros_like(w) for w in weights]
    order = batches(examples, LocalPlan(epochs, BATCH, seed=seed))
    for step, chosen in enumerate(order, 1):
        slopes = torch.autograd.grad(loss(torch.from_numpy(chosen)), weights)
        pace = rate * (1 - _BETA2**step) ** 0.5 / (1 - _BETA1**step)
        with torch.no_grad():
            for w, g, m, v in zip(weights, slopes, first, second, strict=True):
                m.lerp_(g, 1 - _BETA1)
                v.mul_(_BETA2).addcmul_(g, g, value=1 - _BETA2)
                w.addcdiv_(m, v.sqrt().add_(_EPSILON), value=-pace)
    module.eval()
