"""`PlainGrid`: averaging in the clear, with every reply checked before a strategy sees it."""

from collections.abc import Iterable

from flwr.app import Message
from flwr.serverapp import Grid

from tacit.crypto.errors import ParameterError
from tacit.server.broadcast import Arrays, Broadcast
from tacit.server.events import LeftOut, OnEvent, unheard
from tacit.server.filter import Form, ReplyFilter, usual_form
from tacit.server.inbox import Seen, Tap
from tacit.server.legs import reason_of
from tacit.server.wrapped import WrappedGrid


class PlainGrid(WrappedGrid):
    """Passes on the replies that hold, and tells of the others; queries pass through.

    Here the server sees every single update, and so does whoever watches it: the `tap` gets one
    `Seen` for each device.
    """

    def __init__(
        self,
        inner: Grid,
        filter: ReplyFilter | None = None,
        *,
        on_event: OnEvent | None = None,
        tap: Tap | None = None,
    ) -> None:
        super().__init__(inner)
        self._filter = filter or ReplyFilter()
        self._on_event = on_event or unheard
        self._tap = tap

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        asked = list(messages)
        if not asked or asked[0].metadata.message_type.startswith("query"):
            return self.inner.send_and_receive(asked, timeout=timeout)
        broadcast = Broadcast.of(asked)
        replies = list(self.inner.send_and_receive(asked, timeout=timeout))
        # SuperLink is the source of the errors it makes up: go by the message that is answered.
        sent = {m.metadata.message_id: m.metadata.dst_node_id for m in asked}
        sent.pop("", None)
        silent = dict.fromkeys(broadcast.nodes)
        usual = usual_form([reply.content for reply in replies if reply.has_content()])
        model = broadcast.model if broadcast.kind.startswith("train") else None
        kept = []
        for reply in replies:
            node = sent.get(reply.metadata.reply_to_message_id, reply.metadata.src_node_id)
            silent.pop(node, None)
            try:
                self._take(broadcast.round, node, reply, model, usual)
                kept.append(reply)
            except ParameterError as refused:
                self._leave_out(broadcast.round, node, "filter", str(refused))
        for node in silent:
            self._leave_out(broadcast.round, node, "report", "no answer")
        return kept

    def _take(
        self, round: int, node: int, reply: Message, model: Arrays | None, usual: Form | None
    ) -> None:
        """Check one reply and show it to the tap. Raises ParameterError if it does not hold."""
        if reply.has_error():
            raise ParameterError(reason_of(reply))
        weight = self._filter.weight(reply.content, usual)
        if model is not None:
            update = self._filter.update(reply.content, model)
            if self._tap is not None:
                self._tap(Seen(round, model, update, 1, weight, "plain", (node,)))

    def _leave_out(self, round: int, node: int, stage: str, reason: str) -> None:
        self._on_event(LeftOut(round, stage, node, reason))
