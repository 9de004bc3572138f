"""Kill anything, at any moment: does every run end, with the model of a run that nobody disturbed?

    python benchmarks/kills.py [--kills N] [--quick] [--seed S] [--json FILE]

One federation of four devices on this machine, by `tacit up`: SuperLink, SuperExec, front,
supervisor, a node for each device. First a run that is left alone. Then, N times: a run, in which
one process, of each kind in turn, is killed with SIGKILL after a random time. What is killed comes
back by itself, but for the supervisor, which a machine's service manager would start again: here
`tacit up` does.

A run that lost no device has to end with the same bits as the one that was left alone. Where the
killed process took a device's contribution or a round with it, the accuracy has to be as near as
one round less brings it. In no run may a sum be opened twice, and every log has to verify.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the script runs from any folder, installed or not

from benchmarks.shared.local import Federation, federation, kill  # noqa: E402
from benchmarks.shared.table import Row, at_least, at_most, print_table, write_json  # noqa: E402
from tacit.app.journal import digest_of, signer  # noqa: E402
from tacit.crypto.errors import Damaged  # noqa: E402
from tacit.server.auditlog import verify  # noqa: E402

TARGETS = ("serverapp", "superlink", "superexec", "front", "supervisor", "node", "app")
DEVICES, ROUNDS, KILLS, QUICK = 4, 3, 100, 7
SETTINGS = (
    f"run.rounds={ROUNDS}",
    "run.timeout=30",
    "secure.stage_deadline=15",
    "secure.min_survivors=3",
    "strategy.fraction_evaluate=0",
    "model.name=softmax",
    "model.backend=numpy",
    "data.partition=iid",
)
PATIENCE = 300.0  # seconds for a disturbed run


@dataclass(frozen=True, slots=True)
class Ended:
    """What is left of a run: seconds it took, its model's digest, accuracy, and sums that were
    opened, missed or lost."""

    seconds: float
    model: str
    accuracy: float
    survivors: tuple[int, ...]
    twice: int
    verifies: bool

    @property
    def is_whole(self) -> bool:
        """Whether all devices were in all sums."""
        return self.survivors == (DEVICES,) * ROUNDS


def settings() -> list[str]:
    return [word for each in SETTINGS for word in ("--set", each)]


def ended(there: Federation, name: str, seconds: float) -> Ended:
    folder = there.run_folder(name)
    events = there.events(name)
    opened = [e for e in events if e["event"] == "SumOpened"]
    twice = Counter((e["round"], e["purpose"]) for e in opened)
    last = [e for e in events if e["event"] == "RoundFinished"][-1]
    return Ended(
        seconds,
        digest_of(folder / "model.safetensors"),
        float(last["server"]["accuracy"]),
        tuple(e["survivors"] for e in opened),
        sum(count - 1 for count in twice.values()),
        _verifies(folder),
    )


def _verifies(folder: Path) -> bool:
    try:
        verify(folder / "audit.log", signer(folder).public)
    except Damaged:
        return False
    return True


def disturbed(there: Federation, name: str, kind: str, after: float) -> Ended | None:
    """A run in which a process of `kind` is killed; None if there was none to be killed."""
    began = time.monotonic()
    there.tacit("run", "--name", name, *settings())
    time.sleep(max(0.0, began + after - time.monotonic()))
    hit = False
    while not hit and there.status(name) != "finished":
        found = there.of_kind(kind)
        hit = bool(found) and kill(random.choice(found))
        time.sleep(0.02)
    if kind == "supervisor":
        there.tacit("up")
    there.wait(name, "finished", PATIENCE)
    return ended(there, name, time.monotonic() - began) if hit else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} kills")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    kills = QUICK if arguments.quick else arguments.kills
    seed = random.randrange(1 << 32) if arguments.seed is None else arguments.seed
    random.seed(seed)
    print(f"seed {seed}", flush=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        federation(Path(folder) / "federation", DEVICES, print) as there,
    ):
        rows = measure(there, kills)
    print_table(f"{kills} kills, {len(TARGETS)} kinds of processes", rows)
    if arguments.json is not None:
        write_json(arguments.json, "kills", rows)


def measure(there: Federation, kills: int) -> list[Row]:
    began = time.monotonic()
    there.tacit("run", "--name", "calm", *settings())
    there.wait("calm", "finished", PATIENCE)
    calm = ended(there, "calm", time.monotonic() - began)
    print(f"undisturbed: {calm.seconds:.1f} s, accuracy {calm.accuracy:.3f}", flush=True)
    results: dict[str, Ended] = {}
    missed = 0
    while len(results) < kills:
        kind = TARGETS[len(results) % len(TARGETS)]
        name = f"{kind}-{len(results)}-{missed}"
        found = disturbed(there, name, kind, random.uniform(0.5, calm.seconds))
        if found is None:
            missed += 1
            continue
        results[name] = found
        same = "same bits" if found.model == calm.model else f"accuracy {found.accuracy:.3f}"
        print(f"{name}: {found.seconds:.1f} s, {same}, sums of {found.survivors}", flush=True)
    return rows_of(calm, list(results.values()), kills)


def rows_of(calm: Ended, found: list[Ended], kills: int) -> list[Row]:
    whole = [each for each in found if each.is_whole]
    less = [each for each in found if not each.is_whole]
    worst = max((calm.accuracy - each.accuracy for each in less), default=0.0)
    return [
        at_least("runs that finished", len(found), "runs", kills),
        at_least(
            "same bits, of those that lost no device",
            100 * sum(each.model == calm.model for each in whole) / max(1, len(whole)),
            "%",
            100,
        ),
        Row("runs that lost a device or a round", len(less), "runs"),
        at_most("accuracy these lost at most", 100 * worst, "points", 2.0),
        at_most("sums opened twice", sum(each.twice for each in found), "sums", 0),
        at_least("logs that verify", sum(each.verifies for each in found), "logs", kills),
        Row("undisturbed", calm.seconds, "s"),
        Row("disturbed, median", statistics.median(each.seconds for each in found), "s"),
        Row("disturbed, longest", max(each.seconds for each in found), "s"),
    ]


if __name__ == "__main__":
    main()
