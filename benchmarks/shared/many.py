"""A federation of as many devices as asked for, of which each round samples a hundred."""

import os
import resource
import statistics
import time
from dataclasses import asdict, dataclass

import numpy as np

from tacit.app.config import Settings
from tacit.app.simulation import simulate
from tacit.client.trainer import Examples
from tacit.server.events import Event, RoundFinished, RoundStarted, SumFailed, SumOpened
from tacit.simulations.data.dataset import Dataset

DEVICES = "TACIT_BENCHMARK_DEVICES"
EACH, FEATURES, SAMPLED = 4, 16, 100
KIB_PER_MB = 1024


def examples() -> Dataset:
    """Two overlapping clouds: EACH examples of FEATURES features for every device."""
    rng = np.random.default_rng(0)

    def half(count: int) -> Examples:
        y = rng.integers(0, 2, count)
        x = rng.normal(size=(count, FEATURES)) + y[:, None]
        return Examples(x.astype(np.float32), y)

    devices = int(os.environ[DEVICES])
    return Dataset("many", half(EACH * devices), half(1000), classes=2, shape=(FEATURES,))


@dataclass(frozen=True, slots=True)
class Scaled:
    """Seconds of CPU until the first round, and of a round; MB at the end, and what a round
    adds."""

    start: float
    round: float
    memory: float
    growth: float


def settings(devices: int, protocol: str, rounds: int) -> Settings:
    """Of a run that samples SAMPLED of so many devices for each round."""
    return Settings.from_flat({}).changed(
        [
            f"data.name='{__name__}:examples'",
            f"data.devices={devices}",
            "data.partition=iid",
            f"data.min_examples={EACH}",
            f"strategy.fraction_train={SAMPLED / devices}",
            "strategy.fraction_evaluate=0.0",
            f"secure.protocol={protocol}",
            "model.name=softmax",
            f"run.rounds={rounds}",
            "run.mode=sync",
        ]
    )


def measure(devices: int, protocol: str, rounds: int) -> dict[str, float]:
    """Run it in this process; a `Scaled` as a dictionary. Raises RuntimeError for a sum that was
    not opened, or that misses a device."""
    os.environ[DEVICES] = str(devices)
    at: list[float] = []
    memory: list[float] = []

    def hear(event: Event) -> None:
        if isinstance(event, RoundStarted | RoundFinished):
            at.append(time.process_time())
        if isinstance(event, RoundFinished):
            memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_PER_MB)
        if isinstance(event, SumFailed):
            raise RuntimeError(event.reason)
        if isinstance(event, SumOpened) and event.survivors < SAMPLED:
            raise RuntimeError(f"{event.survivors} of {SAMPLED} devices in a sum")

    simulate(settings(devices, protocol, rounds), on_event=hear)
    growth = (memory[-1] - memory[0]) / (rounds - 1)
    typical = statistics.median(end - begin for begin, end in zip(at[2::2], at[3::2], strict=True))
    return asdict(Scaled(at[0], typical, memory[-1], growth))
