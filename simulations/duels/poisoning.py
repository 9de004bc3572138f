"""Three hostile devices of twenty, against means, groups of sums, and the rules that see all.

Each line says among how many devices an update hides: what it costs to stand up to hostile ones.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from tacit.simulations.attacks.poisoning import Backdoor, SignFlip
from tacit.simulations.duels.base import Figure, Fought, Line, Role, Scale, Tell, mean_of
from tacit.simulations.duels.rules import (
    ANEW,
    DEVICES,
    ENFORCED,
    FIVE,
    HOSTILE,
    KRUM,
    MEAN,
    MEDIAN,
    OWN_BOUND,
    TEN,
    TRIGGER,
    TRIMMED,
    Federation,
    Rule,
)

BACKDOOR = Backdoor(TRIGGER, boost=DEVICES / HOSTILE)
SIGN_FLIP = SignFlip(boost=10.0)


@dataclass(frozen=True, slots=True)
class Poisoning:
    """Three of twenty devices against a mean, groups and the rules that see every update."""

    name: str = "poisoning"
    attack: str = "three hostile devices of twenty: a backdoor by model replacement, a sign flip"
    defence: str = "secure sums in groups, and a median over the groups"

    def fight(self, scale: Scale, tell: Tell) -> Fought:
        began = time.perf_counter()
        count, rounds = (2, 2) if scale.quick else (5, 6)
        federations = [Federation(scale.data, seed, rounds) for seed in range(count)]
        asked = _quick() if scale.quick else (*_quick(), *_more())
        lines = []
        for done, each in enumerate(asked):
            lines.append(each.line(federations))
            tell((done + 1) / len(asked))
        lines.extend(_anonymity(rule) for rule in (MEAN, TEN, FIVE, MEDIAN))
        seconds = time.perf_counter() - began
        return Fought(
            self.name, self.attack, self.defence, scale.data, tuple(lines), seconds, LIMITS
        )


@dataclass(frozen=True, slots=True)
class _Asked:
    """One line: a mean over federations of what `of` makes of each."""

    rule: Rule
    what: str
    of: Callable[[Federation], float]
    role: Role = Role.REPORTED
    target: float | None = None
    at_most: bool = False

    def line(self, federations: list[Federation]) -> Line:
        figure = mean_of([self.of(each) for each in federations])
        setting = f"{self.rule.words}: hides among {self.rule.among}"
        return Line(setting, self.what, figure, self.role, self.target, self.at_most)


def _success(
    rule: Rule,
    role: Role = Role.REPORTED,
    target: float | None = None,
    poison: Backdoor = BACKDOOR,
    what: str = "backdoor success",
) -> _Asked:
    is_defence = role is Role.DEFENCE
    return _Asked(rule, what, lambda f: f.outcome(rule, poison).success, role, target, is_defence)


def _flipped(rule: Rule, role: Role = Role.REPORTED, target: float | None = None) -> _Asked:
    what = "accuracy under a sign flip"
    return _Asked(rule, what, lambda f: f.outcome(rule, SIGN_FLIP).accuracy, role, target, True)


def _quick() -> tuple[_Asked, ...]:
    return (
        _success(MEAN, Role.ATTACK, 0.95),
        _success(OWN_BOUND, Role.ATTACK, 0.5),
        _success(ENFORCED),
        _success(TEN, Role.DEFENCE, 0.05),
        _flipped(TEN),
        _Asked(
            TEN,
            "clean accuracy lost, against the mean",
            lambda f: f.outcome(MEAN).accuracy - f.outcome(TEN).accuracy,
            Role.PRICE,
            0.01,
            True,
        ),
        _success(FIVE, Role.ATTACK, 0.5),
        _success(TRIMMED),
        _success(MEDIAN),
        _success(KRUM),
    )


def _more() -> tuple[_Asked, ...]:
    own_group = replace(BACKDOOR, boost=float(TEN.among))  # its group's mean is then the attacker's
    return (
        _flipped(MEAN, Role.ATTACK, 0.5),  # which takes more rounds than a quick look has
        _success(TEN, Role.DEFENCE, 0.05, own_group, "backdoor success, scaled for its own group"),
        _Asked(
            TEN,
            "accuracy under the backdoor",
            lambda f: f.outcome(TEN, BACKDOOR).accuracy,
        ),
        _Asked(MEAN, "accuracy without hostile devices", lambda f: f.outcome(MEAN).accuracy),
        _success(ANEW, Role.DEFENCE, 0.05),
        *(_exposed(rule) for rule in (MEAN, TEN, ANEW, FIVE)),
        *(_flipped(rule) for rule in (OWN_BOUND, ENFORCED, FIVE, TRIMMED, MEDIAN, KRUM)),
    )


def _exposed(rule: Rule) -> _Asked:
    what = "cosine of a device's mean update and what its sums give away"
    return _Asked(rule, what, lambda f: f.exposed(rule), Role.PRICE)


def _anonymity(rule: Rule) -> Line:
    figure = Figure(float(rule.among))
    return Line(rule.words, f"devices an update hides among, of {DEVICES}", figure, Role.PRICE)


LIMITS = (
    "A median keeps each coordinate within the range of the groups that are not spoilt, and no "
    "more: hostile devices that send only a little (Baruch et al. 2019) are not tried here.",
    "The devices' data are alike. Where they are not, honest groups differ, the range is wider, "
    "and whose data are unlike the others' has less of a say.",
    "An honest server draws the groups. One that draws them as it likes puts one device among its "
    "own: a device's min_cohort is what counts against that.",
    "As many hostile devices as half the groups, or more, are not withstood: 5 groups are too few.",
)
