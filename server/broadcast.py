"""The one thing a strategy sends to a whole cohort, taken out of its messages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.crypto.vector import saved_array

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Broadcast:
    """The content that every device of a cohort gets alike, and to whom it goes."""

    kind: str  # message type: "train", "evaluate", or either with an action
    content: RecordDict
    nodes: tuple[int, ...]
    round: int

    @classmethod
    def of(cls, messages: Sequence[Message]) -> "Broadcast":
        """Raises ParameterError for messages that differ in more than their destination."""
        first = messages[0]
        kind = first.metadata.message_type
        for message in messages[1:]:
            if message.metadata.message_type != kind or not _alike(message.content, first.content):
                raise ParameterError(
                    "the strategy sends different content to different devices: such updates "
                    "cannot be summed"
                )
        nodes = tuple(message.metadata.dst_node_id for message in messages)
        if len(set(nodes)) < len(nodes):
            raise ParameterError("the strategy asks one device twice in one round")
        return cls(kind, first.content, nodes, _round(first))

    @property
    def model(self) -> Arrays:
        """The model sent. Raises ParameterError unless there is exactly one array record."""
        records = list(self.content.array_records.values())
        if len(records) != 1:
            raise ParameterError(f"the strategy sends {len(records)} array records, expected one")
        read = ((name, saved_array(array.data), array) for name, array in records[0].items())
        return {name: array.numpy() if view is None else view for name, view, array in read}

    @property
    def config(self) -> ConfigRecord:
        """The configuration sent. Raises ParameterError for more than one."""
        records = list(self.content.config_records.values())
        if len(records) > 1:
            raise ParameterError(f"the strategy sends {len(records)} config records, expected one")
        return records[0] if records else ConfigRecord()


def _alike(one: RecordDict, other: RecordDict) -> bool:
    """Strategies put the very same records into every message; that is all that is asked."""
    if one is other:
        return True
    return list(one) == list(other) and all(one[key] is other[key] for key in one)


def _round(message: Message) -> int:
    for config in message.content.config_records.values():
        number = config.get("server-round")
        if isinstance(number, int):
            return number
    if message.metadata.group_id.isdecimal():
        return int(message.metadata.group_id)
    raise ParameterError(
        "the message names no round: put it as `server-round` into the configuration"
    )
