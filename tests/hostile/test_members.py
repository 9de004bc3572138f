"""Devices that lie: shares that are not what was dealt, dealt shares that fit nothing, slander.

Here the server is honest, and a hostile device has won if a sum comes out wrong, or if an honest
device is kept out for what it did not do.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from tacit.client.app import SecureClientApp
from tacit.client.device import simulated_device
from tacit.client.policy import Policy
from tacit.crypto import labels
from tacit.crypto.identity import Member, Roster, RunKey
from tacit.crypto.lattice import keys as lattice_keys
from tacit.crypto.secagg import client, stages
from tacit.crypto.secagg.client import _seal
from tacit.crypto.secagg.hiding import Hidden
from tacit.crypto.secagg.messages import HASH_BYTES, hash_row, share_context
from tacit.crypto.secagg.revealing import KeyRevealing, MaskRevealing, Opened, Revealing
from tacit.crypto.secagg.session import Session
from tacit.crypto.shamir import Octets
from tacit.crypto.simulated import simulated_identity
from tacit.crypto.wire import Writer
from tacit.server.events import Event, LeftOut, SumFailed, SumOpened
from tacit.server.flower import envelope, identity
from tacit.server.loop import Plan, run_rounds
from tacit.server.pairwise import Pairwise
from tacit.server.wrapped import WrappedGrid
from tacit.simulations.engine.faults import Corrupt, Fault
from tacit.simulations.engine.grid import InProcessGrid
from tacit.strategies.secure import Secure
from tests.hostile.attack import Attack, replaced, together, trial, trials
from tests.hostile.crowd import unit
from tests.hostile.kinds import LATTICE, PAIRS, current
from tests.runtime import linear

pytestmark = pytest.mark.kinds(PAIRS, LATTICE)
DEVICES = 7
LIAR = 2  # device 3
Change = Callable[[bytes], bytes]


@dataclass
class Ran:
    """What a run of two rounds told, and the model before the first and after each."""

    events: list[Event] = field(default_factory=list)
    models: list[np.ndarray] = field(default_factory=list)

    def named(self) -> set[int]:
        """Devices (not partitions) that were left out of something."""
        return {e.device for e in self.events if isinstance(e, LeftOut)}

    def moved(self, round: int) -> np.ndarray:
        """The sum that a round brought: how often each device is in it; all 0 if it was lost."""
        opened = [e for e in self.events if isinstance(e, SumOpened) and e.round == round]
        survivors = opened[0].survivors if opened else 1
        return (self.models[round] - self.models[round - 1]) * survivors


def run(
    faults: Sequence[Fault] = (),
    devices: int = DEVICES,
    wrap: Callable[[InProcessGrid], Any] = lambda grid: grid,
    rounds: int = 2,
    reply: linear.TrainReply = unit,
    roster: Roster | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    corrupt: float = 1 / 3,
) -> Ran:
    """An honest server and its loop, over devices with these faults, for sums of the current kind
    that stand up to a fraction of `corrupt`."""
    ran = Ran()
    every: dict[str, Any] = {"min_train_nodes": devices, "min_available_nodes": devices}
    strategy = FedAvg(**every, fraction_evaluate=0.0)

    def keep(number: int, arrays: ArrayRecord) -> None:
        ran.models.append(linear.arrays_of(arrays)["w"])

    def tell(event: Event) -> None:
        ran.events.append(event)
        on_event(event)

    policy = current().joined(Policy(corrupt=corrupt))

    def load() -> ClientApp:
        return linear.register(SecureClientApp(policy, simulated_device), reply)

    with InProcessGrid(load, devices=devices, faults=faults) as inner, identity(inner.run.run_id):
        protocol = current().sum(Pairwise(corrupt=corrupt))
        grid = Secure(strategy, protocol, roster=roster).grid(wrap(inner), on_event=tell)
        initial = linear.record({"w": np.zeros(devices)})
        run_rounds(grid, strategy, initial, Plan(rounds, seed=1), evaluate_fn=keep)
    return ran


def spoilt(name: str, change: Change) -> Callable[[Message], Message]:
    """A device whose reply holds, in place of a field, what `change` makes of it."""

    def spoil(reply: Message) -> Message:
        own = envelope(reply)
        record = own.content.config_records[stages.RECORD]
        value = record[name]
        assert isinstance(value, bytes)
        record[name] = change(value)
        return own

    return spoil


def is_whole(moved: np.ndarray, without: Sequence[int] = (), size: float = 1) -> bool:
    """Whether a sum holds exactly one unit vector of each device, but for some partitions, in a
    model whose numbers are at most `size`."""
    want = np.array([float(p not in without) for p in range(len(moved))])
    # A float64 rounds three times on the way: the division by n, the model's sum, our product.
    return bool(np.abs(moved - want).max() <= 4 * len(moved) * size * 2.0**-53)


# A committee member that opens wrong shares


def wrong_shares(places: Callable[[int], Sequence[int]], liar: int = LIAR) -> Callable[[], bool]:
    """The liar opens its shares with bits flipped at some places. It has won if the round is not
    exact, or if anybody but itself is named."""

    def change(data: bytes) -> bytes:
        out = bytearray(data)
        for place in places(len(data)):
            out[place] ^= 1
        return bytes(out)

    def attack() -> bool:
        ran = run([Corrupt("reveal", {liar}, {1}, how=spoilt(stages.MESSAGE, change))])
        return not (is_whole(ran.moved(1)) and ran.named() == {liar + 1})

    return attack


UNHASHED = together(
    replaced(MaskRevealing, "_matches", lambda *_: True),
    replaced(lattice_keys, "blame", lambda *_: ()),
)
WRONG: dict[str, Attack] = {
    "one bit": Attack(wrong_shares(lambda size: [8]), UNHASHED),
    "the last bit": Attack(wrong_shares(lambda size: [size - 1]), UNHASHED),
    "every byte": Attack(wrong_shares(lambda size: range(8, size)), UNHASHED),
    "one that nobody needs": Attack(wrong_shares(lambda size: [8], DEVICES - 1), UNHASHED),
}


@trials(WRONG)
def test_a_member_that_opens_wrong_shares(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named, and the sum is exact. Without the hashes an honest dealer is to blame, or nobody
    is; a sum of lattice keys that is not held against the other members' is noise."""
    trial(attack, defended, monkeypatch)


