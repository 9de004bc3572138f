"""One sum of vectors under lattice keys, from updates to their mean, without Flower around it."""

import os
from typing import Any, cast

import numpy as np

from benchmarks.shared.alone import nothing_remembered
from benchmarks.shared.cohort import HEAVIEST
from benchmarks.shared.federation import BOUND, DIGEST, encode, enrolled, report, session_of
from benchmarks.shared.settings import Outcome, Setting, Vector, flat, same_bits
from benchmarks.shared.steps import Step, Steps
from tacit.crypto.codec import Decoded
from tacit.crypto.identity import KEY_BYTES
from tacit.crypto.lattice.cipher import Ciphertext, add
from tacit.crypto.secagg import client
from tacit.crypto.secagg.messages import AttestRequest, RevealRequest
from tacit.crypto.secagg.revealing import Opened, Revealing
from tacit.crypto.secagg.server import Attesting, Collecting
from tacit.crypto.secagg.session import Session
from tacit.crypto.simulated import simulated_identity, simulated_roster
from tacit.crypto.vector import Ring
from tacit.server.encrypted import Encrypted


def lattice_round(setting: Setting, steps: Steps) -> Outcome:
    """All that enrolled devices and the server do in a sum, each as if alone on its machine."""
    round = _Round(setting, steps)
    opened = round.opened(round.collected().close())
    with steps(Step.ONCE):
        sent = opened.mean.update.astype(np.float32).tobytes()
    for device in round.enrolled:
        steps.received[device] += len(sent)
        with steps(Step.OPEN, device):
            mean: Vector = np.frombuffer(sent, np.float32)
    return Outcome(mean, setting.cohort.weights, len(sent), round.is_exact(opened))


class _Round:
    def __init__(self, setting: Setting, steps: Steps) -> None:
        self._setting = setting
        self._steps = steps
        self._roster = simulated_roster(setting.devices)
        self.enrolled, keys = enrolled(setting.devices)
        committee: dict[str, Any] = {"corrupt": 0.0, "seats": setting.seats}
        protocol = Encrypted(
            bound=BOUND,
            max_weight=HEAVIEST,
            metrics=1,
            parameters=setting.parameters,
            **(committee if setting.seats else {}),
        )
        self._session = session_of(protocol, keys, setting.length)
        self._told = self._session.encode()
        self._agreed: dict[int, dict[int, bytes]] = {}
        self._reported: dict[int, client.Reported] = {}
        self._sum: Ring = np.zeros(self._session.codec.size, self._session.codec.dtype)

    def collected(self) -> Collecting:
        """The reports of all but the silent, added up as they come."""
        session, silent = self._session, self._setting.cohort.silent
        collecting = Collecting(session, self._roster)
        bare: Ciphertext = session.nothing()
        for device, state in self.enrolled.items():
            with nothing_remembered(), self._steps(Step.KEYS, device):
                session.verify_keys(self._roster)
                self._agreed[device] = client.agree_all(state, session)
            if device - 1 in silent:
                continue
            data = self._report(device)
            with self._steps(Step.TAKE, device):
                collecting.add(data, sender=device)
            with self._steps(Step.FOLD, device):
                add(bare, cast(Ciphertext, np.frombuffer(data, bare.dtype, bare.size)))
        return collecting

    def _report(self, device: int) -> bytes:
        tensors = self._setting.tensors(device - 1)
        weight = self._setting.cohort.weights[device - 1]
        with nothing_remembered():
            with self._steps(Step.HIDE, device):
                session = Session.decode(self._told)
                session.verify_members(self._roster, now=0)
                encoded = encode(session, flat(tensors), weight)
            self._sum += encoded
            with self._steps(Step.HIDE, device):
                self._reported[device], data = report(
                    self.enrolled[device], session, self._agreed[device], encoded
                )
        self._count(device, self._told, data)
        return data

    def opened(self, attesting: Attesting) -> Opened:
        """The sum, once the committee has said over whom, and given the key to just that."""
        attested = {member: self._attest(member, attesting) for member in attesting.closed.members}
        with self._steps(Step.ONCE):
            revealing = attesting.close()
        for member in revealing.members:
            self._reveal(member, attested[member], revealing)
        with self._steps(Step.ONCE):
            return revealing.open(os.urandom(KEY_BYTES))

    def _attest(self, member: int, attesting: Attesting) -> client.Attested:
        with self._steps(Step.ONCE):
            asked = attesting.request(member).encode(self._session)
        with nothing_remembered(), self._steps(Step.HELP, member):
            request = AttestRequest.decode(asked, self._session)
            state, attestation = client.attest(
                self._reported[member],
                simulated_identity(member),
                self._agreed[member],
                DIGEST,
                request,
            )
            answer = attestation.encode()
        with self._steps(Step.ONCE):
            attesting.add(answer, sender=member)
        self._count(member, asked, answer)
        return state

    def _reveal(self, member: int, state: client.Attested, revealing: Revealing) -> None:
        with self._steps(Step.ONCE):
            asked = revealing.request().encode()
        with nothing_remembered(), self._steps(Step.HELP, member):
            request = RevealRequest.decode(asked, self._session)
            answer = client.reveal(state, self._roster, request).encode()
        with self._steps(Step.ONCE):
            revealing.add(answer, sender=member)
        self._count(member, asked, answer)

    def _count(self, device: int, down: bytes, up: bytes) -> None:
        self._steps.received[device] += len(down)
        self._steps.sent[device] += len(up)

    def is_exact(self, opened: Opened) -> bool:
        """Whether the sum that was opened is that of what the devices encoded."""
        expected = self._sum[: self._setting.length]
        decoded = opened.mean.decoded
        assert isinstance(decoded, Decoded)
        return same_bits(decoded.sums, expected, self._session.codec.bits)
