"""A whole federation on one machine: its authority, its server and its devices, all enrolled.

The same acts as on machines apart, by the same functions, and nothing else: what is made here can
be looked at, changed and learnt from with `tacit authority`, `tacit device` and `tacit server`.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tacit.app import acts, server_folder
from tacit.app import authority as authorities
from tacit.app.config import Settings
from tacit.app.deployment.fleet import AUTHORITY, DEVICES, SERVER, Fleet, found
from tacit.app.deployment.link import LOOPBACK, choose_port
from tacit.client import enrolment
from tacit.client.device import is_enrolled
from tacit.client.files import new_folder
from tacit.client.vault import FileVault
from tacit.crypto.answers import DeviceAnswer, ServerAnswer, decode_answer
from tacit.crypto.errors import ParameterError

DAYS = 365
LEAST = 3  # devices: fewer are no cohort that a device's default policy agrees to
NODES = 4

Say = Callable[[str], None]


def make(folder: Path, nodes: int, now: int, say: Say) -> Fleet:
    """Make a federation in `folder`, where nothing may be. It is there when all of it is.

    Raises ParameterError for fewer nodes than a device would be summed with.
    """
    if nodes < LEAST:
        raise ParameterError(f"--nodes {nodes}: with fewer than {LEAST} no device takes part")
    with new_folder(folder) as fresh:
        authorities.create(fresh / AUTHORITY, [], DAYS, now)
        say(f"{folder / AUTHORITY}: an authority, which says who is in")
        hosts = (LOOPBACK, "localhost")
        request = server_folder.prepare(fresh / SERVER, SERVER, hosts, choose_port(0), now)
        say(f"{folder / SERVER}: a server at {request.address}")
        policy = Settings().policy.policy(plain=False)
        names = [f"site-{number}" for number in range(1, nodes + 1)]
        asked = [enrolment.prepare(fresh / DEVICES / name, name, policy, now) for name in names]
        say(f"{folder / DEVICES}: {nodes} devices, each with keys of its own")
        with authorities.opened(fresh / AUTHORITY) as authority:
            answers = acts.enrol(authority, [request, *asked], now)
        _join(fresh, answers, now)
        say("all of them enrolled: they have one roster, signed by the authority")
    return found(folder)


def _join(folder: Path, answers: list[Path], now: int) -> None:
    for path in answers:
        answer = decode_answer(path.read_bytes())
        if isinstance(answer, ServerAnswer):
            server_folder.join(folder / SERVER, answer, now)
        elif isinstance(answer, DeviceAnswer):
            enrolment.join(FileVault.open(folder / DEVICES / answer.name), answer, now)


def is_empty(folder: Path) -> bool:
    """Whether a federation can be made there."""
    with suppress(FileNotFoundError):
        return not any(folder.iterdir())
    return True


def are_enrolled(fleet: Fleet) -> bool:
    return all(is_enrolled(FileVault.open(vault)) for vault in fleet.vaults)
