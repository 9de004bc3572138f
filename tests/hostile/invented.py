"""Devices that the server makes up, and keys that it makes up for devices that there are."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey

from tacit.crypto.identity import Identity, RunKey
from tacit.crypto.secagg import client, hybrid, stages
from tacit.crypto.secagg.client import Enrolled
from tacit.crypto.secagg.hybrid import (
    SEED_BYTES,
    Capsule,
    DecapsulateRequest,
    Encapsulated,
    EncapsulateRequest,
    Peer,
)
from tacit.crypto.secagg.session import Session
from tests.hostile.attack import nothing, replaced, together
from tests.hostile.crowd import Crowd
from tests.runtime.desk import RUN, stage
from tests.runtime.desk import field as field_of

# A device that believes every key that it is shown.
CREDULOUS = together(
    replaced(Session, "verify_members", nothing),
    replaced(Session, "verify_keys", nothing),
    replaced(hybrid, "_vouched", nothing),
    replaced(Capsule, "verify", nothing),
)


@dataclass(frozen=True)
class Invented:
    """A device of the server's own, signed by an identity of its choice."""

    identity: Identity
    state: Enrolled
    key: RunKey
    kem: dict[int, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, device: int, identity: Identity, crowd: Crowd) -> "Invented":
        seed = os.urandom(SEED_BYTES) if crowd.protocol.hybrid else b""
        return cls(identity, *client.enrol(identity, RUN, device, os.urandom(32), seed))

    def meet(self, crowd: Crowd, devices: Iterable[int]) -> None:
        """Share an ML-KEM secret with each of them, where a sum takes that."""
        for device in devices if crowd.protocol.hybrid else ():
            self.kem[device] = self._met(crowd, device)

    def _met(self, crowd: Crowd, device: int) -> bytes:
        kem, me = self.state.kem, self.state.device
        assert kem is not None
        if device < me:
            asked = EncapsulateRequest((Peer(self.key, kem.public),))
            reply = crowd.ask(device, stages.ENCAPSULATE, stage(message=asked.encode()))
            ((_, capsule),) = Encapsulated.decode(field_of(reply), sender=device).capsules
            return kem.open(capsule.cipher)
        public = MLKEM768PublicKey.from_public_bytes(crowd.kem[device])
        secret, cipher = public.encapsulate()
        capsule = Capsule.signed(self.identity, RUN, self.key, crowd.keys[device], cipher)
        told = DecapsulateRequest(((self.key, capsule),))
        crowd.ask(device, stages.DECAPSULATE, stage(message=told.encode()))
        return secret

    def collude(self, crowd: Crowd) -> None:
        """What this one is dealt, the server reads."""
        crowd.adversary.corrupt(self.state, self.kem)
