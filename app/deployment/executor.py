"""Flower's SuperExec, with ServerApps that get their token through a pipe.

Flower hands a ServerApp the token of its task as an argument, which every user of the machine can
read, and throws away what it prints. Here the token goes over standard input, and what is printed
to SuperExec's own log. And of bundles none is executed but Tacit's own. The rest is Flower's:
`flwr.supercore.superexec` 1.41, whose executor is replaced by this one.
"""

import argparse
import subprocess
import sys
from dataclasses import dataclass, field
from queue import Queue

from flwr.cli.install import install_from_fab
from flwr.supercore.cli.flower_superexec import flower_superexec
from flwr.supercore.constant import TaskType
from flwr.supercore.logger import mirror_output_to_queue, restore_output
from flwr.supercore.superexec import run_superexec as superexec
from flwr.supercore.superexec.executor.types import ExecutionSpec, LaunchResult
from flwr.supercore.tls import validate_and_resolve_root_certificates
from flwr.superlink.runtime import run_serverapp

from tacit.app.deployment import bundle
from tacit.app.deployment.proc import dying_with_parent
from tacit.crypto.errors import PolicyRefusal

SERVERAPP = "--serverapp"  # this module, as the process of one ServerApp


@dataclass(slots=True)
class Executor:
    """Starts a process for each ServerApp, and for nothing else that Flower could run."""

    _running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def get_eligible_capacity(
        self,
        supported_task_types: set[TaskType],
        *,
        insecure: bool = False,
        root_certificates_path: str | None = None,
    ) -> tuple[set[TaskType], set[str]]:
        return {TaskType.SERVER_APP} & supported_task_types, set()

    def wait_for_capacity(
        self,
        task_type: TaskType | None = None,
        *,
        fab_hash: str | None = None,
        insecure: bool = False,
        root_certificates_path: str | None = None,
    ) -> None:
        """There is always room: one run at a time is the supervisor's to see to."""

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        argv = [
            *(sys.executable, "-m", "tacit.app.deployment.executor", SERVERAPP),
            *("--runtime-api-address", spec.runtime_api_address),
            *("--root-certificates", str(spec.root_certificates_path)),
            *("--parent-pid", str(spec.parent_pid)),
        ]
        started = subprocess.Popen(  # noqa: S603
            argv,
            stdin=subprocess.PIPE,
            preexec_fn=dying_with_parent(),
        )
        if started.stdin is not None:
            with started.stdin as pipe:
                pipe.write(spec.token.encode() + b"\n")
        self._running.append(started)
        return LaunchResult.accepted()

    def close(self) -> None:
        """They end with this process."""

    def reconcile(self) -> None:
        """Ask how those that ended did: until then they are there."""
        self._running = [each for each in self._running if each.poll() is None]


def serverapp() -> None:
    """One ServerApp: the token of its task comes on standard input."""
    parser = argparse.ArgumentParser()
    parser.add_argument(SERVERAPP, action="store_true")
    for name in ("--runtime-api-address", "--root-certificates"):
        parser.add_argument(name, required=True)
    parser.add_argument("--parent-pid", type=int, required=True)
    given = parser.parse_args()
    token = sys.stdin.readline().strip()
    sys.modules[run_serverapp.__module__].install_from_fab = install  # type: ignore[attr-defined]
    said: Queue[str | None] = Queue()
    mirror_output_to_queue(said)
    run_serverapp(
        runtime_api_address=given.runtime_api_address,
        log_queue=said,
        token=token,
        insecure=False,
        certificates=validate_and_resolve_root_certificates(given.root_certificates, False),
        parent_pid=given.parent_pid,
    )
    restore_output()


def install(content: bytes, **_: object) -> None:
    """In the place of Flower's: of a ServerApp's bundle no code is installed but Tacit's own, which
    is none. Raises PolicyRefusal for any other.

    Flower asks nobody on its Control API who they are: whoever is on this machine can hand in a
    run, and without this its code would be executed as the server's user.
    """
    if bundle.digest(content) != bundle.digest(bundle.build()):
        raise PolicyRefusal("a run of a bundle that is not Tacit's own: nothing of it is executed")
    install_from_fab(content, skip_prompt=True)


def main() -> None:
    """SuperExec, or one of its ServerApps."""
    if SERVERAPP in sys.argv:
        serverapp()
        return
    superexec.get_executor = lambda *_, **__: Executor()  # type: ignore[attr-defined]
    flower_superexec()


if __name__ == "__main__":
    main()
