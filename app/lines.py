"""Events and results as JSON lines: for metrics.jsonl and for `--json`."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tacit.server.events import Event
from tacit.server.kinds import Kind


def of_event(event: Event, **more: Any) -> str:
    """One event as a line: its kind under "event", then its fields."""
    return of(fields_of(event, **more))


def fields_of(event: Event | Kind, **more: Any) -> dict[str, Any]:
    """What a line, or an entry of an audit log, says of an event."""
    fields: dict[str, Any] = _finite({"event": type(event).__name__, **asdict(event), **more})
    return fields


def of(fields: Mapping[str, Any]) -> str:
    """One line. A number that is not finite is left out: JSON has no word for it."""
    return json.dumps(_finite(fields), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items() if not _lost(inner)}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


def _lost(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
