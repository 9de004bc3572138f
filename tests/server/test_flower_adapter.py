"""Contracts with what is not Flower's public API. If one fails, Flower has moved it: read the
message, then change server/flower.py and nothing else."""

import inspect
import pickle

import flwr.app
import numpy as np
import pytest
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
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from tacit.server import flower


def records() -> RecordDict:
    return RecordDict(
        {
            "arrays": ArrayRecord({"w": Array(np.arange(3.0))}),
            "metrics": MetricRecord({"loss": 0.5, "each": [1, 2]}),
            "config": ConfigRecord({"name": "x", "blobs": [b"a", b"b"]}),
        }
    )


def test_task_identity_has_the_fields_we_set() -> None:
    for name in ("task_id", "run_id", "node_id"):
        assert f"_{name}" in vars(TaskIdentity), f"TaskIdentity has no _{name} any more"
        assert name in vars(type(TaskIdentity)), f"TaskIdentity.{name} is no property any more"


def test_identity_nests_and_is_put_back() -> None:
    with flower.identity(5, node_id=7, task_id=9):
        with flower.identity(6):
            assert Message(records(), 1, "train").metadata.run_id == 6
        metadata = Message(records(), 1, "train").metadata
        assert (metadata.run_id, metadata.src_node_id, metadata.src_task_id) == (5, 7, 9), (
            "Message(...) does not take run, node and task from TaskIdentity any more"
        )
    with pytest.raises(RuntimeError, match="not set"):
        Message(records(), 1, "train")


def test_identity_is_put_back_after_an_error() -> None:
    with pytest.raises(KeyError), flower.identity(5):
        raise KeyError
    with pytest.raises(RuntimeError, match="not set"):
        _ = TaskIdentity.run_id


def test_a_run_can_be_made_without_a_superlink() -> None:
    run = flower.new_run(3)
    assert run.run_id == 3
    assert flower.Run(**vars(run)) == run, "Run is no plain dataclass any more"


def test_node_info_holds_what_a_deployment_tells() -> None:
    info = flower.node_info(4, "edge-1", b"key")
    assert (info.node_id, info.name, info.public_key, info.status) == (
        4,
        "edge-1",
        b"key",
        "online",
    )


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("UNKNOWN", 0),
        ("LOAD_CLIENT_APP_EXCEPTION", 1),
        ("CLIENT_APP_RAISED_EXCEPTION", 2),
        ("MESSAGE_UNAVAILABLE", 3),
        ("NODE_UNAVAILABLE", 5),
        ("CLIENT_APP_CRASHED", 8),
    ],
)
def test_error_codes_keep_their_numbers(name: str, code: int) -> None:
    assert getattr(flower.ErrorCode, name, None) == code, f"ErrorCode.{name} is not {code} any more"


def test_the_server_is_node_one() -> None:
    assert flower.SERVER_NODE_ID == 1, "SuperLink's node id is not 1 any more"


def test_a_reply_refers_to_the_id_we_assign() -> None:
    with flower.identity(1):
        message = Message(records(), 1000, "query.hello", group_id="4", ttl=9.0)
        flower.assign_message_id(message, "abc")
        reply = flower.error_reply(message, 2, "no")
    assert message.metadata.message_id == "abc", "Metadata keeps message_id elsewhere now"
    assert reply.metadata.reply_to_message_id == "abc"
    assert (reply.metadata.src_node_id, reply.metadata.dst_node_id) == (1000, 1)
    assert reply.metadata.group_id == "4"
    assert reply.error == Error(2, "no")


def test_an_envelope_equals_and_shares_no_container() -> None:
    with flower.identity(1):
        message = Message(records(), 1000, "train", group_id="4", ttl=9.0)
    own = flower.envelope(message)
    assert vars(own.metadata) == vars(message.metadata), "Metadata keeps its fields elsewhere now"
    assert own.content == message.content, "RecordDict keeps its records elsewhere now"

    own.metadata.ttl = 1.0
    own.content["arrays"]["w"].data = b"poison"
    own.content["arrays"]["new"] = Array(np.zeros(1))
    own.content["metrics"]["each"].append(3)  # type: ignore[union-attr]
    own.content["config"]["blobs"][0] = b"poison"  # type: ignore[index]
    own.content["extra"] = ConfigRecord()
    assert message.metadata.ttl == 9.0
    assert message.content == records()


def test_an_envelope_does_not_copy_the_bytes_of_arrays() -> None:
    original = records()
    copied = flower.copy_records(original)
    assert copied["arrays"]["w"].data is original["arrays"]["w"].data
    assert isinstance(copied["arrays"], ArrayRecord)
    with pytest.raises(TypeError):
        copied["arrays"]["w"] = "not an array"  # the copy still checks what goes in


def test_an_error_has_an_envelope_too() -> None:
    with flower.identity(1):
        error = flower.error_reply(Message(records(), 1000, "train"), 2, "no")
    assert flower.envelope(error).error == error.error


def test_messages_and_contexts_can_be_pickled() -> None:
    with flower.identity(1):
        message = Message(records(), 1000, "train")
    context = flwr.app.Context(1, 2, {}, records(), {})
    copied, kept = pickle.loads(pickle.dumps((message, context)))
    assert copied.content == message.content
    assert kept.state == context.state


def test_a_grid_asks_for_no_more_than_we_implement() -> None:
    known = {"set_run", "run", "create_message", "get_node_ids"}
    known |= {"push_messages", "pull_messages", "send_and_receive"}
    assert Grid.__abstractmethods__ == known, "flwr.serverapp.Grid asks for other methods now"
    assert list(inspect.signature(Grid.send_and_receive).parameters) == [
        "self",
        "messages",
        "timeout",
    ]


def test_metadata_has_the_fields_a_device_reads() -> None:
    fields = set(inspect.signature(Metadata).parameters)
    assert fields >= {"message_id", "reply_to_message_id", "group_id", "ttl", "created_at"}
