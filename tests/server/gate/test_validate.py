"""Whatever bytes come, they are inputs by the card's schema, or refused with a path."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tacit.crypto.errors import ParameterError
from tacit.server.gate.base import Denial
from tacit.server.gate.card import Card
from tacit.server.gate.validate import Form, form_of, inputs
from tests.server.gate.fakes import CARD, SHAPE, rows

GOOD = rows(1, 3)
NUMBERS = st.one_of(st.floats(), st.integers(), st.booleans(), st.none(), st.text(max_size=5))
JSONS = st.recursive(
    NUMBERS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def said(x: object) -> bytes:
    return json.dumps({"inputs": x}).encode()


def read(body: bytes, form: Form = Form.JSON) -> np.ndarray:
    """What is read is what the schema says, always."""
    x = inputs(body, form, CARD)
    assert x.dtype == np.float32
    assert x.shape[1:] == SHAPE
    assert 1 <= len(x) <= CARD.most
    assert ((x >= CARD.low) & (x <= CARD.high)).all()
    return x


@given(npst.arrays(np.float32, st.tuples(st.integers(1, 8), *map(st.just, SHAPE)),
                   elements=st.floats(0, 1, width=32)))  # fmt: skip
def test_both_forms_say_the_same(x: np.ndarray) -> None:
    assert np.array_equal(read(said(x.tolist())), x)
    assert np.array_equal(read(x.astype("<f4").tobytes(), Form.BINARY), x)


def read_or_refused(body: bytes, form: Form) -> None:
    """Any other error is a bug."""
    try:
        read(body, form)
    except Denial as denial:
        if (denial.stage, denial.status) != ("validate", 422):
            raise


@given(st.binary(max_size=400), st.sampled_from(Form))
def test_any_bytes_are_read_or_refused(body: bytes, form: Form) -> None:
    read_or_refused(body, form)


@given(JSONS | st.fixed_dictionaries({"inputs": JSONS}))
def test_any_json_is_read_or_refused(value: object) -> None:
    read_or_refused(json.dumps(value).encode(), Form.JSON)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "expected an object"),
        (b"{}", "expected inputs, and nothing else"),
        (b'{"inputs": [], "more": 1}', "and nothing else"),
        (b'{"inputs": NaN}', "not JSON"),
        (b'{"inputs": [' + b"9" * 5000 + b"]}", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"inputs": ' + b"[" * 200 + b"]" * 200 + b"}", "inputs"),
        (said([]), "shape"),
        (said({"a": 1}), "nested lists of numbers"),
        (said("0.5"), "nested lists of numbers"),
        (said([[["0.5"] * 3] * 2]), "nested lists of numbers"),
        (said([[[["0.5"] * 3] * 2]]), "nested lists of numbers"),
        (said([[[[None] * 3] * 2]]), "null are no numbers"),
        (said([[[[True, 0.5, 0.5]] * 2]]), "true, false"),
        (said([[[[10**400] * 3] * 2]]), "nested lists of numbers"),
        (said([[[[0.5] * 3, [0.5] * 2]]]), "one length"),
        (said([[[0.5] * 3] * 2]), r"shape \(1, 2, 3\), expected \(n, 1, 2, 3\)"),
        (said([[[[0.5] * 3] * 2]] * 9), "9 of them, expected 1 to 8"),
        (said([[[[0.5] * 3] * 2], [[[0.5] * 3, [0.5, 1.5, 0.5]]]]),
         r"inputs\[1\]\[0\]\[1\]\[1\]: expected a number from 0 to 1"),
        (said([[[[-1e-9] * 3] * 2]]), r"inputs\[0\]\[0\]\[0\]\[0\]"),
        (b'{"inputs": [[[[1e999,0,0],[0,0,0]]]]}', r"inputs\[0\]\[0\]\[0\]\[0\]"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_by_its_place(body: bytes, reason: str) -> None:
    with pytest.raises(Denial, match=reason) as refused:
        read(body)
    assert refused.value.status == 422
    assert len(refused.value.reason) < 200


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0])
def test_bytes_are_checked_as_numbers_are(bad: float) -> None:
    x = GOOD.copy()
    x[1, 0, 1, 2] = bad
    with pytest.raises(Denial, match=r"inputs\[1\]\[0\]\[1\]\[2\]"):
        read(x.tobytes(), Form.BINARY)
    with pytest.raises(Denial, match="expected a multiple of 24"):
        read(GOOD.tobytes()[:-1], Form.BINARY)
    with pytest.raises(Denial, match="0 of them"):
        read(b"", Form.BINARY)


def test_reasons_do_not_hold_inputs() -> None:
    """They go to whoever reads logs."""
    with pytest.raises(Denial) as refused:
        read(said([[[[0.123456, 7.654321, 0.5]] * 2]]))
    assert "654321" not in str(refused.value)


def test_media_types() -> None:
    assert form_of("application/json; charset=utf-8") is Form.JSON
    assert form_of("Application/Octet-Stream") is Form.BINARY
    for other in ("", "text/plain", "multipart/form-data", "application/x-npy"):
        with pytest.raises(Denial) as refused:
            form_of(other)
        assert refused.value.status == 415


def test_the_largest_honest_request_fits_the_limit() -> None:
    x = np.full((CARD.most, *SHAPE), 0.12345678901234567)
    assert len(json.dumps({"inputs": x.tolist()}, indent=1)) < CARD.body_bytes
    assert len(x.astype(np.float32).tobytes()) < CARD.body_bytes


@pytest.mark.parametrize(
    "fields",
    [
        {"shape": ()},
        {"shape": (0, 2)},
        {"classes": 1},
        {"low": 1.0},
        {"high": float("nan")},
        {"high": float("inf")},
        {"most": 0},
    ],
)
def test_no_card_is_impossible(fields: dict) -> None:
    with pytest.raises(ParameterError):
        Card(**(CARD.fields() | fields))


def test_texts_take_no_memory_however_they_are_sent() -> None:
    """numpy gives each the room of the longest: 65 kB took 1.2 GB, and nothing was charged."""
    body = said(["a" * (CARD.body_bytes * 2 // 3), *[""] * 150])
    tracemalloc.start()
    try:
        with pytest.raises(Denial, match="expected nested lists of numbers"):
            inputs(body, Form.JSON, CARD)
        assert tracemalloc.get_traced_memory()[1] < 100 * len(body)
    finally:
        tracemalloc.stop()


def test_inputs_are_said_once() -> None:
    twice = b'{"inputs": [], ' + said(GOOD.tolist())[1:]
    with pytest.raises(Denial, match="once"):
        inputs(twice, Form.JSON, CARD)


@pytest.mark.parametrize("piece", [b"[]", b"[" * 60 + b"1" + b"]" * 60, b"1", b"[1,1]", b"{}"])
def test_more_pieces_than_there_may_be_are_not_read(
    piece: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A megabyte of brackets took 0.8 s of everybody's time, and nothing was charged."""
    card = Card("large", "ab" * 32, (1, 28, 28), 10)
    count = (card.body_bytes - 100) // (len(piece) + 1)
    body = b'{"inputs": [' + b",".join([piece] * count) + b"]}"
    monkeypatch.setattr("tacit.server.gate.validate._DECODER", None)
    with pytest.raises(Denial, match="more than 64, or nested too deeply"):
        inputs(body, Form.JSON, card)


@pytest.mark.parametrize("shape", [(4,), (1, 2, 3), (2, 3, 4, 5)])
def test_as_many_pieces_as_there_may_be_are_read(shape: tuple[int, ...]) -> None:
    card = Card("toy", "ab" * 32, shape, 4, most=8)
    full = np.full((card.most, *shape), 0.5)
    assert inputs(said(full.tolist()), Form.JSON, card).shape == full.shape
    with pytest.raises(Denial, match="9 of them"):
        inputs(said(np.full((9, *shape), 0.5).tolist()), Form.JSON, card)
