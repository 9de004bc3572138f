"""A front on a port of the loopback, in a thread; behind it SuperLink's own app, or a stand-in."""

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from tacit.app.certificates import DAY, certify, new_ca
from tacit.crypto.certificate import pem
from tacit.crypto.nodekey import NodeKey, openssh_line
from tacit.server.auditlog import batches
from tacit.server.deployed import TurnedAway
from tacit.server.entries import read
from tacit.server.front.credentials import Credentials
from tacit.server.front.exchange import House
from tacit.server.front.ledger import LOG, Ledger
from tacit.server.front.limits import Limits
from tacit.server.front.listener import Listener, listening
from tacit.server.front.nodes import Nodes
from tacit.server.front.tls import Certificate
from tacit.server.front.upstream import Upstream

NOW = int(time.time())
CA_KEY, SERVER_KEY = NodeKey(b"c" * 56), NodeKey(b"s" * 56)
LINK_CA_KEY, LINK_KEY = NodeKey(b"l" * 56), NodeKey(b"k" * 56)
NODE, OTHER, RETIRED, STRANGER = (NodeKey(bytes([n]) * 56) for n in (1, 2, 3, 4))
CA, LINK_CA = (new_ca(key, NOW - 10 * DAY) for key in (CA_KEY, LINK_CA_KEY))
HEARTBEAT = "/v1/fleet/send-node-heartbeat"
T = TypeVar("T")


def certificate(folder: Path, *, days: int = 30, at: int = NOW, key: NodeKey = SERVER_KEY) -> None:
    """A server's TLS, for the loopback."""
    found = certify(CA, CA_KEY, key.public, ("127.0.0.1", "localhost"), at, days)
    (folder / "server.crt").write_bytes(pem(found))
    (folder / "server.key").write_bytes(key.pem())


def pem_of(key: NodeKey) -> bytes:
    public = key.key.public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def signed(key: NodeKey, *, at: float | None = None, by: NodeKey | None = None) -> dict[str, str]:
    """The headers that a SuperNode would send now, or at another time, or with another's key."""
    moment = datetime.fromtimestamp(time.time() if at is None else at, UTC)
    text = moment.isoformat()
    signature = (by or key).key.sign(text.encode(), ec.ECDSA(SHA256()))
    return {
        "flwr-public-key": b64encode(pem_of(key)).decode(),
        "flwr-timestamp": text,
        "flwr-signature": b64encode(signature).decode(),
    }


def trusting(ca: bytes = CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pem(ca).decode())
    return context


def supernode(port: int, key: NodeKey, ca: bytes = CA) -> FleetHttpClient:
    """Flower's own client, as its SuperNodes have it."""
    return FleetHttpClient.from_server_address(
        f"127.0.0.1:{port}",
        insecure=False,
        root_certificates=pem(ca),
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(key.key, key.key.public_key()),
        ],
    )


@dataclass
class Standing:
    """A front that runs, and the first of its server: there is nothing that it may not know."""

    folder: Path
    port: int
    loop: asyncio.AbstractEventLoop
    house: House
    listener: Listener
    received: list[dict[str, Any]] = field(default_factory=list)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def said(self) -> list[TurnedAway]:
        """All that the log says by now."""
        self.do(self.house.ledger.write(all_of_it=True))
        with (self.folder / "front" / LOG).open("rb") as file:
            found = [read(entry).entry for batch in batches(file) for entry in batch.entries]
        entries = [entry for entry in found if isinstance(entry, TurnedAway)]
        assert len(entries) == len(found)
        return entries

    def reasons(self) -> set[str]:
        return {entry.reason for entry in self.said()}

    def waits_for(self, reason: str) -> TurnedAway:
        """The entry with this reason, once it is there: what a client sees comes before it."""
        for _ in range(100):
            for entry in self.said():
                if entry.reason == reason:
                    return entry
            time.sleep(0.02)
        raise AssertionError(f"no {reason!r} in {self.said()}")

    def tls(self, timeout: float = 5.0) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        return trusting().wrap_socket(plain, server_hostname="127.0.0.1")

    def raw(self, sent: bytes, timeout: float = 5.0) -> bytes:
        """Everything that comes back for these bytes, until the front ends the connection."""
        with self.tls(timeout) as connection:
            connection.sendall(sent)
            return until_end(connection)


