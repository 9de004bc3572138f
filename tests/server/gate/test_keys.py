"""Keys: what is kept opens nothing, and whatever is no key is refused in one way."""

import os
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.errors import ParameterError
from tacit.server.gate.keys import DRAW_BYTES, drawn, opens, parse

PINNED = "tacit_0001020304050607_08090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f2021222324252627"


def test_pinned() -> None:
    key = drawn(bytes(range(DRAW_BYTES)))
    assert key.text == PINNED
    assert key.name == "0001020304050607"
    assert parse(PINNED) == key


@given(st.binary(min_size=DRAW_BYTES, max_size=DRAW_BYTES))
def test_a_key_is_what_its_text_says(rand: bytes) -> None:
    key = drawn(rand)
    assert parse(key.text) == key
    assert len(key.secret) * 8 == 256
    assert opens(key, [bytes(32), key.digest])
    assert key.secret not in key.digest


@given(st.binary(min_size=DRAW_BYTES, max_size=DRAW_BYTES), st.integers(8, DRAW_BYTES - 1))
def test_one_bit_off_opens_nothing(rand: bytes, byte: int) -> None:
    off = bytearray(rand)
    off[byte] ^= 1
    assert not opens(drawn(bytes(off)), [drawn(rand).digest])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tacit",
        PINNED[:-1],
        PINNED + "0",
        PINNED + "\n",
        " " + PINNED,
        PINNED.upper(),
        PINNED.replace("tacit", "tacid"),
        PINNED.replace("0", "\u0660"),  # a digit, but no ASCII one
        PINNED[:-2] + "zz",
        PINNED.replace("_", "-"),
    ],
)
def test_what_is_no_key(text: str) -> None:
    assert parse(text) is None


@given(st.text())
def test_any_text_is_a_key_or_none(text: str) -> None:
    key = parse(text)
    assert key is None or key.text == text


def test_the_secret_shows_nowhere() -> None:
    key = drawn(os.urandom(DRAW_BYTES))
    for shown in (repr(key), str(key), f"{key!r}"):
        assert key.secret.hex() not in shown
        assert repr(key.secret) not in shown
    assert pickle.loads(pickle.dumps(key)) == key


def test_a_key_takes_as_many_bytes() -> None:
    for size in (0, DRAW_BYTES - 1, DRAW_BYTES + 1):
        with pytest.raises(ParameterError, match="random bytes"):
            drawn(bytes(size))
