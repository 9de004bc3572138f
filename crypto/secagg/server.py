"""The server's side of a secure sum: collect, have attested, have revealed, open.

    Collecting ─close─> Attesting ─close─> Revealing ─open─> Opened

Each stage is one object that takes messages one by one as they arrive. A message that breaks the
protocol raises ProtocolError naming its sender and changes nothing, so the round goes on without
that device; `close` and `open` raise TooFewClients when too few are left. A report is folded into
a running sum when it arrives: memory is one vector, at most `MAX_GROUPS` if devices disagree about
metrics, whatever the number of devices, and the sealed shares: for each device and committee member
48 bytes a neighbour, one lattice key, or nothing in a consortium.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tacit.crypto import labels
from tacit.crypto.errors import MalformedMessage, ProtocolError, TacitError, TooFewClients
from tacit.crypto.he.frames import Kind, read_frame
from tacit.crypto.identity import Roster, verified
from tacit.crypto.secagg.consortium import SumRevealing
from tacit.crypto.secagg.messages import (
    Attestation,
    AttestRequest,
    Report,
    signed_part,
    survivors_digest,
)
from tacit.crypto.secagg.revealing import (
    Closed,
    Dealt,
    KeyRevealing,
    MaskRevealing,
    Revealing,
)
from tacit.crypto.secagg.session import Session
from tacit.crypto.secagg.totals import ClearTotal, RingTotal, Total
from tacit.crypto.wire import check_packed

MAX_GROUPS = 3  # sets of metric names, each with a running sum


@dataclass(frozen=True, slots=True)
class Group:
    """The reports that name the same metrics, and so add up with each other."""

    total: Total
    dealt: dict[int, Dealt]
    clear: ClearTotal | None


class Collecting:
    """Stage report: verifies reports and folds them into a running sum.

    Reports that name other metrics do not add up. So that no single device decides for the others
    by being first, each set of names has a running sum of its own, and the largest is closed.
    """

    def __init__(
        self,
        session: Session,
        roster: Roster,
        new_total: Callable[[], Total] | None = None,
        on_report: Callable[[Report], None] | None = None,
    ) -> None:
        """`new_total` makes the running sums of a consortium; others are made here. `on_report`
        hears of each report that was taken."""
        self.session = session
        self._on_report = on_report
        self._new_total = new_total or (lambda: RingTotal(session))
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
        start = len(data) - len(message.header(session)) - len(message.signature)
        header = memoryview(data)[start : -len(message.signature)]
        content = signed_part(header, message.packed, message.clear)
        public = self._identities.get(sender, b"")
        if not verified(public, labels.REPORT, content, message.signature):
            raise ProtocolError("report is not signed by its device", sender=sender, stage="report")
        self._check_packed(message)
        group = self._folded(message)
        if group.clear is not None:
            group.clear.add(message.clear, sender=sender, settled=group.total.settled)
        committee = session.committee
        group.dealt[sender] = Dealt(
            message.neighbours,
            dict(zip(committee, message.sealed, strict=True)),
            dict(zip(committee, message.hashes, strict=True)),
            message.commitments,
        )
        if self._on_report is not None:
            self._on_report(message)

    def _check_packed(self, message: Report) -> None:
        session, codec, clear = self.session, self.session.codec, self.session.clear
        try:
            if session.is_masked:
                check_packed(message.packed, codec.size, codec.bits)
            if session.packing is not None:  # before a process is started for it
                read_frame(
                    message.packed,
                    Kind.CONTRIBUTION,
                    session.packing,
                    sender=message.device,
                    stage="report",
                )
            if clear is not None:
                check_packed(message.clear, clear.size, clear.bits)
        except ValueError as bad:
            raise MalformedMessage(str(bad), sender=message.device, stage="report") from None

    def close(self) -> "Attesting":
        """The survivors are the largest group. Raises TooFewClients below min_survivors."""
        metrics = self._usual()
        group = self._groups.get(metrics)
        total = group.total.total() if group else b""
        survivors = group.total.senders if group else ()
        if group is None or len(survivors) < self.session.min_survivors:
            raise TooFewClients(
                f"{len(survivors)} of {len(self.session.cohort)} devices reported, "
                f"at least {self.session.min_survivors} needed (min_survivors)"
            )
        clear = None if group.clear is None else group.clear.total(survivors)
        self._closed = True  # the sum and the survivors are handed on, not copied
        return Attesting(
            Closed(
                self.session,
                self._id,
                self._identities,
                survivors,
                group.dealt,
                total,
                metrics,
                clear,
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

    def _folded(self, message: Report) -> Group:
        """The group of a report, which is in its sum now.

        A group that is new gets its place only then: what does not add up costs nobody's.
        """
        names, sender = message.metrics, message.device
        known = self._groups.get(names)
        if known is None:
            self._check_room(names, sender)
        clear = self.session.clear
        beside = None if clear is None else ClearTotal(clear)
        group = known or Group(self._new_total(), {}, beside)
        try:
            group.total.add(message.packed, sender=sender)
        except TacitError:
            if known is None:
                group.total.close()
            raise
        if known is None:
            self._make_room()
            self._groups[names] = group
        return group

    def _check_room(self, names: tuple[str, ...], sender: int) -> None:
        """Hostile names would cost a vector each, so there are only so many groups."""
        if len(self._groups) == MAX_GROUPS and self._lone() is None:
            raise ProtocolError(
                f"metrics {list(names)} are the names of nobody else", sender=sender, stage="report"
            )

    def _make_room(self) -> None:
        """Give up the group that a device has had to itself for longest: names that nobody shares
        must not keep out those that come after."""
        lone = self._lone()
        if len(self._groups) == MAX_GROUPS and lone is not None:
            group = self._groups.pop(lone)
            group.total.close()
            self._odd[next(iter(group.dealt))] = lone

    def _lone(self) -> tuple[str, ...] | None:
        return next((n for n, group in self._groups.items() if len(group.dealt) == 1), None)


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

    def close(self) -> Revealing:
        """Raises TooFewClients with fewer signatures than the threshold."""
        threshold = self.closed.session.threshold
        if len(self._signatures) < threshold:
            raise TooFewClients(
                f"{len(self._signatures)} of {len(self.closed.session.committee)} committee "
                f"members attested, {threshold} needed (threshold)"
            )
        session = self.closed.session
        kind = KeyRevealing if session.lattice else SumRevealing if session.he else MaskRevealing
        return kind(self.closed, self._signatures, self._bad)
