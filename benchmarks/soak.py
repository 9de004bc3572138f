"""A long run of many devices, some of which are away at any time: what grows, and what it learns.

    python benchmarks/soak.py [--quick] [--rounds N] [--json FILE]

A federation of ten devices on this machine, by `tacit up`. A tenth of all requests are refused, by
a hook that each device's owner set (`node.toml`), so that another device is missing each time. In
the middle the supervisor is killed with SIGKILL and started again. Memory is the sum of each
process's own share (PSS), by kind; files are all in the federation's folder. Growth is what a
straight line through the rounds says from a quarter of the run on, when all is warm, to its end.

The same federation is then simulated in one process with the same share of silent devices.
"""

import argparse
import json
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the script runs from any folder, installed or not

import numpy as np  # noqa: E402

from benchmarks.shared.local import Federation, federation, kill, kind_of, processes  # noqa: E402
from benchmarks.shared.table import Row, at_least, at_most, print_table, write_json  # noqa: E402
from tacit.app.config import Settings  # noqa: E402
from tacit.app.simulation import simulate  # noqa: E402

DEVICES, ROUNDS, QUICK = 10, 200, 12
AWAY = 0.1  # share of requests that devices refuse
HOOK = f"""#!/bin/sh
# One in ten: what `od` reads is a byte of the system's randomness.
[ "$(od -An -N1 -tu1 /dev/urandom)" -ge {round(256 * AWAY)} ]
"""
GROWTH = 10.0  # MB a hundred rounds, of all processes together
POINTS = 2.0
PATIENCE = 120.0  # seconds for a round


@dataclass(frozen=True, slots=True)
class Look:
    """What there was after a round: MB of memory by kind of process, and of files."""

    round: int
    memory: dict[str, float]
    files: float


def settings(rounds: int) -> tuple[str, ...]:
    return (
        f"run.rounds={rounds}",
        "run.timeout=30",
        "secure.stage_deadline=20",
        "secure.min_survivors=6",
        "strategy.fraction_evaluate=0",
        "model.name=softmax",
        "model.backend=numpy",
        "train.epochs=1",
        "train.learning_rate=0.02",
        "data.partition=dirichlet:0.5",
        f"data.devices={DEVICES}",
    )


def look(there: Federation, number: int) -> Look:
    memory: dict[str, float] = {}
    for each in processes(there.supervisor()):
        kind = kind_of(each.argv)
        memory[kind] = memory.get(kind, 0.0) + each.share
    held = sum(path.stat().st_size for path in there.folder.rglob("*") if path.is_file())
    return Look(number, memory, held / 1e6)


def looks(there: Federation, name: str, rounds: int) -> Iterator[Look]:
    """A look after each tenth of the run; in the middle the supervisor is killed."""
    every, last = max(1, rounds // 20), 0
    killed = False
    progress = time.monotonic()
    while last < rounds:
        if time.monotonic() - progress > PATIENCE:
            raise RuntimeError(f"no round for {PATIENCE:g} s after round {last}")
        done = [e["round"] for e in there.events(name) if e["event"] == "RoundFinished"]
        number = max(done, default=0)
        if number > last:
            progress = time.monotonic()
            if number // every > last // every:
                yield look(there, number)
            last = number
        if number >= rounds // 2 and not killed:
            killed = kill(there.supervisor())
            there.tacit("up")
        time.sleep(0.2)


def away(there: Federation) -> None:
    """Every device's owner lets a program decide."""
    for vault in sorted((there.folder / "devices").iterdir()):
        hook = vault / "away"
        hook.write_text(HOOK)
        hook.chmod(stat.S_IRWXU)
        (vault / "node.toml").write_text(f'hook = "{hook}"\n')


def growth(seen: list[Look], values: list[float]) -> float:
    """Of a straight line through the last three quarters, in a hundred rounds."""
    first = len(seen) // 4
    rounds = [each.round for each in seen[first:]]
    return 100 * float(np.polyfit(rounds, values[first:], 1)[0])


def simulated(rounds: int) -> float:
    """Accuracy of the same federation in one process: a tenth of all reports are missing."""
    found = Settings().changed(list(settings(rounds)))
    rng = np.random.default_rng(0)
    faults = [
        f"drop report {device} @{number}"
        for number in range(1, rounds + 1)
        for device in np.flatnonzero(rng.random(DEVICES) < AWAY)
    ]
    result = simulate(found.changed([f"faults={json.dumps(faults)}"])).result
    accuracy = result.evaluate_metrics_serverapp[rounds]["accuracy"]
    assert isinstance(accuracy, float)
    return accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} rounds")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rounds = QUICK if arguments.quick else arguments.rounds
    with (
        tempfile.TemporaryDirectory() as folder,
        federation(Path(folder) / "federation", DEVICES, print) as there,
    ):
        rows = measure(there, rounds)
    print_table(f"{rounds} rounds, {DEVICES} devices, {AWAY:.0%} away", rows)
    if arguments.json is not None:
        write_json(arguments.json, "soak", rows)


def measure(there: Federation, rounds: int) -> list[Row]:
    away(there)
    words = [word for each in settings(rounds) for word in ("--set", each)]
    began = time.monotonic()
    there.tacit("run", "--name", "soak", *words)
    seen = []
    for each in looks(there, "soak", rounds):
        seen.append(each)
        total = sum(each.memory.values())
        print(f"round {each.round}: {total:.0f} MB, files {each.files:.0f} MB", flush=True)
    there.wait("soak", "finished", PATIENCE)
    seconds = time.monotonic() - began
    events = there.events("soak")
    opened = [e["survivors"] for e in events if e["event"] == "SumOpened"]
    lost = sum(e["event"] == "SumFailed" for e in events)
    accuracy = float([e for e in events if e["event"] == "RoundFinished"][-1]["server"]["accuracy"])
    expected = simulated(rounds)
    kinds = sorted({kind for each in seen for kind in each.memory})
    return [
        at_most(
            "memory, growth in 100 rounds",
            growth(seen, [sum(each.memory.values()) for each in seen]),
            "MB",
            GROWTH,
        ),
        *(
            Row(
                f"  {kind}: at the end",
                seen[-1].memory.get(kind, 0.0),
                "MB",
            )
            for kind in kinds
        ),
        at_most(
            "files, growth in 100 rounds", growth(seen, [each.files for each in seen]), "MB", GROWTH
        ),
        Row("files at the end", seen[-1].files, "MB"),
        Row("devices in a sum", float(np.mean(opened)), f"of {DEVICES}"),
        Row("rounds lost", lost, "rounds"),
        Row("accuracy", accuracy, ""),
        at_least(
            "accuracy less that of a simulation", 100 * (accuracy - expected), "points", -POINTS
        ),
        Row("a round", seconds / rounds, "s"),
    ]


if __name__ == "__main__":
    main()
