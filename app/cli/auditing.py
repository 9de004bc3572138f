"""`tacit audit dp`: attack private sums, and hold what is proven against what is accounted."""

import os
from dataclasses import asdict, replace
from typing import Any

import typer
from rich.table import Table

from tacit.app.cli.screen import Screen, complain, interruptible
from tacit.privacy.audit import Audit, Claim, OneRun, Repeats, guess, judge, repeats
from tacit.privacy.mechanisms import choose
from tacit.simulations.canaries import Cohort, Trials, m_of, noise_of, off_lattice, one_run
from tacit.simulations.controls import CONTROLS, flag, flag_floats, flag_seeded

DEVICES, SUM_LENGTH = 6, 8
CANARIES = 400  # devices, where there is one run: their keys take most of its time
MASKED = 300  # runs of each kind that are under masks: they take ten times as long as others
STARTS, SUMS = 2, 10  # of a federation, and after each, to see whether noise comes back
FAILED = 1

NOT_COVERED = (
    "time, power and traffic, and the noise of devices that do not run this code",
    "other adversaries, canaries and scores: that an attack fails proves nothing",
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
    """Canaries through real sums. Ends with FAILED if they tell more than is accounted for."""
    count = devices or (CANARIES if single else DEVICES)
    size = length or (count if single else SUM_LENGTH)
    cohort = Cohort(choose(size, count, dropouts, corrupt, clip, noise), os.urandom)
    spent = cohort.spent(rounds)
    known = "who sent canaries, it has to guess" if single else "it knows all updates but one"
    claim = Claim(
        f"{_counted(rounds, 'sum')} of {count} devices, {dropouts} of them missing; noise "
        f"multiplier {noise:g}, clip {clip:g}, {size} parameters of {cohort.mechanism.bits} bits",
        f"the server, in league with {_counted(corrupt, 'device')}; {known}",
        spent.epsilon(delta),
        delta,
        alpha,
    )
    with interruptible("tacit audit dp starts over"), screen.progress():
        if single:
            scores = one_run(cohort, os.urandom, rounds, screen.bar("sums under masks"))
            found: dict[str, Audit | OneRun | Repeats] = {
                "one_run": guess(claim, m_of(spent), *scores)
            }
        else:
            found = _many(screen, cohort, claim, rounds, runs)
    for each in found.values():
        screen.say(each.text())
        screen.say("")
    if not single:
        screen.say(
            f"{min(MASKED, runs)} runs of each kind went through secure sums, masks and all, and "
            "each was, bit by bit, what addition in the ring gives; the others were so added."
        )
    screen.say("Not covered:")
    for line in NOT_COVERED:
        screen.say(f"- {line}")
    contradicted = any(each.is_contradicted for each in found.values())
    screen.result(
        accounted=claim.epsilon,
        delta=delta,
        alpha=alpha,
        contradicted=contradicted,
        **{name: _summary(each) for name, each in found.items()},
    )
    if contradicted:
        complain("the accounted epsilon is contradicted")
        raise typer.Exit(FAILED)


def flag_controls(screen: Screen, delta: float, alpha: float) -> None:
    """Audit mechanisms that are broken on purpose. Ends with FAILED if one of them passes."""
    found: dict[str, Audit | Repeats] = {}
    with interruptible("tacit audit dp starts over"), screen.progress():
        for control in CONTROLS:
            bar = screen.bar(control.name)
            found[control.name] = flag(control, delta, alpha, os.urandom, bar)
        found["seeded noise"] = flag_seeded(os.urandom)
        found["float lattice"] = flag_floats(delta, alpha, os.urandom)
    table = Table("broken on purpose", "accounted", "bound", "detector", "")
    for name, each in found.items():
        figures = ("", "", "")
        if isinstance(each, Audit):
            numbers = (each.claim.epsilon, each.bound, each.detector)
            figures = tuple(f"{number:.3f}" for number in numbers)  # type: ignore[assignment]
        table.add_row(name, *figures, "flagged" if each.is_contradicted else "MISSED")
    screen.console.print(table)
    missed = [name for name, each in found.items() if not each.is_contradicted]
    screen.result(missed=missed, controls={name: _summary(each) for name, each in found.items()})
    if missed:
        complain(f"the auditor is blind to: {', '.join(missed)}")
        raise typer.Exit(FAILED)


def _many(
    screen: Screen, cohort: Cohort, claim: Claim, rounds: int, runs: int
) -> dict[str, Audit | OneRun | Repeats]:
    """By what is left of a sum where the canary is, by its last digits, and by noise itself."""
    trials = Trials.drawn(cohort, os.urandom, rounds)
    absent, present = trials.scores(runs, min(MASKED, runs), screen.bar("runs, with and without"))
    digits = replace(claim, tested="the last digits of what is released, as floating-point numbers")
    starts = [Cohort(cohort.mechanism, os.urandom) for _ in range(STARTS)]
    noise = noise_of(starts, SUMS, masked=True)
    return {
        "projection": judge(claim, absent, present),
        "digits": judge(digits, off_lattice(absent), off_lattice(present)),
        "replay": repeats(noise, float(cohort.mechanism.variance)),
    }


def _summary(found: Audit | OneRun | Repeats) -> dict[str, Any]:
    fields: dict[str, Any] = {"contradicted": found.is_contradicted}
    if isinstance(found, Repeats):
        return fields | asdict(found)
    fields |= {"tested": found.claim.tested, "accounted": found.claim.epsilon, "bound": found.bound}
    if isinstance(found, Audit):
        return fields | {"detector": found.detector, "runs": found.runs}
    return fields | {"canaries": found.canaries, "guesses": found.guesses, "right": found.right}


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
