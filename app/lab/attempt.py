"""One cell of a matrix, tried once: a federation runs, an attack guesses, the scorer compares."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter
from types import MappingProxyType
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from tacit.app.lab.attacks import Ground, Named
from tacit.app.lab.federation import Scene, run, settings_of, unused
from tacit.app.material import material
from tacit.client.trainer import Examples
from tacit.crypto.errors import ParameterError
from tacit.simulations import measure
from tacit.simulations.attacks.base import Attack, Knows, Target, View, view_of
from tacit.simulations.attacks.fishing import ClassFishing
from tacit.simulations.attacks.inconsistency import Inconsistency
from tacit.simulations.data.dataset import take
from tacit.simulations.evaluate import Floats, Outcome, evaluate, over_rounds
from tacit.simulations.hostile import HostileServer, Malicious
from tacit.simulations.measure import Measure
from tacit.simulations.named import resolve
from tacit.simulations.score import floor_of
from tacit.simulations.trial import Cell, Trial

GALLERY = 1000  # candidates among which an input is to be identified, at most


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
    if not perceptual or found.outcome is None:
        return found
    guess, truth = found.outcome.guess, found.outcome.truth
    near = measure.of_perception(resolve(perceptual), guess, truth, unused(held))
    measures = (*found.trial.measures, near)
    return replace(found, trial=replace(found.trial, measures=measures))


def scored(cell: Cell, seed: int, attack: Attack, scene: Scene) -> Attempt:
    """What `attack` gets out of what was seen."""
    rng = np.random.default_rng([seed, crc32(cell.attack.encode())])
    target = attack.target
    if target is Target.INPUTS and scene.held.dataset.table is not None:
        target = Target.ROWS
    try:
        found = _SCORED[target](attack, scene, rng)
    except ParameterError as nothing:  # it has no use for this update: that is a result too
        scene = replace(scene, stopped=f"{attack.name} gave up: {nothing}")
        found = _SCORED[target](attack, scene, rng)
    trial = Trial(
        cell,
        seed,
        attack.conduct.value,
        _granted(attack).words(),
        found.measures,
        found.seconds,
        scene.seen[0].protocol if scene.seen else scene.settings.secure.protocol,
        scene.stopped,
        scene.epsilon,
        found.bound,
        found.hits,
        found.of,
        found.pictures,
    )
    return Attempt(trial, found.outcome)


@dataclass(frozen=True, slots=True)
class Scored:
    """What an attack came to: see `Trial` for the fields."""

    measures: tuple[Measure, ...]
    seconds: float = 0.0
    bound: float | None = None
    hits: int = 0
    of: int = 0
    pictures: tuple[Floats, Floats] | None = field(default=None, repr=False)
    outcome: Outcome | None = field(default=None, repr=False)


def view(attack: Attack, scene: Scene) -> View:
    """The first thing that was seen, with what the attack needs to know, and no more but how many
    inputs there are."""
    seen, knows = scene.seen[0], _granted(attack)
    x, y = scene.examples(seen.members)
    public = unused(scene.held)
    values: dict[Knows, tuple[str, Any]] = {
        Knows.LABELS: ("labels", y),
        Knows.BATCH_SIZE: ("batch_size", len(x)),
        Knows.LEARNING_RATE: ("learning_rate", scene.settings.train.learning_rate),
        Knows.PUBLIC_DATA: ("public_data", public),
        Knows.CANDIDATES: ("candidates", _gallery(attack, scene)),
        Knows.STATISTICS: ("statistics", (public.mean(axis=0), public.std(axis=0))),
    }
    granted = dict(value for grant, value in values.items() if grant in knows)
    return view_of(seen, history=scene.seen, knows=knows, **granted)


def _granted(attack: Attack) -> Knows:
    return attack.needs | Knows.BATCH_SIZE


def _inputs(attack: Attack, scene: Scene, rng: np.random.Generator) -> Scored:
    truth = _sought(attack, scene)
    gallery, labels = _gallery(attack, scene)
    # Whoever has the list of candidates guesses blindly from that.
    public = gallery if Knows.CANDIDATES in attack.needs else unused(scene.held)
    if scene.stopped:
        floor = floor_of(_exact(truth), _exact(gallery), _exact(public))
        return Scored(measure.of_inputs(floor, floor))
    outcome = evaluate(attack, view(attack, scene), truth, gallery, rng, public=public)
    found = outcome.score
    return Scored(
        measure.of_inputs(found, outcome.floor),
        outcome.seconds,
        _bound(attack, scene, labels),
        round(found.identified * len(truth)),
        len(truth),
        (outcome.truth, outcome.guess) if len(scene.held.dataset.shape) == 3 else None,
        outcome,
    )


def _rows(attack: Attack, scene: Scene, rng: np.random.Generator) -> Scored:
    """Of tables: cells, whether the attack knows of columns or not."""
    table = scene.held.dataset.table
    if table is None:
        raise ParameterError(f"{attack.name} is for tables, {scene.held.dataset.name} is none")
    truth, public = table.rows(_sought(attack, scene)), table.rows(unused(scene.held))
    guess, seconds = np.zeros((0, len(table.columns))), 0.0
    if not scene.stopped:
        began = perf_counter()
        found = attack.reconstruct(view(attack, scene), rng)[: len(truth)]
        seconds = perf_counter() - began
        guess = found if attack.target is Target.ROWS else table.rows(found)
    measures = measure.of_rows(guess, truth, public, table.categorical)
    return Scored(_blind(measures) if scene.stopped else measures, seconds)


def _tokens(attack: Attack, scene: Scene, rng: np.random.Generator) -> Scored:
    """Of texts: tokens, and texts as a whole."""
    truth = _sought(attack, scene).astype(np.int64)
    public = unused(scene.held).astype(np.int64)
    if scene.stopped:
        return Scored(_blind(measure.of_tokens(truth[:0], truth, public)))
    began = perf_counter()
    guess = attack.reconstruct(view(attack, scene), rng)[: len(truth)]
    return Scored(measure.of_tokens(guess, truth, public), perf_counter() - began)


def _blind(measures: tuple[Measure, ...]) -> tuple[Measure, ...]:
    """What a guess without any update scores."""
    return tuple(replace(each, values=each.floor) for each in measures)


def _exact(data: NDArray[np.float32]) -> Floats:
    return data.astype(np.float64)


def _sought(attack: Attack, scene: Scene) -> NDArray[np.float32]:
    """The inputs that an attack is after: all, but for one that singles some out."""
    x, y = scene.examples(scene.members)
    match attack:
        case Inconsistency(victim=victim):
            return scene.examples(scene.members[victim : victim + 1])[0]
        case ClassFishing(label=label):
            of_class: NDArray[np.float32] = x[y == label]
            return of_class
    return x


def _updates(attack: Attack, scene: Scene, rng: np.random.Generator) -> Scored:
    """Each device's mean update over the rounds it was in."""
    if scene.stopped:  # nothing was trained either
        return Scored((Measure("cosine", (0.0,), (0.0,)),))
    began = perf_counter()
    ((_, found),) = over_rounds(attack, scene.seen, scene.updates, [len(scene.seen)], rng)
    return Scored((found,), perf_counter() - began)


