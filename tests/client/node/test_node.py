"""A device's node: what reaches an app, what does not, and what it survives."""

import logging
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.cli.build import build_fab_from_files
from flwr.clientapp import ClientApp

from tacit.app.deployment import bundle
from tacit.client.node.base import NoDiary, Refusal
from tacit.client.node.flower import LoadClientAppError, RunOver, TurnedAway, Unreachable
from tacit.client.node.node import KEPT, Node
from tacit.client.node.pace import BackOff
from tests.client.node.servers import BUNDLE, NODE, Server

TOLD = "TACIT_TEST_TOLD"  # a file for an app that hangs to write its process number to

app = ClientApp()


class Over(BaseException):
    """The test has seen enough."""


def reply(message: Message, **values: object) -> Message:
    return Message(RecordDict({"c": ConfigRecord(values)}), reply_to=message)


@app.query("who")
def who(message: Message, context: Context) -> Message:
    count = context.state.get("count", ConfigRecord({"n": 0}))
    count["n"] += 1
    context.state["count"] = count
    open_files = len(list(Path("/proc/self/fd").iterdir())) - 1  # the listing itself is one
    return reply(
        message,
        process=os.getpid(),
        count=count["n"],
        files=open_files,
        drawn=[random.random(), float(np.random.random())],  # noqa: NPY002 - as a bundle may,
        node=context.node_id,
        config=str(context.node_config),
        asked=message.content["c"]["n"],
    )


@app.query("raises")
def raises(message: Message, context: Context) -> Message:
    context.state["count"] = ConfigRecord({"n": 100})
    raise ValueError("no such patient")


@app.query("dies")
def dies(message: Message, context: Context) -> Message:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@app.query("hangs")
def hangs(message: Message, context: Context) -> Message:
    if told := os.environ.get(TOLD):
        Path(told).write_text(str(os.getpid()))
    time.sleep(60)
    raise AssertionError


@dataclass
class Kept(NoDiary):
    """A diary that is a list."""

    lines: list[tuple[object, ...]] = field(default_factory=list)

    def node_began(self) -> None:
        self.lines.append(("began",))

    def node_ended(self, reason: str) -> None:
        self.lines.append(("ended",))

    def connected(self, address: str, node: int) -> None:
        self.lines.append(("connected", node))

    def disconnected(self, reason: str) -> None:
        self.lines.append(("disconnected", reason))

    def message(self, kind: str, run: int, round: str) -> None:
        self.lines.append(("message", kind, run, round))

    def bundle_refused(self, bundle: str, run: int) -> None:
        self.lines.append(("bundle", bundle, run))

    def not_now(self, kind: str, run: int, reason: str) -> None:
        self.lines.append(("not now", kind, reason))

    def failed(self, kind: str, run: int, reason: str) -> None:
        self.lines.append(("failed", kind, reason))


@dataclass
class Bench:
    """A node and its server, run until the server has nothing more to say."""

    server: Server
    node: Node
    diary: Kept
    slept: list[float]

    def go(self) -> list[Message]:
        with pytest.raises(Over):
            self.node.serve()
        return self.server.answers()


@pytest.fixture
def bench() -> Iterator[Bench]:
    server, diary, slept = Server(), Kept(), []
    for run in range(20):
        server.bundles[run] = (BUNDLE, bundle.build())

    def enough() -> None:
        raise Over

    server.empty = enough
    node = Node(
        server,  # type: ignore[arg-type]
        "there:1",
        {"partition-id": 2},
        lambda each: each == BUNDLE,
        {BUNDLE: lambda: app},
        diary=diary,
        sleep=slept.append,
    )
    yield Bench(server, node, diary, slept)
    node._end_worker()


def test_a_message_is_answered_by_the_app_in_a_process_of_its_own(bench: Bench) -> None:
    bench.server.sends("query.who")
    (answer,) = bench.go()
    said = answer.content["c"]
    assert said["process"] != os.getpid()
    assert (said["count"], said["node"], said["asked"]) == (1, NODE, 0)
    assert said["config"] == "{'partition-id': 2}"
    assert bench.diary.lines == [
        ("began",),
        ("connected", NODE),
        ("message", "query.who", 5, "4"),
        ("ended",),
    ]
    assert bench.server.calls.count("confirm") == 1
    assert bench.server.calls[-1] == "deactivate"


