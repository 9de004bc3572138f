"""The public keys that a server goes by, told once each, and again when there is another."""

import hashlib

from tacit.crypto.identity import Roster, RunKey
from tacit.server.events import KeyChanged, OnEvent


class KnownKeys:
    """Tells `on_event` of each key that is not the last one of its kind and device."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._last: dict[tuple[str, int | None], bytes] = {}

    def roster(self, round: int, roster: Roster) -> None:
        self._tell(round, "roster", None, roster.digest())

    def run(self, round: int, key: RunKey) -> None:
        self._tell(round, "run", key.device, hashlib.sha256(key.public + key.kem).digest())

    def group(self, round: int, epoch: bytes) -> None:
        """Of a consortium; `epoch` is empty as long as it has none."""
        if epoch:
            self._tell(round, "group", None, epoch)

    def _tell(self, round: int, kind: str, device: int | None, fingerprint: bytes) -> None:
        if self._last.get((kind, device)) != fingerprint:
            self._last[kind, device] = fingerprint
            self._on_event(KeyChanged(round, kind, device, fingerprint.hex()))
