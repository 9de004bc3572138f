"""A journal: sealed lines that are only ever added, on pages of bounded size.

    NAME.00000001, NAME.00000002, ...    the last page is written to, a few before it are kept

A line is base64 of   previous (32) | nonce (12) | AES-256-GCM of an entry   and a newline. It is
opened on its own; `previous`, SHA-256 of the line before it, is authenticated with the entry. The
first line of a page is its heading: how many entries of each kind there were on pages before.

An entry is durable when `append` returns. A machine that stops in the middle of that leaves a line
without its end: readers pass over it, and the next `append` writes over it. Where the last line has
its end and does not open, that was no crash of a process: the page stays as it is, and a new one
begins. So no line that was promised is ever taken away but with its page, by its age.

Sealed, as a copy of a vault without its key tells nothing. Chained, so that a line which was
altered, moved, put in or taken out is noticed by all but those who have the key, and they are who
may read it all. Lines that are missing at the end look like a journal as it once was: a head that
was noted elsewhere tells.
"""

import base64
import binascii
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tacit.client.files import replace_file
from tacit.client.vault import FileVault, locked
from tacit.crypto import labels
from tacit.crypto.errors import Damaged

PAGE_BYTES = 1 << 17
KEPT = 3  # pages before the one that is written to
MAX_LINE = 1 << 13
HEADING = "heading"
_HASH_BYTES, _NONCE_BYTES = 32, 12
_FIRST = bytes(_HASH_BYTES)


@dataclass(frozen=True, slots=True)
class Entry:
    """What happened, and when in seconds since 1970."""

    kind: str
    at: float
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Read:
    """A journal as far as it can be read, the oldest first.

    `before` counts the entries of pages that are gone. `faults` is empty for one that is whole.
    `lines` has the SHA-256 of each line: the last one is the head.
    """

    entries: tuple[Entry, ...]
    before: Mapping[str, int]
    faults: tuple[str, ...]
    lines: tuple[bytes, ...]

    @property
    def counts(self) -> Counter[str]:
        """Entries ever, by their kind."""
        return Counter(self.before) + Counter(entry.kind for entry in self.entries)


@dataclass(frozen=True, slots=True)
class _Page:
    """One file's lines. `before` is None if the heading is lost; `first` is what the heading says
    the last line before was."""

    number: int
    before: Mapping[str, int] | None
    first: bytes | None
    entries: tuple[Entry, ...]
    faults: tuple[str, ...]
    lines: tuple[bytes, ...]

    @property
    def head(self) -> bytes:
        return self.lines[-1] if self.lines else _FIRST

    @property
    def counts(self) -> dict[str, int]:
        here = Counter(entry.kind for entry in self.entries)
        return dict(Counter(self.before or {}) + here)


