"""The auditor: its limits are exact, it is seldom wrong, and it proves what others' prove."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.errors import ParameterError
from tacit.privacy.audit import (
    Claim,
    Errors,
    Repeats,
    chance_of,
    guess,
    guesses,
    judge,
    one_run_bound,
    repeats,
    upper_limit,
)
from tacit.privacy.gaussian import limit

DELTA = 1e-5


def claim(epsilon: float = 1.0, alpha: float = 0.05) -> Claim:
    return Claim("a normal law", "whoever sees scores", epsilon, DELTA, alpha)


def binomial(trials: int, chance: Fraction) -> list[Fraction]:
    """The law, in Python's own numbers."""
    return [
        math.comb(trials, k) * chance**k * (1 - chance) ** (trials - k) for k in range(trials + 1)
    ]


# Limits


@pytest.mark.parametrize("alpha", [0.3, 0.025, 1e-7])
@pytest.mark.parametrize("trials", [1, 2, 7, 30])
def test_an_upper_limit_is_the_least_that_holds(trials: int, alpha: float) -> None:
    for hits in range(trials):
        found = upper_limit(hits, trials, alpha)
        for chance, holds in [(found * (1 + 1e-9), True), (found * (1 - 1e-9), False)]:
            law = binomial(trials, Fraction(chance))
            assert (sum(law[: hits + 1]) <= Fraction(alpha)) == holds
    assert upper_limit(trials, trials, alpha) == 1


@pytest.mark.parametrize(
    ("hits", "trials", "alpha", "true"),
    [  # by the quantiles of a beta law
        (0, 100_000, 0.025, 1 - 0.025**1e-5),
        (1, 100_000, 0.025, 5.571516e-05),
        (25_000, 50_000, 1e-7, 0.5116344392),
        (49_000, 50_000, 0.025, 0.9812092048),
    ],
)
def test_limits_of_many_trials(hits: int, trials: int, alpha: float, true: float) -> None:
    assert upper_limit(hits, trials, alpha) == pytest.approx(true, rel=1e-6)


def test_a_limit_is_too_low_as_seldom_as_it_says() -> None:
    for i in range(1, 40):
        chance = Fraction(i, 40)
        law = binomial(20, chance)
        wrong = sum(p for k, p in enumerate(law) if upper_limit(k, 20, 0.05) < chance)
        assert wrong <= 0.05


# Many runs


def test_errors_say_what_the_formulas_say() -> None:
    errors = Errors(3, 1000, 200, 1000)
    alarms, misses = upper_limit(3, 1000, 0.025), upper_limit(200, 1000, 0.025)
    assert errors.limits(0.05) == (alarms, misses)
    assert errors.epsilon(DELTA, 0.05) == math.log((1 - DELTA - misses) / alarms)
    mirrored = Errors(200, 1000, 3, 1000)
    assert mirrored.epsilon(DELTA, 0.05) == errors.epsilon(DELTA, 0.05)
    assert mirrored.m(0.05) == pytest.approx(errors.m(0.05))
    # Without error 1000 times: Phi**-1 of 0.9963179, twice.
    assert Errors(0, 1000, 0, 1000).m(0.05) == pytest.approx(2 * 2.6795, abs=1e-3)
    assert Errors(5, 5, 0, 5).m(0.05) == -math.inf
    assert Errors(5, 5, 5, 5).epsilon(DELTA, 0.05) == -math.inf


