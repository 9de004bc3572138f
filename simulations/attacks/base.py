"""What an adversary on the server does, sees, is granted, and gives back.

A server keeps what it saw, whether it follows the protocol or not. An attack is built from that
alone: a `View` comes from `tacit.server.inbox.Seen` and from grants that are named one by one, so
a result can always be read together with what the adversary was given. No attack ever holds the
truth; `tacit.simulations.evaluate` keeps it to itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, Flag, auto
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError
from tacit.server.inbox import Arrays, Seen


class Conduct(Enum):
    """How far the server goes."""

    HONEST = "honest but curious"  # it follows the protocol and keeps what it sees
    MALICIOUS = "malicious"  # it sends whatever models it likes, to whom it likes


class Target(Enum):
    """What an attack guesses at, and the shape of its guesses."""

    INPUTS = "inputs"  # (n, *shape), in data units
    LABELS = "labels"  # (n,) whole numbers, sorted: whose they are is not guessed
    UPDATES = "updates"  # (members, length): each device's own update, in the order of the members
    TOKENS = "tokens"  # (n, length) whole numbers; -1 where there is none
    ROWS = "rows"  # (n, columns): table rows, categories as whole numbers


class Knows(Flag):
    """What the adversary has beyond what the server saw."""

    NOTHING = 0
    LABELS = auto()  # the labels of the inputs, as a multiset: which input has which is not told
    BATCH_SIZE = auto()  # how many inputs the update was computed from
    LEARNING_RATE = auto()  # the devices' local learning rate
    PUBLIC_DATA = auto()  # other examples of the same kind
    CANDIDATES = auto()  # a list of examples, with labels, that all the inputs are on
    STATISTICS = auto()  # mean and standard deviation of the data, per coordinate or one for all

    def words(self) -> str:
        """The grants for a reader: "labels, batch size", or "nothing"."""
        names = (flag.name or "" for flag in Knows if flag in self)
        return ", ".join(name.lower().replace("_", " ") for name in names) or "nothing"


@dataclass(frozen=True, slots=True)
class View:
    """All an attack may look at.

    From the server's inbox: `model` as it was sent, `update` = weighted mean of (trained - sent)
    over `clients` devices, `examples` the sum of their weights, `round`, `protocol`, the `members`
    in it, and `history`: all that this server saw, in order, this update included. The rest is
    None unless `knows` grants it: `labels` are sorted, `batch_size` counts the inputs behind the
    whole update, `public_data` has one example per row, `candidates` is (examples, labels),
    `statistics` is (mean, deviation).
    """

    model: Arrays = field(repr=False)
    update: Arrays = field(repr=False)
    clients: int
    examples: float
    round: int
    protocol: str
    knows: Knows
    members: tuple[int, ...] = ()
    history: tuple[Seen, ...] = field(default=(), repr=False)
    labels: tuple[int, ...] | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    public_data: NDArray[Any] | None = field(default=None, repr=False)
    candidates: tuple[NDArray[Any], NDArray[Any]] | None = field(default=None, repr=False)
    statistics: tuple[NDArray[Any], NDArray[Any]] | None = field(default=None, repr=False)

    @property
    def inputs(self) -> int:
        """How many inputs to look for: granted, or read off the weight, at least one a device."""
        if self.batch_size is not None:
            return self.batch_size
        if self.labels is not None:
            return len(self.labels)
        return max(self.clients, round(self.examples))


@runtime_checkable
class Attack(Protocol):
    """Turns a view into a guess at what is behind the update."""

    @property
    def name(self) -> str: ...

    @property
    def needs(self) -> Knows: ...

    @property
    def conduct(self) -> Conduct: ...

    @property
    def target(self) -> Target: ...

    def reconstruct(self, view: View, rng: np.random.Generator) -> NDArray[Any]:
        """At most `view.inputs` guesses, best first, shaped as `Target` says.

        Deterministic in `view` and `rng`. Raises ParameterError, before any work, if the view
        does not grant what the attack needs or does not fit its model.
        """
        ...


def view_of(
    seen: Seen,
    *,
    history: Sequence[Seen] = (),
    knows: Knows = Knows.NOTHING,
    labels: Sequence[int] | NDArray[np.int64] | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    public_data: NDArray[Any] | None = None,
    candidates: tuple[NDArray[Any], NDArray[Any]] | None = None,
    statistics: tuple[NDArray[Any], NDArray[Any]] | None = None,
) -> View:
    """What the server saw, and exactly the grants named in `knows`; `history` is all of a run.

    Raises ParameterError if a grant has no value, a value was not granted, or the two do not
    agree: a report that names the grants must not be wrong about them.
    """
    _check_grants(
        knows,
        {
            Knows.LABELS: labels,
            Knows.BATCH_SIZE: batch_size,
            Knows.LEARNING_RATE: learning_rate,
            Knows.PUBLIC_DATA: public_data,
            Knows.CANDIDATES: candidates,
            Knows.STATISTICS: statistics,
        },
    )
    if batch_size is not None and batch_size < 1:
        raise ParameterError(f"batch_size={batch_size}, expected at least 1")
    if learning_rate is not None and not learning_rate > 0:
        raise ParameterError(f"learning_rate={learning_rate}, expected above 0")
    # Sorted, because the order of the labels would tell which input belongs to which device.
    known = None if labels is None else tuple(sorted(int(label) for label in labels))
    if known is not None and batch_size is not None and len(known) != batch_size:
        raise ParameterError(f"{len(known)} labels granted for a batch of {batch_size}")
    return View(
        model=seen.model,
        update=seen.update,
        clients=seen.clients,
        examples=seen.weight,
        round=seen.round,
        protocol=seen.protocol,
        knows=knows,
        members=seen.members,
        history=tuple(history) or (seen,),
        labels=known,
        batch_size=batch_size,
        learning_rate=learning_rate,
        public_data=public_data,
        candidates=candidates,
        statistics=statistics,
    )


def require(view: View, needs: Knows, attack: str) -> None:
    """Raise ParameterError if `view` lacks a grant in `needs`."""
    missing = needs & ~view.knows
    if missing:
        raise ParameterError(
            f"{attack} needs to know {missing.words()}: grant it in view_of(knows=...)"
        )


def granted_labels(view: View, attack: str) -> tuple[int, ...]:
    """One label for each input. Raises ParameterError if they are not granted, or not as many."""
    if view.labels is None or len(view.labels) != view.inputs:
        raise ParameterError(f"{attack} needs one label for each of {view.inputs} inputs")
    return view.labels


def require_even(view: View) -> None:
    """Raise ParameterError unless all devices may have equally many of the inputs."""
    if view.inputs % view.clients:
        raise ParameterError(
            f"{view.inputs} inputs cannot be shared out evenly among {view.clients} devices"
        )


def require_shape(shape: tuple[int, ...]) -> None:
    """Raise ParameterError for a shape that no input has."""
    if not shape or min(shape) < 1:
        raise ParameterError(f"shape={shape}, expected positive sides")


def require_range(low: float, high: float) -> None:
    """Raise ParameterError for a range of data that holds none."""
    if not low < high:
        raise ParameterError(f"data range {low}..{high} is empty")


def array_of(arrays: Arrays, name: str, what: str) -> NDArray[np.float64]:
    """One array in float64; ParameterError if it is missing or not finite."""
    if name not in arrays:
        raise ParameterError(f"the {what} has no {name!r}; it has {', '.join(arrays)}")
    found = np.asarray(arrays[name], dtype=np.float64)
    if not np.isfinite(found).all():
        raise ParameterError(f"{name!r} of the {what} is not finite")
    return found


def _check_grants(knows: Knows, values: Mapping[Knows, object]) -> None:
    for grant, value in values.items():
        if grant in knows and value is None:
            raise ParameterError(f"{grant.words()} granted, but no value given")
        if grant not in knows and value is not None:
            raise ParameterError(f"{grant.words()} given, but not granted: name it in `knows`")
