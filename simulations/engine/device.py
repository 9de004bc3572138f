"""The devices of a simulation: who they are, what they remember, how one handles a message."""

import os
import traceback
from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import Context, Message, RecordDict, UserConfigValue
from flwr.clientapp import ClientApp

from tacit.server.flower import ErrorCode, envelope, error_reply
from tacit.simulations.engine.faults import Plan

FIRST_NODE_ID = 1000
CRASH_EXIT_CODE = 70


class DeviceCrashError(RuntimeError):
    """A device that was told to die, in an engine where devices have no process of their own."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A device's reply and, if it raised, the traceback for the log."""

    reply: Message
    trace: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One message on its way to one device.

    `message` is the device's own copy. `life` is what is left of the message's time to live when
    it is sent, in seconds; once it has passed the message is not handled any more.
    """

    message: Message
    plan: Plan
    life: float

    @property
    def id(self) -> str:
        return self.message.metadata.message_id

    @property
    def node(self) -> int:
        return self.message.metadata.dst_node_id


class Fleet:
    """The devices by node id: partition p is node 1000 + p. Contexts are made when first used."""

    def __init__(
        self, devices: int, run_id: int, run_config: Mapping[str, UserConfigValue]
    ) -> None:
        self.nodes = range(FIRST_NODE_ID, FIRST_NODE_ID + devices)
        self._run_id = run_id
        self._run_config = dict(run_config)
        self._contexts: dict[int, Context] = {}

    def partition(self, node: int) -> int:
        """The partition id of a node of this fleet."""
        return node - FIRST_NODE_ID

    def context(self, node: int) -> Context:
        """What the device remembers: the same object in every message, until `keep` replaces it."""
        context = self._contexts.get(node)
        if context is None:
            context = self._contexts[node] = Context(
                run_id=self._run_id,
                node_id=node,
                node_config={
                    "partition-id": self.partition(node),
                    "num-partitions": len(self.nodes),
                },
                state=RecordDict(),
                run_config=dict(self._run_config),
            )
        return context

    def keep(self, context: Context) -> None:
        """Remember a context that came back from another process."""
        self._contexts[context.node_id] = context


def handle(app: ClientApp, message: Message, context: Context, crash: bool = False) -> Answer:
    """Let the device handle a message. It always answers: an exception becomes an error reply.

    The reason is `<ErrorName>: <message>`, for the server's user to read. What the device changed
    in its context before it raised stays changed, as on a real device.
    """
    try:
        if crash:
            raise DeviceCrashError(
                f"device {context.node_config['partition-id']} was told to crash"
            )
        reply = app(message, context)
        if not isinstance(reply, Message):
            raise TypeError(f"the ClientApp returned {type(reply).__name__}, expected a Message")
        if reply.metadata.reply_to_message_id != message.metadata.message_id:
            raise ValueError("the ClientApp's reply was not built with reply_to=message")
    except (Exception, SystemExit) as error:  # noqa: BLE001
        # A device may raise anything, and may call sys.exit: that ends the device's work on this
        # message and nothing else.
        reason = f"{type(error).__name__}: {error}"
        code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
        return Answer(error_reply(message, code, reason), traceback.format_exc())
    # A copy: what the server does to a reply must not reach what the device kept of it.
    return Answer(envelope(reply))


def die() -> None:
    """End this process as a device that loses power: nothing is flushed, no one is told."""
    os._exit(CRASH_EXIT_CODE)
