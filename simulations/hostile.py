"""A server that sends models of its own design, for a simulation: the devices are the real ones.

It has two places on the messages' way. Above the sum it designs the model that all sessions name,
so that the protocol runs as it would for any other. Beneath the sum it puts other models in the
messages of some devices: model inconsistency, which the sum's own code would never send. What it
reads then comes by the usual `tap`, and what devices refuse is in the events, with their reasons.

    strategy ─> above ─> the sum (sessions, masks) ─> beneath ─> devices
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable
from zlib import crc32

import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.server.broadcast import Broadcast
from tacit.server.inbox import Arrays, Seen
from tacit.server.wrapped import WrappedGrid
from tacit.simulations.attacks.base import Attack, Knows


@dataclass(frozen=True, slots=True)
class Sent:
    """What goes out in one round: `model`, which is the one that the sum is said to be about, to
    all but those who get another `instead`, by node. All arrays keep their names and shapes."""

    model: Arrays = field(repr=False)
    instead: Mapping[int, Arrays] = field(default_factory=dict, repr=False)


@runtime_checkable
class Malicious(Attack, Protocol):
    """An attack whose server designs what it sends."""

    def send(
        self,
        model: Arrays,
        members: Sequence[int],
        public: NDArray[Any] | None,
        rng: np.random.Generator,
    ) -> Sent:
        """What to send in a round in which the strategy has `model` for the nodes `members`.

        `public` (m, *shape) are other examples of the same kind, there if the attack needs to know
        them. Raises ParameterError if the model is not of a kind that this attack can alter.
        """
        ...


@dataclass(slots=True)
class HostileServer:
    """A server that runs `attack`; `public` is what it has of PUBLIC_DATA. Good for one run.

    Raises ParameterError, before anything is sent, if the attack needs public data and has none.
    """

    attack: Malicious
    public: NDArray[Any] | None = field(default=None, repr=False)
    seed: int = 0
    _rng: np.random.Generator = field(init=False, repr=False)
    _named: Arrays = field(init=False, default_factory=dict, repr=False)
    _instead: dict[int, Arrays] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if Knows.PUBLIC_DATA in self.attack.needs and self.public is None:
            raise ParameterError(f"{self.attack.name} needs to know public data: give it some")
        # Not the stream of the seed alone: data are divided by that.
        self._rng = np.random.default_rng([self.seed, crc32(self.attack.name.encode())])

    def above(self, grid: Grid) -> Grid:
        """Around the sum: what the strategy sends is replaced by what the attack designs."""
        return _Above(grid, self)

    def beneath(self, grid: Grid) -> Grid:
        """Under the sum: what single devices get instead."""
        return _Beneath(grid, self)

    def design(self, broadcast: Broadcast) -> RecordDict:
        """The content of this round's messages."""
        members = sorted(broadcast.nodes)
        sent = self.attack.send(broadcast.model, members, self.public, self._rng)
        self._named, self._instead = sent.model, dict(sent.instead)
        return _with_model(broadcast.content, sent.model)

    def swap(self, message: Message) -> None:
        """Put into a message what its device gets instead."""
        instead = self._instead.get(message.metadata.dst_node_id)
        if instead is not None and _trains(message):
            message.content = _with_model(message.content, instead)

    def put_right(self, reply: Message, node: int) -> None:
        """Of a reply in the clear: what the device would have sent, had its update been of the
        model that all are said to have. It sends a model, and who swapped it knows by how much."""
        instead = self._instead.get(node)
        if instead is None or not reply.has_content() or len(reply.content.array_records) != 1:
            return
        (trained,) = reply.content.array_records.values()
        moved = {
            name: np.asarray(
                named + (trained[name].numpy() - instead[name].astype(np.float64)), named.dtype
            )
            for name, named in self._named.items()
        }
        reply.content = _with_model(reply.content, moved)


class _Above(WrappedGrid):
    def __init__(self, inner: Grid, server: HostileServer) -> None:
        super().__init__(inner)
        self._server = server

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        asked = list(messages)
        if asked and _trains(asked[0]):
            content = self._server.design(Broadcast.of(asked))
            for message in asked:
                message.content = content
        return self.inner.send_and_receive(asked, timeout=timeout)


class _Beneath(WrappedGrid):
    def __init__(self, inner: Grid, server: HostileServer) -> None:
        super().__init__(inner)
        self._server = server

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        for message in sent:
            self._server.swap(message)
        return self.inner.push_messages(sent)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        asked = list(messages)
        for message in asked:
            self._server.swap(message)
        replies = list(self.inner.send_and_receive(asked, timeout=timeout))
        if asked and _trains(asked[0]):
            for reply in replies:
                self._server.put_right(reply, reply.metadata.src_node_id)
        return replies


def ideal_sum(updates: Sequence[Seen]) -> Seen:
    """What a sum would show of these single updates that hides them from each other and binds its
    members to nothing: their weighted mean. An ideal to attack, and no protocol of this house.

    Raises ParameterError unless they are of one round, one device each, with weights.
    """
    if len({seen.round for seen in updates}) != 1:
        raise ParameterError("a sum is over the updates of one round, at least one")
    if any(seen.clients != 1 or not seen.weight > 0 for seen in updates):
        raise ParameterError("expected the updates of single devices, each with its weight")
    weights = [seen.weight for seen in updates]
    mean = {
        name: np.average([seen.update[name] for seen in updates], axis=0, weights=weights)
        for name in updates[0].update
    }
    members = tuple(sorted(node for seen in updates for node in seen.members))
    first = updates[0]
    return Seen(first.round, first.model, mean, len(updates), sum(weights), "ideal sum", members)


def _trains(message: Message) -> bool:
    return message.metadata.message_type.split(".")[0] == "train"


def _with_model(content: RecordDict, model: Arrays) -> RecordDict:
    (name,) = content.array_records
    arrays = ArrayRecord({key: Array(np.asarray(value)) for key, value in model.items()})
    return RecordDict({**content, name: arrays})
