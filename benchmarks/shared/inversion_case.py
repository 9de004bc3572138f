"""Victims to invert, the same for all: a network, the gradient of a batch, its labels, on disk.

Imported in breaching's Python too: torch and numpy are all it needs, and what is written holds
none but torch's own layers.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LENET, SMOOTH, FLOWER = "lenet", "smooth-cnn", "Flower's net"
SHAPE, CLASSES = (3, 32, 32), 10
MEAN = SPREAD = 0.5  # inputs of the networks are (pixel - MEAN) / SPREAD, as in Flower's tutorial
LOW, HIGH = -1.0, 1.0
TV, RATE = 0.2, 0.1  # breaching's preset, in these units
WARM, TIMED = 4, 40  # iterations: those before the clock starts, and those that it counts


@dataclass(frozen=True, slots=True)
class Job:
    """For one process: time attacks on the first victim in `file` (`repeats` > 0), or attack all of
    them with so many `steps` and write what was found, an array (victims, inputs, *SHAPE), to
    `found`."""

    file: str
    steps: int = 0
    restarts: int = 1
    repeats: int = 0
    found: str = ""


@dataclass(frozen=True, slots=True)
class Victim:
    """`network` as it was sent, the `gradients` of its parameters, the `labels` of the inputs."""

    network: Any
    gradients: list[Any]
    labels: Any


def write(path: Path, victims: list[Victim]) -> None:
    import torch

    torch.save([(v.network, v.gradients, v.labels) for v in victims], path)


def read(path: str) -> list[Victim]:
    """Only of files that `write` made: they hold code."""
    import torch

    torch.set_num_threads(1)
    return [Victim(*parts) for parts in torch.load(path, weights_only=False)]


def flower_net() -> Any:
    """The network of Flower's PyTorch tutorial, as a stack of the same layers."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(3, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2, 2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2, 2),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, CLASSES),
    )


def median(iteration: Callable[[], float], repeats: int) -> float:
    """Of what `iteration` says that one took, without the first, which warms up."""
    iteration()
    return statistics.median(iteration() for _ in range(repeats))


def seconds(work: Callable[[], object]) -> float:
    """Of CPU time."""
    began = time.process_time()
    work()
    return time.process_time() - began
