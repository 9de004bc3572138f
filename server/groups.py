"""`GroupedGrid`: a cohort in groups, a secure sum in each, and the strategy sees one mean a group.

A sum hides its parts from whoever would look for the odd one out, so a rule that stands up to
hostile devices gets sums to compare, as many as there are groups. What a group's sum hides is
hidden among that group, and no longer among the cohort.

The groups' sums go side by side: each stage is sent to all groups before any answer is waited for,
so that a round takes as many stages, one after the other, as a single sum does. They go in turns in
one thread, in the same order each time.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

from tacit.crypto.errors import ParameterError, TooFewClients
from tacit.crypto.identity import KEY_BYTES, Roster
from tacit.crypto.secagg.session import Purpose
from tacit.server.broadcast import Broadcast
from tacit.server.events import CohortDivided, OnEvent
from tacit.server.grid import SecureGrid
from tacit.server.inbox import Tap
from tacit.server.legs import Steps, side_by_side
from tacit.server.pairwise import SecureSum

SMALLEST = 2  # devices of a group: one alone would be no sum
_STREAM = 0x67726F75  # of numpy's generator, apart from others that the same seed is for


@dataclass(frozen=True, slots=True)
class Groups:
    """`count` groups, of which `least` have to be opened in a round for it to stand up to `hostile`
    devices: which numbers go together is the matter of the rule that gets the means. `seed` repeats
    who is in which; None: as the system's randomness has it."""

    count: int
    least: int
    hostile: int
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.count:
            raise ParameterError(
                f"{self.least} of {self.count} groups to be opened, expected 1..{self.count}"
            )

    def size(self, devices: int) -> int:
        """Devices of the smallest group, of so many in a round."""
        return devices // self.count

    def divide(self, devices: Sequence[int], round: int) -> list[list[int]]:
        """`devices` at random in groups whose sizes differ by one at most, anew in each round.

        Raises TooFewClients if there are not two for each.
        """
        if self.size(len(devices)) < SMALLEST:
            raise TooFewClients(
                f"{len(devices)} devices for {self.count} groups: a group is {SMALLEST} or more"
            )
        entropy: Sequence[int] = list(os.urandom(KEY_BYTES))
        if self.seed is not None:
            entropy = [self.seed, round, _STREAM]
        order = np.random.default_rng(entropy).permutation(sorted(devices)).tolist()
        return [sorted(order[at :: self.count]) for at in range(self.count)]


class GroupedGrid(SecureGrid):
    """Trains in groups, and evaluates in one sum: metrics go into no model, and hide among all.

    A group whose sum is not opened is left out, and a `SumFailed` event says why; if fewer than
    `groups.least` are opened there is no reply at all. The devices of a group are its committee.
    """

    def __init__(
        self,
        inner: Grid,
        protocol: SecureSum,
        groups: Groups,
        *,
        roster: Roster | None = None,
        weight_key: str = "num-examples",
        on_event: OnEvent | None = None,
        tap: Tap | None = None,
    ) -> None:
        super().__init__(
            inner, protocol, roster=roster, weight_key=weight_key, on_event=on_event, tap=tap
        )
        self.groups = groups
        self._within = within_groups(protocol)

    def _protocol(self, purpose: Purpose) -> SecureSum:
        return self._within if purpose is Purpose.TRAIN else self.protocol

    def _replies(self, asked: Sequence[Message], timeout: float) -> Steps[list[Message]]:
        broadcast = Broadcast.of(asked)
        if not broadcast.kind.startswith("train"):
            return super()._replies(asked, timeout)
        return self._tried(broadcast, self._in_groups(asked, broadcast, timeout))

    def _in_groups(
        self, asked: Sequence[Message], broadcast: Broadcast, timeout: float
    ) -> Steps[list[Message]]:
        roster, nodes = yield from self._ready(broadcast)
        to = dict(zip(broadcast.nodes, asked, strict=True))
        there = self._devices(broadcast.nodes) & self._due(roster) & nodes.keys()
        count, least = self.groups.count, self.groups.least

        def group(devices: Sequence[int]) -> Steps[list[Message]]:
            members = tuple(nodes[device] for device in devices)
            part = replace(broadcast, nodes=members)
            reply = yield from self._summed(part, roster, nodes, timeout)
            return [Message(reply, reply_to=to[members[0]])]

        divided = self.groups.divide(sorted(there), broadcast.round)
        smallest = self.groups.size(len(there))
        self._on_event(
            CohortDivided(broadcast.round, len(there), count, smallest, self.groups.hostile)
        )
        found = yield from side_by_side(
            [
                self._tried(broadcast, group(devices), f"group {number} of {count}: ")
                for number, devices in enumerate(divided, 1)
            ]
        )
        replies = [reply for each in found for reply in each]
        if len(replies) < least:
            raise TooFewClients(f"{len(replies)} of {count} groups were opened, {least} needed")
        return replies


def in_words(divided: CohortDivided) -> str:
    """What groups buy, and the anonymity that they cost."""
    return (
        f"{divided.groups} groups of {divided.smallest} or more: stands up to {divided.hostile} "
        f"hostile devices, and an update hides among {divided.smallest}, not {divided.devices}"
    )


def within_groups(protocol: SecureSum) -> SecureSum:
    """`protocol` with the devices of a group as its committee.

    A committee that the roster's beacon draws would sit in all groups at once, and a device is in
    one sum at a time. Raises ParameterError if one is asked for.
    """
    if protocol.seats:
        raise ParameterError(
            f"seats={protocol.seats}: a committee drawn from the roster opens one sum at a time, "
            "and groups open theirs side by side: leave it out"
        )
    return replace(protocol, seats=0)
