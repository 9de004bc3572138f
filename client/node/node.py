"""A device's node: it fetches messages from its server, has them answered, and brings the answers.

It is one process with one thread while it waits. A message is handled by a process of its own
(`tacit.client.node.task`), one at a time, and by none at all if the device's owner has not allowed
the run's bundle, or not the time of day.

A server that is gone is tried again for ever. One that turns the device away is, too, but slowly:
its owner is told what to do, and when it is done the node goes on by itself.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from tacit.client.node import flower
from tacit.client.node.base import Allowed, Diary, NoDiary, always
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
from tacit.client.node.task import Crashed, Load, Task, run

log = logging.getLogger("tacit.node")

Kept = TypeVar("Kept")

KEPT = 8  # runs, and their apps' states, that a node remembers
_BEATS = 0.6  # of the time that the server waits for one
_AT_ONCE = 4  # objects on their way
_TICK = 1.0  # seconds between looks at the clock while objects are on their way
_LONGEST = 10 * 60.0  # seconds that a node tries to bring one message's objects over


@dataclass(slots=True)
class Node:
    """`address` is for messages only. `known` has the apps of bundles that are installed, by the
    bundles' hashes; `may_run` says whether the owner allows a bundle, asked for each message."""

    link: Link
    address: str
    config: flower.Config
    may_run: Callable[[str], bool]
    known: Mapping[str, Load] = field(default_factory=dict)
    allowed: Allowed = always
    diary: Diary = field(default_factory=NoDiary)
    pace: Pace = field(default_factory=Pace)
    allowance: Allowance = field(default_factory=Allowance)
    retry: BackOff = field(default_factory=lambda: BackOff(1.0, 30.0))
    slowly: BackOff = field(default_factory=lambda: BackOff(5.0, 120.0))
    sleep: Callable[[float], None] = time.sleep
    _number: int | None = None
    _is_connected: bool = False
    _beat_at: float = 0.0
    _runs: OrderedDict[int, tuple[flower.Run, bytes]] = field(default_factory=OrderedDict)
    _states: OrderedDict[int, bytes] = field(default_factory=OrderedDict)

    def serve(self) -> None:
        """For ever, until an exception from outside ends it: then the server is told."""
        self.diary.node_began()
        try:
            while True:
                self._try(self._step)
        finally:
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
        if delivery is None:
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
        until = time.monotonic() + delivery.ttl
        began = time.time()
        if (refusal := self._refusal(delivery)) is not None:
            code, reason = refusal
            self._hand_in(
                delivery,
                flower.sent(flower.error_reply(delivery.message, code, reason)),
                0.0,
                until,
            )
            return
        info, bundle = self._runs[delivery.run]
        objects = self._fetch(delivery, until)
        self.diary.message(delivery.kind, delivery.run, delivery.round)
        task = Task(
            delivery,
            objects,
            info,
            bundle,
            self._number or 0,
            self.config,
            self._states.get(info.series_id),
            self.known.get(info.fab_hash),
        )
        try:
            reply = run(task, until - time.monotonic(), self._beat_meanwhile)
        except Crashed as bad:
            log.error("run %d: %s: %s", delivery.run, delivery.kind, bad)
            self.diary.failed(delivery.kind, delivery.run, str(bad))
            reply = flower.sent(
                flower.error_reply(delivery.message, ErrorCode.CLIENT_APP_CRASHED, str(bad))
            )
        if reply.state is not None:
            _keep(self._states, info.series_id, reply.state)
        self._hand_in(delivery, reply, time.time() - began, until)

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
            return ErrorCode.MOD_FAILED_PRECONDITION, f"not now: {refusal.reason}"
        return None

    def _refused(self, run: int, bundle: str) -> tuple[int, str]:
        self.diary.bundle_refused(bundle, run)
        what_to_do = f"its owner can say tacit device allow VAULT {bundle}"
        log.warning("run %d has bundle %s, which is not allowed: %s", run, bundle, what_to_do)
        return ErrorCode.INVALID_FAB, f"this device does not run bundle {bundle}: {what_to_do}"

    def _fetch(self, delivery: Delivery, until: float) -> dict[str, bytes]:
        """All objects of a message. What is here already is not asked for again after a failure."""
        got: dict[str, bytes] = {}

        def fetch(name: str) -> None:
            got[name] = self.link.pull_object(delivery.run, name)
            self.allowance.spend(len(got[name]))

        self._bring(fetch, lambda: [each for each in delivery.objects if each not in got], until)
        self.link.confirm(delivery)
        return got

    def _hand_in(self, delivery: Delivery, reply: Reply, seconds: float, until: float) -> None:
        """Bring an answer to the server, as long as it is of use."""
        announced: list[tuple[set[str], str]] = []
        self._bring(
            lambda _: announced.append(self.link.push(reply, seconds)),
            lambda: [] if announced else [""],
            until,
        )
        wanted, session = announced[0]

        def bring(name: str) -> None:
            self.allowance.spend(len(reply.objects[name]))
            self.link.push_object(delivery.run, session, name, reply.objects[name])
            wanted.discard(name)

        self._bring(bring, lambda: [each for each in reply.objects if each in wanted], until)

    def _bring(
        self, one: Callable[[str], None], left: Callable[[], list[str]], until: float
    ) -> None:
        """Do `one` for each that is `left`, several at a time, until none is or time is up."""
        again = BackOff(0.1, 10.0)
        while names := left():
            try:
                self._at_once(one, names)
            except Unreachable as gone:
                if time.monotonic() >= until:
                    raise RunOver(f"out of time: {gone}") from None
                self.sleep(again.next())

    def _at_once(self, one: Callable[[str], None], names: list[str]) -> None:
        if len(names) == 1:
            one(names[0])
            return
        # Its threads have ended when it has: a node forks with one thread only.
        with ThreadPoolExecutor(min(_AT_ONCE, len(names))) as pool:
            waiting = {pool.submit(one, name) for name in names}
            while waiting:
                done, waiting = wait(waiting, timeout=_TICK, return_when=FIRST_EXCEPTION)
                self._beat_meanwhile()
                for each in done:
                    if (bad := each.exception()) is not None:
                        pool.shutdown(wait=True, cancel_futures=True)
                        raise bad

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


def _keep(kept: OrderedDict[int, Kept], key: int, value: Kept) -> None:
    """The newest few."""
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > KEPT:
        kept.popitem(last=False)
