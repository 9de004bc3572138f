"""What a Linux machine says of its power, its network, its load and its temperature.

Everything is read anew each time, below a root that a test may choose. None stands for "the machine
does not say": a rule that asks for it then does not let the device train.
"""

import os
from dataclasses import dataclass
from pathlib import Path

_UP = 1  # flag of a route
_CHARGED = {"charging", "full", "not charging"}


@dataclass(frozen=True, slots=True)
class Power:
    """`percent` is of the battery that has least, None if there is none that says."""

    on_mains: bool
    percent: float | None


@dataclass(frozen=True, slots=True)
class LinuxMachine:
    """The one whose /sys and /proc are below `root`."""

    root: Path = Path("/")

    def power(self) -> Power | None:
        """From /sys/class/power_supply: a machine without a battery is on mains."""
        folder = self.root / "sys/class/power_supply"
        if not folder.is_dir():
            return None
        online: list[bool] = []
        batteries: list[Path] = []
        for supply in sorted(folder.iterdir()):
            kind = _read(supply / "type").lower()
            if _read(supply / "scope").lower() == "device":  # of a mouse, say
                continue
            if kind == "battery":
                batteries.append(supply)
            elif kind:
                online.append(_read(supply / "online") == "1")
        states = {_read(battery / "status").lower() for battery in batteries}
        on_mains = any(online) or (states <= _CHARGED if not online else not batteries)
        levels = [_number(_read(battery / "capacity")) for battery in batteries]
        known = [level for level in levels if level is not None]
        return Power(on_mains, min(known, default=None))

    def interface(self) -> str | None:
        """The name of the default route's, of several the one of the smallest metric."""
        routes = []
        for line in _read(self.root / "proc/net/route").splitlines()[1:]:
            parts = line.split()
            if len(parts) >= 8 and parts[1] == parts[7] == "00000000" and int(parts[3], 16) & _UP:
                routes.append((int(parts[6]), parts[0]))
        if routes:
            return min(routes)[1]
        for line in _read(self.root / "proc/net/ipv6_route").splitlines():
            parts = line.split()
            if len(parts) < 10 or parts[9] == "lo" or not int(parts[8], 16) & _UP:
                continue
            if set(parts[0]) == {"0"} and parts[1] == "00":
                routes.append((int(parts[5], 16), parts[9]))
        return min(routes)[1] if routes else None

    def load(self) -> float | None:
        """Of the last minute, for each core that there is."""
        found = _number(_read(self.root / "proc/loadavg").partition(" ")[0])
        return None if found is None else found / (os.cpu_count() or 1)

    def temperature(self) -> float | None:
        """Degrees Celsius of the hottest sensor."""
        zones = (self.root / "sys/class/thermal").glob("thermal_zone*/temp")
        found = [_number(_read(zone)) for zone in zones]
        known = [each for each in found if each is not None]
        return max(known) / 1000 if known else None


def _read(path: Path) -> str:
    """What a file says, or nothing."""
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
