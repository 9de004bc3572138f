"""Whom the front knows: the node keys that the authority's answer has put into the server's folder.

`tacit server join` writes one file for each key, to be registered in `nodes`, and not to be any
more in `retired`. Both folders are read again when they change, so a revoked key is refused from
the answer on, whether or not Flower was told yet.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from tacit.crypto.errors import ParameterError
from tacit.crypto.nodekey import compressed

_log = logging.getLogger(__name__)

# As `tacit server join` calls them; a test holds them equal.
NODES, RETIRED = "nodes", "retired"
_LOOK = 1.0  # seconds between two looks at a folder


class Nodes:
    """The keys, 49 bytes each, and the names of their files."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._looked = float("-inf")
        self._seen: dict[str, int] = {}
        self._keys: dict[str, dict[bytes, str]] = {NODES: {}, RETIRED: {}}

    def registered(self, key: bytes) -> str | None:
        """The name of a key that may come in."""
        self._look()
        return self._keys[NODES].get(key)

    def retired(self, key: bytes) -> str | None:
        """The name of a key that may not come in any more."""
        self._look()
        return self._keys[RETIRED].get(key)

    def _look(self) -> None:
        if self._clock() - self._looked < _LOOK:
            return
        self._looked = self._clock()
        for name in (NODES, RETIRED):
            path = self._folder / name
            changed = path.stat().st_mtime_ns if path.is_dir() else 0
            if changed != self._seen.get(name):
                self._keys[name] = dict(filter(None, map(_read, sorted(path.glob("*.pub")))))
                # A file that is written in the tick of the clock that it was read in shows nothing.
                is_old = time.time_ns() - changed > 2_000_000_000
                self._seen[name] = changed if is_old else -1


def _read(path: Path) -> tuple[bytes, str] | None:
    try:
        key = load_ssh_public_key(path.read_bytes())
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise ParameterError("another kind of key")
        return compressed(key), path.stem
    except (OSError, ValueError, UnsupportedAlgorithm) as bad:  # a ParameterError, too
        _log.warning("%s is left out: %s", path, bad)
        return None
