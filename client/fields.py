"""The fields of a stage message: one ConfigRecord, `stages.RECORD`, each with a type of its own."""

from typing import TypeVar

from flwr.app import ConfigRecord, Message, RecordDict

from tacit.crypto.errors import MalformedMessage
from tacit.crypto.secagg import stages

T = TypeVar("T", bytes, str, bool)


def is_secure(message: Message) -> bool:
    """Whether a message is of a secure sum."""
    return isinstance(message.content.get(stages.RECORD), ConfigRecord)


def holds(message: Message, name: str) -> bool:
    """Whether it has such a field."""
    record = message.content.get(stages.RECORD)
    return isinstance(record, ConfigRecord) and name in record


def field(message: Message, name: str, kind: type[T]) -> T:
    """The field's value. Raises MalformedMessage if there is none of this type."""
    record = message.content.get(stages.RECORD)
    value = record.get(name) if isinstance(record, ConfigRecord) else None
    if not isinstance(value, kind):
        raise MalformedMessage(
            f"no {name!r} in the message", sender=0, stage=message.metadata.message_type
        )
    return value


def answer_to(message: Message, fields: dict[str, bytes]) -> Message:
    """The reply that has these fields."""
    record = ConfigRecord(dict(fields))
    return Message(RecordDict({stages.RECORD: record}), reply_to=message)
