"""One stage: every node is accounted for, whatever Flower makes of the messages."""

import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from tacit.server import legs
from tacit.server.entries import LONGEST_REASON
from tacit.server.flower import (
    SERVER_NODE_ID,
    ErrorCode,
    NodeInfo,
    Run,
    assign_message_id,
    identity,
)
from tacit.server.legs import (
    BATCH,
    SILENCE,
    Answer,
    Requests,
    Steps,
    finish,
    reason_of,
    side_by_side,
)

Says = Callable[[Message], Message | None]
RUN = 1


@pytest.fixture(autouse=True)
def _task() -> Iterator[None]:
    with identity(RUN):
        yield


def content(number: int) -> RecordDict:
    return RecordDict({"c": ConfigRecord({"n": number})})


def leg(
    grid: Grid, requests: Requests, kind: str, *, round: int, deadline: float
) -> Iterator[Answer]:
    """A leg's answers, and not where it waits."""
    heard = legs.leg(grid, requests, kind, round=round, deadline=deadline)
    return (answer for answer in heard if answer is not None)


def number(content: RecordDict | None) -> int:
    assert content is not None
    value = content.config_records["c"]["n"]
    assert isinstance(value, int)
    return value


class FakeGrid(Grid):
    """A grid whose nodes say what `says` says, once `after[node]` pulls have been made.

    Errors come from the SuperLink, node 1, as SuperLink's own do; `unsendable` nodes get no
    message id, as HttpGrid has it.
    """

    def __init__(
        self,
        says: Says | None = None,
        *,
        after: dict[int, int] | None = None,
        unsendable: set[int] | None = None,
        lost: bool = False,
    ) -> None:
        self.says = says or (lambda m: Message(m.content, reply_to=m))
        self.after = after or {}
        self.unsendable = unsendable or set()
        self.lost = lost
        self.sent: list[Message] = []
        self.open: dict[str, Message] = {}
        self.pushes: list[int] = []
        self.pulls: list[int] = []
        self.pushed_before_a_pull = 0

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids: list[Any] = []
        self.pushes.append(len([*messages]))  # as HttpGrid: it walks over them twice
        for message in messages:
            node = message.metadata.dst_node_id
            if node in self.unsendable:
                ids.append(None)
                continue
            id_ = f"m{len(self.sent)}"
            assign_message_id(message, id_)
            self.sent.append(message)
            self.open[id_] = message
            ids.append(id_)
        return [] if self.lost else ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        asked = list(message_ids)
        self.pushed_before_a_pull = self.pushed_before_a_pull or len(self.pushes)
        self.pulls.append(len(asked))
        for id_ in asked:
            message = self.open.get(id_)
            if message is None:  # Flower hands each reply over once
                continue
            node = message.metadata.dst_node_id
            self.after[node] = self.after.get(node, 0) - 1
            if self.after[node] >= 0:
                continue
            reply = self.says(message)
            if reply is not None:
                del self.open[id_]
                yield reply

    def set_run(self, run: Run) -> None:
        raise AssertionError("a leg does not set runs")

    @property
    def run(self) -> Run:
        raise AssertionError("a leg needs no run")

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        raise AssertionError("deprecated")

    def get_node_ids(self) -> Iterable[int]:
        raise AssertionError("the caller knows its nodes")

    def get_nodes(self) -> Iterable[NodeInfo]:
        raise AssertionError("the caller knows its nodes")

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        raise AssertionError("a leg polls by itself")


def superlinks_error(message: Message, code: int = ErrorCode.UNKNOWN) -> Message:
    reply = Message(Error(code, "said by SuperLink"), reply_to=message)
    reply.metadata.__dict__["_src_node_id"] = SERVER_NODE_ID
    return reply


def test_everyone_answers_as_they_are_heard() -> None:
    grid = FakeGrid(after={12: 2})
    answers = list(leg(grid, {n: content(n) for n in (11, 12, 13)}, "query.x", round=3, deadline=5))
    assert [(a.node, number(a.content)) for a in answers] == [(11, 11), (13, 13), (12, 12)]
    for message in grid.sent:
        assert message.metadata.ttl == 5  # Flower does not cancel: the message's life does
        assert message.metadata.group_id == "3"
        assert message.metadata.message_type == "query.x"


