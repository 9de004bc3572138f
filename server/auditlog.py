"""The audit log: a file that is only ever added to, and shows whatever else was done to it.

    header    magic (16) | public key of the keeper (32) | name of the log (16) | CRC-32 (4)
    records   kind (u8) | length (u32) | CRC-32 of the body | CRC-32 of these nine bytes | body

A record is an entry or a signed head of all entries before it. Entries are written in batches, each
closed by a head, in one write and one `fsync`: what is signed is acknowledged, and what is not was
never promised. There is a head of no entries at the start.

A crash leaves the beginning of what was being written. That is told apart from damage: a record's
length has a checksum of its own, so one that reaches beyond the end of the file was cut off, and
one that is all there has to check. Checksums are against accidents, and say where; roots and
signatures are against people. A head that was kept elsewhere is against the keeper: nothing else
tells the log from what it was earlier, or from another one that the keeper signed as well.

Other crashes than a killed process, such as a power cut, may leave holes in the last batch on some
file systems. Those pass for damage: nothing is taken out of a log unless it is a mere beginning.
"""

import os
import struct
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from tacit.crypto.errors import Damaged, MalformedMessage, ParameterError
from tacit.crypto.identity import KEY_BYTES, Identity
from tacit.crypto.loghead import LOG_BYTES, SignedHead
from tacit.crypto.merkle import Frontier, Tree, leaf_hash

try:
    import fcntl
except ImportError:  # no Unix
    fcntl = None  # type: ignore[assignment]

MAX_ENTRY = 1 << 20
_MAGIC = b"tacit audit v1\r\n"
_HEADER = struct.Struct(f"<{len(_MAGIC)}s{KEY_BYTES}s{LOG_BYTES}s")
_CHECK = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CHECK.size
_FIELDS = struct.Struct("<BII")
RECORD_BYTES = _FIELDS.size + _CHECK.size  # before its body
_ENTRY, _HEAD = 1, 2
_KINDS = {_ENTRY: "an entry", _HEAD: "a head"}


class LogInUse(ParameterError):
    """Another process is appending to the log."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries that one head closed. `end` is where the file's next record starts."""

    entries: tuple[bytes, ...]
    before: Frontier
    after: Frontier
    head: SignedHead
    keeper: bytes
    end: int


@dataclass(frozen=True, slots=True)
class Whole:
    """A log in which nothing is wrong, up to its last head.

    `unfinished` bytes follow it: the beginning of a batch that nobody was told is kept.
    """

    keeper: bytes
    head: SignedHead
    unfinished: int


