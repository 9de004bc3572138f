"""What all trainers do alike: the order of the batches, and what they refuse.

Devices with and without torch train one model together, so both walk through their examples in
the same order, and both say the same thing about a model or a label that does not fit.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.client.trainer import Examples, LocalPlan
from tacit.crypto.errors import ParameterError

EVALUATION_BATCH = 512  # bounds memory; the result does not depend on it beyond rounding


def batches(count: int, plan: LocalPlan) -> Iterator[NDArray[np.int64]]:
    """Index arrays of the minibatches, all epochs in turn; every epoch is a new permutation."""
    size = plan.batch_size or count
    rng = np.random.default_rng(plan.seed)
    for _ in range(plan.epochs):
        order = rng.permutation(count)
        for start in range(0, count, size):
            yield order[start : start + size]


def require_model(model: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ParameterError, naming the first array that is missing, misshapen, unknown or not
    finite."""
    for name, shape in shapes.items():
        if name not in model:
            raise ParameterError(f"the model has no array {name!r}: it is another kind of model")
        if model[name].shape != shape:
            raise ParameterError(
                f"array {name!r} of the model has shape {model[name].shape}, expected {shape}"
            )
        if not np.isfinite(model[name]).all():
            raise ParameterError(
                f"array {name!r} of the model is not finite: it holds NaN or infinity"
            )
    for name in model:
        if name not in shapes:
            raise ParameterError(f"the model has an unknown array {name!r}")


def require_examples(examples: Examples) -> None:
    """Raises ParameterError if there is nothing to compute on."""
    if not len(examples):
        raise ParameterError("no examples: this device has no data for what was asked")
    if examples.y.min() < 0:
        raise ParameterError(f"label {examples.y.min()} is negative; classes count from 0")


def require_labels(examples: Examples, outputs: int) -> None:
    """Raises ParameterError for a label the model has no output for."""
    highest = int(examples.y.max())
    if highest >= outputs:
        raise ParameterError(
            f"label {highest} does not fit a model with {outputs} outputs (0..{outputs - 1})"
        )


def require_converged(model: Mapping[str, NDArray[Any]], plan: LocalPlan) -> None:
    """Raises ParameterError if training has run off to infinity."""
    for name, array in model.items():
        if not np.isfinite(array).all():
            raise ParameterError(
                f"training diverged: array {name!r} is no longer finite; "
                f"learning_rate={plan.learning_rate} is probably too high, try a tenth of it"
            )
