"""Enrolled devices and one session of theirs, for what is measured without Flower around it."""

import os
from collections.abc import Mapping

import numpy as np

from benchmarks.shared.settings import Vector
from tacit.crypto.codec import Codec
from tacit.crypto.identity import KEY_BYTES, RunKey
from tacit.crypto.secagg import client
from tacit.crypto.secagg.session import DIGEST_BYTES, Purpose, Session
from tacit.crypto.simulated import simulated_identity, simulated_roster
from tacit.crypto.vector import Ring
from tacit.server.pairwise import Binding, SecureSum

RUN = 1
BOUND = 0.5  # ten standard deviations of an update
DIGEST = bytes(DIGEST_BYTES)  # of a model and a configuration; to compute it is the app's work
NAMES, METRICS = ("loss",), np.array([0.5])


def enrolled(devices: int) -> tuple[dict[int, client.Enrolled], list[RunKey]]:
    """Devices 1, 2, .. and their public keys."""
    both = [
        client.enrol(simulated_identity(device), RUN, device, os.urandom(KEY_BYTES))
        for device in range(1, devices + 1)
    ]
    return {state.device: state for state, _ in both}, [key for _, key in both]


def session_of(protocol: SecureSum, keys: list[RunKey], length: int) -> Session:
    """All devices, in the first round."""
    roster = simulated_roster(len(keys))
    binding = Binding(DIGEST, DIGEST)
    return protocol.session(RUN, 1, Purpose.TRAIN, keys, roster, {}, length, binding)


def encode(session: Session, update: Vector, weight: float) -> Ring:
    """A device's contribution."""
    assert isinstance(session.codec, Codec)
    return session.codec.encode(update, METRICS, weight, os.urandom(KEY_BYTES))


def report(
    state: client.Enrolled, session: Session, agreed: Mapping[int, bytes], encoded: Ring
) -> tuple[client.Reported, bytes]:
    """A device's report, as bytes."""
    reported, message = client.report(
        state,
        simulated_identity(state.device),
        session,
        agreed,
        encoded,
        NAMES,
        DIGEST,
        os.urandom(client.REPORT_RAND_BYTES),
    )
    return reported, message.encode(session)