@dataclass(frozen=True, slots=True)
class Journal:
    """One of them in a vault, by its name. Several processes may append and read at any time."""

    folder: Path
    name: str
    key: bytes = field(repr=False)

    LOCK_FILE = "diary.lock"

    @classmethod
    def of(cls, vault: FileVault, name: str) -> "Journal":
        return cls(vault.folder, name, vault.key)

    def append(self, kind: str, at: float, fields: Mapping[str, Any]) -> None:
        """Add an entry; it is durable when this returns.

        Raises OSError if it cannot be written, on a full disk for one, and then it is not there.
        Innermost of all locks: it may be called in `FileVault.alone`.
        """
        with locked(self.folder / self.LOCK_FILE):
            numbers = self._numbers()
            if not numbers:
                self._begin(1, {}, _FIRST)
                numbers = [1]
            path = self._path(numbers[-1])
            if (line := self._following(path, kind, at, fields)) is None:
                page = self._page(numbers[-1])
                self._begin(numbers[-1] + 1, page.counts, page.head)
                for number in numbers[:-KEPT]:
                    self._path(number).unlink()
                path = self._path(numbers[-1] + 1)
                line = self._following(path, kind, at, fields)
                assert line is not None  # a new page has room, and a heading that opens
            _add(path, line)

    def read(self) -> Read:
        """All that is there, and what is wrong with it. Changes nothing."""
        while True:
            try:
                return self._joined([self._page(number) for number in self._numbers()])
            except FileNotFoundError:  # a page was old enough to go just now
                continue

    def version(self) -> tuple[int, int, int]:
        """Others whenever an entry was added."""
        if not (numbers := self._numbers()):
            return 0, 0, 0
        found = self._path(numbers[-1]).stat()
        return numbers[-1], found.st_size, found.st_mtime_ns

    def _numbers(self) -> list[int]:
        found = (path.suffix[1:] for path in self.folder.glob(f"{self.name}.*"))
        return sorted(int(digits) for digits in found if digits.isdecimal())

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.name}.{number:08d}"

    def _begin(self, number: int, before: Mapping[str, int], previous: bytes) -> None:
        """A new page, with its heading or not at all."""
        line = self._sealed(previous, HEADING, 0, {"page": number, "before": before})
        replace_file(self._path(number), line)

    def _following(
        self, path: Path, kind: str, at: float, fields: Mapping[str, Any]
    ) -> bytes | None:
        """The entry's line after the last one of a page; None if the page is to be left as it is:
        it has no room, or its last line does not open."""
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 2 * MAX_LINE))
            lines = file.read().rpartition(b"\n")[0].split(b"\n")
        last = lines[-1]
        try:
            self._opened(last)
        except Damaged:
            return None
        line = self._sealed(sha256(last).digest(), kind, at, fields)
        return line if size + len(line) <= PAGE_BYTES else None

    def _sealed(self, previous: bytes, kind: str, at: float, fields: Mapping[str, Any]) -> bytes:
        text = json.dumps([kind, at, fields], separators=(",", ":"), ensure_ascii=False)
        entry = text.encode("utf-8", "replace")
        nonce = os.urandom(_NONCE_BYTES)  # random ones under the vault's key: see `FileVault.write`
        box = AESGCM(self.key).encrypt(nonce, entry, self._bound(previous))
        line = base64.b64encode(previous + nonce + box) + b"\n"
        if len(line) > MAX_LINE:
            raise ValueError(f"a line of {len(line)} bytes in a journal, at most {MAX_LINE}")
        return line

    def _bound(self, previous: bytes) -> bytes:
        return labels.DIARY + self.name.encode() + b"\0" + previous

    def _opened(self, line: bytes) -> tuple[bytes, Entry]:
        """What came before a line, and what it says. Raises Damaged."""
        try:
            data = base64.b64decode(line, validate=True)
            previous, nonce = data[:_HASH_BYTES], data[_HASH_BYTES : _HASH_BYTES + _NONCE_BYTES]
            box = data[_HASH_BYTES + _NONCE_BYTES :]
            entry = AESGCM(self.key).decrypt(nonce, box, self._bound(previous))
        except (binascii.Error, InvalidTag, ValueError):
            raise Damaged("a line of the journal is not what was written") from None
        return previous, Entry(*json.loads(entry))

    def _page(self, number: int) -> _Page:
        """Read one. Raises FileNotFoundError."""
        path = self._path(number)
        text = path.read_bytes()
        before: Mapping[str, int] | None = None
        first: bytes | None = None
        entries: list[Entry] = []
        faults: list[str] = []
        lines: list[bytes] = []
        for at, line in enumerate(text.split(b"\n")[:-1], 1):
            lines.append(sha256(line).digest())
            try:
                previous, entry = self._opened(line)
            except Damaged:
                faults.append(f"{path.name}, line {at}: it was altered, and cannot be read")
                continue
            if entry.kind == HEADING:
                before, first = entry.fields["before"], previous
                if at != 1 or entry.fields["page"] != number:
                    faults.append(f"{path.name}, line {at}: a heading of another page")
            else:
                entries.append(entry)
                if previous not in lines[-2:-1]:
                    faults.append(f"{path.name}, line {at}: it did not follow the line before it")
        if before is None:
            faults.append(f"{path.name}: it has no heading, so older entries are not counted")
        return _Page(number, before, first, tuple(entries), tuple(faults), tuple(lines))

    def _joined(self, pages: list[_Page]) -> Read:
        faults: list[str] = []
        for page, older in zip(pages, [None, *pages], strict=False):
            faults += page.faults
            name = self._path(page.number).name
            if older is not None and page.number != older.number + 1:
                faults.append(f"{name}: the page before it is missing")
            elif older is not None and page.first not in (None, older.head):
                faults.append(f"{name}: the page before it was cut short")
        entries = tuple(entry for page in pages for entry in page.entries)
        before = (pages[0].before or {}) if pages else {}
        return Read(
            entries, before, tuple(faults), tuple(line for page in pages for line in page.lines)
        )


def _add(path: Path, line: bytes) -> None:
    """Put a line after the last one that has its end. What else is there has none, and stays so."""
    handle = os.open(path, os.O_RDWR)
    try:
        size = os.lseek(handle, 0, os.SEEK_END)
        start = max(0, size - 2 * MAX_LINE)
        whole = start + os.pread(handle, size - start, start).rfind(b"\n") + 1
        try:
            left = memoryview(line)
            while left:
                left = left[os.pwrite(handle, left, whole + len(line) - len(left)) :]
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, whole)  # it is not there, or its beginning would be
            raise
    finally:
        os.close(handle)
