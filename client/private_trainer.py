"""Training on a device under record-level differential privacy: DP-SGD.

Abadi et al. 2016, arXiv:1607.00133, algorithm 1. Each step draws a batch, adds up the clipped
gradients of its examples, puts noise on the sum (`tacit.privacy.example_sums`) and moves by it. The
model that comes out, and every model on the way, is as private as its releases say, whoever sees
it. The loss is not: it is of the device's own examples as they are, and for its owner's eyes.

A sum is divided by the `batch` that was planned, never by what was drawn. That number, the rate and
the number of steps are the owner's, and public: take them from no count of the examples that is to
stay secret. At a rate q, N examples give batches of q * N on average; `batch` may be another
number, to which the learning rate is then relative. The releases say that the count is hidden: it
must not be the weight of an update either.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tacit.client.fitting import require_converged
from tacit.client.trainer import Arrays, Examples, LocalPlan
from tacit.crypto.errors import ParameterError
from tacit.crypto.prg import KEY_BYTES, keystream
from tacit.crypto.vector import Floats
from tacit.privacy.example_sums import SLACK, ExampleSum, Reals
from tacit.privacy.poisson import drawn
from tacit.privacy.releases import Release

log = logging.getLogger("tacit.client")


@dataclass(frozen=True, slots=True)
class PrivatePlan:
    """What DP-SGD needs beside a `LocalPlan`. None of it may depend on the examples.

    steps  batches that are drawn
    rate   probability of each example to be in a batch
    batch  what a sum is divided by: the size of a batch that is expected
    clip   largest norm of an example's gradient
    noise  multiplier: deviation of the noise in units of that, but for 1% to 2%
    """

    steps: int
    rate: float
    batch: float
    clip: float = 1.0
    noise: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.steps < 1 << 32:
            raise ParameterError(f"steps={self.steps}, expected 1 .. 2**32 - 1")
        if not 2.0**-32 <= self.batch <= 2.0**32:  # also false for NaN
            raise ParameterError(f"batch={self.batch}, expected 2**-32 .. 2**32")
        self.mechanism(1)

    def mechanism(self, length: int) -> ExampleSum:
        """Of one step of a model with so many coordinates. Raises ParameterError as it does."""
        return ExampleSum(length, self.clip, self.noise, self.rate)


class Descent(Protocol):
    """A model on its way down, over the examples of one device."""

    @property
    def length(self) -> int:
        """Coordinates that move."""
        ...

    def sums(self, chosen: NDArray[np.intp], clip: float) -> Iterator[tuple[Reals, float]]:
        """Sums of clipped gradients (length,) and of losses (nats) over the chosen examples, by
        pieces as in `tacit.privacy.example_sums`. A vector is overwritten by the next."""
        ...

    def weights(self) -> Reals:
        """The coordinates as they are now: (length,), a copy."""
        ...

    def move(self, step: Reals, rate: float) -> None:
        """Take `rate` times `step` (length,) off the coordinates."""
        ...

    def arrays(self) -> Arrays:
        """The whole model as it is now: a copy."""
        ...

    def named(self, vector: Floats) -> Arrays:
        """A vector (length,) as the arrays of the model; zeros for those that do not move."""
        ...


class DescendingTrainer(Protocol):
    """A `Trainer` that can be taken down step by step."""

    def descent(
        self, model: Arrays, examples: Examples, seed: int
    ) -> AbstractContextManager[Descent]:
        """From `model`, which is left as it was; `seed` is for what a model draws, as in dropout.

        Raises ParameterError for what does not fit, and for a model in which examples cannot be
        told apart. There may be no examples.
        """
        ...


@dataclass(frozen=True, slots=True)
class PrivateFit:
    """`loss` is the mean over all examples that were drawn, in nats; 0 if none was. It is private
    to the device, as `model` is not."""

    model: Arrays
    loss: float
    releases: tuple[Release, ...]


def private_fit(
    trainer: DescendingTrainer,
    model: Arrays,
    examples: Examples,
    plan: LocalPlan,
    private: PrivatePlan,
    *,
    run: int,
    round_: int,
    rand: bytes,
    charge: Callable[[tuple[Release, ...]], None] | None = None,
) -> PrivateFit:
    """Train from `model`, which is left as it was, by DP-SGD.

    Of `plan`, learning rate, momentum, decay and the pull to the received model count, and `seed`
    if the model draws at random; they work on what is private already. `rand` is 32 fresh secret
    bytes for this call only: whoever knows them takes the noise off. `charge` gets the releases,
    one for each step, before an example is looked at; what it raises ends all. A device whose
    `SecureClientApp` is told the releases leaves that to it. Where training diverges the model
    stays as it was: to fail would tell what its noise came to, and nobody would count it. Raises
    ParameterError for what does not fit.
    """
    with trainer.descent(model, examples, plan.seed) as descent:
        mechanism = private.mechanism(descent.length)
        releases = (mechanism.release(run, round_),) * private.steps
        if charge is not None:
            charge(releases)
        with np.errstate(over="ignore", invalid="ignore"):  # looked at below
            loss = _descend(descent, len(examples), plan, private, mechanism, rand)
        trained = descent.arrays()
    try:
        require_converged(trained, plan)
    except ParameterError as diverged:
        log.warning("the model stays as it was: %s", diverged)
        trained = {name: array.copy() for name, array in model.items()}
    return PrivateFit(trained, loss, releases)


def gradient_update(
    trainer: DescendingTrainer,
    model: Arrays,
    examples: Examples,
    *,
    rate: float,
    clip: float,
    factor: float,
    seed: int,
    rand: bytes,
) -> Arrays:
    """-factor times the sum of the clipped gradients of a batch: one step of SGD, as a change of
    the model and without noise, for a sum over devices that has some. In float64: added to weights
    of float32 first it would be rounded, and that by more or less for one example more.

    Each example is drawn with probability `rate`. What one of them adds is `reach` long at most.
    The other arguments, and errors, are those of `private_fit`.
    """
    with trainer.descent(model, examples, seed) as descent:
        total = np.zeros(descent.length)
        for vector, _ in descent.sums(drawn(len(examples), rate, rand), clip):
            total += vector
        total *= -factor
        return descent.named(total)


def reach(clip: float, factor: float) -> float:
    """The most, in L2 norm, that one example changes a `gradient_update` by."""
    return clip * factor * float(1 + SLACK)


def _descend(
    descent: Descent,
    count: int,
    plan: LocalPlan,
    private: PrivatePlan,
    mechanism: ExampleSum,
    rand: bytes,
) -> float:
    """g = noised sum / batch + mu (w - w_received) + decay w;  v = momentum v + g (v = g first);
    w -= rate v. Returns the mean loss."""
    received = descent.weights() if plan.proximal_mu else None
    velocity: Reals | None = None
    stream = keystream(rand, 2 * KEY_BYTES * private.steps)
    total, seen = 0.0, 0
    for start in range(0, len(stream), 2 * KEY_BYTES):
        keys = stream[start : start + 2 * KEY_BYTES]
        chosen = drawn(count, private.rate, keys[:KEY_BYTES])
        losses: list[float] = []
        g = mechanism.noised(_pieces(descent, chosen, private.clip, losses), keys[KEY_BYTES:])
        g *= np.float32(1 / private.batch)
        if received is not None:
            g += np.float32(plan.proximal_mu) * (descent.weights() - received)
        if plan.weight_decay:
            g += np.float32(plan.weight_decay) * descent.weights()
        if velocity is not None:
            g += np.float32(plan.momentum) * velocity
        velocity = g if plan.momentum else None
        descent.move(g, plan.learning_rate)
        total += sum(losses)
        seen += len(chosen)
    return total / seen if seen else 0.0


def _pieces(
    descent: Descent, chosen: NDArray[np.intp], clip: float, losses: list[float]
) -> Iterator[Reals]:
    for vector, loss in descent.sums(chosen, clip):
        losses.append(loss)
        yield vector
