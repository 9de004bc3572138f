"""What a supervisor looks after: a server's folder, and on one machine its devices too.

DIR                                     a server, by tacit server init: no devices
DIR/authority, DIR/server, DIR/devices  a whole federation on this machine, by tacit up
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from tacit.app import server_folder
from tacit.app.deployment import founding, link
from tacit.app.deployment.child import Spec
from tacit.app.deployment.environment import environment
from tacit.app.deployment.operators import Role
from tacit.app.deployment.places import Places
from tacit.crypto.errors import ParameterError

AUTHORITY, SERVER, DEVICES = "authority", "server", "devices"
IDLE = 1.0  # seconds between looks for messages: the server is near


@dataclass(frozen=True, slots=True)
class Fleet:
    """A server, and the vaults of its devices on this machine."""

    places: Places
    vaults: tuple[Path, ...] = ()

    def joined_mark(self) -> object:
        """Another one after each answer of the authority."""
        found = (self.places.folder / server_folder.JOINED).stat()
        return found.st_ino, found.st_mtime_ns

    @property
    def host(self) -> str:
        """That the front listens on; empty for all."""
        return link.LOOPBACK if self.vaults else ""

    def check_port(self) -> None:
        """Raises ParameterError if another process has the port that devices connect to."""
        port = server_folder.port(self.places.folder)
        if not link.is_free(self.host, port):
            raise ParameterError(
                f"another process listens on port {port}, which devices of {self.places.folder} "
                f"connect to: ss -ltnp 'sport = {port}' shows which; end it"
            )

    def front(self, port: int) -> Spec:
        """The only process that anybody outside reaches; nobody, where all is on one machine."""
        folder = self.places.folder.absolute()
        argv = (
            *(sys.executable, "-m", "tacit.server.front", str(folder)),
            *("--upstream", f"{link.LOOPBACK}:{port}"),
            *("--upstream-ca", str(link.ca_of(self.places).absolute())),
            *("--listen", f"{self.host}:{server_folder.port(folder)}"),
        )
        return link.spec(self.places, link.FRONT, argv)

    def nodes(self) -> list[Spec]:
        """A node for each device of this machine."""
        return [self._node(number, vault.absolute()) for number, vault in enumerate(self.vaults)]

    def _node(self, number: int, vault: Path) -> Spec:
        command = (sys.executable, "-m", "tacit.app.cli.main", "device", "run", str(vault))
        argv = (*command, "--config", f"partition-id={number}", "--idle", str(IDLE))
        env = environment(vault / "flwr", os.environ)
        return Spec(vault.name, argv, env, self.places.logs.absolute() / f"{vault.name}.log")

    @property
    def first_roles(self) -> tuple[Role, ...]:
        """Whose keys are made with the server."""
        return founding.LOCAL if self.vaults else founding.SERVER


def found(folder: Path) -> Fleet:
    """The fleet in a folder. Raises ParameterError if there is none."""
    if (folder / SERVER).is_dir():
        vaults = sorted((folder / DEVICES).glob("*"), key=_number)
        return Fleet(Places(folder / SERVER), tuple(vaults))
    if any(folder.glob(f"*{server_folder.REQUEST}")):
        return Fleet(Places(folder))
    raise ParameterError(
        f"no federation in {folder}: tacit up --dir {folder} makes one on this machine"
    )


def _number(vault: Path) -> tuple[int, str]:
    digits = vault.name.rpartition("-")[2]
    return (int(digits) if digits.isdigit() else 0, vault.name)
