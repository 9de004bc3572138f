"""Jacobian-based data augmentation: a few examples grow to where the victim's answers change.

Papernot, McDaniel, Goodfellow, Jha, Celik and Swami 2017, "Practical Black-Box Attacks against
Machine Learning" (AsiaCCS, arXiv:1602.02697), section 4, algorithm 1. In turn: train a copy on all
answers so far; move every example by lambda in the direction in which the copy's score for the
victim's label grows most; ask about these too. The examples double each time. Lambda changes its
sign every few rounds (the paper's periodic step size), so that half of them move the other way.
"""

import numpy as np
from torch import nn

from tacit.server.gate.model import Floats32
from tacit.server.gate.reveal import Floats
from tacit.simulations.attacks.blackbox import BlackBox
from tacit.simulations.attacks.extraction import COPY, imitate, sign_of_slope

STEP = 0.1  # lambda of the paper, for inputs in [0, 1]
PERIOD = 3  # rounds until lambda changes its sign


def jbda(box: BlackBox, examples: Floats32, rounds: int, seed: int, model: str = COPY) -> nn.Module:
    """The copy, after `rounds` of doubling the `examples` (n, *shape), or fewer if the box stops
    answering: of what it would not answer in full, the first."""
    x = examples[: box.left]
    rows = box.ask(x)
    for each in range(rounds):
        if box.left == 0:
            break
        step = STEP * (-1) ** (each // PERIOD)
        moved = _moved(imitate(x, rows, seed, model), x, rows, step)[: box.left]
        rows = np.concatenate([rows, box.ask(moved)])
        x = np.concatenate([x, moved])
    return imitate(x, rows, seed, model)


def _moved(copy: nn.Module, x: Floats32, rows: Floats, step: float) -> Floats32:
    labels = rows.argmax(1)
    signs = sign_of_slope(copy, x, lambda scores: scores[np.arange(len(labels)), labels])
    return (x + np.float32(step) * signs).clip(0, 1)
