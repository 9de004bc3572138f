"""Rounds on SuperLink: plain FedAvg, Tacit's secure sum, Flower's SecAgg+; and what a node costs.

    python benchmarks/deployment.py [--quick] [--nodes N ...] [--rounds R] [--json FILE]

One SuperLink on the loopback, with TLS and node authentication, and as many nodes as asked for,
each a process. Three runs of the same model on the same data (the digits, numpy), one after
another, on nodes of `tacit device run` and on Flower's own `flower-supernode`:

    plain    FedAvg, without evaluation on devices
    tacit    the same under Tacit's pairwise sum
    secagg+  Flower's SecAggPlusWorkflow and secaggplus_mod, its legacy interface

Seconds are the median of a run's rounds but for the first, in which devices load their data. Legs
are messages that each node gets in each round, as its log says.

Then one idle node of each kind: resident memory of all its processes, after half a minute without a
message. RSS is the sum of what each has, and counts what they share twice; PSS counts that once.
Last, what a device without torch, scipy and data sets needs to load its app and to train once, in a
process with one core and 512 MB of address space.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the script runs from any folder, installed or not

from flwr.cli.build import build_fab_from_files  # noqa: E402

from benchmarks.shared.deployed import (  # noqa: E402
    FLOWER,
    TACIT,
    Deployment,
    Ran,
    Stuck,
    resident,
    tree,
)
from benchmarks.shared.fresh import in_fresh_process  # noqa: E402
from benchmarks.shared.report import PATIENCE_S, Report  # noqa: E402
from benchmarks.shared.table import Row, at_most, write_json  # noqa: E402
from tacit.app.config import Settings  # noqa: E402
from tacit.app.deployment import bundle  # noqa: E402
from tacit.client.node import bundles  # noqa: E402
from tacit.client.vault import FileVault  # noqa: E402

PLAIN, SECURE, SECAGG = "plain", "tacit", "secagg+"
NODES, ROUNDS = [3, 5, 10], 10
QUICK_NODES, QUICK_ROUNDS = [3], 3
IDLE, QUICK_IDLE = 30.0, 8.0  # seconds
MORE_LEGS = 2  # than plain FedAvg, at most
MOST_RESIDENT = 150  # MB, of an idle node
PROJECT = """
[project]
name = "secagg"
version = "1.0.0"
dependencies = []
[tool.flwr.app]
publisher = "benchmark"
[tool.flwr.app.components]
serverapp = "secagg_app:server"
clientapp = "secagg_app:client"
[tool.flwr.app.config]
devices = 3
rounds = 3
name = "secagg"
"""

TITLE = "Rounds on SuperLink: plain, Tacit's secure sum, Flower's SecAgg+; and an idle node"


def secagg_bundle() -> bytes:
    """Flower's SecAgg+ as a bundle."""
    code = ROOT / "benchmarks" / "shared" / "secagg_app.py"
    files: dict[str, bytes | Path] = {"pyproject.toml": PROJECT.encode(), "secagg_app.py": code}
    return build_fab_from_files(files)[0]


def compare(devices: int, rounds: int, report: Report, folder: Path) -> None:
    """All runs with so many nodes."""
    legacy = secagg_bundle()
    with Deployment.started(folder, devices) as deployment:
        for vault in deployment.fleet.vaults:
            own = bundle.digest(bundle.build())
            bundles.change(FileVault.open(vault), own, add=[bundle.digest(legacy)])
        found: dict[tuple[str, str], Ran] = {}
        for kind in (TACIT, FLOWER):
            with deployment.nodes(kind):
                for what in (PLAIN, SECURE, SECAGG):
                    name = f"{what.replace('+', '')}-{kind}"
                    fab = legacy if what == SECAGG else None
                    settings = _settings(what, name, devices, rounds)
                    try:
                        found[kind, what] = deployment.run(kind, name, settings, fab)
                    except Stuck as stuck:
                        report.notes.append(f"{devices} nodes of {kind}: {stuck}.")
    report.table(f"{devices} nodes, {rounds} rounds", _rows(found))


