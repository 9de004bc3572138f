"""One stage over Flower: ask many nodes, hear each answer as it comes, and who never answered.

Work that waits for nodes is a generator of Steps: it yields where it can only wait, so that other
such work can go on meanwhile, in the same thread and in the same order every time.
"""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias, TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from tacit.server.entries import one_line
from tacit.server.flower import ErrorCode

# What Flower says in a node's place when its time is up.
SILENCE = (
    ErrorCode.MESSAGE_UNAVAILABLE,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    ErrorCode.NODE_UNAVAILABLE,
)
BATCH = 32  # messages in memory: replies asked for at once, requests that are made one by one
Requests: TypeAlias = Mapping[int, RecordDict] | Iterator[tuple[int, RecordDict]]  # by node
T = TypeVar("T")
Steps: TypeAlias = Generator[None, None, T]
_SHORTEST_WAIT = 0.001
_LONGEST_WAIT = 0.25  # Flower's own grid polls every 3 s, which is most of a stage's time


@dataclass(frozen=True, slots=True)
class Answer:
    """What one node said: `content`, or None and the reason; `refused` if it said no."""

    node: int
    content: RecordDict | None
    reason: str = ""
    refused: bool = False


def finish(steps: Steps[T]) -> T:
    """Take all steps; what comes of it."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: T = done.value
            return result


def side_by_side(each: Sequence[Steps[T]]) -> Steps[list[T]]:
    """One step of each, in turn, until all are done; what comes of each, in order.

    What one raises ends the others too.
    """
    results: dict[int, T] = {}
    with ExitStack() as stack:
        left = {at: stack.enter_context(closing(steps)) for at, steps in enumerate(each)}
        while left:
            for at, steps in list(left.items()):
                try:
                    next(steps)
                except StopIteration as done:
                    results[at] = done.value
                    del left[at]
            if left:
                yield
    return [results[at] for at in range(len(each))]


def pause(seconds: float) -> Steps[None]:
    """Wait, while others go on."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        yield None
        time.sleep(min(left, _LONGEST_WAIT))


def leg(
    grid: Grid, requests: Requests, kind: str, *, round: int, deadline: float
) -> Iterator[Answer | None]:
    """Send each node its request and yield one Answer for every node; None for a step of waiting.

    Requests in a mapping are sent together, so that an engine can share what they have in common.
    Those of an iterator, each node once, are made and sent a batch at a time, and answers are taken
    in between, so that no more than a batch is held here. (SuperLink keeps what it was sent.)

    Answers come as they arrive; `deadline` seconds after the first request was sent the silent
    nodes follow, content None. The messages' time to live is the deadline, since Flower does not
    cancel a message by itself. Errors are told apart by the message they answer, because the source
    of an error made by the SuperLink is the SuperLink.
    """
    end = time.monotonic() + deadline
    waiting: dict[str, int] = {}
    heard = False
    for messages in _messages(requests, kind, round, deadline):
        nodes = [message.metadata.dst_node_id for message in messages]
        ids = list(grid.push_messages(messages))
        messages.clear()  # or they are there until the next are
        sent = {identity: node for identity, node in zip(ids, nodes, strict=False) if identity}
        for node in set(nodes) - set(sent.values()):
            yield Answer(node, None, "the message could not be sent")
        waiting |= sent
        yield None  # legs side by side: all are sent before any is waited for
        heard = yield from _hear(grid, waiting)
    wait, is_over = _SHORTEST_WAIT, False
    while waiting and not is_over:
        wait = _SHORTEST_WAIT if heard else min(2 * wait, _LONGEST_WAIT)
        if not heard:
            again = time.monotonic() + wait
            yield None
            time.sleep(max(0.0, again - time.monotonic()))  # others may have used up the time
        is_over = time.monotonic() >= end  # and all of it: what came meanwhile is heard
        heard = yield from _hear(grid, waiting)
    for node in waiting.values():
        yield Answer(node, None, f"no answer within {deadline:g} s")


def _messages(
    requests: Requests, kind: str, round: int, deadline: float
) -> Iterator[list[Message]]:
    """The messages to be sent together. Lists, since Flower's own grid walks over them twice."""
    together = len(requests) if isinstance(requests, Mapping) else BATCH
    pairs = requests.items() if isinstance(requests, Mapping) else requests
    made = (
        Message(content, node, kind, ttl=deadline, group_id=str(round)) for node, content in pairs
    )
    while batch := list(islice(made, together)):
        yield batch


def _hear(grid: Grid, waiting: dict[str, int]) -> Generator[Answer, None, bool]:
    """The answers that are there, taken off `waiting`; whether there were any."""
    heard = False
    for reply in _pull(grid, list(waiting)):
        answered = waiting.pop(reply.metadata.reply_to_message_id, None)
        if answered is not None:
            heard = True
            yield _answer(answered, reply)
    return heard


def _pull(grid: Grid, ids: list[str]) -> Iterator[Message]:
    rest = iter(ids)
    while batch := list(islice(rest, BATCH)):
        yield from grid.pull_messages(batch)


def _answer(node: int, reply: Message) -> Answer:
    if reply.has_error() and reply.error.code in SILENCE:
        return Answer(node, None, "no answer")
    if reply.has_error():
        return Answer(node, None, reason_of(reply), refused=True)
    return Answer(node, reply.content)


def reason_of(reply: Message) -> str:
    """What an error reply says, as one line that is safe to print: the text is a stranger's."""
    return one_line(reply.error.reason or f"error {reply.error.code}")
