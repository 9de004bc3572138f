"""Is it safe, and does it work: everything that `tacit doctor` looks at, in the order it is told.

Nothing is changed by looking. The probes are what a stranger could do as well, so the front's log
has them: an unknown node key, plain text, paths that are not for devices.
"""

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    load_pem_public_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from tacit.app import server_folder
from tacit.app.deployment import history, machine, modes
from tacit.app.deployment.findings import Finding, careful, each, looked, ok, unknown, wrong
from tacit.app.deployment.operators import load
from tacit.app.deployment.places import Places
from tacit.app.deployment.probes import Target, outside
from tacit.app.server_folder import CA, NODES, RETIRED
from tacit.client import enrolment
from tacit.client.checks import ROSTER_SLOT
from tacit.client.device import load_device
from tacit.client.vault import FileVault
from tacit.crypto.enrolment import ServerRequest, decode_request
from tacit.crypto.errors import Damaged, ParameterError
from tacit.crypto.identity import Roster
from tacit.crypto.nodekey import compressed
from tacit.server.auditlog import verify

LARGE = 0.5  # of the room that is left: a database that may fill the disk


def of_address(target: Target) -> Iterator[Finding]:
    """A server, by who has the CA's certificate and nothing else."""
    yield from looked("from outside", lambda: outside(target))


def of_server(folder: Path) -> Iterator[Finding]:
    """A server's folder, its machine, and its port. Raises ParameterError where there is none."""
    server_folder.has_joined(folder)
    places = Places(folder)
    yield from looked("membership", lambda: _enrolment(folder))
    yield from looked("permissions", lambda: each("permissions", modes.faults(places), "as set"))
    yield from looked("operators", lambda: _operators(places))
    secrets = _secrets(places)
    yield from looked("secret files", lambda: machine.private(secrets))
    yield from looked("secrets of processes", lambda: machine.secrets_shown(secrets))
    yield from looked("user", machine.root)
    yield from looked("others on this machine", machine.others_here)
    mark = str(places.database.absolute()).encode()
    yield from looked("ports of SuperLink", lambda: machine.listeners(mark))
    yield from looked("disk", lambda: machine.disk(folder))
    yield from looked("database", lambda: _database(places))
    yield from looked("logs", lambda: _logs(places))
    yield from looked("node keys", lambda: _registered(places))
    if server_folder.has_joined(folder):
        yield from looked("from outside", lambda: _own_port(folder))


def of_device(folder: Path) -> Iterator[Finding]:
    """A device's vault, its machine, and its server. Raises ParameterError where there is none."""
    vault = FileVault.open(folder)
    yield from looked("membership", lambda: _membership(vault))
    secrets = [folder / FileVault.KEY_FILE, folder / enrolment.NODE_KEY]
    yield from looked("secret files", lambda: machine.private(secrets))
    yield from looked("secrets of processes", lambda: machine.secrets_shown(secrets))
    yield from looked("user", machine.root)
    yield from looked("disk", lambda: machine.disk(folder))
    yield from looked("server", lambda: _server_of(folder))


def _own_port(folder: Path) -> Iterator[Finding]:
    request = decode_request(next(folder.glob(f"*{server_folder.REQUEST}")).read_bytes())
    if isinstance(request, ServerRequest):
        yield from outside(Target.read(request.address, (folder / CA).read_bytes()))


def _enrolment(folder: Path) -> Iterator[Finding]:
    now = int(time.time())
    try:
        faults = server_folder.faults(folder, now)
    except (Damaged, ParameterError) as bad:
        faults = [str(bad)]
    roster = None if faults else server_folder.joined(folder).issue.roster
    fine = f"roster {roster.serial}, devices: {len(roster.members)}" if roster else ""
    yield from each("membership", faults, fine, "tacit server join, with the newest answer")
    for soon in [] if faults else server_folder.warnings(folder, now):
        yield careful("membership", soon, "bring the server, and devices, their new answers")


def _operators(places: Places) -> Iterator[Finding]:
    """That the register has those who have a role by the log, and nobody else."""
    remedy = "a running supervisor may be about to: else put the newest register back, or withdraw"
    fine = f"{len([*load(places)])} have a role, as the log says"
    yield from each("operators", history.faults(places), fine, remedy)


def _secrets(places: Places) -> list[Path]:
    named = [places.folder / server_folder.KEY, places.folder / "audit.key", places.secret]
    found = [*named, *places.front.glob("*.key"), *places.link.glob("*.key")]
    return [path for path in found if path.exists()]