# A dealer


def dealing(change: Callable[[Octets], Octets], members: Sequence[int] = ()) -> Callable[..., Any]:
    """`_seal` of a device whose shares are not of the secrets it commits to, or whose boxes for
    some `members` do not open."""

    def seal(
        session: Session, me: int, agreed: Any, setup: bytes, hidden: Hidden
    ) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        if me != LIAR + 1:
            return _seal(session, me, agreed, setup, hidden)
        # Shares are linear: the same change to all of them is one of the secrets.
        sealed, hashes = _seal(
            session, me, agreed, setup, replace(hidden, dealt=change(hidden.dealt))
        )
        boxes = tuple(
            box[::-1] if member in members else box
            for member, box in zip(session.committee, sealed, strict=True)
        )
        return boxes, hashes

    return seal


def hostile_dealer(deal: Callable[..., Any]) -> bool:
    """The liar deals badly in both rounds. It has won if a sum is wrong, if an honest device is
    left out, or if the liar is still there in the second round and spoils that as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "_seal", deal)
        ran = run()
    first, second = ran.moved(1), ran.moved(2)
    fine = is_whole(first) or not first.any()
    again = is_whole(second) or is_whole(second, [LIAR])
    return not (fine and again and ran.named() <= {LIAR + 1})


DEALERS: dict[str, Attack] = {
    "boxes that do not open": Attack(
        lambda: hostile_dealer(dealing(lambda s: s, members=range(1, DEVICES + 1))),
        replaced(Revealing, "_guilty", lambda self, dealer: False),
    ),
    "three boxes that do not open": Attack(
        lambda: hostile_dealer(dealing(lambda s: s, members=(1, 2, 4))),
        replaced(Revealing, "_guilty", lambda self, dealer: False),
    ),
}


@trials(DEALERS)
def test_a_dealer_of_bad_boxes(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sum is exact, or it is lost and the model as it was; the dealer is out afterwards."""
    trial(attack, defended, monkeypatch)


