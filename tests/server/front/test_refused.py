"""Wrong key, unknown node, revoked, expired, replayed, plain text: refused, each in the log.

Each is tried with Flower's own client, or a socket, against a front with Flower's own SuperLink
behind it, which requires keys of its nodes as it does in a deployment.
"""

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    RegisterNodeFleetRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.error import FlowerError

from tacit.crypto.nodekey import NodeKey
from tacit.server.front import refusal
from tests.server.front.fronts import (
    CA,
    HEARTBEAT,
    LINK_CA,
    NODE,
    NOW,
    OTHER,
    RETIRED,
    STRANGER,
    Standing,
    certificate,
    front,
    link,
    pem_of,
    prepared,
    signed,
    supernode,
    trusting,
)


@pytest.fixture(scope="module")
def superlink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    from flwr.superlink.main import create_app

    app = create_app()
    app.state.enable_supernode_auth = True
    state = app.state.linkstate_factory.state()
    for key in (NODE, RETIRED):  # the revoked one is still known to Flower; OTHER is not yet
        state.create_node("", "", pem_of(key), 0)
    with link(tmp_path_factory.mktemp("superlink"), app) as port:
        yield port


@pytest.fixture
def open_front(tmp_path: Path, superlink: int) -> Iterator[Standing]:
    prepared(tmp_path)
    with front(tmp_path, superlink) as found:
        yield found


def activate(found: Standing, key: NodeKey, claimed: NodeKey | None = None) -> int:
    request = ActivateNodeRequest(public_key=pem_of(claimed or key), heartbeat_interval=30)
    with supernode(found.port, key) as client:
        number = client.ActivateNode(request).node_id
        client.DeactivateNode(DeactivateNodeRequest(node_id=number))  # for the next to be let in
        return number


def refused(found: Standing, key: NodeKey, claimed: NodeKey | None = None) -> httpx.Response:
    with pytest.raises(httpx.HTTPStatusError) as caught:
        activate(found, key, claimed)
    return caught.value.response


def test_a_registered_node_is_let_in(open_front: Standing) -> None:
    number = activate(open_front, NODE)
    node = Node(node_id=number)
    with supernode(open_front.port, NODE) as client:
        heartbeat = SendNodeHeartbeatRequest(node=node, heartbeat_interval=30)
        assert client.SendNodeHeartbeat(heartbeat).success
        assert not client.PullMessages(PullMessagesRequest(node=node)).messages_list
        client.DeactivateNode(DeactivateNodeRequest(node_id=number))
    assert not open_front.said()


def test_an_unknown_key_is_told_so_and_nothing_more(open_front: Standing) -> None:
    answer = refused(open_front, STRANGER)
    told = FlowerError.from_json(answer.text)
    assert answer.status_code == 412
    assert told is not None
    assert "does not know this node's key" in told.message
    assert open_front.waits_for(refusal.UNKNOWN).who.startswith("key ")


def test_a_revoked_key_is_refused_though_flower_would_take_it(open_front: Standing) -> None:
    answer = refused(open_front, RETIRED)
    assert "revoked" in answer.json()["detail"]
    assert open_front.waits_for(refusal.REVOKED).who == "3-out"


def test_a_key_that_is_revoked_while_the_front_runs(open_front: Standing) -> None:
    assert activate(open_front, NODE)
    (open_front.folder / "nodes" / "1-one.pub").rename(open_front.folder / "retired" / "1-one.pub")
    time.sleep(1.1)  # how long the front goes without looking
    assert "revoked" in refused(open_front, NODE).json()["detail"]


def test_the_key_of_somebody_else(open_front: Standing) -> None:
    headers = {**signed(NODE, by=STRANGER), "content-type": "application/protobuf"}
    answer = httpx.post(
        f"https://127.0.0.1:{open_front.port}{HEARTBEAT}", headers=headers, verify=trusting()
    )
    assert (answer.status_code, answer.content) == (401, b"")
    assert open_front.waits_for(refusal.BAD_SIGNATURE).who.startswith("key ")


def test_a_node_that_claims_to_be_another(open_front: Standing) -> None:
    """Its own key is good; SuperLink finds the other one in the body."""
    answer = refused(open_front, NODE, claimed=RETIRED)
    assert answer.status_code == 401
    assert open_front.waits_for(f"{refusal.FLEET}: 401").who == "1-one"


def test_a_node_that_flower_does_not_know_yet(open_front: Standing) -> None:
    assert refused(open_front, OTHER).status_code == 412
    assert open_front.waits_for(f"{refusal.FLEET}: 412").who == "2-two"


