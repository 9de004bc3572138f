"""One sum under Tacit's TenSEAL back end, from updates to their mean."""

import os
from contextlib import ExitStack

import numpy as np

from benchmarks.shared.cohort import HEAVIEST
from benchmarks.shared.federation import BOUND, DIGEST, METRICS, RUN
from benchmarks.shared.settings import OPENERS, Outcome, Setting, Vector, flat, same_bits
from benchmarks.shared.steps import Step, Steps, sees_children
from tacit.crypto.codec import Codec
from tacit.crypto.he.bfv import Summer
from tacit.crypto.he.keys import Consortium, GroupKey
from tacit.crypto.he.packing import Packing
from tacit.crypto.he.sets import SCHEMES
from tacit.crypto.he.sums import contribute, open_sum
from tacit.crypto.identity import KEY_BYTES, RunKey
from tacit.crypto.simulated import simulated_identity
from tacit.crypto.vector import Ring
from tacit.server.he_loader import Loader

FIELDS = 2  # ring elements to a slot


def tenseal_round(setting: Setting, steps: Steps) -> Outcome:
    """All that a consortium's devices do with a group key, and a server without it.

    The server adds up twice: in this process, and in one of its own as `Loader` has it.
    """
    cohort, devices = setting.cohort, range(1, setting.devices + 1)
    scheme = next(scheme for scheme in SCHEMES.values() if scheme.name == setting.parameters)
    codec = Codec(
        length=setting.length,
        clients=setting.devices,
        metrics=len(METRICS),
        bound=BOUND,
        max_weight=HEAVIEST,
        bits=scheme.plain_bits // FIELDS,
    )
    packing = Packing.of(scheme, codec)
    members = tuple(
        RunKey.signed(simulated_identity(device), RUN, device, os.urandom(KEY_BYTES))
        for device in devices
    )
    consortium = Consortium(RUN, DIGEST, members, dealer=1, serial=1, scheme=scheme)
    group = GroupKey.make(consortium, os.urandom(KEY_BYTES))
    session = os.urandom(KEY_BYTES)
    summer = Summer(packing)
    expected: Ring = np.zeros(codec.size, codec.dtype)
    with ExitStack() as stack:
        loader = stack.enter_context(Loader(packing)) if sees_children() else None
        for device in devices:
            tensors, weight = setting.tensors(device - 1), cohort.weights[device - 1]
            with steps(Step.HIDE, device):
                rand = os.urandom(KEY_BYTES)
                encoded = codec.encode(flat(tensors), METRICS, weight, rand)
                data = contribute(group, packing, session, device, encoded)
            expected += encoded
            steps.sent[device] += len(data)
            with steps(Step.TAKE, device):
                summer.add(data, sender=device)
            if loader is not None:
                with steps(Step.APART, device):
                    loader.add(data, sender=device)
        with steps(Step.ONCE):
            total = summer.total()
        if loader is not None:
            with steps(Step.APART_ONCE):
                total = loader.total()
    for device in devices[:OPENERS]:
        steps.received[device] += len(total)
        with steps(Step.OPEN, device):
            sums = open_sum(group, packing, session, tuple(devices), total)
            mean: Vector = codec.decode(sums, setting.devices).update
    return Outcome(mean, cohort.weights, len(total), same_bits(sums, expected, codec.bits))
