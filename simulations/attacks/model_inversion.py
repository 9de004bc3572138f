"""MI-Face, black box: what does the model take for the most typical picture of a class?

Fredrikson, Jha and Ristenpart 2015, "Model Inversion Attacks that Exploit Confidence Information
and Basic Countermeasures" (CCS, doi:10.1145/2810103.2813677), section 5, algorithm 1, without its
auxiliary term and its denoiser: walk from a grey picture towards more confidence in the class. The
slope is measured, one query a pixel, as the paper's black-box variant does.

The walk is along the logarithm of the confidence: that has the same peaks as the confidence, and a
slope where the confidence is next to nothing, which is where it starts. Each step is as long as
another, since far from a peak the slope says where to go and not how far.
"""

from math import prod

import numpy as np

from tacit.server.gate.model import Floats32
from tacit.server.gate.reveal import Floats
from tacit.simulations.attacks.blackbox import BlackBox

STEPS, RATE, PROBE = 10, 0.3, 0.1  # of the walk; the largest change of a pixel in one; of a query
START = (0.2, 0.3)  # grey, and a little different each time
LEAST = 1e-6  # confidence that has a logarithm: what is rounded to 0 counts as this


def mi_face(
    box: BlackBox, target: int, rng: np.random.Generator, steps: int = STEPS, probe: float = PROBE
) -> Floats32:
    """A picture of class `target`, shape of the model, in [0, 1]: of all on the walk the one that
    the box was surest of.

    Asks pixels + 1 queries a step, and fewer steps if the box stops answering. Where no pixel
    changes an answer there is no slope, and the walk ends.
    """
    x = rng.uniform(*START, box.model.shape).astype(np.float32)
    best, sure = x, -np.inf
    for _ in range(steps):
        if box.left is not None and box.left <= prod(x.shape):
            break
        probes = _probes(x, probe)
        logs = np.log(np.maximum(box.ask(probes)[:, target], LEAST))
        if logs[-1] > sure:
            best, sure = x, float(logs[-1])
        slope = _slope(probes, logs)
        if not slope.any():
            break
        step = RATE * slope / abs(slope).max()
        x = (x + step.reshape(x.shape)).clip(0, 1).astype(np.float32)
    return best


def _probes(x: Floats32, probe: float) -> Floats32:
    """(pixels + 1, *shape): `x` with each pixel moved towards the further end of [0, 1]; then
    `x` itself."""
    flat = x.ravel()
    moved = np.repeat(flat[None], len(flat) + 1, axis=0)
    pixels = np.arange(len(flat))
    moved[pixels, pixels] += np.where(flat < 0.5, probe, -probe)
    return moved.clip(0, 1).reshape(-1, *x.shape).astype(np.float32)


def _slope(probes: Floats32, logs: Floats) -> Floats:
    flat = probes.reshape(len(probes), -1)
    pixels = np.arange(flat.shape[1])
    slope: Floats = (logs[:-1] - logs[-1]) / (flat[pixels, pixels] - flat[-1])
    return slope
