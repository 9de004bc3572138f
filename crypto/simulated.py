"""A federation that anyone can recompute: identities and roster for simulations.

Nothing here is secret, and nothing here is random: in a simulation all devices are one process on
one machine. The sums still run the real protocol with fresh session secrets. A deployed device
pins its own authority's key and so refuses this roster.
"""

from functools import cache

from tacit.crypto import labels
from tacit.crypto.identity import Identity, Member, Roster, derive

_ROOT = bytes(32)
_FOREVER = (1 << 63) - 1


def simulated_identity(device: int) -> Identity:
    """The identity of simulated device 1, 2, ...; 0 is the authority."""
    return Identity(derive(_ROOT, labels.SIMULATED, device.to_bytes(8, "little")))


def simulated_authority() -> bytes:
    """The public key that simulated devices pin."""
    return simulated_identity(0).public


@cache
def simulated_roster(devices: int) -> Roster:
    """Devices 1..devices, signed by the simulated authority. The serial is the number of devices,
    so that a larger federation replaces a smaller one."""
    members = (Member(d, simulated_identity(d).public, _FOREVER) for d in range(1, devices + 1))
    beacon = derive(_ROOT, labels.SIMULATED, b"beacon", devices.to_bytes(8, "little"))
    return Roster.signed(simulated_identity(0), devices, members, beacon)
