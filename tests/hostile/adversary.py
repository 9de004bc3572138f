"""Whatever follows from all that a lying server and its corrupt devices ever heard.

This is the attacker's own code. It keeps every report, signature and share, combines what its
shares allow, derives what corrupt devices can derive, and tries every set of reports it could add
up. It believes nobody: a share counts if it matches the hash that its dealer published.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import cast

import numpy as np

from tacit.crypto import labels, shamir
from tacit.crypto.codec import Ring
from tacit.crypto.errors import ProtocolError
from tacit.crypto.identity import agree, derive
from tacit.crypto.lattice.cipher import open_sum
from tacit.crypto.lattice.keys import Elements
from tacit.crypto.prg import add_masks
from tacit.crypto.secagg import client, messages, stages
from tacit.crypto.secagg.client import Enrolled, Reported
from tacit.crypto.secagg.hybrid import KemKey, combined
from tacit.crypto.secagg.messages import (
    HASH_BYTES,
    TAG_BYTES,
    Attestation,
    AttestRequest,
    Report,
    RevealRequest,
    Shares,
    hash_row,
    share_context,
    survivors_digest,
)
from tacit.crypto.secagg.session import SECRET_BYTES, Session
from tacit.crypto.simulated import simulated_identity
from tacit.crypto.wire import unpack
from tests.hostile.pool import Pool

Reading = tuple[int, ...]  # how often each device's unit vector is in a sum
Near = Mapping[int, Sequence[int]]  # neighbours that the server names in place of the true ones
SETUP = stages.setup_digest({})  # no run here has a configuration


@dataclass(frozen=True)
class Colluder:
    """What a corrupt device hands over: its keys of the run, and its ML-KEM secrets by device."""

    state: Enrolled
    kem: Mapping[int, bytes]

    def agreed(self, session: Session, party: int) -> bytes:
        """Its secret with a party of the session."""
        secret = agree(self.state.secret, [session.key(party)])[party]
        if not session.hybrid:
            return secret
        own = {self.state.device: KemKey(self.state.kem_seed).own_secret()}
        return combined(secret, {**self.kem, **own}[party])


@dataclass(eq=False)
class Dealt:
    """One report as the server keeps it, with the shares of its secrets by number and member."""

    session: Session  # as its device was shown it
    report: Report
    shares: dict[int, dict[int, bytes]] = field(default_factory=lambda: defaultdict(dict))
    keys: dict[int, bytes] = field(default_factory=dict)

    @property
    def device(self) -> int:
        return self.report.device

    def box(self, member: int) -> tuple[bytes, bytes]:
        at = self.session.committee.index(member)
        return self.report.sealed[at], self.report.hashes[at]

    def share(self, member: int, number: int, row: bytes) -> None:
        """Keep a share of the `number`-th secret, if it is the one that was dealt."""
        if member not in self.session.committee:
            return
        context = share_context(self.session.id, self.device, member)
        hashes = self.box(member)[1][number * HASH_BYTES : (number + 1) * HASH_BYTES]
        if hash_row(labels.SHARE_HASH, context, number, row) == hashes:
            self.shares[number][member] = row

    def key(self, number: int) -> bytes | None:
        """The `number`-th secret, if a threshold of its shares is there."""
        if number not in self.keys:
            held = dict(list(self.shares[number].items())[: self.session.threshold])
            if len(held) < self.session.threshold:
                return None
            points = [self.session.point(member) for member in held]
            rows = np.frombuffer(b"".join(held.values()), np.uint8).reshape(-1, 1, SECRET_BYTES)
            key = shamir.combine(points, rows)[0].tobytes()
            context = share_context(self.session.id, self.device, 0)
            committed = self.report.commitments[number * HASH_BYTES : (number + 1) * HASH_BYTES]
            if hash_row(labels.SECRET_HASH, context, number, key) != committed:
                return None
            self.keys[number] = key
        return self.keys[number]

    def vector(self) -> Ring:
        """The masked vector, or the ciphertext."""
        codec, scheme = self.session.codec, self.session.scheme
        if scheme is not None:
            return cast(Ring, np.frombuffer(self.report.packed, scheme.dtype).copy())
        return unpack(self.report.packed, codec.size, codec.bits)


class Adversary:
    """All that was heard, by session id."""

    def __init__(self) -> None:
        self.dealt: dict[bytes, list[Dealt]] = defaultdict(list)
        self.pools: dict[bytes, Pool[Dealt]] = defaultdict(Pool)
        self.secrets: dict[int, Colluder] = {}
        self._signed: dict[tuple[bytes, tuple[int, ...]], dict[int, bytes]] = defaultdict(dict)
        # The last that a member took, and whose shares in it did not hold.
        self._asked: dict[int, tuple[Session, AttestRequest, tuple[int, ...]]] = {}

    def corrupt(self, state: Enrolled, kem: Mapping[int, bytes] | None = None) -> None:
        """A device hands its keys over, before or after it was dealt anything."""
        self.secrets[state.device] = Colluder(state, kem or {})
        for dealt in self._all():
            self._unseal(dealt, state.device)

    def _all(self) -> list[Dealt]:
        return [dealt for many in self.dealt.values() for dealt in many]

    # What is heard

    def reported(self, session: Session, data: bytes) -> Dealt:
        device = int.from_bytes(data[32:40], "little")
        dealt = Dealt(session, Report.decode(data, session, sender=device))
        self.dealt[session.id].append(dealt)
        for member in self.secrets:
            self._unseal(dealt, member)
        return dealt

    def attested(self, session: Session, member: int, ask: AttestRequest, data: bytes) -> None:
        said = Attestation.decode(data, session, sender=member)
        self._signed[session.id, ask.survivors][member] = said.signature
        self._asked[member] = (session, ask, said.bad)

    def sign(self, session: Session, survivors: Sequence[int], member: int) -> None:
        """A corrupt member signs whatever it is asked to."""
        digest = survivors_digest(session.id, tuple(survivors))
        signature = simulated_identity(member).sign(labels.SURVIVORS, digest)
        self._signed[session.id, tuple(survivors)][member] = signature

    def revealed(self, member: int, data: bytes) -> None:
        """Take in what a member opened for the set that it signed last."""
        session, ask, bad = self._asked[member]
        if session.lattice:
            row = Shares.decode(data, 1, session.share_bytes, sender=member).opened
            shown = {
                box for at, box in zip(ask.survivors, ask.sealed, strict=True) if at not in bad
            }
            summed = [dealt for dealt in self._all() if shown & {*dealt.report.sealed}]
            self.pools[summed[0].session.id].learn(member, summed, row.view("<u2")[0])
            return
        dropped = frozenset(session.devices) - set(ask.survivors)
        numbers = [messages.wanted(near, dropped)[0] for near in ask.neighbours]
        rows = Shares.decode(data, sum(map(len, numbers)), SECRET_BYTES, sender=member).opened
        at = 0
        for dealer, sealed, of_dealer in zip(ask.survivors, ask.sealed, numbers, strict=True):
            for number in of_dealer:
                for dealt in self.dealt[session.id]:
                    if dealt.device == dealer and sealed in dealt.report.sealed:
                        dealt.share(member, number, rows[at].tobytes())
                at += 1

    # What is asked

    def ask(
        self,
        session: Session,
        survivors: Sequence[int],
        member: int,
        near: Near | None = None,
        spoilt: Collection[int] = (),
    ) -> AttestRequest:
        """What to ask a member: the box of each survivor's last report, or junk in place of it, as
        it is in place of those that the server spoils."""
        last = {one.device: one for one in self.dealt[session.id] if one.device not in spoilt}
        rows = []
        for device in survivors:
            if device in last:
                true = last[device].report.neighbours
                shown = tuple((near or {}).get(device, true))
                rows.append((shown, *last[device].box(member)))
            else:
                everyone = () if session.lattice else session.devices
                others = tuple(d for d in everyone if d != device)
                size = 1 + len(others)
                junk = bytes(size * session.share_bytes + TAG_BYTES), bytes(size * HASH_BYTES)
                rows.append((others, *junk))
        return AttestRequest(session.id, tuple(survivors), *zip(*rows, strict=True))

    def proof(self, session: Session, survivors: Sequence[int]) -> RevealRequest:
        """As many signatures on a set as there are, up to the threshold."""
        held = sorted(self._signed[session.id, tuple(survivors)].items())
        return RevealRequest(session.id, tuple(held[: session.threshold]))

    # What follows

    def pair(self, dealt: Dealt, peer: int) -> bytes | None:
        """The key of a device's mask with a neighbour: from its shares, from the neighbour's, or
        from a corrupt end."""
        identity, device = dealt.session.id, dealt.device
        for one in self.dealt[identity]:
            other = peer if one.device == device else device
            if one.device in (device, peer) and other in one.report.neighbours:
                key = one.key(1 + one.report.neighbours.index(other))
                if key is not None:
                    return key
        for ours, theirs in ((device, peer), (peer, device)):
            if ours in self.secrets:
                shared = self.secrets[ours].agreed(dealt.session, theirs)
                context = messages.pair_context(identity, SETUP, ours, theirs)
                return derive(shared, labels.PAIR_MASK, context)
        return None

    def total(self, chosen: Sequence[Dealt]) -> Ring | None:
        """The sum of some reports with all that hides it taken off, if that is known."""
        session = chosen[0].session
        if session.lattice:
            key = self.pools[session.id].key(chosen)
            return None if key is None else decrypted(chosen, key)
        plus: list[bytes] = []
        minus: list[bytes] = []
        near = {dealt.device: set(dealt.report.neighbours) for dealt in chosen}
        for dealt in chosen:
            self_key = dealt.key(0)
            if self_key is None:
                return None
            minus.append(self_key)
            for peer in dealt.report.neighbours:
                if dealt.device in near.get(peer, set()):
                    continue  # the two masks of the pair cancel
                key = self.pair(dealt, peer)
                if key is None:
                    return None
                (minus if dealt.device < peer else plus).append(key)
        total = added(chosen)
        add_masks(total, plus, minus)
        return total

    def readings(self, identity: bytes) -> Iterator[tuple[tuple[int, ...], Reading]]:
        """All sums of one session that open: over whose reports, and what they say."""
        for chosen, total in self._totals(identity):
            said = read(chosen[0].session, total, len(chosen))
            if said is not None:
                yield tuple(dealt.device for dealt in chosen), said

    def _totals(self, identity: bytes) -> Iterator[tuple[Sequence[Dealt], Ring]]:
        """All sums of one session that nothing hides."""
        for opened, key in self.pools[identity].sums():
            yield opened, decrypted(opened, key)
        known = [dealt for dealt in self.dealt[identity] if dealt.key(0) is not None]
        for size in range(1, len(known) + 1):
            for chosen in combinations(known, size):
                total = self.total(chosen)
                if total is not None:
                    yield chosen, total

    def reads(self, session: Session, device: int) -> bool:
        """Whether the input of an honest device can be told from those of all others: alone, with
        corrupt devices' only, or as the difference of two sums."""
        said = [self.honest(reading) for _, reading in self.readings(session.id)]
        differences = [tuple(x - y for x, y in zip(a, b, strict=True)) for a in said for b in said]
        return any(
            one == tuple(int(at == device) for at in range(1, len(one) + 1))
            for one in [*said, *differences]
        )

    def honest(self, reading: Reading) -> Reading:
        """A reading without the inputs of corrupt devices, which the adversary knows."""
        return tuple(0 if at in self.secrets else n for at, n in enumerate(reading, 1))

    def _unseal(self, dealt: Dealt, member: int) -> None:
        """What a corrupt member finds in the box that is meant for it."""
        session, near = dealt.session, dealt.report.neighbours
        if member not in session.committee:
            return
        secret = self.secrets[member].agreed(session, dealt.device)
        bound = client._bound(session, dealt.device, member, near, SETUP)
        at = Reported(session, member)
        rows = client._unseal(secret, at, dealt.device, bound, *dealt.box(member))
        if rows is not None and session.lattice:
            self.pools[session.id].learn(member, [dealt], rows.view("<u2")[0])
        for number, row in enumerate([] if rows is None or session.lattice else rows):
            dealt.share(member, number, row.tobytes())


def added(chosen: Sequence[Dealt]) -> Ring:
    """The sum of what some reports hold, hidden as it is."""
    total = chosen[0].vector()
    for dealt in chosen[1:]:
        total += dealt.vector()
    return total


def decrypted(chosen: Sequence[Dealt], key: Elements) -> Ring:
    """The sum of the vectors of some reports, from that of their lattice keys."""
    session = chosen[0].session
    assert session.scheme is not None
    return open_sum(session.scheme, session.public_seed, key, added(chosen), session.codec.size)


def read(session: Session, total: Ring, count: int) -> Reading | None:
    """How often each device is in an opened sum over `count` reports; None if it is noise."""
    try:
        mean = session.codec.decode(total, count)
    except ProtocolError:
        return None
    sums = mean.update * count
    whole = np.rint(sums)
    # Units are on the grid and weights are whole, so a true sum is exact: all else is noise.
    return tuple(int(n) for n in whole) if np.array_equal(whole, sums) else None


def sets(openings: Iterable[tuple[tuple[int, ...], Reading]]) -> set[tuple[int, ...]]:
    """Over whose reports there are sums."""
    return {tuple(sorted(devices)) for devices, _ in openings}
