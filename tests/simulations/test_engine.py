"""The in-process engine: an unmodified ClientApp under Flower's strategies, and under faults."""

import multiprocessing
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

from tacit.crypto.errors import ParameterError, PolicyRefusal
from tacit.server.flower import ErrorCode, Run, identity
from tacit.simulations.engine.faults import Corrupt, Corruption, Crash, Delay, Drop, Fault, Stage
from tacit.simulations.engine.grid import InProcessGrid, Mode, run_in_process
from tacit.simulations.engine.spool import SHARE_FROM, Parcel, Spool, Unpacker

if TYPE_CHECKING:
    from flwr.server.superlink.linkstate import LinkState

IN_THIS_PROCESS = [Mode.SYNC, Mode.THREADS]
KINDS = {
    Stage.ENROL: "query.tacit_enrol",
    Stage.ENCAPSULATE: "query.tacit_encapsulate",
    Stage.DECAPSULATE: "query.tacit_decapsulate",
    Stage.DEAL: "query.tacit_deal",
    Stage.KEY: "query.tacit_key",
    Stage.REPORT: "train",
    Stage.ATTEST: "query.tacit_attest",
    Stage.REVEAL: "query.tacit_reveal",
    Stage.EVALUATE: "evaluate",
}


def load() -> ClientApp:
    """A device that counts its messages, and does as the message's config says."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        handled = count(context)
        weights = message.content["arrays"]["w"].numpy()
        device = int(context.node_config["partition-id"])
        weights += np.float32(1 / (3 + device)) * (1 + handled)
        metrics = MetricRecord({"num-examples": 10 + device, "loss": float(handled)})
        arrays = ArrayRecord({"w": Array(weights)})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        handled = count(context)
        metrics = MetricRecord({"num-examples": 10, "handled": handled})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    def obey(message: Message, context: Context) -> Message:
        config = message.content.get("config", {})
        if config.get("sleep"):
            time.sleep(config["sleep"])
        handled = count(context)
        if config.get("exit") == context.node_config["partition-id"]:
            os._exit(3)
        config["poison"] = "poison"
        answer = {
            "handled": handled,
            "pid": os.getpid(),
            "large": len(config.get("large", b"")),
            "same": hash(config.get("large", b"")),
        }
        content = {"answer": ConfigRecord(answer)}
        if "large" in config:
            content["back"] = ConfigRecord({"large": config["large"][::-1]})
        return Message(RecordDict(content), reply_to=message)

    for action in ("default", *(kind.partition(".")[2] for kind in KINDS.values() if "." in kind)):
        app.query(action)(obey)
    return app


def count(context: Context) -> int:
    counter = context.state.setdefault("counter", ConfigRecord({"handled": 0}))
    counter["handled"] += 1
    return int(counter["handled"])


def load_nothing() -> ClientApp:
    raise PolicyRefusal("no data here")


def server(main: Callable[[Grid, Context], None]) -> ServerApp:
    app = ServerApp()
    app.main()(main)
    return app


def ask(
    nodes: Grid | list[int],
    kind: str = "query",
    ttl: float | None = None,
    group: str = "",
    **config: object,
) -> list[Message]:
    ids = nodes if isinstance(nodes, list) else list(nodes.get_node_ids())
    content = RecordDict({"config": ConfigRecord(config)})
    if kind == "train":
        content["arrays"] = ArrayRecord({"w": Array(np.zeros(2, np.float32))})
    return [Message(content, node, kind, ttl=ttl, group_id=group) for node in ids]


def handled(replies: Iterable[Message]) -> dict[int, int]:
    """Device -> how many messages it has handled, from the replies."""
    return {
        reply.metadata.src_node_id - 1000: reply.content["answer"]["handled"] for reply in replies
    }


@pytest.fixture(autouse=True)
def _task() -> Iterator[None]:
    with identity(1):
        yield


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    def memory() -> set[str]:
        folder = Path("/dev/shm")
        return {entry.name for entry in folder.glob("tacit-*")} if folder.is_dir() else set()

    threads, files = set(threading.enumerate()), memory()
    yield
    assert set(threading.enumerate()) <= threads
    assert multiprocessing.active_children() == []
    mine = memory() - files  # another test process may be at work in the same folder
    assert not [name for name in mine if (Path("/dev/shm") / name).stat().st_uid == os.getuid()]


# One app, three modes


def fedavg(mode: Mode) -> tuple[list[np.ndarray], dict]:
    results = []

    def main(grid: Grid, context: Context) -> None:
        strategy = FedAvg(fraction_train=1.0, min_available_nodes=5, min_train_nodes=5)
        arrays = ArrayRecord({"w": Array(np.zeros(40_000, np.float32))})
        results.append(strategy.start(grid, arrays, num_rounds=3))

    random.seed(0)  # Flower samples with the global generator: here, the order of all five
    run_in_process(server(main), load, devices=5, mode=mode, workers=2)
    result = results[0]
    return result.arrays.to_numpy_ndarrays(), dict(result.evaluate_metrics_clientapp)


def test_flowers_own_fedavg_gives_the_same_bits_in_all_modes() -> None:
    (once,), evaluated = fedavg(Mode.SYNC)
    for mode in (Mode.SYNC, Mode.THREADS, Mode.PROCESSES):
        (again,), metrics = fedavg(mode)
        assert np.array_equal(once, again), mode
        assert metrics == evaluated, mode
    # Rounds add 1/(3+d) * (1 + messages handled) with weights 10 + d; a device handles two a round.
    weights = np.arange(10, 15)
    step = np.average(1 / (3 + np.arange(5)), weights=weights)
    assert once[0] == pytest.approx(step * (2 + 4 + 6), rel=1e-6)
    assert evaluated[3]["handled"] == pytest.approx(6)


@pytest.mark.parametrize("mode", IN_THIS_PROCESS)
def test_a_device_keeps_its_context_and_its_number(mode: Mode) -> None:
    contexts: list[Context] = []

    def spy() -> ClientApp:
        app = ClientApp()

        @app.query()
        def query(message: Message, context: Context) -> Message:
            contexts.append(context)
            count(context)
            return Message(RecordDict(), reply_to=message)

        return app

    with InProcessGrid(spy, devices=3, run_config={"lr": 0.5}, mode=mode, run_id=77) as grid:
        assert list(grid.get_node_ids()) == [1000, 1001, 1002]
        assert [node.node_id for node in grid.get_nodes()] == [1000, 1001, 1002]
        assert grid.run.run_id == 77
        for _ in range(2):
            grid.send_and_receive(ask(grid))
    for context in contexts:
        assert context.node_config == {"partition-id": context.node_id - 1000, "num-partitions": 3}
        assert context.run_config == {"lr": 0.5}
        assert context.run_id == 77
        assert context.state["counter"]["handled"] == 2
    assert len({id(context) for context in contexts}) == 3


def test_replies_come_in_the_messages_order() -> None:
    slow_first = [Delay(0.2, "enrol", {0}), Delay(0.1, "enrol", {2})]
    for mode in IN_THIS_PROCESS:
        with InProcessGrid(load, devices=4, mode=mode, faults=slow_first) as grid:
            asked = ask([1003, 1000, 1002, 1001], KINDS[Stage.ENROL])
            replies = list(grid.send_and_receive(asked, timeout=9))
        assert [reply.metadata.src_node_id for reply in replies] == [1003, 1000, 1002, 1001]
        names = [message.metadata.message_id for message in asked]
        assert [reply.metadata.reply_to_message_id for reply in replies] == names


def test_a_thousand_devices_are_cheap() -> None:
    with InProcessGrid(load, devices=1000) as grid:
        start = time.process_time()
        for _ in range(3):
            assert len(list(grid.send_and_receive(ask(grid)))) == 1000
        # Measured: about 0.1 s a round. A factor of ten is left for slow machines.
        assert time.process_time() - start < 3.0


def test_contexts_are_made_when_needed() -> None:
    with InProcessGrid(load, devices=10_000) as grid:
        grid.send_and_receive(ask(list(grid.get_node_ids())[::100]))
        assert len(grid._fleet._contexts) == 100


# Push and pull


def test_sync_does_the_work_when_asked() -> None:
    done: list[int] = []

    def spy() -> ClientApp:
        app = ClientApp()

        @app.query()
        def query(message: Message, context: Context) -> Message:
            done.append(context.node_id)
            return Message(RecordDict(), reply_to=message)

        return app

    with InProcessGrid(spy, devices=6) as grid:
        ids = list(grid.push_messages(ask(grid)))
        assert done == []
        replies = list(grid.pull_messages(ids[:0:-1]))
        assert done == [1001, 1002, 1003, 1004, 1005]
        assert [reply.metadata.reply_to_message_id for reply in replies] == ids[1:]
        assert len(list(grid.pull_messages([*ids, "unknown"]))) == 1
        assert list(grid.pull_messages(ids)) == []


@pytest.mark.parametrize("mode", IN_THIS_PROCESS)
def test_a_pull_says_at_once_that_no_reply_will_come(mode: Mode) -> None:
    with InProcessGrid(load, devices=2, mode=mode, faults=[Drop("reveal", {1})]) as grid:
        waiting = set(grid.push_messages(ask(grid, KINDS[Stage.REVEAL])))
        replies: list[Message] = []
        while waiting:
            replies += grid.pull_messages(waiting)
            waiting -= {reply.metadata.reply_to_message_id for reply in replies}
    errors = [reply for reply in replies if reply.has_error()]
    assert [(error.metadata.src_node_id, error.error.code) for error in errors] == [
        (1001, ErrorCode.MESSAGE_UNAVAILABLE)
    ]
    assert len(replies) == 2


def test_sync_repeats_itself() -> None:
    def trace() -> list[tuple[str, str, object]]:
        faults = [Drop("report", {1}, {2}), Corrupt("report", {2}), Delay(2, "report", {0}, {3})]
        seen: list[tuple[str, str, object]] = []
        with InProcessGrid(load, devices=4, faults=faults, run_id=1) as grid:
            for group in "123":
                for reply in grid.send_and_receive(ask(grid, "train", group=group), timeout=1):
                    metadata = reply.metadata
                    seen.append((metadata.message_id, metadata.reply_to_message_id, reply.content))
        return seen

    assert trace() == trace()
    assert len(trace()) == 4 + 3 + 3


# What a device gets


@pytest.mark.parametrize("mode", IN_THIS_PROCESS)
def test_a_device_cannot_poison_the_others(mode: Mode) -> None:
    seen: list[object] = []

    def vandal() -> ClientApp:
        app = ClientApp()

        @app.train()
        def train(message: Message, context: Context) -> Message:
            arrays, config = message.content["arrays"], message.content["config"]
            seen.append((arrays["w"].numpy().tolist(), deepcopy(dict(config)), [*message.content]))
            arrays["w"].data = b""
            arrays["more"] = Array(np.ones(1))
            config["list"].append(4)
            config["text"] = "poison"
            del message.content["config"]
            message.metadata.group_id = "poison"
            context.state["kept"] = ConfigRecord({"list": [1]})
            return Message(RecordDict({"kept": context.state["kept"]}), reply_to=message)

        return app

    with InProcessGrid(vandal, devices=5, mode=mode) as grid:
        asked = ask(grid, "train", list=[1, 2], text="clean")
        for reply in grid.send_and_receive(asked):
            reply.content["kept"]["list"].append(9)
        kept = list(grid._fleet.context(1000).state["kept"]["list"])
        again = list(grid.send_and_receive(ask(grid, "train", list=[1, 2], text="clean")))
    clean = ([0.0, 0.0], {"list": [1, 2], "text": "clean"}, ["config", "arrays"])
    assert seen == [clean] * 10
    assert kept == [1], "the server must not reach into what a device kept"
    assert asked[0].content["config"]["list"] == [1, 2]
    assert len(again) == 5


def test_metadata_is_what_flower_gives_a_device() -> None:
    """The reference is Flower's own grid and state, in memory and without a backend."""
    ours: list[Message] = []

    def spy() -> ClientApp:
        app = ClientApp()

        @app.query("hello")
        def hello(message: Message, context: Context) -> Message:
            ours.append(message)
            return Message(RecordDict(), reply_to=message)

        return app

    with InProcessGrid(spy, devices=1, run_id=1) as grid:
        ours += grid.send_and_receive(ask(grid, "query.hello", ttl=60.0, group="4"))

    state, theirs, node = flowers_own(grid.run)
    theirs.push_messages(ask([node], "query.hello", ttl=60.0, group="4"))
    (arrived,) = state.get_message_ins(node_id=node, limit=1)
    reply = spy()(arrived, Context(1, node, {}, RecordDict(), {}))

    def facts(message: Message, reply: Message, node: int) -> list[dict[str, object]]:
        names = ("run_id", "message_type", "group_id", "src_node_id", "dst_node_id", "src_task_id")
        both = [{name: getattr(m.metadata, name) for name in names} for m in (message, reply)]
        swapped = [{k: "device" if v == node else v for k, v in part.items()} for part in both]
        named = reply.metadata.reply_to_message_id == message.metadata.message_id != ""
        return [*swapped, {"named": named, "ttl": message.metadata.ttl}]

    assert facts(ours[0], ours[1], 1000) == facts(arrived, reply, node)


