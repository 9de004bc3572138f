"""What an audit log says beside the events of a run: the kinds of entries.

An entry is what happened, when, and digests of what it happened to; never a model, an update, an
input or a key. How one is written and read is `tacit.server.entries`.
"""

from dataclasses import dataclass
from typing import TypeAlias

from tacit.server.deployed import Deployed


@dataclass(frozen=True, slots=True)
class CheckpointKept:
    """SHA-256 of a checkpoint's file, in hexadecimal digits."""

    round: int
    digest: str


@dataclass(frozen=True, slots=True)
class CheckpointDamaged:
    """The newest checkpoint could not be read, and why: the run goes on from that of `round`."""

    round: int
    reason: str


@dataclass(frozen=True, slots=True)
class Released:
    """A finished file that others may be given, by its name and the SHA-256 of its content."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A device was left out of a round at this stage: a `LeftOut`, as logs have it. The reason may
    be the device's own words."""

    round: int
    stage: str
    device: int
    reason: str


@dataclass(frozen=True, slots=True)
class Answered:
    """A model's answers, without what was asked or answered: how many, to which key, and a digest
    over the queries."""

    key: str
    queries: int
    digest: str


@dataclass(frozen=True, slots=True)
class Denied:
    """Requests that the gate did not answer: how many since the last such entry, of which key (""
    where there was none), at which stage of the chain."""

    key: str
    stage: str
    requests: int


@dataclass(frozen=True, slots=True)
class GateOpened:
    """A model is served from now on: SHA-256 of its file, and the most that is told of an answer to
    who was not granted more."""

    digest: str
    detail: str


@dataclass(frozen=True, slots=True)
class KeyIssued:
    """A key of the gate, by its public name, was made `by` another one."""

    key: str
    organisation: str
    role: str
    by: str


@dataclass(frozen=True, slots=True)
class KeyRenewed:
    """A key got a new `what`: its secret, or what its one-time codes are made of."""

    key: str
    what: str  # secret | totp
    by: str


@dataclass(frozen=True, slots=True)
class KeyRevoked:
    key: str
    by: str


@dataclass(frozen=True, slots=True)
class Judged:
    """A key's state changed, `by` a person's key, or "gate" where it degraded by itself. `reason`
    says what was seen, or what the person wrote."""

    key: str
    was: str
    now: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Approved:
    """An act that takes two people was done: `asked` by one key, and `by` another."""

    act: str
    subject: str
    asked: str
    by: str


@dataclass(frozen=True, slots=True)
class MarkCommitted:
    """Before training: a commitment to the key of a mark that the model will bear, in hexadecimal
    digits. A mark whose key was not committed to proves nothing: anybody can find one afterwards.
    """

    kind: str  # triggers | bits
    commitment: str


@dataclass(frozen=True, slots=True)
class Audited:
    """A release was attacked, and this is the SHA-256 of the report about it."""

    name: str
    digest: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The authority let a device in, until this second of Unix time. `fingerprint` is that of its
    request, as people compare it by voice."""

    device: int
    name: str
    fingerprint: str
    until: int


@dataclass(frozen=True, slots=True)
class Rotated:
    """A device has other keys from now on; those it had are no good any more."""

    device: int
    name: str
    fingerprint: str
    until: int


@dataclass(frozen=True, slots=True)
class Revoked:
    """A device is out, for good: its number is not given again. `reason` is what a person wrote."""

    device: int
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Certified:
    """A server's TLS key was certified, in place of one that it had before."""

    server: str
    fingerprint: str
    until: int


@dataclass(frozen=True, slots=True)
class Dismissed:
    """A server gets no more answers. Its certificate stays good until it ends."""

    server: str
    reason: str


@dataclass(frozen=True, slots=True)
class Renewed:
    """All devices are members until this second of Unix time, and servers have new certificates.
    `ca` is what is new of the certificate authority."""

    devices: int
    until: int
    ca: str  # nothing | certificate | key


@dataclass(frozen=True, slots=True)
class RosterIssued:
    """The roster after the acts before this entry: its digest, and that of their entries, in
    hexadecimal digits. Where a second person approved of both, their key and signature."""

    serial: int
    devices: int
    digest: str
    act: str
    approver: str = ""
    approval: str = ""


Kind: TypeAlias = (
    CheckpointKept
    | CheckpointDamaged
    | Released
    | Refused
    | Answered
    | Denied
    | GateOpened
    | KeyIssued
    | KeyRenewed
    | KeyRevoked
    | Judged
    | Approved
    | MarkCommitted
    | Audited
    | Enrolled
    | Rotated
    | Revoked
    | Certified
    | Dismissed
    | Renewed
    | RosterIssued
    | Deployed
)
