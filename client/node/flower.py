"""Everything a device's node uses of Flower that is not Flower's public API: here and nowhere else.

Flower moves its internals at every minor release. One module to change then, and
tests/client/node/test_flower_node.py says in words what has moved. `tacit.server.flower` is the
server's.

A node speaks to SuperLink's Fleet API by Flower's own client, one call at a time. It does not start
Flower's SuperNode: that holds an HTTP server of its own, through which each message goes once more,
and a second process that asks it for work, and by 1.41 they end the process whenever the server
turns them away.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import httpx
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from flwr.app import Context, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.clientapp.client_app import LoadClientAppError
from flwr.clientapp.utils import get_load_client_app_fn
from flwr.common.config import get_fused_config_from_fab
from flwr.common.constant import HEARTBEAT_MIN_INTERVAL, ErrorCode
from flwr.common.serde import (
    message_from_proto,
    message_to_proto,
    recorddict_from_proto,
    recorddict_to_proto,
    run_from_proto,
)
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.node_pb2 import Node as ProtoNode
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors.http.utils import add_headers
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.run import Run
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

__all__ = [
    "Config",
    "Delivery",
    "ErrorCode",
    "Link",
    "LoadClientAppError",
    "Reply",
    "Run",
    "RunOver",
    "TurnedAway",
    "Unreachable",
    "context",
    "error_reply",
    "install",
    "received",
    "sent",
]

Config: TypeAlias = dict[str, bool | int | float | str]
"""What a node's owner tells the app about this device: Flower's node config."""

HEARTBEAT = HEARTBEAT_MIN_INTERVAL
"""In so many seconds the server wants to hear from a node; it waits for two of them."""

LONGEST = 24 * 3600.0
"""Seconds that a node works for one answer, whatever the server says."""

_HASH = re.compile("[0-9a-f]{64}")
_SHOWN = 80  # characters of a server's text

_WHO, _RUN_OVER, _TRY_AGAIN, _THE_SERVERS_FAULT = 401, 403, (408, 429), 500
_NO_WORDS = ("nothing", "Invalid SuperNode authentication")


class Unreachable(Exception):
    """No server answered, or it could not just now. Trying again may help."""


class TurnedAway(Exception):
    """A server answered, and not this device; or it is not this device's server."""


