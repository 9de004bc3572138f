"""A server's side of enrolment: its TLS key, and what the authority answered.

    server.key   made here, mode 0600, and never sent; NAME.request has its public half
    joined       the last answer: what the server goes by, and whom it believes
    server.crt, ca.crt, roster.bin, nodes/, retired/   read from it, for Flower and TACIT_ROSTER

`join` takes a newer answer as it took the first: each act of the authority has one for the server.
The first one is taken on trust, once its fingerprint was compared; it says who the authority is and
who has to approve what it does, and later ones have to say the same. What that cannot withstand is
somebody who can write into this folder.
"""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import urandom
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tacit.app.certificates import DAY, SKEW, check_server
from tacit.client.files import SHARED_MODE, new_file, new_folder, replace_file
from tacit.client.vault import locked
from tacit.crypto.answers import Node, ServerAnswer, check_newer, decode_answer
from tacit.crypto.certificate import ends_at, pem
from tacit.crypto.enrolment import ServerRequest, decode_request
from tacit.crypto.errors import Damaged, ParameterError
from tacit.crypto.nodekey import RAND_BYTES, NodeKey, compressed, openssh_line

KEY, REQUEST, JOINED, LOCK = "server.key", ".request", "joined", "server.lock"
CERTIFICATE, CA, ROSTER, NODES, RETIRED = "server.crt", "ca.crt", "roster.bin", "nodes", "retired"
PORT = 9092
SOON = 30 * DAY  # before an end that `check` warns of


@dataclass(frozen=True, slots=True)
class Served:
    """A server that joined; files of nodes that are to be registered, and not to be, in Flower."""

    answer: ServerAnswer
    register: tuple[Path, ...]
    unregister: tuple[Path, ...]


def prepare(folder: Path, name: str, hosts: tuple[str, ...], port: int, now: int) -> ServerRequest:
    """Make a server's folder, with a key and a request for the authority.

    Raises ParameterError for a name or a host that is none, or if something is in the folder.
    """
    key = NodeKey(urandom(RAND_BYTES))
    request = ServerRequest.signed(name, now, hosts, port, key)
    with new_folder(folder) as fresh:
        new_file(fresh / KEY, key.pem())
        new_file(fresh / f"{name}{REQUEST}", request.encode(), SHARED_MODE)
    return request


def join(folder: Path, answer: ServerAnswer, now: int) -> Served:
    """Go by this answer from now on. It may be stopped and started over at any point.

    Raises ParameterError, and nothing has changed, for an answer to somebody else's request, one of
    another authority or with other approvers than before, one older than what is here, and where
    the clock is wrong or a certificate over.
    """
    request = _request(folder)
    with _alone(folder):
        if answer.name != request.name or answer.key != request.key:
            raise ParameterError(
                f"the answer is for {answer.name}, with another key than that of {folder}: it is "
                "for another server, or to an earlier request of this one"
            )
        if answer.issue.issued > now + SKEW:
            raise ParameterError(
                f"the answer was made {answer.issue.issued - now} s from now, by this machine's "
                "clock: set the clock"
            )
        if (held := _joined(folder)) is not None:
            _check_trust(held, answer)
            check_newer(held.issue.roster, answer.issue.roster)
        check_server(answer.issue.ca, answer.certificate, request.hosts, now)
        replace_file(folder / JOINED, answer.encode(), SHARED_MODE)
        return _spread(folder, answer)


def has_joined(folder: Path) -> bool:
    """Whether there was a first answer. Raises ParameterError where there is no server."""
    _request(folder)
    return (folder / JOINED).exists()


def joined(folder: Path) -> ServerAnswer:
    """What the server goes by. Raises ParameterError if it has not joined, Damaged if that was
    altered, or its roster is not approved by one of its authority's approvers."""
    found = _joined(folder)
    if found is None:
        raise ParameterError(f"{folder} has joined no authority: tacit server join")
    return found


def port(folder: Path) -> int:
    """That devices connect to. Raises ParameterError where there is no server."""
    return _request(folder).port


