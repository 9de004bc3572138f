"""From what a train function returns to what is encoded: update, metrics, weight.

reply ─> trained - received ─> the largest of it ─> clip ─> [update, metrics, weight] ─> codec
                                             │         └─> clear part, if any ─> noise
                                             └─> in a private sum: rotate, clip, round, noise

How much of an update is sent, and how long it may be, its owner says.

Under differential privacy all devices weigh the same, and no metrics leave: either would have to be
paid for.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from tacit.client.policy import Policy
from tacit.client.trainer import Arrays
from tacit.crypto.codec import Codec, Ring
from tacit.crypto.errors import ParameterError, PolicyRefusal
from tacit.crypto.secagg.clear import Clear
from tacit.crypto.secagg.noised import Noised
from tacit.crypto.vector import Difference, Floats, Layout, saved_array
from tacit.privacy.clip import clip, largest

NUMPY = "numpy.ndarray"  # how Flower names what numpy saved
PRIVACY = "tacit.privacy"  # a config record in a reply of a train function: see `Stated`

_NOTHING: tuple[float, tuple[str, ...], Floats] = (1.0, (), np.zeros(0))


@dataclass(frozen=True, slots=True)
class Contribution:
    """One device's input to a sum. `names` are sorted and name `metrics`; `clear` is what of the
    update is not hidden with the rest."""

    update: Floats | Difference
    names: tuple[str, ...]
    metrics: Floats
    weight: float
    clear: Floats | None = None

    def encode(self, codec: Codec, rand: bytes) -> Ring:
        """Rounded with 32 fresh random bytes. Raises ParameterError for values outside the codec's
        bounds, or too many metrics."""
        if len(self.names) > codec.metrics:
            raise ParameterError(
                f"{len(self.names)} metrics, the session has {codec.metrics} slots"
            )
        return codec.encode(self.update, self.metrics, self.weight, rand)


@dataclass(frozen=True, slots=True)
class Stated:
    """What a train function says of its update, for the device alone: nothing of it leaves.

    clip      no example adds more than this to the update, in L2 norm; 0: nothing is said of that
    releases  what it let out with noise of its own: `tacit.privacy.releases.Release`, encoded
    is_update the arrays are what is to be added to the model, in whatever floats, not a new model

    It stands in the reply as a config record named PRIVACY, with these fields. A function with
    noise of its own must not fail for what is in its examples: that would be told, for nothing.
    One that clips them should not either: then all of them are zeros, on account of one.
    """

    clip: float = 0.0
    releases: tuple[bytes, ...] = ()
    is_update: bool = False

    @classmethod
    def of(cls, reply: RecordDict) -> "Stated":
        """Raises ParameterError for a record with other fields, or none that make sense."""
        record = reply.get(PRIVACY)
        if record is None:
            return cls()
        fields = dict(record) if isinstance(record, ConfigRecord) else {"": None}
        clip, releases = fields.pop("clip", 0.0), fields.pop("releases", [])
        is_update = fields.pop("is_update", False)
        is_list = isinstance(releases, list) and all(isinstance(r, bytes) for r in releases)
        is_number = isinstance(clip, float) and 0 <= clip < math.inf
        if fields or not (is_number and is_list and isinstance(is_update, bool)):
            raise ParameterError(
                f"{PRIVACY}: expected clip, a float, releases, a list of bytes, and is_update"
            )
        return cls(clip, tuple(releases), is_update)  # type: ignore[arg-type]  # checked above

    def check(self, agreed: Noised) -> None:
        """Raises PolicyRefusal unless the update is what a private sum takes it for."""
        if not agreed.records:
            return
        if not self.clip:
            raise PolicyRefusal("the train function does not clip what each example adds")
        if self.clip > agreed.clip:
            raise PolicyRefusal("the train function clips what each example adds to more than this")


def received_arrays(content: RecordDict) -> Arrays:
    """The model in a message. Raises ParameterError unless there is exactly one."""
    models = all_arrays(content)
    if len(models) != 1:
        raise ParameterError(f"{len(models)} array records, expected exactly one")
    return models[0]


def all_arrays(content: RecordDict) -> list[Arrays]:
    """All models in a message."""
    records = content.array_records.values()
    return [{name: _view(array) for name, array in record.items()} for record in records]


def _view(array: Array) -> NDArray[Any]:
    """What `array.numpy()` gives, read-only and without a copy where its bytes are plain.

    Flower's way copies a model twice.
    """
    read = saved_array(array.data) if array.stype == NUMPY else None
    return array.numpy() if read is None else read  # Flower says what is wrong with an array


def contribution(
    reply: RecordDict,
    received: Arrays | None,
    weight_key: str,
    policy: Policy,
    clear: Clear | None = None,
    *,
    alike: bool = False,
) -> Contribution:
    """What a reply adds to the sum; `received` is the model sent, None for an evaluation; `clear`
    is the session's. `alike` is the update alone, weighing as much as any other: metrics are not
    even looked at, as a refusal would tell something of them.

    Only the arrays and the single-number metrics of a reply go on. Raises ParameterError for
    arrays that do not fit the model, a metric that is a list or not finite, a missing weight, or a
    clear part that is not in the model.
    """
    weight, names, metrics = _NOTHING if alike else _metrics(reply, weight_key)
    if received is None:
        return Contribution(np.zeros(0), names, metrics, weight)
    changed = Layout.of(received).difference(received_arrays(reply), received)
    update = _within(changed, policy)
    if clear is None:
        return Contribution(update, names, metrics, weight)
    hidden, shown = clear.split(update)
    return Contribution(hidden, names, metrics, weight, shown)


def private_update(
    reply: RecordDict, received: Arrays, stated: Stated, keep: float = 1.0
) -> Floats | Difference:
    """What goes into a private sum: of an update without noise of its own, the share `keep` that
    is largest. Raises ParameterError for arrays that do not fit the model; whatever values they
    have, `Mechanism.encode` knows what to do with them."""
    layout, arrays = Layout.of(received), received_arrays(reply)
    if not stated.is_update:
        changed = layout.difference(arrays, received)
        return changed if keep == 1 else largest(changed.whole(), keep)
    wanted = {entry.name: entry.shape for entry in layout.entries}
    if {name: array.shape for name, array in arrays.items()} != wanted:
        raise ParameterError("the arrays of the update are not those of the model")
    flat = [np.ravel(arrays[name]).astype(np.float64) for name in wanted]
    return np.concatenate([np.zeros(0), *flat])


def _within(update: Difference, policy: Policy) -> Floats | Difference:
    """As much of the update as the owner lets out."""
    if policy.keep == 1 and policy.max_norm is None:
        return update
    kept = largest(update.whole(), policy.keep)
    return kept if policy.max_norm is None else clip(kept, policy.max_norm)


def _metrics(reply: RecordDict, weight_key: str) -> tuple[float, tuple[str, ...], Floats]:
    records = list(reply.metric_records.values())
    if len(records) != 1:
        raise ParameterError(f"{len(records)} metric records in the reply, expected exactly one")
    record: MetricRecord = records[0]
    if weight_key not in record:
        raise ParameterError(f"the reply has no {weight_key!r}, the weight of this device")
    for name, value in record.items():
        if not isinstance(value, int | float):
            raise ParameterError(f"metric {name!r} is a list: only single numbers are summed")
        if not math.isfinite(value):
            raise ParameterError(f"metric {name!r} is not finite")
    names = tuple(sorted(name for name in record if name != weight_key))
    values = np.array([record[name] for name in names], dtype=np.float64)
    return float(record[weight_key]), names, values  # type: ignore[arg-type]
