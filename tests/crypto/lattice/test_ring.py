"""Products: those of schoolbooks, in floats or not; and a broken FFT is noticed."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.crypto.errors import BrokenArithmetic
from tacit.crypto.lattice import ring
from tacit.crypto.lattice.keys import FIELD, draw
from tacit.crypto.lattice.ring import BOUND, Multiplier, _error
from tests.crypto.lattice import slow

KEY = bytes(range(32))
SETS = [(2048, 32), (4096, 64)]


def words(rows: int, degree: int, word: int, key: bytes = KEY) -> np.ndarray:
    octets = slow.stream(key, rows * degree * word // 8)
    return np.frombuffer(octets, f"<u{word // 8}").reshape(rows, degree).copy()


def paired(coefficients: list[int]) -> list[int]:
    return [coefficients[place] for place in slow.places(len(coefficients))]


def test_the_fast_oracle_is_the_slow_one() -> None:
    a, s = words(1, 16, 64)[0].tolist(), [3, -5, 0, 7] * 4
    assert slow.product(a, s) == slow.schoolbook(a, s)


@settings(max_examples=60)
@given(
    st.sampled_from([4, 8, 16, 32]),
    st.sampled_from([32, 64]),
    st.sampled_from([1, 48, 4800, FIELD // 2]),
    st.integers(1, 3),
    st.binary(min_size=32, max_size=32),
    st.data(),
)
def test_products_are_those_of_the_schoolbook(
    degree: int, word: int, reach: int, rows: int, seed: bytes, data: st.DataObject
) -> None:
    small = st.integers(-reach, reach) | st.sampled_from([-reach, 0, reach])
    key = data.draw(st.lists(small, min_size=degree, max_size=degree))
    given_ = words(rows, degree, word, seed)
    found = given_.copy()
    Multiplier(np.array(key), word).multiply(found)
    for before, after in zip(given_.tolist(), found.tolist(), strict=True):
        wanted = slow.schoolbook(slow.natural(before), slow.natural(key))
        assert after == [value % (1 << word) for value in paired(wanted)]


@pytest.mark.parametrize(("degree", "word"), SETS)
@pytest.mark.parametrize("devices", [1, 10, 1000])
def test_products_of_full_size(degree: int, word: int, devices: int) -> None:
    """With a fresh key, and with the sum of some; more rows than are done at a time."""
    rows = 2 * ring.WORKING // degree + 1
    keys = [draw(degree, 48, bytes([i % 256, i // 256] * 16)) for i in range(devices)]
    key = np.sum(keys, axis=0, dtype=np.int64) if devices > 1 else keys[0]
    given_ = words(rows, degree, word)
    found = given_.copy()
    Multiplier(key, word).multiply(found)
    for row in (0, rows - 1):
        wanted = slow.product(slow.natural(given_[row].tolist()), slow.natural(key.tolist()))
        assert found[row].tolist() == [value % (1 << word) for value in paired(wanted)]


@pytest.mark.parametrize(("degree", "word", "bound"), [(2048, 32, 0.25), (4096, 64, 0.54)])
def test_a_fresh_key_takes_limbs_of_32_bits_and_is_nowhere_near_the_bound(
    degree: int, word: int, bound: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _error(degree, math.sqrt(degree * 24), 32) == pytest.approx(bound, abs=0.01)
    multiplier = Multiplier(draw(degree, 48, KEY), word)
    assert multiplier._width == 32
    monkeypatch.setattr(ring, "SEEN", bound / 20)
    multiplier.multiply(words(64, degree, word))
    monkeypatch.setattr(ring, "SEEN", bound / 20_000)
    with pytest.raises(BrokenArithmetic, match="not near integers"):
        multiplier.multiply(words(64, degree, word))


def test_what_is_near_one_integer_is_beyond_the_bound_of_any_other() -> None:
    assert 0 < ring.SEEN < 0.5
    assert ring.BOUND <= 1 - ring.SEEN


@pytest.mark.parametrize(("degree", "word"), SETS)
@pytest.mark.parametrize("size", [0, 48, 700, FIELD // 2])
def test_limbs_are_as_few_as_the_bound_allows(degree: int, word: int, size: int) -> None:
    width = Multiplier(np.full(degree, size), word)._width
    norm = math.sqrt(degree) * size
    assert _error(degree, norm, width) < BOUND
    if width < word:
        fewer = -(-word // width) - 1
        assert _error(degree, norm, -(-word // fewer)) >= BOUND


def test_without_limbs_the_product_of_a_large_key_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they are for, and that the distance would tell."""
    monkeypatch.setattr(ring, "BOUND", math.inf)
    multiplier = Multiplier(np.full(2048, FIELD // 2) * np.where(np.arange(2048) % 3, 1, -1), 32)
    assert multiplier._width == 32
    with pytest.raises(BrokenArithmetic, match="not near integers"):
        multiplier.multiply(words(1, 2048, 32))


@pytest.mark.parametrize("wrong", [0.3, -0.3, math.nan])
@pytest.mark.parametrize("word", [32, 64])
def test_an_fft_that_is_off_in_one_place_is_noticed(
    wrong: float, word: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = ring._transform

    def broken(kind: Callable[..., Any], rows: np.ndarray, out: np.ndarray) -> None:
        right(kind, rows, out)
        if kind is np.fft.ifft:
            out[-1, 7] += wrong * ring._twist(out.shape[1])[7]  # as the twist will turn it back

    multiplier = Multiplier(draw(2048, 48, KEY), word)
    multiplier.multiply(words(2, 2048, word))
    monkeypatch.setattr(ring, "_transform", broken)
    with pytest.raises(BrokenArithmetic, match="not near integers"):
        multiplier.multiply(words(2, 2048, word))


def test_a_numpy_whose_fft_takes_no_out(monkeypatch: pytest.MonkeyPatch) -> None:
    multiplier, found = Multiplier(draw(2048, 48, KEY), 32), words(3, 2048, 32)
    multiplier.multiply(found)
    monkeypatch.setattr(ring, "TAKES_OUT", False)
    again = words(3, 2048, 32)
    multiplier.multiply(again)
    assert np.array_equal(found, again)
