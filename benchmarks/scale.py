"""Rounds over 100 sampled of 100, 1 000, 10 000 and 100 000 devices, in one process.

    python benchmarks/scale.py [--quick] [--json FILE]

Each measurement runs in a fresh process with one thread: a softmax model, four examples to a
device, averaging in the clear and secure sums. What a round costs should not depend on how many
devices there are beside the sampled. What is there once for all of them (data, who holds which,
the roster of identities) grows with their number, and is seen in the start and in the memory of
the largest; memory is the peak resident size, its growth what each later round adds to it. Seconds
are those of one core, and depend on the machine.
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the script runs from any folder, installed or not

from benchmarks.shared.fresh import in_fresh_process  # noqa: E402
from benchmarks.shared.many import SAMPLED, Scaled, measure  # noqa: E402
from benchmarks.shared.table import Row, at_most, print_table, write_json  # noqa: E402

SIZES, QUICK_SIZES = (100, 1_000, 10_000, 100_000), (100, 1_000)
PROTOCOLS = ("plain", "pairwise")
ROUNDS, QUICK_ROUNDS = 5, 3
TARGET = 10_000  # devices that the targets are for
PATIENCE_S = 600
MB_A_ROUND = 3.0  # a hundred devices that were never sampled before, at 30 kB each


def rows_of(devices: int, protocol: str, found: Scaled, least: Scaled | None) -> list[Row]:
    """What was measured; with the smallest federation's numbers, the ratio to these."""
    what = f"{SAMPLED} of {devices}, {protocol}"
    is_target = devices == TARGET
    name = f"{what}: round"
    rows = [
        Row(f"{what}: start", found.start, "s of CPU"),
        at_most(name, found.round, "s of CPU", 10)
        if is_target
        else Row(name, found.round, "s of CPU"),
        Row(f"{what}: peak memory", found.memory, "MB"),
    ]
    name = f"{what}: added by a round"
    grown = found.growth
    rows.append(at_most(name, grown, "MB", MB_A_ROUND) if is_target else Row(name, grown, "MB"))
    if least is not None and is_target:
        rows.append(at_most(f"{what}: round, of all", found.round / least.round, "x", 2))
        rows.append(at_most(f"{what}: memory, of all", found.memory / least.memory, "x", 1.5))
    return rows


def compare(quick: bool) -> tuple[list[Row], list[str]]:
    """Measure all sizes; rows, and notes on what could not be measured."""
    rows: list[Row] = []
    notes = [f"x: of the same round where the {SAMPLED} are all there are."]
    if quick:
        notes.append(f"Quick: up to {QUICK_SIZES[-1]} devices; the targets are for {TARGET}.")
    rounds = QUICK_ROUNDS if quick else ROUNDS
    for protocol in PROTOCOLS:
        least = None
        for devices in QUICK_SIZES if quick else SIZES:
            task = {"devices": devices, "protocol": protocol, "rounds": rounds}
            answer = in_fresh_process(__file__, task, PATIENCE_S)
            if isinstance(answer, str):
                notes.append(f"{devices} devices, {protocol}: {answer}.")
                continue
            found = Scaled(**answer)
            rows += rows_of(devices, protocol, found, least)
            least = least or found
    return rows, notes


def main() -> None:
    parser = argparse.ArgumentParser(description="Rounds that sample a few of many devices.")
    parser.add_argument("--quick", action="store_true", help="under 45 s on two cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(**json.loads(options.child))))
        return
    rows, notes = compare(options.quick)
    print_table(f"{SAMPLED} devices sampled for each round", rows, notes)
    if options.json:
        write_json(options.json, "scale", rows)


if __name__ == "__main__":
    main()
