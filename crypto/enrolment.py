"""What a device or a server asks of the authority to be enrolled, in one small file.

    magic and version (16) | kind (u8) | made (u64, Unix time) | name
    device    identity key (32) | node key (49) | signature by the identity (64) | by the node (96)
    server    port (u32) | hosts | TLS key (49) | signature by the TLS key (96)

Each key signs all that stands before the signatures, the other key included: so who asks has them
both, and nothing can be changed on the way. What the file cannot show is that it comes from whom it
should: whoever carries it can bring one of their own. That shows when the two ends compare its
fingerprint over another way, by voice say.

A private key is in no file of this module.
"""

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from hmac import compare_digest
from ipaddress import ip_address
from typing import TypeAlias

from tacit.crypto import labels
from tacit.crypto.errors import Damaged, MalformedMessage, ParameterError
from tacit.crypto.identity import KEY_BYTES, SIGNATURE_BYTES, Identity, verified
from tacit.crypto.nodekey import (
    NODE_KEY_BYTES,
    NODE_SIGNATURE_BYTES,
    NodeKey,
    is_signed,
    public_key,
)
from tacit.crypto.wire import Reader, Writer

MAGIC = b"tacit request 1\n"
MAX_REQUEST = 1 << 13  # bytes
MAX_HOSTS = 16
DEVICE, SERVER = 1, 2
_GROUPS, _GROUP = 5, 4  # of a fingerprint: 100 bits
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,62}")
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*")


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """A device's keys, and proof that it has them. `made` is Unix time in seconds."""

    name: str
    made: int
    public: bytes
    node: bytes
    by_identity: bytes
    by_node: bytes

    @classmethod
    def signed(cls, name: str, made: int, identity: Identity, node: NodeKey) -> "DeviceRequest":
        """Raises ParameterError for a name that is none: see `check_name`."""
        check_name(name)
        body = _device_body(name, made, identity.public, node.public)
        by_identity, by_node = identity.sign(labels.REQUEST, body), node.sign(_ours(body))
        return cls(name, made, identity.public, node.public, by_identity, by_node)

    def encode(self) -> bytes:
        body = _device_body(self.name, self.made, self.public, self.node)
        return body + self.by_identity + self.by_node

    @property
    def fingerprint(self) -> str:
        """Of the whole file: to be compared by voice."""
        return fingerprint(self.encode())

    @classmethod
    def read(cls, reader: Reader, name: str, made: int) -> "DeviceRequest":
        public, node = reader.fixed(KEY_BYTES), reader.fixed(NODE_KEY_BYTES)
        body = _device_body(name, made, public, node)
        by_identity, by_node = reader.fixed(SIGNATURE_BYTES), reader.fixed(NODE_SIGNATURE_BYTES)
        if not verified(public, labels.REQUEST, body, by_identity):
            raise reader.bad("it is not signed by the identity in it: it was altered")
        if not is_signed(node, _ours(body), by_node):
            raise reader.bad("it is not signed by the node key in it: it was altered")
        return cls(name, made, public, node, by_identity, by_node)


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """A server's TLS key, and the names and addresses that devices reach it by, the best first."""

    name: str
    made: int
    hosts: tuple[str, ...]
    port: int
    key: bytes
    by_key: bytes

    @classmethod
    def signed(
        cls, name: str, made: int, hosts: tuple[str, ...], port: int, key: NodeKey
    ) -> "ServerRequest":
        """Raises ParameterError for a name, a host or a port that is none."""
        check_name(name)
        check_hosts(hosts, port)
        body = _server_body(name, made, hosts, port, key.public)
        return cls(name, made, hosts, port, key.public, key.sign(_ours(body)))

    @property
    def address(self) -> str:
        """Where a SuperNode is to connect, HOST:PORT."""
        host = self.hosts[0]
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    def encode(self) -> bytes:
        return _server_body(self.name, self.made, self.hosts, self.port, self.key) + self.by_key

    @property
    def fingerprint(self) -> str:
        """Of the whole file: to be compared by voice."""
        return fingerprint(self.encode())

    @classmethod
    def read(cls, reader: Reader, name: str, made: int) -> "ServerRequest":
        port = reader.u32()
        hosts = tuple(reader.text() for _ in range(reader.count(MAX_HOSTS)))
        key, by_key = reader.fixed(NODE_KEY_BYTES), reader.fixed(NODE_SIGNATURE_BYTES)
        check_hosts(hosts, port)
        if not is_signed(key, _ours(_server_body(name, made, hosts, port, key)), by_key):
            raise reader.bad("it is not signed by the TLS key in it: it was altered")
        return cls(name, made, hosts, port, key, by_key)


