"""The ready-made Flower ClientApp: trains the configured model on the device's own data.

`flwr run` and a SuperNode load `tacit.app.client:app`. What a deployed device agrees to stands in
its vault, not here and not in the run's configuration: a server could write either.
"""

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)

from tacit.app.config import Settings
from tacit.app.marking import signature_for
from tacit.app.material import descending, device_data, signing, trainer_for
from tacit.client.app import SecureClientApp
from tacit.client.device import DeviceOf, enrolled_device
from tacit.client.pipeline import PRIVACY
from tacit.client.policy import Policy
from tacit.client.private_trainer import PrivatePlan, gradient_update, private_fit, reach
from tacit.client.trainer import Arrays, Examples, LocalPlan
from tacit.crypto.errors import ParameterError
from tacit.crypto.identity import KEY_BYTES
from tacit.server.private import OnDevice

WEIGHT = "num-examples"


def register(app: SecureClientApp) -> SecureClientApp:
    """Give `app` the configured training and evaluation, and return it."""
    app.train()(_train)
    app.evaluate()(_evaluate)
    return app


def make_app(
    policy: Policy | None = None, device_of: DeviceOf = enrolled_device
) -> SecureClientApp:
    """A ClientApp that trains what the run configuration names."""
    return register(SecureClientApp(policy, device_of))


def settings_of(context: Context) -> Settings:
    """The settings in a context's run configuration, parsed once per process."""
    return _parsed(tuple(sorted(context.run_config.items())))


def _train(message: Message, context: Context) -> Message:
    settings = settings_of(context)
    trainer = trainer_for(settings.model, settings.data, settings.run.seed)
    device, (examples, _) = _own(settings, context)
    config: Mapping[str, Any] = next(iter(message.content.config_records.values()), {})
    plan = settings.train.plan(
        seed=_seed(settings.run.seed, device, config), proximal_mu=_number(config, "proximal-mu")
    )
    if settings.private is not None and settings.privacy.unit == "record":
        round_ = int(_number(config, "server-round"))
        content = _private(settings, _model(message), examples, plan, context.run_id, round_)
        return Message(content, reply_to=message)
    model = _model(message)
    signature = signature_for(settings, context, model)
    if signature is None:
        trained, loss = trainer.fit(model, examples, plan)
    else:
        trained, loss = signing(trainer).fit_signed(model, examples, plan, signature)
    arrays = ArrayRecord({name: Array(array) for name, array in trained.items()})
    metrics = MetricRecord({"loss": loss, WEIGHT: len(examples)})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def _private(
    settings: Settings, model: Arrays, examples: Examples, plan: LocalPlan, run: int, round_: int
) -> RecordDict:
    """Training that protects each example: steps of DP-SGD with noise of their own, or a clipped
    sum of gradients, for which the sum over devices has it. No metrics: they have none."""
    privacy, private = settings.privacy, settings.private
    trainer = descending(trainer_for(settings.model, settings.data, settings.run.seed))
    rand = os.urandom(KEY_BYTES)
    if isinstance(private, OnDevice):
        dp_sgd = PrivatePlan(
            private.steps, private.rate, privacy.batch, private.clip, private.noise
        )
        fit = private_fit(trainer, model, examples, plan, dp_sgd, run=run, round_=round_, rand=rand)
        arrays = fit.model
        stated = ConfigRecord({"releases": [each.encode() for each in fit.releases]})
    else:
        factor = privacy.factor(plan.learning_rate)
        arrays = gradient_update(
            trainer,
            model,
            examples,
            rate=privacy.draw,
            clip=privacy.clip,
            factor=factor,
            seed=plan.seed,
            rand=rand,
        )
        stated = ConfigRecord({"clip": reach(privacy.clip, factor), "is_update": True})
    return RecordDict(
        {
            "arrays": ArrayRecord({name: Array(array) for name, array in arrays.items()}),
            "metrics": MetricRecord({WEIGHT: 1}),
            PRIVACY: stated,
        }
    )


def _evaluate(message: Message, context: Context) -> Message:
    settings = settings_of(context)
    trainer = trainer_for(settings.model, settings.data, settings.run.seed)
    _, (_, held) = _own(settings, context)
    if not len(held):
        raise ParameterError("no examples are held out on this device: raise data.hold_out")
    loss, accuracy = trainer.evaluate(_model(message), held)
    metrics = MetricRecord({"loss": loss, "accuracy": accuracy, WEIGHT: len(held)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def _own(settings: Settings, context: Context) -> tuple[int, tuple[Examples, Examples]]:
    """This device's partition, and its examples."""
    device = context.node_config.get("partition-id")
    if not isinstance(device, int):
        raise ParameterError("no partition-id in this device's node config: it has no data")
    return device, device_data(settings.data, settings.run.seed, device)


def _model(message: Message) -> Arrays:
    record = next(iter(message.content.array_records.values()))
    return {name: array.numpy() for name, array in record.items()}


def _seed(seed: int, device: int, config: Mapping[str, Any]) -> int:
    """Another order of batches on every device in every round, the same in every run."""
    round_ = config.get("server-round", 0)
    return (seed * 1_000_003 + device * 10_007 + int(round_)) % 2**32


def _number(config: Mapping[str, Any], key: str) -> float:
    value = config.get(key, 0.0)
    return float(value) if isinstance(value, int | float) else 0.0


@lru_cache(maxsize=8)
def _parsed(items: tuple[tuple[str, Any], ...]) -> Settings:
    return Settings.from_flat(dict(items))


app = make_app()
