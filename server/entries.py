"""How an entry of an audit log is written and read: one JSON object, in one way only.

Keys are sorted and nothing is between, so that an entry that was read and written again is the same
bytes. What it may say is an event of a run, or one of `tacit.server.kinds`.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from types import NoneType
from typing import Any, get_args, get_type_hints

from tacit.crypto.errors import Damaged, ParameterError
from tacit.server.events import Event, Metrics
from tacit.server.kinds import Kind

LONGEST_REASON = 500  # characters of a stranger's text that anybody is shown
_LARGEST = (1 << 64) - 1  # of a whole number
_YEAR_10000 = 253_402_300_800  # where times end that calendars can show
_KINDS = {kind.__name__: kind for kind in (*get_args(Event), *get_args(Kind))}


@dataclass(frozen=True, slots=True)
class Noted:
    """An entry that was read; `at` is Unix time in seconds."""

    at: float
    entry: Event | Kind


def one_line(text: str) -> str:
    """What may be a stranger's text as one line that is safe to print and not too long."""
    line = "".join(c if c.isprintable() else " " for c in text[: LONGEST_REASON + 1])
    return line if len(line) <= LONGEST_REASON else line[:LONGEST_REASON] + "..."


def noted(said: Mapping[str, Any]) -> bytes:
    """One entry about something that happened. All its texts are made `one_line` each."""
    return encode(_told(said))


def encode(fields: Mapping[str, Any]) -> bytes:
    """One entry. Raises ParameterError for what JSON has no word for, such as infinity."""
    try:
        text = json.dumps(
            fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
        return text.encode()
    except (TypeError, ValueError) as bad:
        raise ParameterError(f"an entry of an audit log has to be JSON: {bad}") from None


def decode(entry: bytes) -> dict[str, Any]:
    """The fields of an entry. Raises Damaged for anything that `encode` does not write."""
    try:
        fields = json.loads(entry)
        if isinstance(fields, dict) and encode(fields) == entry:
            return fields
    except (ValueError, RecursionError):
        pass
    raise Damaged("an entry that is no JSON object as this log's keeper writes them")


def read(entry: bytes) -> Noted:
    """What an entry says. Raises Damaged for a kind that is not known here, a field that it does
    not have, one that is missing, and a value that `noted` does not write.

    A kind may get more fields, with defaults, and never loses one: so old entries can be read.
    """
    said = decode(entry)
    name, at = said.pop("event", None), said.pop("at", None)
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise Damaged("an entry of no kind that this version knows")
    if not (_fits(at, float) and 0 <= at < _YEAR_10000):
        raise Damaged(f"an entry {name} without a time")
    if (fault := _fault(kind, said)) is not None:
        raise Damaged(f"an entry {name} {fault}")
    return Noted(at, kind(**said))


def _fault(kind: type, given: Mapping[str, Any]) -> str | None:
    """Why these are not the fields of such an entry, None if they are."""
    known, hints = {each.name: each for each in fields(kind)}, get_type_hints(kind)
    for name in given:
        if name not in known:
            return f"with a field too many: {one_line(name)}"
    for name, field in known.items():
        if name in given:
            if not _fits(given[name], hints[name]):
                return f"with a wrong {name}"
        elif field.default is MISSING and field.default_factory is MISSING:
            return f"without its {name}"
    return None


def _told(value: Any) -> Any:
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, Mapping):
        return {one_line(name): _told(inner) for name, inner in value.items()}
    return value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a field of this type may have this value."""
    if hint == Metrics:
        return isinstance(value, dict) and all(
            _fits(name, str) and _fits(number, float) for name, number in value.items()
        )
    if hint is str:
        return isinstance(value, str) and one_line(value) == value
    if hint is bool:
        return type(value) is bool
    if hint is int:
        return type(value) is int and 0 <= value <= _LARGEST
    if hint is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    return any(_fits(value, each) for each in get_args(hint)) or (
        value is None and NoneType in get_args(hint)
    )
