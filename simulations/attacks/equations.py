"""Solving for the weights of a softmax regression: d + 1 answers are the model.

Tramer, Zhang, Juels, Reiter and Ristenpart 2016, "Stealing Machine Learning Models via Prediction
APIs" (USENIX Security, arXiv:1609.02943), section 4.1. Of two classes, the logarithm of the ratio
of their probabilities is linear in x:

    log p_k(x) - log p_0(x) = (w_k - w_0) . x + (b_k - b_0)

so d + 1 inputs in general position give every difference of weights, and no more than these
differences is in the model's answers: a vector that is added to all w_k changes none of them.

Where scores are rounded to nothing, or not told, there is no such equation. What is left is to
fit: see `fitted` (section 6, retraining with uniform queries).
"""

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp

from tacit.crypto.errors import ParameterError
from tacit.server.gate.model import Floats32
from tacit.simulations.attacks.blackbox import BlackBox

Floats64 = NDArray[np.float64]

# Of all weights together, against the cross-entropy of all answers: labels alone are fitted best by
# weights without end.
PENALTY = 0.005


@dataclass(frozen=True, slots=True)
class Linear:
    """A softmax regression: `weight` (classes, d) and `bias` (classes,)."""

    weight: Floats64
    bias: Floats64

    def labels(self, x: Floats32) -> NDArray[np.int64]:
        """(n,), the classes it gives to `x` (n, *shape)."""
        flat = x.reshape(len(x), -1).astype(np.float64)
        labels: NDArray[np.int64] = (flat @ self.weight.T + self.bias).argmax(1)
        return labels


def solved(box: BlackBox, count: int, rng: np.random.Generator) -> Linear:
    """From `count` answers to inputs uniform in [0, 1]: exact if the model is a softmax regression,
    `count` is at least d + 1 and scores are told in full; least squares beyond that.

    Raises ParameterError for fewer, and for answers that hold a probability of 0.
    """
    unknowns = prod(box.model.shape) + 1
    if count < unknowns:
        raise ParameterError(f"{count} answers for {unknowns} unknowns a class")
    x = uniform(box, count, rng)
    rows = np.asarray(box.ask(x), np.float64)
    if not (rows > 0).all():
        raise ParameterError("a probability of 0 has no logarithm: fit a model instead")
    ratios = np.log(rows) - np.log(rows[:, :1])
    found = np.linalg.lstsq(_with_ones(x), ratios)[0].T
    return Linear(found[:, :-1], found[:, -1])


def fitted(box: BlackBox, count: int, rng: np.random.Generator) -> Linear:
    """The likeliest softmax regression, from `count` answers to inputs uniform in [0, 1], whatever
    is told of each: the cross-entropy with the answers has one minimum, and L-BFGS finds it."""
    x = uniform(box, count, rng)
    rows = np.asarray(box.ask(x), np.float64)
    system = _with_ones(x)
    shape = rows.shape[1], system.shape[1]

    def loss(flat: Floats64) -> tuple[float, Floats64]:
        scores = system @ flat.reshape(shape).T
        logs = scores - logsumexp(scores, axis=1, keepdims=True)
        slope = (np.exp(logs) * rows.sum(1, keepdims=True) - rows).T @ system
        pull = 2 * PENALTY * flat
        return -(rows * logs).sum() + PENALTY * flat @ flat, slope.ravel() + pull

    found = minimize(
        loss, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 1000}
    ).x.reshape(shape)
    return Linear(found[:, :-1], found[:, -1])


def uniform(box: BlackBox, count: int, rng: np.random.Generator) -> Floats32:
    """(count, *shape), each value uniform in [0, 1]."""
    return rng.random((count, *box.model.shape), np.float32)


def _with_ones(x: Floats32) -> Floats64:
    return np.hstack([x.reshape(len(x), -1), np.ones((len(x), 1))]).astype(np.float64)
