"""Contracts with what is not Flower's public API. If one fails, Flower has moved it: read the
message, then change client/node/flower.py and nothing else."""

import inspect
import json
import os
from typing import Any

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto, recorddict_to_proto
from flwr.proto import fleet_pb2, message_pb2, run_pb2
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from tacit.app.config import Settings
from tacit.app.deployment import bundle
from tacit.client.node import flower
from tacit.client.node.flower import Delivery, Reply, RunOver, TurnedAway, Unreachable


def records(size: int = 3) -> RecordDict:
    return RecordDict(
        {
            "arrays": ArrayRecord({"w": Array(np.arange(float(size)))}),
            "metrics": MetricRecord({"loss": 0.5}),
            "config": ConfigRecord({"name": "x", "blobs": [b"a", b"b"]}),
        }
    )


@pytest.fixture
def delivery() -> tuple[Delivery, dict[str, bytes]]:
    """As a server has it: a head without content, a tree, and objects by their ids."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 5, 1
    try:
        message = Message(records(), 77, "query.hello", group_id="4", ttl=9.0)
    finally:
        TaskIdentity._task_id = TaskIdentity._run_id = TaskIdentity._node_id = None
    objects = {name: each.deflate() for name, each in get_all_nested_objects(message).items()}
    message.metadata.__dict__["_message_id"] = message.object_id
    head = message_from_proto(message_to_proto(remove_content_from_message(message)))
    return Delivery(head, get_object_tree(message)), objects


def test_the_fleet_api_has_the_calls_that_a_node_makes() -> None:
    calls = "ActivateNode DeactivateNode SendNodeHeartbeat PullMessages PushMessages GetRun GetFab"
    for name in [*calls.split(), "PullObject", "PushObject", "ConfirmMessageReceived"]:
        assert hasattr(FleetHttpClient, name), f"FleetHttpClient.{name} is gone"
    parameters = inspect.signature(FleetHttpClient.from_server_address).parameters
    assert {"insecure", "root_certificates", "interceptors"} <= set(parameters)


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (fleet_pb2.PullMessagesResponse, {"messages_list", "message_object_trees"}),
        (
            fleet_pb2.PushMessagesRequest,
            {"node", "messages_list", "message_object_trees", "clientapp_runtime_list"},
        ),
        (fleet_pb2.PushMessagesResponse, {"objects_to_push", "session_id"}),
        (message_pb2.PullObjectResponse, {"object_found", "object_available", "object_content"}),
        (message_pb2.PushObjectRequest, {"object_id", "object_content", "session_id", "run_id"}),
        (run_pb2.GetRunResponse, {"run"}),
    ],
)
def test_its_messages_have_the_fields_that_a_node_reads(message: Any, fields: set[str]) -> None:
    assert fields <= {each.name for each in message.DESCRIPTOR.fields}


def test_a_delivery_says_what_it_is(delivery: tuple[Delivery, dict[str, bytes]]) -> None:
    it, objects = delivery
    assert (it.run, it.kind, it.round, it.ttl) == (5, "query.hello", "4", 9.0)
    assert it.id == it.tree.object_id, "a message is not named by its own object any more"
    assert set(it.objects) == set(objects)


def test_a_message_survives_the_way_to_another_process(
    delivery: tuple[Delivery, dict[str, bytes]],
) -> None:
    it, objects = delivery
    for state in (None, b"", b"some"):
        there, carried, kept = Delivery.decode(it.encode(objects, state))
        assert (carried, kept) == (objects, state)
        message = flower.received(there, carried)
        assert message.content == records()
        assert message.metadata.message_id == it.id
        assert carried == {}, "objects are not taken out as they are used any more"


def test_a_reply_refers_to_its_message_and_is_whole(
    delivery: tuple[Delivery, dict[str, bytes]],
) -> None:
    it, objects = delivery
    message = flower.received(it, dict(objects))
    answer = Message(records(2), reply_to=message)
    reply = Reply.decode(flower.sent(answer, RecordDict({"c": ConfigRecord({"n": 1})})).encode())
    head = message_pb2.Message.FromString(reply.message)
    assert head.metadata.reply_to_message_id == it.id
    assert (head.metadata.src_node_id, head.metadata.run_id) == (77, 5)
    assert not head.content.ByteSize(), "the head is sent with its content"
    tree = message_pb2.ObjectTree.FromString(reply.tree)
    again = flower.received(Delivery(message_from_proto(head), tree), dict(reply.objects))
    assert again.content == records(2)
    assert head.metadata.message_id == tree.object_id


def test_a_head_alone_can_be_refused(delivery: tuple[Delivery, dict[str, bytes]]) -> None:
    it, _ = delivery
    reply = flower.sent(flower.error_reply(it.message, flower.ErrorCode.INVALID_FAB, "no"))
    head = message_pb2.Message.FromString(reply.message)
    assert (head.error.code, head.error.reason) == (7, "no")
    assert head.metadata.reply_to_message_id == it.id
    assert reply.state is None


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("LOAD_CLIENT_APP_EXCEPTION", 1),
        ("CLIENT_APP_RAISED_EXCEPTION", 2),
        ("MOD_FAILED_PRECONDITION", 6),
        ("INVALID_FAB", 7),
        ("CLIENT_APP_CRASHED", 8),
    ],
)
def test_error_codes_keep_their_numbers(name: str, code: int) -> None:
    assert getattr(flower.ErrorCode, name, None) == code, f"ErrorCode.{name} is not {code} any more"


def test_an_app_is_told_the_runs_settings_and_its_own_state() -> None:
    run = Run.create_empty(5)
    run.override_config = {"run.rounds": 3}
    before = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)
    state = recorddict_to_proto(RecordDict({"c": ConfigRecord({"n": 1})}))
    try:
        context = flower.context(
            run, bundle.build(), 77, {"partition-id": 2}, 9, state.SerializeToString()
        )
        assert (TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id) == (5, 77, 9)
    finally:
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before
    assert isinstance(context, Context)
    assert Settings.from_flat(context.run_config) == Settings().changed(["run.rounds=3"])
    assert context.node_config == {"partition-id": 2}
    assert context.state["c"]["n"] == 1


def answers(status: int, body: object) -> httpx.MockTransport:
    text = body if isinstance(body, str) else json.dumps(body)
    return httpx.MockTransport(lambda request: httpx.Response(status, text=text))


@pytest.fixture
def link() -> flower.Link:
    key = ec.generate_private_key(ec.SECP384R1())
    made = flower.Link.__new__(flower.Link)
    made._client = FleetHttpClient(
        "https://nowhere", interceptors=[flower._Version(), _auth(key)], verify=False
    )
    made._public, made._node = b"", Node(node_id=3)
    return made


def _auth(key: ec.EllipticCurvePrivateKey) -> NodeAuthHttpInterceptor:
    return NodeAuthHttpInterceptor(key, key.public_key())


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (503, "", Unreachable, "not ready"),
        (502, "", Unreachable, "not ready"),
        (403, {"code": 1, "detail": "over"}, RunOver, "over"),
        (401, {"detail": "Invalid SuperNode authentication"}, TurnedAway, "signature"),
        (404, "<html>", TurnedAway, "HTTP 404"),
        (500, {"detail": "Internal server error."}, Unreachable, "HTTP 500"),
        (408, "", Unreachable, "HTTP 408"),
        (401, {"detail": "this key was revoked"}, TurnedAway, "this key was revoked"),
        (412, {"detail": "the clock is 9 s behind"}, TurnedAway, "9 s behind"),
        (404, "[1]", TurnedAway, "HTTP 404"),
        (200, "this is no protobuf", Unreachable, "no SuperLink"),
    ],
)
def test_what_a_server_says_no_with(
    link: flower.Link, status: int, body: object, kind: type[Exception], words: str
) -> None:
    link._client._client = httpx.Client(transport=answers(status, body))
    with pytest.raises(kind, match=words):
        link.activate()


def test_a_server_that_is_gone_or_another_ones(link: flower.Link) -> None:
    def fail(with_: Exception) -> httpx.Client:
        def refuse(request: httpx.Request) -> httpx.Response:
            raise with_

        return httpx.Client(transport=httpx.MockTransport(refuse))

    link._client._client = fail(httpx.ConnectError("Connection refused"))
    with pytest.raises(Unreachable, match="refused"):
        link.pull()
    link._client._client = fail(httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate"))
    with pytest.raises(TurnedAway, match="not the device's server"):
        link.pull()


def test_another_bundle_than_the_runs_is_not_taken(link: flower.Link) -> None:
    from flwr.proto.fab_pb2 import Fab, GetFabResponse

    sent = GetFabResponse(fab=Fab(hash_str="a" * 64, content=b"evil")).SerializeToString()
    kind = {"content-type": "application/protobuf"}
    link._client._client = httpx.Client(
        transport=httpx.MockTransport(lambda _: httpx.Response(200, content=sent, headers=kind))
    )
    run = Run.create_empty(5)
    run.fab_hash = "a" * 64
    with pytest.raises(TurnedAway, match="another bundle"):
        link.bundle(run)


def test_requests_are_signed_and_say_which_flower_this_is(link: flower.Link) -> None:
    seen: list[httpx.Request] = []

    def note(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(503)

    link._client._client = httpx.Client(transport=httpx.MockTransport(note))
    with pytest.raises(Unreachable):
        link.beat()
    names = set(seen[0].headers)
    assert any("signature" in name for name in names), names
    assert any("version" in name for name in names), names
    assert seen[0].url.path == "/v1/fleet/send-node-heartbeat"


def test_nothing_of_flowers_telemetry_or_its_exit_is_loaded_by_us() -> None:
    """Flower's own version check ends the process: ours must not be that one."""
    source = inspect.getsource(flower)
    assert "flwr_exit" not in source
    assert "telemetry" not in source
    assert os.environ.get("FLWR_TELEMETRY_ENABLED") in (None, "0")


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        (9.0, 9.0),
        (-1.0, 0.0),
        (float("nan"), 0.0),
        (float("inf"), flower.LONGEST),
        (1e300, flower.LONGEST),
    ],
)
def test_a_server_does_not_say_how_long_a_node_works(
    delivery: tuple[Delivery, dict[str, bytes]], said: float, taken: float
) -> None:
    delivery[0].message.metadata.ttl = said
    assert delivery[0].ttl == taken


