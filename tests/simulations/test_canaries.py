"""Canaries take the real path, an honest mechanism passes, and each broken one is flagged."""

import math
import os
from dataclasses import replace

import numpy as np
import pytest

from tacit.crypto.errors import ParameterError, ProtocolError
from tacit.crypto.secagg import client
from tacit.privacy.audit import Claim, judge, repeats
from tacit.privacy.mechanisms import Mechanism, choose
from tacit.simulations.canaries import (
    Cohort,
    Trials,
    honest,
    m_of,
    noise_of,
    off_lattice,
    one_run,
)
from tacit.simulations.controls import (
    CONTROLS,
    flag,
    flag_floats,
    flag_seeded,
)

DELTA = 1e-5
NEVER = 1e-9  # alpha, where a false alarm would be an error of the test
SIGMAS = 7


def nobody(done: int, total: int) -> None:
    """Hears how far it is."""


def small(noise: float = 1.0) -> Mechanism:
    """One drops out, one is corrupt, three are left."""
    return choose(5, 5, 1, 1, 2.0, noise)


# The path


def test_a_sum_goes_through_masks_and_is_decoded() -> None:
    cohort = Cohort(small(0.01), os.urandom)
    assert list(cohort.survivors) == [1, 2, 3, 4]
    assert list(cohort.corrupt) == [4]
    updates = np.eye(4, 5)
    seen = cohort.sum(updates, masked=True)
    assert np.abs(seen.mean * 4 - updates.sum(axis=0)).max() < 0.5
    assert seen.survivors == 4
    assert cohort.sum(updates, masked=True).session != seen.session
    assert len(seen.told) == 1
    rest = cohort.unknown(seen)
    assert np.abs(rest - updates[:3].sum(axis=0)).max() < 0.5
    left = seen.total - seen.told[0]  # once more, in the ring
    left[-1] = 4
    opened = cohort.mechanism.decode(left, 4)
    assert np.allclose(rest, 4 * cohort.mechanism.update(opened, seen.session), atol=1e-5)


def test_masks_that_change_a_bit_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    cohort, true = Cohort(small(), os.urandom), client.report

    def off_by_one(*args, **kwargs):  # type: ignore[no-untyped-def]
        args[4][0] += 1
        return true(*args, **kwargs)

    cohort.sum(np.zeros((4, 5)), masked=True)
    monkeypatch.setattr(client, "report", off_by_one)
    with pytest.raises(ProtocolError, match="not the sum of what was masked"):
        cohort.sum(np.zeros((4, 5)), masked=True)
    cohort.sum(np.zeros((4, 5)), masked=False)


def test_masked_runs_are_spread_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[tuple[bool, bool]] = []

    def noted(self: Trials, *, present: bool, masked: bool) -> float:
        order.append((masked, present))
        return 0.0

    monkeypatch.setattr(Trials, "score", noted)
    cohort = Cohort(small(), os.urandom)
    Trials.drawn(cohort, os.urandom).scores(10, 5, nobody)
    assert order == [(False, False), (False, True), (True, False), (True, True)] * 5


@pytest.mark.parametrize("rounds", [1, 3])
def test_scores_are_canaries_and_the_noise_that_counts(rounds: int) -> None:
    """0 or one clip a round, and noise of which corrupt devices have taken theirs off."""
    mechanism, runs = small(), 300
    cohort = Cohort(mechanism, os.urandom)
    found = Trials.drawn(cohort, os.urandom, rounds).scores(runs, 2, nobody)
    # Rounding and the dither's last bits add 1/4 of a step squared for each device, at most.
    dither = 3 / 4 / float(mechanism.variance)
    variance = rounds * float(mechanism.variance) / mechanism.radius**2
    for true, scores in zip((0, rounds), found, strict=True):
        assert abs(scores.mean() - true) < SIGMAS * math.sqrt(variance / runs)
        near = SIGMAS * math.sqrt(2 / runs)
        assert abs(scores.var() / variance - 1) < near + dither
    assert m_of(cohort.spent(rounds)) == pytest.approx(math.sqrt(rounds), rel=1e-3)


