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
from tacit.client.enrolment import ADDRESS, CA, NODE_KEY
from tacit.crypto.errors import ParameterError

AUTHORITY, SERVER, DEVICES = "authority", "server", "devices"


@dataclass(frozen=True, slots=True)
class Fleet:
    """A server, and the vaults of its devices on this machine."""

    places: Places
    vaults: tuple[Path, ...] = ()

    def joined_mark(self) -> object:
        """Another one after each answer of the authority."""
        found = (self.places.folder / server_folder.JOINED).stat()
        return found.st_ino, found.st_mtime_ns

    def front(self, port: int) -> Spec:
        """The only process that anybody outside reaches; nobody, where all is on one machine."""
        folder = self.places.folder.absolute()
        listen = f"{link.LOOPBACK if self.vaults else ''}:{server_folder.port(folder)}"
        argv = (
            *(sys.executable, "-m", "tacit.server.front", str(folder)),
            *("--upstream", f"{link.LOOPBACK}:{port}"),
            *("--upstream-ca", str(link.ca_of(self.places).absolute())),
            *("--listen", listen),
        )
        return link.spec(self.places, link.FRONT, argv)

    def nodes(self) -> list[Spec]:
        """A node for each device of this machine."""
        found = []
        for number, vault in enumerate(self.vaults):
            vault = vault.absolute()
            argv = (
                link.script("flower-supernode"),
                *("--superlink", (vault / ADDRESS).read_text().strip()),
                *("--root-certificates", str(vault / CA)),
                *("--auth-supernode-private-key", str(vault / NODE_KEY)),
                *("--node-config", f'vault="{vault}" partition-id={number}'),
                *("--port", str(link.choose_port(0))),
            )
            env = environment(vault / "flwr", os.environ, **{link.POLL: "0.2"})
            log = self.places.logs.absolute() / f"{vault.name}.log"
            found.append(Spec(vault.name, argv, env, log, grace=5.0))
        return found

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