def test_an_error_of_superlinks_is_the_nodes_it_is_about() -> None:
    """Its source is the SuperLink, node 1: only the message it answers says who is meant."""
    grid = FakeGrid(lambda m: superlinks_error(m) if m.metadata.dst_node_id == 12 else None)
    answers = list(leg(grid, {n: content(n) for n in (11, 12)}, "query.x", round=1, deadline=0.05))
    assert [(a.node, a.content, a.reason) for a in answers] == [
        (12, None, "said by SuperLink"),
        (11, None, "no answer within 0.05 s"),
    ]


@pytest.mark.parametrize("code", SILENCE)
def test_what_superlink_says_of_a_silent_node_is_silence(code: int) -> None:
    grid = FakeGrid(lambda m: superlinks_error(m, code))
    (answer,) = leg(grid, {11: content(1)}, "query.x", round=1, deadline=5)
    assert answer == Answer(11, None, "no answer")


def test_a_leg_ends_at_its_deadline_and_not_before() -> None:
    grid = FakeGrid(lambda m: None)
    began = time.monotonic()
    answers = list(leg(grid, {n: content(n) for n in (11, 12)}, "query.x", round=1, deadline=0.2))
    took = time.monotonic() - began
    assert [(a.node, a.content) for a in answers] == [(11, None), (12, None)]
    # The longest pause between two questions is 0.25 s; a busy machine may add to it.
    assert 0.2 <= took < 2
    assert len(grid.pulls) < 40, "it polls in a tight loop"


def test_what_comes_after_the_deadline_is_not_heard_by_the_next_leg() -> None:
    grid = FakeGrid(after={11: 10_000})
    list(leg(grid, {11: content(1)}, "query.x", round=1, deadline=0.05))
    grid.after = {}  # now it would come
    (answer,) = leg(grid, {11: content(2)}, "query.x", round=1, deadline=5)
    assert number(answer.content) == 2


def test_a_reply_to_nothing_we_asked_is_passed_over() -> None:
    def says(message: Message) -> Message:
        reply = Message(message.content, reply_to=message)
        if message.metadata.dst_node_id == 12:
            reply.metadata.__dict__["_reply_to_message_id"] = "another leg's"
        return reply

    answers = list(
        leg(FakeGrid(says), {n: content(n) for n in (11, 12)}, "query.x", round=1, deadline=0.05)
    )
    assert [a.node for a in answers if a.content is not None] == [11]
    assert [a.reason for a in answers if a.content is None] == ["no answer within 0.05 s"]


@pytest.mark.parametrize("lost", [False, True])
def test_messages_that_cannot_be_sent_are_told_of_at_once(lost: bool) -> None:
    """None in the place of an id, or no ids at all when SuperLink finds the lot too large."""
    grid = FakeGrid(unsendable={12}, lost=lost)
    began = time.monotonic()
    answers = {
        a.node: a
        for a in leg(grid, {n: content(n) for n in (11, 12)}, "query.x", round=1, deadline=30)
    }
    assert time.monotonic() - began < 5
    assert answers[12].reason == "the message could not be sent"
    assert (answers[11].content is None) == lost


def test_replies_are_asked_for_in_batches() -> None:
    """A lazy engine then holds no more than a batch of them at once."""
    nodes = range(100, 100 + 2 * BATCH + 5)
    grid = FakeGrid()
    answers = leg(grid, {n: content(n) for n in nodes}, "query.x", round=1, deadline=5)
    next(answers)
    assert grid.pulls == [BATCH]
    assert len(list(answers)) == len(nodes) - 1
    assert grid.pulls == [BATCH, BATCH, 5]


def test_a_mapping_is_sent_together() -> None:
    """An engine shares what its messages have in common, such as a model, among these."""
    grid = FakeGrid()
    requests = {n: content(n) for n in range(100, 100 + 2 * BATCH)}
    assert len(list(leg(grid, requests, "query.x", round=1, deadline=5))) == len(requests)
    assert grid.pushes == [len(requests)]


