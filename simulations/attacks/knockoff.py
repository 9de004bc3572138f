"""Knockoff Nets: a model is copied with pictures of something else.

Orekondy, Schiele and Fritz 2019, "Knockoff Nets: Stealing Functionality of Black-Box Models"
(CVPR, arXiv:1812.02766), section 4, the random strategy: draw public pictures, have the victim
label them with all that it tells, and train on the pairs. The thief has none of the victim's data,
and does not know what its classes mean. (The adaptive strategy of section 4.1.2 picks its pictures
by their own labels, and ours have none.)
"""

import numpy as np
from torch import nn

from tacit.server.gate.model import Floats32
from tacit.simulations.attacks.blackbox import BlackBox
from tacit.simulations.attacks.extraction import COPY, imitate


def knockoff(box: BlackBox, pictures: Floats32, seed: int, model: str = COPY) -> nn.Module:
    """The copy, from as many of the `pictures` (n, *shape) as the box answers, drawn by `seed`."""
    order = np.random.default_rng(seed).permutation(len(pictures))
    asked = pictures[order[: len(pictures) if box.left is None else box.left]]
    return imitate(asked, box.ask(asked), seed, model)
