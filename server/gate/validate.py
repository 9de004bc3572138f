"""What is asked of the model is read by its card's schema; anything else is refused with a path.

Big arrays go from JSON to numpy at once: one object of Python a number would cost more than the
model. What is wrong is named by its place, never by its value, so that no input gets into a log.
"""

import json
from enum import StrEnum
from math import prod
from typing import Any, NoReturn

import numpy as np

from tacit.server.gate.base import Denial
from tacit.server.gate.card import FLOAT_BYTES, Card
from tacit.server.gate.model import Floats32

STAGE = "validate"
WRONG = 422


class Form(StrEnum):
    """How inputs are written, by media type."""

    JSON = "application/json"  # {"inputs": [...]}, of shape (n, *shape)
    BINARY = "application/octet-stream"  # float32, little-endian, in C order: n times `shape`


def form_of(content_type: str) -> Form:
    """Raises Denial (415) for another media type."""
    media = content_type.partition(";")[0].strip().lower()
    try:
        return Form(media)
    except ValueError:
        raise Denial(STAGE, 415, f"send {Form.JSON} or {Form.BINARY}") from None


def inputs(body: bytes, form: Form, card: Card) -> Floats32:
    """(n, *shape), 1 <= n <= `card.most`, all in the card's range. Raises Denial (422)."""
    x = _of_bytes(body, card) if form is Form.BINARY else _of_json(body, card)
    if x.shape[1:] != card.shape:
        _refuse(f"inputs: shape {_named(x.shape)}, expected (n, {_named(card.shape)[1:]}")
    if not 1 <= len(x) <= card.most:
        _refuse(f"inputs: {len(x)} of them, expected 1 to {card.most}")
    # Also false for NaN, which passes through both.
    if not (x.min() >= card.low and x.max() <= card.high):
        at = np.argwhere(~((x >= card.low) & (x <= card.high)))[0]
        path = "".join(f"[{i}]" for i in at.tolist())
        _refuse(f"inputs{path}: expected a number from {card.low:g} to {card.high:g}")
    return x.astype(np.float32, copy=False)


def _of_bytes(body: bytes, card: Card) -> Floats32:
    size = FLOAT_BYTES * card.numbers
    if len(body) % size:
        _refuse(f"body: {len(body)} bytes, expected a multiple of {size}")
    return np.frombuffer(body, "<f4").reshape(-1, *card.shape)


def _of_json(body: bytes, card: Card) -> np.ndarray[Any, Any]:
    _check_pieces(body, card)
    try:
        said = _DECODER.decode(body.decode())
    except RecursionError:
        _refuse("body: nested too deeply")
    except ValueError:  # no UTF-8, no JSON, or a number of thousands of digits
        _refuse("body: not JSON, or a number that is none in JSON")
    if not isinstance(said, dict):
        _refuse("body: expected an object with inputs")
    if said.keys() != {"inputs"}:
        _refuse("body: expected inputs, and nothing else")
    # numpy would take them for numbers, and the bodies that are right have these words nowhere.
    if b"true" in body or b"false" in body or b"null" in body:
        _refuse("inputs: true, false and null are no numbers")
    # Of texts numpy makes an array in which each has room for the longest: gigabytes of kilobytes.
    if body.count(b'"') != 2:
        _refuse("inputs: expected nested lists of numbers, and once")
    try:
        x = np.asarray(said["inputs"])
    except (ValueError, OverflowError):
        _refuse("inputs: not all rows are of one length, or they are nested too deeply")
    if x.dtype.kind not in "iuf":
        _refuse("inputs: expected nested lists of numbers")
    return x


def _check_pieces(body: bytes, card: Card) -> None:
    """Counted before they are read: hundreds of thousands of brackets take the better part of a
    second, in which nobody else is answered. Twice as many as there may be are still read, so that
    who sends a few too many inputs is told how many."""
    arrays = 1 + card.most * sum(prod(card.shape[:depth]) for depth in range(len(card.shape)))
    numbers = card.most * card.numbers
    if body.count(b"[") > 2 * arrays or body.count(b",") > 2 * (arrays + numbers):
        _refuse(f"inputs: more than {card.most}, or nested too deeply")


def _constant(name: str) -> NoReturn:
    raise ValueError(name)


def _named(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"


def _refuse(reason: str) -> NoReturn:
    raise Denial(STAGE, WRONG, reason)


# Whole numbers as floats: reading one of thousands of digits as it is takes the square of them.
_DECODER = json.JSONDecoder(parse_constant=_constant)
