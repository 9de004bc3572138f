"""One cell of a matrix, tried once: a federation runs, an attack guesses, the scorer compares."""

from dataclasses import dataclass, field, replace
from zlib import crc32

import numpy as np

from tacit.app.lab.attacks import Ground, Named
from tacit.app.lab.federation import Scene, run, settings_of, unused
from tacit.app.lab.scoring import GaveUp, compared, exact, granted, sought
from tacit.app.material import material
from tacit.simulations import measure
from tacit.simulations.attacks.base import Attack, Knows, Target
from tacit.simulations.evaluate import Outcome
from tacit.simulations.hostile import HostileServer, Malicious
from tacit.simulations.named import resolve
from tacit.simulations.trial import Cell, Trial


@dataclass(frozen=True, slots=True)
class Attempt:
    """A trial; and of pictures all that there was to see."""

    trial: Trial
    outcome: Outcome | None = field(default=None, repr=False)


def attempt(cell: Cell, seed: int, perceptual: str = "") -> Attempt:
    """Run it, with a `measure.Distance` of pictures by its dotted name, if there is one.

    The same cell and seed give the same attempt, but for seconds, and for the noise of a private
    run, which is nobody's to repeat.
    """
    settings = settings_of(cell, seed)
    held = material(settings.data, seed)
    attack = Named.parse(cell.attack).make(Ground.of(settings, held))
    hostile = None
    if isinstance(attack, Malicious):
        public = unused(held) if Knows.PUBLIC_DATA in attack.needs else None
        hostile = HostileServer(attack, public, seed)
    noting = attack.target is Target.UPDATES
    scene = run(cell, seed, hostile, noting=noting)
    found = scored(cell, seed, attack, scene)
    if not perceptual or not found.trial.of:
        return found
    # Who gave up has no guess, and is measured all the same: trials of a cell are taken together.
    guess = None if found.outcome is None else found.outcome.guess
    truth = exact(sought(attack, scene)) if found.outcome is None else found.outcome.truth
    near = measure.of_perception(resolve(perceptual), guess, truth, unused(held))
    measures = (*found.trial.measures, near)
    return replace(found, trial=replace(found.trial, measures=measures))


def scored(cell: Cell, seed: int, attack: Attack, scene: Scene) -> Attempt:
    """What `attack` gets out of what was seen. Raises ParameterError for guesses that are none."""
    rng, gave_up = np.random.default_rng([seed, crc32(cell.attack.encode())]), ""
    try:
        found = compared(attack, scene, rng)
    except GaveUp as nothing:  # it has no use for this update: that is a result too
        gave_up = str(nothing)
        found = compared(attack, scene, None)
    trial = Trial(
        cell,
        seed,
        attack.conduct.value,
        granted(attack).words(),
        found.measures,
        found.seconds,
        scene.seen[0].protocol if scene.seen else scene.settings.secure.protocol,
        scene.stopped,
        gave_up,
        scene.epsilon,
        found.bound,
        found.hits,
        found.of,
        found.pictures,
    )
    return Attempt(trial, found.outcome)
