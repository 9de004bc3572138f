"""What a guess is worth, by what it is a guess at: where the lab knows the truth."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tacit.app.lab.federation import Scene, unused
from tacit.client.trainer import Examples
from tacit.crypto.errors import ParameterError
from tacit.simulations import measure
from tacit.simulations.attacks.base import Attack, Conduct, Knows, Target, View, view_of
from tacit.simulations.attacks.fishing import ClassFishing, FeatureFishing
from tacit.simulations.attacks.inconsistency import Inconsistency
from tacit.simulations.data.dataset import take
from tacit.simulations.evaluate import Floats, Outcome, evaluate, over_rounds
from tacit.simulations.measure import Measure
from tacit.simulations.score import floor_of

Rng: TypeAlias = np.random.Generator

GALLERY = 1000  # candidates among which an input is to be identified, at most


class GaveUp(ParameterError):
    """The attack has no guess at this update."""


def compared(attack: Attack, scene: Scene, rng: Rng | None) -> "Scored":
    """The attack's guess against the truth; without `rng`, or where devices gave nothing away, what
    is guessed blindly. Raises GaveUp, and ParameterError for guesses that are none."""
    target = attack.target
    if target is Target.INPUTS and scene.held.dataset.table is not None:
        target = Target.ROWS
    if scene.stopped:
        return replace(_SCORED[target](attack, scene, None), bound=None, of=0)
    return _SCORED[target](attack, scene, rng)


@dataclass(frozen=True, slots=True)
class _Told:
    """An attack whose giving up is told apart from what a scorer refuses."""

    attack: Attack

    @property
    def name(self) -> str:
        return self.attack.name

    @property
    def needs(self) -> Knows:
        return self.attack.needs

    @property
    def conduct(self) -> Conduct:
        return self.attack.conduct

    @property
    def target(self) -> Target:
        return self.attack.target

    def reconstruct(self, view: View, rng: Rng) -> NDArray[Any]:
        try:
            return self.attack.reconstruct(view, rng)
        except ParameterError as nothing:
            raise GaveUp(f"{self.name}: {nothing}") from nothing


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
    seen, knows = scene.seen[0], granted(attack)
    x, y = scene.examples(seen.members)
    values: dict[Knows, tuple[str, Callable[[], Any]]] = {
        Knows.LABELS: ("labels", lambda: y),
        Knows.BATCH_SIZE: ("batch_size", lambda: len(x)),
        Knows.LEARNING_RATE: ("learning_rate", lambda: scene.settings.train.learning_rate),
        Knows.PUBLIC_DATA: ("public_data", lambda: unused(scene.held)),
        Knows.CANDIDATES: ("candidates", lambda: _gallery(attack, scene)),
        Knows.STATISTICS: ("statistics", lambda: _statistics(scene)),
    }
    told = {name: value() for grant, (name, value) in values.items() if grant in knows}
    return view_of(seen, history=scene.seen, knows=knows, **told)


def granted(attack: Attack) -> Knows:
    """What the lab tells this attack: of updates, whose they are is all there is to know."""
    if attack.target is Target.UPDATES:
        return attack.needs
    return attack.needs | Knows.BATCH_SIZE


def _statistics(scene: Scene) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    public = unused(scene.held)
    return public.mean(axis=0), public.std(axis=0)


def _guess(attack: Attack, scene: Scene, rng: Rng) -> tuple[NDArray[Any], float]:
    """The guess, and the seconds that it took. Raises GaveUp if the attack has none."""
    shown, began = view(attack, scene), perf_counter()
    guess = _Told(attack).reconstruct(shown, rng)
    return guess, perf_counter() - began


def _inputs(attack: Attack, scene: Scene, rng: Rng | None) -> Scored:
    truth = sought(attack, scene)
    gallery, labels = _gallery(attack, scene)
    # Whoever has the list of candidates guesses blindly from that.
    public = gallery if Knows.CANDIDATES in attack.needs else unused(scene.held)
    luck, bound = _luck(attack, scene, labels), _bound(attack, scene, labels)
    if rng is None:
        floor = floor_of(exact(truth), exact(gallery), exact(public))
        blind = _blind(measure.of_inputs(floor, replace(floor, identified=luck)))
        return Scored(blind, bound=bound, of=len(truth))
    outcome = evaluate(_Told(attack), view(attack, scene), truth, gallery, rng, public=public)
    outcome = replace(outcome, floor=replace(outcome.floor, identified=luck))
    return Scored(
        measure.of_inputs(outcome.score, outcome.floor),
        outcome.seconds,
        bound,
        round(outcome.score.identified * len(truth)),
        len(truth),
        (outcome.truth, outcome.guess) if len(scene.held.dataset.shape) == 3 else None,
        outcome,
    )


def _rows(attack: Attack, scene: Scene, rng: Rng | None) -> Scored:
    """Of tables: cells, whether the attack knows of columns or not."""
    table = scene.held.dataset.table
    if table is None:
        raise ParameterError(f"{attack.name} is for tables, {scene.held.dataset.name} is none")
    truth, public = table.rows(sought(attack, scene)), table.rows(unused(scene.held))
    if rng is None:
        return Scored(_blind(measure.of_rows(truth[:0], truth, public, table.categorical)))
    found, seconds = _guess(attack, scene, rng)
    rows = (found if attack.target is Target.ROWS else table.rows(found))[: len(truth)]
    return Scored(measure.of_rows(rows, truth, public, table.categorical), seconds)


def _tokens(attack: Attack, scene: Scene, rng: Rng | None) -> Scored:
    """Of texts: tokens, and texts as a whole."""
    truth = sought(attack, scene).astype(np.int64)
    public = unused(scene.held).astype(np.int64)
    if rng is None:
        return Scored(_blind(measure.of_tokens(truth[:0], truth, public)))
    guess, seconds = _guess(attack, scene, rng)
    return Scored(measure.of_tokens(guess[: len(truth)], truth, public), seconds)


def _blind(measures: tuple[Measure, ...]) -> tuple[Measure, ...]:
    """What a guess without any update scores."""
    return tuple(replace(each, values=each.floor) for each in measures)


def exact(data: NDArray[np.float32]) -> Floats:
    return data.astype(np.float64)


def sought(attack: Attack, scene: Scene) -> NDArray[np.float32]:
    """The inputs that an attack is after: all, but for one that singles some out."""
    x, y = scene.examples(scene.members)
    match attack:
        case Inconsistency(victim=victim):
            return scene.examples(scene.members[victim : victim + 1])[0]
        case ClassFishing(label=label) | FeatureFishing(label=label):
            of_class: NDArray[np.float32] = x[y == label]
            return of_class
    return x


def _updates(attack: Attack, scene: Scene, rng: Rng | None) -> Scored:
    """Each device's mean update over the rounds it was in."""
    if rng is None:  # nothing was trained either
        return Scored((Measure("cosine", (0.0,), (0.0,)),))
    began = perf_counter()
    ((_, found),) = over_rounds(_Told(attack), scene.seen, scene.updates, [len(scene.seen)], rng)
    return Scored((found,), perf_counter() - began)


