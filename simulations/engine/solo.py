"""One thread and a virtual clock: every run the same, and no one sleeps."""

import logging
import math
from collections.abc import Sequence

from flwr.app import Message
from flwr.clientapp import ClientApp

from tacit.simulations.engine.device import Fleet, Job, handle

log = logging.getLogger(__name__)


class Solo:
    """Handles a job when its reply is asked for.

    The clock stands still while devices and server compute. It moves when the server has waited
    for a reply: to the moment a delayed one comes in, or to the end of the timeout. A device that
    is still busy with a delayed message starts the next one after that.
    """

    def __init__(self, app: ClientApp, fleet: Fleet) -> None:
        self._app = app
        self._fleet = fleet
        self._now = 0.0
        self._jobs: dict[str, tuple[Job, float]] = {}  # with the time each was sent
        self._free_at: dict[int, float] = {}  # only devices that were ever delayed

    def wait_until_ready(self) -> None:
        """Always ready."""

    def submit(self, jobs: Sequence[Job]) -> None:
        """Note the jobs down."""
        self._jobs.update((job.id, (job, self._now)) for job in jobs)

    def gather(self, ids: Sequence[str], timeout: float | None) -> list[Message]:
        """The replies that come within `timeout` virtual seconds, in the order of `ids`."""
        deadline = math.inf if timeout is None else self._now + timeout
        replies, latest = [], self._now
        for id_ in ids:
            reply, at = self._handle(id_, deadline)
            if reply is not None:
                replies.append(reply)
                latest = max(latest, at)
        missing = len(replies) < len(ids)
        self._now = deadline if missing and math.isfinite(deadline) else latest
        return replies

    def poll(self, id_: str) -> tuple[bool, Message | None]:
        """(True, the reply, or None if there will never be one): asking is what makes it so."""
        reply, at = self._handle(id_, math.inf)
        if reply is not None:
            self._now = max(self._now, at)
        return True, reply

    def close(self) -> None:
        """Drop what was never asked for."""
        self._jobs.clear()

    def _handle(self, id_: str, deadline: float) -> tuple[Message | None, float]:
        """The reply, None if there is none by the deadline, and when it comes."""
        job, sent = self._jobs.pop(id_)
        if job.plan.silent:
            return None, sent
        at = max(sent, self._free_at.get(job.node, 0.0)) + job.plan.delay
        if at - sent >= job.life:
            return None, at
        if at > sent:
            self._free_at[job.node] = at
        answer = handle(self._app, job.message, self._fleet.context(job.node), job.plan.crash)
        if answer.trace:
            log.debug("device %d:\n%s", self._fleet.partition(job.node), answer.trace)
        reply = job.plan.spoil(answer.reply)
        return (reply if at <= deadline else None), at
