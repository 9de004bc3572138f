"""Brings the objects that a message is made of to a node, and those of its answer to the server.

Flower cuts a message into objects of at most a few megabytes. When the connection breaks, only what
is not over yet is asked for or sent again, for as long as the answer is of use.
"""

import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass

from tacit.client.node.flower import Delivery, Link, Reply, RunOver, Unreachable
from tacit.client.node.pace import Allowance, BackOff

AT_ONCE = 4  # objects on their way
_TICK = 1.0  # seconds between two calls of `meanwhile`


@dataclass(frozen=True, slots=True)
class Carrier:
    """`meanwhile` is called every now and then while something is on its way."""

    link: Link
    allowance: Allowance
    meanwhile: Callable[[], object]
    sleep: Callable[[float], None] = time.sleep

    def fetch(self, delivery: Delivery, until: float) -> dict[str, bytes]:
        """All objects of a message. Raises RunOver if they are not here at `until` (monotonic)."""
        got: dict[str, bytes] = {}

        def fetch(name: str) -> None:
            got[name] = self.link.pull_object(delivery.run, name)
            self.allowance.spend(len(got[name]))

        names = delivery.objects
        self._bring(fetch, lambda: [each for each in names if each not in got], until)
        self.link.confirm(delivery)
        return got

    def hand_in(self, delivery: Delivery, reply: Reply, seconds: float, until: float) -> None:
        """Bring the answer, which took the app so many `seconds`. Raises RunOver as `fetch`."""
        announced: list[tuple[set[str], str]] = []
        self._bring(
            lambda _: announced.append(self.link.push(reply, seconds)),
            lambda: [] if announced else ["the announcement"],
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
        with ThreadPoolExecutor(min(AT_ONCE, len(names))) as pool:
            waiting = {pool.submit(one, name) for name in names}
            while waiting:
                done, waiting = wait(waiting, timeout=_TICK, return_when=FIRST_EXCEPTION)
                self.meanwhile()
                for each in done:
                    if (bad := each.exception()) is not None:
                        pool.shutdown(wait=True, cancel_futures=True)
                        raise bad
