"""A whole federation under a server: the moves it may make, and what must not come of them.

Real devices; device 5 colludes. Device d's input is the d-th unit vector, so a 2 in an opened sum
is a double count, and a sum over too few shows as that. After each move the adversary opens all it
can from all it has ever heard.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import TypeAlias

import numpy as np
from flwr.app import ArrayRecord, Context, RecordDict

from tacit.crypto.errors import TacitError, TooFewClients
from tacit.crypto.secagg import stages
from tacit.crypto.secagg.hybrid import (
    DecapsulateRequest,
    Encapsulated,
    EncapsulateRequest,
    Peer,
)
from tacit.crypto.secagg.messages import AttestRequest
from tacit.crypto.secagg.server import Attesting, Collecting
from tacit.crypto.secagg.session import Session
from tacit.server.flower import copy_records, identity
from tacit.server.pairwise import Pairwise
from tests.hostile.adversary import Adversary
from tests.hostile.crowd import Crowd
from tests.hostile.kinds import Kind, current, under
from tests.runtime import linear
from tests.runtime.desk import RUN, stage
from tests.runtime.desk import field as field_of

ALL = (1, 2, 3, 4, 5)
LIAR = 5


class Violation(AssertionError):
    """The adversary knows what no server may know."""


# Moves


@dataclass(frozen=True)
class Report:
    session: int
    device: int


@dataclass(frozen=True)
class Attest:
    session: int
    member: int
    survivors: tuple[int, ...]


@dataclass(frozen=True)
class Reveal:
    session: int
    member: int
    survivors: tuple[int, ...]


@dataclass(frozen=True)
class Open:
    """Attest and reveal, by everyone."""

    session: int
    survivors: tuple[int, ...]


@dataclass(frozen=True)
class Whole:
    """Report, attest and reveal, by everyone."""

    session: int
    survivors: tuple[int, ...]


@dataclass(frozen=True)
class Again:
    """Report, attest and reveal, by everyone; then attest and reveal another set."""

    session: int
    one: tuple[int, ...]
    other: tuple[int, ...]


@dataclass(frozen=True)
class Spoil:
    """Report, attest and reveal, by everyone; all boxes are spoilt but those of some devices."""

    session: int
    survivors: tuple[int, ...]
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Halves:
    """Two sets to two halves of the committee."""

    session: int
    one: tuple[int, ...]
    other: tuple[int, ...]


@dataclass(frozen=True)
class Replay:
    """A message that was sent before, to any device."""

    number: int
    device: int


@dataclass(frozen=True)
class Restart:
    device: int


@dataclass(frozen=True)
class Garbage:
    device: int
    kind: str


@dataclass(frozen=True)
class Enrol:
    device: int


@dataclass(frozen=True)
class Seal:
    """A new ML-KEM secret of two devices, delivered or not; only in a hybrid run."""

    dealer: int
    device: int
    delivered: bool


@dataclass(frozen=True)
class Honest:
    """A round of an honest server; some devices silent from some stage on."""

    silent: tuple[tuple[int, int], ...]  # (device, 0 report | 1 attest | 2 reveal)


Move: TypeAlias = (
    Report
    | Attest
    | Reveal
    | Open
    | Whole
    | Again
    | Spoil
    | Halves
    | Replay
    | Restart
    | Garbage
    | Enrol
    | Seal
    | Honest
)

# The federation


@dataclass(frozen=True)
class Shown:
    """A session, and the model that goes with it."""

    session: Session
    model: ArrayRecord


@dataclass(frozen=True)
class Sent:
    """A recorded message, and what the server knows of it."""

    kind: str
    content: RecordDict
    session: Session
    ask: AttestRequest | None = None


@cache
def prepared(kind: Kind) -> tuple[Crowd, dict[int, RecordDict], tuple[Shown, ...]]:
    """Enrolled devices, what they keep, and the sessions that the server plays with."""
    with identity(RUN), under(kind):
        crowd = Crowd(5, protocol=Pairwise(min_survivors=3))
        state = {device: copy_records(c.state) for device, c in crowd.contexts.items()}
        first = crowd.model
        shown = [Shown(crowd.session(), first), Shown(crowd.session(2), first)]
        shown.append(Shown(crowd.session(threshold=5), first))
        shown.append(Shown(crowd.session(cohort=(1, 2, 3, 4)), first))
        shown.append(Shown(crowd.session(3, threshold=3), first))  # outside the policy
        crowd.model = linear.record({"w": np.full(5, 0.5)})
        shown.append(Shown(crowd.session(), crowd.model))
    return crowd, state, tuple(shown)


@dataclass
class World:
    """Devices as they are now, the adversary, and all that was ever sent."""

    crowd: Crowd
    shown: tuple[Shown, ...]
    sent: list[Sent] = field(default_factory=list)
    attested: dict[tuple[bytes, int], set[tuple[int, ...]]] = field(
        default_factory=lambda: defaultdict(set)
    )
    round: int = 10
    honest: dict[bytes, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def fresh(cls) -> "World":
        crowd, states, shown = prepared(current())
        for device, state in states.items():
            before = crowd.contexts[device]
            crowd.contexts[device] = Context(
                RUN, before.node_id, before.node_config, copy_records(state), {}
            )
        crowd.adversary = Adversary()
        crowd.corrupt(LIAR)
        return cls(crowd, shown)

    # Moves

    def play(self, move: Move) -> None:
        match move:
            case Report(number, device):
                self.report(self.shown[number], device)
            case Attest(number, member, survivors):
                self.attest(self.shown[number].session, member, survivors)
            case Reveal(number, member, survivors):
                self.reveal(self.shown[number].session, member, survivors)
            case Whole(number, survivors):
                for device in self.shown[number].session.devices:
                    self.report(self.shown[number], device)
                self.open(self.shown[number].session, survivors, ALL)
            case Again(number, one, other):
                self.play(Whole(number, one))
                self.open(self.shown[number].session, other, ALL)
            case Spoil(number, survivors, kept):
                for device in self.shown[number].session.devices:
                    self.report(self.shown[number], device)
                self.open(self.shown[number].session, survivors, ALL, set(ALL) - set(kept))
            case Open(number, survivors):
                self.open(self.shown[number].session, survivors, ALL)
            case Halves(number, one, other):
                for device in self.shown[number].session.devices:
                    self.report(self.shown[number], device)
                self.open(self.shown[number].session, one, (1, 2))
                self.open(self.shown[number].session, other, (3, 4))
            case Replay(number, device):
                if self.sent:
                    self.deliver(device, self.sent[number % len(self.sent)])
            case Restart(device):
                self.crowd.restart(device)
            case Garbage(device, kind):
                content = stage(message=b"x", session=b"x", roster=b"x", weight_key="n")
                self.deliver(device, Sent(kind, content, self.shown[0].session))
            case Enrol(device):
                self.crowd.enrol([device])
            case Seal(dealer, device, delivered):
                self.seal(dealer, device, delivered)
            case Honest(silent):
                self.honest_round(dict(silent))

    def report(self, shown: Shown, device: int) -> None:
        self.crowd.model = shown.model
        self.deliver(device, Sent("train", self.crowd.request(shown.session), shown.session))

    def attest(
        self,
        session: Session,
        member: int,
        survivors: tuple[int, ...],
        spoilt: Collection[int] = (),
    ) -> None:
        """Ask about survivors; the liar signs along."""
        if member not in session.committee or not set(survivors) <= set(session.devices):
            return
        if LIAR in session.committee:
            self.crowd.adversary.sign(session, survivors, LIAR)
        ask = self.crowd.adversary.ask(session, survivors, member, spoilt=spoilt)
        content = stage(message=ask.encode(session))
        self.deliver(member, Sent(stages.ATTEST, content, session, ask))

    def reveal(self, session: Session, member: int, survivors: tuple[int, ...]) -> None:
        proof = self.crowd.adversary.proof(session, survivors)
        self.deliver(member, Sent(stages.REVEAL, stage(message=proof.encode()), session))

    def open(
        self,
        session: Session,
        survivors: tuple[int, ...],
        members: Iterable[int],
        spoilt: Collection[int] = (),
    ) -> None:
        asked = [member for member in members if member != LIAR]
        for member in asked:
            self.attest(session, member, survivors, spoilt)
        for member in asked:
            self.reveal(session, member, survivors)

    def seal(self, dealer: int, device: int, delivered: bool) -> None:
        if not self.crowd.protocol.hybrid:
            return
        asked = EncapsulateRequest((Peer(self.crowd.keys[device], self.crowd.kem[device]),))
        sealed = self.deliver(dealer, self.stage(stages.ENCAPSULATE, asked.encode()))
        if sealed is not None and delivered:
            ((_, capsule),) = Encapsulated.decode(field_of(sealed), sender=dealer).capsules
            told = DecapsulateRequest(((self.crowd.keys[dealer], capsule),))
            self.deliver(device, self.stage(stages.DECAPSULATE, told.encode()))

    def stage(self, kind: str, data: bytes) -> Sent:
        return Sent(kind, stage(message=data), self.shown[0].session)

    def deliver(self, device: int, sent: Sent) -> RecordDict | None:
        """Send a message, keep it, and take in what comes back. None if it was refused."""
        self.sent.append(sent)
        try:
            reply = self.crowd.ask(device, sent.kind, copy_records(sent.content))
        except TacitError:
            return None
        adversary = self.crowd.adversary
        if sent.kind == "train":
            adversary.reported(sent.session, field_of(reply))
        elif sent.ask is not None:
            if device == LIAR:
                return reply
            adversary.attested(sent.session, device, sent.ask, field_of(reply))
            self.attested[sent.session.id, device].add(sent.ask.survivors)
        elif sent.kind == stages.REVEAL and device != LIAR:
            adversary.revealed(device, field_of(reply))
        return reply

    def honest_round(self, silent: dict[int, int]) -> None:
        """An honest server gets the exact sum of its survivors, or nothing. In a hybrid run it has
        secrets exchanged first: those of before may be of capsules that were held back."""
        crowd, self.round = self.crowd, self.round + 1
        if crowd.protocol.hybrid:
            crowd.exchange()
        crowd.model = self.shown[0].model
        session = crowd.session(self.round)
        survivors = tuple(d for d in ALL if silent.get(d) != 0)
        if len(survivors) < session.min_survivors:
            return
        collecting = Collecting(session, crowd.roster)
        for device in survivors:
            collecting.add(crowd.report(device, session), sender=device)
        try:
            mean = self.finished(collecting.close(), silent)
        except TooFewClients:
            late = [d for d in ALL if d in silent]
            assert len(ALL) - len(late) < session.threshold
            return
        want = [float(device in survivors) for device in ALL]
        assert (mean * len(survivors)).tolist() == want

    def finished(self, attesting: Attesting, silent: dict[int, int]) -> np.ndarray:
        crowd, session = self.crowd, attesting.closed.session
        for member in attesting.closed.members:
            if member not in silent or silent[member] > 1:
                said = crowd.attest(member, attesting.request(member), session)
                attesting.add(said, sender=member)
        revealing = attesting.close()
        for member in revealing.members:
            if member not in silent:
                said = crowd.reveal(member, revealing.request())
                revealing.add(said, sender=member)
        return revealing.open(bytes(32)).mean.update

    # Invariants

    def check(self) -> None:
        """At most one set opened for each session, over enough devices, exactly those."""
        for sets in self.attested.values():
            if len(sets) > 1:
                raise Violation(f"one member signed {sets}")
        for identity_, dealt in list(self.crowd.adversary.dealt.items()):
            if dealt:
                self.check_session(identity_, dealt[0].session)

    def check_session(self, identity_: bytes, session: Session) -> None:
        opened = set()
        for devices, reading in self.crowd.adversary.readings(identity_):
            if any(reading[d - 1] != devices.count(d) for d in ALL):
                raise Violation(f"a sum over {devices} reads {reading}")
            honest = tuple(d for d in devices if d != LIAR)
            if len(set(devices)) < len(devices):
                raise Violation(f"a double count in {devices}")
            if honest:
                opened.add(honest)
        if len(opened) > 1:
            raise Violation(f"two sums of one session: {sorted(opened)}")
        for honest in opened:
            least = session.min_survivors - (LIAR in session.devices)
            if len(honest) < max(2, least):
                raise Violation(f"a sum over {honest}")


def follow(moves: list[Move]) -> World:
    with identity(RUN):
        world = World.fresh()
        for move in moves:
            world.play(move)
            world.check()
    return world
