"""Masks or lattice keys: the cheaper, unless it rounds too coarsely."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.errors import ParameterError
from tacit.crypto.lattice.sets import DENSE, SETS, SMALL, WIDE
from tacit.crypto.secagg import choice, costs
from tacit.crypto.secagg.choice import FINE, choose_way
from tacit.crypto.secagg.parameters import choose


def keys_win(devices: int, gamma: float, drop: float, precision: int, size: int) -> bool:
    found = choose(devices, gamma, drop)
    bits, members = precision + devices.bit_length(), found.seats or devices
    return choose_way(WIDE, devices, size, bits, found.degree, members).keys is not None


@pytest.mark.parametrize(
    ("cohort", "from_size"),
    [
        ((50, 1 / 3, 0.3), None),
        ((100, 1 / 3, 0.3), 1_400_000),
        ((200, 0.1, 0.1), 300_000),
        ((1000, 0.1, 0.2), 34),
    ],
)
def test_lattice_keys_win_where_the_module_says(
    cohort: tuple[int, float, float], from_size: int | None
) -> None:
    if from_size is None:
        assert not keys_win(*cohort, 25, 10**9)
    else:
        assert keys_win(*cohort, 25, from_size + from_size // 20)
        assert from_size == 34 or not keys_win(*cohort, 25, from_size - from_size // 20)
    assert keys_win(*cohort, 16, 10**6) == (cohort[0] == 1000)


@given(
    st.sampled_from(list(SETS.values())),
    st.integers(2, 10_000),
    st.integers(1, 10**8),
    st.integers(8, 40),
    st.integers(1, 400),
    st.integers(2, 255),
)
def test_the_choice_is_the_cheaper_of_what_is_fine_enough(
    base, devices: int, size: int, bits: int, degree: int, members: int
) -> None:
    found = choose_way(base, devices, size, bits, degree, members)
    try:
        scheme = base.room(devices, size)
    except ParameterError:
        assert found.keys is None
        return
    masks = costs.masked(size, bits, degree, members)
    keys = costs.encrypted(scheme, size, members)
    coarse = devices**0.5 / 2**scheme.bits
    fine = coarse <= FINE or scheme.bits >= bits
    assert found.keys == (scheme if fine and keys.total < masks.total else None)


def test_a_sum_that_would_be_too_coarse_is_masked() -> None:
    """Masks of 17 bits would be no finer, and are no reason to refuse 18."""
    size, degree, members = 10**7, 300, 100
    for bits, taken in ((25, None), (19, None), (18, 18), (17, 18)):
        found = choose_way(DENSE, 100, size, bits, degree, members)
        assert (found.keys and found.keys.bits) == taken
    assert "leaves the sum of 100 devices 18 bits: too coarse" in (
        choose_way(DENSE, 100, size, 25, degree, members).why
    )


def test_a_set_without_room_is_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tacit.crypto.lattice.sets.LEAST_BITS", SMALL.word)
    found = choose_way(SMALL, 100, 10**6, 32, 99, 100)
    assert (found.keys, found.why) == (None, "2048-32-1 has no room for the noise of 100 clients")


def test_rounding_is_that_of_the_mean() -> None:
    """n devices are each off by half a step, in standard deviation; their sum by the square root of
    n times that, their mean by an n-th of it. A step is n * 2**(1 - bits) of the bound."""
    step = 100 * 2.0 ** (1 - 20)
    assert choice._rounding(100, 20) == pytest.approx(step / 2 * 100**0.5 / 100)
