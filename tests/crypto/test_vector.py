"""A model as a vector: nothing is lost there and back, and no two models digest alike."""

import hashlib
import re
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.errors import ParameterError
from tacit.crypto.vector import Arrays, Layout, model_digest
from tests.strategies import RANGES, two_models


@given(two_models())
def test_a_difference_leads_from_one_model_to_the_other(models: tuple[Arrays, Arrays]) -> None:
    old, new = models
    layout = Layout.of(old)
    update = layout.difference(new, old).whole()
    assert update.shape == (layout.size,)
    assert update.dtype == np.float64
    wanted = [new[name].astype("f8").ravel() - old[name].astype("f8").ravel() for name in old]
    assert np.array_equal(update, np.concatenate([*wanted, np.zeros(0)]))
    moved = layout.add(old, update)
    assert list(moved) == list(old)
    for name, array in moved.items():
        assert type(array) is np.ndarray
        assert (array.dtype, array.shape) == (new[name].dtype, new[name].shape)
        assert np.array_equal(array, new[name])


@given(two_models())
def test_split_gives_views_in_the_shapes_of_the_model(models: tuple[Arrays, Arrays]) -> None:
    layout = Layout.of(models[0])
    vector = np.arange(layout.size, dtype=np.float64)
    parts = layout.split(vector)
    assert {name: part.shape for name, part in parts.items()} == {
        name: array.shape for name, array in models[0].items()
    }
    assert np.array_equal(np.concatenate([*(p.ravel() for p in parts.values()), []]), vector)
    for part in parts.values():
        part += 1  # a view: the vector moves with it
    assert np.array_equal(vector, np.arange(layout.size) + 1.0)


@pytest.mark.parametrize(
    ("code", "start", "step", "end"),
    [
        ("u1", 250, 10, 255),  # not 4
        ("u1", 3, -5, 0),  # not 254
        ("i4", 2**31 - 1, 1, 2**31 - 1),
        ("i4", -(2**31), -1, -(2**31)),
        ("i8", 2**62, 2.0**63, 2**63 - 1024),  # the largest float64 an int64 holds
        ("i8", -(2**62), -(2.0**63), -(2**63)),
        ("i4", 2, 0.5, 2),  # halves go to the even neighbour
        ("i4", 2, 0.51, 3),
    ],
)
def test_integers_round_and_stop_at_the_ends_of_their_dtype(
    code: str, start: int, step: float, end: int
) -> None:
    model = {"n": np.array([start], code)}
    assert Layout.of(model).add(model, np.array([step]))["n"].tolist() == [end]


@pytest.mark.parametrize("dtype", ["bool", "c8", "U3", "S2", "O", "M8[s]", np.longdouble])
def test_what_cannot_be_averaged_is_refused(dtype: Any) -> None:
    if np.dtype(dtype) == np.float64:
        pytest.skip("this machine's long double is a float64")
    with pytest.raises(ParameterError, match=r"array 'w' is .*can be averaged"):
        Layout.of({"w": np.zeros(2, dtype)})


MODEL = {"w": np.zeros((2, 3), "f4"), "b": np.zeros(3, "f4")}


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"w": MODEL["w"]}, "array 'b' is missing"),
        (MODEL | {"x": MODEL["b"]}, "array 'x' is not in the model"),
        (MODEL | {"w": np.zeros((3, 2), "f4")}, r"'w' has shape \(3, 2\), the model has \(2, 3\)"),
        (MODEL | {"b": np.zeros((3, 1), "f4")}, r"'b' has shape \(3, 1\), the model has \(3,\)"),
        (MODEL | {"b": np.zeros(3, "f8")}, "'b' is float64, the model has float32"),
        (MODEL | {"b": np.zeros(3, "i4")}, "'b' is int32, the model has float32"),
    ],
)
def test_another_layout_is_refused(other: Arrays, says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        Layout.of(MODEL).difference(other, MODEL)


@pytest.mark.parametrize("shape", [(8,), (10,), (9, 1), ()])
def test_an_update_of_another_size_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ParameterError, match="the model has 9"):
        Layout.of(MODEL).add(MODEL, np.zeros(shape))


def test_byte_order_and_memory_order_are_no_part_of_a_model() -> None:
    plain = {"w": np.arange(6, dtype="<f4").reshape(2, 3)}
    turned = {"w": np.asfortranarray(plain["w"].astype(">f4"))}
    assert Layout.of(turned) == Layout.of(plain)
    assert model_digest(turned) == model_digest(plain)
    assert Layout.of(plain).difference(turned, plain).whole().tolist() == [0.0] * 6


