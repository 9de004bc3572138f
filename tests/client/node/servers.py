"""A server that is a list: what a node's link would say, and how it can fail."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto import message_pb2
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from tacit.client.node import flower
from tacit.client.node.flower import Delivery, Reply

NODE = 77
BUNDLE = "a" * 64


@dataclass
class Server:
    """Stands in for a Link. `failures` has, by the name of a call, what it raises next."""

    inbox: list[Delivery] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    bundles: dict[int, tuple[str, bytes]] = field(default_factory=dict)
    failures: dict[str, list[Exception]] = field(default_factory=lambda: defaultdict(list))
    calls: list[str] = field(default_factory=list)
    replies: list[tuple[message_pb2.Message, message_pb2.ObjectTree]] = field(default_factory=list)
    brought: dict[str, bytes] = field(default_factory=dict)
    empty: Callable[[], None] = lambda: None  # what to do when a node finds no message

    def sends(
        self, kind: str, run: int = 5, ttl: float = 30.0, content: RecordDict | None = None
    ) -> Delivery:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run, 1
        try:
            message = Message(
                content or RecordDict({"c": ConfigRecord({"n": len(self.inbox)})}),
                NODE,
                kind,
                group_id="4",
                ttl=ttl,
            )
        finally:
            TaskIdentity._task_id = TaskIdentity._run_id = TaskIdentity._node_id = None
        nested = get_all_nested_objects(message)
        self.objects |= {name: each.deflate() for name, each in nested.items()}
        message.metadata.__dict__["_message_id"] = message.object_id
        head = message_to_proto(remove_content_from_message(message))
        delivery = Delivery(message_from_proto(head), get_object_tree(message))
        self.inbox.append(delivery)
        return delivery

    def answers(self) -> list[Message]:
        """What came back, whole."""
        return [
            flower.received(Delivery(message_from_proto(head), tree), dict(self.brought))
            for head, tree in self.replies
        ]

    def activate(self) -> int:
        self._called("activate")
        return NODE

    def deactivate(self) -> None:
        self._called("deactivate")

    def beat(self) -> None:
        self._called("beat")

    def pull(self) -> Delivery | None:
        self._called("pull")
        if not self.inbox:
            self.empty()
            return None
        return self.inbox.pop(0)

    def run(self, run: int) -> Run:
        self._called("run")
        found = Run.create_empty(run)
        found.series_id = run
        found.fab_hash = self.bundles.get(run, (BUNDLE, b""))[0]
        found.fab_id, found.fab_version = "maker/brought", "1.0.0"
        return found

    def bundle(self, run: Run) -> bytes:
        self._called("bundle")
        return self.bundles[run.run_id][1]

    def pull_object(self, run: int, name: str) -> bytes:
        self._called("pull_object")
        return self.objects[name]

    def confirm(self, delivery: Delivery) -> None:
        self._called("confirm")

    def push(self, reply: Reply, seconds: float) -> tuple[set[str], str]:
        self._called("push")
        head = message_pb2.Message.FromString(reply.message)
        self.replies.append((head, message_pb2.ObjectTree.FromString(reply.tree)))
        return set(reply.objects) - self.brought.keys(), "session"

    def push_object(self, run: int, session: str, name: str, content: bytes) -> None:
        self._called("push_object")
        self.brought[name] = content

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.failures[name]:
            raise self.failures[name].pop(0)
