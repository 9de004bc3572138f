"""What can go wrong on a device, asked for on purpose.

A fault names a stage, the devices (by partition id) and, if it is not for good, the rounds:

    Drop("report", {3, 7}, rounds={2, 3})     silent: the message never gets there
    Drop("report", {3}, after=True)           handles the message, then the reply is lost
    Delay(2.5, "enrol", {0, 1})               starts 2.5 s late
    Corrupt("report", {1}, how=Corruption.NAN)
    Crash("reveal", {1})                      dies in the middle of it

`parse_fault` reads the same from one line of text.
"""

import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum, StrEnum
from typing import TypeAlias, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord

from tacit.crypto.errors import ParameterError
from tacit.server.flower import envelope

WEIGHT_KEY = "num-examples"
HUGE_WEIGHT = 10**12

Named = TypeVar("Named", bound=Enum)


class Stage(StrEnum):
    """A device's part in a round. Evaluation is one stage, in the clear or under masks; encapsulate
    and decapsulate are those of hybrid runs, deal and key those of sums under TenSEAL."""

    ENROL = "enrol"
    ENCAPSULATE = "encapsulate"
    DECAPSULATE = "decapsulate"
    DEAL = "deal"
    KEY = "key"
    REPORT = "report"
    ATTEST = "attest"
    REVEAL = "reveal"
    EVALUATE = "evaluate"


_NO_QUERY = (Stage.REPORT, Stage.EVALUATE)  # these ride in the strategy's own messages


class Corruption(Enum):
    """Ready-made ways to spoil a reply; all but the last are for train replies in the clear."""

    NAN = "nan"  # every float array is all NaN
    WRONG_SHAPE = "wrong-shape"  # the first array is flat and one element longer
    OTHER_KEY = "other-key"  # the first array has another name
    HUGE_WEIGHT = "huge-weight"  # "num-examples" is 10**12
    GARBAGE = "garbage"  # every bytes field, arrays too, is random bytes of the same length


Spoil: TypeAlias = Callable[[Message], Message]


@dataclass(frozen=True, slots=True)
class Drop:
    """No reply: the message is lost on its way or, with `after`, handled and its reply lost."""

    stage: str
    devices: Collection[int]
    rounds: Collection[int] | None = None
    after: bool = False

    def __post_init__(self) -> None:
        _normalise(self)


@dataclass(frozen=True, slots=True)
class Delay:
    """The device starts `seconds` late, and misses the deadline if that comes first."""

    seconds: float
    stage: str
    devices: Collection[int]
    rounds: Collection[int] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seconds < float("inf"):
            raise ParameterError(f"a delay of {self.seconds} seconds; expected 0 or more, finite")
        _normalise(self)


@dataclass(frozen=True, slots=True)
class Corrupt:
    """The reply is spoilt on its way, by a function or in one of the ready-made ways.

    GARBAGE draws from (seed, device, round, stage): the same run, the same garbage.
    """

    stage: str
    devices: Collection[int]
    rounds: Collection[int] | None = None
    how: Corruption | Spoil = Corruption.GARBAGE
    seed: int = 0

    def __post_init__(self) -> None:
        _normalise(self)


@dataclass(frozen=True, slots=True)
class Crash:
    """The device dies before it has handled the message; a worker process dies with it."""

    stage: str
    devices: Collection[int]
    rounds: Collection[int] | None = None

    def __post_init__(self) -> None:
        _normalise(self)


Fault: TypeAlias = Drop | Delay | Corrupt | Crash


@dataclass(frozen=True, slots=True)
class Plan:
    """What will happen to one message. `silent`: never handled; `lost`: its reply is."""

    silent: bool = False
    lost: bool = False
    crash: bool = False
    delay: float = 0.0
    spoilers: tuple[Spoil, ...] = ()

    def spoil(self, reply: Message) -> Message | None:
        """The reply as it arrives, None if it does not. A device's error has nothing to spoil."""
        if self.lost:
            return None
        for spoiler in self.spoilers if reply.has_content() else ():
            reply = spoiler(reply)
        return reply


CALM = Plan()