def test_a_run_keeps_its_process_and_its_state_and_another_has_neither(bench: Bench) -> None:
    for run in (5, 5, 6, 5):
        bench.server.sends("query.who", run)
    said = [each.content["c"] for each in bench.go()]
    assert [each["count"] for each in said] == [1, 2, 1, 3]
    first, same, other, again = (each["process"] for each in said)
    assert first == same
    assert len({first, other, again}) == 3


def test_a_process_has_nothing_of_its_nodes_but_standard_streams_and_one_line(
    bench: Bench, tmp_path: Path
) -> None:
    with (tmp_path / "a secret").open("w"), (tmp_path / "another").open("w"):
        bench.server.sends("query.who")
        said = bench.go()[0].content["c"]
    assert said["files"] <= 4


def test_two_processes_do_not_draw_alike(bench: Bench) -> None:
    for run in (5, 6):
        bench.server.sends("query.who", run)
    one, other = (each.content["c"]["drawn"] for each in bench.go())
    assert one[0] != other[0]
    assert one[1] != other[1]


def test_a_bundle_that_the_owner_did_not_allow_reaches_no_app(bench: Bench) -> None:
    evil = "e" * 64
    bench.server.bundles[9] = (evil, b"never looked at")
    bench.server.sends("query.who", 9)
    bench.server.sends("query.who", 5)
    refused, answer = bench.go()
    assert refused.error.code == 7
    assert evil in refused.error.reason
    assert "tacit device allow" in refused.error.reason
    assert answer.has_content()
    assert ("bundle", evil, 9) in bench.diary.lines
    assert bench.server.calls.count("bundle") == 1, "it was not even fetched"


def test_what_the_owner_takes_back_holds_at_the_next_message(bench: Bench) -> None:
    allowed = iter([True, False])
    bench.node.may_run = lambda _: next(allowed)
    bench.server.sends("query.who")
    bench.server.sends("query.who")
    answer, refused = bench.go()
    assert answer.has_content()
    assert refused.error.code == 7


def test_a_message_at_the_wrong_time_is_not_fetched_and_only_its_owner_hears_why(
    bench: Bench,
) -> None:
    bench.node.allowed = lambda kind, now: Refusal(f"{kind} only at night") if now else None
    bench.server.sends("train")
    (refused,) = bench.go()
    assert (refused.error.code, refused.error.reason) == (6, "not now")
    assert ("not now", "train", "train only at night") in bench.diary.lines
    assert "pull_object" not in bench.server.calls
    assert bench.node._worker is None


def test_an_app_that_raises_says_so_and_keeps_what_it_changed(bench: Bench) -> None:
    """As Flower's own process has it."""
    bench.server.sends("query.raises")
    bench.server.sends("query.who")
    bad, good = bench.go()
    assert bad.error.code == 2
    assert bad.error.reason == "<class 'ValueError'>:<'no such patient'>"
    assert good.content["c"]["count"] == 101


def test_an_app_that_cannot_be_loaded(bench: Bench) -> None:
    def broken() -> ClientApp:
        raise LoadClientAppError("no such thing")

    bench.node.known = {BUNDLE: broken}
    bench.server.sends("query.who")
    (bad,) = bench.go()
    assert (bad.error.code, bad.error.reason) == (1, "no such thing")


def test_an_app_that_dies_is_reported_at_once_and_costs_nothing_else(bench: Bench) -> None:
    for kind in ("query.who", "query.dies", "query.who"):
        bench.server.sends(kind)
    began = time.monotonic()
    before, bad, after = bench.go()
    assert time.monotonic() - began < 10
    assert bad.error.code == 8
    assert "SIGKILL" in bad.error.reason
    assert [each.content["c"]["count"] for each in (before, after)] == [1, 2]
    assert [line for line in bench.diary.lines if line[0] == "failed"] == [
        ("failed", "query.dies", bad.error.reason)
    ]


def test_an_app_that_hangs_is_stopped_when_its_answer_is_of_no_use_any_more(bench: Bench) -> None:
    bench.server.sends("query.hangs", ttl=0.5)
    bench.server.sends("query.who")
    began = time.monotonic()
    late, after = bench.go()
    assert 0.5 <= time.monotonic() - began < 15
    assert late.error.code == 8
    assert "in time" in late.error.reason
    assert after.has_content()


