"""Noise: bit for bit what it is said to be, of the distribution it has to have, and no other."""

import numpy as np
import pytest

from tacit.crypto.errors import ParameterError
from tacit.crypto.lattice import sampler
from tacit.crypto.lattice.sampler import Sampler
from tests.crypto.lattice import slow

KEY = bytes(range(32))
TRIES = 1 << 20


@pytest.mark.parametrize("width", [33, 41, 47, 48])
def test_samples_are_ones_less_width(width: int) -> None:
    """Across calls and rows: a row takes its long words first."""
    source = Sampler(KEY, width, 29)
    found = [*source.draw(2, 8).tolist(), *source.draw(1, 3).tolist(), *source.draw(1, 10).tolist()]
    assert found == slow.samples(KEY, width, [8, 8, 3, 10])


@pytest.mark.parametrize("dtype", [np.uint64, np.uint32])
def test_ones_without_the_newer_numpy(dtype: type) -> None:
    words = np.frombuffer(slow.stream(KEY, 1 << 12), dtype)
    words = np.concatenate([words, np.array([0, 1, np.iinfo(dtype).max], dtype)])
    wanted = [int(word).bit_count() for word in words]
    assert sampler._ones_by_halves(words).tolist() == wanted
    assert sampler._ones(words).tolist() == wanted


def bins(width: int) -> np.ndarray:
    """How many of TRIES samples are -20 or less, -19, .., 19, 20 or more."""
    share = np.array([float(p) for p in slow.binomial(width)])
    middle = share[width - 19 : width + 20]
    return TRIES * np.concatenate(
        [[share[: width - 19].sum()], middle, [share[width + 20 :].sum()]]
    )


def counted(width: int) -> np.ndarray:
    return np.bincount(
        np.clip(Sampler(KEY, width, TRIES).draw(4, TRIES // 4), -20, 20).ravel() + 20
    )


@pytest.mark.parametrize("width", [40, 46, 48])
def test_the_distribution_is_the_binomial_of_its_width_and_of_no_other(width: int) -> None:
    """A width that is off by 2 would be seen, but for a chance of 2**-40."""
    freedom = bins(width).size - 1
    assert slow.chi_square(counted(width), bins(width)) < slow.most(freedom)
    for other in (width - 2, width + 2):
        away = slow.chi_square(bins(other), bins(width))
        assert slow.least(freedom, away) > slow.most(freedom)
        assert slow.chi_square(counted(width), bins(other)) > slow.most(freedom)


@pytest.mark.parametrize("width", [0, 21, 32, 49, 64])
def test_another_width_is_refused(width: int) -> None:
    with pytest.raises(ParameterError, match=f"width {width}, expected 33..48"):
        Sampler(KEY, width, 1)


def test_a_key_of_another_size_is_refused() -> None:
    with pytest.raises(ParameterError, match="32 bytes, not 31"):
        Sampler(bytes(31), 48, 1)
