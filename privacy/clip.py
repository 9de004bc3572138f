"""Bounding what one device can add to a sum."""

from math import ceil

import numpy as np

from tacit.crypto.errors import ParameterError
from tacit.crypto.vector import Floats


def clip(update: Floats, norm: float) -> Floats:
    """`update` scaled down, if need be, to an L2 norm of at most `norm`, up to float64 rounding.

    A vector within the bound is returned as it is, the zero vector included. Raises ParameterError
    for a coordinate that is not finite, as scaling would spread it over the whole vector, and for
    a norm beyond the range of float64.
    """
    if not norm > 0:
        raise ParameterError(f"norm={norm}, expected above 0")
    with np.errstate(over="ignore"):
        length = float(np.linalg.norm(update))
    if not np.isfinite(length):
        raise ParameterError("update holds a value that is not finite, or one too large to square")
    return update if length <= norm else update * (norm / length)


def largest(update: Floats, keep: float) -> Floats:
    """`update` with zeros for all but its largest coordinates, by size: a share of `keep`, rounded
    up to a whole number of them. With all of them it is returned as it is.

    It saves no bytes, as a sum has a number for each coordinate, and hides little: it is here to be
    measured (sparsified updates: Aji and Heafield 2017, "Sparse Communication for Distributed
    Gradient Descent", EMNLP, section 3).
    """
    if not 0 < keep <= 1:
        raise ParameterError(f"keep={keep}, expected above 0 and at most 1")
    count = ceil(keep * update.size)
    if count >= update.size:
        return update
    kept = np.zeros_like(update)
    chosen = np.argpartition(np.abs(update), update.size - count)[update.size - count :]
    kept[chosen] = update[chosen]
    return kept
