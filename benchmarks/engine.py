"""One trivial app on Tacit's in-process engine and on Flower's simulation runtime (Ray).

    python benchmarks/engine.py [--quick] [--json FILE]

Each measurement runs in a fresh process. Seconds per round are the median of rounds 2 and later;
memory is the peak of the summed proportional set size (PSS) of the process and all processes below
it, sampled ten times a second. Ratios of one run mean something; seconds depend on the machine
and on who else is using it.
"""

import argparse
import contextlib
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp
    from flwr.server.superlink.fleet.vce.backend.backend import BackendConfig

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the script runs from any folder, installed or not

from benchmarks.shared.table import Row, at_least, at_most, print_table, write_json  # noqa: E402

OURS, FLOWERS = "in-process", "Flower's runtime"
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
PATIENCE_S = 600
QUICK_S = 38  # what Flower's runtime may take of the 45 s, with ours measured before it
QUICK_CLIENTS = 100


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds and MB; `start` is from process start to the end of the first round."""

    start: float
    round: float
    total: float
    memory: float


def measure(engine: str, clients: int, rounds: int, patience: float) -> Measured | str:
    """Run the app in a fresh process; if that fails, why."""
    command = [sys.executable, __file__, "--child", engine, str(clients), str(rounds)]
    began, peak = time.time(), 0.0
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | QUIET,
        text=True,
        start_new_session=True,
    )
    while child.poll() is None:
        peak = max(peak, tree_memory(child.pid))
        if time.time() - began > patience:
            end_tree(child)
            return f"not finished after {patience:.0f} s"
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(0.1)
    total = time.time() - began
    output = child.stdout.read() if child.stdout else ""
    if child.returncode != 0:
        return f"ended with exit code {child.returncode}"
    ends: list[float] = json.loads(output.splitlines()[-1])
    later = [after - before for before, after in itertools.pairwise(ends)]
    return Measured(ends[0] - began, statistics.median(later), total, peak)


def run_app(engine: str, clients: int, rounds: int) -> None:
    """The child process: run the app, then print the moments at which the rounds ended."""
    from flwr.serverapp import Grid, ServerApp

    ends: list[float] = []
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: object) -> None:
        import numpy as np
        from flwr.app import Array, ArrayRecord, Message, RecordDict

        while len(nodes := list(grid.get_node_ids())) < clients:
            time.sleep(0.01)  # Flower's runtime starts the server before the nodes are there
        for _ in range(rounds):
            content = RecordDict({"model": ArrayRecord({"w": Array(np.zeros(10))})})
            messages = [Message(content, node, "train") for node in nodes]
            replies = list(grid.send_and_receive(messages))
            arrived = sum(reply.content["metrics"]["one"] == 1 for reply in replies)
            if arrived != clients:
                raise RuntimeError(f"{arrived} of {clients} clients replied")
            ends.append(time.time())

    if engine == OURS:
        from tacit.simulations.engine.grid import run_in_process

        run_in_process(server_app, trivial_client, devices=clients)
    else:
        from flwr.simulation import run_simulation

        resources: BackendConfig = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
        run_simulation(server_app, trivial_client(), clients, backend_config=resources)
    print(json.dumps(ends))


def trivial_client() -> "ClientApp":
    """Replies with a one; never looks at the model."""
    from flwr.app import Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(RecordDict({"metrics": MetricRecord({"one": 1})}), reply_to=message)

    return app


def tree_memory(pid: int) -> float:
    """PSS in MB of a process and all below it; 0 where the system has no /proc."""
    kilobytes = 0
    for member in tree(pid):
        try:
            lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue  # it has just ended
        kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kilobytes / 1024


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [pid]
    for member in found:
        found += children.get(member, [])
    return found


def end_tree(child: "subprocess.Popen[str]") -> None:
    """End a process that we started, and all below it."""
    for member in reversed(tree(child.pid)):
        try:
            os.kill(member, 9)
        except OSError:
            continue
    child.wait()


def rows_of(engine: str, clients: int, measured: Measured) -> list[Row]:
    """What was measured, with the targets that stand on their own."""
    what = f"{clients} clients, {engine}"
    name = f"{what}: start to first round"
    ours = engine == OURS
    return [
        Row(f"{what}: round", measured.round, "s"),
        at_most(name, measured.start, "s", 2) if ours else Row(name, measured.start, "s"),
        Row(f"{what}: in all", measured.total, "s"),
        Row(f"{what}: peak memory", measured.memory, "MB"),
    ]


def ratios(clients: int, ours: Measured, theirs: Measured) -> list[Row]:
    """How many times faster; the targets are for a thousand clients."""
    per_round, in_all = theirs.round / ours.round, theirs.total / ours.total
    names = (f"{clients} clients: faster per round", f"{clients} clients: faster in all")
    if clients < 1000:
        return [Row(names[0], per_round, "x"), Row(names[1], in_all, "x")]
    return [at_least(names[0], per_round, "x", 25), at_least(names[1], in_all, "x", 60)]


def compare(quick: bool) -> tuple[list[Row], list[str]]:
    """Measure all sizes; rows, and notes on what could not be measured."""
    began = time.time()
    rows: list[Row] = []
    notes: list[str] = []
    has_ray = importlib.util.find_spec("ray") is not None
    if not has_ray:
        notes.append("Ray, for Flower's, is not installed: pip install '.[ray]' in this checkout.")
    if quick:
        notes.append("Quick: Flower's runtime with 100 clients only; the targets are for 1000.")
    for clients in (10, 100, 1000):
        ours = measure(OURS, clients, 4, PATIENCE_S)
        theirs: Measured | str = ""
        if has_ray and not (quick and clients != QUICK_CLIENTS):
            patience = QUICK_S - (time.time() - began) if quick else PATIENCE_S
            theirs = measure(FLOWERS, clients, 4, patience)
        for engine, result in ((OURS, ours), (FLOWERS, theirs)):
            if isinstance(result, Measured):
                rows += rows_of(engine, clients, result)
            elif result:
                notes.append(f"{clients} clients, {engine}: {result}.")
        if isinstance(ours, Measured) and isinstance(theirs, Measured):
            rows += ratios(clients, ours, theirs)
    return rows, notes


def main() -> None:
    parser = argparse.ArgumentParser(description="In-process engine against Flower's runtime.")
    parser.add_argument("--quick", action="store_true", help="under 45 s on two cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        engine, clients, rounds = options.child
        run_app(engine, int(clients), int(rounds))
        return
    rows, notes = compare(options.quick)
    print_table("One trivial app, two engines, 4 rounds (memory is PSS)", rows, notes)
    if options.json:
        write_json(options.json, "engine", rows)


if __name__ == "__main__":
    main()
