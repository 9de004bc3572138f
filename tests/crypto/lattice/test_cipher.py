"""Encrypted sums: exact for any subset, noise without the keys, and what reuse gives away."""

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.crypto.codec import Codec
from tacit.crypto.errors import ParameterError
from tacit.crypto.lattice import keys
from tacit.crypto.lattice.cipher import add, encrypt, open_sum
from tacit.crypto.lattice.ring import WORKING
from tacit.crypto.lattice.sampler import Sampler
from tacit.crypto.lattice.sets import DENSE, SETS, SMALL, WIDE, Lattice, tail
from tests.crypto.lattice import slow

SEED = bytes(range(32))
lattices = pytest.mark.parametrize("lattice", SETS.values(), ids=SETS)
ODD = Lattice("odd", degree=4096, word=64, fields=1, bits=40)  # elements wider than 32 bits


def key_of(number: int) -> bytes:
    return number.to_bytes(32, "little")


def fresh(lattice: Lattice, number: int) -> np.ndarray:
    return keys.draw(lattice.degree, lattice.secret, key_of(number))


def elements(lattice: Lattice, length: int, number: int, clients: int = 1) -> np.ndarray:
    """Ring elements: any, with one field; with more, of sums that stay within it."""
    octets = np.frombuffer(slow.stream(key_of(number), 8 * length), "<i8")
    if lattice.fields > 1:
        reach = (1 << (lattice.bits - 1)) // clients
        octets = octets % (2 * reach - 1) - reach + 1
    return octets.astype(lattice.ring)


def reduced(lattice: Lattice, vector: np.ndarray) -> list[int]:
    return [int(value) % (1 << lattice.bits) for value in vector]


