"""From a train function's reply to what is encoded: nothing is added, nothing slips through."""

import math
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from tacit.client.pipeline import (
    Contribution,
    Stated,
    contribution,
    private_update,
    received_arrays,
)
from tacit.client.policy import Policy
from tacit.client.trainer import Arrays
from tacit.crypto.codec import Codec
from tacit.crypto.errors import ParameterError
from tacit.crypto.vector import Difference

MODEL: Arrays = {"w": np.ones((2, 3), np.float32), "b": np.array(2.0), "n": np.array([7, 8])}
OPEN = Policy()


def flat(given: Contribution) -> np.ndarray:
    """The update as one array, clipped or not."""
    return given.update.whole() if isinstance(given.update, Difference) else given.update


def record(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(a)) for name, a in arrays.items()})


def reply(arrays: Arrays | None = None, **metrics: Any) -> RecordDict:
    given = {"num_examples": 10, **metrics}
    named = MetricRecord({name.replace("_", "-"): value for name, value in given.items()})
    return RecordDict({"arrays": record({**MODEL, **(arrays or {})}), "metrics": named})


def test_an_update_is_the_difference_in_the_models_order() -> None:
    trained = {"w": MODEL["w"] + np.float32(0.5), "b": np.array(1.0), "n": np.array([8, 10])}
    given = contribution(reply(trained, loss=0.25, accuracy=0.5), MODEL, "num-examples", OPEN)
    np.testing.assert_array_equal(flat(given), [0.5] * 6 + [-1.0] + [1.0, 2.0])
    assert given.names == ("accuracy", "loss")
    np.testing.assert_array_equal(given.metrics, [0.5, 0.25])
    assert given.weight == 10.0


def test_an_evaluation_has_metrics_and_no_update() -> None:
    given = contribution(reply(loss=0.25), None, "num-examples", OPEN)
    assert given.update.shape == (0,)
    assert given.names == ("loss",)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"w": np.ones((3, 2), np.float32)}, "shape"),
        ({"other": np.ones(2)}, "'other' is not in the model"),
        ({"w": np.ones((2, 3), np.float64)}, "'w' is float64, the model has float32"),
        ({"b": np.array([2.0])}, "shape"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays: Arrays, reason: str) -> None:
    with pytest.raises(ParameterError, match=reason):
        contribution(reply(arrays), MODEL, "num-examples", OPEN)


def test_a_missing_array_is_refused() -> None:
    bare = RecordDict({"arrays": record({"w": MODEL["w"]}), "metrics": MetricRecord({"n": 1})})
    with pytest.raises(ParameterError, match="'b' is missing"):
        contribution(bare, MODEL, "n", OPEN)


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ({"loss": [1.0, 2.0]}, "'loss' is a list"),
        ({"loss": float("nan")}, "'loss' is not finite"),
        ({"loss": float("inf")}, "'loss' is not finite"),
        ({"num_examples": float("nan")}, "not finite"),
    ],
)
def test_metrics_that_cannot_be_summed_are_refused(metrics: dict[str, Any], reason: str) -> None:
    with pytest.raises(ParameterError, match=reason):
        contribution(reply(**metrics), MODEL, "num-examples", OPEN)


def test_a_reply_has_one_record_of_each_kind() -> None:
    two = RecordDict({"a": record(MODEL), "b": record(MODEL), "m": MetricRecord({"n": 1})})
    with pytest.raises(ParameterError, match="2 array records"):
        contribution(two, MODEL, "n", OPEN)
    with pytest.raises(ParameterError, match="0 array records"):
        received_arrays(RecordDict())
    with pytest.raises(ParameterError, match="0 metric records"):
        contribution(RecordDict({"a": record(MODEL)}), MODEL, "n", OPEN)
    with pytest.raises(ParameterError, match="no 'n', the weight"):
        contribution(reply(), MODEL, "n", OPEN)


@given(
    step=st.lists(st.floats(-1e3, 1e3), min_size=6, max_size=6),
    norm=st.floats(1e-3, 1e3),
)
def test_the_owners_norm_holds_whatever_was_trained(step: list[float], norm: float) -> None:
    model: Arrays = {"w": np.zeros(6)}
    trained = RecordDict(
        {"a": record({"w": np.array(step)}), "m": MetricRecord({"num-examples": 1})}
    )
    given = contribution(trained, model, "num-examples", Policy(max_norm=norm))
    before, after = np.linalg.norm(step), np.linalg.norm(flat(given))
    assert after <= norm * (1 + 1e-12)
    if before <= norm:
        np.testing.assert_array_equal(flat(given), step)
    else:
        # Scaled down, not turned: |after - before * norm / |before|| is rounding alone.
        np.testing.assert_allclose(flat(given), np.array(step) * (norm / before), rtol=1e-12)


