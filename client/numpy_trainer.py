"""A `Trainer` in numpy alone: softmax regression and ReLU networks, for a device without torch.

Names, shapes and layout are those of the torch models `softmax` and `mlp`, and so are the order
of the batches and the arithmetic: from one model both kinds of device reach the same update, up
to rounding. `initial` draws from the same distribution as torch, yet not the same numbers.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tacit.client.fitting import (
    EVALUATION_BATCH,
    batches,
    require_converged,
    require_examples,
    require_labels,
    require_model,
)
from tacit.client.trainer import Arrays, Examples, LocalPlan
from tacit.crypto.errors import ParameterError
from tacit.privacy.example_sums import LARGEST, ROWS, SMALLEST, Reals

Floats: TypeAlias = NDArray[np.floating[Any]]

_RANGE = 2.0**128  # of the square of a row's norm: see `tacit.client.example_gradients`


@dataclass(frozen=True, slots=True)
class NumpyTrainer:
    """A fully connected network: `features` -> `hidden`... -> `classes`, ReLU in between.

    No hidden layer makes it softmax regression with the arrays fc.weight and fc.bias; otherwise
    they are fc0, fc1, ... and head. A weight is (out, in). Inputs of any shape are flattened.
    Models are float32; `precision` is the dtype of the arithmetic in between.

    Raises ParameterError for a size below 1.
    """

    features: int
    classes: int
    hidden: tuple[int, ...] = ()
    precision: type[np.float32] | type[np.float64] = np.float32

    def __post_init__(self) -> None:
        if min(self.features, self.classes, *self.hidden, 1) < 1:
            raise ParameterError("features, classes and hidden layers must each be at least 1")

    def initial(self, seed: int) -> Arrays:
        """Weights and biases uniform in ±1/sqrt(inputs of the layer), as torch's Linear."""
        rng = np.random.default_rng(seed)
        model: Arrays = {}
        for name, shape in self._shapes().items():
            fan_in = shape[1] if len(shape) == 2 else model[_weight_of(name)].shape[1]
            bound = 1 / np.sqrt(fan_in)
            model[name] = rng.uniform(-bound, bound, shape).astype(np.float32)
        return model

    def fit(self, model: Arrays, examples: Examples, plan: LocalPlan) -> tuple[Arrays, float]:
        """Minibatch SGD; the loss is the cross-entropy met on the way, without any penalty.

        Raises ParameterError if there are no examples, if model, inputs or labels do not fit, if
        the model is not finite, or if training diverges.
        """
        x = self._inputs(model, examples)
        weights: list[Floats] = [np.array(model[name], self.precision) for name in self._shapes()]
        with np.errstate(over="ignore", invalid="ignore"):  # said better by require_converged
            loss = _descend(weights, x, examples.y, plan)
            trained: Arrays = {
                name: array.astype(np.float32)
                for name, array in zip(self._shapes(), weights, strict=True)
            }
        require_converged(trained, plan)
        return trained, loss

    def evaluate(self, model: Arrays, examples: Examples) -> tuple[float, float]:
        """Mean cross-entropy (nats) and accuracy (0..1); raises as `fit`."""
        x = self._inputs(model, examples)
        weights: list[Floats] = [np.asarray(model[name], self.precision) for name in self._shapes()]
        loss, right = 0.0, 0
        for start in range(0, len(examples), EVALUATION_BATCH):
            chosen = slice(start, start + EVALUATION_BATCH)
            scores = _activations(weights, x[chosen])[-1]
            losses, _ = _cross_entropy(scores, examples.y[chosen])
            loss += float(losses.sum())
            right += int((scores.argmax(1) == examples.y[chosen]).sum())
        return loss / len(examples), right / len(examples)

    @contextmanager
    def descent(self, model: Arrays, examples: Examples, seed: int) -> "Iterator[NumpyDescent]":
        """See `tacit.client.private_trainer`. Nothing is drawn here, so `seed` does not count."""
        require_model(model, self._shapes())
        y = examples.y
        x = self._rows(examples) if len(examples) else np.zeros((0, self.features))
        is_good = (y >= 0) & (y < self.classes)  # the others add nothing, and stop nothing
        names = tuple(self._shapes())
        yield NumpyDescent(names, model, x.astype(self.precision), y, is_good)

    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        layers = [f"fc{i}" for i in range(len(self.hidden))] + ["head" if self.hidden else "fc"]
        sizes = pairwise((self.features, *self.hidden, self.classes))
        shapes: dict[str, tuple[int, ...]] = {}
        for layer, (inputs, outputs) in zip(layers, sizes, strict=True):
            shapes |= {f"{layer}.weight": (outputs, inputs), f"{layer}.bias": (outputs,)}
        return shapes

    def _inputs(self, model: Arrays, examples: Examples) -> Floats:
        """The inputs as rows, after every check on them and on `model`."""
        require_examples(examples)
        require_model(model, self._shapes())
        require_labels(examples, self.classes)
        return self._rows(examples)

    def _rows(self, examples: Examples) -> Floats:
        rows = examples.x.reshape(len(examples), -1)
        if rows.shape[1] != self.features:
            raise ParameterError(
                f"the model cannot take inputs of shape {examples.x.shape[1:]}: "
                f"it expects {self.features} features"
            )
        return rows.astype(self.precision, copy=False)


