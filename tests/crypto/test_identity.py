"""Who is who: the standards' own vectors, and that no field of a signed thing can be changed."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tacit.crypto import labels
from tacit.crypto.errors import MalformedMessage, ParameterError, ProtocolError
from tacit.crypto.identity import (
    NO_KEM,
    Identity,
    Member,
    Roster,
    RunKey,
    agree,
    derive,
    run_public,
    verified,
)
from tacit.crypto.simulated import simulated_authority, simulated_identity, simulated_roster
from tacit.crypto.wire import Writer
from tests.crypto.federation import NOW, Federation

_hex = bytes.fromhex

# RFC 8032, section 7.1: secret, public, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
]

# RFC 7748, section 6.1.
ALICE = _hex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
ALICE_PUBLIC = _hex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
BOB = _hex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
BOB_PUBLIC = _hex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
SHARED = _hex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC_8032)
def test_ed25519_vectors(secret: str, public: str, message: str, signature: str) -> None:
    identity = Identity(_hex(secret))
    assert identity.public == _hex(public)
    assert identity._key.sign(_hex(message)) == _hex(signature)


def test_a_signature_covers_the_length_of_its_label() -> None:
    """sign(label, content) is Ed25519 over length, label, content."""
    identity = Identity(_hex(RFC_8032[0][0]))
    assert identity.sign(b"ab", b"c") == identity._key.sign(b"\x02abc")
    assert verified(identity.public, b"ab", b"c", identity.sign(b"ab", b"c"))
    assert not verified(identity.public, b"a", b"bc", identity.sign(b"ab", b"c"))


@pytest.mark.parametrize(
    ("public", "signature"),
    [(b"", bytes(64)), (bytes(31), bytes(64)), (bytes(32), b""), (b"\xff" * 32, bytes(64))],
)
def test_keys_and_signatures_that_are_none_verify_nothing(public: bytes, signature: bytes) -> None:
    assert not verified(public, b"label", b"content", signature)


def test_x25519_vectors() -> None:
    assert run_public(ALICE) == ALICE_PUBLIC
    assert run_public(BOB) == BOB_PUBLIC
    assert agree(ALICE, [RunKey(2, BOB_PUBLIC, NO_KEM, b"")]) == {2: SHARED}
    assert agree(BOB, [RunKey(1, ALICE_PUBLIC, NO_KEM, b"")]) == {1: SHARED}


def test_hkdf_vectors() -> None:
    """RFC 5869, appendix A: case 1 through the library call, case 3 (no salt, as ours) through
    `derive`, whose 32 bytes are the first of its 42."""
    case_1 = HKDF(
        SHA256(), 42, salt=_hex("000102030405060708090a0b0c"), info=_hex("f0f1f2f3f4f5f6f7f8f9")
    )
    assert case_1.derive(b"\x0b" * 22).hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )
    assert derive(b"\x0b" * 22, b"").hex() == (
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
    )


def test_aes_gcm_vectors() -> None:
    """McGrew and Viega, test cases 13 and 14: AES-256 under a zero nonce, as shares are sealed."""
    assert AESGCM(bytes(32)).encrypt(bytes(12), b"", None).hex() == (
        "530f8afbc74536b9a963b4f1c4cb738b"
    )
    assert AESGCM(bytes(32)).encrypt(bytes(12), bytes(16), None).hex() == (
        "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"
    )


def test_labels_are_never_confused() -> None:
    """No two alike and none the start of another: label + context then has one reading."""
    every = {name: value for name, value in vars(labels).items() if name.isupper()}
    assert len(every) > 10
    for name, value in every.items():
        assert value.startswith(b"tacit v2 ")
        assert [n for n, other in every.items() if other.startswith(value)] == [name]


@pytest.mark.parametrize("size", [0, 31, 33])
def test_an_identity_takes_32_bytes(size: int) -> None:
    with pytest.raises(ParameterError, match="32 random bytes"):
        Identity(bytes(size))


# Points of order 1, 2, 4 and 8, on the curve and its twist (Bernstein, "Validating Curve25519
# public keys"); then the same bytes with the top bit set, which X25519 ignores.
LOW_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


@pytest.mark.parametrize("point", LOW_ORDER)
@pytest.mark.parametrize("top", [0, 0x80])
def test_low_order_points_are_refused(point: str, top: int) -> None:
    raw = bytearray(_hex(point))
    raw[-1] |= top
    with pytest.raises(ProtocolError, match="low-order") as refused:
        agree(ALICE, [RunKey(2, BOB_PUBLIC, NO_KEM, b""), RunKey(9, bytes(raw), NO_KEM, b"")])
    assert refused.value.sender == 9


def test_two_encodings_of_one_point_agree_on_one_secret() -> None:
    """Why pair keys are bound to device numbers: see `messages.pair_context`."""
    twin = BOB_PUBLIC[:31] + bytes([BOB_PUBLIC[31] ^ 0x80])
    assert agree(ALICE, [RunKey(3, twin, NO_KEM, b"")])[3] == SHARED


def flips(data: bytes) -> list[bytes]:
    return [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(len(data))]


def test_a_roster_is_refused_after_any_change() -> None:
    crew = Federation(3)
    crew.roster.verify(crew.authority.public)
    for changed in flips(crew.roster.encode()):
        with pytest.raises((ProtocolError, MalformedMessage)):
            Roster.decode(changed).verify(crew.authority.public)
    first, *others = crew.roster.members
    changes: list[dict[str, Any]] = [
        {"serial": 2},
        {"members": crew.roster.members[:2]},
        {"members": (replace(first, valid_until=NOW + 1), *others)},
        {"members": (replace(first, public=bytes(32)), *others)},
        {"signature": bytes(64)},
    ]
    for change in changes:
        with pytest.raises(ProtocolError, match="not signed by the authority"):
            replace(crew.roster, **change).verify(crew.authority.public)
    with pytest.raises(ProtocolError, match="not signed by the authority"):
        crew.roster.verify(crew.identities[1].public)


def test_every_roster_has_a_digest_of_its_own() -> None:
    crew = Federation(2)
    later = Roster.signed(crew.authority, 2, crew.roster.members, crew.roster.beacon)
    unsigned = replace(crew.roster, signature=bytes(64))
    assert len({crew.roster.digest(), later.digest(), unsigned.digest()}) == 3
    again = Roster.signed(crew.authority, 1, reversed(crew.roster.members), crew.roster.beacon)
    assert again == crew.roster


KEY_1, KEY_2 = Identity(bytes([1]) * 32).public, Identity(bytes([2]) * 32).public


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([Member(1, KEY_1, 0), Member(1, KEY_2, 0)], "distinct"),
        ([Member(0, KEY_1, 0)], "start at 1"),
        ([Member(-1, KEY_1, 0)], "start at 1"),
        ([Member(1, KEY_1, 0), Member(2, KEY_1, 0)], "share one identity key"),
        ([Member(1, KEY_1[:31], 0)], "31 bytes where 32 belong"),
        ([Member(1 << 64, KEY_1, 0)], "does not fit"),
        ([Member(1, KEY_1, -1)], "does not fit"),
    ],
)
def test_an_impossible_roster_is_not_signed(members: list[Member], says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        Roster.signed(Identity(bytes(32)), 1, members, bytes(32))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([(2, KEY_1), (1, KEY_2)], "must be sorted"),
        ([(1, KEY_1), (1, KEY_2)], "must be sorted, distinct"),
        ([(0, KEY_1)], "start at 1"),
        ([(1, KEY_1), (2, KEY_1)], "share one identity key"),
    ],
)
def test_an_impossible_roster_is_not_read(rows: list[tuple[int, bytes]], says: str) -> None:
    writer = Writer().u8(2).u64(1).u32(len(rows))
    for device, public in rows:
        writer.u64(device).fixed(public, 32).u64(0)
    with pytest.raises(MalformedMessage, match=says):
        Roster.decode(writer.data() + bytes(32 + 64))


def test_who_reads_a_roster_shares_its_bytes_and_what_was_checked_is_checked_by_signer() -> None:
    """In one process ten thousand devices keep one copy; what one of them found holds for the same
    roster and the same authority, and for no other."""
    crew = Federation(3)
    data = bytes(bytearray(crew.roster.encode()))
    one, other = Roster.decode(data), Roster.decode(bytes(bytearray(data)))
    assert one.encode() is other.encode() is data
    one.verify(crew.authority.public)
    with pytest.raises(ProtocolError, match="not signed by the authority"):
        one.verify(crew.identities[1].public)
    # The same signature, and so the same hash: what was found of one is not what is found of this.
    forged = replace(one, members=one.members[:2])
    assert hash(forged) == hash(one)
    assert forged != one
    assert forged.drawn(3) != one.drawn(3)
    with pytest.raises(ProtocolError, match="not signed by the authority"):
        forged.verify(crew.authority.public)
    with pytest.raises(ProtocolError, match="not on the roster"):
        forged.member(3, now=NOW)
    assert one.identity(2) == crew.identities[2].public
    assert one.identity(4) == b""


def test_a_roster_knows_its_members_until_their_time_is_over() -> None:
    roster = Federation(3).roster
    assert roster.member(2, now=NOW).device == 2
    with pytest.raises(ProtocolError, match="device 2: membership has expired"):
        roster.member(2, now=NOW + 1)
    with pytest.raises(ProtocolError, match="device 4: not on the roster"):
        roster.member(4, now=0)


def test_a_run_key_is_bound_to_run_device_and_identity() -> None:
    crew = Federation(2)
    key = crew.keys[1]
    key.verify(1, crew.identities[1].public)
    for changed, run, who in (
        (key, 2, 1),
        (key, 1, 2),
        (replace(key, device=2), 1, 1),
        (replace(key, public=crew.keys[2].public), 1, 1),
        (replace(key, kem=bytes(31) + b"\1"), 1, 1),
        (replace(key, signature=crew.keys[2].signature), 1, 1),
        (replace(key, signature=key.signature[:63] + b"\0"), 1, 1),
    ):
        with pytest.raises(ProtocolError, match="run key is not signed by its device"):
            changed.verify(run, crew.identities[who].public)


def test_a_signature_for_another_purpose_is_no_run_key() -> None:
    identity = Identity(bytes(32))
    body = Writer().u64(1).u64(1).fixed(ALICE_PUBLIC, 32).fixed(NO_KEM, 32).data()
    RunKey(1, ALICE_PUBLIC, NO_KEM, identity.sign(labels.RUN_KEY, body)).verify(1, identity.public)
    with pytest.raises(ProtocolError, match="not signed"):
        RunKey(1, ALICE_PUBLIC, NO_KEM, identity.sign(labels.REPORT, body)).verify(
            1, identity.public
        )


def test_no_secret_shows_in_a_repr() -> None:
    crew = Federation(3, hybrid=True)
    session = crew.session()
    states, reports = crew.reports(session, crew.devices)
    attested, _ = crew.attest(crew.collect(session, reports), states)
    secrets = [
        crew.identities[1].secret,
        crew.enrolled[1].secret,
        crew.enrolled[1].kem_seed,
        attested[1].opened[0].tobytes(),
    ]
    for thing in (
        crew.identities[1],
        crew.enrolled[1],
        crew.enrolled[1].kem,
        states[1],
        attested[1],
    ):
        shown = repr(thing)
        assert "secret" not in shown
        assert "opened" not in shown
        for secret in secrets:
            assert secret.hex() not in shown
            assert repr(secret)[2:-1] not in shown
            assert str(np.frombuffer(secret, np.uint8)[:3])[1:-1] not in shown


def test_a_simulated_federation_is_the_same_everywhere() -> None:
    roster = simulated_roster(3)
    roster.verify(simulated_authority())
    assert [m.public for m in roster.members] == [simulated_identity(d).public for d in (1, 2, 3)]
    assert simulated_roster(4).serial > roster.serial
    assert len({simulated_identity(device).public for device in range(5)}) == 5
    with pytest.raises(ProtocolError, match="not signed by the authority"):
        roster.verify(Federation(2).authority.public)