def until_end(connection: socket.socket) -> bytes:
    got = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
        while piece := connection.recv(1 << 16):
            got += piece
            head, _, body = got.partition(b"\r\n\r\n")
            if body.endswith(b"\r\n0\r\n\r\n"):
                return got
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:") and len(body) >= int(line[15:]):
                    return got
    return got


def request(path: str = HEARTBEAT, body: bytes = b"", method: str = "POST", **more: str) -> bytes:
    """As bytes, signed by NODE unless a header says otherwise."""
    headers = {"host": "x", "content-length": str(len(body)), **signed(NODE)}
    headers |= {name.replace("_", "-"): value for name, value in more.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{n}: {v}" for n, v in headers.items() if v != "-")]
    return "\r\n".join([*lines, "", ""]).encode() + body


def prepared(folder: Path) -> None:
    """What `tacit server join` and the supervisor leave."""
    certificate(folder)
    for name, keys in {
        "nodes": {"1-one": NODE, "2-two": OTHER},
        "retired": {"3-out": RETIRED},
    }.items():
        (folder / name).mkdir()
        for stem, key in keys.items():
            (folder / name / f"{stem}.pub").write_bytes(openssh_line(key.public, stem))
    link_ca(folder)


def link_ca(folder: Path) -> None:
    (folder / "link-ca.crt").write_bytes(pem(LINK_CA))


@contextmanager
def link(folder: Path, app: Any) -> Iterator[int]:
    """An app behind TLS of the internal CA, as SuperLink is; its port."""
    found = certify(LINK_CA, LINK_CA_KEY, LINK_KEY.public, ("127.0.0.1",), NOW, 30)
    (folder / "link.crt").write_bytes(pem(found))
    (folder / "link.key").write_bytes(LINK_KEY.pem())
    port = socket.create_server(("127.0.0.1", 0))
    port.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # for those it accepts, too
    config = uvicorn.Config(
        app,
        ssl_certfile=str(folder / "link.crt"),
        ssl_keyfile=str(folder / "link.key"),
        log_level="error",
        loop="asyncio",
        ws="none",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [port]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield int(port.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(10)


@contextmanager
def front(
    folder: Path, upstream: int, limits: Limits | None = None, listen: int = 0, **house: Any
) -> Iterator[Standing]:
    """A front before the port `upstream`, in a folder that is `prepared`."""
    ready: list[Standing] = []
    stop: list[Callable[[], object]] = []

    async def run() -> None:
        some = limits or Limits()
        ledger = Ledger(folder / "front")
        behind = Upstream(f"127.0.0.1:{upstream}", folder / "link-ca.crt", some)
        all_of = House(some, Credentials(Nodes(folder), float("-inf")), behind, ledger)
        all_of = replace(all_of, **house)
        port = listening("127.0.0.1", listen)
        listener = Listener(all_of, Certificate(folder), port)
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(listener.serve())
        stop.append(lambda: loop.call_soon_threadsafe(task.cancel))
        ready.append(Standing(folder, int(port.getsockname()[1]), loop, all_of, listener))
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await behind.close()
        await ledger.close()

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    while not ready:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield ready[0]
    finally:
        stop[0]()
        thread.join(10)
        assert not thread.is_alive()


Answer = Callable[[dict[str, Any], bytes], Awaitable[tuple[int, bytes]]]


class Recorder:
    """Stands in for SuperLink: keeps what reaches it, and answers `status` and `body`."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str, dict[str, str], bytes]] = []
        self.status, self.body = 200, b"fine"
        self.longest_piece = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
            self.longest_piece = max(self.longest_piece, len(message.get("body", b"")))
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.got.append((scope["method"], scope["raw_path"].decode(), headers, body))
        start = [(b"content-type", b"application/protobuf"), (b"x-inner", b"secret")]
        await send({"type": "http.response.start", "status": self.status, "headers": start})
        await send({"type": "http.response.body", "body": self.body})
