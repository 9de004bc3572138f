"""The folder that operators put orders into: anybody's files, so nothing in it is followed, waited
for, or read without a bound.

It has mode 1730. Its owner, the supervisor, reads it; members of its group put files in, and can
neither list it nor take away or read each other's. Whoever can write into it can fill it, with
folders too that only root can take away again. Then orders wait, and that is all.
"""

import heapq
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tacit.crypto.errors import Damaged, ParameterError

SUFFIX = ".order"
LOOK = 64  # files at a time
MOST_NAMES = 4096  # seen at a time
STALE = 3600.0  # seconds after which a file is none that somebody is still writing
MODE, FILE_MODE = 0o1730, 0o644
_READ = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def put(folder: Path, name: str, content: bytes) -> Path:
    """A new file, whole or not there. Raises ParameterError where none can be made."""
    fresh, path = folder / f"{name}.new", folder / name
    try:
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, FILE_MODE)  # past any umask: the supervisor may be another user
            file.write(content)
            file.flush()
            os.fsync(handle)
        fresh.rename(path)
    except OSError as bad:
        raise ParameterError(f"nothing can be put into {folder}: {bad.strerror}") from None
    return path


def names(folder: Path, now: float) -> list[str]:
    """Up to LOOK orders, by name. What somebody began to write and left is removed."""
    found: list[str] = []
    with _opened(folder) as handle, os.scandir(handle) as entries:
        for entry, _ in zip(entries, range(MOST_NAMES), strict=False):
            with suppress(OSError):  # gone meanwhile
                if entry.is_dir(follow_symlinks=False):
                    os.rmdir(entry.name, dir_fd=handle)
                elif entry.name.endswith(SUFFIX):
                    found.append(entry.name)
                elif entry.stat(follow_symlinks=False).st_mtime < now - STALE:
                    os.unlink(entry.name, dir_fd=handle)
    return heapq.nsmallest(LOOK, found)


def content(folder: Path, name: str, most: int) -> bytes:
    """Raises Damaged for what is no regular file of up to `most` bytes, or cannot be read."""
    with _opened(folder) as inbox:
        try:
            handle = os.open(name, _READ, dir_fd=inbox)
        except OSError as bad:
            raise Damaged(f"no file that can be read: {bad.strerror}") from None
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise Damaged("no regular file")
            data = file.read(most + 1)
    if len(data) > most:
        raise Damaged(f"more than {most} bytes")
    return data


def remove(folder: Path, name: str) -> None:
    """It is gone, if that is possible."""
    with _opened(folder) as inbox, suppress(OSError):
        os.unlink(name, dir_fd=inbox)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    try:
        handle = os.open(folder, _READ | getattr(os, "O_DIRECTORY", 0))
    except OSError as bad:
        raise ParameterError(f"the inbox {folder} cannot be read: {bad.strerror}") from None
    try:
        yield handle
    finally:
        os.close(handle)
