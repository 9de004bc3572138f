"""Files and folders that are whole or not there, whenever the machine stops."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tacit.crypto.errors import ParameterError

PRIVATE_MODE, SHARED_MODE = 0o600, 0o644
NEW = ".new"  # how the name of a file ends that has not got its own yet


def replace_file(path: Path, content: bytes, mode: int = PRIVATE_MODE) -> None:
    """Write a file so that after a crash it holds the old content or the new, never less."""
    fresh = path.with_name(f"{path.name}.{os.urandom(8).hex()}{NEW}")  # no other process's
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:  # a full disk is not to be filled with beginnings
        fresh.unlink(missing_ok=True)
        raise
    sync(path.parent)


def new_file(path: Path, content: bytes, mode: int = PRIVATE_MODE) -> None:
    """As `replace_file`, where nothing is. Raises ParameterError if something is there, or there is
    no such folder."""
    if not path.parent.is_dir():
        raise ParameterError(f"no folder {path.parent} to put {path.name} into")
    fresh = path.with_name(f"{path.name}.{os.urandom(8).hex()}{NEW}")
    replace_file(fresh, content, mode)
    try:
        path.hardlink_to(fresh)  # unlike a renaming, this never replaces a file
    except FileExistsError:
        raise ParameterError(f"there is a file at {path} already") from None
    finally:
        fresh.unlink()
    sync(path.parent)


def read_private(path: Path) -> bytes:
    """Raises ParameterError if there is no such file, or others than its owner may use it."""
    try:
        mode, content = path.stat().st_mode, path.read_bytes()
    except OSError as bad:
        raise ParameterError(f"{path} cannot be read: {bad.strerror}") from None
    if mode & 0o077 and os.name == "posix":
        raise ParameterError(f"others than its owner may use {path}: chmod 600 it first")
    return content


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, that only its owner may enter. It gets its name when the block ends well,
    and is gone if it does not.

    Raises ParameterError if there is something at `path`, but for an empty folder, and for a path
    without a name of its own, such as `..`.
    """
    if path.name in ("", ".."):
        raise ParameterError(f"{path} has no name: name a folder that is not there")
    _check_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.urandom(8).hex()}{NEW}")
    fresh.mkdir(mode=0o700)
    try:
        yield fresh
        sync(fresh)
        _check_free(path)
        fresh.replace(path)  # which a folder with files in it withstands
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    sync(path.parent)


def sync(folder: Path) -> None:
    """Make durable which files are in a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_free(path: Path) -> None:
    if path.is_dir():
        if any(path.iterdir()):
            raise ParameterError(f"{path} is there, and not empty: name a folder that is not there")
    elif path.exists() or path.is_symlink():
        raise ParameterError(f"there is a file at {path} already")
