"""A server that sends one device another model than all others, and so reads it by itself.

Model inconsistency: Pasquini, Francati and Ateniese 2022, "Eluding Secure Aggregation in Federated
Learning via Model Inconsistency" (CCS, arXiv:2111.07380), gradient suppression. The victim gets the
model. All others get it with a layer whose ReLU never passes anything on, and the gradient of a
dead layer is 0: so the sum is the victim's update, however many devices hide it. It does not
matter how well they do: an ideal sum gives the same.

What the dead layer feeds still learns (the bias of the last layer does): only the dead one, and
what is before it, is the victim's alone. Weight decay would move it too: a server that chooses the
training settings leaves it out.

**What stops it.** A secure sum whose session names the model: the device compares, and refuses. A
server that gives each device a session that fits its model has masks that do not cancel
(`tests/hostile/test_sessions.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.server.inbox import Arrays
from tacit.simulations.attacks.base import Conduct, Knows, Target, View, array_of, require
from tacit.simulations.attacks.linear import LinearReadout
from tacit.simulations.hostile import Sent

Floats = NDArray[np.float64]


def deadened(model: Arrays, layer: str) -> dict[str, NDArray[Any]]:
    """`model` with a `layer` that is -1 for any input, so that nothing passes the ReLU after it.

    Raises ParameterError if there is no such layer.
    """
    dead = dict(model)
    for name, value in ((f"{layer}.weight", 0.0), (f"{layer}.bias", -1.0)):
        array_of(model, name, "model")
        dead[name] = np.full_like(model[name], value)
    return dead


@dataclass(frozen=True, slots=True)
class Inconsistency:
    """Singles out the node that is `victim`-th in order, and reads its inputs off `layer`.

    `layer` is the first, linear, with ReLU after it. `low`, `high` and `tolerance` are as in
    `LinearReadout`, which reads what is left of the sum.
    """

    layer: str
    shape: tuple[int, ...]
    victim: int = 0
    low: float = 0.0
    high: float = 1.0
    tolerance: float = 1e-3
    name: str = "model inconsistency"
    needs: Knows = Knows.NOTHING
    conduct: Conduct = Conduct.MALICIOUS
    target: Target = Target.INPUTS

    def send(
        self,
        model: Arrays,
        members: Sequence[int],
        public: NDArray[Any] | None,
        rng: np.random.Generator,
    ) -> Sent:
        """The model for the victim, and a dead one for all others.

        Raises ParameterError if there is no such device, or no such layer.
        """
        if not 0 <= self.victim < len(members):
            raise ParameterError(f"victim={self.victim} of {len(members)} devices")
        dead = deadened(model, self.layer)
        victim = members[self.victim]
        return Sent(model, {node: dead for node in members if node != victim})

    def reconstruct(self, view: View, rng: np.random.Generator) -> Floats:
        """The victim's inputs, as `LinearReadout` finds them; as many as are one device's share.

        Draws nothing from `rng`. Raises ParameterError as `LinearReadout` does.
        """
        require(view, self.needs, self.name)
        share = max(1, round(view.inputs / view.clients))
        reader = LinearReadout(
            self.layer, self.shape, self.low, self.high, self.tolerance, name=self.name
        )
        # The mean is the victim's update over so many devices, which a quotient does not show.
        return reader.reconstruct(view, rng)[:share]
