"""The steps of `tacit.privacy.mechanisms`, as one would first write them with numpy.

In float64, filled up to a power of two, with numpy's own generators, which a seed of 128 bits or a
guess replays. For times only: the noise of its floats and seeds is no privacy.
"""

import math

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.vector import Floats


def encode(
    update: Floats, radius: int, clip: float, share: float, bits: int, seed: int
) -> NDArray[np.uint32]:
    """One contribution, 2**k elements of a ring: `share` is the variance of its noise."""
    rng = np.random.default_rng()
    size = 1 << (update.size - 1).bit_length()
    flat = np.zeros(size)
    flat[: update.size] = update * min(1.0, clip / float(np.linalg.norm(update)))
    signs = 1 - 2 * np.random.default_rng(seed).integers(0, 2, size)
    turned = walsh_hadamard(flat * signs) * (radius / clip / math.sqrt(size))
    bound = (radius + 1) ** 2 + size / 6 + math.sqrt(size)
    while True:
        steps = np.floor(turned + rng.random(size)).astype(np.int64)
        if int(np.sum(steps**2)) <= bound:
            break
        turned *= 1 - 2.0**-12
    noise = rng.poisson(share / 2, size) - rng.poisson(share / 2, size)
    return ((steps + noise) % (1 << bits)).astype(np.uint32)


def walsh_hadamard(vector: Floats) -> Floats:
    """Level by level, each with whole arrays."""
    half = 1
    while half < vector.size:
        pairs = vector.reshape(-1, 2, half)
        vector = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], 1).reshape(-1)
        half *= 2
    return vector
