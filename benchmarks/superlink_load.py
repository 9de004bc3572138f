"""How many nodes one SuperLink carries: polls and messages a second, and what each costs it.

    python benchmarks/superlink_load.py [--quick] [--json FILE] [--nodes N]

A SuperLink with TLS, node keys and its database in a file, and as many nodes as asked for: light
stand-ins in one process, which make every call that a SuperNode makes, signed and encrypted. First
they poll as fast as they are answered; then a ServerApp asks all of them, several times. CPU is the
SuperLink's own, of a message what the ServerApp asks of it too; a core divided by it is what one
SuperLink could do on a machine that has nothing else to do. This one runs the nodes as well.
Seconds depend on the machine, and on who else is using it; CPU a little.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the script runs from any folder, installed or not

import numpy as np  # noqa: E402

from benchmarks.shared.light_nodes import LightNodes  # noqa: E402
from benchmarks.shared.superlink import SuperLink, superlink  # noqa: E402
from benchmarks.shared.table import Row, print_table, write_json  # noqa: E402
from tacit.crypto.nodekey import RAND_BYTES, NodeKey  # noqa: E402
from tacit.server.flower import identity  # noqa: E402

NODES, QUICK_NODES = (10, 100, 1000), (10, 50)
THREADS = 8
POLLING_S, QUICK_POLLING_S = 20.0, 5.0
LEGS, QUICK_LEGS = 5, 2
SIZE = 10_000  # bytes of a request and of a reply
PATIENCE_S = 300.0
POLL = "CPU of a poll"


def polled(link: SuperLink, nodes: LightNodes, seconds: float) -> list[Row]:
    """As many polls as there is time for."""
    nodes.forget()
    cpu, began = link.cpu(), time.monotonic()
    time.sleep(seconds)
    load, took, cpu = nodes.forget(), time.monotonic() - began, link.cpu() - cpu
    p50, p99 = np.percentile(load.polls, (50, 99)) * 1000
    return [
        Row("polls", len(load.polls) / took, "1/s"),
        Row("poll, median", p50, "ms"),
        Row("poll, 99 of 100 below", p99, "ms"),
        Row(POLL, 1000 * cpu / len(load.polls), "ms"),
    ]


def asked(link: SuperLink, nodes: LightNodes, legs: int, count: int, poll: float) -> list[Row]:
    """Messages to all nodes and their replies, `legs` times; `poll` is the CPU of a poll in ms,
    since there are polls meanwhile that bring nothing. Raises RuntimeError if some are missing."""
    ask(link, 1, count)  # the database has its tables, and the bundle, from here on
    nodes.forget()
    before, cpu = link.stored(), link.cpu()
    seconds = ask(link, legs, count)
    load, cpu = nodes.forget(), link.cpu() - cpu
    p50, p99 = np.percentile(load.messages, (50, 99)) * 1000
    exchanges = len(load.messages)
    return [
        Row("messages with replies", count / seconds, "1/s"),
        Row("a node's part, median", p50, "ms"),
        Row("a node's part, 99 of 100 below", p99, "ms"),
        Row("CPU of a message", (1000 * cpu - poll * len(load.polls)) / exchanges, "ms"),
        Row("calls of a message", (load.calls - len(load.polls)) / exchanges, ""),
        Row("database, a message", (link.stored() - before) / exchanges / 1000, "kB"),
    ]


def ask(link: SuperLink, legs: int, count: int) -> float:
    """Seconds of a leg, the median. Raises RuntimeError as `asked`."""
    link.ask(legs, SIZE, count)
    until = time.monotonic() + PATIENCE_S
    while not link.result.exists() and time.monotonic() < until:
        time.sleep(0.2)
    if not link.result.exists():
        raise RuntimeError("the ServerApp did not finish")
    found = json.loads(link.result.read_text())
    link.result.unlink()
    if found["came"] < found["asked"]:
        raise RuntimeError(f"{found['came']} of {found['asked']} replies came")
    return float(np.median(found["legs"]))


def measure(count: int, quick: bool) -> list[Row]:
    """All of it with so many nodes."""
    keys = [NodeKey(os.urandom(RAND_BYTES)) for _ in range(count)]
    with tempfile.TemporaryDirectory() as folder, superlink(Path(folder)) as link:
        began = time.monotonic()
        link.register(keys)
        rows = [Row("registering a node", 1000 * (time.monotonic() - began) / count, "ms")]
        threads = min(THREADS, count)
        with LightNodes(link.address, str(link.ca), keys, threads=threads, size=SIZE) as nodes:
            time.sleep(1.0)
            rows += polled(link, nodes, QUICK_POLLING_S if quick else POLLING_S)
        with LightNodes(
            link.address, str(link.ca), keys, threads=threads, every=1.0, size=SIZE
        ) as nodes:
            poll = next(row.value for row in rows if row.name == POLL)
            rows += asked(link, nodes, QUICK_LEGS if quick else LEGS, count, poll)
        rows.append(Row("memory of the SuperLink", link.memory(), "MB"))
    return [Row(f"{count} nodes: {row.name}", row.value, row.unit) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description="How many nodes one SuperLink carries.")
    parser.add_argument("--quick", action="store_true", help="under a minute on two cores")
    parser.add_argument(
        "--nodes", type=int, action="append", metavar="N", help="instead of 10, ..."
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    options = parser.parse_args()
    rows: list[Row] = []
    notes: list[str] = []
    with identity(0):
        for count in options.nodes or (QUICK_NODES if options.quick else NODES):
            try:
                rows += measure(count, options.quick)
            except RuntimeError as error:
                notes.append(f"{count} nodes: {error}.")
    notes.append(f"Requests and replies of {SIZE} bytes; {THREADS} nodes speak at a time.")
    print_table("Light nodes on one SuperLink", rows, notes)
    if options.json:
        write_json(options.json, "superlink_load", rows)


if __name__ == "__main__":
    main()
