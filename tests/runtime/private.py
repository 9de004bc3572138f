"""A server played by hand that asks for private sums, and what they cost a device."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict

from tacit.client import budget
from tacit.client.device import Device, simulated_device
from tacit.client.pipeline import PRIVACY
from tacit.client.policy import Policy
from tacit.client.vault import FileVault, Vault
from tacit.crypto.secagg.noised import Noised
from tacit.crypto.secagg.session import Purpose, Session
from tacit.crypto.vector import Layout
from tacit.privacy.accountants import Adversary, compose
from tacit.privacy.charges import releases_of
from tacit.privacy.mechanisms import choose
from tacit.privacy.releases import Neighbours, Release, Source, Unit, Use
from tests.privacy.records import SKELLAM
from tests.runtime import linear
from tests.runtime.desk import Desk
from tests.runtime.linear import TrainReply

DEVICES = 6
SIZE = Layout.of(linear.arrays_of(linear.initial())).size
DELTA = 1e-5


def noised(**changed: Any) -> Noised:
    """Of a sum over six devices: one may be missing, and two are corrupt."""
    base = {"length": SIZE, "clients": 6, "dropouts": 1, "corrupt": 2, "clip": 1.0, "noise": 1.0}
    return choose(**(base | changed)).agreed


def policy(epsilon: float | None, **changed: Any) -> Policy:
    return Policy(epsilon=epsilon, delta=DELTA, lattice=True, **changed)


class PrivateDesk(Desk):
    """A desk whose sessions for training are private; `noise` says how, None: they are not."""

    def __init__(self, epsilon: float | None = 100.0, **more: Any) -> None:
        super().__init__(DEVICES, **{"policy": policy(epsilon), **more})
        self.enrol()

    def session(  # type: ignore[override]
        self, round: int = 1, purpose: Purpose = Purpose.TRAIN, **changes: Any
    ) -> Session:
        """`codec=None` is a session without noise."""
        if changes.get("codec", True) is None or purpose is Purpose.EVALUATE:
            changes.pop("codec", None)
        else:
            changes = {"codec": noised(), **changes}
        return super().session(round, purpose, **changes)

    def vault(self, device: int = 1) -> Vault:
        return self.app._device_of(self.contexts[device]).vault

    def spent(self, device: int = 1, unit: Unit = Unit.CLIENT) -> float:
        """Epsilon, against the server."""
        return budget.ledger_of(self.vault(device), policy(None), unit).epsilon(budget.OURS, DELTA)


def cost(sums: int = 1, survivors: int = 5, counted: int = 2, **changed: Any) -> float:
    """Epsilon of so many sums for a device that counts so many survivors, and so many corrupt."""
    once = releases_of(noised(**changed), 1, 1, survivors, counted)
    return compose(once * sums, Adversary.SERVER).epsilon(DELTA)


def own(**changed: Any) -> Release:
    """Noise of a train function's own."""
    fields: dict[str, Any] = {
        "unit": Unit.RECORD,
        "neighbours": Neighbours.ADD_OR_REMOVE,
        "source": Source.OWN,
        "use": Use.TRAIN,
        "run": 1,
        "round": 1,
        "cohort": 1,
        "survivors": 1,
        "is_count_hidden": True,
    }
    return Release(**({"mechanism": SKELLAM} | fields | changed))


def stating(reply: TrainReply = linear.train_reply, **fields: Any) -> TrainReply:
    """A train function that says something of its update."""

    def train(message: Message, context: Context) -> RecordDict:
        content = reply(message, context)
        content[PRIVACY] = ConfigRecord(fields)
        return content

    return train


def filed(folder: Path, owner: Policy | None = None) -> Callable[[Context], Device]:
    """Devices whose vaults are folders, as deployed ones are."""

    def device_of(context: Context) -> Device:
        device = simulated_device(context)
        path = folder / str(device.number)
        vault = FileVault.open(path) if path.exists() else FileVault.create(path, os.urandom(32))
        return replace(device, vault=vault, policy=owner)

    return device_of
