"""Clipping: what is within the bound passes untouched, the rest keeps its direction."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.errors import ParameterError
from tacit.privacy.clip import clip

VECTORS = st.lists(st.floats(-1e6, 1e6), max_size=8).map(lambda xs: np.array(xs, np.float64))
# The norm of 8 numbers, the quotient and 8 products are each rounded: 16 half units are plenty.
TOLERANCE = 16 * 2.0**-53


@given(VECTORS, st.floats(1e-6, 1e6))
def test_the_norm_is_bounded_and_the_direction_kept(update: np.ndarray, norm: float) -> None:
    before = update.copy()
    clipped = clip(update, norm)
    assert np.array_equal(update, before)
    length = np.linalg.norm(update)
    if length <= norm:
        assert clipped is update
    else:
        assert np.linalg.norm(clipped) == pytest.approx(norm, rel=TOLERANCE, abs=0.0)
        assert np.allclose(clipped * (length / norm), update, rtol=TOLERANCE, atol=1e-300)


def test_the_zero_vector_passes() -> None:
    assert clip(np.zeros(3), 1.0).tolist() == [0.0, 0.0, 0.0]
    assert clip(np.zeros(0), 1.0).size == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200])
def test_a_value_that_has_no_norm_is_refused(bad: float) -> None:
    with pytest.raises(ParameterError, match="not finite"):
        clip(np.array([0.0, bad]), 1.0)


@pytest.mark.parametrize("norm", [0.0, -1.0, float("nan")])
def test_a_norm_that_bounds_nothing_is_refused(norm: float) -> None:
    with pytest.raises(ParameterError, match="expected above 0"):
        clip(np.ones(2), norm)