def test_the_server_hears_of_a_device_whose_app_works_for_long(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tacit.client.node.flower.HEARTBEAT", 0.05)
    bench.server.failures["beat"] = [Unreachable("gone")]
    bench.server.sends("query.hangs", ttl=1.0)
    bench.node.retry = BackOff(0.05, 0.1)
    bench.node.sleep = lambda _: None
    assert len(bench.go()) == 1, "a heartbeat that fails ends no work"
    assert bench.server.calls.count("beat") > 4


def later(bench: Bench, *what: Callable[[], None]) -> None:
    """Do these one after another, whenever the node has found no message."""
    rest = iter(what)

    def next_one() -> None:
        try:
            then = next(rest)
        except StopIteration:
            raise Over from None
        then()

    bench.server.empty = next_one


def test_a_process_that_ended_while_it_waited_is_replaced(bench: Bench) -> None:
    def kill() -> None:
        os.kill(bench.server.answers()[0].content["c"]["process"], signal.SIGKILL)
        time.sleep(0.2)
        bench.server.sends("query.who")

    bench.server.sends("query.who")
    later(bench, kill)
    one, other = (each.content["c"] for each in bench.go())
    assert one["process"] != other["process"]
    assert (one["count"], other["count"]) == (1, 2)


def test_a_process_that_nobody_asks_any_more_ends(bench: Bench) -> None:
    ended: list[bool] = []

    def look() -> None:
        ended.append(bench.node._worker is None)

    bench.node.linger = 0.2
    bench.server.sends("query.who")
    later(bench, look, lambda: time.sleep(0.3), look)
    process = bench.go()[0].content["c"]["process"]
    assert ended == [False, True]
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_no_process_outlives_its_node(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even in the middle of its work, where the node is killed with no time to say anything."""
    told = tmp_path / "process"
    monkeypatch.setenv(TOLD, str(told))
    bench.server.sends("query.hangs")
    node = os.fork()
    if node == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, 2.0)
        bench.node.serve()
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(node, 0)[1]) == -signal.SIGALRM
    process = int(told.read_text())
    for _ in range(100):
        if not Path(f"/proc/{process}").exists() or _is_zombie(process):
            return
        time.sleep(0.05)
    pytest.fail("the app's process is still there")


def _is_zombie(process: int) -> bool:
    """Dead, and whoever inherited it has not looked yet."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_server_that_is_gone_is_waited_for_and_greeted_when_it_is_back(bench: Bench) -> None:
    bench.server.sends("query.who")

    def gone() -> None:
        bench.server.failures["pull"] = [Unreachable("no route")] * 12
        bench.server.failures["beat"] = [Unreachable("no route")] * 12
        bench.server.calls.clear()

    later(bench, gone, lambda: bench.server.sends("query.who"))
    assert len(bench.go()) == 2
    assert bench.server.calls.count("activate") == 0, "it is known there: a heartbeat does"
    back = bench.server.calls.index("pull", bench.server.calls.index("pull") + 1)
    assert bench.server.calls[back - 1] == "beat", "the first thing that a server hears"
    waits = [each for each in bench.slept if each > 0.5]
    assert len(waits) >= 12
    assert max(waits) <= 30 * 1.2
    assert [line[0] for line in bench.diary.lines].count("disconnected") == 1
    assert [line[0] for line in bench.diary.lines].count("connected") == 2


def test_a_node_that_is_turned_away_says_what_to_do_and_tries_slowly(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.server.failures["activate"] = [TurnedAway("the server says: revoked")] * 8
    bench.server.sends("query.who")
    with caplog.at_level(logging.INFO, "tacit.node"):
        assert len(bench.go()) == 1
    assert "the server says: revoked" in caplog.text
    assert "tacit device join" in caplog.text
    waits = bench.slept[:8]
    assert waits[0] >= 4
    assert waits[-1] >= 90
    assert ("disconnected",) not in {line[:1] for line in bench.diary.lines}, "it never was in"


def test_a_node_that_is_put_out_asks_to_be_let_in_again(bench: Bench) -> None:
    def put_out() -> None:
        bench.server.failures["pull"] = [TurnedAway("put out")]

    later(bench, put_out, lambda: bench.server.sends("query.who"))
    assert len(bench.go()) == 1
    assert bench.server.calls.count("activate") == 2


def test_what_has_come_over_is_not_fetched_again(bench: Bench) -> None:
    delivery = bench.server.sends("query.who")
    bench.server.failures["pull_object"] = [Unreachable("cut")] * 3
    (answer,) = bench.go()
    assert answer.has_content()
    assert bench.server.calls.count("pull_object") == len(delivery.objects) + 3


def test_an_answer_is_announced_once_and_all_of_it_brought(bench: Bench) -> None:
    bench.server.sends("query.who")
    bench.server.failures["push"] = [Unreachable("cut")]
    bench.server.failures["push_object"] = [Unreachable("cut")] * 3
    (answer,) = bench.go()
    assert answer.has_content()
    assert bench.server.calls.count("push") == 2
    assert bench.server.calls.count("push_object") == len(bench.server.brought) + 3


def test_a_message_whose_time_is_up_is_given_up_and_the_next_one_answered(bench: Bench) -> None:
    bench.server.sends("query.who", ttl=0.01)
    bench.server.failures["pull_object"] = [Unreachable("cut")] * 50
    bench.node.sleep = lambda _: time.sleep(0.02)

    def well() -> None:
        bench.server.failures.clear()
        bench.server.sends("query.who")

    later(bench, well)
    (answer,) = bench.go()
    assert answer.content["c"]["count"] == 1


def test_what_was_refused_is_confirmed_when_the_server_is_done_with_sending_it(
    bench: Bench,
) -> None:
    """Confirmed while its objects are still on their way to SuperLink, a message ends its run."""
    bench.node.allowed = lambda kind, now: Refusal("never")
    bench.server.sends("query.who", 5)
    bench.server.sends("query.who", 6)
    bench.go()
    assert bench.server.calls.count("confirm") == 0
    bench.server.sends("query.who", 5)
    bench.go()
    assert bench.server.calls.count("confirm") == 1
    assert "pull_object" not in bench.server.calls


def test_what_was_refused_is_confirmed_when_its_time_is_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.node.allowed = lambda kind, now: Refusal("never")
    bench.server.sends("query.who", 5, ttl=30.0)
    bench.go()
    end = time.monotonic() + 30.0
    for later, confirmed in ((-10.0, 0), (1.0, 1), (2.0, 1)):
        monkeypatch.setattr(time, "monotonic", lambda later=later: end + later)
        bench.node._settle(None)
        assert bench.server.calls.count("confirm") == confirmed


@pytest.mark.parametrize("call", ["run", "bundle", "pull_object", "confirm", "push", "push_object"])
def test_a_run_that_is_over_ends_nothing_else(bench: Bench, call: str) -> None:
    bench.server.sends("query.who", 5)
    bench.server.failures[call] = [RunOver("over")]
    later(bench, lambda: bench.server.sends("query.who", 6))
    with pytest.raises(Over):
        bench.node.serve()
    assert bench.server.replies[-1][0].metadata.run_id == 6
    assert bench.server.calls.count("activate") == 1


def test_a_node_remembers_the_newest_runs_only(bench: Bench) -> None:
    bench.node.known = {}
    bench.node.allowed = lambda kind, now: Refusal("never")
    for run in range(KEPT + 4):
        bench.server.sends("query.who", run)
    bench.go()
    assert list(bench.node._runs) == list(range(4, KEPT + 4))


def fab(files: dict[str, str]) -> bytes:
    project = """
[project]
name = "brought"
version = "1.0.0"
[tool.flwr.app]
publisher = "maker"
[tool.flwr.app.components]
serverapp = "brought:app"
clientapp = "brought:app"
"""
    named = {name: text.encode() for name, text in files.items()}
    return build_fab_from_files({"pyproject.toml": project.encode(), **named})[0]


def test_a_bundle_with_code_runs_its_own_and_also_its_own_tacit(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    brought = """
import tacit
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()
@app.query("who")
def who(message, context):
    return Message(RecordDict({"c": ConfigRecord({"its": tacit.WHOSE})}), reply_to=message)
"""
    content = fab({"brought.py": brought, "tacit/__init__.py": "WHOSE = 'the bundle'"})
    name = bundle.digest(content)
    bench.server.bundles[5] = (name, content)
    bench.node.may_run = lambda each: each == name
    bench.server.sends("query.who")
    bench.server.sends("query.who")
    assert [each.content["c"]["its"] for each in bench.go()] == ["the bundle"] * 2
