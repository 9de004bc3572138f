"""A picture of a class out of a model's answers, against telling less.

Whether the picture is one of that class is for another model to say, which has seen none of the
victim's data. That a picture looks like its class is not that it looks like somebody in the
training data: so its likeness to records that the victim was trained on is reported less that to
records of the same class that it never saw. On digits nothing remains.
"""

from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from tacit.client.torch_trainer import TorchTrainer
from tacit.client.trainer import Examples, LocalPlan
from tacit.server.gate.model import Floats32, Model, TorchModel
from tacit.server.gate.reveal import Reveal
from tacit.simulations.attacks.model_inversion import mi_face
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
from tacit.simulations.duels.ground import EPOCHS, LARGE, LARGE_EPOCHS, ground, module_of
from tacit.simulations.duels.theft import COARSE, FULL, LABEL, ROUNDED, SAID, Scene, outcome
from tacit.simulations.models import factory

JUDGE = 7  # its seed


@dataclass(frozen=True, slots=True)
class Inversion:
    """MI-Face on a convolutional network."""

    name: str = "inversion"
    attack: str = "MI-Face by finite differences (Fredrikson et al. 2015)"
    defence: str = "labels instead of scores"

    def fight(self, scale: Scale, tell: Tell) -> Fought:
        start = perf_counter()
        scene = Scene(scale.data)
        seeds = 2 if scale.quick else 5
        lines = []
        tried = (FULL, COARSE, LABEL) if scale.quick else (FULL, ROUNDED, COARSE, LABEL)
        for done, reveal in enumerate(tried):
            pictures, asked = _pictures(scene, reveal, seeds)
            lines += [
                _recognised(scale.data, SAID[reveal], pictures, reveal),
                Line(SAID[reveal], "answers asked for, a picture", mean_of(asked)),
            ]
            if reveal is FULL:
                lines += _likeness(scene, pictures)
            tell((done + 1) / len(tried))
        lines.append(Line("label", "scores that an honest user is not told", Figure(1), Role.PRICE))
        limits = (
            "a class of digits is no person: this shows the look of a class, and nothing of "
            "anybody's record",
            "an attack that is made for labels alone was not tried, nor one that knows what "
            "pictures look like",
        )
        return outcome(self, scale, lines, start, limits)


def judge(data: str) -> Model:
    """A model of the victim's kind, trained on all that the victim was not trained on."""
    where = ground(data)
    return TorchModel(module_of(data, "cnn", _judge_arrays(data)), where.shape)


@lru_cache(maxsize=4)
def _judge_arrays(data: str) -> dict[str, NDArray[np.generic]]:
    where = ground(data)
    others = Examples(
        np.concatenate([where.held.x, where.owned.x]), np.concatenate([where.held.y, where.owned.y])
    )
    trainer = TorchTrainer(lambda: factory("cnn")(where.shape, where.classes))
    epochs = LARGE_EPOCHS if len(others) >= LARGE else EPOCHS
    plan = LocalPlan(epochs, batch_size=32, learning_rate=0.05, momentum=0.9)
    return trainer.fit(trainer.initial(JUDGE), others, plan)[0]


def _pictures(scene: Scene, reveal: Reveal, seeds: int) -> tuple[Floats32, list[float]]:
    """(seeds * classes, *shape), the classes in turn; and how many answers each took."""
    pictures, asked = [], []
    for seed in range(seeds):
        for target in range(scene.where.classes):
            box = scene.box(reveal)
            pictures.append(mi_face(box, target, np.random.default_rng([seed, target])))
            asked.append(float(box.asked))
    return np.stack(pictures), asked


def _recognised(data: str, setting: str, pictures: Floats32, reveal: Reveal) -> Line:
    classes = ground(data).classes
    named = judge(data).scored(pictures).probabilities.argmax(1)
    hits = int((named == np.arange(len(pictures)) % classes).sum())
    share = share_of(hits, len(pictures))
    what = "pictures that another model takes for the class"
    if reveal is FULL:
        return Line(setting, what, share, Role.ATTACK, 0.85)
    if reveal is LABEL:
        return Line(setting, what, share, Role.DEFENCE, 0.4, at_most=True)
    return Line(setting, what, share)


def _likeness(scene: Scene, pictures: Floats32) -> list[Line]:
    """Normalised correlation with the nearest of as many records that the victim was trained on,
    and that it was not, of the class."""
    seen, unseen = [], []
    for index, picture in enumerate(pictures):
        target = index % scene.where.classes
        trained = scene.where.trained.x[scene.where.trained.y == target]
        others = scene.where.held.x[scene.where.held.y == target]
        count = min(len(trained), len(others))
        seen.append(nearest(picture, trained[:count]))
        unseen.append(nearest(picture, others[:count]))
    ahead = mean_of([a - b for a, b in zip(seen, unseen, strict=True)])
    return [
        Line("full", "likeness to the nearest training record", mean_of(seen)),
        Line("full", "that, less likeness to the nearest unseen record", ahead),
    ]


def nearest(picture: Floats32, records: Floats32) -> float:
    """The largest normalised correlation, in [-1, 1], of `picture` (*shape) with one of `records`
    (n, *shape)."""
    return float((_normal(records) @ _normal(picture[None])[0]).max())


def _normal(x: Floats32) -> NDArray[np.float64]:
    flat = x.reshape(len(x), -1).astype(np.float64)
    flat = flat - flat.mean(1, keepdims=True)
    normal: NDArray[np.float64] = flat / np.linalg.norm(flat, axis=1, keepdims=True).clip(1e-12)
    return normal
