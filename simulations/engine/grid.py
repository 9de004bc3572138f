"""A Flower runtime inside this process: the same ServerApp and ClientApp, no Ray, no sockets.

    context = run_in_process(server_app, load_client_app, devices=10)

Three modes:

- SYNC: one thread, the same run every time. A message is handled when its reply is asked for, so
  a server that pulls replies in small batches never holds those of all devices. Time is virtual:
  a delay that was asked for (see `faults`, beside this) counts, computing does not, and nobody
  sleeps.
- THREADS: devices in parallel threads, for work that releases the interpreter lock.
- PROCESSES: devices in parallel processes; the model that all of them get is shared once.

In all modes a device keeps its Context from message to message, handles one message at a time,
gets its own copy of each, and what it raises becomes an error reply. Replies of one leg come in
the order of its messages: a sum of floats has one result.
"""

import gc
import os
import secrets
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum, auto
from types import TracebackType
from typing import Protocol, Self

from flwr.app import Context, Message, RecordDict, UserConfigValue
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from tacit.crypto.errors import ParameterError
from tacit.server.flower import (
    SERVER_NODE_ID,
    ErrorCode,
    NodeInfo,
    Run,
    assign_message_id,
    envelope,
    error_reply,
    identity,
    new_run,
    node_info,
)
from tacit.server.grid import node_name
from tacit.simulations.engine.crew import Crew, WorkerThread
from tacit.simulations.engine.device import Fleet, Job
from tacit.simulations.engine.faults import Fault, check_devices, plan_for
from tacit.simulations.engine.solo import Solo
from tacit.simulations.engine.spool import Spool
from tacit.simulations.engine.workers import WorkerProcess, pickled_loader


class Mode(Enum):
    """Who does the devices' work; see the module."""

    SYNC = auto()
    THREADS = auto()
    PROCESSES = auto()


