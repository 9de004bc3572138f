"""Requests and answers: one encoding of each, nothing altered passes, and names are harmless."""

import os
from dataclasses import replace
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.crypto import approval, enrolment, labels, nodekey
from tacit.crypto.answers import DeviceAnswer, Issue, Node, ServerAnswer, check_newer, decode_answer
from tacit.crypto.approval import Approval, Trust
from tacit.crypto.enrolment import (
    DeviceRequest,
    ServerRequest,
    check_hosts,
    check_name,
    decode_request,
    fingerprint,
    is_fingerprint,
)
from tacit.crypto.errors import Damaged, ParameterError
from tacit.crypto.identity import Identity, Member, Roster
from tacit.crypto.nodekey import NodeKey, compressed, is_signed, openssh_line

IDENTITY, OTHER = Identity(bytes(range(32))), Identity(bytes(range(1, 33)))
AUTHORITY, BOB, EVE = Identity(b"a" * 32), Identity(b"b" * 32), Identity(b"e" * 32)
NODE, TLS = NodeKey(bytes(range(56))), NodeKey(bytes(range(56, 112)))
NOW = 1_800_000_000
ASKED = DeviceRequest.signed("ward-3", NOW, IDENTITY, NODE)
SERVED = ServerRequest.signed("front", NOW, ("fl.example.org", "192.0.2.7", "::1"), 9092, TLS)
ROSTER = Roster.signed(
    AUTHORITY, 7, [Member(1, IDENTITY.public, NOW), Member(2, OTHER.public, NOW)], bytes(32)
)
ACT = bytes(32)


def issue(approved_by: Identity | None = BOB, *, needs: bool = True) -> Issue:
    trust = Trust(AUTHORITY.public, (BOB.public,) if needs else ())
    approval = None if approved_by is None else Approval.signed(approved_by, ROSTER, ACT)
    return Issue(trust, NOW, b"a certificate", "fl.example.org:9092", ROSTER, approval)


def device_answer(said: Issue, device: int = 1, signer: Identity = AUTHORITY) -> DeviceAnswer:
    return DeviceAnswer.signed(signer, said, device, "ward-3", IDENTITY.public, NODE.public)


NODES = (Node(1, "ward-3", NODE.public), Node(2, "ward-4", TLS.public))


def server_answer(said: Issue, nodes: tuple[Node, ...] = NODES) -> ServerAnswer:
    gone = (Node(3, "ward-5", NodeKey(bytes(56)).public),)
    return ServerAnswer.signed(AUTHORITY, said, "front", TLS.public, b"x", nodes, gone)


FILES = {
    "device request": ASKED.encode(),
    "server request": SERVED.encode(),
    "device answer": device_answer(issue()).encode(),
    "server answer": server_answer(issue()).encode(),
}


def decode(kind: str, data: bytes) -> bytes:
    """Decoded and encoded again."""
    if kind.endswith("request"):
        return decode_request(data).encode()
    return decode_answer(data).encode()


# The files


@pytest.mark.parametrize("kind", FILES)
def test_whatever_decodes_encodes_to_the_same_bytes(kind: str) -> None:
    assert decode(kind, FILES[kind]) == FILES[kind]


# SHA-256, first half. Another value is another format, which the magic has to say.
PINNED = {
    "device request": "4f1dc01017304097c2c9960458b9f2eb",
    "server request": "ff9b764b759c9fd0aeacef2f103b29b3",
    "device answer": "7cfdc4bab965ca92973e7a782062a313",
    "server answer": "91714d8666d39ce22661cb1e1f266714",
}


@pytest.mark.parametrize("kind", FILES)
def test_the_bytes_of_a_file_do_not_change(kind: str) -> None:
    assert sha256(FILES[kind]).hexdigest()[:32] == PINNED[kind]