def other_secret(secrets: Octets) -> Octets:
    return secrets ^ np.uint8(1)


SECRET: dict[str, Attack] = {
    "another secret than it committed to": Attack(
        lambda: hostile_dealer(dealing(other_secret)),
        replaced(
            MaskRevealing, "_committed", lambda self, dealer, keys: [k.tobytes() for k in keys]
        ),
    ),
}


@pytest.mark.kinds(PAIRS)
@trials(SECRET)
def test_a_dealer_of_another_secret(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial(attack, defended, monkeypatch)


@pytest.mark.kinds(LATTICE)
def test_a_dealer_of_shares_that_fit_nothing_stays_unnamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of encrypted sums, stated: nobody can tell whose shares they are. But no model is
    moved by them, and nobody else is left out."""
    monkeypatch.setattr(client, "_seal", dealing(other_secret))
    ran = run()
    assert {e.round for e in ran.events if isinstance(e, SumFailed)} == {1, 2}
    assert ran.models[2].tobytes() == ran.models[0].tobytes()
    assert not ran.named()


# Framing: of shares of a sum of keys nobody can tell whose doing a wrong one is


def dealt_wrong() -> bool:
    """The liar deals device 9 a wrong share, in a box that opens and with the hash that belongs to
    it. What device 9 adds up is wrong then, of all members' sums the only one."""

    def seal(
        session: Session, me: int, agreed: Any, setup: bytes, hidden: Hidden
    ) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        dealt = hidden.dealt.copy()
        if session.round == 1 and me == LIAR + 1:
            dealt[session.point(9) - 1, 0, 0] ^= 1
        return _seal(session, me, agreed, setup, replace(hidden, dealt=dealt))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "_seal", seal)
        ran = run(devices=12, corrupt=0.1)
    return keeps_out(ran, {9})


def polynomial(points: Sequence[int], zeros: Sequence[int]) -> dict[int, int]:
    """The one that is 0 at `zeros`, at each of the points."""
    values = {}
    for point in points:
        value = 1
        for zero in zeros:
            value = value * (point - zero) % lattice_keys.FIELD
        values[point] = value
    return values


def added_to(moved: int) -> Change:
    """Shares of a sum of keys, all with this added."""

    def change(data: bytes) -> bytes:
        shares = np.frombuffer(data[8:], "<u2").astype(np.int64) + moved
        return data[:8] + (shares % lattice_keys.FIELD).astype("<u2").tobytes()

    return change


def told_wrong() -> bool:
    """Of nine members, seven are needed. Three liars add a polynomial that leaves the key as it is,
    and the shares of all honest members but one: only device 9's looks wrong then."""
    moved = polynomial(range(1, 10), [0, 1, 2, 3, 4, 5])
    faults = [
        Corrupt("reveal", {liar - 1}, {1}, how=spoilt(stages.MESSAGE, added_to(moved[liar])))
        for liar in (6, 7, 8)
    ]
    return keeps_out(run(faults, devices=9), {9})


def keeps_out(ran: Ran, framed: set[int]) -> bool:
    """Whether somebody honest is missing from a sum, in a run in which it did look guilty."""
    assert is_whole(ran.moved(1))
    assert ran.named() == framed
    return not is_whole(ran.moved(2))


def trusting(self: KeyRevealing, rand: bytes, opened: Any = KeyRevealing.open) -> Opened:
    """`open` that takes an odd share for the fault of who gave it."""
    found = opened(self, rand)
    return replace(found, bad=found.unfit)


FRAMES: dict[str, Attack] = {
    "by a dealer": Attack(dealt_wrong, replaced(KeyRevealing, "open", trusting)),
    "by three members": Attack(told_wrong, replaced(KeyRevealing, "open", trusting)),
}


