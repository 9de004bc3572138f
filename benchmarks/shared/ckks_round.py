"""One sum under CKKS as others set it up, through TenSEAL's documented interface."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tenseal

from benchmarks.shared.settings import FEDML, OPENERS, Outcome, Setting, Vector, flat
from benchmarks.shared.steps import Step, Steps

DEGREE = 8192


@dataclass(frozen=True, slots=True)
class _Parameters:
    primes: tuple[int, ...]
    scale: int  # log2


# What FedML ships in its `context.pickle`, and what TenSEAL's own tutorials come near to.
FEDMLS = _Parameters((60, 40, 40, 60), 52)
USUAL = _Parameters((60, 40, 60), 40)


def ckks_round(setting: Setting, steps: Steps) -> Outcome:
    """Devices encrypt with the public key; the mean is one of equal weights.

    FedML divides by the number of devices before it encrypts (`fedml/core/fhe/fhe_agg.py`), and its
    server loads the very same context. The other's server holds one without the secret key, and the
    devices divide.
    """
    as_fedml, devices = setting.system == FEDML, setting.devices
    parameters = FEDMLS if as_fedml else USUAL
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS,
        DEGREE,
        coeff_mod_bit_sizes=list(parameters.primes),
        encryption_type=tenseal.ENCRYPTION_TYPE.ASYMMETRIC,
        n_threads=1,
    )
    context.global_scale = 2.0**parameters.scale
    servers = context if as_fedml else tenseal.context_from(context.serialize(), n_threads=1)
    share = np.float32(1 / devices if as_fedml else 1)
    total: Any = None
    for device in range(devices):
        tensors = setting.tensors(device)
        with steps(Step.HIDE, device):
            plain = tenseal.plain_tensor(flat(tensors) * share)
            data = tenseal.ckks_vector(context, plain).serialize()
        steps.sent[device] += len(data)
        with steps(Step.TAKE, device):
            vector = tenseal.ckks_vector_from(servers, data)
            total = vector if total is None else total + vector
    with steps(Step.ONCE):
        sent = total.serialize()
    for device in range(OPENERS):
        steps.received[device] += len(sent)
        with steps(Step.OPEN, device):
            mean: Vector = np.array(tenseal.ckks_vector_from(context, sent).decrypt())
            if not as_fedml:
                mean /= devices
    return Outcome(mean, [1] * devices, len(sent))
