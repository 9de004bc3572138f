"""Real concurrency: a few workers, each in its own thread, share the work of many devices."""

import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Protocol

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from tacit.simulations.engine.device import Answer, Fleet, Job, handle
from tacit.simulations.engine.spool import Parcel, Spool

log = logging.getLogger(__name__)

GRACE_S = 0.2
GOODBYE_S = 3.0


class Worker(Protocol):
    """Handles one message at a time, in the thread that calls it."""

    def start(self) -> None:
        """Get ready; may take as long as it takes to import a library."""

    def answer(
        self, job: Job, context: Context, parcel: Parcel | None, deadline: float
    ) -> tuple[Answer, Context] | None:
        """Reply and context after it; None if the time ran out at `deadline` (monotonic)."""

    def kill(self) -> None:
        """Give up what is being done, if that can be done."""

    def close(self) -> None:
        """Let go of everything."""


class WorkerThread:
    """Handles messages in the calling thread. Python cannot stop a thread, so neither can this."""

    def __init__(self, app: ClientApp) -> None:
        self._app = app

    def start(self) -> None:
        """Nothing to do."""

    def answer(
        self, job: Job, context: Context, parcel: Parcel | None, deadline: float
    ) -> tuple[Answer, Context] | None:
        """As of every worker; the deadline is not watched."""
        return handle(self._app, job.message, context, job.plan.crash), context

    def kill(self) -> None:
        """Nothing that could be done."""

    def close(self) -> None:
        """Nothing to let go of."""


@dataclass(slots=True)
class _Ticket:
    """A job in the crew's hands. `reply` is None in the end if none will ever come."""

    job: Job
    expires: float  # monotonic
    parcel: Parcel | None
    reply: Future[Message | None] = field(default_factory=Future)

    def settle(self, reply: Message | None) -> None:
        """It is over. Whoever waits is told last: by then the leg's shared payload may be gone."""
        if self.parcel is not None:
            self.parcel.let_go()
        self.reply.set_result(reply)


class Crew:
    """Hands jobs to workers: devices in parallel, one message at a time for each device.

    A delayed job waits beside the queue and keeps no worker busy: a slow device is slow on its
    own machine. It does keep its device busy, so what follows for that device waits as well.
    """

    def __init__(self, workers: Sequence[Worker], fleet: Fleet, spool: Spool | None = None) -> None:
        self._fleet = fleet
        self._spool = spool
        self._tickets: dict[str, _Ticket] = {}
        self._wake = threading.Condition()
        self._ready: deque[_Ticket] = deque()
        self._delayed: list[tuple[float, int, _Ticket]] = []
        self._order = itertools.count()
        self._busy: dict[int, deque[_Ticket]] = {}  # node -> what waits until it is free
        self._closed = False
        self._workers = workers
        self._started = [threading.Event() for _ in workers]
        self._threads = [
            # Daemons: a device that never returns must not keep the interpreter alive.
            threading.Thread(target=self._work, args=pair, name="tacit-worker", daemon=True)
            for pair in zip(workers, self._started, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def wait_until_ready(self) -> None:
        """Return when every worker has started, so that starting eats up nobody's deadline."""
        for started in self._started:
            started.wait()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take jobs on; those that are told to be silent are over at once."""
        parcel = self._spool.share([job.message for job in jobs]) if self._spool else None
        now = time.monotonic()
        for job in jobs:
            ticket = _Ticket(job, now + job.life, parcel)
            self._tickets[job.id] = ticket
            if job.plan.silent:
                ticket.settle(None)
            else:
                self._queue(ticket)

    def gather(self, ids: Sequence[str], timeout: float | None) -> list[Message]:
        """The replies that are there within `timeout` seconds, in the order of `ids`.

        What comes later is dropped. What will never come is not waited for.
        """
        tickets = [self._tickets.pop(id_) for id_ in ids]
        wait([ticket.reply for ticket in tickets], timeout)
        replies = (ticket.reply.result() for ticket in tickets if ticket.reply.done())
        return [reply for reply in replies if reply is not None]

    def poll(self, id_: str) -> tuple[bool, Message | None]:
        """(whether it is over, the reply if there is one). It is over when its life is, too."""
        ticket = self._tickets[id_]
        over = ticket.reply.done() or time.monotonic() >= ticket.expires
        if not over:
            return False, None
        del self._tickets[id_]
        return True, ticket.reply.result() if ticket.reply.done() else None

    def close(self) -> None:
        """Stop: drop what waits, kill what can be killed, leave nothing behind. Can be repeated."""
        with self._wake:
            self._closed = True
            waiting = [*self._ready, *(ticket for _, _, ticket in self._delayed)]
            waiting += itertools.chain.from_iterable(self._busy.values())
            self._wake.notify_all()
        for ticket in waiting:
            ticket.reply.cancel()
        self._tickets.clear()
        self._join(GRACE_S)
        for worker, thread in zip(self._workers, self._threads, strict=True):
            if thread.is_alive():
                worker.kill()
        if busy := self._join(GOODBYE_S):
            log.warning("%d devices are still busy; their threads end when they return", busy)
        if self._spool is not None:
            self._spool.close()

    def _join(self, seconds: float) -> int:
        """Wait that long for all threads together; how many still run."""
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0.0))
        return sum(thread.is_alive() for thread in self._threads)

    def _queue(self, ticket: _Ticket) -> None:
        node = ticket.job.node
        with self._wake:
            if node in self._busy:
                self._busy[node].append(ticket)
            else:
                self._busy[node] = deque()
                self._start(ticket)

    def _start(self, ticket: _Ticket) -> None:
        """The device is free for this one. Holds the lock."""
        if ticket.job.plan.delay:
            due = time.monotonic() + ticket.job.plan.delay
            heapq.heappush(self._delayed, (due, next(self._order), ticket))
        else:
            self._ready.append(ticket)
        self._wake.notify()

    def _work(self, worker: Worker, started: threading.Event) -> None:
        try:
            worker.start()
        finally:
            started.set()
        try:
            while (ticket := self._next()) is not None:
                self._settle(ticket, worker)
        finally:
            worker.close()

    def _next(self) -> _Ticket | None:
        """The next ticket that is due; None when the crew closes."""
        with self._wake:
            while not self._closed:
                now = time.monotonic()
                while self._delayed and self._delayed[0][0] <= now:
                    self._ready.append(heapq.heappop(self._delayed)[2])
                if self._ready:
                    ticket = self._ready.popleft()
                    self._wake.notify(len(self._ready))
                    return ticket
                self._wake.wait(self._delayed[0][0] - now if self._delayed else None)
            return None

    def _settle(self, ticket: _Ticket, worker: Worker) -> None:
        if ticket.reply.set_running_or_notify_cancel():
            try:
                ticket.settle(self._reply(ticket, worker))
            except BaseException as error:  # noqa: BLE001 - raised again where the reply is read
                ticket.reply.set_exception(error)
        with self._wake:
            waiting = self._busy[ticket.job.node]
            if waiting:
                self._start(waiting.popleft())
            else:
                del self._busy[ticket.job.node]

    def _reply(self, ticket: _Ticket, worker: Worker) -> Message | None:
        job = ticket.job
        if time.monotonic() >= ticket.expires:
            return None
        context = self._fleet.context(job.node)
        answered = worker.answer(job, context, ticket.parcel, ticket.expires)
        if answered is None:
            return None
        answer, context = answered
        self._fleet.keep(context)
        if answer.trace:
            log.debug("device %d:\n%s", self._fleet.partition(job.node), answer.trace)
        return job.plan.spoil(answer.reply)
