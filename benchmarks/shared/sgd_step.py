"""Steps of SGD to measure, with torch alone, and with Opacus where it is: for `dpsgd.py`.

Run by itself it imports nothing of Tacit, so that it may run in an environment of Opacus' own, in
which moreover `benchmarks` is the name of a package of Opacus.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

PLAIN, HOOKS, GHOST = "plain torch", "Opacus, hooks", "Opacus, ghost clipping"
SMALL, LARGE, FULL = "CNN, 26k parameters", "CNN, 1.2M parameters", "MLP, 269k parameters"
CLIP, MULTIPLIER, RATE = 1.0, 1.0, 0.01  # noise; of learning

Work = Callable[[], object]
Times = dict[str, float]


def medians(kinds: dict[str, Work], repeats: int, steps: int) -> Times:
    """CPU seconds of one of the steps that each does, in turns."""
    taken: dict[str, list[float]] = {kind: [] for kind in kinds}
    for repeat in range(repeats + 1):
        for kind, work in kinds.items():
            began = time.process_time()
            work()
            if repeat:  # the first warms up
                taken[kind].append((time.process_time() - began) / steps)
    return {kind: statistics.median(times) for kind, times in taken.items()}


def data(batch: int) -> "tuple[Tensor, Tensor]":
    """Made-up images and labels, and torch set up for them."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    return torch.rand(batch, 1, 28, 28), torch.randint(0, 10, (batch,))


def network(name: str) -> "nn.Module":
    """For images of 28x28 pixels and ten classes."""
    from torch import nn

    layers: dict[str, list[nn.Module]] = {
        SMALL: [
            nn.Conv2d(1, 16, 8, 2, 3),
            nn.ReLU(),
            nn.MaxPool2d(2, 1),
            nn.Conv2d(16, 32, 4, 2),
            nn.ReLU(),
            nn.MaxPool2d(2, 1),
            nn.Flatten(),
            nn.Linear(512, 32),
            nn.ReLU(),
            nn.Linear(32, 10),
        ],
        LARGE: [
            nn.Conv2d(1, 32, 3),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(9216, 128),
            nn.ReLU(),
            nn.Linear(128, 10),
        ],
        FULL: [
            nn.Flatten(),
            nn.Linear(784, 256),
            nn.ReLU(),
            nn.Linear(256, 256),
            nn.ReLU(),
            nn.Linear(256, 10),
        ],
    }
    return nn.Sequential(*layers[name])


def plain(name: str, x: "Tensor", y: "Tensor", steps: int) -> Callable[[], object]:
    import torch
    from torch.nn.functional import cross_entropy

    module = network(name)
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE)

    def work() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            cross_entropy(module(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return work


def opacus(name: str, x: "Tensor", y: "Tensor", steps: int, kind: str) -> Callable[[], object]:
    import torch
    from opacus import PrivacyEngine
    from torch.utils.data import DataLoader, TensorDataset

    module = network(name)
    made: tuple[Any, ...] = PrivacyEngine().make_private(
        module=module,
        optimizer=torch.optim.SGD(module.parameters(), lr=RATE),
        criterion=torch.nn.CrossEntropyLoss(),
        data_loader=DataLoader(TensorDataset(x, y), batch_size=len(y)),
        noise_multiplier=MULTIPLIER,
        max_grad_norm=CLIP,
        poisson_sampling=False,
        grad_sample_mode="hooks" if kind == HOOKS else "ghost",
    )
    private, optimizer = made[:2]
    criterion = torch.nn.CrossEntropyLoss() if kind == HOOKS else made[2]

    def work() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            criterion(private(x), y).backward()
            optimizer.step()

    return work


def measure(name: str, batch: int, repeats: int, steps: int) -> Times:
    """CPU seconds of a plain step, and of one of each kind that Opacus has; {} without it."""
    if find_spec("opacus") is None:
        return {}
    x, y = data(batch)
    kinds = {PLAIN: plain(name, x, y, steps)}
    kinds |= {kind: opacus(name, x, y, steps, kind) for kind in (HOOKS, GHOST)}
    return medians(kinds, repeats, steps)


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[2]))))
