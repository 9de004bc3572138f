"""Many nodes in one process, as far as a SuperLink can tell: they poll, pull, confirm and reply.

Every call is the one that a SuperNode makes, signed with the node's own key over TLS; what is left
out is the ClientApp. Threads share the nodes, one connection each: a real node has its own, which
stays open, so the handshakes of a start are not measured.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from tacit.crypto.nodekey import NodeKey

HEARTBEAT_S = 30.0
AGAIN_S = 0.1


@dataclass(slots=True)
class Load:
    """What was done, by all threads: seconds of each poll that brought nothing, and of each message
    from the poll that brought it until its reply was taken."""

    polls: list[float] = field(default_factory=list)
    messages: list[float] = field(default_factory=list)
    calls: int = 0


class _Signing:
    """Signs as whichever node is speaking."""

    def __init__(self) -> None:
        self.node: NodeAuthHttpInterceptor | None = None

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        assert self.node is not None
        return self.node.intercept(context, call_next)


class LightNodes:
    """Nodes that share `threads`. While inside they are online, and poll as `every` says."""

    def __init__(
        self,
        address: str,
        ca: str,
        keys: Sequence[NodeKey],
        *,
        threads: int,
        every: float = 0.0,
        size: int = 1,
    ) -> None:
        self.load = Load()
        self._every, self._reply = every, bytes(size)
        self._over = threading.Event()
        self._failed: list[str] = []
        self._threads = [
            threading.Thread(target=self._serve, args=(address, ca, keys[at::threads]), daemon=True)
            for at in range(threads)
        ]

    def __enter__(self) -> "LightNodes":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        if self._failed:
            raise RuntimeError(self._failed[0])

    def forget(self) -> Load:
        """What was done until now; from now on it is counted anew."""
        done, self.load = self.load, Load()
        return done

    def _serve(self, address: str, ca: str, keys: Sequence[NodeKey]) -> None:
        try:
            self._rounds(address, ca, keys)
        except (httpx.HTTPError, RuntimeError) as error:
            self._failed.append(f"{type(error).__name__}: {error}")

    def _rounds(self, address: str, ca: str, keys: Sequence[NodeKey]) -> None:
        signing = _Signing()
        version = RuntimeVersionHttpInterceptor(component_name="SuperNode")
        client = FleetHttpClient.from_server_address(
            address, False, ca, interceptors=[version, signing]
        )
        nodes = []
        for key in keys:
            public = key.key.public_key()
            signing.node = NodeAuthHttpInterceptor(key.key, public)
            request = ActivateNodeRequest(
                public_key=public_key_to_bytes(public), heartbeat_interval=HEARTBEAT_S
            )
            nodes.append((signing.node, Node(node_id=client.ActivateNode(request).node_id)))
        try:
            self._loop(client, signing, nodes)
        finally:
            for signing.node, node in nodes:
                client.DeactivateNode(DeactivateNodeRequest(node_id=node.node_id))

    def _loop(
        self,
        client: FleetHttpClient,
        signing: _Signing,
        nodes: Sequence[tuple[NodeAuthHttpInterceptor, Node]],
    ) -> None:
        beat = time.monotonic()
        while not self._over.is_set():
            began = time.monotonic()
            is_due = began - beat > HEARTBEAT_S / 2
            for signing.node, node in nodes:
                if is_due:
                    beat = began
                    client.SendNodeHeartbeat(
                        SendNodeHeartbeatRequest(node=node, heartbeat_interval=HEARTBEAT_S)
                    )
                self._poll(client, node)
                if self._over.is_set():
                    return
            self._over.wait(max(0.0, self._every - (time.monotonic() - began)))

    def _poll(self, client: FleetHttpClient, node: Node) -> None:
        began = time.monotonic()
        pulled = client.PullMessages(PullMessagesRequest(node=node))
        self.load.calls += 1
        if not pulled.messages_list:
            self.load.polls.append(time.monotonic() - began)
            return
        message = message_from_proto(pulled.messages_list[0])
        run, id_ = message.metadata.run_id, message.metadata.message_id
        for tree in iterate_object_tree(pulled.message_object_trees[0]):
            self._pull(client, PullObjectRequest(node=node, run_id=run, object_id=tree.object_id))
        client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=node, run_id=run, message_object_id=id_)
        )
        self._answer(client, node, message)
        self.load.calls += 2
        self.load.messages.append(time.monotonic() - began)

    def _pull(self, client: FleetHttpClient, request: PullObjectRequest) -> None:
        """Ask until the object is there: a message can be had before all of it is."""
        while True:
            pulled = client.PullObject(request)
            self.load.calls += 1
            if pulled.object_available or self._over.wait(AGAIN_S):
                return

    def _answer(self, client: FleetHttpClient, node: Node, message: Message) -> None:
        own = ConfigRecord({"bytes": self._reply, "node": str(node.node_id)})
        reply = Message(RecordDict({"own": own}), reply_to=message)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        objects = get_all_nested_objects(reply)
        pushed = client.PushMessages(
            PushMessagesRequest(
                node=node,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[get_object_tree(reply)],
                clientapp_runtime_list=[0.0],
            )
        )
        for id_ in pushed.objects_to_push:
            client.PushObject(
                PushObjectRequest(
                    node=node,
                    run_id=reply.metadata.run_id,
                    session_id=pushed.session_id,
                    object_id=id_,
                    object_content=objects[id_].deflate(),
                )
            )
            self.load.calls += 1
