"""Running sums of contributions, whichever way these are hidden."""

from typing import Protocol, cast

import numpy as np

from tacit.crypto.codec import Ring
from tacit.crypto.lattice.cipher import add
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

    def close(self) -> None:
        """Give up what it takes to go on."""


class RingTotal:
    """Of vectors of ring elements, masked or under lattice keys. Their bytes were checked."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._total = session.nothing()
        self._senders: list[int] = []

    def add(self, data: Contribution, *, sender: int) -> None:
        scheme = self._session.scheme
        if scheme is None:
            fold(self._total, data, self._session.codec.bits)
        else:
            add(self._total, cast(Ring, np.frombuffer(data, scheme.dtype)))
        self._senders.append(sender)

    def total(self) -> Ring:
        return self._total

    @property
    def senders(self) -> tuple[int, ...]:
        return tuple(sorted(self._senders))

    def close(self) -> None:
        pass
