"""A Flower grid whose devices live in this process, each message measured on its way."""

import random
from collections.abc import Callable, Iterable, Iterator

from flwr.app import Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.serverapp import Grid

from benchmarks.shared.meter import NOBODY, Meter
from tacit.server.flower import ErrorCode, Run, assign_message_id, error_reply, new_run

Handle = Callable[[int, Message], Message]

RUN_ID = 1


class MeteredGrid(Grid):
    """Devices 0, 1, ... behind the node ids that `nodes` lists.

    `handle(device, message)` is the device's side, and charges the device for it. A message is
    handled when its reply is asked for, one at a time: a server that takes replies as they come
    never holds those of all devices. Messages go through protobuf in both directions, so each side
    has its own copy and sizes are those on the wire; nobody is charged for that. `is_silent` says
    which messages never get an answer.
    """

    def __init__(
        self,
        devices: int,
        meter: Meter,
        handle: Handle,
        is_silent: Callable[[int, Message], bool],
    ) -> None:
        draw = random.Random(
            devices
        )  # node ids are large: they take their usual space in a message
        self.nodes = [draw.getrandbits(62) for _ in range(devices)]
        self._device = {node: device for device, node in enumerate(self.nodes)}
        self._meter = meter
        self._handle = handle
        self._is_silent = is_silent
        self._named = 0
        self._open: dict[str, Message] = {}

    @property
    def run(self) -> Run:
        return new_run(RUN_ID)

    # Flower's Grid wants these two, and neither system measured here calls them.
    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            with self._meter.charge(NOBODY):
                self._name(message)
            self._open[message.metadata.message_id] = message
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Replies one by one; for a silent device the error that Flower makes up in its place."""
        for id_ in message_ids:
            message = self._open.pop(id_)
            yield self._answer(message) or error_reply(
                message, ErrorCode.MESSAGE_UNAVAILABLE, "no reply"
            )

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """All replies that come, as a list, which is what Flower's own grid gives."""
        asked = (self._open.pop(id_) for id_ in self.push_messages(messages))
        return [reply for reply in map(self._answer, asked) if reply is not None]

    def _answer(self, message: Message) -> Message | None:
        meter, device = self._meter, self._device[message.metadata.dst_node_id]
        with meter.charge(NOBODY):
            if self._is_silent(device, message):
                return None
            with meter.turn() as handed_over:
                sent = _to_bytes(message)
                meter.received[device, meter.round] += len(sent)
                arrived = _from_bytes(sent)
                del sent
                data = _to_bytes(self._handle(device, arrived))
                del arrived
                handed_over.append(data)
            meter.sent[device, meter.round] += len(data)
            reply = _from_bytes(data)
            self._name(reply)
            return reply

    def _name(self, message: Message) -> None:
        self._named += 1
        assign_message_id(message, f"{self._named:064x}")  # as long as the hashes Flower names by


def _to_bytes(message: Message) -> bytes:
    data: bytes = message_to_proto(message).SerializeToString()
    return data


def _from_bytes(data: bytes) -> Message:
    return message_from_proto(ProtoMessage.FromString(data))
