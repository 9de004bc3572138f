"""Poisoning: a few devices that take part, and answer with updates that serve an end of their own.

They run the protocol as it stands, so a secure sum hides theirs like any other update. Two ends:

- **A backdoor by model replacement** (Bagdasaryan, Veit, Hua, Estrin and Shmatikov 2020, "How To
  Backdoor Federated Learning", AISTATS, arXiv:1807.00459, model replacement). The device trains
  on its own examples, some of them under a trigger and with the attacker's label, and so gets a
  model X that does what all want and what it wants. With G the model that it was given, it sends
  gamma (X - G) + G. If k of n devices do so with gamma = n / k, the average is about X, as the
  others' updates nearly cancel. It works best when the model hardly moves any more.
- **A sign flip**: the update of honest training, turned around and made larger. It is after nothing
  but harm, and a usual test of rules that are to stand up to hostile devices.

What a device knows: the model that it is sent, its own examples, how all are asked to train, how
many take part, and what would be refused: a coordinate beyond `bound`, and where it is enforced, an
update's norm. It sees no other device's update and no test set, and whether it succeeded it never
learns.

**What stops it.** Not a secure sum, and not a bound that devices keep to by themselves. A rule that
sees single updates, or the sums of many groups (`tacit.strategies.robust`), as long as fewer than
half of what it sees is spoilt. A bound that is enforced makes the attack slower.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tacit.client.trainer import Arrays, Examples, LocalPlan, Trainer
from tacit.crypto.errors import ParameterError
from tacit.crypto.vector import Layout
from tacit.privacy.clip import clip
from tacit.simulations.data.dataset import take

BOUND = 7.9  # within `SecureSum.bound`, 8 by default, in the arrays' own precision too
_STREAM = 0x7472  # of a device's draw of examples, apart from the order of its batches


class Poison(Protocol):
    """What a hostile device does in the place of training."""

    @property
    def name(self) -> str: ...

    def trained(
        self, trainer: Trainer, model: Arrays, examples: Examples, plan: LocalPlan
    ) -> Arrays:
        """The arrays that it answers with, to `model`. Deterministic in its arguments."""
        ...


@dataclass(frozen=True, slots=True)
class Trigger:
    """What makes a backdoored model say `label`: a bright square of `side` pixels in the lower
    right corner of a picture (channels, height, width), 1.0 in all channels."""

    label: int = 0
    side: int = 3

    def stamp(self, examples: Examples) -> Examples:
        """The same pictures with the trigger, under the attacker's label. Raises ParameterError for
        what is no picture, or is no larger than the trigger."""
        if examples.x.ndim != 4 or min(examples.x.shape[2:]) <= self.side:
            raise ParameterError(
                f"a trigger of {self.side} by {self.side} pixels on examples of shape "
                f"{examples.x.shape[1:]}: it takes larger pictures"
            )
        x = examples.x.copy()
        x[:, :, -self.side :, -self.side :] = 1.0
        return Examples(x, np.full(len(examples), self.label, np.int64))

    def asked(self, test: Examples) -> Examples:
        """What the share of success is taken over: pictures of the other classes, stamped. The
        share is then a model's accuracy on them."""
        return self.stamp(take(test, np.flatnonzero(test.y != self.label)))


@dataclass(frozen=True, slots=True)
class Backdoor:
    """Model replacement. `boost` is gamma; `share` of the device's examples get the trigger, beside
    all of them without; `epochs` passes in the place of the plan's: the attacker trains as long as
    it likes. `bound` and `reach` are what an update is kept within: see `moved`.
    """

    trigger: Trigger = Trigger()
    boost: float = 1.0
    share: float = 0.5
    epochs: int = 10
    bound: float = BOUND
    reach: float | None = None
    name: str = "backdoor by model replacement"

    def trained(
        self, trainer: Trainer, model: Arrays, examples: Examples, plan: LocalPlan
    ) -> Arrays:
        order = np.random.default_rng([plan.seed, _STREAM]).permutation(len(examples))
        count = round(self.share * len(examples))
        stamped = self.trigger.stamp(take(examples, order[:count]))
        mixed = Examples(
            np.concatenate([stamped.x, examples.x]), np.concatenate([stamped.y, examples.y])
        )
        own = LocalPlan(
            self.epochs, plan.batch_size, plan.learning_rate, plan.momentum, seed=plan.seed
        )
        trained, _ = trainer.fit(model, mixed, own)
        return moved(model, trained, self.boost, self.bound, self.reach)


@dataclass(frozen=True, slots=True)
class SignFlip:
    """The honest update times minus `boost`, kept within `bound` and `reach`: see `moved`."""

    boost: float = 10.0
    bound: float = BOUND
    reach: float | None = None
    name: str = "sign flip"

    def trained(
        self, trainer: Trainer, model: Arrays, examples: Examples, plan: LocalPlan
    ) -> Arrays:
        trained, _ = trainer.fit(model, examples, plan)
        return moved(model, trained, -self.boost, self.bound, self.reach)


def moved(
    model: Arrays, trained: Arrays, times: float, bound: float, reach: float | None
) -> Arrays:
    """`model` plus `times` what training moved it by, with each coordinate of that at most `bound`
    in size, and its L2 norm at most `reach`, if that is given."""
    layout = Layout.of(model)
    update = np.clip(times * layout.difference(trained, model).whole(), -bound, bound)
    parts = layout.split(update if reach is None else clip(update, reach))
    return {name: np.asarray(array + parts[name], array.dtype) for name, array in model.items()}
