"""The private sums of a run: who pays for them, where the clip is, and whose turn it is where
rounds have noise in common."""

import math
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import numpy as np

from tacit.crypto.codec import Decoded, Mean
from tacit.crypto.errors import ParameterError
from tacit.crypto.identity import KEY_BYTES
from tacit.crypto.secagg.noised import ROTATION_BYTES, Noised
from tacit.crypto.secagg.session import Session
from tacit.crypto.vector import Floats, Layout, Sliced
from tacit.crypto.wire import Reader, Writer
from tacit.privacy.banded import Banded, Stream, Words
from tacit.privacy.charges import neighbours_of
from tacit.privacy.ledger import Ledger, Storage
from tacit.privacy.mechanisms import Mechanism
from tacit.privacy.statement import Statement
from tacit.server.events import EpsilonSpent
from tacit.server.pairwise import Asked
from tacit.server.private import Central, Privacy
from tacit.server.turns import Turns

PATIENCE = 3  # rounds that may fail before a turn passes on
_CLIP_SLOT = "clip"
_ROTATION_SLOT, _STREAM_SLOT = "rotation", "stream"


@dataclass(slots=True)
class Memory:
    """A ledger's storage that ends with the process: for runs that leave nothing behind."""

    slots: dict[str, bytes] = field(default_factory=dict)

    def read(self, slot: str) -> bytes | None:
        return self.slots.get(slot)

    def write(self, slot: str, value: bytes) -> None:
        self.slots[slot] = value

    def alone(self) -> AbstractContextManager[None]:
        return nullcontext()