def plan_for(faults: Sequence[Fault], message: Message, device: int) -> Plan:
    """All faults that are due for this message to this device, taken together. Delays add up."""
    if not faults:
        return CALM
    stage, round_ = stage_of(message.metadata.message_type), round_of(message)
    due = [
        fault
        for fault in faults
        if fault.stage == stage
        and device in fault.devices
        and (fault.rounds is None or round_ in fault.rounds)
    ]
    if not due:
        return CALM
    corruptions = (fault for fault in due if isinstance(fault, Corrupt))
    return Plan(
        silent=any(isinstance(fault, Drop) and not fault.after for fault in due),
        lost=any(isinstance(fault, Drop) and fault.after for fault in due),
        crash=any(isinstance(fault, Crash) for fault in due),
        delay=sum(fault.seconds for fault in due if isinstance(fault, Delay)),
        spoilers=tuple(_spoiler(fault, device, round_) for fault in corruptions),
    )


def stage_of(message_type: str) -> Stage | None:
    """The stage a message asks for, None if it asks for something else."""
    category, _, action = message_type.partition(".")
    if category == "train":
        return Stage.REPORT
    if category == "evaluate":
        return Stage.EVALUATE
    for stage in Stage:
        if category == "query" and action == f"tacit_{stage}" and stage not in _NO_QUERY:
            return stage
    return None


def round_of(message: Message) -> int | None:
    """The round a message belongs to: its group if that is a number, else "server-round"."""
    if message.metadata.group_id.isdecimal():
        return int(message.metadata.group_id)
    for record in message.content.values():
        if isinstance(record, ConfigRecord) and isinstance(
            number := record.get("server-round"), int
        ):
            return number
    return None


def check_devices(faults: Iterable[Fault], devices: int) -> None:
    """Raise ParameterError if a fault names a device that the run does not have."""
    for fault in faults:
        if fault.devices and (highest := max(fault.devices)) >= devices:
            raise ParameterError(
                f"a fault at stage {fault.stage} names device {highest}, "
                f"but the devices are 0 to {devices - 1}"
            )


def parse_fault(text: str) -> Fault:
    """One fault from a line of text: in a configuration, on a command line.

        fault  := kind stage numbers ["@" numbers] ["after"]
        kind   := "drop" | "crash" | "delay" SECONDS | "corrupt" how
        stage  := "enrol" | "encapsulate" | "decapsulate" | "deal" | "key" | "report" | "attest"
                  | "reveal" | "evaluate"
        how    := "nan" | "wrong-shape" | "other-key" | "huge-weight" | "garbage"
        numbers := part {"," part};  part := N | N "-" N   (both ends are in)

    The first numbers are devices (partition ids), those behind "@" rounds, without them always.
    "after" is for drop: the device handles the message and the reply is lost.

        drop report 3,7 @2-4        delay 2.5 enrol 0-4       corrupt nan report 1
        drop reveal 3 after         crash report 2 @3

    Raises ParameterError that says which word is wrong and names the nearest known one.
    """
    words = text.replace("@", " @").split()
    try:
        return _parse(words)
    except ParameterError as wrong:
        raise ParameterError(f"fault {text!r}: {wrong}") from None


class _Kind(Enum):
    DROP = "drop"
    DELAY = "delay"
    CORRUPT = "corrupt"
    CRASH = "crash"


def _parse(words: list[str]) -> Fault:
    kind = _known(_take(words, "a kind"), _Kind, "kind")
    seconds, how = 0.0, Corruption.GARBAGE
    if kind is _Kind.DELAY:
        seconds = _seconds(_take(words, "the seconds of the delay"))
    if kind is _Kind.CORRUPT:
        how = _known(_take(words, "how to corrupt"), Corruption, "corruption")
    stage = _known(_take(words, "a stage"), Stage, "stage")
    devices = _ranges(_take(words, 'devices, as in "3,7" or "0-4"'), "devices")
    rounds = None
    if words and words[0].startswith("@"):
        glued = words.pop(0).removeprefix("@")
        rounds = _ranges(glued or _take(words, 'rounds behind "@"'), "rounds")
    after = kind is _Kind.DROP and words == ["after"]
    if words and not after:
        raise ParameterError(f"cannot read {' '.join(words)!r} at its end")
    match kind:
        case _Kind.DROP:
            return Drop(stage, devices, rounds, after)
        case _Kind.DELAY:
            return Delay(seconds, stage, devices, rounds)
        case _Kind.CORRUPT:
            return Corrupt(stage, devices, rounds, how)
        case _Kind.CRASH:
            return Crash(stage, devices, rounds)


