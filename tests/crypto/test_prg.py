"""Masks: AES-256-CTR as the standard has it, added and taken off without a trace."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.crypto import prg
from tacit.crypto.prg import CHUNK_BYTES, add_masks

KEY = bytes(range(32))
CHUNK = CHUNK_BYTES // 4  # uint32 in one chunk


def stream(key: bytes, size: int) -> bytes:
    """The keystream, block by block: AES of 0, 1, 2, ... as 128-bit big-endian numbers."""
    aes = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
    blocks = (aes.update(n.to_bytes(16, "big")) for n in range(-(-size // 16)))
    return b"".join(blocks)[:size]


def mask(key: bytes, count: int, dtype: type = np.uint32) -> np.ndarray:
    vector: np.ndarray = np.zeros(count, dtype)
    add_masks(vector, [key], [])
    return vector


def test_nist_aesavs_known_answer() -> None:
    """AESAVS, appendix E.2, VarKey for 256 bits, first entry: a zero block, as our first one is."""
    assert mask(bytes([0x80]) + bytes(31), 4).tobytes().hex() == "e35a6dcb19b201a01ebcfa8aa22b5759"


def test_nist_counter_mode_known_answer() -> None:
    """SP 800-38A, F.5.5, through the same library call with the standard's own counter."""
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    plain = bytes.fromhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51")
    sealed = Cipher(algorithms.AES256(key), modes.CTR(counter)).encryptor().update(plain)
    assert sealed.hex() == "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
@pytest.mark.parametrize("size", [0, 1, 3, 17, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5])
def test_a_mask_is_one_keystream_across_all_chunks(size: int, dtype: type) -> None:
    wanted = np.frombuffer(stream(KEY, size * np.dtype(dtype).itemsize), f"<u{dtype().itemsize}")
    assert np.array_equal(mask(KEY, size, dtype), wanted)


def test_chunks_are_no_part_of_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = mask(KEY, 1000)
    monkeypatch.setattr(prg, "CHUNK_BYTES", 64)
    assert np.array_equal(mask(KEY, 1000), usual)


keys = st.lists(st.binary(min_size=32, max_size=32), max_size=4)


@settings(max_examples=40)
@given(keys, keys, st.sampled_from([np.uint32, np.uint64]), st.integers(0, 70))
def test_what_is_added_can_be_taken_off(
    plus: list[bytes], minus: list[bytes], dtype: type, size: int
) -> None:
    start = np.arange(size, dtype=dtype) * dtype(0x9E3779B1)
    vector = start.copy()
    add_masks(vector, plus, minus)
    wanted = start.copy()
    for key in plus:
        wanted += mask(key, size, dtype)
    for key in minus:
        wanted -= mask(key, size, dtype)
    assert np.array_equal(vector, wanted)
    add_masks(vector, minus, plus)
    assert np.array_equal(vector, start)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="a mask key has 32 bytes"):
        add_masks(np.zeros(1, np.uint32), [bytes(size)], [])


# Chi-square of the bytes of a mask, 255 degrees of freedom. Laurent and Massart 2000, lemma 1:
# P(X >= k + 2 sqrt(kx) + 2x) <= exp(-x). With x = 40 ln 2 a uniform stream fails once in 2**40.
_X = 40 * np.log(2)
LIMIT = 255 + 2 * np.sqrt(255 * _X) + 2 * _X


def chi_square(data: bytes) -> float:
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    wanted = len(data) / 256
    return float(((counts - wanted) ** 2 / wanted).sum())


@pytest.mark.parametrize("number", range(4))
def test_a_masked_zero_vector_looks_uniform(number: int) -> None:
    masked = mask(bytes([number]) * 32, 1 << 16)
    assert chi_square(masked.tobytes()) < LIMIT


def test_the_uniformity_test_can_fail() -> None:
    """One byte in 32 replaced by 0, or a mask that was never added."""
    data = np.frombuffer(mask(KEY, 1 << 16).tobytes(), np.uint8).copy()
    data[::32] = 0
    assert chi_square(data.tobytes()) > LIMIT
    assert chi_square(bytes(1 << 18)) > LIMIT
