"""A `Trainer` around any `torch.nn.Module` that turns inputs into class scores (logits)."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tacit.client.clipped import ClippedSums
from tacit.client.fitting import (
    EVALUATION_BATCH,
    batches,
    require_converged,
    require_examples,
    require_labels,
    require_model,
)
from tacit.client.signature import Signature
from tacit.client.trainer import Arrays, Examples, LocalPlan
from tacit.crypto.errors import ParameterError
from tacit.privacy.example_sums import Reals

# Torch has one random state per process, and dropout draws from it. Trainers in several threads
# take turns, or a fit would depend on what the others happened to draw.
_TURN = threading.RLock()


class TorchTrainer:
    """Trains what `build` returns; arrays are named and shaped as in its state dict.

    `build` is called once per seed for `initial` and once more for the module that every `fit`
    and `evaluate` of this trainer loads its arrays into. Floating-point arrays are float32,
    buffers included; integer buffers keep their dtype. On the CPU equal arguments give equal
    bits (for one number of threads). `device` names a torch device; "cpu" unless asked otherwise.

    Raises ParameterError for a device torch does not have here.
    """

    def __init__(self, build: Callable[[], nn.Module], device: str = "cpu") -> None:
        self._build = build
        self._device = _device(device)
        self._loaded: nn.Module | None = None
        self._sums: ClippedSums | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # The module is only a place to load arrays into: a worker process builds its own.
        return TorchTrainer, (self._build, str(self._device))

    def initial(self, seed: int) -> Arrays:
        """The module's own initialisation under `seed`; torch's global state stays as it was."""
        with self._seeded(seed):
            return _arrays(self._new())

    def fit(self, model: Arrays, examples: Examples, plan: LocalPlan) -> tuple[Arrays, float]:
        """Minibatch SGD; the loss is the cross-entropy met on the way, without any penalty.

        Raises ParameterError if there are no examples, if model, inputs or labels do not fit the
        module, if the model is not finite, or if training diverges.
        """
        return self._fit(model, examples, plan, None)

    def fit_signed(
        self, model: Arrays, examples: Examples, plan: LocalPlan, signature: Signature
    ) -> tuple[Arrays, float]:
        """See `tacit.client.signature`."""
        signature.require_place(model)
        return self._fit(model, examples, plan, signature)

    def _fit(
        self, model: Arrays, examples: Examples, plan: LocalPlan, signature: Signature | None
    ) -> tuple[Arrays, float]:
        require_examples(examples)
        with self._seeded(plan.seed):
            module = self._load(model)
            module.train()
            pull = None if signature is None else _Pull(module, signature)
            loss = self._descend(module, examples, plan, pull)
            trained = _arrays(module)
        require_converged(trained, plan)
        return trained, loss

    def evaluate(self, model: Arrays, examples: Examples) -> tuple[float, float]:
        """Mean cross-entropy (nats) and accuracy (0..1) in evaluation mode; raises as `fit`."""
        require_examples(examples)
        loss, right = 0.0, 0
        with self._seeded(0), torch.no_grad():
            module = self._load(model)
            module.eval()
            for start in range(0, len(examples), EVALUATION_BATCH):
                chosen = slice(start, start + EVALUATION_BATCH)
                y = self._tensor(examples.y[chosen], np.int64)
                scores = _scores(module, self._tensor(examples.x[chosen], np.float32))
                require_labels(examples, scores.shape[1])
                loss += float(cross_entropy(scores, y, reduction="sum"))
                right += int((scores.argmax(1) == y).sum())
        return loss / len(examples), right / len(examples)

    @contextmanager
    def descent(self, model: Arrays, examples: Examples, seed: int) -> "Iterator[TorchDescent]":
        """See `tacit.client.private_trainer`. Refuses batch normalisation, and two names for one
        array."""
        with self._seeded(seed):
            module = self._load(model)
            module.train()
            if self._sums is None:
                _refuse_ties(module)
                self._sums = ClippedSums(module, _scores)
            x, y = self._tensor(examples.x, np.float32), self._tensor(examples.y, np.int64)
            is_good = examples.y >= 0  # the others add nothing, and stop nothing
            if len(examples):
                with torch.no_grad():
                    is_good &= examples.y < _scores(module, x[:1]).shape[1]
            yield TorchDescent(module, self._sums, x, y, is_good)

    def _descend(
        self, module: nn.Module, examples: Examples, plan: LocalPlan, pull: "_Pull | None"
    ) -> float:
        """Train `module` in place; the mean loss over all examples seen."""
        descent = _Descent(module, plan)
        total, seen = 0.0, 0
        x, y = self._tensor(examples.x, np.float32), self._tensor(examples.y, np.int64)
        for chosen in batches(len(examples), plan):
            index = torch.from_numpy(chosen).to(self._device)
            scores = _scores(module, x[index])
            require_labels(examples, scores.shape[1])
            loss = cross_entropy(scores, y[index])
            loss.backward()  # type: ignore[no-untyped-call]
            if pull is not None:
                pull.add()
            descent.step()
            total += float(loss.detach()) * len(chosen)
            seen += len(chosen)
        return total / seen

    def _new(self) -> nn.Module:
        module = self._build()
        if not isinstance(module, nn.Module):
            raise ParameterError(
                f"the model factory returned {type(module).__name__}, expected a torch.nn.Module"
            )
        return module.float().to(self._device)

    def _load(self, model: Arrays) -> nn.Module:
        """This trainer's one module, holding a copy of `model`."""
        if self._loaded is None:
            with self._seeded(0):  # or the first fit alone would find numbers already drawn
                self._loaded = self._new()
        state: dict[str, Tensor] = self._loaded.state_dict()
        require_model(model, {name: tuple(tensor.shape) for name, tensor in state.items()})
        for name, tensor in state.items():
            tensor.copy_(torch.from_numpy(_writable(model[name])))
        return self._loaded

    def _tensor(self, array: NDArray[Any], dtype: type[np.generic]) -> Tensor:
        return torch.from_numpy(_writable(array.astype(dtype, copy=False))).to(self._device)

    @contextmanager
    def _seeded(self, seed: int) -> Iterator[None]:
        """Torch's random state under `seed` for a while, and put back."""
        cuda = self._device.type == "cuda"
        with _TURN, torch.random.fork_rng(devices=[self._device] if cuda else []):
            # Not torch.manual_seed: that would reach devices whose state is not put back.
            torch.default_generator.manual_seed(seed)
            if cuda:
                with torch.cuda.device(self._device):
                    torch.cuda.manual_seed(seed)
            yield


