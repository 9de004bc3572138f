"""A server as anybody on the network sees it: what its port answers, and to whom."""

import ssl
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from os import urandom
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tacit.app.certificates import DAY, new_ca
from tacit.app.deployment.asking import Answer, ask, connect, handshake, sent_in_plain
from tacit.app.deployment.findings import Finding, careful, ok, unknown, wrong
from tacit.crypto.certificate import pem
from tacit.crypto.errors import ParameterError
from tacit.crypto.nodekey import RAND_BYTES, NodeKey

SOON = 30 * DAY
BEHIND, AHEAD = 300, 5  # seconds that Flower lets a node's clock be off
ACTIVATE = "/v1/fleet/activate-node"
CLOSED = {
    "control": ("/v1/control/list-runs", "/v1/control/start-run", "/v1/control/register-node"),
    "runtime": ("/v1/runtime/acquire-task", "/v1/runtime/pull-task-input"),
    "docs": ("/docs", "/openapi.json", "/redoc", "/"),
}
FRONT = "only tacit.server.front may listen there: tacit up starts it"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a server is, and the CA, in PEM, that vouches for it."""

    host: str
    port: int
    ca: bytes

    @classmethod
    def read(cls, address: str, ca: bytes) -> Self:
        """Raises ParameterError unless it is HOST:PORT."""
        host, _, port = address.strip().rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise ParameterError(f"{address[:80]!r} is no HOST:PORT")
        return cls(host.strip("[]"), int(port), ca)

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def outside(target: Target, key: ec.EllipticCurvePrivateKey | None = None) -> Iterator[Finding]:
    """Everything that can be seen from here; with a device's `key`, whether it would be let in."""
    try:
        connect(target.host, target.port).close()
    except OSError as bad:
        yield wrong(
            "reachable",
            f"{target.address}: {bad.strerror or bad}",
            "is the server up (tacit status), its name right, and the port open in between?",
        )
        yield unknown("everything else from outside", "nothing answers there")
        return
    yield ok("reachable", target.address)
    yield from _plain(target)
    yield from _stranger_ca(target)
    try:
        served, version = handshake(target.host, target.port, _trusting(target.ca))
    except ssl.SSLError as bad:
        yield wrong("certificate", _words(bad), _remedy(bad))
        return
    yield from _certificate(served)
    yield from _old_tls(target, version)
    yield from _answers(target)
    yield from _keys(target)
    if key is not None:
        yield from _own_key(target, key)


def _plain(target: Target) -> Iterator[Finding]:
    what, said = "plain text", sent_in_plain(target.host, target.port)
    if said.startswith(b"HTTP/"):
        yield wrong(what, "it is answered: whoever is in between can read and change all", FRONT)
    else:
        yield ok(what, "refused")


def _stranger_ca(target: Target) -> Iterator[Finding]:
    other = pem(new_ca(NodeKey(urandom(RAND_BYTES)), int(time.time())))
    try:
        handshake(target.host, target.port, _trusting(other))
    except ssl.SSLCertVerificationError:
        yield ok("wrong CA", "refused by this machine")
    except OSError as bad:
        yield unknown("wrong CA", _words(bad))
    else:
        yield wrong("wrong CA", "a CA made this moment passes", "TLS of this machine is broken")


def _certificate(served: x509.Certificate) -> Iterator[Finding]:
    ends = int(served.not_valid_after_utc.timestamp())
    names = served.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    shown = ", ".join(str(name.value) for name in names)
    left = ends - int(time.time())
    said = f"good, for {shown}; {left // DAY} days left"
    if left < SOON:
        yield careful("certificate", said, "tacit authority renew, then tacit server join")
    else:
        yield ok("certificate", said)


