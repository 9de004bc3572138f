"""A device's node: it fetches messages from its server, has them answered, and brings the answers.

It is one process with one thread while it waits. A run's messages are handled in a process of their
own (`tacit.client.node.worker`), one at a time; and not at all if the device's owner has not
allowed the run's bundle, or not the time of day.

A server that is gone is tried again for ever. One that turns the device away is, too, but slowly:
its owner is told what to do, and when it is done the node goes on by itself.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from tacit.client.node import flower
from tacit.client.node.answering import Job, Load
from tacit.client.node.base import Allowed, Diary, NoDiary, always
from tacit.client.node.carrier import Carrier
from tacit.client.node.flower import (
    Delivery,
    ErrorCode,
    Link,
    Reply,
    RunOver,
    TurnedAway,
    Unreachable,
)
from tacit.client.node.pace import Allowance, BackOff, Pace
from tacit.client.node.worker import Crashed, Worker

log = logging.getLogger("tacit.node")

Kept = TypeVar("Kept")

KEPT = 8  # runs, and their apps' states, that a node remembers
_BEATS = 0.6  # of the time that the server waits for one


@dataclass(slots=True)
class Node:
    """`address` is for messages only. `known` has the apps of bundles that are installed, by the
    bundles' hashes; `may_run` says whether the owner allows a bundle, asked for each message.
    An app's process stays for the run's next message, `linger` seconds long."""

    link: Link
    address: str
    config: flower.Config
    may_run: Callable[[str], bool]
    known: Mapping[str, Load] = field(default_factory=dict)
    allowed: Allowed = always
    diary: Diary = field(default_factory=NoDiary)
    pace: Pace = field(default_factory=Pace)
    allowance: Allowance = field(default_factory=Allowance)
    linger: float = 60.0
    retry: BackOff = field(default_factory=lambda: BackOff(1.0, 30.0))
    slowly: BackOff = field(default_factory=lambda: BackOff(5.0, 120.0))
    sleep: Callable[[float], None] = time.sleep
    _number: int | None = None
    _is_connected: bool = False
    _beat_at: float = 0.0
    _runs: OrderedDict[int, tuple[flower.Run, bytes]] = field(default_factory=OrderedDict)
    _states: OrderedDict[int, bytes] = field(default_factory=OrderedDict)
    _worker: Worker | None = None
    _owed: list[tuple[Delivery, float]] = field(default_factory=list)

    def serve(self) -> None:
        """For ever, until an exception from outside ends it: then the server is told."""
        self.diary.node_began()
        try:
            while True:
                self._try(self._step)
        finally:
            self._end_worker()
            if self._number is not None and self._is_connected:
                with suppress(Unreachable, TurnedAway, RunOver):
                    self.link.deactivate()
            self.diary.node_ended("stopped")

    def _step(self) -> None:
        """One look for a message."""
        if self._number is None:
            self._number = self.link.activate()
            self._beat_at = time.monotonic() + flower.HEARTBEAT * _BEATS
        self.beat()
        delivery = self.link.pull()
        self._connected()
        self._settle(None if delivery is None else delivery.run)
        if delivery is None:
            if self._worker is not None and self._worker.used + self.linger < time.monotonic():
                self._end_worker()
            self.sleep(self.pace.next())
            return
        try:
            self._handle(delivery)
        except RunOver as over:
            log.info("run %d: %s", delivery.run, over)
        self.pace.begin()

    def _try(self, step: Callable[[], None]) -> None:
        """Take a step; after one that failed, wait as long as is of use."""
        try:
            step()
        except Unreachable as gone:
            self._disconnected(f"no answer from {self.address}: {gone}", logging.INFO)
            self.sleep(self.retry.next())
        except TurnedAway as away:
            self._disconnected(f"{self.address}: {away}. {_WHAT_TO_DO}", logging.ERROR)
            self._number = None
            self.sleep(self.slowly.next())
        except RunOver as over:
            log.info("%s", over)

    def beat(self) -> float:
        """Tell the server that this device is there, if it is time to. Returns how many seconds
        remain until it is again."""
        if time.monotonic() >= self._beat_at:
            self.link.beat()
            self._beat_at = time.monotonic() + flower.HEARTBEAT * _BEATS
        return self._beat_at - time.monotonic()

    def _beat_meanwhile(self) -> float:
        """As `beat`, while something goes on that should not end with the connection."""
        try:
            return self.beat()
        except (Unreachable, TurnedAway) as gone:
            log.info("no answer from %s meanwhile: %s", self.address, gone)
            self._beat_at = time.monotonic() + self.retry.next()
            return self._beat_at - time.monotonic()

    def _handle(self, delivery: Delivery) -> None:
        """Answer one message, by an app or by a refusal."""
        log.info("run %d: %s %s", delivery.run, delivery.kind, delivery.round)
        until, began = time.monotonic() + delivery.ttl, time.monotonic()
        carrier = Carrier(self.link, self.allowance, self._beat_meanwhile, self.sleep)
        if (refusal := self._refusal(delivery)) is not None:
            self._owed.append((delivery, until))
            carrier.hand_in(delivery, _error(delivery, *refusal), 0.0, until)
            return
        objects = carrier.fetch(delivery, until)
        fetched = time.monotonic()
        reply = self._answered(delivery, objects, until)
        answered = time.monotonic()
        carrier.hand_in(delivery, reply, answered - fetched, until)
        brought = time.monotonic()
        log.info(
            "run %d: %s %s: %.2f s to fetch, %.2f s to answer, %.2f s to bring",
            delivery.run,
            delivery.kind,
            delivery.round,
            fetched - began,
            answered - fetched,
            brought - answered,
        )

    def _settle(self, run: int | None) -> None:
        """Let the server forget messages that were refused without being fetched: when it sends
        the next one of their run, or their time is over. It is not done with sending them before,
        and where it could not, its run would end."""
        now, owed = time.monotonic(), self._owed
        self._owed = [each for each in owed if each[0].run != run and each[1] > now]
        for delivery, until in owed:
            if delivery.run == run or until <= now:
                with suppress(RunOver):
                    self.link.confirm(delivery)

    def _answered(self, delivery: Delivery, objects: dict[str, bytes], until: float) -> Reply:
        """The app's answer, or an error in its place."""
        info, bundle = self._runs[delivery.run]
        self.diary.message(delivery.kind, delivery.run, delivery.round)
        state = self._states.get(info.series_id)
        try:
            worker = self._worker_of(info, bundle)
            reply = worker.ask(delivery, objects, state, until, self._beat_meanwhile)
        except Crashed as bad:
            self._worker = None
            log.error("run %d: %s: %s", delivery.run, delivery.kind, bad)
            self.diary.failed(delivery.kind, delivery.run, str(bad))
            return _error(delivery, ErrorCode.CLIENT_APP_CRASHED, str(bad))
        if reply.state is not None:
            _keep(self._states, info.series_id, reply.state)
        return reply

    def _worker_of(self, info: flower.Run, bundle: bytes) -> Worker:
        """The process of this run: the one that is there, or another in its place."""
        if self._worker is not None and self._worker.run == info.run_id and self._worker.is_there:
            return self._worker
        self._end_worker()
        load = self.known.get(info.fab_hash)
        self._worker = Worker.start(Job(info, bundle, self._number or 0, self.config, load))
        return self._worker

    def _end_worker(self) -> None:
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def _refusal(self, delivery: Delivery) -> tuple[int, str] | None:
        """Why the app does not get this message, as Flower's code and words; None if it does."""
        if delivery.run not in self._runs:
            info = self.link.run(delivery.run)
            if not self.may_run(info.fab_hash):
                return self._refused(delivery.run, info.fab_hash)
            _keep(self._runs, delivery.run, (info, self.link.bundle(info)))
        elif not self.may_run(bundle := self._runs[delivery.run][0].fab_hash):
            return self._refused(delivery.run, bundle)
        if (refusal := self.allowed(delivery.kind, time.time())) is not None:
            self.diary.not_now(delivery.kind, delivery.run, refusal.reason)
            log.info("run %d: not now: %s", delivery.run, refusal.reason)
            return ErrorCode.MOD_FAILED_PRECONDITION, "not now"  # why is nobody else's
        return None

    def _refused(self, run: int, bundle: str) -> tuple[int, str]:
        self.diary.bundle_refused(bundle, run)
        what_to_do = f"its owner can say tacit device allow VAULT {bundle}"
        log.warning("run %d has bundle %s, which is not allowed: %s", run, bundle, what_to_do)
        return ErrorCode.INVALID_FAB, f"this device does not run bundle {bundle}: {what_to_do}"

    def _connected(self) -> None:
        self.retry.begin()
        self.slowly.begin()
        if not self._is_connected:
            self._is_connected = True
            log.info("connected to %s as node %s", self.address, self._number)
            self.diary.connected(self.address, self._number or 0)

    def _disconnected(self, reason: str, level: int) -> None:
        self._beat_at = 0.0  # the first thing to be said when it is back
        log.log(level if not self._is_connected else logging.WARNING, "%s", reason)
        if self._is_connected:
            self._is_connected = False
            self.diary.disconnected(reason)


_WHAT_TO_DO = (
    "This device tries again by itself. If it was started anew just now, that ends within a "
    "minute; else its clock may be wrong, or the server has to join with the authority's newest "
    "answer, or this device has to (tacit device join), or it was revoked"
)


def _error(delivery: Delivery, code: int, reason: str) -> Reply:
    return flower.sent(flower.error_reply(delivery.message, code, reason))


def _keep(kept: OrderedDict[int, Kept], key: int, value: Kept) -> None:
    """The newest few."""
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > KEPT:
        kept.popitem(last=False)
