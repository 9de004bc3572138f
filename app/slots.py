"""Small contents in files of a folder that only its owner may look into, whole or not there."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tacit.client.files import sync
from tacit.client.vault import locked
from tacit.crypto.errors import ParameterError

OWNERS = 0o700  # of folders that nobody but the server's owner may look into
FRESH = ".new"  # ends the name of what is not whole yet
_LOCK = "lock"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_MEGABYTE = 1 << 20


class DiskFull(ParameterError):
    """The disk is full: nothing that was kept is lost, and the run can go on once it is not."""


@dataclass(frozen=True, slots=True)
class Slots:
    """A folder of slots: a file for each."""

    path: Path

    def read(self, slot: str) -> bytes | None:
        try:
            return (self.path / slot).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, slot: str, value: bytes) -> None:
        self.path.mkdir(mode=OWNERS, exist_ok=True)
        write(self.path / slot, value)

    def remove(self, slot: str) -> None:
        (self.path / slot).unlink(missing_ok=True)
        sync(self.path)

    def slots(self) -> list[str]:
        """The names of those that hold something."""
        if not self.path.is_dir():
            return []
        names = (each.name for each in self.path.iterdir())
        return sorted(name for name in names if name != _LOCK and not name.endswith(FRESH))

    def check_room(self, size: int) -> None:
        self.path.mkdir(mode=OWNERS, exist_ok=True)
        if shutil.disk_usage(self.path).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def alone(self) -> AbstractContextManager[None]:
        """A run's folder is one process's; that another goes on with it must not save a device."""
        self.path.mkdir(mode=OWNERS, exist_ok=True)
        return locked(self.path / _LOCK)


def write(path: Path, content: bytes) -> None:
    """Write a file so that after a crash, or on a full disk, it holds the old content or the new.

    What a crash left unfinished has one name, which the next writing takes over.
    """
    fresh = path.with_name(path.name + FRESH)
    try:
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:  # make no use of what room there is
        fresh.unlink(missing_ok=True)
        raise
    fresh.replace(path)
    sync(path.parent)


def disk_full(error: BaseException | None, path: Path, need: int) -> DiskFull | None:
    """What an error says if it is that the disk is full, and how much to free: the run in `path`
    writes `need` bytes a round."""
    if not isinstance(error, OSError) or error.errno not in _FULL:
        return None
    megabytes = -(-need // _MEGABYTE) + 1
    return DiskFull(
        f"the disk is full: free {megabytes} MB where {path} is, and then go on with the run "
        f"(tacit simulate --resume --out {path}, or tacit run --resume {path.name}); nothing that "
        "was kept is lost"
    )


@contextmanager
def told_if_full(path: Path, need: int) -> Iterator[None]:
    """Inside the block a full disk raises DiskFull."""
    try:
        yield
    except OSError as bad:
        if (full := disk_full(bad, path, need)) is not None:
            raise full from bad
        raise
