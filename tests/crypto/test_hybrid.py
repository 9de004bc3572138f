"""ML-KEM beside X25519: whose capsule it is, what is refused, and that neither alone is enough."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import example, given
from hypothesis import strategies as st

from tacit.crypto import labels, shamir
from tacit.crypto.errors import MalformedMessage, ParameterError, ProtocolError, TacitError
from tacit.crypto.identity import NO_KEM, Roster, RunKey, agree, derive
from tacit.crypto.prg import add_masks
from tacit.crypto.secagg import client
from tacit.crypto.secagg.capsules import Exchange, Pairs
from tacit.crypto.secagg.graph import to_bits
from tacit.crypto.secagg.hybrid import (
    CIPHER_BYTES,
    PUBLIC_BYTES,
    SEED_BYTES,
    Capsule,
    DecapsulateRequest,
    Encapsulated,
    EncapsulateRequest,
    KemKey,
    Peer,
    combine,
    combined,
    decapsulate,
    encapsulate,
)
from tacit.crypto.secagg.messages import pair_context, share_context
from tacit.crypto.secagg.session import Session
from tests.crypto.federation import NOW, Federation, expected, means, vector

RUN = 1
CREW = Federation(4, hybrid=True)
KEYS, IDENTITIES, ROSTER = CREW.keys, CREW.identities, CREW.roster
VECTORS = Path(__file__).parents[1] / "vectors" / "primitives" / "ml_kem_768.json"


def kem(device: int, crew: Federation = CREW) -> KemKey:
    return KemKey(crew.enrolled[device].kem_seed)


def peer(device: int) -> Peer:
    return Peer(KEYS[device], kem(device).public)


def dealt(by: int, *to: int) -> tuple[dict[RunKey, bytes], Encapsulated]:
    peers = [peer(device) for device in to]
    return encapsulate(IDENTITIES[by], ROSTER, RUN, KEYS[by], peers, now=NOW)


def opened(
    device: int, *capsules: tuple[RunKey, Capsule], run: int = RUN, me: RunKey | None = None
) -> dict[RunKey, bytes]:
    return decapsulate(kem(device), ROSTER, run, me or KEYS[device], capsules, now=NOW)


# The secrets


def test_both_ends_of_a_pair_get_one_secret_and_no_other_pair_has_it() -> None:
    secrets = [CREW.kem[one][other] for one in KEYS for other in KEYS if one < other]
    assert len(set(secrets)) == len(secrets) == 6
    assert {len(secret) for secret in secrets} == {32}
    for one in KEYS:
        assert CREW.kem[one].keys() == KEYS.keys() - {one}
        assert all(CREW.kem[one][other] == CREW.kem[other][one] for other in CREW.kem[one])


def test_each_encapsulation_is_a_fresh_secret() -> None:
    first, second = dealt(1, 2), dealt(1, 2)
    assert first[0] != second[0]
    for secrets, answer in (first, second):
        assert opened(2, (KEYS[1], answer.capsules[0][1])) == {KEYS[1]: secrets[KEYS[2]]}


def test_what_the_session_runs_on_is_made_of_both() -> None:
    """HKDF over both secrets, written out with the library; with oneself, over the ML-KEM seed."""

    def hkdf(secret: bytes, info: bytes) -> bytes:
        return HKDF(SHA256(), 32, None, b"tacit v2 " + info).derive(secret)

    session = CREW.session()
    plain = replace(session, hybrid=False)
    x25519 = client.agree_all(CREW.enrolled[1], plain)
    assert x25519 == agree(CREW.enrolled[1].secret, KEYS.values())
    mine = hkdf(CREW.enrolled[1].kem_seed, b"own kem secret")
    for party, secret in client.agree_all(CREW.enrolled[1], session, CREW.kem[1]).items():
        both = x25519[party] + (mine if party == 1 else CREW.kem[1][party])
        assert secret == hkdf(both, b"hybrid secret")
    assert combined(bytes(32), bytes([1]) * 32) != combined(bytes([1]) * 32, bytes(32))


def test_a_missing_secret_is_an_error_that_names_the_device() -> None:
    lacking = {d: secret for d, secret in CREW.kem[1].items() if d != 3}
    with pytest.raises(ProtocolError, match="device 3: we share no ML-KEM secret with it"):
        client.agree_all(CREW.enrolled[1], CREW.session(), lacking)
    with pytest.raises(ProtocolError, match="device 2: we share no ML-KEM secret"):
        client.agree_all(CREW.enrolled[1], CREW.session())
    with pytest.raises(ProtocolError, match="device 9"):
        combine({9: bytes(32)}, {})
    plain = replace(CREW.enrolled[1], kem_seed=b"")
    with pytest.raises(ProtocolError, match="we enrolled without an ML-KEM key"):
        client.agree_all(plain, CREW.session(), CREW.kem[1])


def test_a_hybrid_sum_is_exact_whoever_drops() -> None:
    session = CREW.session()
    for silent in ((), (2,), (4,)):
        there = [device for device in CREW.devices if device not in silent]
        states, reports = CREW.reports(session, there)
        assert means(CREW.run(session, reports, states)) == expected(session, there)


# Keys


@pytest.mark.parametrize("size", [0, 32, SEED_BYTES - 1, SEED_BYTES + 1])
def test_a_key_takes_64_bytes(size: int) -> None:
    with pytest.raises(ParameterError, match="64 random bytes"):
        KemKey(bytes(size))
    if size:
        with pytest.raises(ParameterError):
            client.enrol(IDENTITIES[1], RUN, 1, bytes(32), bytes(size))


def test_a_run_key_names_the_ml_kem_key_by_its_digest_and_none_by_zeros() -> None:
    assert len(kem(1).public) == PUBLIC_BYTES
    assert KEYS[1].kem == kem(1).digest
    assert len({key.kem for key in KEYS.values()} | {NO_KEM}) == len(KEYS) + 1
    assert {key.kem for key in Federation(2).keys.values()} == {NO_KEM}
    assert CREW.enrolled[1].run_key(IDENTITIES[1]) == KEYS[1]
    KEYS[1].verify(RUN, IDENTITIES[1].public)
    for other in (NO_KEM, kem(2).digest):
        with pytest.raises(ProtocolError, match="device 1: run key is not signed"):
            replace(KEYS[1], kem=other).verify(RUN, IDENTITIES[1].public)


def digest_of(public: bytes) -> bytes:
    return hashlib.sha256(b"tacit v2 kem key" + public).digest()


def test_the_standards_vectors() -> None:
    valid, refused = 0, 0
    groups = json.loads(VECTORS.read_text("utf-8"))["groups"]
    for case in (case for group in groups for case in group["cases"]):
        names = case.keys() & {"seed", "public", "cipher", "shared"}
        value = {name: bytes.fromhex(case[name]) for name in names}
        if "seed" not in value:  # a coefficient that is too large, or another length
            named = RunKey(7, bytes(32), digest_of(value["public"]), bytes(64))
            with pytest.raises(ProtocolError, match=r"^enrol: device 7: no valid ML-KEM key$"):
                Peer(named, value["public"]).loaded()
            refused += 1
        elif case["result"] == "valid":
            key = KemKey(value["seed"])
            assert key.public == value["public"]
            assert key.open(value["cipher"]) == value["shared"]
            valid += 1
    assert (valid, refused) == (15, 8)


@pytest.mark.parametrize(
    "public",
    [kem(3).public, bytes(PUBLIC_BYTES), b"\xff" * PUBLIC_BYTES, b""],
    ids=["another's", "zeros", "too large", "empty"],
)
def test_a_key_that_the_run_key_does_not_name_is_refused(public: bytes) -> None:
    with pytest.raises(ProtocolError, match="device 2: run key does not name this ML-KEM key"):
        Peer(KEYS[2], public).loaded()
    with pytest.raises(ProtocolError, match="device 2: run key does not name"):
        Peer(replace(KEYS[2], kem=NO_KEM), kem(2).public).loaded()


def test_a_device_encapsulates_to_no_key_that_does_not_hold() -> None:
    """One that its device signed, and that is none: the library would say it has a wrong length."""
    public = b"\xff" * PUBLIC_BYTES
    signed = RunKey.signed(IDENTITIES[2], RUN, 2, bytes([2]) * 32, digest_of(public))
    with pytest.raises(ProtocolError, match="device 2: no valid ML-KEM key"):
        encapsulate(IDENTITIES[1], ROSTER, RUN, KEYS[1], [Peer(signed, public)], now=NOW)
    with pytest.raises(ProtocolError, match="device 2: no valid ML-KEM key"):
        Pairs().learn(signed, public)


# Whose capsule it is


def capsule_of(by: int, to: int) -> Capsule:
    return dict(dealt(by, to)[1].capsules)[to]


def other_run() -> Capsule:
    cipher = capsule_of(1, 3).cipher
    return Capsule.signed(IDENTITIES[1], RUN + 1, KEYS[1], KEYS[3], cipher)


def other_keys(dealer: RunKey = KEYS[1], receiver: RunKey = KEYS[3]) -> Capsule:
    return Capsule.signed(IDENTITIES[1], RUN, dealer, receiver, capsule_of(1, 3).cipher)


CAPSULES: dict[str, Callable[[], Capsule]] = {
    "for another device": lambda: capsule_of(1, 2),
    "of another dealer": lambda: capsule_of(2, 3),
    "in another run": other_run,
    "for a key we had before": lambda: other_keys(receiver=replace(KEYS[3], kem=kem(4).digest)),
    "by a key it had before": lambda: other_keys(dealer=replace(KEYS[1], kem=kem(4).digest)),
    "with another ciphertext": lambda: replace(capsule_of(1, 3), cipher=capsule_of(1, 3).cipher),
    "with another signature": lambda: replace(capsule_of(1, 3), signature=bytes(64)),
}


@pytest.mark.parametrize("made", CAPSULES.values(), ids=CAPSULES)
def test_a_capsule_that_is_not_its_dealers_for_us_is_refused(made: Callable[[], Capsule]) -> None:
    with pytest.raises(ProtocolError, match=r"device 1: capsule for device 3 is not signed"):
        opened(3, (KEYS[1], made()))
    assert opened(3, (KEYS[1], capsule_of(1, 3)))


def test_the_lower_number_deals() -> None:
    with pytest.raises(ProtocolError, match="server: device 3 deals no secret to device 2"):
        dealt(3, 2)
    with pytest.raises(ProtocolError, match="server: device 3 deals no secret to device 3"):
        dealt(3, 3)
    capsule = Capsule.signed(IDENTITIES[3], RUN, KEYS[3], KEYS[2], capsule_of(1, 2).cipher)
    with pytest.raises(ProtocolError, match="server: device 3 deals no secret to device 2"):
        opened(2, (KEYS[3], capsule))


def test_a_peer_is_on_the_roster_and_its_key_is_signed_for_this_run() -> None:
    forged = replace(KEYS[2], signature=KEYS[3].signature)
    with pytest.raises(ProtocolError, match="device 2: run key is not signed"):
        encapsulate(IDENTITIES[1], ROSTER, RUN, KEYS[1], [Peer(forged, kem(2).public)], now=NOW)
    with pytest.raises(ProtocolError, match="device 1: run key is not signed"):
        opened(2, (replace(KEYS[1], public=bytes(32)), capsule_of(1, 2)))
    with pytest.raises(ProtocolError, match="device 1: run key is not signed"):
        opened(2, (KEYS[1], capsule_of(1, 2)), run=RUN + 1)
    with pytest.raises(ProtocolError, match="device 2: membership has expired"):
        encapsulate(IDENTITIES[1], ROSTER, RUN, KEYS[1], [peer(2)], now=NOW + 1)
    small = Roster.signed(CREW.authority, 2, ROSTER.members[1:], bytes(32))
    with pytest.raises(ProtocolError, match="device 1: not on the roster"):
        decapsulate(kem(2), small, RUN, KEYS[2], [(KEYS[1], capsule_of(1, 2))], now=NOW)


# Bytes

ASKED = EncapsulateRequest((peer(2), peer(3)))
ANSWER = dealt(1, 2, 3)[1]
TOLD = DecapsulateRequest(((KEYS[1], capsule_of(1, 3)), (KEYS[2], capsule_of(2, 3))))
RUN_KEY_BYTES = 8 + 32 + 32 + 64


def take_answer(data: bytes) -> None:
    pairs = Pairs()
    for device, key in KEYS.items():
        pairs.learn(key, kem(device).public)
    exchange = Exchange(pairs, RUN, ROSTER, [KEYS[d] for d in (1, 2, 3)], (2, 3))
    exchange.to_deal()
    exchange.add(data, sender=1)


def take_asked(data: bytes) -> None:
    peers = EncapsulateRequest.decode(data).peers
    encapsulate(IDENTITIES[1], ROSTER, RUN, KEYS[1], peers, now=NOW)


def take_told(data: bytes) -> None:
    opened(3, *DecapsulateRequest.decode(data).capsules)


MESSAGES: dict[str, tuple[Any, Callable[[bytes], None], int]] = {
    "encapsulate request": (ASKED, take_asked, RUN_KEY_BYTES + PUBLIC_BYTES),
    "encapsulated": (ANSWER, take_answer, 8 + CIPHER_BYTES + 64),
    "decapsulate request": (TOLD, take_told, RUN_KEY_BYTES + CIPHER_BYTES + 64),
}
each_message = pytest.mark.parametrize("name", MESSAGES)


@each_message
def test_messages_are_as_long_as_they_say_and_decode_to_themselves(name: str) -> None:
    message, take, row = MESSAGES[name]
    data = message.encode()
    assert len(data) == 4 + 2 * row
    take(data)
    assert decoded(name, data) == message


def decoded(name: str, data: bytes) -> Any:
    kind = type(MESSAGES[name][0])
    return kind.decode(data, sender=1) if kind is Encapsulated else kind.decode(data)


@each_message
def test_no_byte_can_be_changed_on_the_way(name: str) -> None:
    """Every field is signed, or its digest is: whoever takes the message refuses it."""
    message, take, _ = MESSAGES[name]
    good = message.encode()
    for at in range(len(good)):
        with pytest.raises(ProtocolError):
            take(good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :])


@each_message
def test_another_length_is_malformed(name: str) -> None:
    message, take, _ = MESSAGES[name]
    good = message.encode()
    for size in [*range(0, len(good), 97), len(good) - 1]:
        with pytest.raises(MalformedMessage, match="bytes early"):
            take(good[:size])
    with pytest.raises(MalformedMessage, match="1 bytes after the end"):
        take(good + b"x")
    with pytest.raises(MalformedMessage, match="at most 65536 allowed"):
        take(b"\xff\xff\xff\xff" + good[4:])


@each_message
def test_devices_are_sorted_and_none_is_there_twice(name: str) -> None:
    message, take, _ = MESSAGES[name]
    (rows,) = (getattr(message, field.name) for field in fields(message))
    for wrong in (rows[::-1], (rows[0], rows[0])):
        with pytest.raises(MalformedMessage, match="sorted and distinct"):
            take(type(message)(wrong).encode())


@given(
    st.sampled_from(sorted(MESSAGES)),
    st.binary(max_size=64) | st.tuples(st.integers(0, 2), st.binary(max_size=3000)),
)
@example("encapsulated", bytes(4))
def test_what_decodes_encodes_to_the_same_bytes(name: str, data: Any) -> None:
    if isinstance(data, tuple):
        data = data[0].to_bytes(4, "little") + data[1]
    try:
        message = decoded(name, data)
    except MalformedMessage:
        return
    assert message.encode() == data


@pytest.mark.parametrize(
    "message",
    [
        EncapsulateRequest((Peer(KEYS[2], bytes(PUBLIC_BYTES + 1)),)),
        Encapsulated(((2, Capsule(bytes(CIPHER_BYTES - 1), bytes(64))),)),
        Encapsulated(((2, Capsule(bytes(CIPHER_BYTES), bytes(63))),)),
        DecapsulateRequest(((KEYS[2], Capsule(b"", bytes(64))),)),
    ],
)
def test_a_field_of_another_size_is_not_written(message: Any) -> None:
    with pytest.raises(ParameterError, match="bytes where"):
        message.encode()


# The server, which carries


def learned(crew: Federation = CREW) -> Pairs:
    pairs = Pairs()
    for device, key in crew.keys.items():
        pairs.learn(key, kem(device, crew).public)
    return pairs


def carried(pairs: Pairs, devices: tuple[int, ...], silent: dict[int, str]) -> Exchange:
    """One exchange among `devices`; `silent` says at which stage a device does not answer."""
    exchange = Exchange(pairs, RUN, ROSTER, [KEYS[d] for d in devices], devices)
    for device, asked in exchange.to_deal().items():
        if silent.get(device) != "encapsulate":
            to = [one.key.device for one in asked.peers]
            exchange.add(dealt(device, *to)[1].encode(), sender=device)
    for device, told in exchange.to_open().items():
        opened(device, *told.capsules)
        if silent.get(device) != "decapsulate":
            exchange.opened(device)
    return exchange


def test_each_pair_is_asked_once() -> None:
    pairs = learned()
    assert carried(pairs, (1, 2, 3), {}).left == frozenset()
    late = Exchange(pairs, RUN, ROSTER, KEYS.values(), KEYS)
    assert {d: [p.key.device for p in r.peers] for d, r in late.to_deal().items()} == {
        1: [4],
        2: [4],
        3: [4],
    }
    assert carried(pairs, (1, 2, 3, 4), {}).left == frozenset()
    assert not Exchange(pairs, RUN, ROSTER, KEYS.values(), KEYS).to_deal()


def test_who_is_silent_is_left_out_and_asked_again() -> None:
    pairs = learned()
    exchange = carried(pairs, (1, 2, 3, 4), {2: "encapsulate", 4: "decapsulate"})
    assert exchange.left == {2, 4}
    again = Exchange(pairs, RUN, ROSTER, KEYS.values(), KEYS)
    # Device 2 was not asked to open what device 1 had dealt, and 3 has the secret of 1.
    asked = {d: [p.key.device for p in r.peers] for d, r in again.to_deal().items()}
    assert asked == {1: [2, 4], 2: [3, 4], 3: [4]}
    assert carried(pairs, (1, 2, 3, 4), {}).left == frozenset()


def test_a_device_with_new_keys_shares_a_secret_with_nobody() -> None:
    pairs = learned()
    carried(pairs, (1, 2, 3, 4), {})
    _, fresh = client.enrol(IDENTITIES[2], RUN, 2, bytes([2]) * 32, bytes([2]) * 64)
    pairs.learn(fresh, KemKey(bytes([2]) * 64).public)
    keys = [fresh if device == 2 else key for device, key in KEYS.items()]
    asked = Exchange(pairs, RUN, ROSTER, keys, KEYS).to_deal()
    assert {d: [p.key.device for p in r.peers] for d, r in asked.items()} == {1: [2], 2: [3, 4]}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda: dealt(1, 2)[1], "capsules for others than asked"),
        (lambda: dealt(1, 2, 4)[1], "capsules for others than asked"),
        (lambda: Encapsulated(()), "capsules for others than asked"),
        (
            lambda: Encapsulated(((2, capsule_of(1, 2)), (3, capsule_of(2, 3)))),
            "capsule for device 3 is not signed by its dealer",
        ),
    ],
)
def test_a_dealer_whose_answer_does_not_hold_is_named_and_none_of_it_is_carried(
    answer: Callable[[], Encapsulated], says: str
) -> None:
    exchange = Exchange(learned(), RUN, ROSTER, [KEYS[d] for d in (1, 2, 3)], (2, 3))
    assert list(exchange.to_deal()) == [1, 2]
    with pytest.raises(ProtocolError, match=f"device 1: {says}"):
        exchange.add(answer().encode(), sender=1)
    exchange.add(dealt(2, 3)[1].encode(), sender=2)
    (told,) = exchange.to_open().values()
    assert [dealer.device for dealer, _ in told.capsules] == [2]
    assert 1 in exchange.left


# A recorded round


def test_x25519_alone_does_not_open_a_recorded_round() -> None:
    """An adversary has every byte of a round, and a computer that breaks every X25519 key in it.

    With the secrets of ML-KEM as well it opens the report of device 1: that is the control.
    """
    session = CREW.session()
    secrets = {device: CREW.enrolled[device].secret for device in CREW.devices}
    recorded = CREW.report(session, 1)[1]
    x25519 = {m: agree(secrets[m], [KEYS[1]])[1] for m in session.committee}
    both = {m: combined(x25519[m], CREW.kem[1][m]) for m in session.committee if m != 1}
    wanted = session.codec.encode(np.ones(6), np.array([2.0]), session.codec.max_weight, bytes(32))
    assert unmasked(session, recorded, both)[:6].tolist() == wanted[:6].tolist()
    with pytest.raises(InvalidTag):
        unmasked(session, recorded, x25519)
    # Nor the share that a device seals to itself.
    with pytest.raises(InvalidTag):
        box(session, recorded, 1, x25519[1])
    # Nor any pair mask, if the self key were known: each is of a secret with both parts.
    for peer_, secret in x25519.items():
        if peer_ != 1:
            assert pair_key(session, peer_, secret) != pair_key(session, peer_, both[peer_])


def pair_key(session: Session, peer: int, secret: bytes) -> bytes:
    return derive(secret, labels.PAIR_MASK, pair_context(session.id, bytes(32), 1, peer))


def box(session: Session, report: Any, member: int, secret: bytes) -> bytes:
    """The shares that device 1 sealed to a member, for whoever has their secret."""
    at, context = session.committee.index(member), share_context(session.id, 1, member)
    key = derive(secret, labels.SHARE_KEY, context, report.hashes[at])
    bound = context + to_bits(session, report.neighbours)
    return AESGCM(key).decrypt(bytes(12), report.sealed[at], bound)


def unmasked(session: Session, report: Any, secrets: dict[int, bytes]) -> Any:
    """The vector of device 1: its self key from the shares, its pair keys from the secrets."""
    members = [member for member in secrets if member != 1][: session.threshold]
    shares = [box(session, report, member, secrets[member])[:32] for member in members]
    rows = np.stack([np.frombuffer(share, np.uint8).reshape(1, 32) for share in shares])
    own = shamir.combine([session.point(m) for m in members], rows)[0].tobytes()
    pairs = [pair_key(session, peer, secrets[peer]) for peer in report.neighbours]
    out = vector(session, report)
    add_masks(out, plus=[], minus=[own, *pairs])
    return out & out.dtype.type((1 << session.codec.bits) - 1)


# What does not show


def test_seeds_and_secrets_do_not_show() -> None:
    shown = repr((CREW.enrolled[1], kem(1)))
    assert "seed" not in shown
    for secret in (CREW.enrolled[1].kem_seed, *CREW.kem[1].values()):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown


def test_errors_hold_no_secret() -> None:
    _, answer = dealt(1, 3)
    for act in (lambda: opened(3, (KEYS[2], answer.capsules[0][1])), lambda: dealt(3, 2)):
        with pytest.raises(TacitError) as refused:
            act()
        assert len(str(refused.value)) < 100