def flowers_own(run: Run) -> "tuple[LinkState, Grid, int]":
    """Flower's state with our run and one node in it, and its grid upon that."""
    # Here, since worker processes load this module and none of this.
    from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
    from flwr.server.superlink.linkstate import LinkStateFactory
    from flwr.server.superlink.linkstate.in_memory_linkstate import (  # type: ignore[attr-defined]
        RunRecord,
        Task,
    )
    from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME
    from flwr.supercore.object_store import ObjectStoreFactory
    from flwr.superlink.federation import NoOpFederationManager
    from flwr.superlink.grid import InMemoryGrid

    factory = LinkStateFactory(
        FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory()
    )
    run.primary_task_id = 1
    state = factory.state()
    state.run_ids[run.run_id] = RunRecord(run=run)  # type: ignore[attr-defined]
    state.task_store[1] = Task(task_id=1, run_id=run.run_id)  # type: ignore[attr-defined]
    node = state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, b"k" * 32, heartbeat_interval=1e9)
    state.acknowledge_node_heartbeat(node_id=node, heartbeat_interval=1e9)
    grid = InMemoryGrid(factory)
    grid.set_run(run)
    return state, grid, node


# What a device raises


@pytest.mark.parametrize("mode", IN_THIS_PROCESS)
@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        (lambda: 1 // 0, "ZeroDivisionError: integer division or modulo by zero"),
        (lambda: raise_(PolicyRefusal("at least 5 devices")), "PolicyRefusal: at least 5 devices"),
        (lambda: raise_(SystemExit(3)), "SystemExit: 3"),
        (lambda: None, "TypeError: the ClientApp returned NoneType, expected a Message"),
        (lambda: ask([1000])[0], "ValueError: the ClientApp's reply was not built with reply_to"),
    ],
)
def test_what_a_device_raises_is_its_reply(
    mode: Mode, fail: Callable[[], object], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    def faulty() -> ClientApp:
        app = ClientApp()

        @app.query()
        def query(message: Message, context: Context) -> Message:
            if count(context) and context.node_id == 1001:
                return fail()  # type: ignore[return-value]
            return Message(RecordDict(), reply_to=message)

        return app

    with caplog.at_level("DEBUG"), InProcessGrid(faulty, devices=3, mode=mode) as grid:
        replies = list(grid.send_and_receive(ask(grid)))
        assert grid._fleet.context(1001).state["counter"]["handled"] == 1
    assert [reply.has_error() for reply in replies] == [False, True, False]
    assert replies[1].error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert replies[1].error.reason is not None
    assert replies[1].error.reason.startswith(reason)
    assert "Traceback" not in replies[1].error.reason
    assert "Traceback" in caplog.text


def raise_(error: BaseException) -> None:
    raise error


# Faults


@pytest.mark.parametrize("mode", IN_THIS_PROCESS)
@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize("after", [False, True])
def test_drop(mode: Mode, stage: Stage, after: bool) -> None:
    fault = Drop(stage, {1, 2}, {3}, after=after)
    with InProcessGrid(load, devices=4, mode=mode, faults=[fault]) as grid:
        for kind in KINDS.values():
            asked = ask(grid, kind, group="3")
            if kind == "train":
                for message in asked:
                    message.content["arrays"] = ArrayRecord({"w": Array(np.zeros(2, np.float32))})
            start = time.monotonic()
            came = [r.metadata.src_node_id for r in grid.send_and_receive(asked, timeout=9)]
            assert time.monotonic() - start < 5, "nobody waits for what will never come"
            assert came == ([1000, 1003] if kind == KINDS[stage] else [1000, 1001, 1002, 1003])
        for device in range(4):
            counter = grid._fleet.context(1000 + device).state["counter"]
            missed = device in (1, 2) and not after
            assert counter["handled"] == len(KINDS) - missed
        assert len(list(grid.send_and_receive(ask(grid, KINDS[Stage.ENROL], group="4")))) == 4


def test_delay_in_sync_costs_no_time_and_misses_the_deadline() -> None:
    kind = KINDS[Stage.ENROL]
    with InProcessGrid(load, devices=3, faults=[Delay(100, "enrol", {1}, {1, 2})]) as grid:
        start = time.monotonic()
        first = handled(grid.send_and_receive(ask(grid, kind, group="1"), timeout=60))
        patient = handled(grid.send_and_receive(ask(grid, kind, group="2"), timeout=300))
        assert time.monotonic() - start < 5
    assert first == {0: 1, 2: 1}
    assert patient == {0: 2, 1: 2, 2: 2}, "the late message was handled, its reply dropped"


def test_a_delayed_device_is_busy_in_the_next_leg() -> None:
    with InProcessGrid(load, devices=2, faults=[Delay(100, "enrol", {1}, {1})]) as grid:

        def leg(group: str, timeout: float) -> set[int]:
            asked = ask(grid, KINDS[Stage.ENROL], group=group)
            return set(handled(grid.send_and_receive(asked, timeout=timeout)))

        assert leg("1", 60) == {0}  # until t = 60
        assert leg("2", 30) == {0}  # until t = 90; the device is free at t = 100
        assert leg("3", 30) == {0, 1}


def test_delay_in_threads_takes_its_time_and_blocks_no_worker() -> None:
    kind = KINDS[Stage.ENROL]
    faults = [Delay(0.6, "enrol", {0, 1, 2}, {1})]
    with InProcessGrid(load, devices=4, mode=Mode.THREADS, workers=1, faults=faults) as grid:
        start = time.monotonic()
        asked = ask(grid, kind, group="1")
        assert handled(grid.send_and_receive(asked, timeout=0.3)) == {3: 1}
        assert time.monotonic() - start >= 0.3
        later = handled(grid.send_and_receive(ask(grid, kind, group="2"), timeout=9))
        assert time.monotonic() - start >= 0.6
    assert later == {0: 2, 1: 2, 2: 2, 3: 2}, "one reply each: the late ones were dropped"


@pytest.mark.parametrize("mode", IN_THIS_PROCESS)
def test_a_message_is_not_handled_after_its_time_to_live(mode: Mode) -> None:
    faults = [Delay(0.4, "enrol", {1}, {1})]
    with InProcessGrid(load, devices=3, mode=mode, faults=faults) as grid:
        asked = ask(grid, KINDS[Stage.ENROL], ttl=0.2, group="1")
        asked[2].metadata.created_at -= 10
        assert handled(grid.send_and_receive(asked, timeout=2)) == {0: 1}
        asked = ask(grid, KINDS[Stage.ENROL], group="2")
        assert handled(grid.send_and_receive(asked, timeout=2)) == {0: 2, 1: 1, 2: 1}


@pytest.mark.parametrize("mode", IN_THIS_PROCESS)
def test_crash_and_corruption(mode: Mode) -> None:
    faults: list[Fault] = [Crash("report", {0}, {1}), Corrupt("report", {1}, {1}, Corruption.NAN)]
    with InProcessGrid(load, devices=3, mode=mode, faults=faults) as grid:
        crashed, spoilt, fine = grid.send_and_receive(ask(grid, "train", group="1"))
        assert crashed.error.reason == "DeviceCrashError: device 0 was told to crash"
        assert np.isnan(spoilt.content["arrays"]["w"].numpy()).all()
        assert np.isfinite(fine.content["arrays"]["w"].numpy()).all()
        again = list(grid.send_and_receive(ask(grid, "train", group="2")))
    assert [reply.content["metrics"]["loss"] for reply in again] == [1.0, 2.0, 2.0]


# Processes


def test_a_worker_process_that_dies_costs_one_reply() -> None:
    kind, text = KINDS[Stage.ENROL], os.urandom(3 * SHARE_FROM)
    faults = [Crash("enrol", {0}, {1})]
    with InProcessGrid(load, devices=4, mode=Mode.PROCESSES, workers=2, faults=faults) as grid:
        folder = Path(grid._engine._spool.inner() or "")  # type: ignore[attr-defined]

        first = list(grid.send_and_receive(ask(grid, kind, group="1", exit=3, large=text)))
        assert [reply.has_error() for reply in first] == [True, False, False, True]
        for reply in (first[0], first[3]):
            assert reply.error.code == ErrorCode.CLIENT_APP_CRASHED
        assert "exit code 70" in str(first[0].error.reason)
        assert "exit code 3" in str(first[3].error.reason)
        assert first[1].content["answer"]["large"] == len(text)
        assert first[1].content["back"]["large"] == text[::-1]
        assert not [path for path in folder.rglob("*") if path.is_file()], "legs clean up"

        second = list(grid.send_and_receive(ask(grid, kind, group="2"), timeout=60))
        assert handled(second) == {0: 1, 1: 2, 2: 2, 3: 1}, "what a dead worker did is lost"
        workers = {reply.content["answer"]["pid"] for reply in second}
        assert os.getpid() not in workers

        stuck = ask(grid, kind, ttl=0.3, group="3", sleep=30)[:1]
        start = time.monotonic()
        assert list(grid.send_and_receive(stuck, timeout=5)) == []
        assert time.monotonic() - start < 5, "a device that hangs is ended with its message"
        assert len(handled(grid.send_and_receive(ask(grid, kind), timeout=60))) == 4
        files = list(folder.parent.glob(f"{folder.name}*"))
        assert files == [folder]
    assert not folder.exists()


def test_ctrl_c_ends_processes_at_once() -> None:
    def main(grid: Grid, context: Context) -> None:
        grid.push_messages(ask(grid, sleep=60))
        time.sleep(0.2)
        raise KeyboardInterrupt

    began: list[float] = []

    def timed(grid: Grid, context: Context) -> None:
        began.append(time.monotonic())
        main(grid, context)

    with pytest.raises(KeyboardInterrupt):
        run_in_process(server(timed), load, devices=3, mode=Mode.PROCESSES, workers=1)
    assert time.monotonic() - began[0] < 5


def test_a_loader_that_fails_in_the_worker_says_why() -> None:
    with InProcessGrid(load_nothing, devices=3, mode=Mode.PROCESSES, workers=1) as grid:
        replies = list(grid.send_and_receive(ask(grid)))
    assert {reply.error.code for reply in replies} == {ErrorCode.LOAD_CLIENT_APP_EXCEPTION}
    assert {reply.error.reason for reply in replies} == {"PolicyRefusal: no data here"}


# The spool


def models(large: bytes, devices: int = 3) -> list[Message]:
    return [
        Message(RecordDict({"config": ConfigRecord({"model": large, "n": n})}), 1000, "train")
        for n in range(devices)
    ]


def test_what_messages_share_is_written_once(tmp_path: Path) -> None:
    large = os.urandom(2 * SHARE_FROM)
    spool = Spool([str(tmp_path)])
    parcel = spool.share(models(large))
    assert isinstance(parcel, Parcel)
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert file.stat().st_size == len(large)
    packed = [parcel.pack(message) for message in models(large)]
    assert max(map(len, packed)) < SHARE_FROM
    unpacker = Unpacker()
    contents = [unpacker.unpack(part).content["config"] for part in packed]
    assert [dict(content) for content in contents] == [{"model": large, "n": n} for n in range(3)]
    for remaining in (2, 1, 0):
        parcel.let_go()
        assert file.exists() == (remaining > 0)
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_what_only_one_message_holds_or_is_small_is_not_shared(tmp_path: Path) -> None:
    spool = Spool([str(tmp_path)])
    assert spool.share([models(os.urandom(SHARE_FROM))[0] for _ in range(3)]) is None
    assert spool.share(models(b"small")) is None
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_the_pipe_does_it_all(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    spool = Spool([nowhere, str(tmp_path)])
    parcel = spool.share(models(bytes(SHARE_FROM)))
    assert parcel is not None, "the second folder takes it"
    spool.close()
    assert Spool([nowhere]).share(models(bytes(SHARE_FROM))) is None
    assert Spool([nowhere]).inner() is None


# The run around it


def test_runs_nest_and_follow_one_another() -> None:
    ids = []

    def inner(grid: Grid, context: Context) -> None:
        ids.append((grid.run.run_id, TaskIdentity.run_id, ask(grid)[0].metadata.run_id))
        context.state["result"] = ConfigRecord({"n": len(list(grid.send_and_receive(ask(grid))))})

    def outer(grid: Grid, context: Context) -> None:
        inner(grid, context)
        run_in_process(server(inner), load, devices=2, run_id=12)
        inner(grid, context)
        assert context.run_config == {"a": 1}

    context = run_in_process(server(outer), load, devices=3, run_id=11, run_config={"a": 1})
    assert ids == [(11,) * 3, (12,) * 3, (11,) * 3]
    assert context.state["result"]["n"] == 3
    assert TaskIdentity.run_id == 1, "as it was before"


@pytest.mark.parametrize("mode", IN_THIS_PROCESS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_the_server_raises_goes_on(mode: Mode, error: type[BaseException]) -> None:
    def main(grid: Grid, context: Context) -> None:
        grid.push_messages(ask(grid, sleep=0.1))
        raise error

    with pytest.raises(error):
        run_in_process(server(main), load, devices=8, mode=mode, workers=2)


def test_a_corruption_that_raises_is_the_callers_mistake() -> None:
    def wrong(reply: Message) -> Message:
        raise LookupError

    for mode in IN_THIS_PROCESS:
        faults = [Corrupt("enrol", {0}, how=wrong)]
        with (
            InProcessGrid(load, devices=1, mode=mode, faults=faults) as grid,
            pytest.raises(LookupError),
        ):
            grid.send_and_receive(ask(grid, KINDS[Stage.ENROL]))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"devices": 0}, "0 devices"),
        ({"devices": 2, "workers": 0}, "0 workers"),
        ({"devices": 2, "faults": [Drop("report", {1, 2})]}, "names device 2, but .* 0 to 1"),
    ],
)
def test_impossible_arguments(arguments: dict, says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        InProcessGrid(load, **arguments)


def test_a_lambda_is_no_loader_for_processes() -> None:
    with pytest.raises(ParameterError, match="top level of a module"):
        InProcessGrid(lambda: load(), devices=1, mode=Mode.PROCESSES)


def test_a_node_that_is_not_there() -> None:
    with (
        InProcessGrid(load, devices=2) as grid,
        pytest.raises(ParameterError, match="1000 to 1001"),
    ):
        grid.push_messages(ask([1002]))


def test_ids_are_never_used_twice() -> None:
    with InProcessGrid(load, devices=3) as grid:
        asked = ask(grid)
        replies = [*grid.send_and_receive(asked), *grid.send_and_receive(ask(grid))]
        names = [message.metadata.message_id for message in [*asked, *replies]]
    assert len(set(names)) == len(names)
