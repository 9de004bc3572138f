"""The key stream: AES-256-GCM as the standard has it. Masks: added and taken off without trace."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.crypto import prg
from tacit.crypto.errors import ParameterError
from tacit.crypto.prg import CHUNK_BYTES, MAX_BYTES, KeyStream, add_masks

KEY = bytes(range(32))
CHUNK = CHUNK_BYTES // 4  # uint32 in one chunk


def stream(key: bytes, size: int) -> bytes:
    """AES-256 in plain counter mode from counter block 2 on."""
    counter = modes.CTR((2).to_bytes(16, "big"))
    return Cipher(algorithms.AES256(key), counter).encryptor().update(bytes(size))


def mask(key: bytes, count: int, dtype: type = np.uint32) -> np.ndarray:
    vector: np.ndarray = np.zeros(count, dtype)
    add_masks(vector, [key], [])
    return vector


def test_gcm_known_answer() -> None:
    """McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B, test case 14: key,
    nonce and plaintext all zero."""
    assert mask(bytes(32), 4).tobytes().hex() == "cea7403d4d606b6e074ec5d3baf39d18"


def test_nist_counter_mode_known_answer() -> None:
    """SP 800-38A, F.5.5, through the call that `stream` makes, with the standard's own counter."""
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
    with pytest.raises(ParameterError, match=f"a key of a stream has 32 bytes, not {size}"):
        add_masks(np.zeros(1, np.uint32), [bytes(size)], [])


def test_a_key_gives_no_more_than_its_counter_has() -> None:
    """2**32 - 2 blocks; then the counter would return to where it began."""
    assert MAX_BYTES == 16 * ((1 << 32) - 2)
    KeyStream(KEY, MAX_BYTES)
    with pytest.raises(ParameterError, match="bytes from one key"):
        KeyStream(KEY, MAX_BYTES + 1)
    for plus, minus in (([KEY], []), ([], [KEY])):
        # One element in memory, seen as many. It is read-only: a first chunk would fail otherwise.
        vector = np.broadcast_to(np.uint64(0), MAX_BYTES // 8 + 1)
        with pytest.raises(ParameterError, match="bytes from one key"):
            add_masks(vector, plus, minus)


@given(st.lists(st.integers(0, 90), max_size=8))
def test_a_stream_is_read_in_order(sizes: list[int]) -> None:
    source, read = KeyStream(KEY, sum(sizes)), b""
    for size in sizes:
        part = np.empty(size, np.uint8)
        source.fill(part)
        read += part.tobytes()
    assert read == stream(KEY, sum(sizes))


def test_a_long_read_is_filled_to_its_end() -> None:
    out = np.zeros(CHUNK_BYTES + 5, "<u2")
    KeyStream(KEY, out.nbytes).fill(out)
    assert out.tobytes() == stream(KEY, out.nbytes)


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
