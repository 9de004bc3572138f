"""Sealed files on disk: whole under their name, or not there."""

import os
from collections.abc import Iterable
from pathlib import Path

from tacit.crypto.errors import ParameterError
from tacit.crypto.identity import KEY_BYTES
from tacit.crypto.sealed import Context, SealKey, seal, unseal

SUFFIX = ".sealed"
PUBLIC = ".pub"
PRIVATE_MODE, SHARED_MODE = 0o600, 0o666  # the second as far as the umask lets it


def seal_file(
    file: Path, out: Path, recipients: list[bytes], context: Context, *, replace: bool = False
) -> None:
    """Seal a file into another. Raises ParameterError as `seal`, and if there is one at `out` that
    is not to be replaced."""
    _check_free(out, replace)
    with file.open("rb", buffering=0) as source:
        _put(out, seal(source, recipients, context, os.urandom(KEY_BYTES)), SHARED_MODE)


def open_file(
    file: Path, out: Path, key: SealKey, expected: Context | None, *, replace: bool = False
) -> Context:
    """Open a sealed file into one that only its owner may read; returns what it belongs to.

    Raises Damaged as `unseal`, and then there is nothing at `out`; ParameterError as `seal_file`.
    """
    _check_free(out, replace)
    with file.open("rb", buffering=0) as source:
        context, parts = unseal(source, key, expected)
        _put(out, parts, PRIVATE_MODE)
    return context


def new_key(path: Path) -> SealKey:
    """Make a key that only its owner may read, and its public half beside it in `path`.pub, as
    hexadecimal digits. Raises ParameterError if either file is there."""
    public = path.with_name(path.name + PUBLIC)
    for each in (path, public):
        _check_free(each, replace=False)
    key = SealKey(os.urandom(KEY_BYTES))
    _put(path, [key.secret], PRIVATE_MODE)
    _put(public, [key.public.hex().encode() + b"\n"], SHARED_MODE)
    return key


def read_key(path: Path) -> SealKey:
    """Raises ParameterError for anything but a file of `new_key`."""
    try:
        with path.open("rb") as file:
            return SealKey(file.read(KEY_BYTES + 1))
    except FileNotFoundError:
        raise ParameterError(f"no key at {path}: tacit seal --new-key makes one") from None
    except ParameterError:
        raise ParameterError(f"{path} is no key that tacit seal --new-key made") from None


def _check_free(path: Path, replace: bool) -> None:
    if path.exists() and not replace:
        raise ParameterError(f"there is a file at {path} already")


def _put(path: Path, parts: Iterable[bytes], mode: int) -> None:
    """Write a file beside its place, and give it its name once all of it is there."""
    fresh = path.with_name(f"{path.name}.{os.urandom(8).hex()}.new")
    try:
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
