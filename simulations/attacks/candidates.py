"""Which of a list of candidates are behind an update: recognising instead of reconstructing.

The prior-aware attack of Hayes, Mahloujifar and Balle 2023, "Bounding Training Data Reconstruction
in DP-SGD" (NeurIPS, arXiv:2302.07225): whoever has a list of what it may have been works out the
update that each candidate would have made, clipped as the devices clip it, and takes the one that
agrees best with what was seen. Under Gaussian noise that is the most likely one. It needs no
gradient that can be inverted, and what noise leaves of it is what noise leaves of any attack: the
bound of that paper is held against this.

Of a sum the candidates are taken one after the other, each time the one whose update takes most off
what is left of the sum (matching pursuit: Mallat and Zhang 1993, IEEE Trans. Signal Processing
41(12)), and none of them twice. Then each is put back once more, and the best one taken instead.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from tacit.crypto.errors import ParameterError
from tacit.simulations.attacks.base import Conduct, Knows, Target, View, array_of, require

Floats = NDArray[np.float64]

_PASSES = 10  # over what was taken; each takes more off what is left, and most runs need two
_CHUNK = 64  # candidates at a time
_MOST = 2**29  # bytes of candidates' updates


@dataclass(frozen=True, slots=True)
class CandidateMatching:
    """The candidates behind one step of training of a model that `build` makes, one input a device.

    `clip` is the longest an update may be, in L2 norm, as the devices were told; None: as it is.
    """

    build: Callable[[], nn.Module] = field(repr=False)
    clip: float | None = None
    name: str = "candidate matching"
    needs: Knows = Knows.CANDIDATES | Knows.LEARNING_RATE
    conduct: Conduct = Conduct.HONEST
    target: Target = Target.INPUTS

    def __post_init__(self) -> None:
        if self.clip is not None and not self.clip > 0:
            raise ParameterError(f"clip={self.clip}, expected above 0")

    def reconstruct(self, view: View, rng: np.random.Generator) -> Floats:
        """The candidates taken, the surest first; shape (inputs, *shape).

        Draws nothing from `rng`. Raises ParameterError if the view does not grant candidates and
        learning rate, if arrays do not fit the model, or if there are too many candidates for it.
        """
        require(view, self.needs, self.name)
        assert view.candidates is not None
        if self.clip is not None and view.inputs != view.clients:
            raise ParameterError(f"{self.name} knows of a clip for one input a device only")
        updates = self._updates(view)
        x = view.candidates[0]
        pursuit = _Pursuit(updates, updates @ self._sum(view) - (updates**2).sum(axis=1) / 2)
        for _ in range(min(view.inputs, len(x))):
            pursuit.take()
        for _ in range(_PASSES):
            if not pursuit.reconsider():
                break
        return x[pursuit.taken].astype(np.float64)

    def _sum(self, view: View) -> Floats:
        """Of all devices' updates, (length,)."""
        flat = [array_of(view.update, name, "update").ravel() for name in view.model]
        return np.concatenate(flat) * view.inputs

    def _updates(self, view: View) -> Floats:
        """What each candidate would have sent, (candidates, length)."""
        assert view.candidates is not None
        assert view.learning_rate is not None
        x, y = (torch.tensor(part) for part in view.candidates)
        gradient = self._gradient(view)
        if len(x) * sum(array.size for array in view.model.values()) * 8 > _MOST:
            raise ParameterError(f"{len(x)} candidates for this model take more than {_MOST} bytes")
        rows = [
            -view.learning_rate * gradient(x[start : start + _CHUNK], y[start : start + _CHUNK])
            for start in range(0, len(x), _CHUNK)
        ]
        updates: Floats = torch.cat(rows).numpy().astype(np.float64)
        if self.clip is not None:
            lengths = np.linalg.norm(updates, axis=1, keepdims=True)
            updates *= np.minimum(1.0, self.clip / np.maximum(lengths, 1e-300))
        return updates

    def _gradient(self, view: View) -> Callable[[Tensor, Tensor], Tensor]:
        """From inputs and labels to a gradient each, flat, in the order of the model's arrays."""
        model = self.build().eval()
        weights = {}
        for name, like in model.state_dict().items():
            value = array_of(view.model, name, "model")
            if value.shape != tuple(like.shape):
                raise ParameterError(
                    f"{name!r} of the model is {value.shape}, the built model's is "
                    f"{tuple(like.shape)}: is `build` the model that was trained?"
                )
            weights[name] = torch.tensor(value, dtype=torch.float32)

        def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return nn.functional.cross_entropy(functional_call(model, weights, (x[None],)), y[None])

        def flat(x: Tensor, y: Tensor) -> Tensor:
            found = vmap(grad(loss), in_dims=(None, 0, 0))(weights, x, y)
            return torch.cat([found[name].flatten(1) for name in view.model], dim=1)

        return flat


@dataclass(slots=True)
class _Pursuit:
    """`gain` of each candidate: half of what it takes off the square of what is left of the sum."""

    updates: Floats
    gain: Floats
    taken: list[int] = field(default_factory=list)

    def take(self, at: int | None = None) -> int:
        """The candidate of most gain that is not taken yet; to the end, unless told where."""
        free = self.gain.copy()
        free[self.taken] = -np.inf
        best = int(free.argmax())
        self.taken.insert(len(self.taken) if at is None else at, best)
        self.gain -= self.updates @ self.updates[best]
        return best

    def reconsider(self) -> bool:
        """Put each back in turn, and take the best instead; whether any was another."""
        changed = False
        for at, before in enumerate(list(self.taken)):
            del self.taken[at]
            self.gain += self.updates @ self.updates[before]
            changed |= self.take(at) != before
        return changed