def _labels(attack: Attack, scene: Scene, rng: Rng | None) -> Scored:
    _, truth = scene.examples(scene.members)
    known, classes = truth.tolist(), scene.held.dataset.classes
    if rng is None:
        return Scored(_blind((measure.of_labels(known, known, classes),)))
    guess, seconds = _guess(attack, scene, rng)
    return Scored((measure.of_labels(guess.tolist(), known, classes),), seconds)


def _luck(attack: Attack, scene: Scene, labels: NDArray[np.int64]) -> float:
    """How often a guess hits the right one of candidates with these `labels` by luck, as it is
    matched with any of the inputs; of those of its class, where classes are told."""
    if Knows.LABELS not in attack.needs:
        return min(1.0, len(sought(attack, scene)) / len(labels))
    _, own = scene.examples(scene.members)
    return float(np.mean([(own == c).sum() / (labels == c).sum() for c in own]))


def _bound(attack: Attack, scene: Scene, labels: NDArray[np.int64]) -> float | None:
    """The most that it can identify among candidates with these `labels`: where it is told those of
    the inputs, in the class in which that is most, as no other class can be theirs."""
    if Knows.LABELS not in attack.needs:
        return scene.bound(len(sought(attack, scene)), len(labels))
    _, own = scene.examples(scene.members)
    several = (scene.bound(int((own == c).sum()), int((labels == c).sum())) for c in set(own))
    return max((bound for bound in several if bound is not None), default=None)


def _gallery(attack: Attack, scene: Scene) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Among what the inputs that an attack is after are to be identified."""
    everyone = scene.held.dataset.train
    if isinstance(
        attack, ClassFishing | FeatureFishing
    ):  # it knows their class, so no other can be one of them
        everyone = take(everyone, np.flatnonzero(everyone.y == attack.label))
    return candidates(sought(attack, scene), everyone, scene.settings.run.seed)


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


_SCORED: Mapping[Target, Callable[[Attack, Scene, Rng | None], Scored]]
_SCORED = MappingProxyType(
    {
        Target.INPUTS: _inputs,
        Target.LABELS: _labels,
        Target.UPDATES: _updates,
        Target.ROWS: _rows,
        Target.TOKENS: _tokens,
    }
)
