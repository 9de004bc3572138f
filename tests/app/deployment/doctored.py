"""A server with one device in and one put out, as the commands of enrolment leave them."""

import contextlib
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from tacit.app import acts, authority, server_folder
from tacit.app.authority import opened
from tacit.app.deployment import modes
from tacit.app.deployment.places import Places
from tacit.client import enrolment
from tacit.client.policy import Policy
from tacit.client.vault import FileVault
from tacit.crypto.answers import DeviceAnswer, ServerAnswer, decode_answer
from tacit.crypto.nodekey import public_key
from tests.server.front.fronts import Standing, front, link, link_ca

NOW = int(time.time())


@dataclass(frozen=True)
class World:
    folder: Path
    port: int

    @property
    def server(self) -> Path:
        return self.folder / "server"

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def vault(self, name: str) -> Path:
        return self.folder / name

    def join(self) -> None:
        """The server goes by what the authority did last."""
        answer = decode_answer((self.folder / "authority/answers/server.answer").read_bytes())
        assert isinstance(answer, ServerAnswer)
        server_folder.join(self.server, answer, NOW)


def free_port() -> int:
    """One that the system gives to nobody by itself: it is used only later."""
    for port in range(20_000 + os.getpid() % 5000, 30_000):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


def world(folder: Path) -> World:
    port = free_port()
    found = World(folder, port)
    authority.create(folder / "authority", (), 365, NOW)
    server = server_folder.prepare(found.server, "server", ("localhost", "127.0.0.1"), port, NOW)
    devices = [enrolment.prepare(found.vault(n), n, Policy(), NOW) for n in ("one", "out")]
    with opened(folder / "authority") as acting:
        acts.enrol(acting, [server], NOW)
        acts.enrol(acting, devices, NOW)
        for name in ("one", "out"):
            answer = decode_answer((folder / f"authority/answers/{name}.answer").read_bytes())
            assert isinstance(answer, DeviceAnswer)
            enrolment.join(FileVault.open(found.vault(name)), answer, NOW)
        acts.revoke(acting, "out", "left", NOW)
    found.join()
    modes.prepare(Places(found.server))
    return found


@contextmanager
def serving(found: World) -> Iterator[Standing]:
    """SuperLink's own app, which knows the node that is in, and the front before it."""
    from flwr.superlink.main import create_app

    app = create_app()
    app.state.enable_supernode_auth = True
    state = app.state.linkstate_factory.state()
    known = server_folder.joined(found.server).nodes
    for node in known:
        state.create_node("", "", public_key_to_bytes(public_key(node.key)), 0)
    shutil.rmtree(found.folder / "inner", ignore_errors=True)
    (found.folder / "inner").mkdir()
    link_ca(found.server)
    with (
        link(found.folder / "inner", app) as port,
        front(found.server, port, listen=found.port) as standing,
    ):
        yield standing
