"""Which replies of plain averaging a strategy gets to see.

Flower's strategies take every reply at its word: one wrong key or shape aborts the run, one NaN
makes the model NaN, and a device picks its own weight. Here a reply is checked first, and one that
does not hold is left out with a reason. Under a secure sum nobody can look into a reply; there the
device's own encoder refuses the same things (docs/security.md).
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from flwr.app import Array, RecordDict
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.crypto.vector import Layout
from tacit.server.broadcast import Arrays

Form: TypeAlias = tuple[tuple[str, ...], frozenset[tuple[str, int | None]]]
"""The names of a reply's records, and of its metrics with the length of those that are lists."""


def form(reply: RecordDict) -> Form:
    """What has to be alike in all replies, or Flower's strategies refuse the lot."""
    metrics = (item for record in reply.metric_records.values() for item in record.items())
    lengths = ((name, len(v) if isinstance(v, list) else None) for name, v in metrics)
    return (*reply.array_records, *reply.metric_records), frozenset(lengths)


def usual_form(replies: Iterable[RecordDict]) -> Form | None:
    """The form that most replies have: were it the first one's, one device could shut out all."""
    forms = Counter(map(form, replies)).most_common(1)
    return forms[0][0] if forms else None


@dataclass(frozen=True, slots=True)
class ReplyFilter:
    """What a reply to a train or evaluate message must look like.

    `max_weight` caps what a device may claim as its weight; `max_norm`, if given, the L2 norm of
    its update.
    """

    weight_key: str = "num-examples"
    max_weight: float = 10_000.0
    max_norm: float | None = None

    def update(self, reply: RecordDict, model: Arrays) -> Arrays:
        """`trained - sent`, one array for each of the model's.

        Raises ParameterError, saying what is wrong, for arrays that do not fit the model, are not
        finite, or move it further than `max_norm`.
        """
        records = list(reply.array_records.values())
        if len(records) != 1:
            raise ParameterError(f"{len(records)} array records, expected one")
        trained = {name: _decoded(name, array) for name, array in records[0].items()}
        layout = Layout.of(model)
        flat = layout.difference(trained, model).whole()
        norm = float(np.linalg.norm(flat))
        if not math.isfinite(norm):
            raise ParameterError("the update is not finite")
        if self.max_norm is not None and norm > self.max_norm:
            raise ParameterError(f"the update's norm is {norm:.3g}, at most {self.max_norm:g}")
        return layout.split(flat)

    def weight(self, reply: RecordDict, usual: Form | None = None) -> float:
        """The weight that the reply asks for.

        Raises ParameterError for a weight outside 0 < weight <= max_weight, a metric that is not
        finite, or a form other than the `usual` one.
        """
        records = list(reply.metric_records.values())
        if len(records) != 1:
            raise ParameterError(f"{len(records)} metric records, expected one")
        record = records[0]
        weight = record.get(self.weight_key)
        if not isinstance(weight, int | float) or not 0 < weight <= self.max_weight:
            raise ParameterError(
                f"{self.weight_key} is {weight}, expected 0 < weight <= {self.max_weight:g}"
            )
        if usual is not None and form(reply) != usual:
            raise ParameterError(f"it holds {_words(form(reply))}, others sent {_words(usual)}")
        for name, value in record.items():
            if not _finite(value):
                raise ParameterError(f"metric {name!r} is not finite")
        return float(weight)


def _words(of: Form) -> str:
    return f"records {sorted(of[0])} with metrics {sorted(name for name, _ in of[1])}"


def _finite(value: object) -> bool:
    try:
        return bool(np.all(np.isfinite(np.asarray(value, np.float64))))
    except (OverflowError, TypeError, ValueError):  # an integer beyond any float
        return False


def _decoded(name: str, array: Array) -> NDArray[np.generic]:
    try:
        value: object = array.numpy()
    except Exception as bad:  # numpy's reader raises what it likes for bytes made by a stranger
        raise ParameterError(f"array {name!r} cannot be read ({type(bad).__name__})") from bad
    if not isinstance(value, np.ndarray):  # bytes of an archive make numpy return one
        raise ParameterError(f"array {name!r} is no array")
    return value