class TorchDescent:
    """A `tacit.client.private_trainer.Descent` of the module of a `TorchTrainer`."""

    def __init__(
        self,
        module: nn.Module,
        sums: ClippedSums,
        x: Tensor,
        y: Tensor,
        is_good: NDArray[np.bool_],
    ) -> None:
        self._module, self._sums, self._x, self._y = module, sums, x, y
        self._is_good = is_good

    @property
    def length(self) -> int:
        return self._sums.length

    def sums(self, chosen: NDArray[np.intp], clip: float) -> Iterator[tuple[Reals, float]]:
        index = torch.from_numpy(chosen[self._is_good[chosen]]).to(self._x.device)
        x, y = self._x.index_select(0, index), self._y.index_select(0, index)
        for vector, loss in self._sums.add_up(x, y, clip):
            yield vector.cpu().numpy(), loss

    def weights(self) -> Reals:
        weights = [w.detach().reshape(-1) for w in self._sums.parameters]
        vector: Reals = torch.cat(weights).cpu().numpy()
        return vector

    @torch.no_grad()
    def move(self, step: Reals, rate: float) -> None:
        taken = torch.from_numpy(step).to(self._x.device)
        parts = torch.split(taken, [w.numel() for w in self._sums.parameters])
        for w, part in zip(self._sums.parameters, parts, strict=True):
            w.sub_(part.view(w.shape), alpha=rate)

    def arrays(self) -> Arrays:
        return _arrays(self._module)

    def named(self, vector: NDArray[np.float64]) -> Arrays:
        out = {name: np.zeros(tuple(t.shape)) for name, t in self._module.state_dict().items()}
        names = {id(w): name for name, w in self._module.named_parameters()}
        ends = np.cumsum([w.numel() for w in self._sums.parameters])
        for w, part in zip(self._sums.parameters, np.split(vector, ends[:-1]), strict=True):
            out[names[id(w)]] = part.reshape(tuple(w.shape))
        return out


