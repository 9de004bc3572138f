"""The authority's folder: who is in the federation, and who said so.

    authority.key   signs rosters, answers, the register and the log; mode 0600
    ca-*.key        signs TLS certificates of servers; mode 0600
    register        what the authority knows, signed: see `tacit.app.register`
    audit.log       every act, signed: `tacit log show`, `tacit log verify`
    roster.bin      the last roster, for TACIT_ROSTER; answers/ holds a file for each machine

The folder belongs on a machine without a network: nothing here needs one. Whoever can read both
keys is the authority; permissions of the files, or an encrypted disk, are what keeps them.

Two-person approval: a folder that was made with approvers refuses an act without `approve_by`, the
key of one of them, whose signature goes into the log and to the servers with the roster. It is
no stronger than where the keys are kept: a machine that has both at the same time can act alone.
Against a thief of the authority's key alone it protects servers that check it (`tacit server join`,
`tacit server check`), and not devices, which pin the authority's key and nothing else.

An act is one replacement of the register. The log is written right after it, and what goes out
after that; the next command finishes what a crash left open, before it does anything else.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from os import urandom
from pathlib import Path

from tacit.app import lines, register_file
from tacit.app.certificates import check_ca, new_ca
from tacit.app.register import Register
from tacit.client.files import SHARED_MODE, new_file, new_folder, replace_file
from tacit.client.vault import locked
from tacit.crypto.answers import DeviceAnswer, ServerAnswer
from tacit.crypto.approval import Approval, Trust
from tacit.crypto.certificate import pem, public_of
from tacit.crypto.errors import Damaged, ParameterError
from tacit.crypto.identity import BEACON_BYTES, KEY_BYTES, Identity, Roster
from tacit.crypto.loghead import LOG_BYTES
from tacit.crypto.nodekey import RAND_BYTES, NodeKey
from tacit.server.auditlog import AuditLog
from tacit.server.entries import noted
from tacit.server.kinds import Kind, RosterIssued

KEY, REGISTER, LOG, LOCK = "authority.key", "register", "audit.log", "authority.lock"
CA, ROSTER, ANSWERS, ANSWER = "ca.crt", "roster.bin", "answers", ".answer"
DAYS = 365


@dataclass(slots=True)
class Authority:
    """An authority at work, alone in its folder: see `opened`."""

    folder: Path
    identity: Identity = field(repr=False)
    register: Register = field(repr=False)
    _log: AuditLog = field(repr=False)

    @property
    def ca_key(self) -> NodeKey:
        """Raises Damaged if it is not there."""
        path = self.folder / _ca_file(public_of(self.register.ca))
        try:
            key = NodeKey(path.read_bytes())
        except (OSError, ParameterError):
            raise Damaged(f"the CA's key, {path}, is not there or damaged") from None
        if key.public != public_of(self.register.ca):
            raise Damaged(f"{path} is another key than that of the CA's certificate")
        return key

    def new_ca(self, now: int, *, new_key: bool) -> tuple[bytes, NodeKey]:
        """Another certificate of the CA, for its key or a new one, which is kept at once."""
        key = self.ca_key
        if new_key:
            key = NodeKey(urandom(RAND_BYTES))
            new_file(self.folder / _ca_file(key.public), key.secret)
        return new_ca(key, now), key

    def act(
        self,
        changed: Register,
        kinds: Sequence[Kind],
        now: int,
        approve_by: Identity | None,
        serial: int = 0,
    ) -> list[Path]:
        """Do what leads to the register `changed`, told by `kinds`; returns the answers written.

        The roster's serial grows by one, or to `serial` if that is more. Its beacon is drawn here,
        after its members are known. Raises ParameterError, and nothing was done, for an act that
        needs an approval and has none, and where the CA's certificate is not valid.
        """
        check_ca(changed.ca, now)
        check_approver(changed.trust, approve_by)
        number = max(self.register.serial + 1, serial)
        roster = Roster.signed(self.identity, number, changed.members, urandom(BEACON_BYTES))
        entries = [_entry(kind, now) for kind in kinds]
        act = hashlib.sha256(b"".join(hashlib.sha256(each).digest() for each in entries)).digest()
        approval = None if approve_by is None else Approval.signed(approve_by, roster, act)
        issued = RosterIssued(number, len(roster.members), roster.digest().hex(), act.hex())
        if approval is not None:
            issued = replace(
                issued, approver=approval.approver.hex(), approval=approval.signature.hex()
            )
        entries.append(_entry(issued, now))
        self.register = replace(
            changed,
            issued=now,
            roster=roster,
            approval=approval,
            entries=tuple(entries),
            logged=self.register.logged + len(entries),
        )
        data = register_file.encode(self.register, self.identity)
        replace_file(self.folder / REGISTER, data)
        self._log.append(entries)
        return self.publish()

    def publish(self) -> list[Path]:
        """Write what the last act has for others; the roster last, so that it shows that all is
        there."""
        register, issue = self.register, self.register.issue
        folder = self.folder / ANSWERS
        folder.mkdir(mode=0o700, exist_ok=True)
        for path in folder.glob(f"*{ANSWER}"):
            if path.name.removesuffix(ANSWER) not in register.names:
                path.unlink()
        written: list[Path] = []

        def write(name: str, data: bytes) -> None:
            written.append(folder / f"{name}{ANSWER}")
            replace_file(written[-1], data, SHARED_MODE)

        for each in register.devices:
            if each.number in register.due:
                made = DeviceAnswer.signed(
                    self.identity, issue, each.number, each.name, each.public, each.node
                )
                write(each.name, made.encode())
        for server in register.servers:
            answer = ServerAnswer.signed(
                self.identity,
                issue,
                server.name,
                server.key,
                server.certificate,
                register.nodes,
                register.unregistered,
            )
            write(server.name, answer.encode())
        replace_file(self.folder / CA, pem(register.ca), SHARED_MODE)
        replace_file(self.folder / ROSTER, issue.roster.encode(), SHARED_MODE)
        return written

    def recover(self) -> None:
        """Finish the last act. Raises Damaged for a log that is not this register's."""
        entries, logged = self.register.entries, self.register.logged
        size = self._log.head.head.size
        if size == logged - len(entries) and entries:
            self._log.append(entries)
        elif size != logged:
            raise Damaged(
                f"{self.folder}: the log has {size} entries and the register {logged}: one of them "
                "was taken from another time"
            )
        path = self.folder / ROSTER
        roster = self.register.roster
        if roster is not None and not (path.is_file() and path.read_bytes() == roster.encode()):
            self.publish()


