"""One weighted mean of float32 vectors that nothing protects, for scale."""

import numpy as np

from benchmarks.shared.settings import Outcome, Setting, Vector, flat
from benchmarks.shared.steps import Step, Steps


def plain_round(setting: Setting, steps: Steps) -> Outcome:
    """Bytes in, a running sum in float64, and bytes out; no messages around them."""
    cohort = setting.cohort
    total = np.zeros(setting.length)
    for device in cohort.survivors:
        tensors, weight = setting.tensors(device), cohort.weights[device]
        with steps(Step.HIDE, device):
            data = flat(tensors).tobytes()
        steps.sent[device] += len(data)
        with steps(Step.TAKE, device):
            total += np.frombuffer(data, np.float32) * np.float32(weight)
    with steps(Step.ONCE):
        weights = sum(cohort.weights[device] for device in cohort.survivors)
        sent = (total / weights).astype(np.float32).tobytes()
    for device in cohort.survivors:
        steps.received[device] += len(sent)
        with steps(Step.OPEN, device):
            mean: Vector = np.frombuffer(sent, np.float32)
    return Outcome(mean, cohort.weights, len(sent))