def test_nobody_registers_by_himself(open_front: Standing) -> None:
    for key in (NODE, STRANGER):
        with supernode(open_front.port, key) as client, pytest.raises(httpx.HTTPStatusError) as no:
            client.RegisterNode(RegisterNodeFleetRequest(public_key=pem_of(key)))
        assert (no.value.response.status_code, no.value.response.content) == (404, b"")
    open_front.waits_for(refusal.PATH)


def post(found: Standing, headers: dict[str, str]) -> httpx.Response:
    url = f"https://127.0.0.1:{found.port}{HEARTBEAT}"
    body = SendNodeHeartbeatRequest(node=Node(node_id=1), heartbeat_interval=30)
    headers = {**headers, "content-type": "application/protobuf"}
    return httpx.post(url, headers=headers, content=body.SerializeToString(), verify=trusting())


@pytest.mark.parametrize(
    ("shift", "words"), [(-310, "310 s behind"), (10, "10 s ahead")], ids=["expired", "ahead"]
)
def test_a_signature_of_another_time(open_front: Standing, shift: float, words: str) -> None:
    answer = post(open_front, signed(NODE, at=time.time() + shift))
    assert answer.status_code == 401
    assert words in answer.json()["detail"]
    assert open_front.waits_for(refusal.CLOCK).who == "1-one"


def test_a_signature_that_was_used(open_front: Standing) -> None:
    headers = signed(NODE, at=time.time() - 200)
    first = post(open_front, headers)
    assert first.status_code == 401  # SuperLink's: this is no number of a node
    assert first.content
    second = post(open_front, headers)  # on another connection
    assert (second.status_code, second.content) == (401, b"")
    assert open_front.waits_for(refusal.REPLAYED).who == "1-one"


def test_plain_text(open_front: Standing) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{open_front.port}/health")
    assert open_front.waits_for(refusal.PLAIN).address == "127.0.0.1"


def test_a_device_that_trusts_another_authority(open_front: Standing) -> None:
    with supernode(open_front.port, NODE, LINK_CA) as client, pytest.raises(httpx.ConnectError):
        client.ActivateNode(ActivateNodeRequest(public_key=pem_of(NODE), heartbeat_interval=30))
    open_front.waits_for(refusal.UNTRUSTED)


def test_an_expired_certificate_is_refused_by_the_device(open_front: Standing) -> None:
    certificate(open_front.folder, days=1, at=NOW - 2 * 86400)
    with pytest.raises(httpx.ConnectError, match="expired"):
        activate(open_front, NODE)
    open_front.waits_for(refusal.UNTRUSTED)
    certificate(open_front.folder)  # a new one is taken up, without a restart
    assert activate(open_front, NODE)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2], ids=["1.2"])
def test_an_older_version_of_tls(open_front: Standing, version: ssl.TLSVersion) -> None:
    context = trusting()
    context.maximum_version = version
    plain = socket.create_connection(("127.0.0.1", open_front.port), timeout=5)
    with ExitStack() as stack:
        stack.enter_context(plain)
        stack.enter_context(pytest.raises((ssl.SSLError, ConnectionError)))
        context.wrap_socket(plain, server_hostname="127.0.0.1")
    open_front.waits_for(refusal.NOTHING_SHARED)


def test_the_rest_of_superlink_is_not_there(open_front: Standing) -> None:
    from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES

    paths = [path for _, path in PROTOBUF_REQUEST_TYPES if not path.startswith("/v1/fleet/")]
    with httpx.Client(verify=trusting(CA), base_url=f"https://127.0.0.1:{open_front.port}") as all_:
        for path in ["/", "/docs", "/openapi.json", "/redoc", "/v1/fleet/", "/metrics", *paths]:
            for answer in (all_.get(path), all_.post(path, headers=signed(NODE), content=b"x")):
                assert (answer.status_code, answer.content) == (404, b"")
                assert {*answer.headers} == {"date", "content-length", "connection"}
        assert all_.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("key", "status", "words"),
    [(NODE, 200, None), (STRANGER, 401, "does not know"), (RETIRED, 401, "revoked")],
    ids=["node", "stranger", "revoked"],
)
def test_a_device_can_ask_whether_it_would_be_let_in(
    open_front: Standing, key: NodeKey, status: int, words: str | None
) -> None:
    url = f"https://127.0.0.1:{open_front.port}/health"
    answer = httpx.get(url, headers=signed(key), verify=trusting())
    assert answer.status_code == status
    assert words in answer.json()["detail"] if words else not answer.content
