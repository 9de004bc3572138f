"""How a group gets its key: every member the same, from the dealer, and nobody else any."""

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.errors import MalformedMessage, ParameterError, ProtocolError
from tacit.crypto.he.dealing import (
    Deal,
    Delivery,
    deal,
    deal_bytes,
    read_consortium,
    receive,
)
from tacit.crypto.he.keys import Consortium, GroupKey, box_bytes
from tacit.crypto.he.sets import PUBLIC, SCHEMES, SEEDED, Scheme
from tacit.crypto.secagg.stages import BAD_GROUP_KEY
from tacit.crypto.wire import Reader, Writer
from tests.crypto.federation import Counted
from tests.crypto.he.group import agreed, consortium
from tests.strategies import mutations

pytest.importorskip("tenseal", reason="TenSEAL is not installed: pip install '.[he]'")

GROUP = consortium(SEEDED)


def dealt(held: Consortium = GROUP, seed: bytes = b"tacit") -> tuple[GroupKey, Deal]:
    secrets = {member: agreed(held.dealer, member) for member in held.others}
    return deal(held, secrets, Counted(seed)(deal_bytes(held)))


def delivery(message: Deal, member: int, held: Consortium = GROUP) -> Delivery:
    """As the server carries it: through bytes, both ways."""
    told = Deal.decode(message.encode(), held, sender=held.dealer)
    box = dict(zip(held.others, told.boxes, strict=True))[member]
    return Delivery.decode(Delivery(held, box).encode())


@pytest.mark.parametrize("dealer", [1, 3, 5])
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda scheme: scheme.name)
def test_every_member_gets_the_dealers_key(scheme: Scheme, dealer: int) -> None:
    held = replace(consortium(scheme), dealer=dealer)
    group, message = dealt(held)
    assert len(message.boxes) == 4
    for member in held.others:
        got = receive(delivery(message, member, held), member, agreed(member, dealer))
        assert got == group
        assert got.encode() == group.encode()


def test_no_two_deals_are_alike() -> None:
    """The library draws the key; the caller's bytes are the secret of the tags, and the salts."""
    (one, first), (same, again), (other, second) = dealt(), dealt(), dealt(seed=b"other")
    assert one.key != same.key
    assert one.tag_secret == same.tag_secret != other.tag_secret
    boxes = [*first.boxes, *again.boxes, *second.boxes]
    assert len({box[32:] for box in boxes}) == len(boxes)
    assert len({box[:32] for box in first.boxes}) == len(first.boxes)


@pytest.mark.parametrize("size", [0, 31, 32 * 5 - 1, 32 * 5 + 1])
def test_a_deal_takes_so_many_random_bytes(size: int) -> None:
    assert deal_bytes(GROUP) == 32 * 5  # one for the tags, a salt for each other member
    secrets = {member: agreed(1, member) for member in GROUP.others}
    with pytest.raises(ParameterError, match="deal takes 160 random bytes"):
        deal(GROUP, secrets, bytes(size))


def test_the_dealer_and_strangers_are_sealed_nothing() -> None:
    told = delivery(dealt()[1], 3)
    for member in (1, 9):
        with pytest.raises(ProtocolError, match="a key that is not sealed to us") as refused:
            receive(told, member, agreed(3, 1))
        assert refused.value.sender == 0


def test_a_box_that_does_not_hold_is_the_dealers_and_says_so() -> None:
    """Whatever is wrong with it, in the words that a server knows."""
    group, message = dealt()
    told = delivery(message, 3)
    secrets = {member: agreed(1, member) for member in GROUP.others}
    junk = replace(group, key=replace(group.key, secret=b"no key"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GroupKey, "make", lambda held, rand: junk)
        _, of_junk = deal(GROUP, secrets, bytes(deal_bytes(GROUP)))
    for bad in (
        replace(told, box=b""),
        replace(told, box=told.box[:-1]),
        delivery(message, 4),  # another member's
        replace(told, consortium=replace(GROUP, serial=2)),
        delivery(of_junk, 3),
    ):
        with pytest.raises(ProtocolError, match=f"^key: device 1: {BAD_GROUP_KEY}: ") as refused:
            receive(bad, 3, agreed(3, 1))
        assert (refused.value.sender, refused.value.stage) == (1, "key")


@given(st.data())
def test_bytes_of_no_deal_are_refused(data: st.DataObject) -> None:
    """Whatever decodes encodes to the same bytes; all else is a MalformedMessage."""
    good = Deal((b"abc", b"", b"d" * 40, bytes(7))).encode()
    changed = data.draw(mutations(good))
    with contextlib.suppress(MalformedMessage):
        message = Deal.decode(changed, GROUP, sender=1)
        assert message.encode() == changed
        assert len(message.boxes) == 4


def test_a_deal_has_a_box_for_each_member_and_none_too_large() -> None:
    for boxes in ((b"x",) * 3, (b"x",) * 5, (bytes(box_bytes(SEEDED) + 1), b"", b"", b"")):
        with pytest.raises(MalformedMessage) as refused:
            Deal.decode(Deal(boxes).encode(), GROUP, sender=1)
        assert refused.value.sender == 1
    largest = (bytes(box_bytes(SEEDED)),) * 4
    assert Deal.decode(Deal(largest).encode(), GROUP, sender=1).boxes == largest


@given(st.data())
def test_bytes_of_no_delivery_are_refused(data: st.DataObject) -> None:
    changed = data.draw(mutations(Delivery(GROUP, bytes(100)).encode()))
    with contextlib.suppress(MalformedMessage):
        assert Delivery.decode(changed).encode() == changed


def test_a_delivery_holds_no_more_than_a_key() -> None:
    for scheme in (SEEDED, PUBLIC):
        held = consortium(scheme)
        Delivery.decode(Delivery(held, bytes(box_bytes(scheme))).encode())
        with pytest.raises(MalformedMessage, match="a box of"):
            Delivery.decode(Delivery(held, bytes(box_bytes(scheme) + 1)).encode())


def test_nothing_comes_after_a_consortium() -> None:
    def read(data: bytes) -> Consortium:
        return read_consortium(Reader(data, sender=0, stage="deal"))

    assert read(GROUP.encode()) == GROUP
    for data in (GROUP.encode() + b"x", GROUP.encode()[:-1], b""):
        with pytest.raises(MalformedMessage):
            read(data)
    backwards = Writer().u8(1).data() + GROUP.encode()[1:]
    with pytest.raises(MalformedMessage, match="consortium of version 1"):
        read(backwards)
