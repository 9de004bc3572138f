"""Checks, in a simulation, that an opened sum is the sum: what no server could check.

The simulated devices note down what they encode before it is masked. The oracle adds up the
survivors' notes on the same grid and compares with what the server opened: equal bit for bit, or
the protocol is wrong. What devices send in the clear is noted with its noise, and added up too.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import TypeAlias

import numpy as np
from flwr.app import Context, Message

from tacit.client.app import SecureClientApp
from tacit.client.device import Device, DeviceOf, simulated_device
from tacit.client.pipeline import Contribution, Stated, private_update, received_arrays
from tacit.client.policy import Policy
from tacit.crypto.codec import Ring
from tacit.crypto.secagg.clear import Integers
from tacit.crypto.secagg.noised import Noised
from tacit.crypto.secagg.session import Purpose, Session
from tacit.crypto.vector import Difference, Floats
from tacit.privacy.mechanisms import Mechanism
from tacit.server.events import Event, LeftOut
from tacit.server.inbox import Seen
from tacit.simulations.engine.device import FIRST_NODE_ID

Trained: TypeAlias = Callable[[int, int, Floats], None]


@dataclass(slots=True)
class Oracle:
    """Notes of one run. `exact` and `checked` count the training sums of it; `working` are the
    seconds that devices spent in their own train and evaluate functions.

    Only for devices in this process: with worker processes there is nothing to note down.

    `trained`, if there is one, is told of each update that a device's function answers with: its
    round, the device's node, and trained - sent.
    """

    trained: Trained | None = None
    exact: int = 0
    checked: int = 0
    working: float = 0.0
    _notes: dict[int, dict[int, "_Note"]] = field(default_factory=dict)
    _gone: dict[int, set[int]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, session: Session, device: int, encoded: Ring) -> None:
        """A device is about to mask `encoded`."""
        if session.purpose is Purpose.TRAIN:
            with self._lock:
                noted = _Note(session, encoded.copy())
                self._notes.setdefault(session.round, {})[device] = noted

    def note_shown(self, session: Session, device: int, shown: Integers) -> None:
        """The same device is about to send this beside it, in the clear."""
        with self._lock:
            self._notes[session.round][device].shown = shown

    def worked(self, seconds: float) -> None:
        """A device's own function has returned after so long."""
        with self._lock:
            self.working += seconds

    def heard(self, event: Event) -> None:
        """A device whose report did not arrive is not part of the sum."""
        if isinstance(event, LeftOut) and event.stage == "report":
            self._gone.setdefault(event.round, set()).add(event.device)

    def saw(self, seen: Seen) -> None:
        """The server opened a sum: compare it with the notes."""
        if seen.clients == 1:  # one device's part in the clear
            return
        notes, gone = self._notes.get(seen.round, {}), self._gone.get(seen.round, set())
        # Of a round there are as many sums as groups, and a device is in one.
        members = {member - FIRST_NODE_ID + 1 for member in seen.members}
        sums = {note.session.id for device, note in notes.items() if device in members}
        asked = {device: note for device, note in notes.items() if note.session.id in sums}
        for device in asked:
            del notes[device]
        kept = [note for device, note in asked.items() if device not in gone]
        if not kept:
            return
        codec, clear = kept[0].session.codec, kept[0].session.clear
        total = np.zeros(codec.size, codec.dtype)
        for note in kept:
            total += note.encoded
        mean = codec.decode(total, len(kept))
        if isinstance(codec, Noised):
            expected = Mechanism.of(codec).update(mean, kept[0].session.id)
        elif clear is not None:
            shown = [note.shown for note in kept if note.shown is not None]
            expected = clear.joined(mean, np.sum(shown, axis=0), codec).update
        else:
            expected = mean.update
        update = np.concatenate([np.ravel(array) for array in seen.update.values()])
        self.checked += 1
        self.exact += bool(np.array_equal(expected, update))


@dataclass(slots=True)
class _Note:
    """What one device has sent, as it was before anything hid it."""

    session: Session
    encoded: Ring
    shown: Integers | None = None


class ObservedClientApp(SecureClientApp):
    """A SecureClientApp of a simulation whose devices let the oracle look at what they encode."""

    def __init__(
        self,
        oracle: Oracle,
        policy: Policy | None = None,
        device_of: DeviceOf = simulated_device,
    ) -> None:
        super().__init__(policy, device_of)
        self._oracle = oracle

    def _run_app(self, message: Message, context: Context) -> Message:
        began = perf_counter()
        reply = super()._run_app(message, context)
        self._oracle.worked(perf_counter() - began)
        if self._oracle.trained is not None and message.metadata.message_type.startswith("train"):
            sent = received_arrays(message.content)
            update = private_update(reply.content, sent, Stated.of(reply.content))
            whole = update.whole() if isinstance(update, Difference) else update
            self._oracle.trained(int(message.metadata.group_id), context.node_id, whole)
        return reply

    def _encode(self, session: Session, device: Device, given: Contribution) -> Ring:
        encoded = super()._encode(session, device, given)
        self._oracle.note(session, device.number, encoded)
        return encoded

    def _shown(
        self, session: Session, device: Device, given: Contribution, noise: Integers | None
    ) -> Integers | None:
        shown = super()._shown(session, device, given, noise)
        if shown is not None:
            self._oracle.note_shown(session, device.number, shown)
        return shown
