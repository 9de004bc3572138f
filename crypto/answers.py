"""What the authority answers, in one small file: to a device who it is, to a server whom to let in.

    magic and version (16) | kind (u8) | issue
    issue     authority's key (32) | approvers' keys | issued (u64, Unix time)
              | CA certificate (DER) | the server's address, HOST:PORT | roster | approval
    device    number (u64) | name | identity key (32) | node key (49)
    server    name | TLS key (49) | its certificate (DER) | nodes to register | and to unregister
    signature by the authority over all before (64)

Whoever has such a file learns nothing secret from it, and can change nothing in it. Whether the
authority is the right one it cannot say: see `Trust.fingerprint`.

A second person's approval is checked where an answer is read, by those who know that there has to
be one: a server, which keeps the approvers of its first answer. At run time a device looks at the
authority's signature alone. So an approver stands between a thief of the authority's key and the
server's roster; one who has that key and the server's machine needs no approver.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from tacit.crypto import labels
from tacit.crypto.approval import ACT_BYTES, MAX_APPROVERS, Approval, Trust
from tacit.crypto.enrolment import DEVICE, SERVER, check_name, opened
from tacit.crypto.errors import Damaged, ParameterError, ProtocolError
from tacit.crypto.identity import (
    KEY_BYTES,
    MAX_DEVICES,
    SIGNATURE_BYTES,
    Identity,
    Roster,
    verified,
)
from tacit.crypto.nodekey import NODE_KEY_BYTES, public_key
from tacit.crypto.wire import Reader, Writer

MAGIC = b"tacit answer 01\n"
MAX_ANSWER = 1 << 28  # bytes: a roster of 2**20 devices and their nodes' keys
MAX_CERTIFICATE = 1 << 13
MAX_ROSTER = MAX_DEVICES * 48 + 256


@dataclass(frozen=True, slots=True)
class Issue:
    """What all answers have in common. `ca` is a certificate in DER; `address` may be empty."""

    trust: Trust
    issued: int
    ca: bytes
    address: str
    roster: Roster
    approval: Approval | None

    def write(self, writer: Writer) -> None:
        writer.fixed(self.trust.authority, KEY_BYTES).u32(len(self.trust.approvers))
        for key in self.trust.approvers:
            writer.fixed(key, KEY_BYTES)
        writer.u64(self.issued).blob(self.ca).text(self.address).blob(self.roster.encode())
        writer.u8(self.approval is not None)
        if self.approval is not None:
            writer.fixed(self.approval.approver, KEY_BYTES).fixed(self.approval.act, ACT_BYTES)
            writer.fixed(self.approval.signature, SIGNATURE_BYTES)

    @classmethod
    def read(cls, reader: Reader) -> "Issue":
        authority = reader.fixed(KEY_BYTES)
        keys = tuple(reader.fixed(KEY_BYTES) for _ in range(reader.count(MAX_APPROVERS)))
        trust = Trust(authority, keys)
        issued, ca, address = reader.u64(), reader.blob(MAX_CERTIFICATE), reader.text(512)
        roster = Roster.decode(reader.blob(MAX_ROSTER))
        approval = None
        if (flag := reader.u8()) > 1:
            raise reader.bad(f"{flag} approvals")
        if flag:
            approver, act = reader.fixed(KEY_BYTES), reader.fixed(ACT_BYTES)
            approval = Approval(approver, act, reader.fixed(SIGNATURE_BYTES))
        return cls(trust, issued, ca, address, roster, approval)

    def check(self) -> None:
        """Raises ProtocolError unless the roster is the authority's, approved if it has to be."""
        self.roster.verify(self.trust.authority)
        if not self.trust.approvers:
            return
        if self.approval is None or not self.approval.is_for(self.roster, self.trust):
            raise ProtocolError(
                "its roster is not approved by any of the authority's approvers",
                sender=0,
                stage="enrol",
            )


@dataclass(frozen=True, slots=True)
class DeviceAnswer:
    """Tells a device its number, as one of the roster's members."""

    issue: Issue
    device: int
    name: str
    public: bytes
    node: bytes
    signature: bytes

    KIND: ClassVar[int] = DEVICE

    @classmethod
    def signed(
        cls, authority: Identity, issue: Issue, device: int, name: str, public: bytes, node: bytes
    ) -> "DeviceAnswer":
        made = cls(issue, device, name, public, node, b"")
        return cls(issue, device, name, public, node, authority.sign(labels.ANSWER, made._body()))

    def encode(self) -> bytes:
        return self._body() + self.signature

    def _body(self) -> bytes:
        writer = _head(self.KIND, self.issue).u64(self.device).text(self.name)
        return writer.fixed(self.public, KEY_BYTES).fixed(self.node, NODE_KEY_BYTES).data()

    @classmethod
    def read(cls, reader: Reader, issue: Issue) -> "DeviceAnswer":
        device, name = reader.u64(), reader.text()
        public, node = reader.fixed(KEY_BYTES), reader.fixed(NODE_KEY_BYTES)
        check_name(name)
        public_key(node)
        if issue.roster.member(device, now=0).public != public:
            raise reader.bad("it names another key than its roster")
        return cls(issue, device, name, public, node, reader.fixed(SIGNATURE_BYTES))