def _database(places: Places) -> Iterator[Finding]:
    parts = list(places.link.glob(f"{places.database.name}*"))
    if not parts:
        yield unknown("database", "SuperLink has none yet")
        return
    size = sum(path.stat().st_size for path in parts)
    said = f"{size / 1e6:.0f} MB"
    if size > LARGE * shutil.disk_usage(places.link).free:
        yield wrong("database", said, "it grows with models: make room")
    else:
        yield ok("database", said)


def _logs(places: Places) -> Iterator[Finding]:
    for path in (places.folder / "audit.log", places.front / "audit.log"):
        try:
            whole = verify(path)
            yield ok(f"log {path}", f"{whole.head.head.size} entries, whole")
        except Damaged as bad:
            yield wrong(f"log {path}", str(bad), "tacit log verify; somebody changed it, or a disk")
        except ParameterError:
            yield unknown(f"log {path}", "there is none yet")


def _registered(places: Places) -> Iterator[Finding]:
    """What Flower knows, beside what the authority answered."""
    wanted, out = (_keys(places.folder / name) for name in (NODES, RETIRED))
    if not places.database.exists():
        yield unknown("node keys", "SuperLink has no database yet")
        return
    known = _known_to_flower(places.database)
    missing = [name for key, name in wanted.items() if key not in known]
    late = [name for key, name in out.items() if key in known]
    strange = len(known - wanted.keys() - out.keys())
    yield from each(
        "node keys",
        [f"{name} is not registered in Flower" for name in missing]
        + ([f"{strange} keys are registered that no answer names"] if strange else []),
        f"{len(wanted)} registered, as the authority answered",
        "tacit up registers and unregisters by itself: tacit status, tacit logs",
    )
    said = f"{len(out)} revoked, and the front refuses them; only who holds one could try it"
    fine = said if out else "none is revoked"
    faults = [f"{name} is still registered in Flower" for name in late]
    yield from each("revoked keys", faults, fine, "the front refuses it all the same: tacit logs")


def _keys(folder: Path) -> dict[bytes, str]:
    found = {}
    for path in folder.glob("*.pub"):
        key = load_ssh_public_key(path.read_bytes())
        if isinstance(key, ec.EllipticCurvePublicKey):
            found[compressed(key)] = path.stem
    return found


def _known_to_flower(database: Path) -> set[bytes]:
    """Keys of nodes that SuperLink lets in, 49 bytes each; read only."""
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5.0)) as db:
            rows = db.execute(
                "SELECT public_key FROM node WHERE unregistered_at IS NULL"
            ).fetchall()
    except sqlite3.Error as bad:
        raise ParameterError(f"SuperLink's database cannot be read: {bad}") from None
    found = set()
    for (text,) in rows:
        key = load_pem_public_key(text)
        if isinstance(key, ec.EllipticCurvePublicKey):
            found.add(compressed(key))
    return found


def _membership(vault: FileVault) -> Iterator[Finding]:
    device = load_device(vault)
    if (data := vault.read(ROSTER_SLOT)) is None:
        raise ParameterError("this device was shown no roster: tacit device join")
    roster = Roster.decode(data)
    roster.verify(device.authority)
    until = roster.member(device.number, now=0).valid_until
    left, day = until - time.time(), f"{datetime.fromtimestamp(until, UTC):%Y-%m-%d}"
    said = f"device {device.number}, roster {roster.serial}, until {day}"
    if left < 0:
        yield wrong("membership", f"over: {said}", "ask the authority for tacit authority renew")
    elif left < server_folder.SOON:
        yield careful("membership", said, "it ends soon: ask for tacit authority renew")
    else:
        yield ok("membership", said)


def _server_of(folder: Path) -> Iterator[Finding]:
    try:
        address = (folder / enrolment.ADDRESS).read_text("ascii").strip()
        target = Target.read(address, (folder / enrolment.CA).read_bytes())
        key = load_ssh_private_key((folder / enrolment.NODE_KEY).read_bytes(), None)
    except (OSError, ValueError, UnsupportedAlgorithm) as bad:  # a ParameterError, too
        yield wrong("server", f"this vault does not say where it is: {bad}", "tacit device join")
        return
    own = key if isinstance(key, ec.EllipticCurvePrivateKey) else None
    yield from outside(target, own)