def test_both_ends_read_the_same() -> None:
    assert decode_request(FILES["device request"]) == ASKED
    assert decode_request(FILES["server request"]) == SERVED
    assert decode_answer(FILES["device answer"]) == device_answer(issue())
    assert decode_answer(FILES["server answer"]) == server_answer(issue())


@pytest.mark.parametrize("kind", FILES)
def test_every_byte_counts(kind: str) -> None:
    """A file with any one of its bytes changed is refused."""
    data = FILES[kind]
    for at in range(len(data)):
        with pytest.raises(Damaged):
            decode(kind, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


@pytest.mark.parametrize("kind", FILES)
def test_no_byte_may_be_missing_or_follow(kind: str) -> None:
    data = FILES[kind]
    for end in range(len(data)):
        with pytest.raises(Damaged):
            decode(kind, data[:end])
    for more in (b"\x00", b"\n", data):
        with pytest.raises(Damaged):
            decode(kind, data + more)


@settings(max_examples=300)
@given(st.sampled_from(sorted(FILES)), st.binary(max_size=40), st.integers(0, 1000))
def test_other_bytes_are_damaged_and_nothing_else(kind: str, patch: bytes, at: int) -> None:
    data = FILES[kind]
    changed = data[:at] + patch + data[at + len(patch) :]
    try:
        assert decode(kind, changed) == data
        assert changed == data
    except Damaged:
        assert changed != data


@settings(max_examples=25)
@given(
    st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,62}", fullmatch=True),
    st.integers(0, 2**64 - 1),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=56, max_size=56),
)
def test_any_request_is_read_as_it_was_made(
    name: str, made: int, secret: bytes, node: bytes
) -> None:
    asked = DeviceRequest.signed(name, made, Identity(secret), NodeKey(node))
    assert decode_request(asked.encode()) == asked
    assert secret not in asked.encode()
    assert node not in asked.encode()
    served = ServerRequest.signed(name, made, ("a",), 1, NodeKey(node))
    assert decode_request(served.encode()) == served


@pytest.mark.parametrize("version", [b"tacit request 2\n", b"tacit answer 02\n"])
def test_another_version_says_so(version: bytes) -> None:
    for kind in ("device request", "device answer"):
        with pytest.raises(Damaged, match=r"another version|no file of the kind"):
            decode(kind, version + FILES[kind][16:])
    with pytest.raises(Damaged, match="no file of the kind"):
        decode_request(FILES["device answer"])


# Proof of possession


def test_a_key_that_is_not_ones_own_cannot_be_enrolled() -> None:
    """Eve asks with the node key, or the identity, of another device."""
    with_their_node = replace(ASKED, public=EVE.public)
    body = with_their_node.encode()[: -64 - 96]
    by_eve = EVE.sign(labels.REQUEST, body)
    with pytest.raises(Damaged, match="signed by the node key"):
        decode_request(replace(with_their_node, by_identity=by_eve).encode())
    mine = NodeKey(b"e" * 56)
    with_their_identity = replace(ASKED, node=mine.public)
    body = with_their_identity.encode()[: -64 - 96]
    by_mine = mine.sign(enrolment._ours(body))
    with pytest.raises(Damaged, match="signed by the identity"):
        decode_request(replace(with_their_identity, by_node=by_mine).encode())


def test_a_server_cannot_have_anothers_key_certified() -> None:
    other = ServerRequest.signed("front", NOW, ("evil.example.org",), 9092, NodeKey(b"e" * 56))
    with pytest.raises(Damaged, match="TLS key"):
        decode_request(replace(other, key=TLS.public).encode())


# Fingerprints, names, hosts


def test_fingerprints_are_pinned_and_compared_as_people_say_them() -> None:
    assert fingerprint(b"") == "3BWD-UKWU-2HCX-XBRD-O3ER"
    assert is_fingerprint("3bwd ukwu 2hcx xbrd o3er", fingerprint(b""))
    assert is_fingerprint(" 3BWDUKWU2HCXXBRDO3ER\n", fingerprint(b""))
    for wrong in ("", "3BWD", "3BWD-UKWU-2HCX-XBRD-O3ES", "3BWD-UKWU-2HCX-XBRD-O3ER-A", "é"):
        assert not is_fingerprint(wrong, fingerprint(b""))
    assert len({ASKED.fingerprint, SERVED.fingerprint, issue().trust.fingerprint}) == 3


