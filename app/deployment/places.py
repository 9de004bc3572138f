"""Where everything of a deployed server is on disk, in the folder of `tacit server init`.

server.key, server.crt, ca.crt, roster.bin, nodes/, retired/   of enrolment: `server_folder`
audit.log, audit.key   the supervisor's own log: processes, orders, nodes
front/                 the front's own log: who was turned away, and why
link/                  what SuperLink has: TLS for the loopback, SuperExec's secret, database
flwr/                  FLWR_HOME of all of Flower's processes on this machine
runs/NAME/             one run each, as `tacit.app.folder` says
operators, keys/       who may order what, and the first keys: `operators`
inbox/                 orders of operators that are not yet taken
orders/                orders that were taken, for as long as a copy of one could pass: `taken`
tracked/               where ServerApps work, and what trackers (run.track) write
released/              models that a releaser let out
logs/NAME.log          what each process printed
supervisor.json        which processes there are, and the ports of the loopback
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Places:
    """The paths in one server's folder. Nothing is made by naming them."""

    folder: Path

    @property
    def front(self) -> Path:
        return self.folder / "front"

    @property
    def link(self) -> Path:
        return self.folder / "link"

    @property
    def database(self) -> Path:
        return self.link / "superlink.db"

    @property
    def secret(self) -> Path:
        """Of SuperExec: whoever can read it can take a ServerApp's place."""
        return self.link / "superexec.secret"

    @property
    def flwr(self) -> Path:
        return self.folder / "flwr"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def operators(self) -> Path:
        return self.folder / "operators"

    @property
    def keys(self) -> Path:
        return self.folder / "keys"

    @property
    def orders(self) -> Path:
        return self.folder / "orders"

    @property
    def inbox(self) -> Path:
        return self.folder / "inbox"

    @property
    def released(self) -> Path:
        return self.folder / "released"

    @property
    def tracked(self) -> Path:
        return self.folder / "tracked"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def state(self) -> Path:
        return self.folder / "supervisor.json"


def server_in(folder: Path) -> Places:
    """The server's folder, or the one in the folder of a local federation."""
    return Places(folder / "server" if (folder / "server").is_dir() else folder)