def _settings(what: str, name: str, devices: int, rounds: int) -> dict[str, Any]:
    if what == SECAGG:
        return {"devices": devices, "rounds": rounds, "name": name}
    protocol = "plain" if what == PLAIN else "pairwise"
    changes = [
        f"run.name={name}",
        f"run.rounds={rounds}",
        f"data.devices={devices}",
        f"secure.protocol={protocol}",
        "model.backend=numpy",
        "strategy.fraction_evaluate=0.0",
    ]
    return dict(Settings().changed(changes).flat())


def _rows(found: dict[tuple[str, str], Ran]) -> list[Row]:
    rows = []
    for (kind, what), ran in found.items():
        seconds, name = _typical(ran), f"{what}, nodes of {kind}"
        rival = found.get((kind, SECAGG))
        if what == SECURE and rival is not None:
            rows.append(at_most(f"{name}: a round", seconds, "s", _typical(rival)))
        else:
            rows.append(Row(f"{name}: a round", seconds, "s"))
        if what == SECURE and (kind, PLAIN) in found:
            most = found[kind, PLAIN].legs + MORE_LEGS
            rows.append(at_most(f"{name}: legs", ran.legs, "", most))
        else:
            rows.append(Row(f"{name}: legs", ran.legs, ""))
    return rows


def _typical(ran: Ran) -> float:
    return statistics.median(ran.seconds[1:])


def idle(seconds: float, report: Report, folder: Path) -> None:
    """One node of each kind without a message."""
    rows = []
    with Deployment.started(folder, 3) as deployment:
        for kind in (TACIT, FLOWER):
            with deployment.nodes(kind, most=1) as (node,):
                time.sleep(seconds)
                processes = tree(node)
                rss, pss = resident(processes)
            name = f"node of {kind}, {len(processes)} process{'es' * (len(processes) > 1)}"
            goal = at_most if kind == TACIT else lambda *parts: Row(*parts[:3])
            rows.append(goal(f"{name}: RSS", rss, "MB", MOST_RESIDENT))
            rows.append(Row(f"{name}: PSS", pss, "MB"))
    report.table("Idle", rows)


def light(report: Report) -> None:
    """A device without the extras, on one core."""
    script = str(ROOT / "benchmarks" / "shared" / "small_device.py")
    found = in_fresh_process(script, {}, PATIENCE_S)
    if isinstance(found, str):
        report.notes.append(f"a small device: {found}.")
        return
    rows = [
        Row("load what a node has", found["load"], "s"),
        Row("load the app of its first message", found["app"], "s"),
        Row("train once (500 digits drawn by hand)", found["train"], "s"),
        Row("most resident", found["resident"], "MB"),
    ]
    report.table("A device without torch, scipy and data sets: one core, 512 MB of addresses", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=TITLE)
    parser.add_argument("--quick", action="store_true", help="three nodes, three rounds: minutes")
    parser.add_argument("--nodes", type=int, nargs="+", metavar="N", help="3 or more")
    parser.add_argument("--rounds", type=int, metavar="R", help="2 or more")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    options = parser.parse_args()
    report, before = Report(__file__), os.getloadavg()[0]
    print(TITLE, flush=True)
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    with tempfile.TemporaryDirectory() as place:
        light(report)
        idle(QUICK_IDLE if options.quick else IDLE, report, Path(place) / "idle")
        for devices in options.nodes or (QUICK_NODES if options.quick else NODES):
            compare(devices, rounds, report, Path(place) / f"of-{devices}")
    report.notes.append(
        f"Load of the machine: {before:.1f} before, {os.getloadavg()[0]:.1f} after."
    )
    print("\n" + "\n".join(report.notes))
    if options.json:
        write_json(options.json, "deployment", report.rows())


if __name__ == "__main__":
    main()
