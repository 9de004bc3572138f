"""What is written down ahead, so that no sum is opened twice, whenever the server is killed.

Before the leg after which this server can read a sum, an *intent* is durable; and what the sum came
to is durable before anything uses it. A run that goes on finds one of three things for each sum of
the round that it was in:

    nothing      nobody has opened it: devices are asked, in a new session
    an intent    somebody may have: it is lost, the model stays as it was, and nobody is asked again
    an opened sum       it is used, and nobody is asked again

An intent comes before the ledger is charged, and the charge before the sum is opened, so that a
ledger holds no less than what was let out, and nothing twice.

What is kept of an opened sum is the reply that the strategy is handed: the next model, in which a
sum that the server adds noise to has it already. It stays until the checkpoint of the round *after*
it is durable, since the one of its own round may turn out to be damaged.
"""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from tacit.crypto.errors import TacitError
from tacit.crypto.secagg.session import Session
from tacit.server.events import SumOpened

LOST = "the run was interrupted while it was opened: it may have been, so nobody is asked again"
OTHER = "it was opened, and for another model than this round's: nobody is asked again"
_PLACES = "places"  # in groups
_SLACK = 1 << 20  # bytes
_TIMES = (
    4  # as large as its update is what is written of a sum once it is opened: reply, seen, noise
)


class Shelf(Protocol):
    """Named contents; every method is durable when it returns."""

    def read(self, slot: str) -> bytes | None: ...
    def write(self, slot: str, value: bytes) -> None: ...
    def remove(self, slot: str) -> None: ...
    def slots(self) -> list[str]: ...
    def check_room(self, size: int) -> None:
        """Raises OSError if so many bytes have no room: found out before a sum is opened."""
        ...


class Lost(TacitError):
    """A sum that may have been opened, and is not asked for again."""


@dataclass(frozen=True, slots=True)
class Came:
    """What an opened sum came to: the event, and what the strategy is handed."""

    opened: SumOpened
    reply: RecordDict


@dataclass(frozen=True, slots=True)
class Ahead:
    """What is written ahead in one run; nothing, without a shelf: for runs that leave nothing."""

    shelf: Shelf | None = None

    def entry(self, round: int, purpose: str, group: int = 0) -> "Entry":
        """Of one sum: of a round's cohort, or of one of its groups, from 1."""
        return Entry(self.shelf, f"{purpose}_{round}" + (f"_{group}" if group else ""))

    def rounds(self, purpose: str = "") -> set[int]:
        """The rounds of which there is something, or of sums for this purpose only."""
        held = [] if self.shelf is None else self.shelf.slots()
        parts = [slot.split("_") for slot in held]
        return {int(each[1]) for each in parts if purpose in ("", each[0])}

    def drop_before(self, round: int) -> None:
        """Remove what is of earlier rounds: it will not be needed."""
        if self.shelf is None:
            return
        for slot in self.shelf.slots():
            if int(slot.split("_")[1]) < round:
                self.shelf.remove(slot)

    def place(self, round: int, places: Mapping[int, int]) -> None:
        """Keep the group of each device in this round, before any of them is asked."""
        if self.shelf is not None:
            rows = sorted(places.items())
            self.shelf.write(f"{_PLACES}_{round}", json.dumps(rows).encode())

    def places(self, round: int, *, latest: bool) -> dict[int, int]:
        """The group of each device in this round; with `latest`, where it was last. An interruption
        must not put a device whose group was opened into another."""
        rounds = {each for each in self.rounds(_PLACES) if each == round or latest}
        if self.shelf is None or not rounds:
            return {}
        content = self.shelf.read(f"{_PLACES}_{max(rounds)}") or b"[]"
        return {int(device): int(place) for device, place in json.loads(content)}


@dataclass(slots=True)
class Entry:
    """What is written ahead of one sum."""

    shelf: Shelf | None
    slot: str
    _intent: dict[str, Any] | None = None

    @property
    def is_there(self) -> bool:
        """Whether an earlier process wrote it: then nobody is asked for this sum."""
        return self.shelf is not None and self.slot in self.shelf.slots()

    def recall(self, digest: Callable[[], bytes]) -> Came | None:
        """What the sum came to, None if nobody has opened it. `digest` is of the round's model.

        Raises Lost where it may have been opened, and what it came to is not known, or is of
        another model.
        """
        if self.shelf is None or (content := self.shelf.read(self.slot)) is None:
            return None
        index, arrays = _unpacked(content)
        if "opened" not in index:
            raise Lost(LOST)
        if index["model"] != digest().hex():
            raise Lost(OTHER)
        opened = replace(SumOpened(**index["opened"]), recalled=True)
        reply = RecordDict({"metrics": MetricRecord(index["metrics"])})
        if arrays is not None:
            reply["arrays"] = ArrayRecord({name: Array(each) for name, each in arrays.items()})
        return Came(opened, reply)

    def intend(self, session: Session) -> None:
        """The sum of this session may be read from now on; once is enough. Raises OSError where
        there would be no room for what it comes to."""
        if self.shelf is None or self._intent is not None:
            return
        self.shelf.check_room(_SLACK + _TIMES * 8 * session.codec.length)
        intent = {"run": session.run, "session": session.id.hex(), "model": session.model.hex()}
        self.shelf.write(self.slot, _packed(intent, None))
        self._intent = intent

    def forget(self) -> None:
        """It was not to be: nothing was asked that would open the sum."""
        if self.shelf is not None and self._intent is not None:
            self.shelf.remove(self.slot)
            self._intent = None

    def keep(self, came: Came) -> None:
        """Keep what the sum came to."""
        if self.shelf is None or self._intent is None:
            return
        metrics = dict(came.reply["metrics"])
        index = {**self._intent, "opened": asdict(came.opened), "metrics": metrics}
        record = came.reply.get("arrays")
        arrays = None
        if isinstance(record, ArrayRecord):
            arrays = {name: array.numpy() for name, array in record.items()}
        self.shelf.write(self.slot, _packed(index, arrays))


def _packed(index: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]] | None) -> bytes:
    buffer = io.BytesIO()
    named = {**index, "arrays": None if arrays is None else list(arrays)}
    parts = {f"{i}": array for i, array in enumerate((arrays or {}).values())}
    np.savez(buffer, index=np.array(json.dumps(named)), **parts)  # type: ignore[arg-type]
    return buffer.getvalue()


def _unpacked(content: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]] | None]:
    """Raises Lost for what cannot be read: something was written, so the sum may have been
    opened."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            index: dict[str, Any] = json.loads(str(file["index"]))
            names = index.pop("arrays")
            arrays = None if names is None else {n: file[f"{i}"] for i, n in enumerate(names)}
            return index, arrays
    except Exception as bad:  # numpy and zipfile raise what they like for damaged bytes
        raise Lost(f"{LOST} (what was kept of it is damaged)") from bad