def _old_tls(target: Target, version: str) -> Iterator[Finding]:
    context = _trusting(target.ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        handshake(target.host, target.port, context)
    except OSError:
        yield ok("TLS", f"{version}, and nothing older")
    else:
        yield wrong("TLS", "version 1.2 is taken as well", FRONT)


def _answers(target: Target) -> Iterator[Finding]:
    """What the port answers to who has the CA's certificate and nothing else."""
    health = _ask(target, "GET", "/health")
    if health.status == 200:
        yield ok("SuperLink", "it is there, behind the front")
    else:
        yield wrong("SuperLink", f"health says {health.status}", "tacit status, tacit logs")
    yield from _clock(health)
    for what, paths in CLOSED.items():
        seen = [
            f"{method} {path}: {answer.status}"
            for path in paths
            for method in ("GET", "POST")
            if not _is_nothing(answer := _ask(target, method, path))
        ]
        if seen:
            yield wrong(f"{what} closed", "; ".join(seen), FRONT)
        else:
            yield ok(f"{what} closed", f"{len(paths)} paths answer 404 and nothing else")


def _clock(answer: Answer) -> Iterator[Finding]:
    try:
        there = parsedate_to_datetime(answer.headers.get("date", ""))
    except ValueError:
        yield unknown("clocks", "the server does not say what time it has")
        return
    # The header has whole seconds, cut off; the answer took a moment.
    ahead = answer.at - (there.timestamp() + 0.5)
    said = (
        f"this machine's is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the server's"
    )
    if -BEHIND < ahead < AHEAD:
        yield ok("clocks", said if abs(ahead) >= 2 else "the same here and there")
    else:
        yield wrong("clocks", said, "set them, by NTP: a node's signature has the time in it")


def _keys(target: Target) -> Iterator[Finding]:
    """That a node key which nobody enrolled is refused, with a signature and without."""
    stranger = NodeKey(urandom(RAND_BYTES)).key
    tried = {
        "an unknown node key": _ask(target, "POST", ACTIVATE, signed(stranger)),
        "no node key": _ask(target, "POST", ACTIVATE),
        "a node that registers itself": _ask(target, "POST", "/v1/fleet/register-node"),
    }
    for what, answer in tried.items():
        if answer.status in (401, 404, 412):
            yield ok(what, f"refused: {answer.status}")
        elif answer.status == 503:
            yield unknown(what, "the server is busy, or SuperLink away")
        else:
            yield wrong(what, f"is answered {answer.status}", FRONT)


def _own_key(target: Target, key: ec.EllipticCurvePrivateKey) -> Iterator[Finding]:
    answer = _ask(target, "GET", "/health", signed(key))
    what = "this device's key"
    if answer.status == 401:
        yield wrong(what, answer.words or "refused", "tacit device join, or ask the authority")
    elif answer.status in (200, 503) and not answer.words:
        yield ok(what, "let in")
    else:
        yield unknown(what, f"answered {answer.status}")


def signed(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """The headers by which a node of Flower's shows who it is, now."""
    now = datetime.now(UTC).isoformat()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return {
        "flwr-public-key": b64encode(public).decode(),
        "flwr-timestamp": now,
        "flwr-signature": b64encode(key.sign(now.encode(), ec.ECDSA(SHA256()))).decode(),
    }


def _ask(target: Target, method: str, path: str, headers: dict[str, str] | None = None) -> Answer:
    context = _trusting(target.ca)
    return ask(target.host, target.port, context, method, path, headers or {})


def _is_nothing(answer: Answer) -> bool:
    return answer.status == 404 and not answer.body


def _trusting(ca: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=ca.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise ParameterError("the CA's certificate cannot be read: it has to be in PEM") from None
    return context


def _words(bad: OSError) -> str:
    if isinstance(bad, ssl.SSLCertVerificationError):
        return bad.verify_message
    return str(bad.strerror or bad)


def _remedy(bad: ssl.SSLError) -> str:
    text = _words(bad)
    if "expired" in text or "not yet valid" in text:
        return "tacit authority renew, then tacit server join, unless a clock is wrong"
    if "match" in text:
        return "devices reach the server by a name that its certificate has not: rotate it"
    if isinstance(bad, ssl.SSLCertVerificationError):
        return "it is another server, or of another authority: compare ca.crt of both"
    return FRONT
