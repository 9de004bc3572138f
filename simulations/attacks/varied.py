"""What a thief makes of the few examples that he has: more of them, a little different each.

Moved by up to a pixel, brighter or darker, noisy. The label stays: so it helps whoever labels them
himself as well, and what a victim's answers are worth is what they add to that.
"""

import numpy as np
from numpy.typing import NDArray

from tacit.server.gate.model import Floats32

SHIFT, BRIGHTNESS, NOISE = 1, (0.7, 1.3), 0.1  # pixels; factors; standard deviation


def varied(x: Floats32, count: int, rng: np.random.Generator) -> tuple[Floats32, NDArray[np.int64]]:
    """`count` variations of `x` (n, *shape) in [0, 1], and of which input each is one."""
    of = rng.integers(len(x), size=count)
    made = x[of]
    if x.ndim == 4:
        for each, (rows, columns) in enumerate(rng.integers(-SHIFT, SHIFT + 1, (count, 2))):
            made[each] = np.roll(made[each], (rows, columns), (1, 2))
    factors = rng.uniform(*BRIGHTNESS, (count, *(1,) * (x.ndim - 1)))
    out: Floats32 = (made * factors + rng.normal(0, NOISE, made.shape)).clip(0, 1)
    return out.astype(np.float32), of