def _labels(attack: Attack, scene: Scene, rng: np.random.Generator) -> Scored:
    _, truth = scene.examples(scene.members)
    known, classes = truth.tolist(), scene.held.dataset.classes
    if scene.stopped:
        return Scored(_blind((measure.of_labels(known, known, classes),)))
    began = perf_counter()
    guess = attack.reconstruct(view(attack, scene), rng).tolist()
    seconds = perf_counter() - began
    return Scored((measure.of_labels(guess, known, classes),), seconds)


def _bound(attack: Attack, scene: Scene, labels: NDArray[np.int64]) -> float | None:
    """The most that it can identify among candidates with these `labels`: where it is told those of
    the inputs, in the class in which that is most, as no other class can be theirs."""
    if Knows.LABELS not in attack.needs:
        return scene.bound(len(_sought(attack, scene)), len(labels))
    _, own = scene.examples(scene.members)
    several = (scene.bound(int((own == c).sum()), int((labels == c).sum())) for c in set(own))
    return max((bound for bound in several if bound is not None), default=None)


def _gallery(attack: Attack, scene: Scene) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Among what the inputs that an attack is after are to be identified."""
    everyone = scene.held.dataset.train
    if isinstance(attack, ClassFishing):  # it knows their class, so no other can be one of them
        everyone = take(everyone, np.flatnonzero(everyone.y == attack.label))
    return candidates(_sought(attack, scene), everyone, scene.settings.run.seed)


def candidates(
    truth: NDArray[np.float32], everyone: Examples, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The truth, and others that could have been it, with labels: GALLERY in all, or as many as
    there are.

    The others are drawn by lot, and all are in the order of the data set: of a list that has the
    first others of a data set, what is far down would be the truth.
    """
    known = {one.tobytes() for one in truth}
    is_other = np.array([one.tobytes() not in known for one in everyone.x])
    drawn = np.random.default_rng([seed, GALLERY]).permutation(np.flatnonzero(is_other))
    kept = ~is_other
    kept[drawn[: max(0, GALLERY - len(known))]] = True
    return everyone.x[kept], everyone.y[kept]


_SCORED: Mapping[Target, Callable[[Attack, Scene, np.random.Generator], Scored]]
_SCORED = MappingProxyType(
    {
        Target.INPUTS: _inputs,
        Target.LABELS: _labels,
        Target.UPDATES: _updates,
        Target.ROWS: _rows,
        Target.TOKENS: _tokens,
    }
)
