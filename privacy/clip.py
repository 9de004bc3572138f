"""Bounding what one device can add to a sum."""

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
