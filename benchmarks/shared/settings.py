"""What is measured of encrypted sums: which system, how many devices, a model of which shape.

Imported in other systems' Pythons too: numpy is all it needs.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.shared.cohort import Cohort

NVFLARE, FEDML, CKKS, PLAIN = "NVFlare", "FedML", "TenSEAL's CKKS", "plain float32"
LATTICE, TENSEAL = "Tacit, lattice", "Tacit, TenSEAL"

OPENERS = 3  # devices that open a sum: each does the same, and the median is taken

Tensors = list[NDArray[np.float32]]
Vector = NDArray[Any]  # of floats


@dataclass(frozen=True, slots=True)
class Setting:
    """`system` sums one update of each device, once; `parameters` names a set of Tacit's.

    The model has one tensor of `length` coordinates, or, where `resnet` is set, those of a
    ResNet-20. A share `drop` of the devices says nothing. `seats` of a committee are drawn; 0:
    as Tacit does by default.
    """

    system: str
    devices: int
    length: int
    parameters: str = ""
    resnet: bool = False
    drop: float = 0.0
    seats: int = 0
    seed: int = 1

    @property
    def name(self) -> str:
        return f"{self.system} {self.parameters}".rstrip()

    @property
    def cohort(self) -> Cohort:
        return Cohort(self.devices, self.length, self.drop, self.seed)

    def tensors(self, device: int) -> Tensors:
        """A device's update. Drawn anew at each call."""
        vector = np.concatenate(self.cohort.update(device, 1))
        shapes = RESNET20 if self.resnet else [(self.length,)]
        ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
        parts = np.split(vector, ends)
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


@dataclass(frozen=True, slots=True)
class Dealing:
    """One of `devices`, which masks with `degree` others, or deals them its lattice key."""

    pairwise: bool
    degree: int
    devices: int
    length: int
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a round: the mean, with which weights, the bytes that it was sent in, and
    `Round.exact`."""

    mean: Vector
    weights: list[int]
    model: int
    exact: bool | None = None


def flat(tensors: Tensors) -> Vector:
    """All tensors as one vector; a single one as it is."""
    vectors = [tensor.reshape(-1) for tensor in tensors]
    return np.concatenate(vectors) if len(vectors) > 1 else vectors[0]


def same_bits(one: NDArray[Any], other: NDArray[Any], bits: int) -> bool:
    """Whether vectors of one unsigned word have all their low `bits` bits in common."""
    return not np.any((one ^ other) & one.dtype.type((1 << bits) - 1))


def _resnet20() -> list[tuple[int, ...]]:
    """The trainable tensors of He et al. 2016 (arXiv:1512.03385), section 4.2, for CIFAR-10; where
    the width doubles, the shortcut is a convolution (their option B)."""
    shapes: list[tuple[int, ...]] = [(16, 3, 3, 3), (16,), (16,)]  # then batch norm: scale, offset
    before = 16
    for width in (16, 32, 64):
        for _ in range(3):
            shapes += [(width, before, 3, 3), (width,), (width,)]
            shapes += [(width, width, 3, 3), (width,), (width,)]
            if before != width:
                shapes += [(width, before, 1, 1), (width,), (width,)]
            before = width
    return [*shapes, (10, 64), (10,)]


RESNET20 = _resnet20()
RESNET20_SIZE = sum(map(math.prod, RESNET20))
