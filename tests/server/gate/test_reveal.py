"""What is told never changes which class comes first, and is a function of the scores alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tacit.crypto.errors import ParameterError
from tacit.server.gate.reveal import Detail, Reveal


@st.composite
def probabilities(draw: st.DrawFn) -> np.ndarray:
    shape = draw(st.tuples(st.integers(1, 5), st.integers(2, 200)))
    raw = draw(npst.arrays(np.float64, shape, elements=st.floats(1e-6, 1)))
    return raw / raw.sum(1, keepdims=True)


@given(probabilities(), st.sampled_from(Detail), st.integers(1, 6))
def test_the_first_class_stays_the_first(given_: np.ndarray, detail: Detail, digits: int) -> None:
    shown = Reveal(detail, digits).shown(given_)
    assert np.array_equal(shown.labels, given_.argmax(1))
    if shown.scores is not None:
        assert np.array_equal(shown.scores.argmax(1), shown.labels)
        assert shown.scores.min() >= 0
        assert shown.scores.max() <= 1


@given(probabilities(), st.integers(1, 6))
def test_no_more_digits_are_told_than_granted(given_: np.ndarray, digits: int) -> None:
    told = Reveal(Detail.ROUNDED, digits).shown(given_).scores
    assert told is not None
    assert np.array_equal(told, np.round(told, digits))
    off = np.abs(told - given_)
    assert off.max() <= 1.5 * 10.0**-digits + 1e-12  # half a step, and one for a first that tied


def test_each_level_tells_what_it_says() -> None:
    row = np.array([[0.54, 0.46], [0.97, 0.03]])
    assert Reveal().shown(row).scores is None
    assert Reveal().shown(row).bands is None
    assert Reveal(Detail.TOP1).shown(row).bands.tolist() == [1, 3]
    assert Reveal(Detail.ROUNDED, 1).shown(row).scores.tolist() == [[0.6, 0.5], [1.0, 0.0]]
    assert np.array_equal(Reveal(Detail.FULL).shown(row).scores, row)


@pytest.mark.parametrize("digits", [0, 7, -1])
def test_digits_have_a_range(digits: int) -> None:
    with pytest.raises(ParameterError, match="expected 1 to 6"):
        Reveal(Detail.ROUNDED, digits)
