"""A federation some of whose devices are hostile: real devices, but for what they train.

Which of them are is no secret of the protocol's, and the server never learns it. A hostile device
enrols, masks and opens as all do; it has a policy of its own, as every owner has.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict

from tacit.client.app import SecureClientApp
from tacit.client.device import Device, simulated_device
from tacit.client.policy import Policy
from tacit.client.trainer import Examples, LocalPlan, Trainer
from tacit.crypto.vector import Layout
from tacit.simulations.attacks.poisoning import Poison, moved
from tacit.simulations.oracle import Trained

WEIGHT = "num-examples"


@dataclass(frozen=True, slots=True)
class Saboteurs:
    """Device p holds `shares[p]`; those in `hostile`, by partition, do what that says in the place
    of training.

    `policy` is the honest owners'. `reach`, if given, is an L2 norm that honest devices clip their
    updates to before they answer in the clear, where no policy's max_norm does it. `note` is told
    each update, which is the truth that a scorer needs: see `tacit.simulations.oracle`.
    """

    trainer: Trainer
    plan: LocalPlan
    shares: tuple[Examples, ...] = field(repr=False)
    hostile: Mapping[int, Poison] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)
    reach: float | None = None
    note: Trained | None = None

    def app(self) -> SecureClientApp:
        """The devices' app."""
        app = SecureClientApp(None, self._device)
        app.train()(self._train)
        return app

    def _device(self, context: Context) -> Device:
        device = simulated_device(context)
        is_hostile = device.number - 1 in self.hostile
        # Its owner has no use for a bound on what it sends.
        return replace(
            device, policy=replace(self.policy, max_norm=None) if is_hostile else self.policy
        )

    def _train(self, message: Message, context: Context) -> Message:
        partition = simulated_device(context).number - 1
        number = int(str(message.content.config_records["config"]["server-round"]))
        model = {k: a.numpy() for k, a in message.content.array_records["arrays"].items()}
        examples = self.shares[partition]
        plan = replace(self.plan, seed=self.plan.seed + 1000 * number + partition)
        if partition in self.hostile:
            trained = self.hostile[partition].trained(self.trainer, model, examples, plan)
        else:
            trained, _ = self.trainer.fit(model, examples, plan)
            if self.reach is not None:
                trained = moved(model, trained, 1.0, np.inf, self.reach)
        if self.note is not None:
            self.note(number, context.node_id, Layout.of(model).difference(trained, model).whole())
        arrays = ArrayRecord({name: Array(array) for name, array in trained.items()})
        metrics = MetricRecord({WEIGHT: len(examples)})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
