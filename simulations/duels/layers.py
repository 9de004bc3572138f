"""One thief against one layer of the gate more at a time: what each buys.

The thief asks about patches of photographs. He is told scores in full, without end; then labels
alone; then as many as a new key has in its life; then half of that, since the watch degrades him
after `SEEN` answers; then none beyond these, since a person suspends him. And again with a key that
people trusted with scores and `GRANTED` answers, where the watch has more to take away.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np

from tacit.server.gate.allowance import DEFAULT_BUDGET
from tacit.simulations.attacks.extraction import imitate
from tacit.simulations.duels.base import Figure, Fought, Line, Role, Scale, Tell, mean_of
from tacit.simulations.duels.ground import patches
from tacit.simulations.duels.theft import (
    FULL,
    LABEL,
    MOST,
    QUICK_MOST,
    QUICK_REACHED,
    REACHED,
    Scene,
    outcome,
)

SEEN = 50  # answers after which the watch has flagged such a thief: see the duel of detection
GRANTED = 1000  # answers of a key that people trusted with more than the default
AGREEMENT = "agreement with the victim"


@dataclass(frozen=True, slots=True)
class Layers:
    """The gate, layer by layer."""

    name: str = "layers"
    attack: str = "Knockoff Nets with patches of photographs (Orekondy et al. 2019)"
    defence: str = "the gate, one layer more at a time"

    def fight(self, scale: Scale, tell: Tell) -> Fought:
        start = perf_counter()
        scene = Scene(scale.data)
        seeds = 2 if scale.quick else 5
        most, reached = (QUICK_MOST, QUICK_REACHED) if scale.quick else (MOST, REACHED)
        degraded = max(SEEN, DEFAULT_BUDGET // 2)
        steps: tuple[tuple[str, Callable[[], Figure]], ...] = (
            (f"nothing, {most} answers", lambda: scene.by_patches(FULL, most, seeds)),
            (f"label, {most} answers", lambda: scene.by_patches(LABEL, most, seeds)),
            *(
                (f"label, {layer}, {count} answers", partial(scene.by_patches, LABEL, count, seeds))
                for layer, count in (
                    ("budget", DEFAULT_BUDGET),
                    ("degraded", degraded),
                    ("suspended", SEEN),
                )
            ),
            (f"granted, {GRANTED} answers", lambda: scene.by_patches(FULL, GRANTED, seeds)),
            (f"granted, degraded, {GRANTED // 2} answers", lambda: _degraded(scene, seeds)),
            (f"granted, suspended, {SEEN} answers", lambda: scene.by_patches(FULL, SEEN, seeds)),
        )
        lines = []
        for done, (setting, measured) in enumerate(steps):
            lines.append(_line(setting, measured(), reached, done))
            tell((done + 1) / len(steps))
        chance = Figure(1 / scene.where.classes)
        lines += [
            Line("no answers", AGREEMENT, chance),
            Line("all layers", "answers in a key's life", Figure(DEFAULT_BUDGET), Role.PRICE),
        ]
        limits = (
            "that the watch flags this thief after so many answers is measured by the duel of "
            "detection, and not here",
            "a thief whose questions look like anybody's is not flagged, and meets labels and "
            "budget alone",
        )
        return outcome(self, scale, lines, start, limits)


def _degraded(scene: Scene, seeds: int) -> Figure:
    """Agreement of who got `SEEN` answers in full, and labels for the rest of half his budget."""
    pictures = patches(scene.where.shape, MOST)
    found = []
    for seed in range(seeds):
        x = pictures[np.random.default_rng(seed).permutation(MOST)[: GRANTED // 2]]
        told = scene.box(FULL).ask(x[:SEEN]), scene.box(LABEL).ask(x[SEEN:])
        found.append(scene.fidelity(imitate(x, np.concatenate(told), seed)))
    return mean_of(found)


def _line(setting: str, found: Figure, reached: float, done: int) -> Line:
    if done == 0:
        return Line(setting, AGREEMENT, found, Role.ATTACK, reached)
    if setting.startswith("label, suspended"):
        return Line(setting, AGREEMENT, found, Role.DEFENCE, 0.40, at_most=True)
    return Line(setting, AGREEMENT, found)
