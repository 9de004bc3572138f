"""Small files of the front's own, that only its user may read, and that are whole or not there."""

import os
from pathlib import Path


def write(path: Path, content: bytes) -> None:
    """Durably, in place of what was there."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    _sync(path.parent)


def take(path: Path) -> bytes | None:
    """The content of a file that is gone, durably, when this returns; None if there is none."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    path.unlink()
    _sync(path.parent)
    return content


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
