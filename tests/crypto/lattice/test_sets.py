"""Parameter sets: under the standard's rows, wide enough, and room that is enough and no more."""

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.errors import ParameterError
from tacit.crypto.lattice.keys import FIELD
from tacit.crypto.lattice.sets import (
    DENSE,
    FAILURE,
    LEAST_WIDTH,
    SETS,
    SMALL,
    STANDARD,
    WIDE,
    Lattice,
    tail,
)
from tests.crypto.lattice import slow

# Largest log2 q for a ternary secret and errors of deviation 3.2, as in SEAL's hestdparms.h:
# 128, 192 and 256 bits against a classical computer, then against a quantum computer.
ROWS = {
    1024: (27, 19, 14, 25, 17, 13),
    2048: (54, 37, 29, 51, 35, 27),
    4096: (109, 75, 58, 101, 70, 54),
    8192: (218, 152, 118, 202, 141, 109),
}
LEVELS = (128, 192, 256)
lattices = pytest.mark.parametrize("lattice", SETS.values(), ids=SETS)


def test_the_table_is_the_standards() -> None:
    assert {
        level: {degree: row[i] for degree, row in ROWS.items()} for i, level in enumerate(LEVELS)
    } == STANDARD


def test_the_table_is_that_of_a_library() -> None:
    util = pytest.importorskip("tenseal.sealapi.util")
    for level, rows in STANDARD.items():
        library = getattr(util, f"seal_he_std_parms_{level}_tc")
        assert {degree: library(degree) for degree in rows} == rows


@lattices
def test_sets_keep_what_they_promise(lattice: Lattice) -> None:
    classical = dict(zip(LEVELS, ROWS[lattice.degree][:3], strict=True))
    quantum = dict(zip(LEVELS, ROWS[lattice.degree][3:], strict=True))
    assert lattice.word <= classical[lattice.security]
    assert lattice.word <= quantum[lattice.security]
    assert lattice.word > classical[256]  # and no more is promised than there is
    assert lattice.secret == lattice.error >= LEAST_WIDTH
    assert SETS[lattice.name] is lattice
    assert lattice.model
    assert "2018" in lattice.source


def left_over(width: int) -> Fraction:
    """The variance of one of two such binomials if their sum is known: its mean over all sums."""
    single, double = slow.binomial(width), slow.binomial(2 * width)
    mean = Fraction(0)
    for total, weight in enumerate(double):
        ways = range(max(0, total - 2 * width), min(2 * width, total) + 1)
        square = sum(single[i] * single[total - i] * (2 * i - total) ** 2 for i in ways)
        mean += square / 4 if weight else 0
    return mean


def test_of_two_honest_devices_the_standards_width_is_left() -> None:
    assert left_over(LEAST_WIDTH) == Fraction(LEAST_WIDTH, 4) >= Fraction(32, 10) ** 2
    assert left_over(LEAST_WIDTH - 1) < Fraction(32, 10) ** 2


@given(st.integers(1, 400), st.integers(0, 401))
def test_tails_are_exact(trials: int, least: int) -> None:
    ways = sum(math.comb(trials, i) for i in range(least, trials + 1))
    if 2 * least <= trials:
        assert tail(trials, least) == 0.0  # at most that, and not asked for
    elif not ways:
        assert tail(trials, least) == -math.inf
    else:
        wanted = math.log2(ways) - trials
        assert wanted - 1e-9 <= tail(trials, least) <= wanted + 2e-9


@pytest.mark.parametrize(
    ("trials", "least"), [(96_000, 48_500), (96_000, 60_000), (20_000, 10_001)]
)
def test_long_tails_are_exact(trials: int, least: int) -> None:
    way = math.comb(trials, least)
    ways = 0
    for i in range(least, trials + 1):
        ways += way
        way = way * (trials - i) // (i + 1)
        if way << 80 < ways:
            break
    wanted = math.log2(ways) - trials
    assert abs(tail(trials, least) - wanted) < 1e-5


@lattices
@pytest.mark.parametrize("clients", [1, 2, 3, 10, 33, 100, 140, 1000, 20_000])
@pytest.mark.parametrize("length", [1, 10**6])
def test_room_is_the_most_that_is_safe(lattice: Lattice, clients: int, length: int) -> None:
    found = lattice.room(clients, length)
    assert found == replace(lattice, bits=found.bits)
    assert found.failure(clients, length) <= -FAILURE
    if found.shift > lattice.fields:
        assert replace(found, bits=found.bits + 1).failure(clients, length) > -FAILURE