def _take(words: list[str], wanted: str) -> str:
    if not words:
        raise ParameterError(f"ends where {wanted} should follow")
    return words.pop(0)


def _seconds(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ParameterError(f"{word!r} is not a number of seconds") from None


def _ranges(word: str, what: str) -> frozenset[int]:
    numbers: set[int] = set()
    for part in word.split(","):
        first, dash, last = part.partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)):
            raise ParameterError(f'{word!r} does not name {what}; write "3", "3,7" or "0-4"')
        low, high = int(first), int(last or first)
        if high < low:
            raise ParameterError(f"{part!r} names no {what}: it runs backwards")
        numbers.update(range(low, high + 1))
    return frozenset(numbers)


def _known(word: str, names: type[Named], what: str) -> Named:
    """The member with value `word`. Raises ParameterError that names the nearest one."""
    values = [str(member.value) for member in names]
    if word in values:
        return names(word)
    near = get_close_matches(word, values, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(values)}"
    raise ParameterError(f"unknown {what} {word!r}; {hint}")


def _normalise(fault: Fault) -> None:
    """Stage as a `Stage`, devices and rounds as frozen sets. Raises ParameterError."""
    object.__setattr__(fault, "stage", _known(fault.stage, Stage, "stage"))
    object.__setattr__(fault, "devices", _counted(fault.devices, "device"))
    if fault.rounds is not None:
        object.__setattr__(fault, "rounds", _counted(fault.rounds, "round"))


def _counted(numbers: Iterable[int], what: str) -> frozenset[int]:
    for number in numbers:
        if number < 0 or number != int(number):
            raise ParameterError(f"{number!r} is not a {what}; expected a whole number from 0")
    return frozenset(numbers)


def _spoiler(fault: Corrupt, device: int, round_: int | None) -> Spoil:
    how = fault.how
    if not isinstance(how, Corruption):
        return how
    entropy = (fault.seed, device, round_ or 0, zlib.crc32(fault.stage.encode()))
    return lambda reply: _corrupt(reply, how, np.random.default_rng(entropy))


def _corrupt(reply: Message, how: Corruption, rng: np.random.Generator) -> Message:
    spoilt = envelope(reply)
    for record in spoilt.content.values():
        if isinstance(record, ArrayRecord):
            _corrupt_arrays(record, how, rng)
        elif isinstance(record, MetricRecord):
            if how is Corruption.HUGE_WEIGHT and WEIGHT_KEY in record:
                record[WEIGHT_KEY] = HUGE_WEIGHT
        elif how is Corruption.GARBAGE:
            _fill_with_garbage(record, rng)
    return spoilt


def _corrupt_arrays(record: ArrayRecord, how: Corruption, rng: np.random.Generator) -> None:
    if how is Corruption.GARBAGE:
        for key, array in record.items():
            data = rng.bytes(len(array.data))
            record[key] = Array(array.dtype, tuple(array.shape), array.stype, data)
    elif how is Corruption.NAN:
        for key, array in record.items():
            values = array.numpy()
            if np.issubdtype(values.dtype, np.floating):
                record[key] = Array(np.full_like(values, np.nan))
    elif record and how is Corruption.WRONG_SHAPE:
        first, array = next(iter(record.items()))
        record[first] = Array(np.append(array.numpy().ravel(), array.numpy().dtype.type(0)))
    elif record and how is Corruption.OTHER_KEY:
        first = next(iter(record))
        record[f"{first}.other"] = record.pop(first)


def _fill_with_garbage(record: ConfigRecord, rng: np.random.Generator) -> None:
    for key, value in record.items():
        if isinstance(value, bytes):
            record[key] = rng.bytes(len(value))
        elif isinstance(value, list):
            items = [item for item in value if isinstance(item, bytes)]
            record[key] = [rng.bytes(len(item)) for item in items] or value