Request: TypeAlias = DeviceRequest | ServerRequest


def decode_request(data: bytes) -> Request:
    """A request whose proofs hold. Raises Damaged, with the reason, for anything else."""
    kinds: dict[int, Callable[[Reader, str, int], Request]] = {
        DEVICE: DeviceRequest.read,
        SERVER: ServerRequest.read,
    }
    reader = opened(data, MAGIC, MAX_REQUEST)
    try:
        kind, made, name = kinds.get(reader.u8()), reader.u64(), reader.text()
        check_name(name)
        if kind is None:
            raise reader.bad("it is of a kind that this version does not know")
        found = kind(reader, name, made)
        reader.end()
    except MalformedMessage as bad:
        raise Damaged(f"a request that cannot be used: {bad.reason}") from None
    except ParameterError as bad:
        raise Damaged(f"a request that cannot be used: {bad}") from None
    return found


def opened(data: bytes, magic: bytes, most: int) -> Reader:
    """A reader behind the file's magic. Raises Damaged for a file of another kind or version."""
    what = magic[: magic.rindex(b" ")]
    if not data.startswith(what):
        raise Damaged(f"this is no file of the kind {what.decode()!r}")
    if not data.startswith(magic):
        raise Damaged(f"a file of the kind {what.decode()!r}, cut off or of another version")
    if len(data) > most:
        raise Damaged(f"{len(data)} bytes, at most {most} are allowed here")
    reader = Reader(data, sender=0, stage="enrol")
    reader.fixed(len(magic))
    return reader


def check_name(name: str) -> None:
    """Raises ParameterError unless it can be a file's name, and is one word in a log."""
    if not _NAME.fullmatch(name):
        raise ParameterError(
            f"{name[:64]!r} is no name: up to 63 letters, digits, dots, hyphens and underscores, "
            "the first a letter"
        )


def check_hosts(hosts: tuple[str, ...], port: int) -> None:
    """Raises ParameterError unless these are names or IP addresses, each once, and a port."""
    if not 1 <= len(hosts) <= MAX_HOSTS or len({*hosts}) < len(hosts):
        raise ParameterError(f"1 to {MAX_HOSTS} hosts, all different, are the address of a server")
    for host in hosts:
        if not is_ip(host) and (len(host) > 253 or not _HOST.fullmatch(host) or _is_number(host)):
            raise ParameterError(
                f"{host[:64]!r} is no host: a name in lower case, or an IP address in its usual "
                "form, without a port"
            )
    if not 1 <= port < 1 << 16:
        raise ParameterError(f"{port} is no port")


def is_ip(host: str) -> bool:
    """Whether it is an IP address as it is usually written: there is one way to write each."""
    try:
        return str(ip_address(host)) == host
    except ValueError:
        return False


def _is_number(host: str) -> bool:
    return host.rpartition(".")[2].isdigit()  # what fails to be an IP address is no name, either


def fingerprint(content: bytes) -> str:
    """100 bits of a hash as `ABCD-EFGH-IJKL-MNOP-QRST`: letters and digits that no voice confuses.

    Enough to compare two files, or two authorities, that others may have made: who wants to pass
    one off for another has to find a second one with this very fingerprint.
    """
    digest = hashlib.sha256(labels.FINGERPRINT + content).digest()
    text = base64.b32encode(digest).decode()
    return "-".join(text[_GROUP * i : _GROUP * (i + 1)] for i in range(_GROUPS))


def is_fingerprint(said: str, ours: str) -> bool:
    """Whether somebody said `ours`, in whatever case and grouping."""
    heard = re.sub(r"[\s-]", "", said).upper().encode()
    return compare_digest(heard, ours.replace("-", "").encode())


def _head(kind: int, name: str, made: int) -> Writer:
    return Writer().fixed(MAGIC, len(MAGIC)).u8(kind).u64(made).text(name)


def _device_body(name: str, made: int, public: bytes, node: bytes) -> bytes:
    writer = _head(DEVICE, name, made).fixed(public, KEY_BYTES).fixed(node, NODE_KEY_BYTES)
    public_key(node)
    return writer.data()


def _server_body(name: str, made: int, hosts: tuple[str, ...], port: int, key: bytes) -> bytes:
    writer = _head(SERVER, name, made).u32(port).u32(len(hosts))
    for host in hosts:
        writer.text(host)
    public_key(key)
    return writer.fixed(key, NODE_KEY_BYTES).data()


def _ours(body: bytes) -> bytes:
    """What a key on P-384 signs, which has no labels of its own: see `NodeKey.sign`."""
    return bytes([len(labels.REQUEST)]) + labels.REQUEST + body