@pytest.mark.parametrize(
    ("epsilon", "runs", "bound", "detector"),
    [(1, 10_000, 0.25, 0.68), (4, 1000, 0.99, 2.96), (4, 10_000, 1.64, 3.61)],
)
def test_audits_prove_what_was_measured_elsewhere(
    epsilon: float, runs: int, bound: float, detector: float
) -> None:
    """Figures of another auditor. A bound scatters by a third of itself, so a mean of ten by a
    tenth; and what was measured there, too."""
    rng, m = np.random.default_rng(1), limit(epsilon, DELTA)
    audits = [
        judge(claim(epsilon), rng.normal(size=runs), rng.normal(m, size=runs)) for _ in range(10)
    ]
    assert np.mean([a.bound for a in audits]) > 0.75 * bound
    assert np.mean([a.detector for a in audits]) > 0.85 * detector
    assert np.mean([a.detector for a in audits]) < epsilon
    assert np.mean([a.bound for a in audits]) < 1.5 * bound


@pytest.mark.parametrize("epsilon", [0.5, 4.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_an_audit_is_seldom_wrong(epsilon: float, sign: int) -> None:
    """Of 200, at alpha = 0.05: more than 27 are a chance of 1e-6. Whichever way scores point."""
    rng, m = np.random.default_rng(2), limit(epsilon, DELTA)
    audits = [
        judge(claim(epsilon), sign * rng.normal(size=200), sign * rng.normal(m, size=200))
        for _ in range(200)
    ]
    assert sum(audit.bound > epsilon for audit in audits) <= 27
    assert sum(audit.m > m for audit in audits) <= 27
    if epsilon == 4.0:
        assert np.mean([audit.detector for audit in audits]) > 1


def test_the_half_that_judges_has_no_part_in_the_choice() -> None:
    """All that there is to see is in the first half."""
    same = np.arange(100.0)
    audit = judge(claim(), np.concatenate([same, same]), np.concatenate([same + 1000, same]))
    assert audit.bound == audit.detector == 0
    audit = judge(claim(), np.concatenate([same, same]), np.concatenate([same, same + 1000]))
    assert audit.of_bound.absent == audit.of_bound.present == 100
    both = judge(claim(), np.tile(same, 2), np.tile(same + 1000, 2))
    assert both.of_bound == Errors(0, 100, 0, 100)
    assert both.is_contradicted


def test_an_event_of_one_kind_of_run_is_found() -> None:
    """Scores of 0 and 1, as of a lattice: a tenth of one kind, none of the other."""
    rare, never = (np.arange(1000) % 10 == 0).astype(float), np.zeros(1000)
    for absent, present in [(rare, never), (never, rare)]:
        audit = judge(claim(), absent, present)
        assert audit.bound == pytest.approx(math.log((1 - DELTA - 0.927) / 0.00735), abs=0.1)
    assert judge(claim(), never, never).bound == 0


@pytest.mark.parametrize(
    ("absent", "present"),
    [(np.zeros(3), np.zeros(3)), (np.zeros(8), np.zeros(9)), (np.zeros((4, 2)),) * 2],
)
def test_scores_that_do_not_fit_are_refused(absent: np.ndarray, present: np.ndarray) -> None:
    with pytest.raises(ParameterError, match="as many of each"):
        judge(claim(), absent, present)
    with pytest.raises(ParameterError, match="not finite"):
        judge(claim(), np.array([0, 1, np.nan, 2]), np.zeros(4))


@pytest.mark.parametrize(
    "changed", [{"delta": 0.0}, {"delta": 1.0}, {"alpha": 0.0}, {"alpha": 1.0}, {"epsilon": -1.0}]
)
def test_a_claim_that_cannot_be_is_refused(changed: dict[str, float]) -> None:
    with pytest.raises(ParameterError, match="expected 0"):
        replace(claim(), **changed)


# One run


@given(st.integers(0, 12), st.data(), st.floats(0, 6), st.sampled_from([0.0, 1e-5, 0.01]))
def test_the_chance_of_right_guesses_is_that_of_the_theorem(
    count: int, data: st.DataObject, epsilon: float, delta: float
) -> None:
    right = data.draw(st.integers(0, count))
    law = binomial(count, Fraction(1 / (1 + math.exp(-epsilon))))
    most = max((sum(law[right - i : right]) / i for i in range(1, right + 1)), default=0)
    true = min(1.0, float(sum(law[right:]) + 2 * 20 * Fraction(delta) * most))
    assert chance_of(20, count, right, epsilon, delta) == pytest.approx(true, rel=1e-9)


def test_the_bound_of_one_run_is_where_the_chance_is_alpha() -> None:
    found = one_run_bound(1000, 100, 90, DELTA, 0.05)
    assert chance_of(1000, 100, 90, found, DELTA) <= 0.05
    assert chance_of(1000, 100, 90, found + 1e-6, DELTA) > 0.05
    assert one_run_bound(1000, 100, 50, DELTA, 0.05) == 0
    assert one_run_bound(10, 10, 10, 0.0, 2.0**-10) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("epsilon", "canaries", "bound"), [(4, 1000, 1.28), (8, 1000, 2.90), (2, 10_000, 0.87)]
)
def test_one_run_proves_what_was_measured_elsewhere(
    epsilon: float, canaries: int, bound: float
) -> None:
    """Or more, where the number of guesses is chosen better; and not too much."""
    rng, m = np.random.default_rng(3), limit(epsilon, DELTA)
    found = []
    for _ in range(40):
        present = rng.random(canaries) < 0.5
        run = guess(claim(epsilon), m, rng.normal(size=canaries) + m * present, present)
        assert run.guesses == guesses(canaries, m, DELTA, 0.05)
        found.append(run.bound)
    assert 0.9 * bound < np.mean(found) < 1.5 * bound
    assert sum(each > epsilon for each in found) <= 12  # of 40 at 0.05: a chance of 1e-7


def test_one_run_guesses_by_rank() -> None:
    present = np.arange(100) >= 50
    run = guess(claim(), 3.0, np.arange(100.0), present)
    assert run.right == run.guesses > 20
    assert run.is_contradicted
    assert guess(claim(), 3.0, -np.arange(100.0), present).right == 0
    with pytest.raises(ParameterError, match="expected two"):
        guess(claim(), 1.0, np.zeros(3), np.zeros(4, bool))


# Replay


@pytest.mark.parametrize("variance", [0.0, 0.01, 0.3, 1.0, 10.0, 300.0])
def test_fresh_noise_is_equal_as_seldom_as_is_said(variance: float) -> None:
    true = math.exp(-2 * variance) * float(np.i0(2 * variance))
    assert true <= repeats(np.zeros((2, 1)), variance).chance * (1 + 1e-12)


def test_noise_that_comes_back_is_found() -> None:
    noise = np.arange(12).reshape(4, 3)
    assert repeats(noise, 100.0).equal == 0
    noise[3] = noise[1]
    assert repeats(noise, 100.0).equal == 1
    noise[0] = noise[1]
    assert repeats(noise, 100.0) == Repeats(4, 3, 3, 6 * 401**-1.5)
    assert repeats(noise, 100.0).is_contradicted


# What is said


def test_no_figure_goes_without_what_it_is_of() -> None:
    same = np.arange(100.0)
    said = judge(claim(), same, same + 1000).text()
    for part in (
        "Tested: a normal law",
        "Adversary: whoever sees scores",
        "Trials: 100 with the canary and 100 without; the first half",
        "Accounted: epsilon 1 at delta 1e-05",
        "Bound: epsilon >= 2.57, 95 % sure (Clopper-Pearson)",
        "Bug detector, not a bound: epsilon >= ",
        "(0 of 50 false alarms, 0 of 50 misses)",
        "CONTRADICTED",
    ):
        assert part in said
    assert "stands" in judge(claim(), same, same).text()
    run = guess(claim(), 3.0, same, same >= 50)
    assert f"100 canaries; {run.guesses} guesses, a number fixed before" in run.text()
    assert "no two are equal" in repeats(np.arange(4).reshape(2, 2), 9.0).text()
    assert "1 pairs are EQUAL" in repeats(np.zeros((2, 2)), 9.0).text()
