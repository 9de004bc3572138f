"""An order's bytes: one encoding of each, nothing altered passes, nothing after the end."""

import hashlib
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.errors import Damaged, ParameterError
from tacit.crypto.identity import Identity
from tacit.crypto.order import MAX_SETTINGS, Act, SignedOrder

OPERATOR = Identity(b"o" * 32)
SERVER, NONCE = b"s" * 32, bytes(range(16))
NOW = 1_800_000_000_000


def order(
    act: Act = Act.RUN,
    name: str = "digits-1",
    settings: str = "[run]\nrounds = 3\n",
    server: bytes = SERVER,
    issued: int = NOW,
    nonce: bytes = NONCE,
) -> SignedOrder:
    return SignedOrder.signed(
        OPERATOR, act, name, settings, server=server, issued=issued, nonce=nonce
    )


NAMES = st.from_regex(r"\A[a-z0-9][a-z0-9-]{0,62}\Z")
ORDERS = st.builds(
    order,
    st.sampled_from(Act),
    NAMES,
    st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    st.binary(min_size=32, max_size=32),
    st.integers(0, 2**64 - 1),
    st.binary(min_size=16, max_size=16),
)


@given(ORDERS)
def test_what_is_encoded_comes_back(made: SignedOrder) -> None:
    again = SignedOrder.decode(made.encode())
    assert again == made
    assert again.is_signed
    assert again.encode() == made.encode()


@given(st.binary(max_size=400))
def test_what_decodes_is_written_in_one_way(data: bytes) -> None:
    """Behind the magic, where a guess gets furthest."""
    whole = b"tacit order 1\n" + data
    try:
        found = SignedOrder.decode(whole)
    except Damaged:
        return
    assert found.encode() == whole


def test_bytes_are_pinned() -> None:
    """Orders that lie in an inbox are read by the next version."""
    data = order().encode()
    assert len(data) == 14 + 1 + 8 + 32 + 16 + 32 + (4 + 8) + (4 + 17) + 64
    assert hashlib.sha256(data).hexdigest()[:16] == "9568e55fa8139e7d"


def test_every_altered_byte_is_refused() -> None:
    data = order().encode()
    for at in range(len(data)):
        for flip in (0x01, 0x80):
            wrong = bytearray(data)
            wrong[at] ^= flip
            try:
                found = SignedOrder.decode(bytes(wrong))
            except Damaged:
                continue
            assert not found.is_signed, at


@pytest.mark.parametrize("data", [b"", b"tacit", b"tacit order 2\n", b"tacit order 1\n"])
def test_what_is_no_order_is_refused(data: bytes) -> None:
    with pytest.raises(Damaged):
        SignedOrder.decode(data)


def test_what_is_cut_off_or_goes_on_is_refused() -> None:
    data = order().encode()
    for wrong in (*(data[:end] for end in range(len(data))), data + b"\n", data + data):
        with pytest.raises(Damaged):
            SignedOrder.decode(wrong)


def test_another_kind_is_refused() -> None:
    data = bytearray(order().encode())
    data[14] = len(Act) + 1
    with pytest.raises(Damaged, match="kind that this version does not know"):
        SignedOrder.decode(bytes(data))


def test_a_signature_holds_for_every_field() -> None:
    made = order()
    other: dict[str, object] = {
        "act": Act.RESUME,
        "name": "digits-2",
        "settings": "",
        "server": bytes(32),
        "issued": NOW + 1,
        "nonce": bytes(16),
        "key": Identity(b"e" * 32).public,
        "signature": bytes(64),
    }
    assert set(other) == {each.name for each in fields(SignedOrder)}
    for name, value in other.items():
        assert not replace(made, **{name: value}).is_signed, name  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "../up", "A", "a b", "-a", "a" * 64, "a.b", "é", "a\n"])
def test_a_name_is_one_in_a_folder(name: str) -> None:
    with pytest.raises(ParameterError, match="is no name"):
        order(name=name)


def test_a_signed_name_that_is_none_is_refused() -> None:
    data = order(name="digits-1").encode()
    for name in (b"../../up", b"DIGITS-1", b"digits 1"):
        with pytest.raises(Damaged, match="is no name"):
            SignedOrder.decode(data.replace(b"digits-1", name))


def test_settings_have_a_bound() -> None:
    assert SignedOrder.decode(order(settings="x" * MAX_SETTINGS).encode()).is_signed
    with pytest.raises(ParameterError, match="more than 65536"):
        order(settings="é" * (MAX_SETTINGS // 2 + 1))
