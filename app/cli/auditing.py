"""`tacit audit dp`: attack private sums, and hold what is proven against what is accounted."""

import os
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rich.table import Table

from tacit.app.cli.commands import interruptible
from tacit.app.cli.screen import Screen
from tacit.crypto.errors import ParameterError, TacitError
from tacit.privacy.audit import Audit, Claim, OneRun, Repeats, guess, judge, repeats
from tacit.privacy.mechanisms import choose
from tacit.simulations import controls
from tacit.simulations.canaries import Cohort, Trials, m_of, noise_of, off_lattice, one_run
from tacit.simulations.controls import CONTROLS

MASKED = 500  # runs of each kind that are under masks; they take ten times as long as the others
STARTS, SUMS = 2, 10  # of a federation, and of each start, to see whether noise comes back
CANARIES = 1000  # devices, where there is one run
SUM_LENGTH = 8

NOT_COVERED = (
    "time, power and traffic; the noise of devices that do not run this code",
    "other adversaries, canaries and scores: an attack proves what it finds, and nothing is proven "
    "by one that finds nothing",
)


def dp(
    screen: Screen,
    devices: int | None,
    noise: float,
    clip: float,
    dropouts: int,
    corrupt: int,
    length: int | None,
    rounds: int,
    runs: int,
    delta: float,
    alpha: float,
    *,
    single: bool,
) -> None:
    """Canaries through real sums. Raises TacitError if they tell more than is accounted for."""
    count = devices or (CANARIES if single else 6)
    mechanism = choose(length or (count if single else SUM_LENGTH), count, dropouts, corrupt, clip, noise)
    cohort = Cohort(mechanism, os.urandom)
    spent = cohort.spent(rounds)
    claim = Claim(
        f"{rounds} secure sum{'s' * (rounds > 1)} of {count} devices, {dropouts} of them missing; "
        f"noise multiplier {noise:g}, {mechanism.length} parameters of {mechanism.bits} bits",
        f"the server, in league with {corrupt} devices; knows all updates but the canary",
        spent.epsilon(delta),
        delta,
        alpha,
    )
    with interruptible("tacit audit dp starts over"), screen.progress():
        if single:
            found: Audit | OneRun = guess(
                claim, m_of(spent), *one_run(cohort, os.urandom, rounds, screen.bar("sums"))
            )
            others: list[Audit | Repeats] = []
        else:
            found, digits = _many(screen, cohort, claim, rounds, runs)
            others = [digits, _replay(mechanism, screen)]
