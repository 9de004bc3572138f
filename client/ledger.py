"""What a device has spent on what it sent in the clear, over its whole life."""

from tacit.client.policy import Policy
from tacit.client.vault import Vault
from tacit.crypto.secagg.clear import Clear
from tacit.privacy.clear import cost
from tacit.privacy.zcdp import Spent

_SLOT = "cleared"


def spent(vault: Vault) -> Spent:
    """All so far, in whichever run and for whichever server."""
    data = vault.read(_SLOT)
    return Spent() if data is None else Spent.decode(data)


def spend(vault: Vault, clear: Clear, policy: Policy) -> None:
    """Count one release, durably, before it leaves the device.

    Raises as `Policy.check_clear`, and then nothing is counted. Of two processes at once, one waits
    and sees what the other has spent.
    """
    with vault.alone():
        before = spent(vault)
        policy.check_clear(clear, before)
        vault.write(_SLOT, (before + cost(clear)).encode())
