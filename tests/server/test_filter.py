"""What plain averaging lets through: only replies that no strategy can trip over."""

import io
import warnings
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.errors import ParameterError
from tacit.server.filter import ReplyFilter, form, usual_form

MODEL = {"w": np.zeros((2, 3), np.float32), "n": np.array(5)}


def record(arrays: dict[str, Any]) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(a)) for name, a in arrays.items()})


def reply(arrays: dict[str, Any] | None = None, **metrics: Any) -> RecordDict:
    named = {"num-examples": 10, **{k.replace("_", "-"): v for k, v in metrics.items()}}
    return RecordDict({"arrays": record(arrays or MODEL), "metrics": MetricRecord(named)})


def test_a_good_reply_is_its_update_and_its_weight() -> None:
    trained = {"w": np.full((2, 3), 0.5, np.float32), "n": np.array(7)}
    update = ReplyFilter().update(reply(trained), MODEL)
    np.testing.assert_array_equal(update["w"], np.full((2, 3), 0.5))
    np.testing.assert_array_equal(update["n"], 2)
    assert ReplyFilter().weight(reply(loss=0.5)) == 10.0


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({**MODEL, "w": np.full((2, 3), np.nan, np.float32)}, "not finite"),
        ({**MODEL, "w": np.full((2, 3), np.inf, np.float32)}, "not finite"),
        ({**MODEL, "w": np.zeros(6, np.float32)}, "shape"),
        ({**MODEL, "w": np.zeros((1, 3), np.float32)}, "shape"),  # numpy would broadcast this
        ({**MODEL, "w": np.zeros((2, 3), np.complex64)}, "complex"),
        ({"v": MODEL["w"], "n": MODEL["n"]}, "'w' is missing"),
        ({"w": MODEL["w"]}, "'n' is missing"),
        ({**MODEL, "x": np.zeros(1)}, "'x' is not in the model"),
    ],
)
def test_arrays_that_do_not_fit(arrays: dict[str, Any], reason: str) -> None:
    with pytest.raises(ParameterError, match=reason):
        ReplyFilter().update(reply(arrays), MODEL)


def archive() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, w=MODEL["w"])
    return buffer.getvalue()


def header(shape: str) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


PICKLE = (
    b"\x93NUMPY\x01\x00\x40\x00"
    + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(64)
)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        archive(),
        b"PK\x03\x04 no archive",
        PICKLE,
        header("(1 << 60,)"),
        header("(1000000000000000,)"),
        header("(-1,)"),
        header("(" * 500 + ")" * 500),
        b"\x93NUMPY\x01\x00\xff\xff",
    ],
)
def test_bytes_that_are_no_array_are_refused_and_nothing_worse(data: bytes) -> None:
    """A device is a stranger: what numpy's reader raises for its bytes must not end the run."""
    bad = RecordDict(
        {
            "arrays": ArrayRecord(
                {"w": Array("float32", (2, 3), "numpy.ndarray", data), "n": Array(MODEL["n"])}
            ),
            "metrics": MetricRecord({"num-examples": 10}),
        }
    )
    with pytest.raises(ParameterError, match=r"array 'w' (cannot be read|is no array)"):
        ReplyFilter().update(bad, MODEL)


def test_a_serialisation_other_than_numpys_is_refused() -> None:
    bad = RecordDict({"arrays": ArrayRecord({"w": Array("float32", (2, 3), "pickle", b"")})})
    with pytest.raises(ParameterError, match="'w' cannot be read"):
        ReplyFilter().update(bad, MODEL)


@given(data=st.binary(max_size=200))
def test_any_bytes_are_an_array_that_fits_or_refused(data: bytes) -> None:
    array = Array("float32", (2, 3), "numpy.ndarray", header("(2, 3)") + data)
    content = RecordDict({"arrays": ArrayRecord({"w": array, "n": Array(MODEL["n"])})})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # huge float32 values overflow in the norm
        try:
            update = ReplyFilter().update(content, MODEL)
        except ParameterError:
            return
    assert update["w"].shape == (2, 3)
    assert np.isfinite(update["w"]).all()


def test_the_norm_of_an_update_can_be_bounded() -> None:
    trained = {**MODEL, "w": np.full((2, 3), 2.0, np.float32)}
    assert ReplyFilter(max_norm=4.9).update(reply(trained), MODEL)  # sqrt(6 * 4) = 4.899
    with pytest.raises(ParameterError, match=r"norm is 4\.9, at most 4\.89"):
        ReplyFilter(max_norm=4.89).update(reply(trained), MODEL)


@pytest.mark.parametrize(
    "weight", [0, -1, 10_001, 10**12, float("nan"), float("inf"), [1, 2], 10**400]
)
def test_weights_that_are_refused(weight: Any) -> None:
    with pytest.raises(ParameterError, match="num-examples is"):
        ReplyFilter().weight(reply(num_examples=weight))


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), [0.5, float("nan")], 10**400])
def test_metrics_that_are_refused(value: Any) -> None:
    with pytest.raises(ParameterError, match="'loss' is not finite"):
        ReplyFilter().weight(reply(loss=value))


def test_a_list_of_numbers_passes_in_the_clear() -> None:
    assert ReplyFilter().weight(reply(confusion=[1, 2, 3])) == 10.0


def test_records_are_counted() -> None:
    with pytest.raises(ParameterError, match="0 metric records"):
        ReplyFilter().weight(RecordDict({"arrays": record(MODEL)}))
    two = RecordDict({"a": record(MODEL), "b": record(MODEL)})
    with pytest.raises(ParameterError, match="2 array records"):
        ReplyFilter().update(two, MODEL)


@pytest.mark.parametrize(
    "other",
    [
        reply(accuracy=0.5),  # another metric
        reply(loss=0.5, accuracy=0.5),  # one more
        reply(loss=[0.5]),  # a list where others send a number
        RecordDict(
            {"weights": record(MODEL), "metrics": MetricRecord({"num-examples": 1, "loss": 1.0})}
        ),
        RecordDict({"arrays": record(MODEL), "m": MetricRecord({"num-examples": 1, "loss": 1.0})}),
    ],
)
def test_a_reply_of_another_form_is_refused(other: RecordDict) -> None:
    """Each of these makes Flower's own consistency check, or its averaging, raise."""
    usual = form(reply(loss=0.5))
    assert ReplyFilter().weight(reply(loss=0.25), usual) == 10.0
    with pytest.raises(ParameterError, match=r"it holds records .*, others sent records"):
        ReplyFilter().weight(other, usual)


def test_the_usual_form_is_the_majoritys_whoever_comes_first() -> None:
    odd, common = reply(loss=0.5, x=1.0), reply(loss=0.5)
    assert usual_form([odd, common, common]) == form(common)
    assert usual_form([odd, reply(y=1.0)]) == form(odd)  # nobody agrees: the first
    assert usual_form([]) is None
