"""A federation of up to a million devices, event by event, without one of them being there.

Each device asks the server every `poll` seconds, at times of its own. A round begins; the sampled
find their message when they next ask, take the model at the speed of their line, train, and send
their report; then the committee attests and reveals. Some fall silent, for which a stage waits its
deadline. All that a message costs the server is queued for its cores and for its line, which the
polls of everybody else use too: these are counted second by second, not one by one, since nothing
comes of them.

The same seed gives the same run, on every machine: times are drawn by NumPy's PCG64.
"""

import heapq
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.simulations.load import (
    NODE_BYTES,
    ROW_BYTES,
    Demand,
    Fleet,
    Machine,
    Stage,
    Sum,
    exchange,
    polling,
    standing,
)

SPREAD = 0.5  # of ln(training time): one device in six takes 1.6 times the median or more
ROUND_TRIP_S = 0.05


@dataclass(frozen=True, slots=True)
class Played:
    """`demand` as it came out; `rounds`, the seconds that each took, shape (rounds,); the most
    that any message waited for the server's cores or its line, in seconds."""

    demand: Demand
    rounds: NDArray[np.float64]
    longest_wait: float

    @property
    def percentiles(self) -> tuple[float, float, float]:
        """Of the rounds' seconds: the median, 90 of 100, 99 of 100."""
        p50, p90, p99 = np.percentile(self.rounds, (50, 90, 99))
        return float(p50), float(p90), float(p99)


class _Queue:
    """What is served one after the other, at `rate` a second."""

    def __init__(self, rate: float) -> None:
        self._rate, self._free, self.longest = rate, 0.0, 0.0

    def serve(self, now: float, work: float) -> float:
        """When this is done that came at `now`."""
        begin = max(now, self._free)
        self.longest = max(self.longest, begin - now)
        self._free = begin + work / self._rate
        return self._free


class _Run:
    """The totals of a run, and the queues that all of its messages share."""

    def __init__(self, fleet: Fleet, machine: Machine, seed: int) -> None:
        self.fleet, self.plan = fleet, Sum.of(fleet)
        self.rng = np.random.default_rng(seed)
        up, down, link = polling(fleet)
        left = machine.cores - link, machine.line - up, machine.line - down
        if min(left) <= 0:
            raise ParameterError(
                f"polls alone take {link:.3g} of {machine.cores:g} cores and {up / 1e6:.3g} of "
                f"{machine.line / 1e6:g} MB/s: more than this machine has"
            )
        self.cores, self.into, self.out = (_Queue(rate) for rate in left)
        # When within `poll` seconds each device asks: the same all the time.
        self.phase = self.rng.uniform(0, fleet.poll, fleet.devices).astype(np.float32)
        self.has_enrolled = np.zeros(fleet.devices, dtype=np.bool_)
        self.seated = self.rng.choice(fleet.devices, self.plan.witnesses, replace=False)
        self.up = self.down = self.link = self.own = self.rows = 0.0

    def polled(self, device: int, now: float) -> float:
        """When this device next asks."""
        poll, phase = self.fleet.poll, float(self.phase[device])
        return phase + poll * math.ceil((now - phase) / poll)

    def stage(
        self, stage: Stage, devices: NDArray[np.int64], now: float, drop: float, *, trains: bool
    ) -> float:
        """When a stage that begins `now` is over: the last answer, or its deadline."""
        silent = self.rng.random(len(devices)) < drop
        spent = np.zeros(len(devices))
        if trains:
            spent = self.fleet.train * np.exp(SPREAD * self.rng.standard_normal(len(devices)))
        speed = self.fleet.uplink * np.exp(SPREAD * self.rng.standard_normal(len(devices)))
        # (time, order, what, which): the order keeps ties as they came
        events = [
            (self.polled(int(device), now), at, "ask", at) for at, device in enumerate(devices)
        ]
        heapq.heapify(events)
        over, order = now, len(events)
        while events:
            time, _, what, at = heapq.heappop(events)
            if what == "ask":
                ready = self._sent(stage, time, is_silent=bool(silent[at]))
                if silent[at]:
                    continue
                there = max(ready, time + stage.down / speed[at]) + ROUND_TRIP_S
                done = there + spent[at] + stage.up / speed[at]
                heapq.heappush(events, (done, order, "answer", at))
                order += 1
            else:
                over = max(over, self._taken(stage, time))
        end = now + (self.fleet.timeout if trains else self.fleet.deadline)
        return end if silent.any() else min(over, end)

    def _sent(self, stage: Stage, now: float, *, is_silent: bool) -> float:
        """A device has asked, and there is a message: when it is out."""
        up, down, link = exchange(stage, is_silent=is_silent)
        if is_silent:
            self.up += up
        self.down, self.link = self.down + down, self.link + link
        return max(self.cores.serve(now, link), self.out.serve(now, down))

    def _taken(self, stage: Stage, now: float) -> float:
        """A device's answer is there: when the server has worked it in."""
        up, _, _ = exchange(stage)
        self.up, self.own, self.rows = self.up + up, self.own + stage.seconds, self.rows + ROW_BYTES
        return self.cores.serve(self.into.serve(now, up), stage.seconds)

    def round(self, now: float) -> float:
        """When a round that begins `now` is over."""
        fleet, plan = self.fleet, self.plan
        cohort = self.rng.choice(fleet.devices, fleet.cohort, replace=False)
        parties = np.union1d(cohort, self.seated)
        fresh = parties[~self.has_enrolled[parties]]
        self.has_enrolled[parties] = True
        now = self.stage(plan.enrol, fresh, now, 0.0, trains=False)
        now = self.stage(plan.report, cohort, now, fleet.drop, trains=True)
        if plan.is_drawn:
            here = cohort[: plan.members - plan.witnesses]
            members, drop = np.concatenate([self.seated, here]), fleet.drop
        else:  # those who reported are asked
            members, drop = cohort[self.rng.random(len(cohort)) >= fleet.drop], 0.0
        now = self.stage(plan.attest, members, now, drop, trains=False)
        if drop:
            members = members[self.rng.random(len(members)) >= drop]
        now = self.stage(plan.reveal, members, now, 0.0, trains=False)
        self.own += plan.opening
        return self.cores.serve(now, plan.opening)


def play(fleet: Fleet, machine: Machine, rounds: int, seed: int = 0) -> Played:
    """Play so many rounds. Memory is O(devices): five bytes for each.

    Raises ParameterError where the polls alone are more than the machine can do.
    """
    if rounds < 1:
        raise ParameterError(f"{rounds} rounds, expected 1 or more")
    run, took, began = _Run(fleet, machine, seed), [], 0.0
    for _ in range(rounds):
        over = run.round(began)
        took.append(over - began)
        began = max(over, began + fleet.every)
    span = rounds * fleet.every  # as if none took longer: else it is the rounds that are too slow
    up, down, link = polling(fleet)
    demand = Demand(
        up + run.up / span,
        down + run.down / span,
        link + run.link / span,
        run.own / span,
        standing(fleet, run.plan),
        NODE_BYTES * fleet.devices + run.rows + rounds * 4 * fleet.length,
    )
    longest = max(queue.longest for queue in (run.cores, run.into, run.out))
    return Played(demand, np.array(took), longest)