class _Descent:
    """Stochastic gradient descent as `torch.optim.SGD` does it, with FedProx's pull.

    g = gradient + mu (w - w_received) + decay w;  v = momentum v + g (v = g first);  w -= rate v.
    Written out because building a torch.optim optimiser imports torch's compiler: 1.9 s measured.
    """

    def __init__(self, module: nn.Module, plan: LocalPlan) -> None:
        self._plan = plan
        self._weights = [w for w in module.parameters() if w.requires_grad]
        self._received = [w.detach().clone() for w in self._weights] if plan.proximal_mu else []
        self._velocity: dict[int, Tensor] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Move every weight that has a gradient, and drop the gradients."""
        plan = self._plan
        for i, w in enumerate(self._weights):
            g, w.grad = w.grad, None
            if g is None:
                continue
            if plan.proximal_mu:
                g.add_(w - self._received[i], alpha=plan.proximal_mu)
            if plan.weight_decay:
                g.add_(w, alpha=plan.weight_decay)
            if plan.momentum:
                held = self._velocity.get(i)
                g = g if held is None else held.mul_(plan.momentum).add_(g)
                self._velocity[i] = g
            w.sub_(g, alpha=plan.learning_rate)


class _Pull:
    """The gradient of a signature's term, added to what is in the array that is signed."""

    def __init__(self, module: nn.Module, signature: Signature) -> None:
        """Raises ParameterError for an array that is not trained."""
        signed = dict(module.named_parameters()).get(signature.array)
        if signed is None or not signed.requires_grad:
            raise ParameterError(f"array {signature.array!r} of the model is not trained")
        self._signed, self._margin = signed, signature.margin
        self._rows = torch.from_numpy(_writable(signature.rows)).to(signed.device)
        self._factor = signature.weight / len(signature.rows)

    @torch.no_grad()
    def add(self) -> None:
        w, bits = self._signed, self._rows
        if w.grad is None:
            w.grad = torch.zeros_like(w)
        length = bits.shape[1]
        wanting = (bits @ w.reshape(-1)[:length] < self._margin).to(bits.dtype)
        w.grad.view(-1)[:length].sub_(wanting @ bits, alpha=self._factor)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as unknown:
        raise ParameterError(f"device={name!r} is not a torch device: try 'cpu'") from unknown
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ParameterError(f"device={name!r}, but torch sees no CUDA device: use 'cpu'")
    return device


def _scores(module: nn.Module, x: Tensor) -> Tensor:
    """The module's scores (n, classes). Raises ParameterError if it cannot take such inputs."""
    try:
        scores = module(x)
    except (RuntimeError, ValueError) as refused:
        raise ParameterError(
            f"the model cannot take a batch of shape {tuple(x.shape)}: {refused}"
        ) from refused
    if not isinstance(scores, Tensor) or scores.shape[:-1] != x.shape[:1]:
        raise ParameterError("the model must return one row of class scores per example")
    return scores


def _refuse_ties(module: nn.Module) -> None:
    for name, w in module.named_parameters(remove_duplicate=False):
        own = dict(module.named_parameters())
        if name not in own:
            first = next(other for other, array in own.items() if array is w)
            raise ParameterError(f"{name} and {first} are one array: a private step moves it twice")


def _arrays(module: nn.Module) -> Arrays:
    state: dict[str, Tensor] = module.state_dict()
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in state.items()}


def _writable(array: NDArray[Any]) -> NDArray[Any]:
    # What arrives in a message is read-only, and torch has no read-only tensors.
    return np.require(array, requirements=["C", "W"])
