"""Who was turned away, counted so that no stranger can fill a disk.

What happened is told once a minute for each reason and address. Above so many addresses, or so many
entries a day, it is told by the reason alone, every ten minutes. So whatever strangers do, a day
has at most `ENTRIES_A_DAY` entries, twice at the start, and 144 for each of some twenty reasons.
"""

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from tacit.server.deployed import TurnedAway

EVERY, COARSE_EVERY = 60.0, 600.0  # seconds between two entries about the same
ADDRESSES = 256  # pairs of a reason and an address that are told apart
ENTRIES_A_DAY = 5000
MANY_ADDRESSES, SEVERAL = "many", "several"
_DAY = 86400


@dataclass(slots=True)
class _Count:
    times: int = 0
    who: str = ""
    told: float = float("-inf")


class Tally:
    """Counts, until they are told. `now` is in seconds, of a clock that does not go back."""

    def __init__(self, now: float) -> None:
        self._counts: dict[tuple[str, str], _Count] = {}
        self._entries, self._filled = float(ENTRIES_A_DAY), now  # that may still be told in detail

    def add(self, reason: str, address: str, who: str = "", times: int = 1) -> None:
        """Somebody was turned away. `who` is what he said, or proved, of himself."""
        key = (reason, address)
        if key not in self._counts and len(self._counts) >= ADDRESSES:
            key = (reason, MANY_ADDRESSES)
        count = self._counts.setdefault(key, _Count())
        if count.times and who != count.who:
            who = SEVERAL
        count.times, count.who = count.times + times, who

    def due(self, now: float, *, all_of_it: bool = False) -> list[TurnedAway]:
        """What is to be told now, and is forgotten here."""
        self._fill(now)
        if self._entries < len(self._counts):
            self._fold()
        told = []
        for (reason, address), count in list(self._counts.items()):
            wait = COARSE_EVERY if address == MANY_ADDRESSES else EVERY
            if not all_of_it and now - count.told < wait:
                continue
            if count.times:
                told.append(TurnedAway(reason, address, count.who, count.times))
                self._entries -= address != MANY_ADDRESSES
                self._counts[reason, address] = _Count(told=now)
            else:
                del self._counts[reason, address]
        return told

    def _fill(self, now: float) -> None:
        more = (now - self._filled) * ENTRIES_A_DAY / _DAY
        self._entries, self._filled = min(self._entries + more, ENTRIES_A_DAY), now

    def _fold(self) -> None:
        """Forget the addresses."""
        for (reason, address), count in list(self._counts.items()):
            if address != MANY_ADDRESSES:
                del self._counts[reason, address]
                if count.times:
                    self.add(reason, MANY_ADDRESSES, count.who, count.times)


def place_of(host: str) -> str:
    """Whom an address counts for: itself, or the /64 that one IPv6 site has for itself."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"
