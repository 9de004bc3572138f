"""Tacit's noise against the noise of Flower and of numpy.

    python benchmarks/privacy.py [--quick] [--json FILE]

Skellam and discrete Gaussian noise from AES, exact whole numbers, beside what does without both:
Flower's own function, which adds `np.random.normal` to a float32 array, that function by itself,
numpy's newer generator, and Skellam noise as the difference of two of its Poisson numbers. All take
turns in one fresh process with one thread, twice in a row, of which the second is timed: the first
finds the memory as another has left it. Figures are medians of CPU time. Tacit keeps a table once
it is made; what making all of a kind takes, with none kept, is in rows of its own.

Then what it takes to keep account of ten thousand devices: see `benchmarks/shared/accounts.py`.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the script runs from any folder, installed or not

from benchmarks.shared import accounts  # noqa: E402
from benchmarks.shared.alone import nothing_remembered  # noqa: E402
from benchmarks.shared.fresh import in_fresh_process  # noqa: E402
from benchmarks.shared.table import Row, at_most, print_table, write_json  # noqa: E402

SAMPLES = 1_000_000
REPEATS, QUICK_REPEATS = 31, 7
DEVICES = 10_000
PATIENCE_S = 600
VARIANCES = {"10": 10, "1e3": 1000, "1e6": 10**6, "2^24": 1 << 24, "2^40": 1 << 40}
NORMAL, FLOWER = "np.random.normal", "Flower: add_gaussian_noise_inplace"
GOAL = {"10": 1 / 3, "1e3": 1 / 3, "1e6": 1 / 3, "2^24": 1 / 3, "2^40": 1.0}  # of np.random.normal
NOTE = "Deviations are the roots of the variances; 2^40 is noise of a million steps of the grid."

Times = dict[str, float]


def measure(samples: int, repeats: int, devices: int) -> dict[str, Times]:
    """CPU seconds: "noise" of so many samples of each kind, "tables" of each of ours, "accounts" of
    so many devices."""
    tables: Times = {}
    kinds = theirs(samples) | ours(samples, tables)
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(repeats):
        for name, draw in kinds.items():
            draw()
            taken[name].append(cpu_seconds(draw))
    noise = {name: statistics.median(times) for name, times in taken.items()}
    counted = accounts.measure(devices, repeats)
    return {"noise": noise, "tables": tables, "accounts": counted}


def ours(samples: int, tables: Times) -> dict[str, Callable[[], object]]:
    """What to time, by name; making the tables is timed at once."""
    from tacit.privacy.samplers import DiscreteGaussian, Law, Sampler, Skellam

    def draw(law: Law) -> Callable[[], object]:
        return lambda: Sampler(law, os.urandom(32), samples).draw(samples)

    kinds = {}
    for name, variance in VARIANCES.items():
        for law in (Skellam(Fraction(variance)), DiscreteGaussian(Fraction(variance))):
            title = f"{type(law).__name__}, variance {name}"
            with nothing_remembered():
                tables[title] = cpu_seconds(lambda law=law: law.digits)  # type: ignore[misc]
            kinds[title] = draw(law)
    return kinds


def theirs(samples: int) -> dict[str, Callable[[], object]]:
    """What to time, by name. None of it is from a secret that cannot be guessed."""
    import numpy as np
    from flwr.supercore.differential_privacy import add_gaussian_noise_inplace

    arrays, newer = [np.zeros(samples, np.float32)], np.random.default_rng()
    kinds: dict[str, Callable[[], object]] = {
        NORMAL: lambda: np.random.normal(0.0, 1.0, samples),  # noqa: NPY002  what Flower calls
        FLOWER: lambda: add_gaussian_noise_inplace(arrays, 1.0),
        "numpy's Generator.normal": lambda: newer.normal(0.0, 1.0, samples),
    }
    for name in ("10", "1e3", "1e6"):
        mean = VARIANCES[name] / 2
        kinds[f"numpy's Poisson difference, variance {name}"] = lambda mean=mean: (  # type: ignore[misc]
            newer.poisson(mean, samples) - newer.poisson(mean, samples)
        )
    return kinds


def cpu_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def rows_of(measured: dict[str, Times], samples: int) -> list[Row]:
    """Milliseconds for each million, then ratios with their targets."""
    noise = measured["noise"]
    rows = [Row(name, seconds / samples * 1e9, "ms") for name, seconds in noise.items()]
    for law in ("Skellam", "DiscreteGaussian"):
        for name, goal in GOAL.items():
            ratio = noise[f"{law}, variance {name}"] / noise[NORMAL]
            rows.append(at_most(f"{law}, variance {name} / {NORMAL}", ratio, "x", goal))
    rows += [
        Row(f"{name}: tables", seconds * 1e3, "ms") for name, seconds in measured["tables"].items()
    ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Noise, and keeping account of it.")
    parser.add_argument("--quick", action="store_true", help="under 45 s on two cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(**json.loads(options.child))))
        return
    repeats = QUICK_REPEATS if options.quick else REPEATS
    task = {"samples": SAMPLES, "repeats": repeats, "devices": DEVICES}
    measured = in_fresh_process(__file__, task, PATIENCE_S)
    noise: list[Row] = []
    counted: list[Row] = []
    if isinstance(measured, str):
        print(f"No figures: {measured}.")
    else:
        noise = rows_of(measured, SAMPLES)
        counted = accounts.rows_of(measured["accounts"], DEVICES)
        print_table("Noise: a million samples, one thread, CPU time", noise, [NOTE])
        print_table("Accounts: one thread, CPU time", counted, [accounts.NOTE])
    if options.json:
        write_json(options.json, "privacy", [*noise, *counted])


if __name__ == "__main__":
    main()