class PrivateSums:
    """The private sums of one run: its ledger, its clip, and the noise that later rounds take back,
    all in `storage`. The last holds sums as they were without noise: as long as there are turns,
    nobody but this server may read it."""

    def __init__(self, privacy: Privacy, storage: Storage) -> None:
        self.privacy = privacy
        self._storage = storage
        unit = privacy.unit
        self.ledger = Ledger(storage, unit, neighbours_of(unit), privacy.budget)
        self._turns = turns_of(privacy)
        kept = None if self._turns is None else storage.read(_STREAM_SLOT)
        self._stream = Stream.decode(kept) if kept else None
        self._planned: Banded | None = None
        self._failures = 0  # in a row

    @property
    def clip(self) -> float:
        """To which updates are clipped now."""
        kept = self._storage.read(_CLIP_SLOT)
        if kept is None or self.privacy.adaptive is None:
            return self.privacy.clip
        reader = Reader(kept, sender=0, stage="ledger")
        clip = reader.f64()
        reader.end()
        return clip

    def noising(self, asked: Asked) -> Noised | None:
        """What the session of the next sum says; None where it says nothing of noise."""
        agreed = replace(self.privacy, clip=self.clip).noised(asked)
        if agreed is None or not agreed.bands:
            return agreed
        if self._turns is not None:
            self._planned = Mechanism.of(agreed).banded(self._turns.cohorts)
        return replace(agreed, rotation=self._rotation())

    def due(self, members: Sequence[int]) -> frozenset[int]:
        """Those of `members`, which are all devices in the order of their numbers, who may be in
        the next sum."""
        if (turns := self._turns) is None:
            return frozenset(members)
        if (stream := self._stream) is None:
            return turns.of(members, 1)
        return turns.of(members, stream.round) - stream.resting

    def affordable(self, session: Session) -> tuple[int, ...]:
        """Those of the cohort whom a sum over them may still cost as much as it would."""
        asked = self.privacy.releases(session, session.min_survivors)
        return tuple(self.ledger.affordable(asked, session.devices))

    def charge(self, session: Session, survivors: Sequence[int]) -> None:
        """Count a sum over `survivors`, durably, before it is opened. Raises BudgetExceeded, and
        then it may not be, and ParameterError if what is kept of earlier rounds does not fit."""
        if isinstance(session.codec, Noised) and session.codec.bands:
            self._before(mechanism_of(session))
        self.ledger.spend(self.privacy.releases(session, len(survivors)), survivors)

    def update(
        self, session: Session, layout: Layout, opened: Mean, survivors: Sequence[int]
    ) -> Sliced:
        """The mean update that may be used and kept of a sum over `survivors`: a central one's with
        the server's noise. The clip moves with what it says of norms. Once for each sum."""
        if not isinstance(session.codec, Noised):
            return opened.decoded
        mechanism = mechanism_of(session)
        if mechanism.bands:
            estimated = self._estimated(mechanism, opened, frozenset(survivors))
            return seen_of(session, layout, estimated)
        if mechanism.central:
            opened = mechanism.add_noise(opened, os.urandom(KEY_BYTES))
        if (adaptive := self.privacy.adaptive) is not None:
            moved = adaptive.moved(mechanism.clip, mechanism.unclipped(opened))
            self._storage.write(_CLIP_SLOT, Writer().f64(moved).data())
        return seen_of(session, layout, opened)

    def _estimated(self, mechanism: Mechanism, opened: Mean, members: frozenset[int]) -> Mean:
        assert isinstance(opened.decoded, Decoded)  # as `decode` makes it
        total = opened.decoded.sums.astype(np.uint32, copy=False)  # as it is
        estimate = self._advance(self._before(mechanism), total, members)
        return replace(opened, decoded=estimate / mechanism.divisor)

    def failed(self) -> None:
        """A sum was not opened. After PATIENCE of them a cohort has had its turn, or one that is
        gone would hold up all others: a round that nobody was in takes its place, which costs
        nobody anything."""
        self._failures += 1
        if self._planned is None or self._failures < PATIENCE:
            return
        before = self._stream or Stream(self._planned)
        if before.round <= self._planned.rounds:
            nothing = np.zeros(self._planned.coordinates, np.uint32)
            self._advance(before, nothing, frozenset())

    def _advance(self, before: Stream, total: Words, members: frozenset[int]) -> Floats:
        """The next state is kept before the estimate is used: of two from one state nobody has
        counted one."""
        with self._storage.alone():
            kept = self._storage.read(_STREAM_SLOT)
            if (Stream.decode(kept).round if kept else 1) != before.round:
                raise ParameterError("another process goes on with this run: let one of them end")
            estimate, self._stream = before.advance(total, members, os.urandom(KEY_BYTES))
            self._storage.write(_STREAM_SLOT, self._stream.encode())
        self._failures = 0
        return estimate

    def end(self) -> None:
        """After the last round: sums without noise are of no more use."""
        if self._turns is not None:
            self._stream = None
            for slot in (_STREAM_SLOT, _ROTATION_SLOT):
                self._storage.write(slot, b"")

    def _before(self, mechanism: Mechanism) -> Stream:
        """The state before the next round. Raises ParameterError if it is another run's."""
        assert self._turns is not None
        planned = mechanism.banded(self._turns.cohorts)
        before = self._stream or Stream(planned)
        if before.banded != planned:
            raise ParameterError(
                "the storage holds rounds of another run: go on with its model and settings, or "
                "begin with an empty one"
            )
        return before

    def _rotation(self) -> bytes:
        """Drawn in the first round, kept in others, and no secret."""
        if not (kept := self._storage.read(_ROTATION_SLOT)):
            kept = os.urandom(ROTATION_BYTES)
            self._storage.write(_ROTATION_SLOT, kept)
        return kept

    def spent(self, round: int) -> EpsilonSpent:
        """What the ledger says now, for whoever holds it against a later one."""
        said = self.statement()
        return EpsilonSpent(
            round,
            said.worst if math.isfinite(said.worst) else None,
            said.delta,
            said.unit.name.lower(),
            said.budget_against.value,
            said.releases,
        )

    def statement(self, loss: float | None = None) -> Statement:
        """What may be said of all that the run has let out: see `Ledger.statement`."""
        return self.ledger.statement(loss)


def turns_of(privacy: Privacy | None) -> Turns | None:
    """Who is in which round, where that is not for a strategy to say."""
    return privacy.turns if isinstance(privacy, Central) else None


def mechanism_of(session: Session) -> Mechanism:
    """That of a private session."""
    assert isinstance(session.codec, Noised)
    return Mechanism.of(session.codec)


def seen_of(session: Session, layout: Layout, opened: Mean) -> Floats:
    """The mean update that a private sum shows this server: a central one without any noise, which
    is for nobody else to see. Arrays of whole numbers do not move: devices send zeros for them, and
    here they would only gather noise."""
    if not isinstance(session.codec, Noised):
        return opened.update
    update = mechanism_of(session).update(opened, session.id)
    parts = layout.split(update)
    for entry in layout.entries:
        if np.dtype(entry.dtype).kind != "f":
            parts[entry.name][...] = 0
    return update
