"""How the stages travel as Flower messages: the names that device and server both use.

`report` rides in the strategy's own train or evaluate message, beside the model. The other stages
are queries of their own; `encapsulate` and `decapsulate` are asked in hybrid runs only, `deal` and
`key` where devices share one.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from tacit.crypto import labels
from tacit.crypto.errors import ParameterError
from tacit.crypto.wire import Writer

Value: TypeAlias = int | float | str | bytes | bool | Sequence["Value"]

ENROL = "query.tacit_enrol"
ENCAPSULATE = "query.tacit_encapsulate"
DECAPSULATE = "query.tacit_decapsulate"
DEAL = "query.tacit_deal"
KEY = "query.tacit_key"
ATTEST = "query.tacit_attest"
REVEAL = "query.tacit_reveal"

RECORD = "tacit"  # the ConfigRecord of every stage message
ROSTER = "roster"
HYBRID = "hybrid"  # whether the run is; a request to enrol without it is for one that is not
RUN_KEY = "run-key"
KEM_KEY = "kem-key"
SESSION = "session"
WEIGHT_KEY = "weight-key"  # which of a reply's metrics is its weight
MESSAGE = "message"

# A refusal after which there is nothing to ask for any more. What is left is the owner's business:
# told to servers, it would be a name across runs.
BUDGET_IS_SPENT = "this device's owner allows no more (policy.epsilon)"
# Refusals that the server can mend.
NOT_ENROLLED = "this device is not enrolled in the run"
NO_GROUP_KEY = "this device does not hold the key of the epoch"
BAD_GROUP_KEY = "this device does not take the key"


def config_digest(
    config: Mapping[str, Value], weight_key: str, kind: str, names: Sequence[str]
) -> bytes:
    """32 bytes that two parties share only if they hold the same training configuration.

    `kind` is the message type: it says which of a device's functions is asked for. `names` are
    those of the records of the message, which a function may look up.

    Every value carries its type and its length, so no two configurations encode alike. Raises
    ParameterError for a value of another type.
    """
    frame = {"kind": kind, "weight key": weight_key, "names": sorted(names)}
    return _digest(labels.CONFIG_DIGEST, frame, config)


def setup_digest(run_config: Mapping[str, Value]) -> bytes:
    """32 bytes that stand for a run's configuration, which reaches each device past the session."""
    return _digest(labels.SETUP_DIGEST, run_config)


def _digest(label: bytes, *parts: Mapping[str, Value]) -> bytes:
    writer = Writer()
    for part in parts:
        writer.u32(len(part))
        for key in sorted(part):
            writer.text(key)
            _write(writer, part[key])
    return hashlib.sha256(label + writer.data()).digest()


def _write(writer: Writer, value: Value) -> None:
    if isinstance(value, bool):
        writer.u8(0).u8(value)
    elif isinstance(value, int):
        writer.u8(1).text(str(value))
    elif isinstance(value, float):
        writer.u8(2).text(value.hex())
    elif isinstance(value, str):
        writer.u8(3).text(value)
    elif isinstance(value, bytes):
        writer.u8(4).blob(value)
    elif isinstance(value, Sequence):
        writer.u8(5).u32(len(value))
        for item in value:
            _write(writer, item)
    else:
        raise ParameterError(f"configuration holds a {type(value).__name__}")
