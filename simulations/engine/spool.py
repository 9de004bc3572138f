"""Large payloads for worker processes: what many messages share is written once, then mapped.

A message is pickled for its worker as usual, except that a large `bytes` object which several
messages of one leg hold (the model that goes to every device) is replaced by its place in a file.
The file lives in memory where the system has a folder for that, else in the folder for temporary
files; if neither takes it the payload travels inside each message, slower but the same.
"""

import contextlib
import io
import pickle
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from flwr.app import ArrayRecord, ConfigRecord, Message

SHARE_FROM = 1 << 16
"""Bytes; below this the pipe costs less than a file."""

MEMORY_FOLDER = "/dev/shm"  # noqa: S108 - the spool makes a private folder in it

Place: TypeAlias = tuple[str, int, int]
"""File, offset, length."""


class Parcel:
    """The shared payloads of one leg; its file goes when the last of `users` has let go."""

    def __init__(self, path: Path, payloads: Sequence[bytes], places: dict[int, Place], users: int):
        self._path = path
        self._payloads = payloads  # held, so that an id in `_places` keeps meaning this object
        self._places = places
        self._users = users
        self._lock = threading.Lock()

    def pack(self, content: object) -> bytes:
        """Pickle, with the shared payloads replaced by their places."""
        buffer = io.BytesIO()
        _Packer(buffer, self._places).dump(content)
        return buffer.getvalue()

    def let_go(self) -> None:
        """One user less."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._path.unlink(missing_ok=True)


class Spool:
    """A private folder for parcels, made when first needed."""

    def __init__(self, folders: Sequence[str] | None = None) -> None:
        self._roots = [*folders] if folders is not None else [MEMORY_FOLDER, tempfile.gettempdir()]
        self._folders: list[Path] = []
        self._written = 0

    def share(self, messages: Sequence[Message], at_least: int = 2) -> Parcel | None:
        """Write down what that many of the messages hold; None if that is nothing large."""
        held: Counter[int] = Counter()
        payloads: dict[int, bytes] = {}
        for message in messages:
            for payload in _large(message):
                held[id(payload)] += 1
                payloads[id(payload)] = payload
        shared = [payload for key, payload in payloads.items() if held[key] >= at_least]
        for root in self._roots if shared else ():
            try:
                return self._write(root, shared, len(messages))
            except OSError:
                continue  # full, read-only or not there: the next one
        return None

    def inner(self) -> str | None:
        """A folder inside the spool for a worker's own spool; None if there is no room for one."""
        for root in self._roots:
            with contextlib.suppress(OSError):
                return str(self._folder(root))
        return None

    def close(self) -> None:
        """Remove every folder and what is left in it."""
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
        self._folders.clear()

    def _folder(self, root: str) -> Path:
        folder = next((made for made in self._folders if made.parent == Path(root)), None)
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="tacit-", dir=root))
            self._folders.append(folder)
        return folder

    def _write(self, root: str, payloads: Sequence[bytes], users: int) -> Parcel:
        self._written += 1
        path = self._folder(root) / str(self._written)
        places: dict[int, Place] = {}
        try:
            # Written, not mapped: a full memory folder then is an OSError and not a bus error.
            with path.open("wb") as file:
                for payload in payloads:
                    places[id(payload)] = (str(path), file.tell(), len(payload))
                    file.write(payload)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return Parcel(path, payloads, places, users)


class Unpacker:
    """A worker's side. Keeps the payloads of the latest parcel, so each is copied out once."""

    def __init__(self) -> None:
        self._path = ""
        self._payloads: dict[Place, bytes] = {}

    def unpack(self, packed: bytes) -> Any:
        """The inverse of `Parcel.pack` and of `pickle.dumps`."""
        return _Opener(io.BytesIO(packed), self).load()

    def discard(self) -> None:
        """Delete the latest parcel's file: the reader was its only user."""
        if self._path:
            Path(self._path).unlink(missing_ok=True)
            self._path, self._payloads = "", {}

    def payload(self, place: Place) -> bytes:
        """The bytes at a place."""
        path, offset, length = place
        if path != self._path:
            self._path, self._payloads = path, {}
        if place not in self._payloads:
            with Path(path).open("rb") as file:
                file.seek(offset)
                self._payloads[place] = file.read(length)
        return self._payloads[place]


class _Packer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, places: dict[int, Place]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._places = places

    def persistent_id(self, content: Any) -> Place | None:
        if type(content) is bytes and len(content) >= SHARE_FROM:
            return self._places.get(id(content))
        return None


class _Opener(pickle.Unpickler):  # what it reads was pickled by the parent process
    def __init__(self, file: io.BytesIO, unpacker: Unpacker) -> None:
        super().__init__(file)
        self._unpacker = unpacker

    def persistent_load(self, place: Any) -> bytes:
        return self._unpacker.payload(place)


def _large(message: Message) -> Iterator[bytes]:
    """The message's large bytes objects, each once."""
    seen: set[int] = set()
    for payload in _payloads(message):
        if len(payload) >= SHARE_FROM and id(payload) not in seen:
            seen.add(id(payload))
            yield payload


def _payloads(message: Message) -> Iterable[bytes]:
    for record in message.content.values():
        if isinstance(record, ArrayRecord):
            yield from (array.data for array in record.values())
        elif isinstance(record, ConfigRecord):
            for value in record.values():
                if isinstance(value, bytes):
                    yield value
                elif isinstance(value, list):
                    yield from (item for item in value if isinstance(item, bytes))