def test_room_for_those_it_is_meant_for() -> None:
    """Bits of a million values' sum over 10, 100 and 1000 devices."""
    table = {
        lattice.name: [lattice.room(clients, 10**6).bits for clients in (10, 100, 1000)]
        for lattice in SETS.values()
    }
    assert table == {
        SMALL.name: [23, 22, 20],
        WIDE.name: [27, 27, 26],
        DENSE.name: [18, 18, 17],
    }
    assert SMALL.failure(139, 1 << 20) <= -FAILURE < SMALL.failure(140, 1 << 20)


def test_the_failure_of_a_vector_is_the_sum_of_those_of_its_coefficients() -> None:
    """By hand: 34 devices, 23 bits, so Delta / 2 = 256; and the key's part is nothing."""
    width = 34 * 48
    ways = sum(math.comb(2 * width, i) for i in range(width + 256, 2 * width + 1))
    once = math.log2(2 * ways) - 2 * width
    for length in (1, 1 << 20):
        wanted = once + math.log2(length)
        assert replace(SMALL, bits=23).failure(34, length) == pytest.approx(wanted, abs=1e-6)
    # Three elements a coefficient are lost together, and counted once.
    less = replace(DENSE, bits=18).failure(140, 3 << 20)
    assert less == pytest.approx(replace(DENSE, bits=18).failure(140, 1 << 20) + math.log2(3))


def test_keys_that_leave_the_field_they_are_shared_over_are_reckoned_with() -> None:
    """48 bits of noise room would be plenty; it is the key that does not fit."""
    sparse = Lattice("sparse", degree=4096, word=64, fields=1, bits=16)
    width = 10**6 * 48
    alone = 1 + tail(2 * width, width + FIELD // 2 + 1) + 12
    assert alone > -FAILURE
    assert sparse.failure(10**6, 1) == pytest.approx(alone, abs=1e-6)
    for lattice in (sparse, *SETS.values()):
        with pytest.raises(ParameterError, match="has no room for the noise of 1000000 clients"):
            lattice.room(10**6, 1)


def test_no_room_below_eight_bits() -> None:
    tight = Lattice("tight", degree=2048, word=32, fields=3, bits=8)
    assert tight.room(8, 1).bits == 8
    with pytest.raises(ParameterError, match="tight has no room for the noise of 60 clients"):
        tight.room(60, 10**6)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"word": 64}, "degree 2048 with a modulus of 64 bits: no such set has 192 bits"),
        ({"degree": 1024}, "degree 1024 with a modulus of 32 bits"),
        ({"degree": 2047}, "degree 2047"),
        ({"degree": 16384}, "degree 16384"),
        ({"word": 16}, "a modulus of 16 bits"),
        ({"word": 54, "security": 128}, "a modulus of 54 bits"),
        ({"security": 256}, "no such set has 256 bits of security"),
        ({"security": 100}, "no such set has 100 bits of security"),
        ({"secret": 40}, "width 40, expected 41..48: sums of keys become known"),
        ({"error": 40}, "width 40, expected 41..48"),
        ({"secret": 1}, "width 1,"),
        ({"error": 49}, "width 49,"),
        ({"fields": 0}, "0 fields"),
        ({"fields": -1}, "-1 fields"),
        ({"bits": 7}, "1 fields of 7 bits"),
        ({"bits": 32}, "1 fields of 32 bits in 32"),
        ({"fields": 2}, "2 fields of 22 bits in 32"),
    ],
)
def test_an_unsafe_set_is_not_built(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        replace(SMALL, **changed)


@lattices
def test_sizes(lattice: Lattice) -> None:
    """Of a million values from each of ten devices, shares for ten members of a committee included:
    at most 4.1 bytes a value."""
    for length in (0, 1, 2, 3, 2047, 2048, 2049, 10**6):
        assert lattice.size(length) == math.ceil(Fraction(length, lattice.fields))
        assert lattice.packed_size(length) == lattice.size(length) * lattice.word // 8
    lattice = lattice.room(10, 10**6)
    assert lattice.packed_size(10**6) + 10 * 2 * lattice.degree <= 4.1 * 10**6