def create(folder: Path, approvers: Sequence[bytes], days: int, now: int) -> Trust:
    """Make an authority, with new keys. Each act will need one of `approvers`, if there are any.

    Members are let in for `days`. Raises ParameterError if something is in the folder.
    """
    if not 1 <= days <= 36500:
        raise ParameterError(f"a membership of {days} days, expected 1 to 36500")
    identity, ca_key = Identity(urandom(KEY_BYTES)), NodeKey(urandom(RAND_BYTES))
    trust = Trust(identity.public, tuple(sorted({*approvers})))
    register = Register(trust, new_ca(ca_key, now), days)
    with new_folder(folder) as fresh:
        new_file(fresh / KEY, identity.secret)
        new_file(fresh / _ca_file(ca_key.public), ca_key.secret)
        new_file(fresh / REGISTER, register_file.encode(register, identity))
        replace_file(fresh / CA, pem(register.ca), SHARED_MODE)
        AuditLog.create(fresh / LOG, identity, urandom(LOG_BYTES)).close()
    return trust


@contextmanager
def opened(folder: Path) -> Iterator[Authority]:
    """The authority of a folder, for one process at a time; what a crash left open is done.

    Raises ParameterError if there is none or another process is in it, Damaged if it was altered.
    """
    identity = Identity(_secret(folder))
    try:
        with locked(folder / LOCK, wait=False):
            register = _register(folder, identity.public)
            with AuditLog.open(folder / LOG, identity) as log:
                authority = Authority(folder, identity, register, log)
                authority.recover()
                yield authority
    except BlockingIOError:
        raise ParameterError(f"another process is at work in {folder}") from None


def new_approver(path: Path) -> bytes:
    """Make the key of a second person, and its public half beside it in `path`.pub. Returns that.

    Raises ParameterError if either file is there.
    """
    public = path.with_name(path.name + ".pub")
    if public.exists():
        raise ParameterError(f"there is a file at {public} already")
    identity = Identity(urandom(KEY_BYTES))
    new_file(path, identity.secret)
    new_file(public, identity.public.hex().encode() + b"\n", SHARED_MODE)
    return identity.public


def read_approver(path: Path) -> Identity:
    """Raises ParameterError for anything but a file of `new_approver`."""
    try:
        with path.open("rb") as file:
            return Identity(file.read(KEY_BYTES + 1))
    except (OSError, ParameterError):
        raise ParameterError(f"{path} is no key that tacit authority approver made") from None


def check_approver(trust: Trust, approve_by: Identity | None) -> None:
    """Raises ParameterError unless an act may be done that this key, or nobody, approves."""
    if approve_by is None and trust.approvers:
        raise ParameterError(
            "nothing was done: acts of this authority take a second person, --approve-by with the "
            f"key of one of {', '.join(key.hex()[:16] for key in trust.approvers)}"
        )
    if approve_by is not None and approve_by.public not in trust.approvers:
        raise ParameterError(
            "nothing was done: the key of --approve-by is none of this authority's approvers"
        )


def _register(folder: Path, authority: bytes) -> Register:
    try:
        data = (folder / REGISTER).read_bytes()
    except OSError:
        raise Damaged(f"{folder}: the authority's register is not there") from None
    return register_file.decode(data, authority)


def _secret(folder: Path) -> bytes:
    if not (folder / REGISTER).exists() and not (folder / KEY).exists():
        raise ParameterError(f"no authority in {folder}: tacit authority init makes one")
    try:
        secret = (folder / KEY).read_bytes()
    except OSError:
        raise Damaged(f"{folder / KEY} cannot be read") from None
    if len(secret) != KEY_BYTES:
        raise Damaged(f"{folder / KEY} is damaged")
    return secret


def _ca_file(public: bytes) -> str:
    return f"ca-{hashlib.sha256(public).hexdigest()[:8]}.key"


def _entry(kind: Kind, now: int) -> bytes:
    return noted(lines.fields_of(kind, at=now))