def test_a_fingerprint_covers_approvers_too() -> None:
    assert issue().trust.fingerprint != issue(needs=False).trust.fingerprint


@pytest.mark.parametrize(
    "name", ["", ".", "..", "-x", "3", "a/b", "a\\b", "a b", "a\n", "ä", "a" * 64, "\x00", ".a"]
)
def test_a_name_cannot_leave_its_folder(name: str) -> None:
    with pytest.raises(ParameterError, match="is no name"):
        check_name(name)


@pytest.mark.parametrize(
    "host",
    [
        *("", "A", "a:80", "a_b", "-a", "a.", "a..b", "[::1]", "*.example.org", "http://a", "a b"),
        *("1.2.3", "256.1.1.1", "01.2.3.4", "::01", "a" * 64, "a" * 60 + ".a" * 100),
    ],
)
def test_a_host_is_a_name_or_an_address_written_in_one_way(host: str) -> None:
    with pytest.raises(ParameterError, match="is no host"):
        check_hosts((host,), 1)


def test_hosts_are_some_and_different() -> None:
    check_hosts(("localhost", "127.0.0.1", "2001:db8::1", "a-b.c1"), 65535)
    for hosts, port in ((("a", "a"), 1), ((), 1), (("a",), 0), (("a",), 65536)):
        with pytest.raises(ParameterError):
            check_hosts(hosts, port)


def test_an_address_is_what_a_supernode_takes() -> None:
    assert SERVED.address == "fl.example.org:9092"
    assert replace(SERVED, hosts=("::1",)).address == "[::1]:9092"


# Answers


def test_who_needs_no_approval_asks_for_none() -> None:
    for approved_by in (None, BOB, EVE):
        said = issue(approved_by, needs=False)
        assert decode_answer(device_answer(said).encode()).issue == said


@pytest.mark.parametrize("approved_by", [None, EVE, AUTHORITY])
def test_a_roster_that_no_approver_signed_is_refused(approved_by: Identity | None) -> None:
    """As a thief of the authority's key would make one."""
    for answer in (device_answer(issue(approved_by)), server_answer(issue(approved_by))):
        with pytest.raises(Damaged, match="not approved"):
            decode_answer(answer.encode())


def test_an_approval_is_for_one_roster_and_one_act() -> None:
    said = issue()
    assert said.approval is not None
    other = Roster.signed(AUTHORITY, 8, ROSTER.members, bytes(32))
    for wrong in (
        replace(said, roster=other),
        replace(said, approval=replace(said.approval, act=b"1" * 32)),
    ):
        with pytest.raises(Damaged, match="not approved"):
            decode_answer(device_answer(wrong).encode())


def test_an_answer_is_signed_by_the_authority_in_it() -> None:
    with pytest.raises(Damaged, match="not signed by the authority"):
        decode_answer(device_answer(issue(), signer=EVE).encode())
    theirs = Roster.signed(EVE, 7, ROSTER.members, bytes(32))
    said = replace(issue(needs=False, approved_by=None), roster=theirs)
    with pytest.raises(Damaged, match="roster is not signed"):
        decode_answer(device_answer(said).encode())


def test_an_answer_and_its_roster_say_the_same() -> None:
    with pytest.raises(Damaged, match="another key than its roster"):
        decode_answer(device_answer(issue(), device=2).encode())
    with pytest.raises(Damaged, match="not on the roster"):
        decode_answer(device_answer(issue(), device=3).encode())
    for nodes in (NODES[:1], (*NODES, Node(3, "w", b"\2" + NODE.public[1:])), NODES[::-1]):
        with pytest.raises(Damaged):
            decode_answer(server_answer(issue(), nodes).encode())


