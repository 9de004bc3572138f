"""A SuperLink of its own for a benchmark: TLS, node keys, a database in a file, nothing of ours.

What ServerApp there is (`asking_app`) asks every node `legs` times and writes how long each leg
took; the nodes are light stand-ins, see `light_nodes`.
"""

import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import RegisterNodeRequest, StartRunRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from tacit.app.certificates import certify, new_ca
from tacit.crypto.certificate import pem
from tacit.crypto.nodekey import RAND_BYTES, NodeKey

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
START_S = 60.0
RESULT = "TACIT_BENCHMARK_RESULT"
PYPROJECT = b"""[project]
name = "load"
version = "1.0.0"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "tacit"
[tool.flwr.app.components]
serverapp = "asking_app:app"
clientapp = "asking_app:nobody"
[tool.flwr.app.config]
legs = 1
size = 1
nodes = 1
"""


@dataclass(frozen=True, slots=True)
class SuperLink:
    """One that runs. `ca` is the file that its nodes trust."""

    port: int
    ca: Path
    database: Path
    result: Path
    process: "subprocess.Popen[bytes]"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cpu(self) -> float:
        """Seconds of CPU that the SuperLink itself has used, without its ServerApps."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Its resident memory in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024

    def stored(self) -> int:
        """Bytes of its database, with what is not merged yet."""
        return sum(path.stat().st_size for path in self.database.parent.glob("link.db*"))

    def control(self) -> ControlHttpClient:
        """Of its control interface, on which nobody is asked who they are."""
        version = RuntimeVersionHttpInterceptor(component_name="flwr CLI")
        return ControlHttpClient.from_server_address(
            self.address, False, str(self.ca), interceptors=[version]
        )

    def register(self, keys: list[NodeKey]) -> list[int]:
        """Node ids of nodes with these keys."""
        control = self.control()
        return [
            control.RegisterNode(
                RegisterNodeRequest(public_key=public_key_to_bytes(k.key.public_key()))
            ).node_id
            for k in keys
        ]

    def ask(self, legs: int, size: int, nodes: int) -> int:
        """Start the ServerApp that asks; the id of its run."""
        app = Path(__file__).with_name("asking_app.py").read_bytes()
        content, _ = build_fab_from_files({"pyproject.toml": PYPROJECT, "asking_app.py": app})
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        config = user_config_to_proto({"legs": legs, "size": size, "nodes": nodes})
        request = StartRunRequest(fab=fab_to_proto(fab), override_config=config)
        return self.control().StartRun(request).run_id


@contextmanager
def superlink(folder: Path) -> Iterator[SuperLink]:
    """A SuperLink while inside. Raises RuntimeError if it does not start."""
    now, (ca_key, key) = int(time.time()), (NodeKey(os.urandom(RAND_BYTES)) for _ in range(2))
    ca = new_ca(ca_key, now, 2)
    certificate = certify(ca, ca_key, key.public, ("127.0.0.1",), now, 1)
    files = {"ca.crt": pem(ca), "link.crt": pem(certificate), "link.key": key.pem()}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    programs = str(Path(sys.executable).parent)
    command = [f"{programs}/flower-superlink"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--enable-supernode-auth"]
    command += [
        "--ssl-certfile",
        str(folder / "link.crt"),
        "--ssl-keyfile",
        str(folder / "link.key"),
    ]
    command += ["--ssl-ca-certfile", str(folder / "ca.crt")]
    command += ["--database", str(folder / "link.db")]
    result = folder / "result.json"
    path = f"{programs}:{os.environ['PATH']}"  # on which a SuperLink looks for Flower's others
    env = (
        os.environ | QUIET | {"FLWR_HOME": str(folder / "flwr"), RESULT: str(result), "PATH": path}
    )
    with (folder / "link.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env)
    link = SuperLink(port, folder / "ca.crt", folder / "link.db", result, process)
    try:
        _wait(link)
        yield link
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(link: SuperLink) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and link.process.poll() is None:
        try:
            if httpx.get(f"https://{link.address}/health", verify=str(link.ca)).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    log = (link.ca.parent / "link.log").read_text()[-500:]
    raise RuntimeError(f"the SuperLink did not start: {log}")
