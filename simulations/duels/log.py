"""Log: who alters a log's file, against a plain log and against the tamper-evident one.

Whoever alters it knows the format, and puts every checksum right that takes no key. Only `fork` has
the keeper's own key: it writes the whole log anew. What stops that, and cutting off at the end of a
batch, is a head that was kept elsewhere.
"""

import json
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from tacit.crypto.errors import Damaged
from tacit.crypto.identity import Identity
from tacit.crypto.loghead import SignedHead
from tacit.server.auditlog import HEADER_BYTES, RECORD_BYTES, AuditLog, verify
from tacit.server.entries import noted
from tacit.server.kinds import Answered
from tacit.simulations.duels.base import Figure, Fought, Line, Role, Scale, Tell, share_of

Record: TypeAlias = tuple[int, bytes]
Entries: TypeAlias = list[bytes]
Draw: TypeAlias = np.random.Generator

ENTRY, HEAD = 1, 2
_FIELDS = struct.Struct("<BII")
KEEPER, NAME = Identity(bytes(range(32))), bytes(16)
# In full, and quick: entries, how many of them in a batch, and trials of each kind.
SMALL = (2_000, 50, 100), (400, 50, 15)
LARGE = (100_000, 1_000, 3), (20_000, 1_000, 0)
LEAST_APPENDS = 20_000.0  # a second
LIMITS = (
    "Against the keeper himself, and against cutting off at the end of a batch, a log shows "
    "nothing by itself: somebody else has to have kept a head of it.",
    "Entries after the last head that was kept elsewhere are only as safe as the keeper's key.",
    "That an entry is kept as it was written does not say that it was true.",
)


def flip(entries: Entries, batch: int, draw: Draw) -> Entries:
    """A digit becomes another one: the entry still reads well."""
    out, at = list(entries), int(draw.integers(len(entries)))
    said = json.loads(out[at])
    said["queries"] = (said["queries"] + int(draw.integers(1, 9))) % 10
    out[at] = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
    return out


def drop(entries: Entries, batch: int, draw: Draw) -> Entries:
    at = int(draw.integers(len(entries)))
    return entries[:at] + entries[at + 1 :]


def reorder(entries: Entries, batch: int, draw: Draw) -> Entries:
    out = list(entries)
    one, other = draw.choice(len(entries), 2, replace=False).tolist()
    out[one], out[other] = out[other], out[one]
    return out


