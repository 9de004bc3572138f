"""Copying a model through its answers, against telling less and answering less often.

Three duels: a softmax regression, whose weights are solved for; a deeper model, copied with patches
of photographs; and a thief who has examples of his own, of whom it is asked what the answers add.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from torch import nn

from tacit.crypto.errors import ParameterError
from tacit.server.gate.allowance import DEFAULT_BUDGET
from tacit.server.gate.reveal import Reveal
from tacit.simulations.attacks.blackbox import as_rows
from tacit.simulations.attacks.equations import fitted, solved
from tacit.simulations.attacks.jbda import jbda
from tacit.simulations.attacks.transfer import crafted, scattered
from tacit.simulations.duels.base import (
    Figure,
    Fought,
    Line,
    Role,
    Scale,
    Tell,
    mean_of,
    share_of,
)
from tacit.simulations.duels.budget import OWNED, SMALL, default_budget, gain
from tacit.simulations.duels.theft import (
    COARSE,
    FULL,
    LABEL,
    MOST,
    QUICK_MOST,
    QUICK_REACHED,
    REACHED,
    ROUNDED,
    SAID,
    TOP1,
    Scene,
    labels_by,
    outcome,
)

AGREEMENT = "agreement with the victim"
ONE_VICTIM = (
    "intervals are over what the thief draws: the victim is one, trained once, and agreement is "
    "measured on the same held-out examples each time"
)


JUDGED = {(FULL, MOST), (LABEL, 100), (LABEL, 1000)}  # of the curve, those with a target
CURVE = (50, 100, 300, 1000, 3000, MOST)
BUDGETS = (DEFAULT_BUDGET, 150, 200, 300, 500, 1000, 2000)
ROUNDS = 5  # of doubling one's own examples
HALF = 0.5  # of all inputs: a copy that is right about fewer is no copy
RADIUS = 0.1  # of a fooling input, in data units


@dataclass(frozen=True, slots=True)
class ExtractionLinear:
    """A softmax regression is d + 1 answers, if they are told in full."""

    name: str = "extraction-linear"
    attack: str = "equation solving and fitting (Tramer et al. 2016)"
    defence: str = "labels instead of scores, and a budget of them"

    def fight(self, scale: Scale, tell: Tell) -> Fought:
        start = perf_counter()
        scene = Scene(scale.data, "softmax")
        seeds = 3 if scale.quick else 5
        unknowns = int(np.prod(scene.where.shape)) + 1
        exact = mean_of(
            [
                scene.agreement(
                    solved(scene.box(FULL, unknowns), unknowns, np.random.default_rng(seed)).labels(
                        scene.where.held.x
                    )
                )
                for seed in range(seeds)
            ]
        )
        tell(0.3)
        within = self._fit(scene, LABEL, DEFAULT_BUDGET, seeds)
        tell(0.5)
        lines = [
            Line(f"full, {unknowns} answers", AGREEMENT, exact, Role.ATTACK, 0.999),
            Line(
                f"label, {DEFAULT_BUDGET} answers",
                AGREEMENT,
                within,
                Role.DEFENCE,
                0.65,
                at_most=True,
            ),
        ]
        counts = (unknowns, 10 * unknowns) if scale.quick else (unknowns, 10 * unknowns, 3000)
        for reveal in (ROUNDED, COARSE, LABEL) if scale.quick else (ROUNDED, COARSE, TOP1, LABEL):
            for n in counts:
                found = self._fit(scene, reveal, n, seeds)
                lines.append(Line(f"{SAID[reveal]}, {n} answers", AGREEMENT, found))
        lines.append(_price(scene))
        tell(1.0)
        limits = (
            ONE_VICTIM,
            "queries are uniform: a thief who looks for the borders between classes, and asks "
            "there, needs fewer labels",
            "labels do not protect a linear model by themselves, and rounding does less: with ten "
            "answers for each number in it a fit finds most of it. The budget does",
        )
        return outcome(self, scale, lines, start, limits)

    def _fit(self, scene: Scene, reveal: Reveal, count: int, seeds: int) -> Figure:
        drawn = (np.random.default_rng([seed, 3]) for seed in range(seeds))
        found = [fitted(scene.box(reveal, count), count, rng) for rng in drawn]
        return mean_of([scene.agreement(each.labels(scene.where.held.x)) for each in found])


@dataclass(frozen=True, slots=True)
class ExtractionDeep:
    """A convolutional network, copied by a dense one with pictures of something else."""

    name: str = "extraction-deep"
    attack: str = "Knockoff Nets with patches of photographs (Orekondy et al. 2019)"
    defence: str = "labels instead of scores, and a budget of them"

    def fight(self, scale: Scale, tell: Tell) -> Fought:
        start = perf_counter()
        scene = Scene(scale.data)
        seeds = 2 if scale.quick else 5
        most, reached = (QUICK_MOST, QUICK_REACHED) if scale.quick else (MOST, REACHED)
        copies = [scene.copied(FULL, most, seed) for seed in range(seeds)]
        full = mean_of([scene.fidelity(copy) for copy in copies])
        tell(0.5)
        lines = [Line(f"full, {most} answers", AGREEMENT, full, Role.ATTACK, reached)]
        for count, most_agreed in ((100, HALF), (1000, 0.80)):
            found = scene.by_patches(LABEL, count, seeds)
            line = Line(
                f"label, {count} answers", AGREEMENT, found, Role.DEFENCE, most_agreed, at_most=True
            )
            lines.append(line)
        tell(0.8)
        if not scale.quick:
            lines += [*_curve(scene, seeds), *_grown(scene, seeds)]
        lines += [*_transfer(scene, copies), _price(scene)]
        tell(1.0)
        limits = (
            ONE_VICTIM,
            "ten thousand answers are not the most that a thief gets: without a budget, labels "
            "alone reach nearly what scores do",
            "thieves with generators instead of photographs need millions of answers, and were not "
            "tried",
        )
        return outcome(self, scale, lines, start, limits)


@dataclass(frozen=True, slots=True)
class ExtractionFloor:
    """A thief with examples of his own has a good model without any victim."""

    name: str = "extraction-floor"
    attack: str = "asking about one's own examples, and variations of them"
    defence: str = "a budget that is read off what answers add"

    def fight(self, scale: Scale, tell: Tell) -> Fought:
        start = perf_counter()
        scene = Scene(scale.data)
        seeds = 2 if scale.quick else 5
        own = len(scene.where.owned)
        full, gained = scene.by_owned(FULL, seeds)
        label, less = scene.by_owned(LABEL, seeds)
        tell(0.3)
        more = f"gain over labelling the same {own} oneself"
        lines = [
            Line(f"full, {own} own examples", AGREEMENT, full, Role.ATTACK, 0.90),
            Line(f"label, {own} own examples", AGREEMENT, label),
            Line(f"full, {own} own examples", more, gained),
            Line(f"label, {own} own examples", more, less, Role.DEFENCE, SMALL, at_most=True),
        ]
        budgets = (DEFAULT_BUDGET,) if scale.quick else BUDGETS
        gains = {n: gain(scale.data, n, LABEL, seeds) for n in budgets}
        tell(0.8)
        added = f"gain over labelling {OWNED} examples oneself"
        for n, found in gains.items():
            if n == DEFAULT_BUDGET:
                lines.append(
                    Line(f"label, {n} answers", added, found, Role.DEFENCE, SMALL, at_most=True)
                )
            else:
                lines.append(Line(f"label, {n} answers", added, found))
        if not scale.quick:  # two seeds know too little to read a budget off
            lines += [
                Line(f"full, {n} answers", added, gain(scale.data, n, FULL, seeds)) for n in BUDGETS
            ]
            lines.append(Line("label", f"largest budget of gain up to {SMALL}", _read_off(gains)))
        lines.append(Line("default", "answers in a key's life", Figure(DEFAULT_BUDGET), Role.PRICE))
        tell(1.0)
        limits = (
            ONE_VICTIM,
            f"the floor is that of {OWNED} examples: answers are worth more to who has fewer",
        )
        return outcome(self, scale, lines, start, limits)


def _curve(scene: Scene, seeds: int) -> list[Line]:
    """The rest of the curve: agreement over budgets, for all that may be told."""
    return [
        Line(f"{SAID[reveal]}, {count} answers", AGREEMENT, scene.by_patches(reveal, count, seeds))
        for reveal in SAID
        for count in CURVE
        if (reveal, count) not in JUDGED
    ]


def _grown(scene: Scene, seeds: int) -> list[Line]:
    """Jacobian-based augmentation of examples that the thief owns, beside what they are alone."""
    owned = scene.where.owned.x[:OWNED]
    return [
        Line(
            f"{SAID[reveal]}, {count} answers",
            f"{AGREEMENT}, {OWNED} own examples and Jacobian augmentation",
            mean_of(
                [
                    scene.fidelity(jbda(scene.box(reveal, count), owned, ROUNDS, seed))
                    for seed in range(seeds)
                ]
            ),
        )
        for reveal in (FULL, LABEL)
        for count in (OWNED, OWNED * 2**ROUNDS)
    ]


def _transfer(scene: Scene, copies: Sequence[nn.Module]) -> list[Line]:
    """How often what fools a copy fools the victim, of what both name alike to begin with."""
    x, labels = scene.where.held.x, scene.truth
    tried = {
        "fast gradient sign": [crafted(copy, x, labels, RADIUS, 1) for copy in copies],
        "projected gradient descent": [crafted(copy, x, labels, RADIUS) for copy in copies],
        "as far by chance": [
            scattered(x, RADIUS, np.random.default_rng(seed)) for seed in range(len(copies))
        ],
    }
    return [
        Line(
            f"{name}, up to {RADIUS} a pixel",
            "inputs that change the victim's label",
            mean_of([1 - scene.agreement(labels_by(scene.victim, each)) for each in moved]),
        )
        for name, moved in tried.items()
    ]


def _price(scene: Scene) -> Line:
    """Honest users get the same class at every level of detail."""
    scores = scene.victim.scored(scene.where.held.x).probabilities
    told = as_rows(LABEL.shown(scores), scene.where.classes).argmax(1)
    changed = int((told != scores.argmax(1)).sum())
    share = share_of(changed, len(scores))
    return Line(
        "label", "labels that differ from the model's", share, Role.PRICE, 0.0, at_most=True
    )


def _read_off(gains: Mapping[int, Figure]) -> Figure:
    try:
        return Figure(default_budget(gains))
    except ParameterError:
        return Figure(0)