@given(
    step=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=9),
    keep=st.floats(0.01, 1.0),
    norm=st.none() | st.floats(1e-3, 1e3),
)
def test_the_owner_says_how_much_of_an_update_is_sent(
    step: list[float], keep: float, norm: float | None
) -> None:
    model: Arrays = {"w": np.zeros(len(step))}
    trained = RecordDict(
        {"a": record({"w": np.array(step)}), "m": MetricRecord({"num-examples": 1})}
    )
    owner = Policy(keep=keep, max_norm=norm)
    given = flat(contribution(trained, model, "num-examples", owner))
    count = math.ceil(keep * len(step))
    assert np.count_nonzero(given) <= count
    kept = np.sort(np.abs(step))[len(step) - count :]
    length = np.linalg.norm(kept)
    scale = 1.0 if norm is None or length <= norm else norm / length
    np.testing.assert_allclose(
        np.sort(np.abs(given))[len(step) - count :], kept * scale, rtol=1e-12, atol=0
    )
    alone = private_update(trained, model, Stated(), keep)  # a private sum clips by itself
    sent = alone.whole() if isinstance(alone, Difference) else np.asarray(alone[:])
    np.testing.assert_array_equal(np.sort(np.abs(sent))[len(step) - count :], kept)


def test_an_update_that_is_not_finite_is_refused_with_and_without_a_norm() -> None:
    trained = reply({"w": np.full((2, 3), np.nan, np.float32)})
    with pytest.raises(ParameterError, match="not finite"):
        contribution(trained, MODEL, "num-examples", Policy(max_norm=1.0))
    given = contribution(trained, MODEL, "num-examples", OPEN)
    with pytest.raises(ParameterError, match="not finite"):
        given.encode(Codec(9, 3), bytes(32))


def test_more_metrics_than_slots_are_refused() -> None:
    given = Contribution(np.zeros(2), ("a", "b"), np.zeros(2), 1.0)
    with pytest.raises(ParameterError, match="2 metrics, the session has 1 slots"):
        given.encode(Codec(2, 3, metrics=1), bytes(32))


def test_what_is_encoded_decodes_to_what_was_given() -> None:
    codec = Codec(2, 3)
    given = Contribution(np.array([0.25, -1.0]), ("a",), np.array([0.5]), 8.0)
    mean = codec.decode(given.encode(codec, bytes(32)), 1)
    assert mean.weight == 8.0
    # One contribution, rounded by less than a step of the grid, which is 1/scale of W/w.
    step = 1 / codec.scale * codec.max_weight / 8.0
    np.testing.assert_allclose(mean.update, given.update, rtol=0, atol=step)
    assert mean.metrics[0] == pytest.approx(0.5, abs=0.5 / codec.metric_scale * 10_000 / 8)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.array(-1.5),
        np.arange(6.0).reshape(2, 3).T,
        np.zeros((0, 3)),
        np.arange(3, dtype=">i4"),
        np.arange(3, dtype=np.uint8),
        np.zeros(2, [("a" * 200, "f4")]),  # a header longer than most
    ],
)
def test_arrays_are_read_as_flower_reads_them(array: np.ndarray) -> None:
    sent = Array(array)
    (read,) = received_arrays(RecordDict({"arrays": ArrayRecord({"x": sent})})).values()
    theirs = sent.numpy()
    assert (read.shape, read.dtype, read.tobytes()) == (theirs.shape, theirs.dtype, array.tobytes())


@pytest.mark.parametrize("cut", [0, 5, 20, 100, 127, 128, 140])
def test_arrays_that_flower_cannot_read_are_refused_as_flower_does(cut: int) -> None:
    whole = Array(np.arange(6.0))
    broken = Array(whole.dtype, whole.shape, whole.stype, whole.data[:cut])
    with pytest.raises((ValueError, EOFError)):
        received_arrays(RecordDict({"arrays": ArrayRecord({"x": broken})}))


def test_a_plain_array_is_not_copied() -> None:
    sent = Array(np.arange(1000.0))
    (read,) = received_arrays(RecordDict({"arrays": ArrayRecord({"x": sent})})).values()
    assert np.shares_memory(read, np.frombuffer(sent.data, np.uint8))