def truncate(entries: Entries, batch: int, draw: Draw) -> Entries:
    """At the end of a batch, where it looks as it once did."""
    return entries[: batch * int(draw.integers(1, len(entries) // batch))]


KINDS: Mapping[str, Callable[[Entries, int, Draw], Entries]] = MappingProxyType(
    {"flip": flip, "drop": drop, "reorder": reorder, "truncate": truncate, "fork": flip}
)


class Log:
    """See the module."""

    name = "log"
    attack = "entries changed, dropped, moved, cut off, or all of it written and signed anew"
    defence = "a tree of hashes whose heads are signed, and one of them kept elsewhere"

    def fight(self, scale: Scale, tell: Tell) -> Fought:
        began = perf_counter()
        with TemporaryDirectory() as folder:
            lines = self._lines(Path(folder), scale.quick, tell)
        tell(1.0)
        return Fought(self.name, self.attack, self.defence, "invented entries", tuple(lines),
                      perf_counter() - began, LIMITS)  # fmt: skip

    def _lines(self, folder: Path, quick: bool, tell: Tell) -> list[Line]:
        size, batch, trials = SMALL[quick]
        kept = Kept.written(folder / "small.log", _entries(size), batch)
        lines = []
        for step, (kind, change) in enumerate(KINDS.items()):
            draw = np.random.default_rng([step, 8])
            tampered = [change(kept.entries, batch, draw) for _ in range(trials)]
            plain = sum(is_accepted_plainly(each) for each in tampered)
            signed = sum(kept.hides(each, kind) for each in tampered)
            what = f"{kind} goes unnoticed"
            lines += [
                Line("plain log", what, share_of(plain, trials), Role.ATTACK, 1.0),
                Line("signed tree, head kept", what, share_of(signed, trials), Role.DEFENCE, 0.0,
                     at_most=True),
            ]  # fmt: skip
            tell((step + 1) / (2 * len(KINDS)))
        alone = share_of(sum(kept.hides(each, "fork", head=False) for each in tampered), trials)
        lines.append(Line("signed tree, no head kept", "fork goes unnoticed", alone))
        return lines + self._large(folder, quick, tell)

    def _large(self, folder: Path, quick: bool, tell: Tell) -> list[Line]:
        """The same on a log of the size that is promised, and what it costs."""
        size, batch, trials = LARGE[quick]
        entries, began = _entries(size), perf_counter()
        kept = Kept.written(folder / "large.log", entries, batch)
        rate = size / (perf_counter() - began)
        lines = []
        for step, (kind, change) in enumerate(KINDS.items() if trials else ()):
            draw = np.random.default_rng([step, 10])
            hidden = sum(kept.hides(change(entries, batch, draw), kind) for _ in range(trials))
            lines.append(
                Line(f"the same, {size:,} entries", f"{kind} goes unnoticed",
                     share_of(hidden, trials), Role.DEFENCE, 0.0, at_most=True)
            )  # fmt: skip
            tell(0.5 + (step + 1) / (2 * len(KINDS)))
        more = kept.path.stat().st_size / size - len(entries[0])
        # A quick duel has neighbours: what it takes for slowness may be theirs.
        target = None if quick else LEAST_APPENDS
        return [
            *lines,
            Line("signed tree", "entries a second, a thousand at once", Figure(rate), Role.PRICE,
                 target),
            Line("signed tree", "bytes an entry beside its own", Figure(more), Role.PRICE),
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kept:
    """A log as it was written, and the head of it that somebody else has."""

    path: Path
    entries: Entries
    batch: int
    head: SignedHead

    @classmethod
    def written(cls, path: Path, entries: Entries, batch: int) -> "Kept":
        with AuditLog.create(path, KEEPER, NAME) as log:
            for start in range(0, len(entries), batch):
                log.append(entries[start : start + batch])
            return cls(path, entries, batch, log.head)

    def hides(self, tampered: Entries, kind: str, *, head: bool = True) -> bool:
        """Whether it goes unnoticed that the entries in the file are now these."""
        changed = self.path.with_suffix(f".{kind}")
        changed.unlink(missing_ok=True)
        if kind == "fork":
            Kept.written(changed, tampered, len(tampered))
        else:
            changed.write_bytes(_disguised(self.path.read_bytes(), tampered, self.batch))
        try:
            verify(changed, KEEPER.public, [self.head] if head else [])
        except Damaged:
            return False
        return True


def is_accepted_plainly(entries: Sequence[bytes]) -> bool:
    """A log of lines has nothing to hold an entry against but whether it reads well."""
    return all(isinstance(json.loads(entry), dict) for entry in entries)


def _disguised(data: bytes, entries: Entries, batch: int) -> bytes:
    """The file with other entries, of the same or fewer, and its own heads: one after each batch,
    as long as there are entries, and every checksum right."""
    heads = [body for kind, body in _records(data) if kind == HEAD]
    out = [data[:HEADER_BYTES], _record(HEAD, heads[0])]
    for number, start in enumerate(range(0, len(entries), batch), 1):
        out += [_record(ENTRY, entry) for entry in entries[start : start + batch]]
        out.append(_record(HEAD, heads[number]))
    return b"".join(out)


def _records(data: bytes) -> list[Record]:
    found, at = [], HEADER_BYTES
    while at < len(data):
        kind, length, _ = _FIELDS.unpack_from(data, at)
        at += RECORD_BYTES + length
        found.append((kind, data[at - length : at]))
    return found


def _record(kind: int, body: bytes) -> bytes:
    fields = _FIELDS.pack(kind, len(body), zlib.crc32(body))
    return fields + struct.pack("<I", zlib.crc32(fields)) + body


def _entries(count: int) -> Entries:
    """Such as a gate writes."""
    said: dict[str, Any] = {"event": Answered.__name__, "key": "k", "digest": "0" * 64}
    return [noted({**said, "at": float(i), "queries": i % 10}) for i in range(count)]
