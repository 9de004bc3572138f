"""Packing is exact to the last bit of room, and refuses one number beyond."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tacit.crypto.codec import Codec
from tacit.crypto.errors import ParameterError
from tacit.crypto.he.packing import Packing
from tacit.crypto.he.sets import APPROXIMATE, PUBLIC, SCHEMES, SEEDED, WIDE
from tests.crypto.he.group import numbers, ring, schemes

# Albrecht et al. 2018, "Homomorphic Encryption Standard", table 1: 128 bits, ternary secret.
MOST_BITS = {1024: 27, 2048: 54, 4096: 109, 8192: 218}


@st.composite
def packings(draw: st.DrawFn) -> Packing:
    scheme = draw(schemes)
    bits = draw(st.integers(8, scheme.plain_bits))
    clients = draw(st.integers(1, min(scheme.room, (1 << (bits - 1)) - 1)))
    return Packing(scheme, draw(st.integers(1, 40)), bits, clients)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda scheme: scheme.name)
def test_the_sets_keep_to_the_standard(scheme) -> None:
    assert sum(scheme.primes) <= MOST_BITS[scheme.degree]
    assert scheme.modulus.bit_length() <= sum(scheme.primes)
    for prime in (scheme.modulus, scheme.plain):
        assert prime % (2 * scheme.degree) == 1  # what the slots, and fast products, need
        assert all(pow(base, prime - 1, prime) == 1 for base in (2, 3, 5, 7))
    assert (scheme.degree, scheme.number) in {(4096, 1), (2048, 2), (4096, 3), (4096, 4)}


def test_the_sets_have_room_for_a_consortium() -> None:
    assert PUBLIC.room == SEEDED.room == 373
    assert WIDE.room == 30
    assert APPROXIMATE.room == 256


@given(packings(), st.data())
def test_sums_of_slots_are_sums_of_numbers(packing: Packing, data: st.DataObject) -> None:
    """As many as there is room for, and each as far from zero as it may be."""
    edge = st.sampled_from([-packing.reach, packing.reach, 0]) | st.integers(
        -packing.reach, packing.reach
    )
    vector = data.draw(st.lists(edge, min_size=packing.size, max_size=packing.size))
    times = data.draw(st.sampled_from([1, packing.clients]))
    slots = packing.pack(ring(vector, packing.bits)) * times
    assert np.abs(slots).max() <= packing.scheme.plain // 2
    assert packing.unpack(slots).tolist() == ring(np.array(vector) * times, packing.bits).tolist()


@given(packings(), st.sampled_from([-1, 1]))
def test_a_number_without_room_is_refused(packing: Packing, sign: int) -> None:
    beyond = (packing.reach + 1) * sign
    assume(abs(beyond) < 1 << (packing.bits - 1))  # or no element stands for it
    vector = ring([0] * (packing.size - 1) + [beyond], packing.bits)
    with pytest.raises(ParameterError, match="do not fit"):
        packing.pack(vector)


def test_a_refusal_does_not_quote_the_number() -> None:
    with pytest.raises(ParameterError) as caught:
        Packing(SEEDED, 1, 21, 2).pack(ring([777_777], 21))
    assert "777" not in str(caught.value)


def test_what_a_codec_encodes_has_room() -> None:
    for clients in (1, 3, 10, 100):
        codec = Codec(50, clients, 2, bits=21, metric_bound=10.0, max_weight=100.0)
        packing = Packing.of(SEEDED, codec)
        for sign in (-1, 1):
            update = np.full(50, sign * codec.bound)
            encoded = codec.encode(update, np.full(2, sign * 10.0), 100.0, bytes(32))
            slots = packing.pack(encoded) * clients
            mean = codec.decode(packing.unpack(slots), clients)
            assert np.allclose(mean.update, update, atol=2 / codec.scale)
            assert np.allclose(mean.metrics, sign * 10.0, atol=0.01)


def test_a_vector_is_reduced_above_its_bits() -> None:
    packing = Packing(SEEDED, 3, 21, 2)
    high = ring([5, -5, 0], 21) | np.uint32(0xFFE00000)
    assert packing.unpack(packing.pack(high)).tolist() == ring([5, -5, 0], 21).tolist()


@pytest.mark.parametrize(
    ("scheme", "size", "bits", "clients"),
    [
        (PUBLIC, 10, 43, 2),
        (WIDE, 10, 51, 2),
        (PUBLIC, 10, 7, 2),
        (PUBLIC, 10, 21, 0),
        (PUBLIC, 10, 21, 374),
        (WIDE, 10, 21, 31),
        (PUBLIC, 0, 21, 2),
        (PUBLIC, 1 << 32, 21, 2),
        (PUBLIC, 10, 8, 128),
    ],
)
def test_what_has_no_room_is_refused(scheme, size: int, bits: int, clients: int) -> None:
    with pytest.raises(ParameterError):
        Packing(scheme, size, bits, clients)


@pytest.mark.parametrize(
    "vector",
    [np.zeros(9, np.uint32), np.zeros((2, 5), np.uint32), np.zeros(10), np.zeros(10, np.int64)],
)
def test_a_vector_of_another_kind_is_refused(vector) -> None:
    with pytest.raises(ParameterError, match="no vector"):
        Packing(PUBLIC, 10, 21, 2).pack(vector)


def test_two_values_share_a_slot() -> None:
    assert [Packing(scheme, 9, bits, 2).words for scheme, bits in ((PUBLIC, 21), (WIDE, 25))] == [
        5,
        5,
    ]
    assert Packing(SEEDED, 9, 14, 2).words == 3
    assert numbers(Packing(SEEDED, 9, 14, 2), 3).shape == (3, 9)
