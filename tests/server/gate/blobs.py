"""A model for tests of the watch: three round classes in eight dimensions, and no training."""

import numpy as np

from tacit.server.gate.base import Grant, Role
from tacit.server.gate.model import Scored

CENTRES = 3 * np.eye(3, 8)


class Blobs:
    """Its features are its inputs. Honest ones deviate by 1 from their class's centre."""

    shape = (8,)
    classes = 3

    def scored(self, x):
        scores = -np.square(x[:, None] - CENTRES).sum(2)
        probabilities = np.exp(scores - scores.max(1, keepdims=True))
        probabilities /= probabilities.sum(1, keepdims=True)
        return Scored(probabilities.astype(np.float32), x.astype(np.float32))


def drawn(count, seed=0, *, off=0.0):
    """Inputs of all classes; `off` moves the last four dimensions, which say nothing of a class."""
    rng = np.random.default_rng(seed)
    x = CENTRES[rng.integers(3, size=count)] + rng.standard_normal((count, 8))
    x[:, 4:] += off
    return x.astype(np.float32)


def grant(key="k"):
    return Grant(key, "o", Role.CLIENT, frozenset(), 10**9, 0.0, 1.0)
