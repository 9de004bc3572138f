"""What leaks: the same attacks against one device in the clear and against a secure sum.

A small federation of portraits, one face to a device, runs one round through the very apps that
everything else runs through, once plain and once under a secure sum. The attacks get what the
server could read, and nothing else.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tacit.app.config import Settings
from tacit.app.material import Material, material
from tacit.app.simulation import simulate
from tacit.client.trainer import Examples
from tacit.server.inbox import Seen
from tacit.simulations.attacks.base import Attack, Knows, view_of
from tacit.simulations.attacks.inverting import InvertingGradients
from tacit.simulations.attacks.linear import LinearReadout
from tacit.simulations.data.dataset import Dataset
from tacit.simulations.data.embedded import faces
from tacit.simulations.engine.device import FIRST_NODE_ID
from tacit.simulations.evaluate import Outcome, evaluate
from tacit.simulations.models import smooth_cnn

FACE = 1  # the label of a face in the data set
OnStep = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Exposure:
    """How hard the attacks try, and at whom.

    devices    how many devices are in the secure sum
    victims    how many devices are attacked one by one in the clear
    steps, restarts   of the optimisation attack
    curve      numbers of devices for the curve of leakage against the size of the sum
    """

    devices: int = 10
    victims: int = 3
    steps: int = 300
    restarts: int = 2
    curve: tuple[int, ...] = (4, 8, 16, 32)
    seed: int = 0


QUICK = Exposure(victims=1, steps=200, restarts=1, curve=(4, 16))


def portraits() -> Dataset:
    """The faces among scikit-image's `lfw_subset`, one class of two, for one face to a device."""
    everything = faces()
    kept = [Examples(half.x[half.y == FACE], half.y[half.y == FACE])
            for half in (everything.train, everything.test)]  # fmt: skip
    return Dataset(
        "portraits",
        kept[0],
        kept[1],
        everything.classes,
        everything.shape,
        class_names=everything.class_names,
        source=everything.source,
    )


def settings_for(model: str, devices: int, protocol: str, seed: int) -> Settings:
    """One round of one full-batch step on one portrait per device: what gradient inversion is
    usually shown on, and the worst case for the devices."""
    return Settings().changed(
        [
            'data.name="tacit.app.leakage:portraits"',
            'data.partition="iid"',
            f"data.devices={devices}",
            "data.limit=1",
            "data.min_examples=1",
            "data.hold_out=0.0",
            f'model.name="{model}"',
            "train.epochs=1",
            "train.batch_size=0",
            "run.rounds=1",
            f"run.seed={seed}",
            "strategy.fraction_evaluate=0.0",
            f'secure.protocol="{protocol}"',
            # One example a device: room for larger weights would only cost precision.
            "secure.max_weight=1.0",
            # And a coarse grid blurs what a read-out divides by: no defence, yet it would look it.
            "secure.precision=28",
        ]
    )


def expose(plan: Exposure, on_step: OnStep | None = None) -> Iterator[Outcome]:
    """Run every attack of the plan; outcomes as they come, plain before secure.

    `on_step(what, done, total)` hears how far the running attack is.
    """
    for attack in (_inversion, _readout):
        model = "mlp" if attack is _readout else "smooth-cnn"
        for protocol in ("plain", "pairwise"):
            settings = settings_for(model, plan.devices, protocol, plan.seed)
            held = material(settings.data, settings.run.seed)
            inbox: list[Seen] = []
            simulate(settings, tap=inbox.append)
            inbox.sort(key=lambda seen: seen.members)
            for seen in inbox[: plan.victims]:
                devices = [member - FIRST_NODE_ID for member in seen.members]
                chosen = attack(held, plan, protocol, on_step)
                yield _attacked(chosen, seen, held, devices, plan.seed)


def curve(plan: Exposure, on_step: OnStep | None = None) -> Iterator[Outcome]:
    """The read-out against secure sums of growing size: the attack that is exact on one device."""
    for done, devices in enumerate(plan.curve):
        settings = settings_for("mlp", devices, "pairwise", plan.seed)
        held = material(settings.data, settings.run.seed)
        inbox: list[Seen] = []
        simulate(settings, tap=inbox.append)
        attack = _readout(held, plan, "pairwise", None)
        for seen in inbox:
            yield _attacked(attack, seen, held, range(devices), plan.seed)
        if on_step is not None:
            on_step("sums of growing size", done + 1, len(plan.curve))


def _attacked(
    attack: Attack, seen: Seen, held: Material, devices: Sequence[int], seed: int
) -> Outcome:
    """Attack one update. What the truth is, only the scorer is told."""
    truth = np.concatenate([held.examples(device).x for device in devices])
    labels = np.concatenate([held.examples(device).y for device in devices])
    knows = Knows.LABELS | Knows.BATCH_SIZE
    view = view_of(seen, knows=knows, labels=labels, batch_size=len(truth))
    everyone = held.dataset.train.x
    return evaluate(
        attack, view, truth, everyone, np.random.default_rng(seed), public=_unused(held, everyone)
    )


def _unused(held: Material, everyone: NDArray[np.float32]) -> NDArray[np.float32]:
    """Portraits that no device holds: what an adversary may know of faces in general."""
    used = {index for share in held.shares for index in share}
    return everyone[[index for index in range(len(everyone)) if index not in used]]


def _readout(held: Material, plan: Exposure, protocol: str, on_step: OnStep | None) -> Attack:
    return LinearReadout("fc0", held.dataset.shape)


def _inversion(held: Material, plan: Exposure, protocol: str, on_step: OnStep | None) -> Attack:
    dataset = held.dataset
    report = None if on_step is None else partial(on_step, f"inverting gradients, {protocol}")
    return InvertingGradients(
        partial(smooth_cnn, dataset.shape, dataset.classes),
        dataset.shape,
        steps=plan.steps,
        restarts=plan.restarts,  # as many against the sum: it is the same attack
        on_step=report,
    )