@pytest.mark.kinds(LATTICE)
@trials(FRAMES)
def test_an_honest_member_is_framed(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial(attack, defended, monkeypatch)


# Slander


def slandering(dealer: int, member: int) -> Change:
    """An attestation that calls an honest dealer bad; its signature is not over that."""

    def change(data: bytes) -> bytes:
        return Writer().u64(member).u32(1).u64(dealer).data() + data[-64:]

    return change


def slander() -> bool:
    """Two colluders, as many as there may be, call an honest dealer bad."""
    ran = run(
        [
            Corrupt("attest", {4}, how=spoilt(stages.MESSAGE, slandering(1, 5))),
            Corrupt("attest", {5}, how=spoilt(stages.MESSAGE, slandering(1, 6))),
        ]
    )
    return not (is_whole(ran.moved(1)) and is_whole(ran.moved(2)) and not ran.named())


@pytest.mark.parametrize("defended", [True, False], ids=["defended", "undefended"])
def test_slander(defended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def credulous(self: Revealing, dealer: int) -> bool:
        return any(dealer in bad for bad in self._bad.values())

    trial(Attack(slander, replaced(Revealing, "_guilty", credulous)), defended, monkeypatch)


def test_a_share_of_another_number_is_no_share() -> None:
    """The hash of a share names its place: a member cannot give one that it holds for another."""
    context, row = share_context(bytes(32), 1, 2), bytes(32)
    hashes = {hash_row(labels.SHARE_HASH, context, number, row) for number in range(8)}
    assert len(hashes) == 8
    assert {len(one) for one in hashes} == {HASH_BYTES}


# Keys that are signed as they should be, and that no session can be made with


def signed_by(partition: int, public: bytes) -> Change:
    """A device enrols with any key it likes, rightly signed."""

    def change(data: bytes) -> bytes:
        writer = Writer()
        run_id = RUN_OF[0]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tacit.crypto.identity.run_public", lambda secret: public)
            key = RunKey.signed(simulated_identity(partition + 1), run_id, partition + 1, bytes(32))
        key.write(writer)
        return writer.data()

    return change


RUN_OF: list[int] = []


def noting(grid: InProcessGrid) -> InProcessGrid:
    RUN_OF[:] = [grid.run.run_id]
    return grid


def enrolling(*keys: tuple[int, bytes]) -> Ran:
    faults = [
        Corrupt("enrol", {partition}, how=spoilt(stages.RUN_KEY, signed_by(partition, public)))
        for partition, public in keys
    ]
    return run(faults, wrap=noting)


def test_two_devices_with_one_run_key_do_not_end_the_run() -> None:
    """No session can be built with both of them."""
    same = bytes(range(1, 33))
    ran = enrolling((1, same), (LIAR, same))
    honest = [p for p in range(DEVICES) if p not in (1, LIAR)]
    assert all(ran.moved(2)[p] == pytest.approx(1) for p in honest)


def test_a_low_order_run_key_does_not_end_every_round() -> None:
    """Every honest device would refuse a session with it."""
    ran = enrolling((LIAR, bytes(32)))
    assert is_whole(ran.moved(2), [LIAR])


def test_a_membership_that_runs_out_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is hostile here. Device 3's membership ends between two rounds of a run."""
    clock = [100]
    for room in ("tacit.client.app._now", "tacit.server.grid._now"):
        monkeypatch.setattr(room, lambda: clock[0])
    members = [
        Member(d, simulated_identity(d).public, 150 if d == LIAR + 1 else 10_000)
        for d in range(1, DEVICES + 1)
    ]
    roster = Roster.signed(simulated_identity(0), 1, members, bytes(32))

    def later(event: Event) -> None:
        clock[0] += 100 * isinstance(event, SumOpened)

    ran = run(roster=roster, on_event=later)
    assert is_whole(ran.moved(1))
    assert is_whole(ran.moved(2), [LIAR])


def naming(message: Message, context: Context) -> RecordDict:
    """Three of ten devices call their loss something else each."""
    reply = unit(message, context)
    if (partition := int(context.node_config["partition-id"])) < 3:
        reply.metric_records["metrics"][f"loss {partition}"] = 1.0
    return reply


class LiarsFirst(WrappedGrid):
    """A network in which some devices are always heard before the others."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = sorted(messages, key=lambda message: message.metadata.dst_node_id)
        ids = dict(zip(map(id, sent), self.inner.push_messages(sent), strict=True))
        return [ids[id(message)] for message in messages]


def test_three_devices_with_names_of_their_own_do_not_end_every_round() -> None:
    ran = run(devices=10, wrap=LiarsFirst, reply=naming)
    assert is_whole(ran.moved(2), [0, 1, 2])
