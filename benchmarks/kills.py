"""Kill anything, at any moment: does every run end, with the model of a run that nobody disturbed?

    python benchmarks/kills.py [--kills N] [--quick] [--seed S] [--federations N] [--json FILE]

One federation of four devices on this machine, by `tacit up`: SuperLink, SuperExec, front,
supervisor, a node for each device. First a run that is left alone. Then, N times: a run, in which
one process, of each kind in turn, is killed with SIGKILL after a random time. What is killed comes
back by itself, but for the supervisor, which a machine's service manager would start again: here
`tacit up` does.

A run that lost no device has to end with the model of the one that was left alone, but for the
secret dither by which devices round: ROUNDING says how far that may carry. Where the killed process
took a device's contribution or a round with it, the accuracy has to be within two points. In no run
may a sum be opened twice, and every log has to verify.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the script runs from any folder, installed or not

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

from benchmarks.shared.local import Federation, federation, kill  # noqa: E402
from benchmarks.shared.table import Row, at_least, at_most, print_table, write_json  # noqa: E402
from tacit.app.folder import MODEL  # noqa: E402
from tacit.app.journal import signer  # noqa: E402
from tacit.app.sections import Secure  # noqa: E402
from tacit.crypto.errors import Damaged  # noqa: E402
from tacit.server.auditlog import verify  # noqa: E402

TARGETS = ("serverapp", "superlink", "superexec", "front", "supervisor", "node", "app")
DEVICES, ROUNDS, KILLS, QUICK = 4, 3, 100, 7
EXAMPLES, LENGTH = 100, 65 * 10  # of a device; of the model, softmax on digits
SETTINGS = (
    f"run.rounds={ROUNDS}",
    "run.timeout=30",
    "secure.stage_deadline=15",
    "secure.min_survivors=3",
    f"secure.max_weight={EXAMPLES}",
    "strategy.fraction_evaluate=0",
    "model.name=softmax",
    "model.backend=numpy",
    "train.momentum=0",
    "train.epochs=30",  # so that a round less costs little
    "data.partition=iid",
    f"data.limit={EXAMPLES}",
    "data.hold_out=0",
)
# A step of the code is bound / 2**(precision - 1) of a weighted update: in each coordinate of the
# mean it is STEP at most, of two runs, in every round. Training makes no difference longer: the
# loss is convex, and steps are below 2 / smoothness.
STEP = Secure().bound / 2 ** (Secure().precision - 1)
ROUNDING = 2 * ROUNDS * STEP * LENGTH**0.5
PATIENCE = 300.0  # seconds for a disturbed run


@dataclass(frozen=True, slots=True)
class Ended:
    """What is left of a run: seconds it took, its model (LENGTH,), accuracy, the devices of each
    sum that was opened, how many were opened twice, whether its log is whole."""

    seconds: float
    model: NDArray[np.float64]
    accuracy: float
    survivors: tuple[int, ...]
    twice: int
    verifies: bool

    @property
    def is_whole(self) -> bool:
        """Whether all devices were in all sums."""
        return self.survivors == (DEVICES,) * ROUNDS

    def away(self, other: "Ended") -> float:
        """How far the model is from another one, in the 2-norm."""
        return float(np.linalg.norm(self.model - other.model))


def settings() -> list[str]:
    return [word for each in SETTINGS for word in ("--set", each)]


def ended(there: Federation, name: str, seconds: float) -> Ended:
    folder = there.run_folder(name)
    events = there.events(name)
    opened = [e for e in events if e["event"] == "SumOpened"]
    twice = Counter((e["round"], e["purpose"]) for e in opened)
    last = [e for e in events if e["event"] == "RoundFinished"][-1]
    model = load_file(folder / MODEL)
    return Ended(
        seconds,
        np.concatenate([np.ravel(each) for each in model.values()]).astype(np.float64),
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


def disturbed(there: Federation, name: str, kind: str, chance: random.Random, calm: float) -> bool:
    """A run in which a process of `kind` is killed, to its end. Whether there was one to be killed.
    Raises RuntimeError if the run does not finish."""
    began = time.monotonic()
    there.tacit("run", "--name", name, *settings())
    time.sleep(max(0.0, began + chance.uniform(0.5, calm) - time.monotonic()))
    hit = False
    while not hit and there.status(name) != "finished":
        found = there.of_kind(kind)
        hit = bool(found) and kill(chance.choice(found))
        time.sleep(0.02)
    if kind == "supervisor":
        there.tacit("up")
    there.wait(name, "finished", PATIENCE)
    return hit


@dataclass(frozen=True, slots=True)
class Campaign:
    """What became of the runs in one federation; `failed` says of each that did not finish why."""

    calm: Ended
    found: list[Ended]
    failed: list[str]


def campaign(kinds: Sequence[str], seed: int, folder: Path) -> Campaign:
    """A run that is left alone, and one for each of `kinds`, with a process of it killed."""
    chance, found, failed = random.Random(seed), [], []
    with federation(folder, DEVICES, print) as there:
        began = time.monotonic()
        there.tacit("run", "--name", "calm", *settings())
        there.wait("calm", "finished", PATIENCE)
        calm = ended(there, "calm", time.monotonic() - began)
        print(f"undisturbed: {calm.seconds:.1f} s, accuracy {calm.accuracy:.3f}", flush=True)
        tries = iter(range(1_000_000))
        for kind in kinds:
            try:
                while True:
                    name, began = f"{kind}-{next(tries)}", time.monotonic()
                    if disturbed(there, name, kind, chance, calm.seconds):
                        break
            except RuntimeError as bad:
                failed.append(str(bad))
                print(f"{name}: {bad}", flush=True)
                continue
            found.append(each := ended(there, name, time.monotonic() - began))
            print(
                f"{name}: {each.seconds:.1f} s, sums of {each.survivors}, accuracy "
                f"{each.accuracy:.3f}, model {each.away(calm):.1e} away",
                flush=True,
            )
    return Campaign(calm, found, failed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} kills")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--federations", type=int, default=1, help="side by side")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    kills = QUICK if arguments.quick else arguments.kills
    seed = random.randrange(1 << 32) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    kinds, many = [TARGETS[at % len(TARGETS)] for at in range(kills)], arguments.federations
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(many) as pool:
        campaigns = list(
            pool.map(
                lambda at: campaign(kinds[at::many], seed + at, Path(folder) / str(at)), range(many)
            )
        )
    rows = rows_of(campaigns, kills)
    print_table(f"{kills} kills, {len(TARGETS)} kinds of processes", rows)
    if arguments.json is not None:
        write_json(arguments.json, "kills", rows)


def rows_of(campaigns: Sequence[Campaign], kills: int) -> list[Row]:
    pairs = [(each, one.calm) for one in campaigns for each in one.found]
    far = [each.away(calm) for each, calm in pairs if each.is_whole]
    worse = [calm.accuracy - each.accuracy for each, calm in pairs if not each.is_whole]
    seconds = [each.seconds for each, _ in pairs]
    return [
        at_least("runs that finished", len(pairs), "runs", kills),
        Row("runs in which all devices were in all sums", len(far), "runs"),
        at_most("  their models, from the undisturbed one", max(far, default=0.0), "", ROUNDING),
        Row("runs that lost a device or a round", len(worse), "runs"),
        at_most("  accuracy these lost at most", 100 * max(worse, default=0.0), "points", 2.0),
        at_most("sums opened twice", sum(each.twice for each, _ in pairs), "sums", 0),
        at_least("logs that verify", sum(each.verifies for each, _ in pairs), "logs", kills),
        Row("undisturbed", max(one.calm.seconds for one in campaigns), "s"),
        Row("disturbed, median", statistics.median(seconds), "s"),
        Row("disturbed, longest", max(seconds), "s"),
    ]


if __name__ == "__main__":
    main()
