"""A whole consortium under a server that sends anything to anybody in any order.

Real devices, random moves: keys dealt and delivered in any order, old ones too, stages of several
sessions to whoever, with any survivors and any sum, restarts. Device d's input is the d-th unit
vector, so what is decrypted says whose contributions are in it.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import pytest
from hypothesis import HealthCheck, Phase, example, given, seed, settings
from hypothesis import strategies as st

from tacit.client import rounds
from tacit.crypto.errors import TacitError
from tacit.crypto.he import sums
from tacit.crypto.he.keys import Consortium
from tacit.crypto.secagg import client
from tacit.crypto.secagg.session import Session
from tacit.server.flower import identity
from tests.hostile.adversary import read
from tests.hostile.attack import Removal, nothing, replaced
from tests.hostile.circle import ALL, Circle, prepared
from tests.hostile.test_consortium import NOT_THE_SUM, always_kept, counts, remembered
from tests.hostile.test_rounds import BACKWARDS, ONCE
from tests.runtime.desk import RUN

pytest.importorskip("tenseal", reason="TenSEAL is not installed: pip install '.[he]'")

QUICK = "bfv-2048-seeded" if hasattr(os, "memfd_create") else "bfv-4096"
SETS = (ALL, (1, 2, 3, 4), (2, 3, 4, 5), (1, 2, 3), (3, 4), (3,))
SHOWN = (*SETS, (3, 3, 3), (1, 2, 3, 4, 5, 5))  # whose contributions are in the sum, how often


class Violation(AssertionError):
    """The server knows what it must not."""


# Moves


@dataclass(frozen=True)
class Deal:
    """By device 1 in epoch 1, 2 in epoch 2, ...; and to these in its place, if it answers."""

    serial: int
    members: tuple[int, ...]


@dataclass(frozen=True)
class Deliver:
    """A box that the server has kept."""

    serial: int
    member: int


@dataclass(frozen=True)
class Report:
    session: int
    devices: tuple[int, ...]


@dataclass(frozen=True)
class Attest:
    session: int
    survivors: tuple[int, ...]
    members: tuple[int, ...]


@dataclass(frozen=True)
class Reveal:
    session: int
    survivors: tuple[int, ...]
    shown: tuple[int, ...]
    member: int


@dataclass(frozen=True)
class Whole:
    """All stages, and two openers who are shown a sum; without one, that of the survivors."""

    session: int
    survivors: tuple[int, ...]
    shown: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Restart:
    device: int


Move: TypeAlias = Deal | Deliver | Report | Attest | Reveal | Whole | Restart

DEVICES, SESSIONS = st.sampled_from(ALL), st.sampled_from([0, 0, 0, 0, 1, 2, 3])
CHOSEN, SERIALS = st.sampled_from(SETS), st.integers(1, 3)
MANY = st.sampled_from([ALL, ALL, ALL, (1, 2, 3, 4), (3, 4)])
# What brings a server furthest comes more often: whole stages, of few sessions.
MOVES: st.SearchStrategy[Move] = st.one_of(
    st.builds(Whole, SESSIONS, CHOSEN),
    st.builds(Whole, SESSIONS, CHOSEN, st.sampled_from(SHOWN)),
    st.builds(Reveal, SESSIONS, CHOSEN, st.sampled_from(SHOWN), DEVICES),
    st.builds(Reveal, SESSIONS, CHOSEN, st.sampled_from(SHOWN), DEVICES),
    st.builds(Attest, SESSIONS, CHOSEN, MANY),
    st.builds(Report, SESSIONS, MANY),
    st.builds(Deal, SERIALS, CHOSEN),
    st.builds(Deliver, SERIALS, DEVICES),
    st.builds(Restart, DEVICES),
)


@dataclass
class World:
    """Devices as they are now, and what the server has."""

    circle: Circle
    consortia: dict[int, Consortium]
    boxes: dict[int, dict[int, bytes]]
    sessions: tuple[Session, ...]
    opened: dict[bytes, set[tuple[int, ...]]] = field(default_factory=lambda: defaultdict(set))
    refused: set[tuple[int, bytes]] = field(default_factory=set)

    @classmethod
    def fresh(cls) -> "World":
        """Epoch 1 is dealt; two sessions are under it, and one each under the next."""
        circle, first, boxes = prepared(QUICK)
        consortia = {1: first, 2: circle.consortium(2, 2), 3: circle.consortium(3, 3)}
        shown = []
        for round, serial in ((1, 1), (2, 1), (3, 2), (4, 3)):
            circle.epoch = consortia[serial].epoch
            shown.append(circle.session(round))
        return cls(circle, consortia, {1: boxes}, tuple(shown))

    def play(self, move: Move) -> None:
        match move:
            case Deal(serial, members):
                self.deal(serial, members)
            case Deliver(serial, member):
                self.deliver(serial, member)
            case Report(number, devices):
                self.report(self.sessions[number], devices)
            case Attest(number, survivors, members):
                self.attest(self.sessions[number], survivors, members)
            case Reveal(number, survivors, shown, member):
                self.reveal(self.sessions[number], survivors, shown, member)
            case Whole(number, survivors, shown):
                session = self.sessions[number]
                self.report(session, ALL)
                self.attest(session, survivors, ALL)
                for member in (1, 4):
                    self.reveal(session, survivors, shown or survivors, member)
            case Restart(device):
                self.circle.restart(device)

    def deal(self, serial: int, members: Sequence[int]) -> None:
        try:
            boxes = self.circle.deals(self.consortia[serial])
        except TacitError:
            return
        self.boxes[serial] = boxes
        for member in members:
            self.deliver(serial, member)

    def deliver(self, serial: int, member: int) -> None:
        if member not in self.boxes.get(serial, {}):
            return
        consortium = self.consortia[serial]
        try:
            self.circle.delivers(consortium, member, self.boxes[serial][member])
        except TacitError:
            return
        if (member, consortium.epoch) in self.refused:
            raise Violation(f"device {member} takes a key that it had given up")

    def report(self, session: Session, devices: Sequence[int]) -> None:
        for device in devices:
            try:
                self.circle.hears(session, [device])
            except TacitError:
                continue
            if (device, session.epoch) in self.refused:
                raise Violation(f"device {device} contributes under a key that it had given up")

    def attest(self, session: Session, survivors: Sequence[int], members: Sequence[int]) -> None:
        for member in members:
            try:
                self.circle.signs(session, survivors, [member])
            except TacitError:
                continue

    def reveal(
        self, session: Session, survivors: Sequence[int], shown: Sequence[int], member: int
    ) -> None:
        if not set(shown) <= self.circle.sent[session.id].keys():
            return
        total = self.circle.total(session, shown, count=len(survivors))
        try:
            vector = self.circle.decrypts(member, session, survivors, total)
        except TacitError as refusal:
            if NOT_THE_SUM in str(refusal):
                if (member, session.epoch) in self.refused:
                    raise Violation(f"device {member} refuses twice under one key") from None
                self.refused.add((member, session.epoch))
            return
        reading = read(session, vector, len(shown))
        if reading != counts(survivors):
            raise Violation(f"a sum over {survivors} reads {reading}")
        if len(survivors) < session.min_survivors:
            raise Violation(f"a sum over {survivors}")
        self.opened[session.id].add(tuple(survivors))
        if len(self.opened[session.id]) > 1:
            raise Violation(f"two sums of one session: {self.opened[session.id]}")


def follow(moves: Sequence[Move]) -> World:
    with identity(RUN):
        world = World.fresh()
        for move in moves:
            world.play(move)
    return world


FOUR = (1, 2, 3, 4)
GUESS = Reveal(0, ALL, FOUR, 1)  # what an opener refuses
SIGNED = (Report(0, ALL), Attest(0, ALL, ALL))


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(moves=st.lists(MOVES, max_size=10))
@example([Whole(0, ALL), Whole(0, FOUR), Restart(4), Whole(1, FOUR)])
@example([*SIGNED, GUESS, GUESS, Deliver(1, 1), Report(1, ALL), Restart(1), Report(1, ALL)])
@example([*SIGNED, GUESS, Deal(2, ALL), Deliver(1, 1), Whole(2, ALL), Whole(1, ALL)])
@example([Report(0, ALL), Attest(0, ALL, (1, 2, 3)), Attest(0, FOUR, (4, 5)), Whole(0, FOUR)])
@example([Deal(3, ALL), Deal(2, ALL), Whole(3, ALL), Whole(0, ALL), Deal(3, ALL)])
def test_any_server(moves: list[Move]) -> None:
    follow(moves)


def test_a_server_that_plays_along_does_open_its_sums() -> None:
    """Or the invariants would hold of devices that never answer."""
    world = follow([Whole(0, ALL), *SIGNED, Whole(1, FOUR), Deal(2, ALL), Whole(2, ALL)])
    first, second, third, fourth = (world.opened[session.id] for session in world.sessions)
    assert (first, second, third, fourth) == ({ALL}, {FOUR}, {ALL}, set())
    assert not world.refused
    world = follow([*SIGNED, GUESS])
    assert len(world.refused) == 1


DEFECTS: dict[str, tuple[Removal, list[Move]]] = {
    "any sum is one": (replaced(sums, "check", nothing), [*SIGNED, GUESS]),
    "the key stays": (
        replaced(rounds, "with_group", remembered),
        [*SIGNED, GUESS, Report(1, ALL)],
    ),
    "an old key is taken": (
        replaced(rounds, "keep_group", always_kept),
        [*SIGNED, Reveal(0, ALL, FOUR, 3), Deliver(1, 3)],
    ),
    "states are kept": (
        BACKWARDS,
        [*SIGNED, Reveal(0, ALL, ALL, 1), Attest(0, FOUR, ALL), Reveal(0, FOUR, FOUR, 1)],
    ),
    "any survivors": (
        replaced(client, "_check_survivors", nothing),
        [Report(0, ALL), Attest(0, (3,), ALL), Reveal(0, (3,), (3,), 1)],
    ),
    "any signatures": (
        replaced(client, "_check_signatures", nothing),
        [
            Report(0, ALL),
            Attest(0, ALL, (1, 2, 3)),
            Attest(0, FOUR, (4, 5)),
            Reveal(0, ALL, ALL, 1),
            Reveal(0, FOUR, FOUR, 4),
        ],
    ),
    "rounds are not counted": (ONCE, [Whole(0, ALL), Whole(0, FOUR)]),
}


@pytest.mark.parametrize(("defect", "way"), DEFECTS.values(), ids=DEFECTS)
def test_a_defect_is_a_violation(
    defect: Removal, way: list[Move], monkeypatch: pytest.MonkeyPatch
) -> None:
    follow(way)
    defect(monkeypatch)
    with pytest.raises(Violation):
        follow(way)


def test_a_defect_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a search like the one above, with some more to spare."""
    removal, _ = DEFECTS["any sum is one"]
    removal(monkeypatch)

    @seed(1)
    @settings(
        max_examples=200,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(moves=st.lists(MOVES, max_size=10))
    def search(moves: list[Move]) -> None:
        follow(moves)

    with pytest.raises(Violation):
        search()
