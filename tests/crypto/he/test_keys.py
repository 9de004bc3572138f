"""A group's key opens for its member, in its epoch, and for nobody else."""

import contextlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.errors import MalformedMessage, ParameterError, ProtocolError
from tacit.crypto.he.bfv import Key, Summer
from tacit.crypto.he.keys import Consortium, GroupKey, seal
from tacit.crypto.he.packing import Packing
from tacit.crypto.he.sets import PUBLIC, SCHEMES, SEEDED, WIDE
from tacit.crypto.he.sums import contribute, open_sum
from tacit.crypto.identity import Identity, Member, Roster, RunKey
from tacit.crypto.wire import Reader
from tests.crypto.he.group import ROSTER, SESSION, agreed, consortium, group, ring, run_key, secret
from tests.strategies import mutations

pytest.importorskip("tenseal", reason="TenSEAL is not installed: pip install '.[he]'")

SALT = bytes(range(32))


def sealed(member: int = 3, scheme=SEEDED) -> bytes:
    return seal(group(scheme), member, agreed(1, member), SALT)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda scheme: scheme.name)
def test_a_member_reads_its_box_and_decrypts(scheme) -> None:
    got = GroupKey.unseal(consortium(scheme), 3, agreed(3, 1), sealed(3, scheme))
    assert got == group(scheme)
    packing = Packing(scheme, 5, 20, 2)
    summer = Summer(packing)
    for device in (1, 3):
        key = group(scheme) if device == 1 else got
        vector = ring([device, -device, 0, 9, 1], 20)
        message = contribute(key, packing, SESSION, device, vector)
        summer.add(message, sender=device)
    opened = open_sum(got, packing, SESSION, (1, 3), summer.total())
    assert opened.tolist() == ring([4, -4, 0, 18, 2], 20).tolist()