class InProcessGrid(Grid):
    """Flower's `Grid` over devices in this process. Close it, or use it as a context manager.

    Partition p is node 1000 + p. `send_and_receive` leaves out replies that are not there in
    time, and does not wait for those that a fault swallows. `pull_messages` answers for those
    with an error (MESSAGE_UNAVAILABLE), as Flower does once a message's time to live is over.

    Raises ParameterError for an impossible number of devices or workers, a fault that names a
    device that is not there, and, with PROCESSES, for a loader that cannot be pickled.
    """

    def __init__(
        self,
        client_app: Callable[[], ClientApp],
        *,
        devices: int,
        run_config: Mapping[str, UserConfigValue] | None = None,
        mode: Mode = Mode.SYNC,
        workers: int | None = None,
        faults: Sequence[Fault] = (),
        run_id: int | None = None,
    ) -> None:
        if devices < 1:
            raise ParameterError(f"{devices} devices; a run needs at least 1")
        if workers is not None and workers < 1:
            raise ParameterError(f"{workers} workers; a run needs at least 1")
        check_devices(faults, devices)
        self._run = new_run(secrets.randbits(62) + 1 if run_id is None else run_id)
        self._fleet = Fleet(devices, self._run.run_id, run_config or {})
        self._faults = tuple(faults)
        self._sent = 0
        self._open: dict[str, Job] = {}  # pushed, and not yet given a reply
        self._engine = _engine(mode, client_app, min(workers or _cores(), devices), self._fleet)
        # Also if nobody closes: when the grid is forgotten, and before the interpreter ends.
        self._close = weakref.finalize(self, self._engine.close)
        try:
            self._engine.wait_until_ready()
        except BaseException:  # Ctrl-C while the workers start: no one else could close
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all threads and processes, remove all shared memory. Can be repeated."""
        self._close()

    @property
    def run(self) -> Run:
        """A copy of the run's particulars."""
        return Run(**vars(self._run))

    def set_run(self, run: Run) -> None:
        """Flower's runtimes call this; here the run is set when the grid is built."""
        self._run = run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Deprecated by Flower in favour of `Message(...)`; the same."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """All devices, in the order of their partitions."""
        return list(self._fleet.nodes)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """All devices, in the order of their partitions; partition p is called `device-(p+1)`, by
        its number on a simulation's roster."""
        partition = self._fleet.partition
        return [node_info(node, node_name(partition(node) + 1)) for node in self._fleet.nodes]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages on their way; returns their ids, in order, at once.

        Raises ParameterError for a message to a node that is not there.
        """
        return [job.id for job in self._push(messages)]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are there, each given once, in the order the messages were sent.

        In SYNC mode this is when the devices do their work. An id that is not known, or whose
        reply was given, is passed over.
        """
        replies = []
        for id_ in sorted(self._open.keys() & set(message_ids)):
            over, reply = self._engine.poll(id_)
            if over:
                message = self._open.pop(id_).message
                replies.append(self._named(reply or _expired(message)))
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages, wait at most `timeout` seconds; the replies in the messages' order.

        A reply that comes later is dropped: no later call sees it. Devices still handle a message
        after the timeout, as in a deployment; its time to live is what stops them.
        """
        ids = [job.id for job in self._push(messages)]
        for id_ in ids:
            del self._open[id_]
        return [self._named(reply) for reply in self._engine.gather(ids, timeout)]

    def _push(self, messages: Iterable[Message]) -> list[Job]:
        jobs = [self._job(message) for message in messages]
        self._engine.submit(jobs)
        self._open.update((job.id, job) for job in jobs)
        return jobs

    def _job(self, message: Message) -> Job:
        node = message.metadata.dst_node_id
        if node not in self._fleet.nodes:
            nodes = self._fleet.nodes
            raise ParameterError(f"no device is node {node}; they are {nodes[0]} to {nodes[-1]}")
        # Named as Flower does it, so that the sender can match a reply to its message.
        assign_message_id(message, self._next_id())
        metadata = message.metadata
        return Job(
            envelope(message),
            plan_for(self._faults, message, self._fleet.partition(node)),
            life=metadata.created_at + metadata.ttl - time.time(),
        )

    def _named(self, reply: Message) -> Message:
        assign_message_id(reply, self._next_id())
        return reply

    def _next_id(self) -> str:
        """Ids sort in the order they were given."""
        self._sent += 1
        return f"{self._sent:032x}"


def run_in_process(
    server_app: ServerApp,
    client_app: Callable[[], ClientApp],
    *,
    devices: int,
    run_config: Mapping[str, UserConfigValue] | None = None,
    mode: Mode = Mode.SYNC,
    workers: int | None = None,
    faults: Sequence[Fault] = (),
    run_id: int | None = None,
) -> Context:
    """Run a ServerApp to its end over `devices` devices that run a ClientApp.

    `client_app` is called to load the ClientApp: once, or once in every worker process, where it
    must be a function at the top level of a module. `run_config` is what both apps find in their
    context. `workers` is by default the number of cores; SYNC uses one thread whatever it says.
    `run_id` is drawn at random unless it is given.

    Returns the ServerApp's context. What the ServerApp raises, Ctrl-C too, goes on to the caller
    after everything was cleaned up. Raises ParameterError as `InProcessGrid` does.
    """
    grid = InProcessGrid(
        client_app,
        devices=devices,
        run_config=run_config,
        mode=mode,
        workers=workers,
        faults=faults,
        run_id=run_id,
    )
    with _settled(), grid, identity(grid.run.run_id):
        context = Context(
            run_id=grid.run.run_id,
            node_id=SERVER_NODE_ID,
            node_config={},
            state=RecordDict(),
            run_config=dict(run_config or {}),
        )
        server_app(grid=grid, context=context)
    return context


@contextmanager
def _settled() -> Iterator[None]:
    """Spare the garbage collector what was there before: modules, mostly, half a million objects
    that it would walk again and again while messages come and go."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _Engine(Protocol):
    """What does the work behind a grid."""

    def wait_until_ready(self) -> None: ...
    def submit(self, jobs: Sequence[Job]) -> None: ...
    def gather(self, ids: Sequence[str], timeout: float | None) -> list[Message]: ...
    def poll(self, id_: str) -> tuple[bool, Message | None]: ...
    def close(self) -> None: ...


def _engine(mode: Mode, client_app: Callable[[], ClientApp], workers: int, fleet: Fleet) -> _Engine:
    match mode:
        case Mode.SYNC:
            return Solo(client_app(), fleet)
        case Mode.THREADS:
            app = client_app()
            return Crew([WorkerThread(app) for _ in range(workers)], fleet)
        case Mode.PROCESSES:
            loader, spool = pickled_loader(client_app), Spool()
            return Crew([WorkerProcess(loader, spool) for _ in range(workers)], fleet, spool)


def _expired(message: Message) -> Message:
    reason = "the message's time to live is over and no reply came"
    return error_reply(message, ErrorCode.MESSAGE_UNAVAILABLE, reason)


def _cores() -> int:
    """Cores this process may use, which in a container is often fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
