"""Devices that share one key, behind a server played by hand that keeps all it carries.

What an opened sum says is as in `crowd`: how often each device is in it. Here the server is alone:
a device in league with it has the key, and opens everything (see `tacit.crypto.he`).
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import replace
from functools import cache
from typing import Any

from flwr.app import Context

from tacit.client.policy import Policy
from tacit.crypto.codec import Ring
from tacit.crypto.he.dealing import Deal, Delivery
from tacit.crypto.he.doors import door
from tacit.crypto.he.frames import Kind, frame, read_frame
from tacit.crypto.he.keys import Consortium, GroupKey
from tacit.crypto.he.packing import Packing
from tacit.crypto.he.sets import PUBLIC
from tacit.crypto.identity import RunKey
from tacit.crypto.secagg import stages
from tacit.crypto.secagg.messages import AttestRequest, Decryption, Report
from tacit.crypto.secagg.session import Session
from tacit.crypto.wire import unpack
from tacit.server.flower import copy_records, identity
from tacit.server.tenseal import TenSeal
from tests.hostile.adversary import Adversary, Reading, read
from tests.hostile.crowd import Crowd
from tests.runtime.desk import RUN, field, stage

AGREED = Policy(consortium=True)
ALL = (1, 2, 3, 4, 5)
SUMS = TenSeal(min_survivors=3)


class Circle(Crowd):
    """Enrolled devices 1..n, none of which has a key yet: see `keyed`."""

    def __init__(self, devices: int = len(ALL), **more: Any) -> None:
        super().__init__(devices, **{"policy": AGREED, "protocol": SUMS, **more})
        self.sent: dict[bytes, dict[int, bytes]] = defaultdict(dict)  # by session id and device

    # The key

    def consortium(
        self, serial: int = 1, dealer: int = 1, members: Iterable[RunKey] | None = None
    ) -> Consortium:
        """What an honest server asks a dealer for."""
        keys = tuple(self.keys.values() if members is None else members)
        scheme = self.protocol.scheme  # type: ignore[attr-defined]
        return Consortium(RUN, self.roster.digest(), keys, dealer, serial, scheme)

    def deals(self, consortium: Consortium, dealer: int | None = None) -> dict[int, bytes]:
        """Stage deal: a box for each of the other members."""
        asked = consortium.dealer if dealer is None else dealer
        data = field(self.ask(asked, stages.DEAL, stage(message=consortium.encode())))
        boxes = Deal.decode(data, consortium, sender=asked).boxes
        return dict(zip(consortium.others, boxes, strict=True))

    def delivers(self, consortium: Consortium, member: int, box: bytes) -> None:
        """Stage key."""
        told = Delivery(consortium, box).encode()
        reply = self.ask(member, stages.KEY, stage(message=told))
        assert not reply.config_records[stages.RECORD]

    def keyed(self, consortium: Consortium) -> dict[int, bytes]:
        """Both stages, everyone answering. From here on sessions are of this epoch."""
        boxes = self.deals(consortium)
        for member, box in boxes.items():
            self.delivers(consortium, member, box)
        self.epoch = consortium.epoch
        return boxes

    def group(self, device: int) -> GroupKey:
        """What a device holds; no server sees it."""
        held = self.app._device_of(self.contexts[device]).vault.read("group")
        assert held is not None
        return GroupKey.decode(held)

    def holds(self, device: int) -> bool:
        return self.app._device_of(self.contexts[device]).vault.read("group") is not None

    # Sums

    def hears(self, session: Session, devices: Iterable[int] | None = None) -> None:
        """Have devices report, and keep their ciphertexts."""
        for device in session.devices if devices is None else devices:
            report = Report.decode(self.report(device, session), session, sender=device)
            self.sent[session.id][device] = bytes(report.packed)

    def signs(
        self, session: Session, survivors: Sequence[int], members: Iterable[int] | None = None
    ) -> None:
        """Have members sign a set of survivors."""
        nothing = (b"",) * len(survivors)
        ask = AttestRequest(session.id, tuple(survivors), ((),) * len(survivors), nothing, nothing)
        for member in session.committee if members is None else members:
            self.adversary.attested(session, member, ask, self.attest(member, ask, session))

    def decrypts(
        self, member: int, session: Session, attested: Sequence[int], total: bytes
    ) -> Ring:
        """Show a member the signatures on a set, and a sum."""
        request = replace(self.adversary.proof(session, attested), total=total)
        said = Decryption.decode(self.reveal(member, request), session, sender=member)
        return unpack(said.packed, session.codec.size, session.codec.bits)

    def total(self, session: Session, devices: Sequence[int], count: int | None = None) -> bytes:
        """The sum of these devices' ciphertexts, which says it is one of `count`."""
        contributions = [self.sent[session.id][device] for device in devices]
        return summed(packing(session), contributions, len(devices) if count is None else count)

    def opens(  # type: ignore[override]
        self, session: Session, survivors: Sequence[int], member: int = 1
    ) -> Reading | None:
        """As an honest server does: what the sum over `survivors` says."""
        self.signs(session, survivors, survivors)
        vector = self.decrypts(member, session, survivors, self.total(session, survivors))
        return read(session, vector, len(survivors))


def packing(session: Session) -> Packing:
    assert session.packing is not None
    return session.packing


def summed(held: Packing, contributions: Sequence[bytes], count: int) -> bytes:
    """Ciphertexts added up, as anybody can, in a frame that says what the server wants it to."""
    through = door(held.scheme)
    rows = [blocks(held, contribution) for contribution in contributions]
    totals = [through.load(block) for block in rows[0]]
    for row in rows[1:]:
        for total, block in zip(totals, row, strict=True):
            through.add(total, through.load(block))
    return frame(Kind.SUM, held, count, [through.save(total) for total in totals])


def blocks(held: Packing, data: bytes, kind: Kind = Kind.CONTRIBUTION) -> list[bytes]:
    _, views = read_frame(data, kind, held, sender=0, stage="")
    return [bytes(view) for view in views]


@cache
def _prepared(parameters: str) -> tuple[Circle, dict[int, Any], Consortium, dict[int, bytes]]:
    with identity(RUN):
        circle = Circle(protocol=replace(SUMS, parameters=parameters))
        consortium = circle.consortium()
        boxes = circle.keyed(consortium)
        states = {device: copy_records(c.state) for device, c in circle.contexts.items()}
    return circle, states, consortium, boxes


def prepared(parameters: str = PUBLIC.name) -> tuple[Circle, Consortium, dict[int, bytes]]:
    """Five devices that share a key, as if dealt just now; whose it is, and the boxes."""
    first, states, consortium, boxes = _prepared(parameters)
    circle = copy(first)
    circle.contexts = {
        device: Context(RUN, before.node_id, before.node_config, copy_records(states[device]), {})
        for device, before in first.contexts.items()
    }
    circle.adversary = Adversary()
    circle.keys = dict(first.keys)
    circle.sent = defaultdict(dict)
    circle.settings = {}
    return circle, consortium, dict(boxes)