OTHERS = {
    "run": replace(consortium(SEEDED), run=2),
    "roster": replace(consortium(SEEDED), roster=bytes(32)),
    "cohort": replace(consortium(SEEDED), members=tuple(map(run_key, (1, 2, 3, 4)))),
    "run key": replace(
        consortium(SEEDED),
        members=(*map(run_key, (1, 2, 3, 4)), replace(run_key(5), public=bytes(31) + b"\1")),
    ),
    "serial": replace(consortium(SEEDED), serial=2),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_a_key_of_another_epoch_is_refused(other: Consortium) -> None:
    assert other.epoch != consortium(SEEDED).epoch
    with pytest.raises(ProtocolError, match="another epoch") as caught:
        GroupKey.unseal(other, 3, agreed(3, 1), sealed())
    assert (caught.value.sender, caught.value.stage) == (1, "key")


def test_a_box_opens_for_its_member_only() -> None:
    box = sealed(3)
    with pytest.raises(ProtocolError, match="not for us"):
        GroupKey.unseal(consortium(SEEDED), 4, agreed(4, 1), box)  # another member
    with pytest.raises(ProtocolError, match="not for us"):
        GroupKey.unseal(consortium(SEEDED), 4, agreed(3, 1), box)  # a twin that shares the secret
    with pytest.raises(ProtocolError, match="not for us"):
        GroupKey.unseal(replace(consortium(SEEDED), dealer=2), 3, agreed(3, 2), box)
    with pytest.raises(ProtocolError, match="not for us"):
        GroupKey.unseal(replace(consortium(SEEDED), dealer=2), 3, agreed(3, 1), box)


def test_a_changed_box_is_refused() -> None:
    box = sealed()
    for at in (0, 31, 32, 80, len(box) // 2, len(box) - 1):
        changed = bytearray(box)
        changed[at] ^= 1
        with pytest.raises(ProtocolError):
            GroupKey.unseal(consortium(SEEDED), 3, agreed(3, 1), bytes(changed))
    for cut in (b"", box[:20], box[:32], box[:-1], box + b"x", bytes(100_000)):
        with pytest.raises(ProtocolError):
            GroupKey.unseal(consortium(SEEDED), 3, agreed(3, 1), cut)


def test_what_a_dealer_seals_has_to_be_a_key() -> None:
    """A dealer may be corrupt, or of another set: it is named."""
    honest = group(SEEDED)
    for key, reason in (
        (Key(SEEDED, b"no key"), "does not load"),
        (Key(SEEDED, honest.key.secret[:-9]), "does not load"),
        (Key(WIDE, b"no key"), "parameter set 3, expected 2"),
        (Key(SEEDED, bytes(SEEDED.key_bytes + 1)), "at most"),
        (Key(SEEDED, group(WIDE).key.secret), "a box of"),
        (Key(SEEDED, b""), "does not load"),
    ):
        bad = GroupKey(honest.consortium, honest.tag_secret, key)
        box = seal(bad, 3, agreed(1, 3), SALT)
        with pytest.raises(ProtocolError, match=reason) as caught:
            GroupKey.unseal(consortium(SEEDED), 3, agreed(3, 1), box)
        assert caught.value.sender == 1


def test_a_public_key_of_other_parameters_is_refused() -> None:
    """The context that the library writes names its own parameters."""
    import tenseal

    other = tenseal.context(
        tenseal.SCHEME_TYPE.BFV,
        4096,
        1032193,
        [54, 55],
        tenseal.ENCRYPTION_TYPE.SYMMETRIC,
    )
    flags = {"save_public_key": False, "save_galois_keys": False, "save_relin_keys": False}
    for whole in (True, False):
        held = group(PUBLIC)
        written = other.serialize(save_secret_key=whole, **flags)
        bad = replace(held, key=Key(PUBLIC, written))
        box = seal(bad, 3, agreed(1, 3), SALT)
        with pytest.raises(MalformedMessage, match="does not load"):
            GroupKey.unseal(consortium(PUBLIC), 3, agreed(3, 1), box)
    right = tenseal.context_from(group(PUBLIC).key.secret)
    bare = right.serialize(save_secret_key=False, **flags)
    box = seal(replace(group(PUBLIC), key=Key(PUBLIC, bare)), 3, agreed(1, 3), SALT)
    with pytest.raises(MalformedMessage, match="does not load"):
        GroupKey.unseal(consortium(PUBLIC), 3, agreed(3, 1), box)


def test_a_box_says_nothing_and_is_salted() -> None:
    box = sealed()
    held = group(SEEDED)
    assert held.tag_secret not in box
    assert held.key.secret[40:60] not in box
    again = seal(held, 3, agreed(1, 3), bytes(31) + b"\1")
    assert again[32:] != box[32:]
    assert len(box) < 16_000  # per member, once an epoch


@pytest.mark.parametrize(
    "change",
    [
        {"members": (run_key(1),)},
        {"members": (run_key(2), run_key(1))},
        {"members": (run_key(1), run_key(1), run_key(2))},
        {"members": (run_key(1), replace(run_key(1), device=2))},
        {"dealer": 9},
        {"roster": b"short"},
    ],
)
def test_impossible_consortia(change) -> None:
    with pytest.raises(ParameterError):
        replace(consortium(SEEDED), **change)


def test_arguments_of_other_sizes() -> None:
    held = group(SEEDED)
    for call in (
        lambda: GroupKey.make(consortium(SEEDED), bytes(31)),
        lambda: seal(held, 3, agreed(1, 3), bytes(31)),
        lambda: seal(held, 1, agreed(1, 3), SALT),
        lambda: seal(held, 9, agreed(1, 3), SALT),
        lambda: contribute(held, Packing(SEEDED, 5, 20, 2), b"short", 1, ring([0] * 5, 20)),
        lambda: contribute(held, Packing(WIDE, 5, 20, 2), SESSION, 1, ring([0] * 5, 20)),
        lambda: contribute(held, Packing(SEEDED, 5, 20, 2), SESSION, 9, ring([0] * 5, 20)),
    ):
        with pytest.raises(ParameterError):
            call()


def test_a_session_has_to_be_the_consortiums() -> None:
    right = consortium(SEEDED)

    def session(of: Consortium, **changed: object) -> SimpleNamespace:
        fields = {"run": 1, "roster": ROSTER, "cohort": right.members[1:4], "he": SEEDED.name}
        return SimpleNamespace(**{**fields, "epoch": of.epoch, **changed})

    right.check(session(right))
    other = OTHERS["run key"]  # of a member who is not in the cohort
    other.check(session(other))
    for wrong, reason, changed in (
        (replace(right, run=9), "another run or roster", {}),
        (replace(right, roster=bytes(32)), "another run or roster", {}),
        (right, "another epoch", {"epoch": other.epoch}),
        (right, "another epoch", {"he": PUBLIC.name}),
        (replace(right, members=right.members[:3]), "others than members", {}),
        (replace(right, members=(*right.members[:3], resigned(4))), "others than members", {}),
    ):
        with pytest.raises(ProtocolError, match=reason):
            wrong.check(session(wrong, **changed))


def test_a_consortium_and_its_key_read_back() -> None:
    for scheme in SCHEMES.values():
        right = consortium(scheme)
        reader = Reader(right.encode(), sender=0, stage="key")
        assert Consortium.read(reader) == right
        reader.end()
        assert GroupKey.decode(group(scheme).encode()) == group(scheme)


@given(st.data())
def test_bytes_of_no_consortium_are_refused(data) -> None:
    """Whatever reads is written as the same bytes; all else is a MalformedMessage."""
    changed = data.draw(mutations(consortium(SEEDED).encode()))
    reader = Reader(changed, sender=0, stage="key")
    with contextlib.suppress(MalformedMessage):
        read = Consortium.read(reader)
        reader.end()
        assert read.encode() == changed


def test_members_have_to_be_on_the_roster() -> None:
    authority = Identity(bytes(32))

    def roster(*devices: int, until: int = 10, of=secret) -> Roster:
        members = [Member(device, Identity(of(device)).public, until) for device in devices]
        return Roster.signed(authority, 1, members, bytes(32))

    whole = roster(1, 2, 3, 4, 5)
    right = replace(consortium(SEEDED), roster=whole.digest())
    right.verify(whole, now=10)
    refused = {
        "another roster": (right, roster(1, 2, 3, 4, 5, 6)),
        "not on the roster": (None, roster(1, 2, 3, 4)),
        "expired": (None, roster(1, 2, 3, 4, 5, until=9)),
        "not signed by its": (None, roster(1, 2, 3, 4, 5, of=lambda device: secret(device + 7))),
    }
    for reason, (held, other) in refused.items():
        asked = held or replace(right, roster=other.digest())
        with pytest.raises(ProtocolError, match=reason):
            asked.verify(other, now=10)


def resigned(device: int) -> RunKey:
    """The same device with another run key."""
    return RunKey.signed(Identity(secret(device)), 1, device, bytes(31) + b"\7")
