"""Mechanisms that are broken on purpose. An auditor that lets one of them pass is blind.

Each is what a real system got wrong, on devices of an honest `Cohort` and with its accountant, who
is told nothing of it. No code but an audit of the auditor has a use for them.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256

import numpy as np

from tacit.crypto.codec import Ring
from tacit.crypto.prg import KEY_BYTES, keystream
from tacit.crypto.secagg.memory import Rand
from tacit.crypto.vector import Floats
from tacit.privacy.audit import Audit, Claim, Repeats, judge, repeats
from tacit.privacy.gaussian import epsilon_of
from tacit.privacy.mechanisms import Mechanism, choose
from tacit.privacy.samplers import Sampler, Skellam
from tacit.simulations.canaries import (
    Cohort,
    Device,
    Step,
    Trials,
    noise_of,
    off_lattice,
)

LENGTH = 4
MISSING = 0.3  # of the shares of noise, or more
LATTICE_RUNS = 100_000  # they cost next to nothing


@dataclass(frozen=True, slots=True)
class Control:
    """What is wrong, and how to see it: on so many devices, with so much noise, in so many runs.

    reach   length of the canary, in clips
    """

    name: str
    wrong: str
    device: Device
    devices: int
    noise: float
    runs: int
    reach: float = 1.0


def half_sigma(
    number: int, mechanism: Mechanism, update: Floats, session: bytes, rand: bytes
) -> Ring:
    """A share with half of its deviation."""
    return _noised(mechanism, mechanism.share / 4, update, session, rand)


def unclipped(
    number: int, mechanism: Mechanism, update: Floats, session: bytes, rand: bytes
) -> Ring:
    """An update of up to two clips, as two halves that each pass."""
    out = mechanism.encode(update / 2, session, rand)
    out[:-1] += mechanism.rounded(update / 2, session, sha256(rand).digest()).view(np.uint32)
    return out


def shares_missing(
    number: int, mechanism: Mechanism, update: Floats, session: bytes, rand: bytes
) -> Ring:
    """Some devices stay, and their noise does not."""
    if number > math.ceil(MISSING * mechanism.shares):
        return mechanism.encode(update, session, rand)
    out = np.ones(mechanism.size, mechanism.dtype)
    out[:-1] = mechanism.rounded(update, session, rand).view(np.uint32)
    return out


def seeded(number: int, mechanism: Mechanism, update: Floats, session: bytes, rand: bytes) -> Ring:
    """Noise by a seed that does not change, so that it can be drawn again."""
    return mechanism.encode(update, session, sha256(bytes([number])).digest())


CONTROLS = (
    Control("half sigma", "shares have half of their deviation", half_sigma, 3, 2 / 3, 600),
    Control("twice the sensitivity", "an update of two clips passes", unclipped, 3, 2 / 3, 600, 2),
    Control("missing shares", "3 of 10 devices add no noise", shares_missing, 10, 0.4, 5000),
)


def mechanism_of(control: Control) -> Mechanism:
    return choose(LENGTH, control.devices, 0, 0, 1.0, control.noise)


def flag(control: Control, delta: float, alpha: float, rand: Rand, step: Step) -> Audit:
    """The audit of a cohort whose devices are broken in this way, by what its ledger claims."""
    cohort = Cohort(mechanism_of(control), rand, control.device)
    claim = Claim(
        control.wrong,
        "the server, which knows all other updates",
        cohort.spent(1).epsilon(delta),
        delta,
        alpha,
    )
    trials = Trials.drawn(cohort, rand, reach=control.reach)
    return judge(claim, *trials.scores(control.runs, 0, step))


def flag_seeded(rand: Rand) -> Repeats:
    """Two starts of a federation whose devices draw noise by a seed."""
    mechanism = choose(LENGTH, 3, 0, 0, 1.0, 1.0)
    starts = [Cohort(mechanism, rand, seeded) for _ in range(2)]
    return repeats(noise_of(starts, 1, masked=False), float(mechanism.variance))


def flag_floats(delta: float, alpha: float, rand: Rand) -> Audit:
    """A server that adds floats of a normal law to a sum of one coordinate, 0 or 1."""
    rng = np.random.default_rng(int.from_bytes(rand(32), "little"))
    absent, present = (off_lattice(value + rng.normal(size=LATTICE_RUNS)) for value in (0.0, 1.0))
    claim = Claim(
        "floating-point noise, as large as it is said to be",
        "anybody who sees the last digits",
        epsilon_of(1.0, delta),
        delta,
        alpha,
    )
    return judge(claim, absent, present)


def _noised(
    mechanism: Mechanism, variance: Fraction, update: Floats, session: bytes, rand: bytes
) -> Ring:
    """As `Mechanism.encode`, with noise of another variance."""
    keys = keystream(rand, 2 * KEY_BYTES)
    out = np.ones(mechanism.size, mechanism.dtype)
    noise = Sampler(Skellam(variance), keys[:KEY_BYTES], mechanism.coordinates)
    out[:-1] = noise.draw(mechanism.coordinates)
    out[:-1] += mechanism.rounded(update, session, keys[KEY_BYTES:]).view(np.uint32)
    return out
