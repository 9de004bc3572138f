"""Following files that others write: lines as they are added, and logs as they are signed.

Nothing is written, locked or kept open. A file may not be there yet, end in the middle of a line,
or be replaced by another one of the same name: then it is read from its beginning again.
"""

import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeAlias

from tacit.crypto.errors import Damaged
from tacit.server.auditlog import Batch, batches
from tacit.server.entries import Noted, read

MOST_BYTES = 1 << 22  # of lines at a look: a large file comes in several
MOST_BATCHES = 2000  # of a log at a look
_LINK = 256  # bytes before where reading stopped, which have to be there still

_Stamp: TypeAlias = tuple[int, int, int, int]  # device, inode, bytes, time of the last change in ns


@dataclass(slots=True)
class Lines:
    """A file of lines that grows. Its last line counts once it is whole."""

    path: Path
    _at: int = 0  # bytes that were read, all of them whole lines
    _link: bytes = b""
    _inode: tuple[int, int] | None = None

    def read(self) -> tuple[bool, list[bytes]]:
        """Whether what was read before does not count any more, and what lines are new."""
        try:
            with self.path.open("rb") as file:
                is_other = not self._goes_on(file) and self._forget(file)
                file.seek(self._at)
                new = file.read(MOST_BYTES)
        except OSError:
            return self._forget(None), []
        whole = new[: new.rfind(b"\n") + 1]
        if not whole and len(new) == MOST_BYTES:
            whole = new  # nobody of ours writes such lines: it is passed over
        self._at += len(whole)
        self._link = (self._link + whole)[-_LINK:]
        return is_other, whole.splitlines()

    def _goes_on(self, file: BinaryIO) -> bool:
        """Whether the file is the one that was read. A new one may have an old one's inode."""
        file.seek(self._at - len(self._link))
        return self._inode == _inode(file) and file.read(len(self._link)) == self._link

    def _forget(self, file: BinaryIO | None) -> bool:
        """Begin anew; whether anything had been read."""
        had = self._at > 0
        self._at, self._link = 0, b""
        self._inode = None if file is None else _inode(file)
        return had


@dataclass(slots=True)
class Log:
    """An audit log that grows. Every head is verified, as far as the log itself can tell: whether
    it is the log that it was, people find by comparing what `size` and `root` they see."""

    path: Path
    fault: str = ""
    _last: Batch | None = None
    _stamp: _Stamp | None = None  # of the file, when all of it had been read

    @property
    def size(self) -> int:
        """Entries."""
        return self._last.after.size if self._last else 0

    @property
    def root(self) -> str:
        """In hexadecimal digits; "" where there is no log."""
        return self._last.head.head.root.hex() if self._last else ""

    def read(self) -> tuple[bool, list[Noted]]:
        """Whether what was read before does not count any more, and what entries are new, without
        those of a kind that this version does not know."""
        try:
            stamp = _stamp(self.path)
            if stamp == self._stamp:
                return False, []
            with self.path.open("rb") as file:
                found, is_all, is_other = self._new(file)
        except OSError:
            had, self._last, self._stamp, self.fault = self._last is not None, None, None, ""
            return had, []
        self._stamp = stamp if is_all else None
        return is_other, [
            one for batch in found for entry in batch.entries for one in _noted(entry)
        ]

    def _new(self, file: BinaryIO) -> tuple[list[Batch], bool, bool]:
        """New batches, whether these are all, and whether they are of another log."""
        before, found = self._last, []
        self.fault = ""
        try:
            for batch in islice(batches(file, before), MOST_BATCHES):
                found.append(batch)
                self._last = batch
        except Damaged as wrong:
            if before is not None and not found:
                self._last = None  # it may be another run's, that replaced this one
                file.seek(0)
                found, is_all, _ = self._new(file)
                return found, is_all, True
            self.fault = str(wrong)
        return found, len(found) < MOST_BATCHES, False


def _noted(entry: bytes) -> list[Noted]:
    try:
        return [read(entry)]
    except Damaged:
        return []


def _inode(file: BinaryIO) -> tuple[int, int]:
    about = os.fstat(file.fileno())
    return about.st_dev, about.st_ino


def _stamp(path: Path) -> _Stamp:
    about = path.stat()
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns
