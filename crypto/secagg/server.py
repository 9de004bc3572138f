"""The server's side of a masked sum: collect, have attested, have revealed, open.

    Collecting ─close─> Attesting ─close─> Revealing ─open─> Mean

Each stage is one object that takes messages one by one as they arrive. A message that breaks the
protocol raises ProtocolError naming its sender and changes nothing, so the round goes on without
that device; `close` and `open` raise TooFewClients when too few are left. A report is folded into
the running sum when it arrives: memory is one vector, whatever the number of devices, and the
sealed shares, 48 bytes for each device, each of its neighbours and each committee member.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tacit.crypto import labels, shamir
from tacit.crypto.codec import Mean, Ring
from tacit.crypto.errors import MalformedMessage, ProtocolError, TooFewClients
from tacit.crypto.identity import Roster, verified
from tacit.crypto.prg import add_masks
from tacit.crypto.secagg.messages import (
    HASH_BYTES,
    Attestation,
    AttestRequest,
    Report,
    RevealRequest,
    Shares,
    hash_row,
    share_context,
    signed_part,
    survivors_digest,
    wanted,
)
from tacit.crypto.secagg.session import Session
from tacit.crypto.shamir import Octets
from tacit.crypto.wire import fold

MAX_GROUPS = 3  # sets of metric names, each with a running sum


@dataclass(frozen=True, slots=True)
class Dealt:
    """What the server keeps of a report once its vector is folded in."""

    neighbours: tuple[int, ...]
    sealed: Mapping[int, bytes]  # by committee member
    hashes: Mapping[int, bytes]
    commitments: bytes


@dataclass(frozen=True, slots=True)
class Opened:
    """An opened sum. `bad` are survivors whose shares did not hold: leave them out from now on.

    They are named by so many committee members that one of these must be honest; a word of fewer
    could be slander.
    """

    mean: Mean
    metrics: tuple[str, ...]
    survivors: tuple[int, ...]
    bad: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """The reports that name the same metrics, and so add up with each other."""

    total: Ring
    dealt: dict[int, Dealt]


class Collecting:
    """Stage report: verifies reports and folds them into a running sum.

    Reports that name other metrics do not add up. So that no single device decides for the others
    by being first, each set of names has a running sum of its own, and the largest is closed.
    """

    def __init__(self, session: Session, roster: Roster) -> None:
        self.session = session
        self._id = session.id
        self._identities = {member.device: member.public for member in roster.members}
        self._groups: dict[tuple[str, ...], Group] = {}
        self._odd: dict[int, tuple[str, ...]] = {}  # devices whose group made room for another
        self._closed = False

    def add(self, data: bytes, *, sender: int) -> None:
        """Fold in one report. Raises ProtocolError, the sums unchanged, if it does not hold."""
        session = self.session
        if self._closed:
            raise ProtocolError("report comes too late", sender=sender, stage="report")
        message = Report.decode(data, session, sender=sender)
        if message.session != self._id or message.device != sender:
            raise ProtocolError("report is for another session", sender=sender, stage="report")
        known = sender in self._odd or any(sender in g.dealt for g in self._groups.values())
        if sender not in session.devices or known:
            raise ProtocolError("not in the cohort, or sent twice", sender=sender, stage="report")
        # Whatever decodes encodes to the same bytes, so the header is there as it was signed.
        header = memoryview(data)[len(message.packed) : -len(message.signature)]
        content = signed_part(header, message.packed)
        public = self._identities.get(sender, b"")
        if not verified(public, labels.REPORT, content, message.signature):
            raise ProtocolError("report is not signed by its device", sender=sender, stage="report")
        group = self._group(message.metrics, sender)
        try:
            fold(group.total, message.packed, session.codec.bits)
        except ValueError as bad:  # found before anything is added
            raise MalformedMessage(str(bad), sender=sender, stage="report") from None
        committee = session.committee
        group.dealt[sender] = Dealt(
            message.neighbours,
            dict(zip(committee, message.sealed, strict=True)),
            dict(zip(committee, message.hashes, strict=True)),
            message.commitments,
        )

    def close(self) -> "Attesting":
        """The survivors are the largest group. Raises TooFewClients below min_survivors."""
        metrics = self._usual()
        group = self._groups.get(metrics)
        survivors = tuple(sorted(group.dealt)) if group else ()
        if group is None or len(survivors) < self.session.min_survivors:
            raise TooFewClients(
                f"{len(survivors)} of {len(self.session.cohort)} devices reported, "
                f"at least {self.session.min_survivors} needed (min_survivors)"
            )
        self._closed = True  # the sum and the survivors are handed on, not copied
        return Attesting(
            Closed(
                self.session,
                self._id,
                self._identities,
                survivors,
                group.dealt,
                group.total,
                metrics,
            )
        )

    def strays(self) -> dict[int, str]:
        """Devices that reported, but not what most did, and what sets them apart."""
        usual, sent = self._usual(), dict(self._odd)
        for names, group in self._groups.items():
            if names != usual:
                sent.update(dict.fromkeys(group.dealt, names))
        return {
            device: f"metrics {list(names)}, most sent {list(usual)}"
            for device, names in sorted(sent.items())
        }

    def _usual(self) -> tuple[str, ...]:
        """The names that most reports have; of equally many, the first in order."""
        return min(self._groups, key=lambda n: (-len(self._groups[n].dealt), n), default=())

    def _make_room(self, names: tuple[str, ...], sender: int) -> None:
        """Give up the group that a device has had to itself for longest: names that nobody shares
        must not keep out those that come after."""
        lone = next((n for n, group in self._groups.items() if len(group.dealt) == 1), None)
        if lone is None:
            raise ProtocolError(
                f"metrics {list(names)} are the names of nobody else", sender=sender, stage="report"
            )
        self._odd[next(iter(self._groups.pop(lone).dealt))] = lone

    def _group(self, names: tuple[str, ...], sender: int) -> Group:
        if names not in self._groups:
            if len(self._groups) == MAX_GROUPS:  # or hostile names would cost a vector each
                self._make_room(names, sender)
            codec = self.session.codec
            self._groups[names] = Group(np.zeros(codec.size, codec.dtype), {})
        return self._groups[names]


@dataclass(frozen=True)  # no slots: what the sum needs is worked out once
class Closed:
    """A sum nobody joins any more: who survived, what they dealt, and the masked total."""

    session: Session
    id: bytes
    identities: Mapping[int, bytes]
    survivors: tuple[int, ...]
    dealt: Mapping[int, Dealt]
    total: Ring
    metrics: tuple[str, ...]

    @property
    def members(self) -> tuple[int, ...]:
        """Committee members who can attest: those who reported, and the witnesses."""
        absent = set(self.session.devices) - set(self.survivors)
        return tuple(member for member in self.session.committee if member not in absent)

    @cached_property
    def wanted(self) -> dict[int, tuple[list[int], tuple[int, ...]]]:
        """For each survivor, in order, what of its secrets the sum needs: see `messages.wanted`."""
        dropped = frozenset(self.session.devices) - set(self.survivors)
        return {d: wanted(self.dealt[d].neighbours, dropped) for d in self.survivors}

    @cached_property
    def rows(self) -> dict[int, slice]:
        """Where each survivor's shares are among those that a member opens."""
        ends = np.cumsum([len(numbers) for numbers, _ in self.wanted.values()]).tolist()
        return {
            dealer: slice(end - len(numbers), end)
            for end, (dealer, (numbers, _)) in zip(ends, self.wanted.items(), strict=True)
        }

    @property
    def opened_rows(self) -> int:
        """How many shares each member opens."""
        return sum(len(numbers) for numbers, _ in self.wanted.values())


class Attesting:
    """Stage attest: gathers the committee's signatures on the one set of survivors."""

    def __init__(self, closed: Closed) -> None:
        self.closed = closed
        self._digest = survivors_digest(closed.id, closed.survivors)
        self._signatures: dict[int, bytes] = {}
        self._bad: dict[int, tuple[int, ...]] = {}

    def request(self, member: int) -> AttestRequest:
        """What to ask a committee member."""
        closed = self.closed
        dealt = [closed.dealt[device] for device in closed.survivors]
        return AttestRequest(
            closed.id,
            closed.survivors,
            tuple(deal.neighbours for deal in dealt),
            tuple(deal.sealed[member] for deal in dealt),
            tuple(deal.hashes[member] for deal in dealt),
        )

    def add(self, data: bytes, *, sender: int) -> None:
        """Take in one attestation. Raises ProtocolError if it does not hold."""
        closed = self.closed
        message = Attestation.decode(data, closed.session, sender=sender)
        if message.member != sender or sender not in closed.session.committee:
            raise ProtocolError("not on the committee", sender=sender, stage="attest")
        public = closed.identities.get(sender, b"")
        if not verified(public, labels.SURVIVORS, self._digest, message.signature):
            raise ProtocolError("did not sign our survivors", sender=sender, stage="attest")
        self._signatures[sender] = message.signature
        self._bad[sender] = tuple(device for device in message.bad if device in closed.dealt)

    def close(self) -> "Revealing":
        """Raises TooFewClients with fewer signatures than the threshold."""
        threshold = self.closed.session.threshold
        if len(self._signatures) < threshold:
            raise TooFewClients(
                f"{len(self._signatures)} of {len(self.closed.session.committee)} committee "
                f"members attested, {threshold} needed (threshold)"
            )
        return Revealing(self.closed, self._signatures, self._bad)


class Revealing:
    """Stage reveal: gathers shares until every mask can be taken off."""

    def __init__(
        self,
        closed: Closed,
        signatures: Mapping[int, bytes],
        bad: Mapping[int, tuple[int, ...]],
    ) -> None:
        self.closed = closed
        self._signatures = signatures
        self._bad = bad
        self._shares: dict[int, Shares] = {}

    @property
    def members(self) -> tuple[int, ...]:
        """Whom to ask: the committee members who attested."""
        return tuple(sorted(self._signatures))

    def request(self) -> RevealRequest:
        """What to ask each of them. A threshold of signatures is all they check."""
        threshold = self.closed.session.threshold
        return RevealRequest(self.closed.id, tuple(sorted(self._signatures.items())[:threshold]))

    def add(self, data: bytes, *, sender: int) -> None:
        """Take in one member's shares. Raises ProtocolError if one does not match its hash.

        A share that the member itself called bad is not held against it.
        """
        closed = self.closed
        if sender not in self._signatures:
            raise ProtocolError("did not attest", sender=sender, stage="reveal")
        message = Shares.decode(data, closed.opened_rows, sender=sender)
        if message.member != sender:
            raise ProtocolError("shares of another member", sender=sender, stage="reveal")
        for dealer in closed.survivors:
            if dealer not in self._bad[sender] and not self._matches(message, dealer):
                raise ProtocolError(
                    f"wrong share of device {dealer}", sender=sender, stage="reveal"
                )
        self._shares[sender] = message

    def open(self) -> Opened:
        """Take off the masks and decode.

        Raises TooFewClients if some mask has fewer than threshold good shares, and ProtocolError
        naming a dealer who is to blame for that, or whose shares do not combine to the key it
        committed to.
        """
        closed = self.closed
        plus: list[bytes] = []
        minus: list[bytes] = []
        for dealer, (self_key, *pair_keys) in self._keys().items():
            minus.append(self_key)
            # The dealer's mask with a dropped device never met its opposite: take it off too.
            _, dropped = closed.wanted[dealer]
            for device, key in zip(dropped, pair_keys, strict=True):
                (minus if dealer < device else plus).append(key)
        total = closed.total
        add_masks(total, plus, minus)
        mean = closed.session.codec.decode(total, len(closed.survivors))
        bad = tuple(dealer for dealer in closed.survivors if self._guilty(dealer))
        return Opened(mean, closed.metrics, closed.survivors, bad)

    def _guilty(self, dealer: int) -> bool:
        """Whether at least one honest member says that the dealer's shares do not hold.

        A threshold t for a committee of c allows for fewer than 2t - c corrupt members
        (`threshold_for`), so that many accusers are not all of them liars.
        """
        session = self.closed.session
        accusers = sum(dealer in bad for bad in self._bad.values())
        return accusers >= 2 * session.threshold - session.committee_size

    def _matches(self, message: Shares, dealer: int) -> bool:
        closed = self.closed
        hashes = closed.dealt[dealer].hashes[message.member]
        context = share_context(closed.id, dealer, message.member)
        numbers, _ = closed.wanted[dealer]
        return all(
            hash_row(labels.SHARE_HASH, context, number, row.tobytes()) == _nth(hashes, number)
            for number, row in zip(numbers, message.opened[closed.rows[dealer]], strict=True)
        )

    def _keys(self) -> dict[int, list[bytes]]:
        """For each survivor the keys of its masks: its self mask, and those with the dropped."""
        closed, keys = self.closed, {}
        for members, dealers in self._by_members().items():
            points = [closed.session.point(member) for member in members]
            rows = [closed.rows[dealer] for dealer in dealers]
            shares = [
                np.concatenate([self._shares[m].opened[of_dealer] for of_dealer in rows])
                for m in members
            ]
            ends = np.cumsum([row.stop - row.start for row in rows])[:-1]
            opened = np.split(shamir.combine(points, np.stack(shares)), ends)
            for dealer, of_dealer in zip(dealers, opened, strict=True):
                keys[dealer] = self._committed(dealer, of_dealer)
        return keys

    def _by_members(self) -> dict[tuple[int, ...], list[int]]:
        """The survivors by the members whose shares of them are combined: a threshold of good ones.

        Mostly that is one set for all, and all shares are combined in one go.
        """
        threshold = self.closed.session.threshold
        groups: dict[tuple[int, ...], list[int]] = {}
        for dealer in self.closed.survivors:
            good = [m for m in sorted(self._shares) if dealer not in self._bad[m]][:threshold]
            if len(good) < threshold:
                if self._guilty(dealer):
                    raise ProtocolError(
                        "dealt shares that do not hold", sender=dealer, stage="reveal"
                    )
                raise TooFewClients(
                    f"{len(good)} good shares of device {dealer}, {threshold} needed (threshold)"
                )
            groups.setdefault(tuple(good), []).append(dealer)
        return groups

    def _committed(self, dealer: int, keys: Octets) -> list[bytes]:
        """The keys as bytes, once each is the one that its dealer committed to."""
        context = share_context(self.closed.id, dealer, 0)
        commitments = self.closed.dealt[dealer].commitments
        for number, key in zip(self.closed.wanted[dealer][0], keys, strict=True):
            committed = _nth(commitments, number)
            if hash_row(labels.SECRET_HASH, context, number, key.tobytes()) != committed:
                raise ProtocolError(
                    "dealt shares that do not combine to its key", sender=dealer, stage="reveal"
                )
        return [key.tobytes() for key in keys]


def _nth(hashes: bytes, number: int) -> bytes:
    return hashes[number * HASH_BYTES : (number + 1) * HASH_BYTES]
