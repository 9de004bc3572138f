"""A deployment on the loopback: SuperLink and SuperExec as `tacit up` starts them, and nodes of
either kind, each a process. Without the front, which Flower's own nodes would have no use for."""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab

from tacit.app.config import Scalar
from tacit.app.deployment import bundle, link, local, modes
from tacit.app.deployment.child import Spec
from tacit.app.deployment.control import Control, NotDone, Unreachable
from tacit.app.deployment.environment import environment
from tacit.app.deployment.fleet import Fleet
from tacit.app.server import ORDERED
from tacit.client.device import load_policy, save_policy
from tacit.client.enrolment import ADDRESS, CA, NODE_KEY, NODE_PUBLIC
from tacit.client.vault import FileVault
from tacit.crypto.nodekey import compressed

TACIT, FLOWER = "tacit", "flower"  # whose nodes
PATIENCE = 600.0
_SEEN = {
    TACIT: re.compile(r" run (\d+): (\S+) \S*: \d"),
    FLOWER: re.compile(r"(?:\[RUN (\d+)|Receiving: (\S+) message)"),
}


class Stuck(Exception):
    """It did not come to what was waited for."""


@dataclass(frozen=True, slots=True)
class Ran:
    """One run: seconds of each round, and the messages that one node got, by their kinds."""

    seconds: list[float]
    messages: Counter[str]

    @property
    def legs(self) -> int:
        """Messages that each node gets in each round; what it gets once a run is not counted."""
        rounds = len(self.seconds)
        return sum(count // rounds for count in self.messages.values())


@dataclass(frozen=True, slots=True)
class Deployment:
    """What runs, in `fleet`'s folder; SuperLink listens on `port`."""

    fleet: Fleet
    port: int
    control: Control

    @classmethod
    @contextmanager
    def started(cls, folder: Path, devices: int) -> Iterator["Deployment"]:
        fleet = local.make(folder, devices, int(time.time()), lambda _: None)
        port = link.choose_port(0)
        modes.prepare(fleet.places)
        link.prepare(fleet.places, port, int(time.time()))
        address = f"{link.LOOPBACK}:{port}"
        for vault in fleet.vaults:
            policy = load_policy(FileVault.open(vault))  # which refuses a plain round
            save_policy(FileVault.open(vault), replace(policy, plain=True))
            (vault / ADDRESS).write_text(address + "\n")
            (vault / CA).write_bytes(link.ca_of(fleet.places).read_bytes())
        control = Control(address, link.ca_of(fleet.places))
        deployment = cls(fleet, port, control)
        with ExitStack() as stack:
            stack.enter_context(_running(link.superlink(fleet.places, port)))
            _until("SuperLink is there", lambda: _answers(control))
            stack.enter_context(_running(_superexec(fleet, port)))
            for vault in fleet.vaults:
                control.register(vault.name, _key(vault))
            yield deployment

    @contextmanager
    def nodes(self, kind: str, most: int | None = None) -> Iterator[list[int]]:
        """Nodes of one kind for the first devices, or all, online; their process numbers."""
        with ExitStack() as stack:
            vaults = self.fleet.vaults[:most]
            specs = [self._node(kind, at, vault) for at, vault in enumerate(vaults)]
            pids = [stack.enter_context(_running(spec)) for spec in specs]
            _until("all nodes are online", lambda: self._online() == len(specs))
            yield pids
        _until("all nodes are offline", lambda: self._online() == 0)

    def run(
        self, kind: str, name: str, settings: Mapping[str, Scalar], fab: bytes | None = None
    ) -> Ran:
        """A run from its beginning to its end; `kind` is of the nodes. Raises Stuck."""
        content = bundle.build() if fab is None else fab
        request = StartRunRequest(
            fab=Fab(hash_str=bundle.digest(content), content=content),
            override_config=user_config_to_proto(dict(settings)),
        )
        with self.control._asking() as client:
            number = int(client.StartRun(request).run_id)
        _until(f"run {name} is over", lambda: self.control.run(number).is_over)
        found = self.control.run(number)
        if found.how not in ("finished", "completed"):
            raise Stuck(f"run {name}: {found.how}: {found.details}")
        lines = (self.fleet.places.runs / name / "metrics.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        rounds = [each["seconds"] for each in events if each["event"] == "RoundFinished"]
        return Ran(rounds, self._messages(kind, number))

    def _messages(self, kind: str, run: int) -> Counter[str]:
        """What the first device's node says that it got, in its log."""
        text = self._log(kind, self.fleet.vaults[0]).read_text(errors="replace")
        if kind == TACIT:
            return Counter(
                what for number, what in _SEEN[TACIT].findall(text) if int(number) == run
            )
        counts, current = Counter[str](), 0
        for number, what in _SEEN[FLOWER].findall(text):
            if number:
                current = int(number)
            elif current == run:
                counts[what] += 1
        return counts

    def _online(self) -> int:
        return sum(node.is_online for node in self.control.nodes())

    def _log(self, kind: str, vault: Path) -> Path:
        return self.fleet.places.logs.absolute() / f"{kind}-{vault.name}.log"

    def _node(self, kind: str, number: int, vault: Path) -> Spec:
        vault = vault.absolute()
        told = f"partition-id={number}"
        argv = [sys.executable, "-m", "tacit.app.cli.main", "device", "run", str(vault)]
        argv += ["--config", told]
        if kind == FLOWER:
            argv = [link.script("flower-supernode"), "--superlink", f"{link.LOOPBACK}:{self.port}"]
            argv += ["--root-certificates", str(vault / CA)]
            argv += ["--auth-supernode-private-key", str(vault / NODE_KEY)]
            argv += ["--node-config", f'{told} vault="{vault}"']
            argv += ["--host", link.LOOPBACK, "--port", str(link.choose_port(0))]
        env = environment(vault / "flwr", os.environ)
        return Spec(vault.name, tuple(argv), env, self._log(kind, vault))


@contextmanager
def _running(spec: Spec) -> Iterator[int]:
    spec.log.parent.mkdir(parents=True, exist_ok=True)
    with spec.log.open("ab") as log:
        process = subprocess.Popen(
            spec.argv, env=dict(spec.env), stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def tree(pid: int) -> list[int]:
    """A process and all that it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in tree(int(child)))]


def resident(pids: list[int]) -> tuple[float, float]:
    """MB of RSS and of PSS, summed over processes. Shared pages count in each RSS, and in PSS once
    for all processes of the machine that share them."""
    rss = pss = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            rss += int(value.split()[0]) if name == "Rss" else 0
            pss += int(value.split()[0]) if name == "Pss" else 0
    return rss / 1024, pss / 1024


def _superexec(fleet: Fleet, port: int) -> Spec:
    """Flower's own: ours serves no run that the supervisor did not begin, and no other's code."""
    ours = link.superexec(fleet.places, port)
    env = {name: value for name, value in ours.env.items() if name != ORDERED}
    return replace(ours, argv=(link.script("flower-superexec"), *ours.argv[3:]), env=env)


def _key(vault: Path) -> bytes:
    """The node's, as a roster has it."""
    key = load_ssh_public_key((vault / NODE_PUBLIC).read_bytes())
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Stuck(f"{vault} has no node key")
    return compressed(key)


def _answers(control: Control) -> bool:
    try:
        control.nodes()
    except (Unreachable, NotDone):
        return False
    return True


def _until(what: str, holds: Callable[[], bool], patience: float = PATIENCE) -> None:
    end = time.monotonic() + patience
    while not holds():
        if time.monotonic() > end:
            raise Stuck(f"waited {patience:.0f} s until {what}")
        time.sleep(0.2)