class NumpyDescent:
    """A `tacit.client.private_trainer.Descent` of a network of a `NumpyTrainer`."""

    def __init__(
        self,
        names: tuple[str, ...],
        model: Arrays,
        x: Floats,
        y: NDArray[np.int64],
        is_good: NDArray[np.bool_],
    ) -> None:
        self._names, self._x, self._y, self._is_good = names, x, y, is_good
        self._weights: list[Floats] = [np.array(model[name], x.dtype) for name in names]
        self._ends = np.cumsum([w.size for w in self._weights])

    @property
    def length(self) -> int:
        return int(self._ends[-1])

    def sums(self, chosen: NDArray[np.intp], clip: float) -> Iterator[tuple[Reals, float]]:
        if not SMALLEST <= clip <= LARGEST:  # also false for NaN
            raise ParameterError(f"clip={clip}, expected 2**-32 .. 2**32")
        chosen = chosen[self._is_good[chosen]]
        for some in np.array_split(chosen, -(-len(chosen) // ROWS)) if len(chosen) else ():
            with np.errstate(over="ignore", invalid="ignore"):
                parts, loss = _clipped(self._weights, self._x[some], self._y[some], clip)
            yield np.concatenate([part.ravel() for part in parts], dtype=np.float32), loss

    def weights(self) -> Reals:
        return np.concatenate([w.ravel() for w in self._weights], dtype=np.float32)

    def move(self, step: Reals, rate: float) -> None:
        for w, part in zip(self._weights, np.split(step, self._ends[:-1]), strict=True):
            w -= rate * part.reshape(w.shape)

    def arrays(self) -> Arrays:
        weights = zip(self._names, self._weights, strict=True)
        return {name: w.astype(np.float32) for name, w in weights}

    def named(self, vector: NDArray[np.float64]) -> Arrays:
        parts = zip(self._names, self._weights, np.split(vector, self._ends[:-1]), strict=True)
        return {name: part.reshape(w.shape) for name, w, part in parts}


def _weight_of(bias: str) -> str:
    return bias.removesuffix("bias") + "weight"


def _descend(weights: Sequence[Floats], x: Floats, y: NDArray[np.int64], plan: LocalPlan) -> float:
    """Train `weights` (weight, bias, weight, bias, ...) in place; the mean loss met.

    g = gradient + mu (w - w_received) + decay w;  v = momentum v + g (v = g first);  w -= rate v.
    """
    received = [w.copy() for w in weights]
    velocity: list[Floats] = [np.zeros_like(w) for w in weights]
    total, seen = 0.0, 0
    for chosen in batches(len(y), plan):
        losses, gradients = _gradients(weights, x[chosen], y[chosen])
        total += float(losses.sum())
        seen += len(chosen)
        for w, start, v, g in zip(weights, received, velocity, gradients, strict=True):
            if plan.proximal_mu:
                g += plan.proximal_mu * (w - start)
            if plan.weight_decay:
                g += plan.weight_decay * w
            v *= plan.momentum
            v += g
            w -= plan.learning_rate * v
    return total / seen


def _activations(weights: Sequence[Floats], x: Floats) -> list[Floats]:
    """The input of every layer in turn, and the scores at the end."""
    layers = [x]
    last = len(weights) - 2
    for i in range(0, len(weights), 2):
        z = layers[-1] @ weights[i].T + weights[i + 1]
        layers.append(z if i == last else np.maximum(z, 0))
    return layers


def _cross_entropy(scores: Floats, y: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Loss of each row (nats), and the softmax of each row."""
    shifted = scores - scores.max(1, keepdims=True)
    powers = np.exp(shifted)
    sums = powers.sum(1, keepdims=True)
    losses = np.log(sums[:, 0]) - shifted[np.arange(len(y)), y]
    return losses, powers / sums


def _gradients(
    weights: Sequence[Floats], x: Floats, y: NDArray[np.int64]
) -> tuple[Floats, list[Floats]]:
    """Loss of each example, and the gradient of their mean by back-propagation."""
    layers = _activations(weights, x)
    losses, delta = _cross_entropy(layers[-1], y)
    delta[np.arange(len(y)), y] -= 1
    delta /= len(y)
    gradients: list[Floats] = []
    for i in range(len(weights) - 2, -1, -2):
        inputs = layers[i // 2]
        gradients[:0] = [delta.T @ inputs, delta.sum(0)]
        if i:
            delta = (delta @ weights[i]) * (inputs > 0)
    return losses, gradients


def _clipped(
    weights: Sequence[Floats], x: Floats, y: NDArray[np.int64], clip: float
) -> tuple[list[Floats], float]:
    """The sum of the gradients of examples, each clipped to a norm, and of their losses; what is
    not finite counts as nothing. As `tacit.client.clipped`, which see for what floats do."""
    layers = _activations(weights, x)
    losses, delta = _cross_entropy(layers[-1], y)
    delta[np.arange(len(y)), y] -= 1
    pairs: list[tuple[Floats, Floats]] = []
    for i in range(len(weights) - 2, -1, -2):
        inputs = layers[i // 2]
        pairs.append((delta, inputs))
        if i:
            delta = (delta @ weights[i]) * (inputs > 0)
    squares = np.stack([_products(*pair) for pair in pairs]).sum(0)
    good = np.isfinite(squares)
    shares = np.where(good, clip / np.maximum(clip, np.sqrt(squares)), 0)
    gradients: list[Floats] = []
    for delta, inputs in pairs:
        if not good.all():
            delta, inputs = (np.where(good[:, None], rows, 0) for rows in (delta, inputs))
        weighted = delta * shares[:, None].astype(delta.dtype)
        gradients[:0] = [weighted.T @ inputs, weighted.sum(0)]
    return gradients, float(losses[np.isfinite(losses)].sum())


def _products(deltas: Floats, inputs: Floats) -> Floats:
    """Squares of the norms of outer products of rows, and biases: (m,), in float64."""
    of_deltas, of_inputs = (np.square(rows, dtype=np.float64).sum(1) for rows in (deltas, inputs))
    fits = (of_deltas < _RANGE) & (of_inputs < _RANGE)
    return np.where(fits, of_deltas * (of_inputs + 1), np.inf)
