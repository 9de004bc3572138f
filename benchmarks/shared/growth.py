"""What a device's report costs when it deals with few or with many others, without Flower around.

Under pairwise masks these are its neighbours, each a mask to be added, and here as many hold the
shares, as in Flower's SecAgg+. Under lattice keys they hold shares, and that is all.
"""

import statistics
import time
from typing import Any

import numpy as np

from benchmarks.shared.alone import nothing_remembered
from benchmarks.shared.cohort import HEAVIEST, Cohort
from benchmarks.shared.federation import BOUND, encode, enrolled, report, session_of
from benchmarks.shared.settings import Dealing, Vector
from tacit.crypto.secagg import client
from tacit.crypto.secagg.graph import neighbours
from tacit.crypto.secagg.session import Session
from tacit.server.encrypted import Encrypted
from tacit.server.pairwise import Pairwise, SecureSum

REPEATS = 3


def seconds(dealing: Dealing) -> float:
    """CPU of one report, from the update to bytes: the median of REPEATS."""
    states, keys = enrolled(dealing.devices)
    session = session_of(_protocol(dealing), keys, dealing.length)
    state, agreed = _typical(list(states.values()), session)
    cohort = Cohort(dealing.devices, dealing.length, seed=dealing.seed)
    update: Vector = np.concatenate(cohort.update(state.device - 1, 1))
    taken = []
    for _ in range(REPEATS):
        with nothing_remembered():
            began = time.process_time()
            report(state, session, agreed, encode(session, update, HEAVIEST))
            taken.append(time.process_time() - began)
    return statistics.median(taken)


def _protocol(dealing: Dealing) -> SecureSum:
    asked: dict[str, Any] = {"bound": BOUND, "max_weight": HEAVIEST, "metrics": 1, "corrupt": 0.0}
    if dealing.pairwise:
        return Pairwise(precision=16, degree=dealing.degree, seats=dealing.degree, **asked)
    return Encrypted(seats=dealing.degree, **asked)


def _typical(
    states: list[client.Enrolled], session: Session
) -> tuple[client.Enrolled, dict[int, bytes]]:
    """A device with as many neighbours as the average, or as near to it as one is; its secrets."""

    def off(device: tuple[client.Enrolled, dict[int, bytes]]) -> int:
        state, agreed = device
        return abs(len(neighbours(session, state.device, agreed)) - session.degree)

    return min(((state, client.agree_all(state, session)) for state in states), key=off)