def test_one_run_has_a_canary_on_each_honest_device() -> None:
    cohort = Cohort(choose(20, 20, 2, 3, 1.0, 0.1), os.urandom)
    steps: list[tuple[int, int]] = []
    scores, coins = one_run(cohort, os.urandom, 4, lambda *step: steps.append(step))
    assert scores.shape == coins.shape == (15,)
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    # Noise of 0.1 in each sum, and 1% more for rounding; half of the distance is 2.
    assert np.abs(scores - 4 * coins).max() < SIGMAS * 0.101 * 2


def test_what_cannot_be_audited_is_refused() -> None:
    with pytest.raises(ParameterError, match="sees sums without noise"):
        Cohort(choose(5, 5, 1, 0, 1.0, 1.0, central=True), os.urandom)
    with pytest.raises(ParameterError, match="5 canaries in 4 coordinates"):
        one_run(Cohort(choose(4, 5, 0, 0, 1.0, 1.0), os.urandom), os.urandom, 1, nobody)
    with pytest.raises(ParameterError, match="min_survivors=1"):
        Cohort(choose(4, 2, 1, 0, 1.0, 1.0), os.urandom)


# What is honest passes


def test_the_honest_mechanism_passes() -> None:
    """Each check that flags a broken one, with a false alarm in 10**9."""
    cohort = Cohort(small(), os.urandom)
    spent = cohort.spent(1).epsilon(DELTA)
    absent, present = Trials.drawn(cohort, os.urandom).scores(600, 20, nobody)
    assert not judge(Claim("", "", spent, DELTA, NEVER), absent, present).is_contradicted
    assert judge(Claim("", "", spent, DELTA, 0.05), absent, present).detector > 0  # as below: 6.6
    digits = judge(Claim("", "", spent, DELTA, NEVER), off_lattice(absent), off_lattice(present))
    assert not digits.is_contradicted
    starts = [Cohort(small(), os.urandom) for _ in range(2)]
    assert not repeats(noise_of(starts, 3, masked=True), float(small().variance)).is_contradicted


# What is broken is flagged

# For scores that are normal and m' apart, where m is claimed, and N judged runs of each kind: with
# p = Phi(-m'/2), either limit is 1.96 s away and scatters by s = sqrt(p (1 - p) / N) / phi(m'/2).
# What the detector says is above m by (m' - m - 2 * 1.96 s) / (sqrt(2) s) deviations, which is 6.7
# where m = 1.5 and m' = 3, and 6.3 for a third of the shares; some of that goes to the choice.
STATISTICAL = {
    "half sigma": CONTROLS[0],
    "twice the sensitivity": CONTROLS[1],
    "missing shares": replace(CONTROLS[2], devices=3, runs=4000),
}


@pytest.mark.parametrize("name", STATISTICAL)
def test_a_broken_mechanism_is_flagged(name: str) -> None:
    audit = flag(STATISTICAL[name], DELTA, 0.05, os.urandom, nobody)
    assert audit.detector > audit.claim.epsilon
    assert audit.is_contradicted


@pytest.mark.parametrize("reach", [1, 2])
def test_the_same_runs_of_an_honest_one_are_not(reach: int) -> None:
    """Not with a canary of two clips either: it is clipped."""
    fixed = replace(CONTROLS[0], device=honest, reach=reach)
    assert not flag(fixed, DELTA, NEVER, os.urandom, nobody).is_contradicted


def test_noise_by_a_seed_is_flagged() -> None:
    assert flag_seeded(os.urandom).is_contradicted


def test_floating_point_noise_is_flagged() -> None:
    """By its last digits, although it is as large as it is said to be. In a sixth of all runs
    without the canary they tell for certain that it is not there."""
    audit = flag_floats(DELTA, 0.05, os.urandom)
    assert audit.bound > audit.claim.epsilon
    assert audit.of_bound.misses == 0  # "absent" is never said with the canary there
    rng = np.random.default_rng(1)
    noise = rng.normal(size=100_000)
    assert off_lattice(1 + noise).sum() == 0
    # |y| < 1/4, and not for 1/4 of those in [1/8, 1/4), for 1/8 in [1/16, 1/8), ..: 1/6 in all.
    assert off_lattice(noise).mean() == pytest.approx(0.1974 * 5 / 6, abs=SIGMAS * 0.00118)
    assert off_lattice(rng.integers(-1000, 1000, 1000) / 2.0**10).sum() == 0