def faults(folder: Path, now: int) -> list[str]:
    """Everything that is wrong with a server's folder, in words; nothing is changed.

    Raises as `joined`, and ParameterError where there is no server.
    """
    request, answer = _request(folder), joined(folder)
    found = []
    try:
        check_server(answer.issue.ca, answer.certificate, request.hosts, now)
    except (Damaged, ParameterError) as wrong:
        found.append(str(wrong))
    if answer.issue.issued > now + SKEW:
        found.append("this machine's clock is before the authority's last act: set the clock")
    if _key_of(folder) != answer.key:
        found.append(f"{folder / KEY} is not the key that was certified")
    if stat.S_IMODE((folder / KEY).stat().st_mode) & 0o077:
        found.append(f"others can read {folder / KEY}: chmod 600")
    for name, content in _files(answer).items():
        if not _holds(folder / name, content):
            found.append(
                f"{folder / name} is not as it was answered: tacit server join writes it again"
            )
    over = [each.device for each in answer.issue.roster.members if each.valid_until < now]
    if over:
        found.append(f"memberships are over: devices {', '.join(map(str, over[:20]))}")
    return found


def warnings(folder: Path, now: int) -> list[str]:
    """What ends within 30 days, in words."""
    answer = joined(folder)
    ends = {
        "the server's certificate": ends_at(answer.certificate),
        "the CA's certificate": ends_at(answer.issue.ca),
    }
    members = [each.valid_until for each in answer.issue.roster.members]
    if members:
        ends["a membership"] = min(members)
    return [
        f"{what} ends in {(end - now) // DAY} days: tacit authority renew"
        for what, end in ends.items()
        if now <= end < now + SOON
    ]


def _spread(folder: Path, answer: ServerAnswer) -> Served:
    """Write what Flower and the ServerApp read, the roster last."""
    for name in (NODES, RETIRED):
        (folder / name).mkdir(mode=0o700, exist_ok=True)
    files = _files(answer)
    for path in (folder / NODES).glob("*.pub"):
        if f"{NODES}/{path.name}" not in files:
            path.unlink()
    for name, content in files.items():
        if not _holds(folder / name, content):  # of thousands of nodes, few are new
            replace_file(folder / name, content, SHARED_MODE)
    return Served(
        answer,
        tuple(folder / NODES / _file(node) for node in answer.nodes),
        tuple(folder / RETIRED / _file(node) for node in answer.retired),
    )


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _files(answer: ServerAnswer) -> dict[str, bytes]:
    files = {CERTIFICATE: pem(answer.certificate), CA: pem(answer.issue.ca)}
    for place, nodes in ((NODES, answer.nodes), (RETIRED, answer.retired)):
        for node in nodes:
            files[f"{place}/{_file(node)}"] = openssh_line(node.key, node.name)
    return {**files, ROSTER: answer.issue.roster.encode()}


def _file(node: Node) -> str:
    """By its key, too: a device that was rotated has had several."""
    return f"{node.device}-{node.name}-{node.key[1:5].hex()}.pub"


def _check_trust(held: ServerAnswer, answer: ServerAnswer) -> None:
    ours, theirs = held.issue.trust, answer.issue.trust
    if ours.authority != theirs.authority:
        raise ParameterError(
            f"this server has joined the authority {ours.fingerprint}, and the answer is of "
            f"{theirs.fingerprint}: another one takes a new folder"
        )
    if ours != theirs:
        raise ParameterError(
            "the answer names other approvers than this server knows: a stolen authority's key can "
            "do that, and nobody else"
        )


def _request(folder: Path) -> ServerRequest:
    paths = list(folder.glob(f"*{REQUEST}"))
    if not paths:
        raise ParameterError(f"no server in {folder}: tacit server init makes one")
    found = decode_request(paths[0].read_bytes())
    if len(paths) > 1 or not isinstance(found, ServerRequest):
        raise Damaged(f"{folder} has requests that are not its own: {', '.join(map(str, paths))}")
    return found


def _joined(folder: Path) -> ServerAnswer | None:
    try:
        found = decode_answer((folder / JOINED).read_bytes())
    except FileNotFoundError:
        return None
    except Damaged as bad:
        raise Damaged(f"{folder / JOINED}: {bad}") from None
    if not isinstance(found, ServerAnswer):
        raise Damaged(f"{folder / JOINED} is a device's")
    return found


def _key_of(folder: Path) -> bytes:
    try:
        key = load_pem_private_key((folder / KEY).read_bytes(), None)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return compressed(key.public_key())
    except (OSError, ValueError, TypeError):  # a ParameterError, too
        pass
    raise Damaged(f"{folder / KEY} is not there, or damaged")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        with locked(folder / LOCK, wait=False):
            yield
    except BlockingIOError:
        raise ParameterError(f"another process is at work in {folder}") from None