class RunOver(Exception):
    """The run has ended on the server, and with it every message of it."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message without its content, and the ids of the objects that its content is made of."""

    message: Message
    tree: Any = field(repr=False)

    @property
    def id(self) -> str:
        return str(self.message.metadata.message_id)

    @property
    def run(self) -> int:
        return int(self.message.metadata.run_id)

    @property
    def kind(self) -> str:
        """Of the server's choice, and fit to be shown."""
        return _shown(self.message.metadata.message_type)

    @property
    def round(self) -> str:
        """Of the server's choice, and fit to be shown."""
        return _shown(self.message.metadata.group_id)

    @property
    def ttl(self) -> float:
        """For how many seconds an answer is of use."""
        said = float(self.message.metadata.ttl)
        return min(max(said, 0.0), LONGEST) if said == said else 0.0  # a server may say NaN

    @property
    def objects(self) -> list[str]:
        return [each.object_id for each in iterate_object_tree(self.tree)]

    def encode(self, objects: Mapping[str, bytes], state: bytes | None) -> list[bytes]:
        """The whole message with its objects, and its app's state, for another process."""
        head = message_to_proto(self.message).SerializeToString()
        return [head, self.tree.SerializeToString(), *_packed(objects, state)]

    @classmethod
    def decode(cls, parts: list[bytes]) -> "tuple[Delivery, dict[str, bytes], bytes | None]":
        head, tree, *rest = parts
        message = message_from_proto(ProtoMessage.FromString(head))
        objects, state = _unpacked(rest)
        return cls(message, ObjectTree.FromString(tree)), objects, state


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it goes out: its head and tree in Flower's encoding, its objects by their ids,
    and what the app leaves for its next message, if it did."""

    message: bytes = field(repr=False)
    tree: bytes = field(repr=False)
    objects: Mapping[str, bytes] = field(repr=False)
    state: bytes | None = field(default=None, repr=False)

    def encode(self) -> list[bytes]:
        """For another process."""
        return [self.message, self.tree, *_packed(self.objects, self.state)]

    @classmethod
    def decode(cls, parts: list[bytes]) -> "Reply":
        message, tree, *rest = parts
        return cls(message, tree, *_unpacked(rest))


def _packed(objects: Mapping[str, bytes], state: bytes | None) -> list[bytes]:
    named = [part for name, content in objects.items() for part in (name.encode(), content)]
    return [b"" if state is None else b"\x01" + state, *named]


def _unpacked(parts: list[bytes]) -> tuple[dict[str, bytes], bytes | None]:
    state, *named = parts
    names = (name.decode() for name in named[::2])
    return dict(zip(names, named[1::2], strict=True)), state[1:] if state else None


class Link:
    """One node's calls to its server. Each raises Unreachable, TurnedAway or RunOver."""

    def __init__(self, address: str, ca: bytes, key: EllipticCurvePrivateKey) -> None:
        self._client = FleetHttpClient.from_server_address(
            address,
            insecure=False,
            root_certificates=ca,
            interceptors=[_Version(), NodeAuthHttpInterceptor(key, key.public_key())],
        )
        self._public = public_key_to_bytes(key.public_key())
        self._node = ProtoNode()

    def activate(self) -> int:
        """Be online there, and this node's number."""
        request = ActivateNodeRequest(public_key=self._public, heartbeat_interval=HEARTBEAT)
        with _translated():
            self._node = ProtoNode(node_id=self._client.ActivateNode(request).node_id)
        return int(self._node.node_id)

    def deactivate(self) -> None:
        with _translated():
            self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._node.node_id))

    def beat(self) -> None:
        """Say that this node is there."""
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT)
        with _translated():
            known = self._client.SendNodeHeartbeat(request).success
        if not known:
            raise TurnedAway("the server has put out this device's key")

    def pull(self) -> Delivery | None:
        """The next message, if there is one. The server gives each out once."""
        with _translated():
            got = self._client.PullMessages(PullMessagesRequest(node=self._node))
            if not got.messages_list:
                return None
            head, tree = got.messages_list[0], got.message_object_trees[0]
            return Delivery(message_from_proto(head), tree)

    def run(self, run: int) -> Run:
        with _translated():
            found = run_from_proto(
                self._client.GetRun(GetRunRequest(node=self._node, run_id=run)).run
            )
        if not _HASH.fullmatch(found.fab_hash):
            raise TurnedAway("the server named a bundle that no bundle can be")
        return found

    def bundle(self, run: Run) -> bytes:
        """The run's FAB, as its hash says. Raises TurnedAway for another."""
        request = GetFabRequest(node=self._node, hash_str=run.fab_hash, run_id=run.run_id)
        with _translated():
            content = bytes(self._client.GetFab(request).fab.content)
        if hashlib.sha256(content).hexdigest() != run.fab_hash:
            raise TurnedAway("the server sent another bundle than the run's")
        return content

    def pull_object(self, run: int, name: str) -> bytes:
        """One object of a message. Raises Unreachable while the server has not got it either."""
        request = PullObjectRequest(node=self._node, run_id=run, object_id=name)
        with _translated():
            got = self._client.PullObject(request)
        if not got.object_found:
            raise RunOver(f"object {name[:8]} of the message is gone")
        if not got.object_available:
            raise Unreachable("the message is not all there yet")
        return bytes(got.object_content)

    def confirm(self, delivery: Delivery) -> None:
        """The server need not keep this message any longer."""
        request = ConfirmMessageReceivedRequest(
            node=self._node, run_id=delivery.run, message_object_id=delivery.id
        )
        with _translated():
            self._client.ConfirmMessageReceived(request)

    def push(self, reply: Reply, seconds: float) -> tuple[set[str], str]:
        """Announce an answer. Returns which of its objects the server wants, and their session."""
        request = PushMessagesRequest(
            node=self._node,
            messages_list=[ProtoMessage.FromString(reply.message)],
            message_object_trees=[ObjectTree.FromString(reply.tree)],
            clientapp_runtime_list=[seconds],
        )
        with _translated():
            got = self._client.PushMessages(request)
        return set(got.objects_to_push), str(got.session_id)

    def push_object(self, run: int, session: str, name: str, content: bytes) -> None:
        request = PushObjectRequest(
            node=self._node,
            run_id=run,
            object_id=name,
            object_content=content,
            session_id=session,
        )
        with _translated():
            stored = self._client.PushObject(request).stored
        if not stored:
            raise RunOver("the server does not take the answer any more")

    def close(self) -> None:
        self._client.close()