def test_a_servers_words_are_one_short_line(delivery: tuple[Delivery, dict[str, bytes]]) -> None:
    said = "1\n2026 ERROR all is lost\x1b[2J" + "x" * 10_000
    delivery[0].message.metadata.__dict__ |= {"_group_id": said, "_message_type": said}
    for shown in (delivery[0].round, delivery[0].kind):
        assert shown.isprintable()
        assert len(shown) <= 80


def test_a_message_without_its_tree_is_no_message(link: flower.Link) -> None:
    broken = fleet_pb2.PullMessagesResponse(messages_list=[message_pb2.Message()])
    kind = {"content-type": "application/protobuf"}
    sent = broken.SerializeToString()
    link._client._client = httpx.Client(
        transport=httpx.MockTransport(lambda _: httpx.Response(200, content=sent, headers=kind))
    )
    with pytest.raises(Unreachable):
        link.pull()


@pytest.mark.parametrize("name", ["", "a" * 63, "A" * 64, "a" * 64 + "\n", "../" * 20])
def test_a_name_that_no_bundle_has_goes_nowhere(link: flower.Link, name: str) -> None:
    run = run_pb2.Run(run_id=5, fab_hash=name)
    sent = run_pb2.GetRunResponse(run=run).SerializeToString()
    kind = {"content-type": "application/protobuf"}
    link._client._client = httpx.Client(
        transport=httpx.MockTransport(lambda _: httpx.Response(200, content=sent, headers=kind))
    )
    with pytest.raises(TurnedAway, match="no bundle can be"):
        link.run(5)
