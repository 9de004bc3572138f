"""Who this device is: its number, identity, the authority it trusts, and its vault."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from flwr.app import Context

from tacit.client.policy import Policy
from tacit.client.vault import ContextVault, FileVault, Vault
from tacit.crypto.errors import ParameterError
from tacit.crypto.identity import KEY_BYTES, Identity
from tacit.crypto.simulated import simulated_authority, simulated_identity
from tacit.crypto.wire import Reader, Writer

SIMULATION = "TACIT_SIMULATION"
_SLOT = "device"
_POLICY_SLOT = "policy"


@dataclass(frozen=True, slots=True)
class Device:
    """`number` is its place on the roster; `authority` the public key it pins.

    `policy` is what the owner wrote into the vault. It holds beside the policy of the app, since
    the app may come from whoever submits a run; the stricter of the two decides.
    """

    number: int
    identity: Identity
    authority: bytes
    vault: Vault = field(repr=False)
    policy: Policy | None = None


DeviceOf: TypeAlias = Callable[[Context], Device]


def simulated_device(context: Context) -> Device:
    """Device partition-id + 1 of a simulated federation. Its identity is public: see
    `tacit.crypto.simulated`."""
    partition = context.node_config.get("partition-id")
    if not isinstance(partition, int):
        raise ParameterError("a simulated device needs `partition-id` in its node config")
    number = partition + 1
    vault = ContextVault(context.state)
    return Device(number, simulated_identity(number), simulated_authority(), vault)


def is_deployed(context: Context) -> bool:
    """Whether this node is somebody's device, with a vault of its own."""
    return isinstance(context.node_config.get("vault"), str)


def enrolled_device(context: Context) -> Device:
    """The device whose vault its node names: that of `tacit device run`, or Flower's SuperNode with
    `--node-config 'vault="/path"'`.

    In an environment with TACIT_SIMULATION=1 a node without a vault is a simulated device. The
    environment is the owner's, so a server cannot ask for that.
    """
    folder = context.node_config.get("vault")
    if isinstance(folder, str):
        return load_device(FileVault.open(Path(folder)))
    if os.environ.get(SIMULATION) == "1":
        return simulated_device(context)
    raise ParameterError(
        "this device has no vault: start its node by tacit device run VAULT, or Flower's SuperNode "
        f"with --node-config 'vault=\"/path\"', or set {SIMULATION}=1 to simulate"
    )


def save_device(
    vault: Vault, number: int, identity: Identity, authority: bytes, policy: Policy | None = None
) -> None:
    """Write who this device is into its vault; `load_device` reads it back."""
    writer = Writer().u64(number).fixed(identity.secret, KEY_BYTES).fixed(authority, KEY_BYTES)
    save_policy(vault, policy or Policy())
    vault.write(_SLOT, writer.data())


def save_policy(vault: Vault, policy: Policy) -> None:
    """Write what the owner agrees to into the vault, in place of what was there."""
    vault.write(_POLICY_SLOT, json.dumps(asdict(policy)).encode())


def is_enrolled(vault: Vault) -> bool:
    """Whether the vault holds a device, which `load_device` then reads."""
    return vault.read(_SLOT) is not None


def load_device(vault: Vault) -> Device:
    """Raises ParameterError if the vault holds no device, or one this version cannot read."""
    return replace(load_identity(vault), policy=load_policy(vault))


def load_identity(vault: Vault) -> Device:
    """As `load_device`, but for the owner's policy: who it is, not what it may do."""
    if (data := vault.read(_SLOT)) is None:
        raise ParameterError("this vault holds no device: enrol it first")
    reader = Reader(data, sender=0, stage="vault")
    number, secret, authority = reader.u64(), reader.fixed(KEY_BYTES), reader.fixed(KEY_BYTES)
    reader.end()
    return Device(number, Identity(secret), authority, vault)


def load_policy(vault: Vault) -> Policy:
    """Raises ParameterError if the vault holds no policy, or one this version cannot read."""
    if (data := vault.read(_POLICY_SLOT)) is None:
        raise ParameterError("this vault holds no policy: enrol the device first")
    try:
        agreed = Policy(**json.loads(data))
        return replace(agreed, models=tuple(agreed.models))  # JSON has no tuples
    except (TypeError, ValueError) as bad:
        raise ParameterError(f"the policy in this vault cannot be read: {bad}") from None
