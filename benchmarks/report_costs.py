"""What a report costs a device, measured, beside what `tacit.crypto.secagg.costs` says of it.

    python benchmarks/report_costs.py [--quick] [--json FILE]

Seconds of CPU of one report, masked and encrypted, of cohorts in which everybody is a neighbour:
medians of some calls, in one thread. A ratio far from 1 for long vectors means that the constants
in `costs` are not those of this machine; what both protocols are off by alike changes no choice.
"""

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the script runs from any folder, installed or not

from benchmarks.shared.fresh import in_fresh_process  # noqa: E402
from benchmarks.shared.table import Row, print_table, write_json  # noqa: E402
from tacit.crypto.codec import Codec  # noqa: E402
from tacit.crypto.lattice.sets import SETS  # noqa: E402
from tacit.crypto.secagg import client, costs  # noqa: E402
from tacit.crypto.secagg.session import Purpose, Session, threshold_for  # noqa: E402
from tacit.crypto.simulated import simulated_identity  # noqa: E402

LENGTHS, COHORTS = (10_000, 100_000, 1_000_000, 10_000_000), ((9, 9), (33, 21), (100, 100))
QUICK_LENGTHS, QUICK_COHORTS = (100_000, 1_000_000), ((9, 9), (33, 21))
MASKS = ""  # as a session names it
PRECISION = 25
PATIENCE_S = 600


def cost(length: int, devices: int, members: int, lattice: str) -> tuple[float, float]:
    """Seconds of one report by measurement and by `costs`; `lattice` as a session names it."""
    codec = Codec(length, devices, bits=PRECISION + devices.bit_length())
    if lattice:
        codec = replace(codec, bits=SETS[lattice].room(devices, codec.size).bits, max_weight=100.0)
    enrolled, keys = zip(
        *(client.enrol(simulated_identity(d), 1, d, os.urandom(32)) for d in range(1, devices + 1)),
        strict=True,
    )
    session = Session(
        run=1,
        round=1,
        purpose=Purpose.TRAIN,
        codec=codec,
        cohort=keys,
        witnesses=(),
        degree=0 if lattice else devices - 1,
        committee=tuple(range(1, members + 1)),
        seats=0,
        threshold=threshold_for(members, members // 3),
        min_survivors=2,
        hybrid=False,
        lattice=lattice,
        he="",
        epoch=b"",
        roster=bytes(32),
        model=bytes(32),
        config=bytes(32),
    )
    own, identity = enrolled[-1], simulated_identity(devices)
    agreed, taken = client.agree_all(own, session), []
    for _ in range(21 if length <= 100_000 else 5):
        encoded = np.zeros(codec.size, codec.dtype)
        began = time.process_time()
        rand = os.urandom(client.REPORT_RAND_BYTES)
        client.report(own, identity, session, agreed, encoded, (), bytes(32), rand)
        taken.append(time.process_time() - began)
    if session.scheme is None:
        reckoned = costs.masked(codec.size, codec.bits, devices - 1, members)
    else:
        reckoned = costs.encrypted(session.scheme, codec.size, members)
    return statistics.median(taken), reckoned.seconds


def rows(lengths: tuple[int, ...], cohorts: tuple[tuple[int, int], ...]) -> list[Row]:
    found = []
    for length in lengths:
        for lattice in (MASKS, *SETS):
            for devices, members in cohorts:
                task = {"length": length, "devices": devices, "members": members}
                answer = in_fresh_process(__file__, {**task, "lattice": lattice}, PATIENCE_S)
                name = f"{lattice or 'masks'}, {devices} devices, {members} members, {length:g}"
                if isinstance(answer, str):
                    print(f"{name}: {answer}")
                    continue
                found.append(Row(name, 1e3 * answer["measured"], "ms"))
                found.append(Row("  measured / reckoned", answer["measured"] / answer["own"], "x"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="What a report costs a device.")
    parser.add_argument("--quick", action="store_true", help="under 45 s on two cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measured, own = cost(**json.loads(options.child))
        print(json.dumps({"measured": measured, "own": own}))
        return
    quick = options.quick
    found = rows(QUICK_LENGTHS if quick else LENGTHS, QUICK_COHORTS if quick else COHORTS)
    print_table("CPU of one report of a device", found)
    if options.json:
        write_json(options.json, "report_costs", found)


if __name__ == "__main__":
    main()