class AuditLog:
    """A log that is open for appending, by one process at a time."""

    def __init__(self, file: BinaryIO, keeper: Identity, last: Batch) -> None:
        self._file = file
        self._keeper = keeper
        self._frontier = last.after
        self._head = last.head
        self._is_sound = True

    @classmethod
    def create(cls, path: Path, keeper: Identity, name: bytes) -> "AuditLog":
        """A new log, named by 16 fresh random bytes. Raises ParameterError if a file is there.

        Either the file is there with its first head, or it is not.
        """
        first = SignedHead.signed(keeper, name, Frontier().head)
        fields = _HEADER.pack(_MAGIC, keeper.public, name)
        fresh = path.with_name(path.name + ".new")
        with fresh.open("wb") as file:
            file.write(fields + _CHECK.pack(zlib.crc32(fields)) + _record(_HEAD, first.encode()))
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(fresh)  # unlike a renaming, this never replaces a file
        except FileExistsError:
            raise ParameterError(f"there is a file at {path} already") from None
        finally:
            fresh.unlink()
        _sync_folder(path.parent)
        return cls.open(path, keeper)

    @classmethod
    def open(cls, path: Path, keeper: Identity) -> "AuditLog":
        """Go on with a log. All of it is verified, and an unfinished batch is removed.

        Raises Damaged if anything is wrong with it, ParameterError if there is none, it is another
        keeper's, or (LogInUse) another process is appending to it.
        """
        try:
            file = path.open("r+b", buffering=0)
        except FileNotFoundError:
            raise ParameterError(f"no audit log at {path}") from None
        try:
            _lock(file, path)
            with path.open("rb") as reading:
                last = _last(batches(reading))
            if last.keeper != keeper.public:
                raise ParameterError(f"the audit log at {path} is kept with another key")
            if file.seek(0, os.SEEK_END) > last.end:
                file.truncate(last.end)
                file.seek(last.end)
                os.fsync(file.fileno())
        except BaseException:
            file.close()
            raise
        return cls(file, keeper, last)

    @property
    def head(self) -> SignedHead:
        """Of all entries that are kept: to be kept elsewhere, too."""
        return self._head

    def append(self, entries: Sequence[bytes]) -> SignedHead:
        """Keep entries of up to 1 MiB each, in this order; they are durable when this returns.

        After an OSError it is unknown how much was kept, and nothing more is taken: open it anew.
        """
        for entry in entries:
            if len(entry) > MAX_ENTRY:
                raise ParameterError(f"an entry of {len(entry)} bytes, at most {MAX_ENTRY}")
        if not self._is_sound:
            raise ParameterError("writing to the audit log failed before: open it anew")
        if not entries:
            return self._head
        frontier = self._frontier.extended(map(leaf_hash, entries))
        head = SignedHead.signed(self._keeper, self._head.log, frontier.head)
        records = [_record(_ENTRY, entry) for entry in entries]
        self._is_sound = False
        self._write(b"".join([*records, _record(_HEAD, head.encode())]))
        self._is_sound = True
        self._frontier, self._head = frontier, head
        return head

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let others append."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def batches(file: BinaryIO, since: Batch | None = None) -> Iterator[Batch]:
    """Everything that is kept, in order, each batch once its head is verified; the first is empty.
    With `since`, which was read from this log before, what came after it.

    `file` is at its start, buffered. Memory is that of the largest batch. Ends before an unfinished
    batch. Raises Damaged at the first fault, and says where it is.
    """
    keeper, log = _read_header(file)
    entries: list[bytes] = []
    frontier, is_first, start = Frontier(), True, HEADER_BYTES
    if since is not None:
        if (keeper, log) != (since.keeper, since.head.log):
            raise Damaged("another log is in this one's place")
        if file.seek(0, os.SEEK_END) < since.end:
            raise Damaged("entries are missing that were there before")
        frontier, is_first, start = since.after, False, since.end
        file.seek(start)
    for at, kind, body in _records(file, start):
        if kind == _ENTRY:
            entries.append(body)
            continue
        where, after = f"the head at byte {at}", frontier.extended(map(leaf_hash, entries))
        head = _read_head(body, where)
        if head.log != log:
            raise Damaged(f"{where} is of another log")
        if head.head != after.head:
            raise Damaged(
                f"{where}, of {head.head.size} entries, does not fit the {len(entries)} before it, "
                f"from entry {frontier.size} on: one was altered, moved, put in or taken out"
            )
        if not head.is_by(keeper):
            raise Damaged(f"{where} is not signed by the log's keeper")
        if not entries and not is_first:
            raise Damaged(f"{where} is there twice")
        yield Batch(tuple(entries), frontier, after, head, keeper, at + RECORD_BYTES + len(body))
        entries, frontier, is_first = [], after, False


def verify(path: Path, keeper: bytes | None = None, kept: Sequence[SignedHead] = ()) -> Whole:
    """Read all of a log. Nothing but the file is needed; `keeper` and `kept` make it say more.

    `keeper` is the public key that should have signed it: without it, whoever altered the file may
    have signed it anew. `kept` are heads that were kept elsewhere: without one, a file that is cut
    off after a head looks like the log as it once was, and the keeper could have written another.

    Raises Damaged, and says what is wrong and where; ParameterError if there is no file.
    """
    try:
        with path.open("rb") as file:
            last = _last(_held_against(batches(file), keeper, kept))
            size = file.seek(0, os.SEEK_END)
    except (FileNotFoundError, IsADirectoryError):
        raise ParameterError(f"no audit log at {path}") from None
    for each in kept:
        if each.head.size > last.after.size:
            raise Damaged(
                f"entries are missing: {last.after.size} are left, and a kept head has "
                f"{each.head.size}"
            )
    return Whole(last.keeper, last.head, size - last.end)


