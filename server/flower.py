"""Everything Tacit uses of Flower that is not Flower's public API: here and nowhere else.

Flower moves its internals at every minor release. One module to change then, and
tests/server/test_flower_adapter.py says in words what has moved.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    Metadata,
    MetricRecord,
    RecordDict,
)
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "SERVER_NODE_ID",
    "ErrorCode",
    "NodeInfo",
    "Run",
    "assign_message_id",
    "copy_records",
    "envelope",
    "error_reply",
    "identity",
    "new_run",
    "node_info",
]

SERVER_NODE_ID: int = SUPERLINK_NODE_ID
"""The sender of every message to a device, and of the errors SuperLink makes up itself."""


@contextmanager
def identity(run_id: int, node_id: int = SERVER_NODE_ID, task_id: int = 1) -> Iterator[None]:
    """Be this task inside the block: `Message(...)` needs to know in whose name it is built.

    The identity is global to the process, as it is in Flower. What was there before (also:
    nothing) is put back, so blocks nest and follow one another.
    """
    before = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = task_id, run_id, node_id
    try:
        yield
    finally:
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before


def new_run(run_id: int) -> Run:
    """A run that belongs to no SuperLink."""
    run = Run.create_empty(run_id)
    run.federation_id = "@none/default"
    return run


def node_info(node_id: int, name: str = "", public_key: bytes = b"") -> NodeInfo:
    """What a grid says of a node that is online."""
    return NodeInfo(node_id=node_id, name=name, public_key=public_key, status="online")


def assign_message_id(message: Message, message_id: str) -> None:
    """Name a message. Flower does so when a message is pushed; a reply refers to this name."""
    message.metadata.__dict__["_message_id"] = message_id


def error_reply(message: Message, code: int, reason: str) -> Message:
    """The reply of whoever could not handle `message`."""
    return Message(Error(code=code, reason=reason), reply_to=message)


def envelope(message: Message) -> Message:
    """A copy whose metadata and record containers are its own; see `copy_records`."""
    metadata = Metadata.__new__(Metadata)
    metadata.__dict__.update(message.metadata.__dict__)
    own = Message.__new__(Message)
    own.__dict__.update(message.__dict__)
    own.__dict__["_metadata"] = metadata
    if message.has_content():
        own.__dict__["_content"] = copy_records(message.content)
    return own


def copy_records(records: RecordDict) -> RecordDict:
    """A copy that shares nothing which can be changed in place.

    Containers, lists and `Array` shells are new; the bytes of arrays, which no one can change,
    are the same objects. So the cost does not depend on the size of a model.
    """
    own = records.copy()
    # Set from below: the checks run over every element, and these values passed them before.
    own.__dict__["_data"] = {name: _copy_record(record) for name, record in records.items()}
    return own


Record: TypeAlias = ArrayRecord | MetricRecord | ConfigRecord


def _copy_record(record: Record) -> Record:
    own = record.copy()
    copy = _copy_array if isinstance(record, ArrayRecord) else _copy_value
    own.__dict__["_data"] = {key: copy(value) for key, value in record.items()}
    return own


def _copy_array(array: Any) -> Any:
    own = Array.__new__(Array)
    own.__dict__.update(array.__dict__)
    return own


def _copy_value(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value