_LONE = np.array([1.0, 2.0], "f4")
CHANGES: dict[str, Arrays] = {
    "as it is": {"a": _LONE, "b": np.array([3], "i4")},
    "another name": {"a": _LONE, "c": np.array([3], "i4")},
    "another order": {"b": np.array([3], "i4"), "a": _LONE},
    "names swapped": {"b": _LONE, "a": np.array([3], "i4")},
    "another value": {"a": _LONE + 1, "b": np.array([3], "i4")},
    "the same bits as another dtype": {"a": _LONE.view("i4"), "b": np.array([3], "i4")},
    "signed for unsigned": {"a": _LONE, "b": np.array([3], "u4")},
    "the same numbers, wider": {"a": _LONE.astype("f8"), "b": np.array([3], "i4")},
    "another shape": {"a": _LONE.reshape(1, 2), "b": np.array([3], "i4")},
    "0-d for one element": {"a": _LONE, "b": np.array(3, "i4")},
    "one array more, empty": {"a": _LONE, "b": np.array([3], "i4"), "": np.zeros(0, "f4")},
    "one array less": {"a": _LONE},
    "two arrays as one": {"ab": np.concatenate([_LONE, np.array([3], "i4").view("f4")])},
    "minus zero": {"a": np.array([-0.0]), "b": np.array([3], "i4")},
    "zero": {"a": np.array([0.0]), "b": np.array([3], "i4")},
    "a letter moved from name to name": {"aa": _LONE, "": np.array([3], "i4")},
    "empty, 2 x 0": {"a": np.zeros((2, 0))},
    "empty, 0 x 2": {"a": np.zeros((0, 2))},
    "two empty arrays": {"a": np.zeros(0, "u1"), "b": np.zeros(0, "u1")},
    "one, named as both are written": {
        "a|u1" + "\x01\0\0\0" + "\0" * 8 + "b": np.zeros(0, "u1"),
    },
    "no array": {},
}


def test_every_change_shows_in_the_digest() -> None:
    digests = {what: model_digest(model) for what, model in CHANGES.items()}
    assert {len(digest) for digest in digests.values()} == {32}
    assert len(set(digests.values())) == len(CHANGES)


OF_VALUES = {"another value", "zero"}


def test_the_fingerprint_shows_every_change_of_structure_and_none_of_values() -> None:
    found = {what: Layout.of(model).fingerprint for what, model in CHANGES.items()}
    assert found["another value"] == found["as it is"]
    assert found["zero"] == found["minus zero"]
    assert len({found[what] for what in CHANGES.keys() - OF_VALUES}) == len(CHANGES) - 2
    assert all(re.fullmatch("[0-9a-f]{64}", each) for each in found.values())


def test_the_fingerprint_of_a_structure_stays() -> None:
    """Owners have written it down. Here it is worked out from the definition."""
    entries = [(b"a", b"<f4", (2, 3)), (b"b", b"<i8", ())]
    encoded = b"tacit v2 model structure"
    for name, code, shape in entries:
        encoded += struct.pack("<II", len(name), len(code)) + name + code
        encoded += struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    model = {"a": np.zeros((2, 3), "f4"), "b": np.zeros((), "i8")}
    assert Layout.of(model).fingerprint == hashlib.sha256(encoded).hexdigest()


@given(two_models(), st.booleans())
def test_digests_are_alike_for_equal_models_only(
    models: tuple[Arrays, Arrays], copied: bool
) -> None:
    first, second = models
    if copied:
        second = {name: array.copy() for name, array in first.items()}
    same = all(first[name].tobytes() == second[name].tobytes() for name in first)
    assert (model_digest(first) == model_digest(second)) is same


def test_the_ranges_of_these_tests_are_exact() -> None:
    """Or the round trip above would pass by rounding alone."""
    for code, (low, high, denominator) in RANGES.items():
        for number in (low, high, low + 1, high - 1):
            assert float(np.array(number / denominator).astype(code)) == number / denominator


@given(two_models(), st.integers(1, 7))
def test_a_difference_is_the_same_in_pieces_of_any_size(
    models: tuple[Arrays, Arrays], size: int
) -> None:
    new, old = models
    difference = Layout.of(old).difference(new, old)
    pieces = [piece.copy() for piece in difference.chunks(size)]
    assert all(len(piece) == size for piece in pieces[:-1])
    assert np.array_equal(np.concatenate([np.zeros(0), *pieces]), difference.whole())
    assert difference.shape == difference.whole().shape
