"""Tacit's noise and private sums against Flower, numpy, and a central Gaussian mechanism.

    python benchmarks/privacy.py [--quick] [--json FILE]

Skellam and discrete Gaussian noise from AES, exact whole numbers, beside what does without both:
Flower's own function, which adds `np.random.normal` to a float32 array, that function by itself,
numpy's newer generator, and Skellam noise as the difference of two of its Poisson numbers. All take
turns in one fresh process with one thread, twice in a row, of which the second is timed: the first
finds the memory as another has left it. Figures are medians of CPU time. Tacit keeps a table once
it is made; what making all of a kind takes, with none kept, is in rows of its own.

Then a device's whole encoding of an update beside the same steps in plain numpy, in turns as well.
And errors: the mean that a server decodes, against that of a central Gaussian mechanism of the same
epsilon and delta, whose error is known and needs no run. Updates are normal numbers, clipped; for a
sketch all devices have the same one, which is the worst for it.

Then what it takes to keep account of ten thousand devices: see `benchmarks/shared/accounts.py`.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the script runs from any folder, installed or not

from benchmarks.shared import accounts  # noqa: E402
from benchmarks.shared.alone import nothing_remembered  # noqa: E402
from benchmarks.shared.fresh import in_fresh_process  # noqa: E402
from benchmarks.shared.table import Row, at_most, print_table, write_json  # noqa: E402

if TYPE_CHECKING:
    from tacit.privacy.mechanisms import Mechanism

SAMPLES = 1_000_000
REPEATS, QUICK_REPEATS = 31, 7
DEVICES = 10_000
PATIENCE_S = 600
VARIANCES = {"10": 10, "1e3": 1000, "1e6": 10**6, "2^24": 1 << 24, "2^40": 1 << 40}
NORMAL, FLOWER = "np.random.normal", "Flower: add_gaussian_noise_inplace"
GOAL = {"10": 1 / 3, "1e3": 1 / 3, "1e6": 1 / 3, "2^24": 1 / 3, "2^40": 1.0}  # of np.random.normal
NOTE = "Deviations are the roots of the variances; 2^40 is noise of a million steps of the grid."

ENCODE, PLAIN, DECODE = "Tacit: encode", "plain numpy: encode", "Tacit: decode, at the server"
ENCODE_GOAL = 1 / 10
MEAN_CLIENTS, MEAN_LENGTH, DELTA = 30, 1 << 17, 1e-5
SKETCH = 0.08  # of the noise: what a sketch may cost
ROUNDS, QUICK_ROUNDS = 60, 8
QUOTED = (
    "Quoted, not run here: Google's code of distributed differential privacy for TensorFlow took "
    "223 ms for the encoding, measured on a similar machine; it is no longer maintained."
)

Times = dict[str, float]


def measure(samples: int, repeats: int, length: int, rounds: int, devices: int) -> dict[str, Times]:
    """CPU seconds: "noise" of so many samples of each kind, "tables" of each of ours, "sums" of so
    many coordinates, "accounts" of so many devices. "errors": see there, of means of `length`
    coordinates."""
    tables: Times = {}
    noise = medians(theirs(samples) | ours(samples, tables), repeats)
    sums = medians(encodings(samples), repeats)
    return {
        "noise": noise,
        "tables": tables,
        "sums": sums,
        "errors": errors(length, rounds),
        "accounts": accounts.measure(devices, repeats),
    }


def medians(kinds: dict[str, Callable[[], object]], repeats: int) -> Times:
    """CPU seconds of each, in turns."""
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(repeats):
        for name, work in kinds.items():
            work()
            taken[name].append(cpu_seconds(work))
    return {name: statistics.median(times) for name, times in taken.items()}


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


def encodings(length: int) -> dict[str, Callable[[], object]]:
    """What to time, by name: one device of a hundred, of which ten may be missing, ten corrupt."""
    import numpy as np

    from benchmarks.shared import plain_mechanism
    from tacit.privacy.mechanisms import choose

    mechanism = choose(length, 100, 10, 10, clip=1.0, noise=1.0)
    update, session = np.random.default_rng(0).normal(size=length), bytes(32)
    share, total = float(mechanism.share), np.zeros(mechanism.size, mechanism.dtype)
    total[-1] = 100
    return {
        ENCODE: lambda: mechanism.encode(update, session, os.urandom(32)),
        PLAIN: lambda: plain_mechanism.encode(
            update, mechanism.radius, mechanism.clip, share, mechanism.bits, seed=0
        ),
        DECODE: lambda: mechanism.update(mechanism.decode(total, 100), session),
    }


def errors(length: int, rounds: int) -> Times:
    """Squared errors of means over so many rounds, as multiples of the central Gaussian's; bits
    that the sketch sends for a parameter; and by how many percent rounding raises epsilon."""
    from tacit.privacy.gaussian import epsilon_of
    from tacit.privacy.mechanisms import Mechanism, choose

    whole = Mechanism(length, MEAN_CLIENTS, 0, 0, clip=1.0, noise=1.0, bits=14)
    short = choose(length, MEAN_CLIENTS, 0, 0, clip=1.0, noise=1.0, sketch=SKETCH)
    wide = Mechanism(1 << 20, 100, 0, 0, clip=1.0, noise=1.0, bits=16)
    deviation = math.sqrt(wide.variance)
    own = epsilon_of(math.sqrt(wide.bound) / deviation, DELTA)
    return {
        "whole": squared_error(whole, rounds, alike=False),
        "sketch": squared_error(short, rounds, alike=True),
        "bits": short.bits_per_parameter,
        "epsilon": (own / epsilon_of(wide.radius / deviation, DELTA) - 1) * 100,
    }


def squared_error(mechanism: "Mechanism", rounds: int, alike: bool) -> float:
    """Of means of normal updates at the clip, be they all the same or each another."""
    import numpy as np

    rng, found = np.random.default_rng(1), 0.0
    clients, length = mechanism.clients, mechanism.length
    for _ in range(rounds):
        session, updates = os.urandom(32), rng.normal(size=(clients, length))
        updates[:] = updates[0] if alike else updates
        updates *= mechanism.clip / np.linalg.norm(updates, axis=1, keepdims=True)
        total = np.zeros(mechanism.size, mechanism.dtype)
        for update in updates:
            total += mechanism.encode(update, session, os.urandom(32))
        off = mechanism.update(mechanism.decode(total, clients), session) - updates.mean(axis=0)
        found += float(np.dot(off, off)) / rounds
    return found / ((mechanism.noise * mechanism.clip / clients) ** 2 * length)


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


def rows_of_sums(measured: dict[str, Times], samples: int) -> list[Row]:
    """Milliseconds for each million, a ratio, and what it costs not to trust a server."""
    times, found = measured["sums"], measured["errors"]
    ratio = times[ENCODE] / times[PLAIN]
    error = f"squared error / central Gaussian's, {MEAN_CLIENTS} devices, 2^17: "
    more = "epsilon above a central Gaussian's of equal variance: 16 bits, 100 devices, 2^20"
    return [
        *(Row(name, seconds / samples * 1e9, "ms") for name, seconds in times.items()),
        at_most(f"{ENCODE} / {PLAIN}", ratio, "x", ENCODE_GOAL),
        at_most(f"{error}14 bits", found["whole"], "x", 1.02),
        at_most(f"{error}sketch", found["sketch"], "x", 1.10),
        at_most("bits that the sketch sends for a parameter", found["bits"], "bits", 1.75),
        at_most(more, found["epsilon"], "%", 0.5),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Noise, private sums, and keeping account.")
    parser.add_argument("--quick", action="store_true", help="under 45 s on two cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(**json.loads(options.child))))
        return
    repeats, rounds = (QUICK_REPEATS, QUICK_ROUNDS) if options.quick else (REPEATS, ROUNDS)
    task = {
        "samples": SAMPLES,
        "repeats": repeats,
        "length": MEAN_LENGTH,
        "rounds": rounds,
        "devices": DEVICES,
    }
    measured = in_fresh_process(__file__, task, PATIENCE_S)
    noise: list[Row] = []
    sums: list[Row] = []
    counted: list[Row] = []
    if isinstance(measured, str):
        print(f"No figures: {measured}.")
    else:
        noise, sums = rows_of(measured, SAMPLES), rows_of_sums(measured, SAMPLES)
        counted = accounts.rows_of(measured["accounts"], DEVICES)
        print_table("Noise: a million samples, one thread, CPU time", noise, [NOTE])
        print_table("Private sums: a million parameters, one thread, CPU time", sums, [QUOTED])
        print_table("Accounts: one thread, CPU time", counted, [accounts.NOTE])
    if options.json:
        write_json(options.json, "privacy", [*noise, *sums, *counted])


if __name__ == "__main__":
    main()
