"""A federation on this machine, by a user's commands: made, run, broken, run to its end, ended."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from tacit.app.deployment import state
from tacit.app.deployment.places import Places
from tacit.app.deployment.proc import is_alive
from tacit.app.folder import MODEL, RunFolder
from tacit.app.journal import LOG
from tacit.app.sections import Secure
from tacit.server.auditlog import verify

pytestmark = [pytest.mark.runtime, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
DEVICES, ROUNDS, EXAMPLES, HELD = 3, 2, 20, 2
ASSIGN = (
    "data.partition=iid",
    f"data.limit={EXAMPLES}",
    "model.name=softmax",
    "model.backend=numpy",
    "train.momentum=0.0",
    "strategy.fraction_evaluate=0.0",
    f"run.rounds={ROUNDS}",
    f"secure.max_weight={EXAMPLES}",
    "run.timeout=30.0",  # a message that SuperLink is killed over may be lost: no longer than that
    "secure.stage_deadline=20.0",
)
# The model is that of a simulation but for the dither by which devices round, of their own secret
# randomness. A step of the code is bound / 2**(precision - 1) of a weighted update, so in the mean
# DEVICES * step * max_weight / weights at most. Training does not make a difference longer (a
# convex loss, and steps below 2 / smoothness), so it adds up over the rounds of two runs at most.
_STEP = Secure().bound / 2 ** (Secure().precision - 1)
_WEIGHTS = DEVICES * (EXAMPLES - HELD)
_LENGTH = 65 * 10  # softmax on digits
ROUNDING = 2 * ROUNDS * _LENGTH**0.5 * DEVICES * _STEP * EXAMPLES / _WEIGHTS
SETS = tuple(part for each in ASSIGN for part in ("--set", each))


class Tacit:
    """The command, with a federation in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places = Places(folder / "server")

    def __call__(self, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
        """What it said, an object a line."""
        return self.say(*arguments, "--dir", str(self.folder), code=code)

    def say(self, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-m", "tacit.app.cli.main", *arguments, "--json"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}\n{self.logs()}"
        return [json.loads(line) for line in done.stdout.splitlines()]

    def state(self) -> state.State:
        return state.read(self.places)

    def logs(self) -> str:
        """The last lines of every process."""
        return "\n".join(
            f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            for log in sorted(self.places.logs.glob("*.log"))
        )

    def wait_until_over(self, name: str) -> None:
        end = time.monotonic() + 180
        while RunFolder.open(self.places.runs / name).status() != "finished":
            assert time.monotonic() < end, self.logs()
            time.sleep(0.3)


@pytest.fixture
def tacit(tmp_path: Path) -> Iterator[Tacit]:
    command = Tacit(tmp_path / "federation")
    try:
        yield command
    finally:
        now = command.state()
        if is_alive(now.pid, now.start):  # its processes end with it
            os.kill(now.pid, signal.SIGKILL)


def of_this(folder: Path) -> list[str]:
    """Command lines of the processes that have to do with a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if str(folder).encode() in line:
            found.append(line.replace(b"\0", b" ").decode(errors="replace"))
    return found


def distance(one: Path, other: Path) -> float:
    """L2, between the models of two runs."""
    models = [load_file(folder / MODEL) for folder in (one, other)]
    return float(sum(((models[0][n] - models[1][n]) ** 2).sum() for n in models[0]) ** 0.5)


def test_a_whole_federation_by_its_commands(tacit: Tacit, tmp_path: Path) -> None:
    made = tacit("up", "--nodes", str(DEVICES))
    assert made[-1]["devices"] == DEVICES

    ran = tacit("run", "--name", "one", "--wait", *SETS)
    assert ran[-1]["rounds"] == ROUNDS
    expected = tmp_path / "expected"
    tacit.say("simulate", *SETS, "--set", f"data.devices={DEVICES}", "--out", str(expected))
    assert distance(tacit.places.runs / "one", expected) <= ROUNDING

    shown = tacit("status")
    assert (shown[-1]["online"], shown[-1]["registered"]) == (DEVICES, DEVICES)
    names = {each["process"] for each in shown if "process" in each}
    assert names == {"superlink", "superexec", "front", "site-1", "site-2", "site-3"}
    secret = tacit.places.secret.read_bytes()
    assert not [line for line in of_this(tmp_path) if "--token" in line or str(secret) in line]

    tacit("run", "--name", "two", *SETS)
    (superlink,) = (each for each in tacit.state().processes if each.name == "superlink")
    time.sleep(3)  # it is under way
    assert superlink.pid is not None
    assert is_alive(superlink.pid, superlink.start)
    os.kill(superlink.pid, signal.SIGKILL)
    tacit.wait_until_over("two")
    assert len(RunFolder.open(tacit.places.runs / "two").rounds()) == ROUNDS

    tacit("down")
    assert of_this(tmp_path) == []
    assert verify(tacit.places.folder / LOG).head.head.size > 10
    assert tacit("status", code=1)[-1]["up"] is False