def test_a_node_is_not_both_let_in_and_put_out() -> None:
    answer = ServerAnswer.signed(
        AUTHORITY, issue(), "front", TLS.public, b"x", NODES, (Node(3, "w", NODE.public),)
    )
    with pytest.raises(Damaged, match="registered and unregistered"):
        decode_answer(answer.encode())


def test_rosters_only_go_on() -> None:
    older = Roster.signed(AUTHORITY, 6, ROSTER.members, bytes(32))
    twin = Roster.signed(AUTHORITY, 7, ROSTER.members[:1], bytes(32))
    check_newer(older, ROSTER)
    check_newer(ROSTER, ROSTER)
    with pytest.raises(ParameterError, match="old: its roster is number 6, and number 7"):
        check_newer(ROSTER, older)
    with pytest.raises(ParameterError, match="two rosters with the number 7"):
        check_newer(ROSTER, twin)


@pytest.mark.parametrize(
    "approvers",
    [
        (AUTHORITY.public,),
        (BOB.public, BOB.public),
        tuple(sorted((BOB.public, EVE.public), reverse=True)),
        (b"",),
        tuple(bytes([n]) * 32 for n in range(17)),
    ],
)
def test_approvers_are_other_people(approvers: tuple[bytes, ...]) -> None:
    with pytest.raises(ParameterError):
        Trust(AUTHORITY.public, approvers)
    assert approval.MAX_APPROVERS == 16


# Node keys


def test_a_key_is_a_function_of_its_bytes_and_signs_without_chance() -> None:
    assert NODE.public.hex() == NodeKey(bytes(range(56))).public.hex()
    assert NODE.sign(b"x") == NODE.sign(b"x") != NODE.sign(b"y")
    assert is_signed(NODE.public, b"x", NODE.sign(b"x"))


@pytest.mark.parametrize("signature", [b"", bytes(96), bytes(95), b"\xff" * 96])
def test_what_is_no_signature_is_none(signature: bytes) -> None:
    assert not is_signed(NODE.public, b"x", signature)
    assert not is_signed(NODE.public, b"x", NODE.sign(b"x") + signature[:1] + b"\0")
    assert not is_signed(TLS.public, b"x", NODE.sign(b"x"))
    assert not is_signed(b"\2" + b"\xff" * 48, b"x", NODE.sign(b"x"))


def test_the_order_is_that_of_the_curve() -> None:
    """(n - 1) G is -G; and all bytes map into 1 .. n - 1."""
    last = ec.derive_private_key(nodekey._ORDER - 1, ec.SECP384R1())
    first = ec.derive_private_key(1, ec.SECP384R1())
    ours, theirs = compressed(last.public_key()), compressed(first.public_key())
    assert (ours[1:], ours[0] ^ theirs[0]) == (theirs[1:], 1)
    assert NodeKey(bytes(56)).public == theirs
    assert NodeKey((nodekey._ORDER - 2).to_bytes(56, "big")).public == ours
    assert NodeKey((nodekey._ORDER - 1).to_bytes(56, "big")).public == theirs


def test_openssh_files_hold_the_key() -> None:
    private = load_ssh_private_key(NODE.openssh(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert compressed(private.public_key()) == NODE.public
    public = load_ssh_public_key(openssh_line(NODE.public, "ward-3"))
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert compressed(public) == NODE.public


def test_another_curve_is_refused() -> None:
    with pytest.raises(ParameterError, match="P-384"):
        compressed(ec.generate_private_key(ec.SECP256R1()).public_key())
    for size in (0, 55, 57):
        with pytest.raises(ParameterError, match="56 random bytes"):
            NodeKey(os.urandom(size))


def test_no_secret_is_shown() -> None:
    for text in (repr(NODE), repr(ASKED), repr(SERVED)):
        assert NODE.secret.hex() not in text
        assert repr(NODE.secret)[2:-1] not in text
