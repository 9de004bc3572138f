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

from tacit.app.deployment import state
from tacit.app.deployment.places import Places
from tacit.app.deployment.proc import is_alive
from tacit.app.folder import MODEL, RunFolder
from tacit.app.journal import LOG
from tacit.app.simulation import simulate
from tacit.server.auditlog import verify
from tests.app.small import small

pytestmark = [pytest.mark.runtime, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
DEVICES = 3
ASSIGN = ("data.devices=3", "run.rounds=2", "data.limit=20", "strategy.fraction_evaluate=0.0")


class Tacit:
    """The command, with a federation in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places = Places(folder / "server")

    def __call__(self, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
        """What it said, an object a line."""
        command = [sys.executable, "-m", "tacit.app.cli.main", *arguments]
        done = subprocess.run(
            [*command, "--json", "--dir", str(self.folder)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}\n{self.logs()}"
        return [json.loads(line) for line in done.stdout.splitlines()]

    def run(self, name: str, *more: str) -> list[dict[str, Any]]:
        given = [part for each in sets() for part in ("--set", each)]
        return self("run", "--name", name, *given, *more)

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


def sets() -> list[str]:
    return [*(f"{key}={value}" for key, value in SMALL_SETTINGS.items()), *ASSIGN]


SMALL_SETTINGS = {
    "data.name": "digits",
    "data.partition": "iid",
    "model.name": "softmax",
    "model.backend": "numpy",
}


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


def test_a_whole_federation_by_its_commands(tacit: Tacit, tmp_path: Path) -> None:
    made = tacit("up", "--nodes", str(DEVICES))
    assert made[-1]["devices"] == DEVICES

    # The same bits as without any network: ring sums do not depend on their order, and numpy adds
    # in one. So nothing was lost, and nothing counted twice.
    ran = tacit.run("one", "--wait")
    assert ran[-1]["rounds"] == 2
    expected = RunFolder.create(tmp_path / "expected", small(*sets()))
    with expected:
        simulate(expected.settings, folder=expected)
    one = tacit.places.runs / "one"
    assert (one / MODEL).read_bytes() == (tmp_path / "expected" / MODEL).read_bytes()

    shown = tacit("status")
    assert (shown[-1]["online"], shown[-1]["registered"]) == (DEVICES, DEVICES)
    names = {each["process"] for each in shown if "process" in each}
    assert names == {"superlink", "superexec", "front", "site-1", "site-2", "site-3"}
    secret = tacit.places.secret.read_bytes()
    assert not [line for line in of_this(tmp_path) if "--token" in line or str(secret) in line]

    tacit.run("two")
    (superlink,) = (each for each in tacit.state().processes if each.name == "superlink")
    time.sleep(3)  # it is under way
    assert superlink.pid is not None
    assert is_alive(superlink.pid, superlink.start)
    os.kill(superlink.pid, signal.SIGKILL)
    tacit.wait_until_over("two")
    assert len(RunFolder.open(tacit.places.runs / "two").rounds()) == 2

    tacit("down")
    assert of_this(tmp_path) == []
    assert verify(tacit.places.folder / LOG).head.head.size > 10
    assert tacit("status", code=1)[-1]["up"] is False
