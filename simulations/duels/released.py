"""Attacks of the duels, pointed at a release: what it gives away through its answers."""

from time import perf_counter

import numpy as np
import torch

from tacit.client.torch_trainer import TorchTrainer
from tacit.client.trainer import LocalPlan
from tacit.crypto.errors import ParameterError
from tacit.server.gate.model import Floats32, TorchModel
from tacit.server.gate.reveal import Detail, Reveal
from tacit.simulations.attacks.blackbox import BlackBox
from tacit.simulations.attacks.extraction import labels_of
from tacit.simulations.attacks.knockoff import knockoff
from tacit.simulations.attacks.model_inversion import mi_face
from tacit.simulations.duels.base import Fought, Line, Role, Scale, Tell, mean_of, share_of
from tacit.simulations.duels.ground import patches
from tacit.simulations.duels.inversion import nearest
from tacit.simulations.duels.release import Release
from tacit.simulations.models import factory

BUDGETS = (50, 100, 300, 1_000, 3_000, 10_000)
QUICK = (50, 100, 300, 1_000)
GATED = 1_000  # answers, labels alone: what a gate's budget is read off around
SEEDS, QUICK_SEEDS = (0, 1, 2), (0, 1)
CHANNELS = (1, 3)
LIMITS = (
    "A thief who owns examples of the same kind, and labels them himself, needs no answers: what "
    "he gains by asking is little, and no budget stops him.",
    "Against a model that is not served a budget says nothing: whoever has the file has the model.",
)


def extraction(release: Release, scale: Scale, tell: Tell) -> Fought:
    """Copy it with photographs, label by label and with all scores, over a range of budgets: how
    often the copy then agrees with it. Raises ParameterError for inputs that are no pictures."""
    began, shape = perf_counter(), release.ground.shape
    if len(shape) != 3 or shape[0] not in CHANNELS:
        raise ParameterError(f"photographs cannot be asked of a model of inputs of shape {shape}")
    budgets, seeds = (QUICK, QUICK_SEEDS) if scale.quick else (BUDGETS, SEEDS)
    public = patches(shape, budgets[-1])
    held = release.ground.held.x
    truth = release.model.scored(held).probabilities.argmax(1)
    lines = []
    for step, detail in enumerate((Detail.LABEL, Detail.FULL)):
        for at, budget in enumerate(budgets):
            agreed = []
            for seed in seeds:
                box = BlackBox(release.model, Reveal(detail), budget)
                agreed.append(float((labels_of(knockoff(box, public, seed), held) == truth).mean()))
            is_gated = detail is Detail.LABEL and budget == GATED
            lines.append(
                Line(f"photographs, {detail.value}", f"agreement after {budget:,} answers",
                     mean_of(agreed), Role.DEFENCE if is_gated else Role.REPORTED)
            )  # fmt: skip
            tell((step + (at + 1) / len(budgets)) / 2)
    return Fought("extraction", "Knockoff Nets with public pictures", "labels alone, and a budget",
                  release.ground.data, tuple(lines), perf_counter() - began, LIMITS)  # fmt: skip


INVERTED = (
    "A picture that a judge takes for the class is the look of a class. Whether it is like a "
    "record that was trained on says the difference of likeness, and it says something about "
    "people only where each class is one.",
    "The judge is trained on the half of the data that the release never saw: with few examples it "
    "is a poor one.",
)
JUDGE, EPOCHS = "cnn", 30


def inversion(release: Release, scale: Scale, tell: Tell) -> Fought:
    """Ask for the picture of each class, by all scores and by labels; a judge that never saw the
    release's data says of what class it is. Raises ParameterError for inputs that are no pictures.
    """
    began, where = perf_counter(), release.ground
    if len(where.shape) != 3:
        raise ParameterError(f"inputs of shape {where.shape} are no pictures: nothing to look at")
    judge = _judge(release)
    lines: list[Line] = []
    for step, detail in enumerate((Detail.LABEL, Detail.FULL)):
        seeds = 1 if scale.quick else 3
        drawn = [
            (target, mi_face(BlackBox(release.model, Reveal(detail)), target,
                             np.random.default_rng([seed, target])))
            for seed in range(seeds)
            for target in range(where.classes)
        ]  # fmt: skip
        pictures = np.stack([picture for _, picture in drawn])
        named = judge.scored(pictures).probabilities.argmax(1)
        hits = int((named == np.array([target for target, _ in drawn])).sum())
        lines.append(
            Line(f"MI-Face, {detail.value}", "pictures taken for their class",
                 share_of(hits, len(drawn)),
                 Role.DEFENCE if detail is Detail.LABEL else Role.REPORTED)
        )  # fmt: skip
        if detail is Detail.FULL:
            ahead = [
                nearest(picture, trained) - nearest(picture, others)
                for target, picture in drawn
                for trained, others in [_of_class(release, target)]
                if len(trained)
            ]
            lines.append(
                Line("MI-Face, full", "likeness to what was trained on, less to what was not",
                     mean_of(ahead))
            )  # fmt: skip
        tell((step + 1) / 2)
    return Fought("inversion", "MI-Face by finite differences", "labels alone", where.data,
                  tuple(lines), perf_counter() - began, INVERTED)  # fmt: skip


def _judge(release: Release) -> TorchModel:
    where = release.ground
    trainer = TorchTrainer(lambda: factory(JUDGE)(where.shape, where.classes))
    plan = LocalPlan(EPOCHS, batch_size=32, learning_rate=0.05, momentum=0.9)
    arrays = trainer.fit(trainer.initial(0), where.owned, plan)[0]
    module = factory(JUDGE)(where.shape, where.classes)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    return TorchModel(module, where.shape)


def _of_class(release: Release, target: int) -> tuple[Floats32, Floats32]:
    """As many records of the class that were trained on as there are ones that were not."""
    where = release.ground
    trained, others = (part.x[part.y == target] for part in (where.trained, where.held))
    count = min(len(trained), len(others))
    return trained[:count], others[:count]
