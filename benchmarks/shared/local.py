"""A federation of real processes on this machine, by the commands that a user types."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.shared.fresh import ONE_THREAD, QUIET

ROOT = Path(__file__).resolve().parents[2]
KINDS = MappingProxyType(
    {
        "superlink": "flower-superlink",
        "serverapp": "--serverapp",  # SuperExec's own module, so it is looked for first
        "superexec": "tacit.app.deployment.executor",
        "front": "tacit.server.front",
        "devices": " device run ",
    }
)


@dataclass(frozen=True, slots=True)
class Process:
    """One that runs, as /proc has it."""

    pid: int
    parent: int
    argv: str

    @property
    def share(self) -> float:
        """MB of memory that it holds: what it shares with others is divided among them (PSS)."""
        try:
            lines = (Path("/proc") / str(self.pid) / "smaps_rollup").read_text().splitlines()
        except OSError:  # it has ended
            return 0.0
        return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("Pss:"))


def processes(above: int) -> list[Process]:
    """All that descend from a process, itself first."""
    found = {each.pid: each for each in map(_process, _pids()) if each is not None}
    order = [above] if above in found else []
    for pid in order:
        order += [each.pid for each in found.values() if each.parent == pid]
    return [found[pid] for pid in order]


def _pids() -> Iterator[int]:
    return (int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit())


def _process(pid: int) -> Process | None:
    folder = Path("/proc") / str(pid)
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        argv = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:  # it ended while we looked
        return None
    return None if fields[0] == "Z" else Process(pid, int(fields[1]), argv)


@dataclass(frozen=True, slots=True)
class Federation:
    """What `tacit up` made in `folder`."""

    folder: Path

    def tacit(self, *words: str, patience: float = 300.0) -> str:
        """What a command prints. Raises RuntimeError with what it said if it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "tacit.app.cli.main", *words, "--dir", str(self.folder)],
            cwd=ROOT,
            env=os.environ | ONE_THREAD | QUIET,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=patience,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"tacit {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    @property
    def server(self) -> Path:
        return self.folder / "server"

    def run_folder(self, name: str) -> Path:
        return self.server / "runs" / name

    def status(self, name: str) -> str:
        try:
            return str(json.loads((self.run_folder(name) / "status.json").read_bytes())["status"])
        except (OSError, ValueError):
            return "not there"

    def events(self, name: str) -> list[dict[str, Any]]:
        """What metrics.jsonl has of a run so far."""
        path = self.run_folder(name) / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def wait(self, name: str, status: str, patience: float) -> float:
        """Seconds until a run has this status. Raises RuntimeError if it fails, or takes longer."""
        began = time.monotonic()
        while (now := self.status(name)) != status:
            spent = time.monotonic() - began
            if spent > patience or now == "failed":
                raise RuntimeError(f"run {name} is {now} after {spent:.0f} s")
            time.sleep(0.1)
        return time.monotonic() - began

    def supervisor(self) -> int:
        """Its process."""
        return int(json.loads((self.server / "supervisor.json").read_bytes())["pid"])

    def of_kind(self, kind: str) -> list[int]:
        """Processes of a kind: of KINDS, the supervisor, or of a device its node, or the app
        that the node has running."""
        there = processes(self.supervisor())
        if kind == "supervisor":
            return [each.pid for each in there[:1]]
        if kind in KINDS:
            return [each.pid for each in there if kind_of(each.argv) == kind]
        of_devices = {each.pid: each for each in there if kind_of(each.argv) == "devices"}
        depth = {
            pid: sum(above in of_devices for above in _above(pid, of_devices)) for pid in of_devices
        }
        return [pid for pid, deep in depth.items() if deep == DEPTH[kind]]


def kind_of(argv: str) -> str:
    """One of KINDS, device, or supervisor."""
    return next((kind for kind, words in KINDS.items() if words in argv), "supervisor")


DEPTH = {"node": 0, "app": 1}


def _above(pid: int, found: dict[int, Process]) -> Iterator[int]:
    while pid in found:
        pid = found[pid].parent
        yield pid


@contextmanager
def federation(folder: Path, nodes: int, say: Callable[[str], None]) -> Iterator[Federation]:
    """One that is up inside the block."""
    there = Federation(folder)
    say(f"{nodes} devices and a server start in {folder}")
    there.tacit("up", "--nodes", str(nodes))
    try:
        yield there
    finally:
        there.tacit("down")


def kill(pid: int) -> bool:
    """Whether there was such a process to be killed."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
