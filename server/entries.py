"""What an audit log says: one JSON object an entry, and the kinds that are no events of a run.

An entry is what happened, when, and digests of what it happened to; never a model, an update, an
input or a key. It is written in one way only, keys sorted and nothing between, so that an entry
that was read and written again is the same bytes.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from types import NoneType
from typing import Any, TypeAlias, get_args, get_type_hints

from tacit.crypto.errors import Damaged, ParameterError
from tacit.server.events import Event, Metrics


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


@dataclass(frozen=True, slots=True)
class ProcessStarted:
    """The supervisor started a process, by the name it has in `tacit status`."""

    name: str


@dataclass(frozen=True, slots=True)
class ProcessEnded:
    """A process ended; `how` is its exit code, or the signal that ended it."""

    name: str
    how: str


@dataclass(frozen=True, slots=True)
class RunOrdered:
    """An operator, by the name of a key, ordered a run: SHA-256 of its settings."""

    run: str
    digest: str
    by: str


@dataclass(frozen=True, slots=True)
class RunBegun:
    """A run was handed to Flower, under Flower's number, to go on after a round (0: from the
    beginning)."""

    run: str
    number: int
    after: int


@dataclass(frozen=True, slots=True)
class RunEnded:
    """A run is over, for good or until it is begun again: `how` is its status, and why."""

    run: str
    how: str
    reason: str


@dataclass(frozen=True, slots=True)
class StrangerEnded:
    """Flower had a run, under Flower's number, that this server knows no order of: it was ended.
    `run` is what it called itself."""

    number: int
    run: str


@dataclass(frozen=True, slots=True)
class OrderRefused:
    """An order that was not carried out: what it asked for, whose it says it is, and why not."""

    order: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """The front did not let somebody through: why, from which address, what they said of
    themselves, and how many times since the last such entry."""

    reason: str
    address: str
    who: str
    times: int


@dataclass(frozen=True, slots=True)
class Granted:
    """An operator's key may do what a role may, `by` another key."""

    name: str
    role: str
    key: str
    by: str


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """An operator's key may do nothing any more."""

    name: str
    by: str


@dataclass(frozen=True, slots=True)
class NodeRegistered:
    """Flower lets a device's node in; its key in hexadecimal digits."""

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class NodeUnregistered:
    """Flower lets a node in no more."""

    name: str
    key: str


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
    | ProcessStarted
    | ProcessEnded
    | RunOrdered
    | RunBegun
    | RunEnded
    | StrangerEnded
    | OrderRefused
    | TurnedAway
    | Granted
    | Withdrawn
    | NodeRegistered
    | NodeUnregistered
)

LONGEST_REASON = 500  # characters of a stranger's text that anybody is shown
_LARGEST = (1 << 64) - 1  # of a whole number
_YEAR_10000 = 253_402_300_800  # where times end that calendars can show
_KINDS = {kind.__name__: kind for kind in (*get_args(Event), *get_args(Kind))}


@dataclass(frozen=True, slots=True)
class Noted:
    """An entry that was read; `at` is Unix time in seconds."""

    at: float
    entry: Event | Kind


def one_line(text: str) -> str:
    """What may be a stranger's text as one line that is safe to print and not too long."""
    line = "".join(c if c.isprintable() else " " for c in text[: LONGEST_REASON + 1])
    return line if len(line) <= LONGEST_REASON else line[:LONGEST_REASON] + "..."


def noted(said: Mapping[str, Any]) -> bytes:
    """One entry about something that happened. All its texts are made `one_line` each."""
    return encode(_told(said))


def encode(fields: Mapping[str, Any]) -> bytes:
    """One entry. Raises ParameterError for what JSON has no word for, such as infinity."""
    try:
        text = json.dumps(
            fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
        return text.encode()
    except (TypeError, ValueError) as bad:
        raise ParameterError(f"an entry of an audit log has to be JSON: {bad}") from None


def decode(entry: bytes) -> dict[str, Any]:
    """The fields of an entry. Raises Damaged for anything that `encode` does not write."""
    try:
        fields = json.loads(entry)
        if isinstance(fields, dict) and encode(fields) == entry:
            return fields
    except (ValueError, RecursionError):
        pass
    raise Damaged("an entry that is no JSON object as this log's keeper writes them")


def read(entry: bytes) -> Noted:
    """What an entry says. Raises Damaged for a kind that is not known here, a field that it does
    not have, one that is missing, and a value that `noted` does not write.

    A kind may get more fields, with defaults, and never loses one: so old entries can be read.
    """
    said = decode(entry)
    name, at = said.pop("event", None), said.pop("at", None)
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise Damaged("an entry of no kind that this version knows")
    if not (_fits(at, float) and 0 <= at < _YEAR_10000):
        raise Damaged(f"an entry {name} without a time")
    if (fault := _fault(kind, said)) is not None:
        raise Damaged(f"an entry {name} {fault}")
    return Noted(at, kind(**said))


def _fault(kind: type, given: Mapping[str, Any]) -> str | None:
    """Why these are not the fields of such an entry, None if they are."""
    known, hints = {each.name: each for each in fields(kind)}, get_type_hints(kind)
    for name in given:
        if name not in known:
            return f"with a field too many: {one_line(name)}"
    for name, field in known.items():
        if name in given:
            if not _fits(given[name], hints[name]):
                return f"with a wrong {name}"
        elif field.default is MISSING and field.default_factory is MISSING:
            return f"without its {name}"
    return None


def _told(value: Any) -> Any:
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, Mapping):
        return {one_line(name): _told(inner) for name, inner in value.items()}
    return value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a field of this type may have this value."""
    if hint == Metrics:
        return isinstance(value, dict) and all(
            _fits(name, str) and _fits(number, float) for name, number in value.items()
        )
    if hint is str:
        return isinstance(value, str) and one_line(value) == value
    if hint is bool:
        return type(value) is bool
    if hint is int:
        return type(value) is int and 0 <= value <= _LARGEST
    if hint is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    return any(_fits(value, each) for each in get_args(hint)) or (
        value is None and NoneType in get_args(hint)
    )
