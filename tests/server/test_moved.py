"""The reply's arrays are made where they are sent from, and are what Flower would have made."""

from typing import Any

import numpy as np
import pytest
from flwr.app import Array

from tacit.crypto.codec import Codec
from tacit.crypto.errors import ParameterError
from tacit.crypto.vector import CHUNK, Layout
from tacit.server.moved import moved

MODEL: dict[str, np.ndarray[Any, Any]] = {
    "long": np.linspace(-1, 1, CHUNK + 3, dtype=np.float32),
    "matrix": np.arange(6.0).reshape(2, 3),
    "scalar": np.array(0.5, np.float16),
    "nothing": np.zeros((0, 4), np.float32),
    "steps": np.array([1, 2], np.int64),
}


def test_arrays_are_those_that_flower_makes() -> None:
    layout = Layout.of(MODEL)
    update = np.random.default_rng(1).normal(size=layout.size)
    after, record = layout.add(MODEL, update), moved(MODEL, update)
    assert list(record) == list(MODEL)
    for name, array in after.items():
        theirs, ours = Array(array), record[name]
        assert (ours.dtype, tuple(ours.shape), ours.stype) == (
            theirs.dtype,
            tuple(theirs.shape),
            theirs.stype,
        )
        assert type(ours.data) is bytes
        assert ours.data == theirs.data
        np.testing.assert_array_equal(ours.numpy(), array)


def test_a_sum_moves_the_model_as_its_mean_does() -> None:
    size = Layout.of(MODEL).size
    codec = Codec(size, 2, 1)
    rng = np.random.default_rng(2)
    total = codec.encode(rng.uniform(-1, 1, size), np.zeros(1), 1.0, bytes(32))
    mean = codec.decode(total, 1)
    at_once, in_slices = moved(MODEL, mean.update), moved(MODEL, mean.decoded)
    for name in MODEL:
        assert at_once[name].data == in_slices[name].data


def test_an_update_of_another_size_is_refused() -> None:
    with pytest.raises(ParameterError, match="an update of shape"):
        moved(MODEL, np.zeros(3))
