"""Flower's own processes on a server: what is made for them, and how each is started.

    link/ca.crt                         a certificate authority for the loopback only
    link/link.key, link/link.crt        SuperLink's key and certificate, for 127.0.0.1
    link/superexec.secret               without it nobody is handed a run
    link/superlink.db                   Flower's runs, nodes, and what is under way

Nobody but processes of this machine reaches SuperLink, and those that read link/ own it: the key of
its authority is thrown away when the certificate is made, so there is nothing to steal it with.
"""

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from tacit.app.certificates import DAY, certify, new_ca
from tacit.app.deployment.child import Spec
from tacit.app.deployment.environment import environment
from tacit.app.deployment.places import Places
from tacit.app.server import ORDERED, ROSTER, RUNS
from tacit.app.server_folder import ROSTER as ROSTER_FILE
from tacit.client.files import SHARED_MODE, replace_file
from tacit.crypto.certificate import pem
from tacit.crypto.errors import ParameterError
from tacit.crypto.nodekey import RAND_BYTES, NodeKey

LOOPBACK = "127.0.0.1"
SECRET_BYTES = 32
DAYS = 3650
SOON = 30 * DAY
SUPERLINK, SUPEREXEC, FRONT = OURS = "superlink", "superexec", "front"
PORTS = range(20_000, 30_000)  # none that the system gives to connections going out
TRIES = 100
POLL = "FLWR_SUPEREXEC_TASK_POLL_INTERVAL"


def ca_of(places: Places) -> Path:
    return places.link / "ca.crt"


def prepare(places: Places, port: int, now: int) -> None:
    """Make what is missing in link/ and flwr/; a certificate that ends soon is made anew."""
    if not _is_good(places, now):
        _certify(places, now)
    if not places.secret.exists():
        replace_file(places.secret, os.urandom(SECRET_BYTES))
    replace_file(
        places.flwr / "config.toml",
        f'[superlink]\ndefault = "tacit"\n\n[superlink.tacit]\naddress = "{LOOPBACK}:{port}"\n'
        f'root-certificates = "{ca_of(places).absolute()}"\n'.encode(),
    )


def superlink(places: Places, port: int) -> Spec:
    """SuperLink, on the loopback, with a database that outlives it."""
    link = places.link.absolute()
    argv = (
        script("flower-superlink"),
        *("--host", LOOPBACK, "--port", str(port)),
        *("--ssl-certfile", str(link / "link.crt"), "--ssl-keyfile", str(link / "link.key")),
        *("--ssl-ca-certfile", str(link / "ca.crt")),
        "--enable-supernode-auth",
        *("--database", str(places.database.absolute())),
        *("--isolation", "process"),
        *("--superexec-auth-secret-file", str(places.secret.absolute())),
        "--disable-runtime-dependency-installation",
    )
    return spec(places, SUPERLINK, argv, grace=8.0)


def superexec(places: Places, port: int) -> Spec:
    """SuperExec, which starts the ServerApp of a run, and tells it where things are."""
    argv = (
        *(sys.executable, "-m", "tacit.app.deployment.executor"),
        *("--runtime-api-address", f"{LOOPBACK}:{port}"),
        *("--root-certificates", str(ca_of(places).absolute())),
        *("--superexec-auth-secret-file", str(places.secret.absolute())),
    )
    made = spec(
        places,
        SUPEREXEC,
        argv,
        {
            ROSTER: str((places.folder / ROSTER_FILE).absolute()),
            RUNS: str(places.runs.absolute()),
            ORDERED: "1",
            POLL: "1.0",
        },
    )
    return replace(made, folder=places.tracked.absolute())


def spec(
    places: Places,
    name: str,
    argv: tuple[str, ...],
    more: Mapping[str, str] = MappingProxyType({}),
    grace: float = 5.0,
) -> Spec:
    """One of the server's processes."""
    env = environment(places.flwr.absolute(), os.environ, **more)
    return Spec(name, argv, env, places.logs.absolute() / f"{name}.log", grace)


def script(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def choose_port(kept: int) -> int:
    """A port of the loopback that nobody listens on: the one kept from before, if it is free, so
    that what was told of it stays true."""
    for port in filter(None, (kept, *(_drawn() for _ in range(TRIES)))):
        if is_free(LOOPBACK, port):
            return port
    raise ParameterError(f"no port of {LOOPBACK} is free between {PORTS.start} and {PORTS.stop}")


def is_free(host: str, port: int) -> bool:
    """Whether nobody listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _drawn() -> int:
    return PORTS.start + int.from_bytes(os.urandom(4)) % len(PORTS)


def _is_good(places: Places, now: int) -> bool:
    try:
        ca = load_pem_x509_certificate(ca_of(places).read_bytes())
        found = load_pem_x509_certificate((places.link / "link.crt").read_bytes())
        key = load_pem_private_key((places.link / "link.key").read_bytes(), None)
        found.verify_directly_issued_by(ca)
    except (OSError, ValueError, TypeError, InvalidSignature):
        return False
    is_ours = key.public_key() == found.public_key()
    return is_ours and found.not_valid_after_utc.timestamp() > now + SOON


def _certify(places: Places, now: int) -> None:
    authority, key = (NodeKey(os.urandom(RAND_BYTES)) for _ in range(2))
    ca = new_ca(authority, now, DAYS)
    certificate = certify(ca, authority, key.public, (LOOPBACK, "localhost"), now, DAYS)
    replace_file(places.link / "link.key", key.pem())
    replace_file(places.link / "link.crt", pem(certificate), SHARED_MODE)
    replace_file(ca_of(places), pem(ca), SHARED_MODE)
