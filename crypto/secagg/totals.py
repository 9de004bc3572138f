"""Running sums of contributions, whichever way these are hidden."""

from collections.abc import Collection
from typing import Protocol, cast

import numpy as np

from tacit.crypto.codec import Ring
from tacit.crypto.lattice.cipher import add
from tacit.crypto.secagg.clear import Clear, Integers
from tacit.crypto.secagg.session import Session
from tacit.crypto.wire import fold

Contribution = bytes | memoryview


class Total(Protocol):
    """One running sum. `tacit.server.he_loader.Loader` is another, for a consortium's."""

    def add(self, data: Contribution, *, sender: int) -> None:
        """Raises MalformedMessage, the sum as before, if it does not hold."""

    def total(self) -> Ring | bytes:
        """The sum; it is handed on, so nothing may be added any more. Raises TooFewClients if
        nothing is left of what was added."""

    @property
    def senders(self) -> tuple[int, ...]:
        """Whose contributions the sum is of, once it was asked for; some may have been lost."""

    @property
    def settled(self) -> Collection[int]:
        """Those of them that are in it for good."""

    def close(self) -> None:
        """Give up what it takes to go on."""


class RingTotal:
    """Of vectors of ring elements, masked or under lattice keys. Their bytes were checked."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._total = session.nothing()
        self._senders: set[int] = set()

    def add(self, data: Contribution, *, sender: int) -> None:
        scheme = self._session.scheme
        if scheme is None:
            fold(self._total, data, self._session.codec.bits)
        else:
            add(self._total, cast(Ring, np.frombuffer(data, scheme.dtype)))
        self._senders.add(sender)

    def total(self) -> Ring:
        return self._total

    @property
    def senders(self) -> tuple[int, ...]:
        return tuple(sorted(self._senders))

    @property
    def settled(self) -> Collection[int]:
        return self._senders

    def close(self) -> None:
        pass


class ClearTotal:
    """Of clear parts, beside a `Total` of what the same devices hide.

    One is added once its device is settled there, and kept until then: a sum of both parts is over
    the same devices.
    """

    def __init__(self, clear: Clear) -> None:
        self._clear = clear
        self._total = np.zeros(clear.size, np.int64)
        self._kept: dict[int, bytes] = {}

    def add(self, data: Contribution, *, sender: int, settled: Collection[int]) -> None:
        """The bytes were checked."""
        if sender in settled:
            self._total += self._clear.unpack(data)
        else:
            self._kept[sender] = bytes(data)
        self._settle(settled)

    def total(self, settled: Collection[int]) -> Integers:
        """The sum over `settled`, to which nothing may be added any more; who is not among them,
        never will be."""
        self._settle(settled)
        return self._total

    def _settle(self, settled: Collection[int]) -> None:
        for sender in [sender for sender in self._kept if sender in settled]:
            self._total += self._clear.unpack(self._kept.pop(sender))
