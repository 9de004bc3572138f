"""What an audit log says: one JSON object an entry, and the kinds that are no events of a run.

An entry is what happened, when, and digests of what it happened to; never a model, an update, an
input or a key. It is written in one way only, keys sorted and nothing between, so that an entry
that was read and written again is the same bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from tacit.crypto.errors import Damaged, ParameterError


@dataclass(frozen=True, slots=True)
class CohortCommitted:
    """Who is asked in a round, by a digest, before anybody answers."""

    round: int
    devices: int
    digest: str


@dataclass(frozen=True, slots=True)
class EpsilonSpent:
    """What the device that spent most has spent in all, after this round."""

    round: int
    epsilon: float
    delta: float
    unit: str  # client | record


@dataclass(frozen=True, slots=True)
class CheckpointKept:
    """SHA-256 of a checkpoint's file, in hexadecimal digits."""

    round: int
    digest: str


@dataclass(frozen=True, slots=True)
class Released:
    """A finished file that others may be given, by its name and the SHA-256 of its content."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class KeyChanged:
    """A key was made, rotated or revoked: which one, by a public name."""

    key: str
    change: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Something was asked for and not done."""

    asked: str
    reason: str


@dataclass(frozen=True, slots=True)
class Answered:
    """A model's answers, without what was asked or answered: how many, to which key, and a digest
    over the queries."""

    key: str
    queries: int
    digest: str


Kind: TypeAlias = (
    CohortCommitted | EpsilonSpent | CheckpointKept | Released | KeyChanged | Refused | Answered
)


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
