"""Servers that slip a layer into the model, to read single inputs out of the sum.

Each device has one digit. A server has what it is not to have when it reads each of them, that is
alone in its bin, out of an opened sum: see `tacit.simulations.attacks.imprint`.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
from flwr.app import Context, Message, MetricRecord, RecordDict

from tacit.client.device import Device, simulated_device
from tacit.client.policy import Policy
from tacit.client.torch_trainer import TorchTrainer
from tacit.client.trainer import Examples, LocalPlan
from tacit.crypto.errors import TacitError
from tacit.crypto.vector import Layout
from tacit.server.inbox import Seen
from tacit.server.pairwise import Pairwise
from tacit.simulations.attacks.base import view_of
from tacit.simulations.attacks.imprint import ImprintReadout
from tests.hostile.attack import Attack, nothing, replaced, trial, trials
from tests.hostile.crowd import Crowd
from tests.planted import SHAPE, bins, digits, slipped_in, wide
from tests.runtime import linear

DEVICES = 5
PLAN = LocalPlan(epochs=1, batch_size=0, learning_rate=0.1)
FINE = Pairwise(precision=40, max_weight=1.0)
PLANTED = TorchTrainer(partial(slipped_in, SHAPE, 10))


@cache
def structure(trainer: TorchTrainer) -> str:
    return Layout.of(trainer.initial(0)).fingerprint


OWN = TorchTrainer(partial(wide, SHAPE, 10))
AGREED = structure(OWN)


def own(partition: int) -> Examples:
    held = digits().train
    return Examples(held.x[partition : partition + 1], held.y[partition : partition + 1])


def train(message: Message, context: Context, architecture: TorchTrainer = PLANTED) -> RecordDict:
    """As an app does that has the server's architecture: what it is sent it trains."""
    model = linear.arrays_of(message.content.array_records["arrays"])
    trained, _ = architecture.fit(model, own(int(context.node_config["partition-id"])), PLAN)
    return RecordDict(
        {"arrays": linear.record(trained), "metrics": MetricRecord({"num-examples": 1})}
    )


def robs(policy: Policy, vault: Policy | None = None) -> Callable[[], bool]:
    """`policy` is the app's, `vault` the owner's."""

    def device_of(context: Context) -> Device:
        return replace(simulated_device(context), policy=vault)

    def run() -> bool:
        crowd = Crowd(DEVICES, policy=policy, protocol=FINE, train=train, device_of=device_of)
        model = PLANTED.initial(0)
        crowd.model = linear.record(model)
        mean = crowd.sum(crowd.session())
        update = Layout.of(model).split(mean.update)
        view = view_of(Seen(1, model, update, DEVICES, mean.weight, "pairwise"))
        found = ImprintReadout("imprint", SHAPE).reconstruct(view, np.random.default_rng(0))
        truth = np.concatenate([own(partition).x for partition in range(DEVICES)])
        assert bins().alone(truth).all()
        off = ((found[:, None] - truth) ** 2).mean((2, 3, 4)).min(0)
        return bool((off < 1e-6).all())  # 60 dB

    return run


SLIPPED_IN: dict[str, Attack] = {
    "a layer slipped in": Attack(
        robs(Policy(models=(AGREED,))),
        replaced(Policy, "check_model", nothing),
        r"another structure than this device's owner allows.*policy\.models",
    ),
    "the vault's list against an app of the server's": Attack(
        robs(Policy(), Policy(models=(AGREED,))),
        replaced(Policy, "_models", lambda app, owner: app.models),
        r"another structure than this device's owner allows.*policy\.models",
    ),
    "an app that lists what the owner does not": Attack(
        robs(Policy(models=(structure(PLANTED),)), Policy(models=(AGREED,))),
        # What an intersection alone would do: nothing in common is an empty list, and that is any.
        replaced(Policy, "_models", lambda app, owner: tuple({*app.models} & {*owner.models})),
        r"no model that this device's owner allows",
    ),
}


@trials(SLIPPED_IN)
def test_a_server_slips_a_layer_in(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial(attack, defended, monkeypatch)


def test_an_app_with_an_architecture_of_its_own_does_not_load_it() -> None:
    """No owner has to list models for that: it is why the list is empty by default."""
    crowd = Crowd(DEVICES, protocol=FINE, train=partial(train, architecture=OWN))
    crowd.model = linear.record(PLANTED.initial(0))
    session = crowd.session()
    for device in crowd.contexts:
        with pytest.raises(TacitError, match="ParameterError in the device's train function"):
            crowd.report(device, session)
    crowd.model = linear.record(OWN.initial(0))
    crowd.sum(crowd.session(2))
