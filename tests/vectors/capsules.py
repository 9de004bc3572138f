"""The exchange of ML-KEM secrets of a hybrid run, every message of it kept.

What an encapsulation takes is counted, like all else, so the capsules are the same each time.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from tacit.crypto.identity import RunKey
from tacit.crypto.secagg import hybrid
from tacit.crypto.secagg.capsules import Exchange, Pairs
from tacit.crypto.secagg.hybrid import (
    DecapsulateRequest,
    EncapsulateRequest,
    KemKey,
    Peer,
    decapsulate,
    encapsulate,
)
from tests.crypto.federation import Federation
from tests.vectors import ml_kem

RUN = 1


class Exchanged:
    """The exchange among all devices of a federation, which has the secrets afterwards."""

    def __init__(self, crew: Federation) -> None:
        self.crew = crew
        self.kem = {device: KemKey(state.kem_seed) for device, state in crew.enrolled.items()}
        self.drawn = {
            (dealer, device): crew.rand(32)
            for dealer in crew.devices
            for device in crew.devices
            if dealer < device
        }
        self.secrets: dict[int, dict[int, bytes]] = {device: {} for device in crew.devices}
        self.answers: dict[int, bytes] = {}
        carried = self.carried()
        self.asked = {d: request.encode() for d, request in carried.to_deal().items()}
        for dealer, data in self.asked.items():
            fresh, self.answers[dealer] = self.dealt(dealer, data)
            self._keep(dealer, fresh)
            carried.add(self.answers[dealer], sender=dealer)
        self.told = {d: request.encode() for d, request in carried.to_open().items()}
        for device, data in self.told.items():
            self._keep(device, self.opened(device, data))
        crew.kem = self.secrets

    def _keep(self, device: int, secrets: Mapping[RunKey, bytes]) -> None:
        for key, secret in secrets.items():
            assert self.secrets[key.device].get(device, secret) == secret
            self.secrets[device][key.device] = secret

    def carried(self) -> Exchange:
        """A server that knows all keys and has asked nobody."""
        pairs, keys = Pairs(), self.crew.keys
        for device, key in keys.items():
            pairs.learn(key, self.kem[device].public)
        return Exchange(pairs, RUN, self.crew.roster, keys.values(), keys)

    def dealt(self, dealer: int, data: bytes) -> tuple[dict[RunKey, bytes], bytes]:
        """What a dealer makes of a request."""
        crew, peers = self.crew, EncapsulateRequest.decode(data).peers
        with self._counted(dealer):
            secrets, answer = encapsulate(
                crew.identities[dealer], crew.roster, RUN, crew.keys[dealer], peers, now=0
            )
        return secrets, answer.encode()

    def opened(self, device: int, data: bytes) -> dict[RunKey, bytes]:
        """What a receiver makes of the capsules that it is told."""
        crew, capsules = self.crew, DecapsulateRequest.decode(data).capsules
        return decapsulate(self.kem[device], crew.roster, RUN, crew.keys[device], capsules, now=0)

    @contextmanager
    def _counted(self, dealer: int) -> Iterator[None]:
        real = Peer.loaded

        def loaded(peer: Peer) -> Any:
            real(peer)
            given = self.drawn.get((dealer, peer.key.device), bytes(32))
            return SimpleNamespace(encapsulate=lambda: ml_kem.encapsulate(peer.public, given))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hybrid.Peer, "loaded", loaded)
            yield

    def vector(self) -> dict[str, Any]:
        """What sessions have beside what all have."""
        return {
            "kem": [
                {"device": device, "seed": key.seed.hex(), "public": key.public.hex()}
                for device, key in self.kem.items()
            ],
            "capsules": [
                {
                    "dealer": dealer,
                    "device": device,
                    "message": drawn.hex(),
                    "secret": self.secrets[dealer][device].hex(),
                }
                for (dealer, device), drawn in self.drawn.items()
            ],
            "encapsulate": [
                {"dealer": dealer, "request": data.hex(), "answer": self.answers[dealer].hex()}
                for dealer, data in self.asked.items()
            ],
            "decapsulate": [
                {"device": device, "request": data.hex()} for device, data in self.told.items()
            ],
        }

    def messages(self) -> dict[str, bytes]:
        """One of each kind."""
        return {
            "encapsulate request": self.asked[1],
            "encapsulated": self.answers[1],
            "decapsulate request": self.told[2],
        }

    def take(self, kind: str, data: bytes) -> None:
        """Give one to whom it is for."""
        match kind:
            case "encapsulate request":
                self.dealt(1, data)
            case "encapsulated":
                carried = self.carried()
                carried.to_deal()
                carried.add(data, sender=1)
            case "decapsulate request":
                self.opened(2, data)