@dataclass(frozen=True, slots=True)
class Node:
    """A SuperNode's public key, and whose it is."""

    device: int
    name: str
    key: bytes


@dataclass(frozen=True, slots=True)
class ServerAnswer:
    """A server's certificate, and all nodes: `nodes` are the roster's, `retired` not any more."""

    issue: Issue
    name: str
    key: bytes
    certificate: bytes
    nodes: tuple[Node, ...]
    retired: tuple[Node, ...]
    signature: bytes

    KIND: ClassVar[int] = SERVER

    @classmethod
    def signed(
        cls,
        authority: Identity,
        issue: Issue,
        name: str,
        key: bytes,
        certificate: bytes,
        nodes: tuple[Node, ...],
        retired: tuple[Node, ...],
    ) -> "ServerAnswer":
        body = cls(issue, name, key, certificate, nodes, retired, b"")._body()
        signature = authority.sign(labels.ANSWER, body)
        return cls(issue, name, key, certificate, nodes, retired, signature)

    def encode(self) -> bytes:
        return self._body() + self.signature

    def _body(self) -> bytes:
        writer = _head(self.KIND, self.issue).text(self.name).fixed(self.key, NODE_KEY_BYTES)
        writer.blob(self.certificate)
        write_nodes(writer, self.nodes)
        write_nodes(writer, self.retired)
        return writer.data()

    @classmethod
    def read(cls, reader: Reader, issue: Issue) -> "ServerAnswer":
        name, key, certificate = (
            reader.text(),
            reader.fixed(NODE_KEY_BYTES),
            reader.blob(MAX_CERTIFICATE),
        )
        check_name(name)
        public_key(key)
        nodes, retired = read_nodes(reader), read_nodes(reader)
        if [node.device for node in nodes] != [member.device for member in issue.roster.members]:
            raise reader.bad("its nodes are not the devices of its roster")
        if {node.key for node in nodes} & {node.key for node in retired}:
            raise reader.bad("a node is to be registered and unregistered")
        signature = reader.fixed(SIGNATURE_BYTES)
        return cls(issue, name, key, certificate, nodes, retired, signature)


Answer: TypeAlias = DeviceAnswer | ServerAnswer


def decode_answer(data: bytes) -> Answer:
    """An answer that the authority in it signed, with a roster that it signed, approved if there
    are approvers. Raises Damaged, with the reason, for anything else."""
    kinds: dict[int, Callable[[Reader, Issue], Answer]] = {
        DEVICE: DeviceAnswer.read,
        SERVER: ServerAnswer.read,
    }
    reader = opened(data, MAGIC, MAX_ANSWER)
    try:
        kind, issue = kinds.get(reader.u8()), Issue.read(reader)
        if kind is None:
            raise reader.bad("it is of a kind that this version does not know")
        found = kind(reader, issue)
        reader.end()
        body = data[:-SIGNATURE_BYTES]
        if not verified(issue.trust.authority, labels.ANSWER, body, found.signature):
            raise reader.bad("it is not signed by the authority in it: it was altered")
        issue.check()
    except ProtocolError as bad:  # a MalformedMessage, too
        raise Damaged(f"an answer that cannot be used: {bad.reason}") from None
    except ParameterError as bad:
        raise Damaged(f"an answer that cannot be used: {bad}") from None
    return found


def check_newer(held: Roster, roster: Roster) -> None:
    """Raises ParameterError for a roster older than the one held, or another of the same serial:
    whoever brings one wants members back that were revoked, or has an authority that was set back.
    """
    if roster.serial < held.serial:
        raise ParameterError(
            f"the answer is old: its roster is number {roster.serial}, and number {held.serial} is "
            "here already"
        )
    if roster.serial == held.serial and roster != held:
        raise ParameterError(
            f"there are two rosters with the number {roster.serial}: the authority's folder was "
            "set back, by a backup perhaps. tacit authority renew --serial goes on above it"
        )


def write_nodes(writer: Writer, nodes: tuple[Node, ...]) -> None:
    """A number of nodes (u32), and these."""
    writer.u32(len(nodes))
    for node in nodes:
        writer.u64(node.device).text(node.name).fixed(node.key, NODE_KEY_BYTES)


def read_nodes(reader: Reader) -> tuple[Node, ...]:
    """What `write_nodes` wrote. Raises MalformedMessage, or ParameterError for a name or a key."""
    found = []
    for _ in range(reader.count(MAX_DEVICES)):
        node = Node(reader.u64(), reader.text(), reader.fixed(NODE_KEY_BYTES))
        check_name(node.name)
        public_key(node.key)
        found.append(node)
    return tuple(found)


def _head(kind: int, issue: Issue) -> Writer:
    writer = Writer().fixed(MAGIC, len(MAGIC)).u8(kind)
    issue.write(writer)
    return writer
