"""Devices whose inputs can be told apart in any sum, behind a server played by hand.

Device d adds the d-th unit vector, with the largest weight there is. So every opened sum says who
is in it and how often, exactly: shares of weight are 1, and 1 is on the codec's grid.
"""

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict

import tacit.client.app
from tacit.client import rounds
from tacit.client.policy import Policy
from tacit.crypto.secagg.client import Enrolled
from tacit.crypto.secagg.session import Session
from tacit.server.flower import copy_records
from tacit.server.pairwise import Pairwise, SecureSum
from tests.crypto.federation import Counted
from tests.hostile.adversary import Adversary, Near
from tests.hostile.kinds import current
from tests.runtime import linear
from tests.runtime.desk import RUN, Desk, stage

WEIGHT = 10_000
SILENT = -1.0  # a model that begins with this has every device send zeros


def unit(message: Message, context: Context) -> RecordDict:
    """The d-th unit vector, for as long as model and settings let training have any effect."""
    model = linear.arrays_of(message.content.array_records["arrays"])
    config = next(iter(message.content.config_records.values()), {})
    partition = int(context.node_config["partition-id"])
    moved = model["w"].copy()
    if model["w"][0] != SILENT and "silent" not in config and "silent" not in context.run_config:
        moved[partition] += 1
    metrics = MetricRecord({linear.WEIGHT: WEIGHT, "loss": 1.0 + partition})
    return RecordDict({"arrays": linear.record({"w": moved}), "metrics": metrics})


class Crowd(Desk):
    """Enrolled devices 1..n, and a server that keeps all it hears. `corrupt` ones are its own.

    Sums are of the current kind, with the settings of `protocol`.
    """

    def __init__(
        self,
        devices: int = 5,
        *,
        policy: Policy | None = None,
        protocol: SecureSum | None = None,
        corrupt: Iterable[int] = (),
        **more: Any,
    ) -> None:
        super().__init__(
            devices,
            policy=current().joined(policy),
            protocol=current().sum(protocol or Pairwise()),
            **{"train": unit, **more},
        )
        self.model = linear.record({"w": np.zeros(devices)})
        self.settings: dict[str, Any] = {}  # beside the round, in every configuration
        self.adversary = Adversary()
        self.enrol()
        if self.protocol.hybrid:
            self.exchange()
        for device in corrupt:
            self.corrupt(device)

    def config(self, round: int) -> dict[str, Any]:
        return {"server-round": round, **self.settings}

    def silence(self) -> None:
        """From here on a model that every device answers with zeros."""
        shape = linear.arrays_of(self.model)["w"].shape
        self.model = linear.record({"w": np.full(shape, SILENT)})

    def secrets(self, device: int) -> Enrolled:
        """The keys of a device, of this run."""
        state = rounds.run_state(self.app._device_of(self.contexts[device]).vault, RUN)
        assert state is not None
        return state

    def corrupt(self, device: int) -> None:
        """From here on a device colludes: it hands over its keys, and all its secrets with them."""
        kept = rounds._kem(self.app._device_of(self.contexts[device]).vault)
        kem = {party: secret for party, (_, secret) in kept.items()}
        self.adversary.corrupt(self.secrets(device), kem)

    def heard(self, session: Session, devices: Iterable[int] | None = None) -> None:
        """Have devices report, and keep what they send."""
        for device in session.devices if devices is None else devices:
            self.adversary.reported(session, self.report(device, session))

    def signed(
        self,
        session: Session,
        survivors: Sequence[int],
        members: Iterable[int] | None = None,
        near: Near | None = None,
    ) -> None:
        """Ask members about a set of survivors. Corrupt ones sign whatever they are asked to."""
        for member in session.committee if members is None else members:
            if member in self.adversary.secrets:
                self.adversary.sign(session, survivors, member)
            else:
                ask = self.adversary.ask(session, survivors, member, near)
                self.adversary.attested(session, member, ask, self.attest(member, ask, session))

    def opened_by(
        self, session: Session, survivors: Sequence[int], members: Iterable[int] | None = None
    ) -> None:
        """Show members the signatures on a set of survivors, and keep the shares they open."""
        request = self.adversary.proof(session, survivors)
        for member in session.committee if members is None else members:
            if member not in self.adversary.secrets:
                self.adversary.revealed(member, self.reveal(member, request))

    def opens(
        self,
        session: Session,
        survivors: Sequence[int],
        members: Iterable[int] | None = None,
        near: Near | None = None,
    ) -> None:
        """Attest and reveal, with the same members."""
        asked = list(session.committee if members is None else members)
        self.signed(session, survivors, asked, near)
        self.opened_by(session, survivors, asked)

    def restart(self, device: int) -> None:
        """A new process: all that is left of the device is what its vault holds."""
        before = self.contexts[device]
        state = copy_records(before.state)
        self.contexts[device] = Context(
            RUN, before.node_id, before.node_config, state, before.run_config
        )

    def running(self, device: int) -> bool:
        """Whether the device holds the state of a sum."""
        return self.app._device_of(self.contexts[device]).vault.read("session") is not None

    def raw_request(self, encoded: bytes, round: int) -> RecordDict:
        """The message of stage report with any bytes for a session."""
        ours = stage(session=encoded, weight_key=linear.WEIGHT)
        return RecordDict(
            {"arrays": self.model, "config": ConfigRecord(self.config(round)), **ours}
        )


def count_randomness(patch: pytest.MonkeyPatch, seed: bytes = b"tacit") -> None:
    """Devices draw counted bytes: a test that hangs on luck has the same luck each time."""
    patch.setattr(tacit.client.app, "os", SimpleNamespace(urandom=Counted(seed)))
