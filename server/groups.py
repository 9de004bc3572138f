"""`GroupedGrid`: a cohort in groups, a secure sum in each, and the strategy sees one mean a group.

A sum hides its parts from whoever would look for the odd one out, so a rule that stands up to
hostile devices gets sums to compare, as many as there are groups. What a group's sum hides is
hidden among that group, and no longer among the cohort.

The groups' sums go side by side: while the answers of one are waited for the others go on, so that
a round takes as many stages, one after the other, as a single sum does. They go in turns in one
thread, in the same order each time.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

from tacit.crypto.errors import ParameterError, TooFewClients
from tacit.crypto.identity import KEY_BYTES, Roster
from tacit.crypto.secagg.session import Purpose
from tacit.server.ahead import Ahead, Entry
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
    devices: which numbers go together is the matter of the rule that gets the means.

    A device stays in the group that it comes to by chance; with `anew` all are drawn again in each
    round. `seed` repeats who is in which; None: as the system's randomness has it.
    """

    count: int
    least: int
    hostile: int
    anew: bool = False
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.count:
            raise ParameterError(
                f"{self.least} of {self.count} groups to be opened, expected 1..{self.count}"
            )

    def divide(
        self, devices: Iterable[int], places: Mapping[int, int], round: int
    ) -> dict[int, int]:
        """The group, from 0, of each of `devices`: where it is in `places`, and whoever is in none
        in the smallest at that time, by chance. From no places, sizes differ by one at most."""
        entropy = list(os.urandom(KEY_BYTES))
        if self.seed is not None:
            entropy = [self.seed, round if self.anew else 0, _STREAM]
        found = {device: places[device] for device in devices if device in places}
        sizes = [list(found.values()).count(group) for group in range(self.count)]
        new = sorted(set(devices) - found.keys())
        for device in np.random.default_rng(entropy).permutation(new).tolist():
            found[device] = sizes.index(min(sizes))
            sizes[found[device]] += 1
        return found


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
        ahead: Ahead | None = None,
    ) -> None:
        super().__init__(
            inner,
            protocol,
            roster=roster,
            weight_key=weight_key,
            on_event=on_event,
            tap=tap,
            ahead=ahead,
        )
        self.groups = groups
        self._places: dict[int, int] = {}  # by device
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
        roster, nodes = yield from self._gathered(broadcast)
        to = dict(zip(broadcast.nodes, asked, strict=True))
        divided = self._divided(broadcast, roster, nodes)
        count, least = self.groups.count, self.groups.least
        entries = [self._ahead.entry(broadcast.round, "train", n) for n in range(1, count + 1)]

        def group(devices: Sequence[int], entry: Entry) -> Steps[list[Message]]:
            if (recalled := self._recalled(broadcast, entry)) is not None:
                return [Message(recalled, reply_to=asked[0])]
            if len(devices) < SMALLEST:
                raise TooFewClients(f"{len(devices)} of its devices are there")
            members = tuple(nodes[device] for device in devices)
            part = replace(broadcast, nodes=members)
            reply = yield from self._summed(part, roster, nodes, timeout, entry)
            return [Message(reply, reply_to=to[members[0]])]

        found = yield from side_by_side(
            [
                self._tried(broadcast, group(devices, entry), f"group {number} of {count}: ")
                for number, (devices, entry) in enumerate(zip(divided, entries, strict=True), 1)
            ]
        )
        replies = [reply for each in found for reply in each]
        if len(replies) < least:
            raise TooFewClients(f"{len(replies)} of {count} groups were opened, {least} needed")
        return replies

    def _divided(
        self, broadcast: Broadcast, roster: Roster, nodes: Mapping[int, int]
    ) -> list[list[int]]:
        """The devices of each group that can be in its sum."""
        there = self._devices(broadcast.nodes) & self._due(roster) & nodes.keys()
        anew, round = self.groups.anew, broadcast.round
        known = {} if anew else self._places
        known = known or self._ahead.places(round, latest=not anew)  # of before an interruption
        found = self.groups.divide(there, known, round)
        self._places = found if anew else {**known, **found}
        self._ahead.place(round, self._places)
        groups = range(self.groups.count)
        divided = [sorted(d for d, place in found.items() if place == group) for group in groups]
        sizes = [len(devices) for devices in divided if len(devices) >= SMALLEST]
        self._on_event(
            CohortDivided(
                broadcast.round, len(there), len(groups), min(sizes, default=0), self.groups.hostile
            )
        )
        return divided


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