class _Version:
    """Says which Flower this is. Flower's own ends the process if the server has another one."""

    def __init__(self) -> None:
        self._headers = dict(RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata())

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        add_headers(context.request, self._headers)
        return call_next(context)


def received(delivery: Delivery, objects: dict[str, bytes]) -> Message:
    """The whole message. `objects` is emptied on the way."""
    message = inflate_object_from_contents(delivery.tree.object_id, objects)
    if not isinstance(message, Message):
        raise TypeError("what was delivered is no message")
    message.metadata.__dict__["_message_id"] = delivery.tree.object_id  # which is not in its bytes
    return message


def context(
    run: Run, bundle: bytes, node: int, config: Config, task: int, state: bytes | None
) -> Context:
    """What an app is told beside the message; and whose messages this process makes from now on."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = task, run.run_id, node
    records = RecordDict()
    if state is not None:
        records = recorddict_from_proto(ProtoRecordDict.FromString(state))
    return Context(
        run_id=run.run_id,
        node_id=node,
        node_config=config,
        state=records,
        run_config=get_fused_config_from_fab(bundle, run),
        series_id=run.series_id,
    )


def install(run: Run, bundle: bytes) -> ClientApp:
    """Unpack a bundle under FLWR_HOME and load its app, whose folder comes first from then on."""
    from flwr.cli.install import install_from_fab  # a web framework comes with it

    install_from_fab(bundle, skip_prompt=True)
    load = get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)
    return load(run.fab_id, run.fab_version, run.fab_hash)


def error_reply(message: Message, code: int, reason: str) -> Message:
    """The answer of whoever could not handle `message`."""
    return Message(Error(code=code, reason=reason), reply_to=message)


def sent(message: Message, state: RecordDict | None = None) -> Reply:
    """An answer, ready to go out."""
    message.metadata.__dict__["_message_id"] = message.object_id
    head = message_to_proto(remove_content_from_message(message))
    with no_object_id_recompute():
        tree = get_object_tree(message)
        objects = {name: each.deflate() for name, each in get_all_nested_objects(message).items()}
    kept = None if state is None else recorddict_to_proto(state).SerializeToString()
    return Reply(head.SerializeToString(), tree.SerializeToString(), objects, kept)


@contextmanager
def _translated() -> Iterator[None]:
    """Flower's and httpx's errors as ours."""
    try:
        yield
    except httpx.HTTPStatusError as bad:
        raise _refused(bad.response) from None
    except httpx.TransportError as bad:
        text = str(bad) or type(bad).__name__
        if "certificate" in text.lower():
            raise TurnedAway(f"this is not the device's server: {text}") from None
        raise Unreachable(text) from None
    except (IndexError, TypeError, ValueError) as bad:  # what came is not in Flower's encoding
        raise Unreachable(f"what answers there is no SuperLink: {_shown(str(bad))}") from None


def _refused(response: httpx.Response) -> Exception:
    status, words = response.status_code, _said(response)
    if status >= _THE_SERVERS_FAULT or status in _TRY_AGAIN:
        return Unreachable(f"the server is not ready (HTTP {status})")
    if status == _RUN_OVER:
        return RunOver(words)
    if status == _WHO and words in _NO_WORDS:
        return TurnedAway("the server does not take this device's signature")
    return TurnedAway(f"the server says: {words} (HTTP {status})")


def _said(response: httpx.Response) -> str:
    """The words of Flower's error, or the front's, if there are any."""
    try:
        return _shown(str(json.loads(response.text).get("detail", "nothing")), 4 * _SHOWN)
    except (ValueError, AttributeError):
        return "nothing"


def _shown(text: str, most: int = _SHOWN) -> str:
    """A stranger's text as one line without control characters."""
    return "".join(each if each.isprintable() else " " for each in text[:most])