def tree(path: Path) -> Tree:
    """The log's tree, for proofs. Raises Damaged as `verify` does."""
    found = Tree()
    with path.open("rb") as file:
        for batch in batches(file):
            for entry in batch.entries:
                found.append(leaf_hash(entry))
    return found


def _held_against(
    found: Iterator[Batch], keeper: bytes | None, kept: Sequence[SignedHead]
) -> Iterator[Batch]:
    for batch in found:
        if not batch.after.size:
            _check_kept(batch, keeper, kept)
        for each in kept:
            _check_fork(batch, each)
        yield batch


def _check_kept(first: Batch, keeper: bytes | None, kept: Sequence[SignedHead]) -> None:
    """Whose log this is, and that the kept heads are of it."""
    if keeper is not None and keeper != first.keeper:
        raise Damaged(f"the log is kept with another key: {first.keeper.hex()}")
    for each in kept:
        if not each.is_by(first.keeper):
            raise Damaged(
                f"a kept head of {each.head.size} entries is not signed by this log's key"
            )
        if each.log != first.head.log:
            raise Damaged(f"a kept head of {each.head.size} entries is of another log")


def _check_fork(batch: Batch, kept: SignedHead) -> None:
    """A kept head may be anywhere: one that a forked log was signed with need not end a batch."""
    if batch.before.size < kept.head.size <= batch.after.size:
        held = islice(batch.entries, kept.head.size - batch.before.size)
        if batch.before.extended(map(leaf_hash, held)).head != kept.head:
            raise Damaged(
                f"the log was forked: its first {kept.head.size} entries are not those of a kept "
                "head, though both are signed"
            )


def _record(kind: int, body: bytes) -> bytes:
    fields = _FIELDS.pack(kind, len(body), zlib.crc32(body))
    return fields + _CHECK.pack(zlib.crc32(fields)) + body


def _records(file: BinaryIO, at: int) -> Iterator[tuple[int, int, bytes]]:
    """Offset, kind and body of each record from here, where `file` is, up to the end or to one that
    is cut off by it."""
    while len(start := file.read(RECORD_BYTES)) == RECORD_BYTES:
        fields, (check,) = start[: _FIELDS.size], _CHECK.unpack(start[_FIELDS.size :])
        kind, length, sum_of_body = _FIELDS.unpack(fields)
        if zlib.crc32(fields) != check:
            raise Damaged(f"the record at byte {at} is damaged: its length and kind do not check")
        if kind not in _KINDS or length > MAX_ENTRY:
            raise Damaged(f"the record at byte {at} is none: kind {kind}, {length} bytes")
        body = file.read(length)
        if len(body) < length:
            return
        if zlib.crc32(body) != sum_of_body:
            raise Damaged(f"the record at byte {at}, {_KINDS[kind]}, is damaged: it does not check")
        yield at, kind, body
        at += RECORD_BYTES + length


def _read_header(file: BinaryIO) -> tuple[bytes, bytes]:
    start = file.read(HEADER_BYTES)
    if len(start) < HEADER_BYTES or not start.startswith(_MAGIC):
        raise Damaged("this is no audit log: it does not begin like one")
    fields, (check,) = start[: _HEADER.size], _CHECK.unpack(start[_HEADER.size :])
    if zlib.crc32(fields) != check:
        raise Damaged("the header, at byte 0, is damaged: it does not check")
    _, keeper, log = _HEADER.unpack(fields)
    return keeper, log


def _read_head(body: bytes, where: str) -> SignedHead:
    try:
        return SignedHead.decode(body)
    except MalformedMessage as bad:
        raise Damaged(f"{where} is none: {bad.reason}") from None


def _last(found: Iterator[Batch]) -> Batch:
    last = deque(found, maxlen=1)
    if not last:
        raise Damaged("the log ends before its first head: it was cut off")
    return last[0]


def _lock(file: BinaryIO, path: Path) -> None:
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LogInUse(f"another process is appending to {path}") from None


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