def test_requests_of_an_iterator_are_made_and_held_a_batch_at_a_time() -> None:
    nodes = range(100, 100 + 2 * BATCH + 5)
    made: list[weakref.ref[RecordDict]] = []

    def requests() -> Iterator[tuple[int, RecordDict]]:
        for node in nodes:
            request = content(node)
            made.append(weakref.ref(request))
            yield node, request

    held = []

    class Letting(FakeGrid):
        """Keeps no message that it has an answer to."""

        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            held.append(sum(request() is not None for request in made))
            ids = super().push_messages(messages)
            self.sent = [Message(RecordDict(), 1, "query.x") for _ in self.sent]
            return ids

    grid = Letting(
        lambda m: Message(RecordDict(), reply_to=m), unsendable={101, 200}, after={150: 3}
    )
    answers = list(leg(grid, requests(), "query.x", round=1, deadline=5))
    assert sorted(a.node for a in answers) == list(nodes)
    assert {a.node for a in answers if a.content is None} == {101, 200} & set(nodes)
    assert grid.pushes == [BATCH, BATCH, 5]
    # What was sent before and has no answer yet, and the last one that its maker still holds.
    assert held[0] <= BATCH
    assert max(held) <= BATCH + 2


def test_a_slow_maker_of_requests_has_one_deadline_for_all() -> None:
    def requests() -> Iterator[tuple[int, RecordDict]]:
        for node in range(100, 100 + BATCH + 1):
            if node == 100 + BATCH:
                time.sleep(0.8)
            yield node, content(node)

    grid = FakeGrid(lambda m: None)
    began = time.monotonic()
    answers = list(leg(grid, requests(), "query.x", round=1, deadline=1))
    took = time.monotonic() - began
    assert len(answers) == BATCH + 1
    assert 1 <= took < 1 + 0.8  # a deadline of its own for the last would take that much longer
    assert {message.metadata.ttl for message in grid.sent} == {1}


def test_legs_side_by_side_are_all_sent_before_any_is_waited_for() -> None:
    """And the pauses of many take no longer than those of one."""
    grid = FakeGrid(lambda m: None)

    def steps(node: int) -> Steps[list[str]]:
        reasons = []
        for answer in legs.leg(grid, {node: content(1)}, "query.x", round=1, deadline=0.3):
            if answer is None:
                yield
                continue
            reasons.append(answer.reason)
        return reasons

    began = time.monotonic()
    found = finish(side_by_side([steps(node) for node in range(100, 120)]))
    took = time.monotonic() - began
    assert found == [["no answer within 0.3 s"]] * 20
    assert took < 2, "one after the other they take 6 s"
    assert len(grid.pushes) == 20
    assert grid.pushed_before_a_pull == 20


def test_what_came_while_others_worked_is_heard_after_the_deadline() -> None:
    grid = FakeGrid(after={11: 1})
    heard = legs.leg(grid, {11: content(1)}, "query.x", round=1, deadline=0.05)
    assert [next(heard), next(heard)] == [None, None]  # sent; asked for once, in vain
    time.sleep(0.1)  # the work of others
    answer = next(heard)
    assert answer is not None
    assert number(answer.content) == 1


def test_one_that_fails_ends_the_others() -> None:
    ended = []

    def waits() -> Steps[int]:
        try:
            while True:
                yield
        finally:
            ended.append(1)

    def fails() -> Steps[int]:
        yield
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        finish(side_by_side([waits(), fails(), waits()]))
    assert ended == [1, 1]


def test_each_result_is_in_its_place() -> None:
    def steps(count: int) -> Steps[int]:
        for _ in range(count):
            yield
        return count

    assert finish(side_by_side([steps(3), steps(0), steps(2)])) == [3, 0, 2]
    assert finish(steps(4)) == 4
    assert finish(side_by_side(list[Steps[int]]())) == []


def test_nobody_to_ask() -> None:
    assert list(leg(FakeGrid(), {}, "query.x", round=1, deadline=5)) == []
    assert list(leg(FakeGrid(), iter([]), "query.x", round=1, deadline=5)) == []


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("plain words", "plain words"),
        ("", "error 2"),
        ("two\nlines\r\n", "two lines  "),
        ("\x1b[31mred\x1b[0m", " [31mred [0m"),
        ("a\u202eb\x00", "a b "),
        ("x" * LONGEST_REASON, "x" * LONGEST_REASON),
        ("x" * 10_000, "x" * LONGEST_REASON + "..."),
    ],
)
def test_a_devices_error_is_one_harmless_line(said: str, shown: str) -> None:
    """What a device says ends up in logs and on terminals: no control codes, no flood."""
    message = Message(RecordDict(), 11, "query.x")
    assign_message_id(message, "m")
    assert reason_of(Message(Error(2, said), reply_to=message)) == shown