def sealed(lattice: Lattice, vectors: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [
        encrypt(lattice, SEED, fresh(lattice, i), key_of(1000 + i), vector)
        for i, vector in enumerate(vectors)
    ]


def summed(ciphertexts: Sequence[np.ndarray]) -> np.ndarray:
    total = ciphertexts[0].copy()
    for one in ciphertexts[1:]:
        add(total, one)
    return total


def key_sum(lattice: Lattice, who: Sequence[int]) -> np.ndarray:
    return np.array([fresh(lattice, i) for i in who]).sum(axis=0, dtype=np.int64)


@settings(max_examples=40)
@given(
    st.sampled_from([*SETS.values(), ODD, replace(SMALL, bits=10), replace(DENSE, bits=9)]),
    st.integers(0, 3) | st.integers(2040, 2060) | st.integers(4090, 4100) | st.integers(0, 40_000),
    st.integers(1, 6),
    st.data(),
)
def test_the_sum_of_any_subset_opens_to_the_sum(
    lattice: Lattice, length: int, devices: int, data: st.DataObject
) -> None:
    vectors = [elements(lattice, length, 50 + i, devices) for i in range(devices)]
    ciphertexts = sealed(lattice, vectors)
    some = st.lists(st.integers(0, devices - 1), min_size=1, unique=True)
    for who in (range(devices), data.draw(some)):
        total = summed([ciphertexts[i] for i in who])
        opened = open_sum(lattice, SEED, key_sum(lattice, who), total, length)
        wanted = reduce(np.add, [vectors[i].astype(np.uint64) for i in who])
        assert opened.dtype == lattice.ring
        assert opened.tolist() == reduced(lattice, wanted)


@pytest.mark.parametrize("lattice", [SMALL, WIDE], ids=lambda one: one.name)
@pytest.mark.parametrize("devices", [100, 600])
def test_sums_of_many(lattice: Lattice, devices: int) -> None:
    """The key then takes limbs that a fresh one does not."""
    lattice = lattice.room(devices, 5000)
    vectors = [elements(lattice, 5000, 50 + i, devices) for i in range(devices)]
    total = summed(sealed(lattice, vectors))
    opened = open_sum(lattice, SEED, key_sum(lattice, range(devices)), total, 5000)
    assert opened.tolist() == reduced(lattice, np.sum(vectors, axis=0, dtype=np.uint64))


@lattices
def test_a_ciphertext_is_what_the_formula_says(lattice: Lattice) -> None:
    """In whole numbers: a block, and a last one of which not all travels."""
    degree, fields, word = lattice.degree, lattice.fields, lattice.word
    length = fields * degree + 2 * fields - (fields > 1)
    vector, key = elements(lattice, length, 3), fresh(lattice, 4)
    found = encrypt(lattice, SEED, key, key_of(5), vector)
    assert found.shape == (degree + 2,)
    assert found.dtype.str == f"<u{word // 8}"
    public = np.frombuffer(slow.stream(SEED, 2 * degree * word // 8), f"<u{word // 8}")
    errors = slow.samples(key_of(5), lattice.error, [degree, 2])
    half = 1 << (lattice.bits - 1)
    signed = [(value + half) % (2 * half) - half for value in reduced(lattice, vector)] + [0]
    start, places = 0, slow.places(degree)
    for block, count in enumerate((degree, 2)):
        a = public[block * degree : (block + 1) * degree].tolist()
        masks = slow.product(slow.natural(a), slow.natural(key.tolist()))
        for i in range(count):
            mask = masks[places[i]]
            message = sum(
                signed[start + field * count + i] << (field * lattice.bits)
                for field in range(fields)
            )
            whole = mask + errors[block][i] + (message << lattice.shift)
            assert int(found[block * degree + i]) == whole % (1 << word)
        start += fields * count


@pytest.mark.parametrize("lattice", [SMALL.room(3, 200), WIDE.room(3, 200)], ids=lambda x: x.name)
def test_what_a_codec_makes_comes_back_as_its_mean(lattice: Lattice) -> None:
    codec = Codec(200, 3, 4, bits=lattice.bits, max_weight=16.0, metric_bound=10.0)
    rng = np.random.default_rng(1)
    given_ = [
        (rng.uniform(-8, 8, 200), rng.uniform(-10, 10, 4), float(1 + i), key_of(i))
        for i in range(3)
    ]
    vectors = [codec.encode(*one) for one in given_]
    total = summed(sealed(lattice, vectors))
    opened = open_sum(lattice, SEED, key_sum(lattice, range(3)), total, codec.size)
    assert opened.dtype == codec.dtype
    found = codec.decode(opened, 3)
    wanted = codec.decode(np.sum(vectors, axis=0, dtype=codec.dtype), 3)
    assert np.array_equal(found.update, wanted.update)
    assert np.array_equal(found.metrics, wanted.metrics)
    assert found.weight == wanted.weight


def test_a_sum_that_leaves_the_ring_changes_the_neighbour_by_one() -> None:
    """The price of several fields, as `Lattice` says; one field has no neighbour."""
    most = (1 << (WIDE.bits - 1)) - 1
    half = WIDE.degree
    for lattice, carried in ((WIDE, 1), (replace(SMALL, bits=23), 0)):
        vector = np.zeros(2 * half, lattice.ring)
        vector[0] = most
        total = summed(sealed(lattice, [vector, vector]))
        opened = open_sum(lattice, SEED, key_sum(lattice, [0, 1]), total, 2 * half)
        assert int(opened[0]) == 2 * most % (1 << lattice.bits)
        assert int(opened[half]) == carried
        assert np.count_nonzero(opened) == 1 + carried


# A byte of noise has 255 degrees of freedom. FAR is for one statistic, and there are few.
def uniformity(words: np.ndarray, byte: int) -> float:
    found = np.bincount(words.view(np.uint8).reshape(words.size, -1)[:, byte], minlength=256)
    return slow.chi_square(found, np.full(256, words.size / 256))


@lattices
def test_nothing_encrypted_looks_uniform(lattice: Lattice) -> None:
    """Each byte of a word. The errors alone, or the message without a mask, are seen at once."""
    length = (1 << 19) * lattice.fields
    nothing = np.zeros(length, lattice.ring)
    words = sealed(lattice, [nothing])[0]
    for byte in range(lattice.word // 8):
        assert uniformity(words, byte) < slow.most(255)
    bare = encrypt(lattice, SEED, 0 * fresh(lattice, 0), key_of(1), nothing)
    for byte in range(lattice.word // 8):
        assert uniformity(bare, byte) > 1000 * slow.most(255)


@lattices
def test_without_one_of_the_keys_the_sum_is_noise(lattice: Lattice) -> None:
    length = (1 << 17) * lattice.fields
    vectors = [elements(lattice, length, i, 3) for i in range(3)]
    total = summed(sealed(lattice, vectors))
    wanted = np.array(reduced(lattice, np.sum(vectors, axis=0, dtype=np.uint64)))
    for who in ([0, 1], [0, 1, 1], [1, 2]):
        opened = open_sum(lattice, SEED, key_sum(lattice, who), total, length)
        off = (opened.astype(np.int64) - wanted) % (1 << lattice.bits) >> (lattice.bits - 8)
        assert slow.chi_square(np.bincount(off, minlength=256), length / 256) < slow.most(255)
    other = open_sum(lattice, key_of(9), key_sum(lattice, range(3)), total, length)
    assert np.count_nonzero(other == wanted) < length // 1000


@lattices
def test_two_vectors_under_one_key_show_their_difference(lattice: Lattice) -> None:
    """Why a key and a seed are used together once: what is left of the masks is the errors."""
    length = 5000
    one, two = (elements(lattice, length, i, 2) for i in range(2))
    key = fresh(lattice, 0)
    difference = encrypt(lattice, SEED, key, key_of(1), one)
    difference -= encrypt(lattice, SEED, key, key_of(2), two)
    # Nobody needs a key to open it: to the sum of no keys, it is a sum of one and minus two.
    nobody = np.zeros(lattice.degree, np.int64)
    opened = open_sum(lattice, SEED, nobody, difference, length)
    wanted = reduced(lattice, one.astype(np.int64) - two.astype(np.int64))
    assert opened.tolist() == wanted
    minus = np.array(wanted, lattice.ring)
    difference -= encrypt(lattice, SEED, nobody.astype(np.int8), key_of(3), minus)
    left = difference.view(f"<i{lattice.word // 8}").copy()
    for key_, sign in ((key_of(1), -1), (key_of(2), 1), (key_of(3), 1)):
        left += sign * errors(lattice, key_, length)
    assert not left.any()


def errors(lattice: Lattice, key: bytes, length: int) -> np.ndarray:
    words, degree = lattice.size(length), lattice.degree
    source = Sampler(key, lattice.error, words)
    whole = [source.draw(1, min(degree, words - at))[0] for at in range(0, words, degree)]
    return np.concatenate(whole).astype(np.int64)


def test_another_seed_makes_two_of_one_key_useless_to_each_other() -> None:
    vector, key = elements(SMALL, 1 << 17, 0), fresh(SMALL, 0)
    difference = encrypt(SMALL, SEED, key, key_of(1), vector)
    difference -= encrypt(SMALL, key_of(8), key, key_of(2), vector)
    for byte in range(4):
        assert uniformity(difference, byte) < slow.most(255)


def test_one_bit_more_than_there_is_room_for_and_sums_come_out_wrong() -> None:
    """Two devices and 2**22 values: 25 bits are safe. With 26 the exact tail expects 19 of them to
    be wrong. Chernoff: of a Poisson's 19, none and more than 60 are seen once in 2**26."""
    length, devices = 1 << 22, 2
    assert SMALL.room(devices, length).bits == 25
    for bits, fewest, most in ((25, 0, 0), (26, 1, 60)):
        lattice = replace(SMALL, bits=bits)
        vectors = [elements(lattice, length, i) for i in range(devices)]
        total = summed(sealed(lattice, vectors))
        opened = open_sum(lattice, SEED, key_sum(lattice, range(devices)), total, length)
        wanted = (vectors[0] + vectors[1]) & np.uint32((1 << bits) - 1)
        assert fewest <= np.count_nonzero(opened != wanted) <= most
    expected = length * 2 * 2 ** tail(2 * 96, 96 + 32)
    assert expected == pytest.approx(19, abs=1)


@lattices
def test_a_total_is_added_to_in_place_and_in_parts(lattice: Lattice) -> None:
    one, two = sealed(lattice, [elements(lattice, 9000, i, 2) for i in range(2)])
    wanted = one + two
    total, kept = one.copy(), two.copy()
    add(total, two)
    assert np.array_equal(total, wanted)
    assert np.array_equal(two, kept)
    for part in (slice(0, 1000), slice(1000, None)):
        add(one[part], two[part])
    assert np.array_equal(one, wanted)


@lattices
def test_memory_is_one_vector_and_a_little(lattice: Lattice) -> None:
    """Neither step ever holds a second of what it works on."""
    length = 24 * WORKING * lattice.fields
    vector, key = elements(lattice, length, 0), fresh(lattice, 0)
    words = encrypt(lattice, SEED, key, key_of(1), vector)
    little = 2_500_000
    assert little < words.nbytes * 2
    for step, kept in (
        (lambda: encrypt(lattice, SEED, key, key_of(1), vector), words.nbytes),
        (lambda: add(words, words), 0),
        (lambda: open_sum(lattice, SEED, key, words, length), vector.nbytes),
    ):
        tracemalloc.start()
        step()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < kept + little


def test_what_does_not_fit_is_refused() -> None:
    vector, key = elements(SMALL, 100, 0), fresh(SMALL, 0)
    words = encrypt(SMALL, SEED, key, key_of(1), vector)
    kept = words.copy()
    for other in (words[:-1], words.astype("<u8"), words.astype("<i4"), words[None], words[:1]):
        with pytest.raises(ParameterError, match="does not fit"):
            add(words, other)
    assert np.array_equal(words, kept)
    for total, length in (
        (words, 101),
        (words, 99),
        (words.astype("<u8"), 100),
        (words[None], 100),
    ):
        with pytest.raises(ParameterError, match=f"is no sum of {length} elements"):
            open_sum(SMALL, SEED, key, total, length)
    for wrong in (key[:-1], key[None], fresh(WIDE, 0)):
        with pytest.raises(ParameterError, match=r"a key of \(.*\), expected \(2048,\)"):
            encrypt(SMALL, SEED, wrong, key_of(1), vector)
    for seed, rand in ((bytes(31), key_of(1)), (SEED, bytes(33))):
        with pytest.raises(ParameterError, match="a key of a stream has 32 bytes"):
            encrypt(SMALL, seed, key, rand, vector)
