"""What a device's node asks and tells while it runs: two protocols, and what stands in for them.

The node itself (`tacit.client.node.node`) knows how messages come and go. Whether this is a time to
train is for `tacit.client.node.allowed` to say, and what its owner will want to read later is for
`tacit.client.node.diary` to keep.
"""

from dataclasses import dataclass
from typing import Protocol

NODE_LOCK = "node.lock"  # in a device's vault: held by its node, while there is one


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a message is not answered now. `reason` is a sentence for the device's owner, and goes to
    the diary; the server hears "not now" and no more. `again_in` is in how many seconds asking
    again is of use; 0 if nobody knows."""

    reason: str
    again_in: float = 0.0


class Allowed(Protocol):
    """Whether a message may be handed to the app."""

    def __call__(self, kind: str, now: float) -> Refusal | None:
        """None if it may. `kind` is the message's type, such as `train` or `query.keys`; `now` in
        seconds since 1970. Quick, and raises nothing."""
        ...


class Diary(Protocol):
    """What happened on a device, for its owner. Each call is durable before it returns, and raises
    nothing: a full disk stops the diary, not the device."""

    def node_began(self) -> None: ...

    def node_ended(self, reason: str) -> None: ...

    def connected(self, address: str, node: int) -> None:
        """The server knows this device, and it is node number `node` there."""
        ...

    def disconnected(self, reason: str) -> None:
        """The first failure after the server had answered, not each further try."""
        ...

    def message(self, kind: str, run: int, round: str) -> None:
        """A message is about to be handed to the app. `round` is Flower's group id, often empty."""
        ...

    def bundle_refused(self, bundle: str, run: int) -> None:
        """A run came with a bundle, by its SHA-256 in hex, that the owner has not allowed."""
        ...

    def not_now(self, kind: str, run: int, reason: str) -> None:
        """A message was refused because of its time."""
        ...

    def failed(self, kind: str, run: int, reason: str) -> None:
        """The app ended without an answer of its own."""
        ...


def always(kind: str, now: float) -> None:
    """Every message, at every time."""


class NoDiary:
    """Keeps nothing."""

    def node_began(self) -> None: ...

    def node_ended(self, reason: str) -> None: ...

    def connected(self, address: str, node: int) -> None: ...

    def disconnected(self, reason: str) -> None: ...

    def message(self, kind: str, run: int, round: str) -> None: ...

    def bundle_refused(self, bundle: str, run: int) -> None: ...

    def not_now(self, kind: str, run: int, reason: str) -> None: ...

    def failed(self, kind: str, run: int, reason: str) -> None: ...
