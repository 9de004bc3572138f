"""Rounds of one run of Tacit's secure sum: the real app on each device, the real grid around it."""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from benchmarks.shared.alone import nothing_remembered
from benchmarks.shared.cohort import HEAVIEST, Cohort, Layers
from benchmarks.shared.meter import NOBODY, Meter
from benchmarks.shared.metered_grid import RUN_ID, MeteredGrid
from tacit.client.app import SecureClientApp
from tacit.client.device import Device
from tacit.client.policy import Policy
from tacit.client.vault import ContextVault
from tacit.crypto.identity import KEY_BYTES, Identity, Member, Roster
from tacit.server.encrypted import Encrypted
from tacit.server.events import Event, SumFailed
from tacit.server.flower import identity
from tacit.server.grid import SecureGrid
from tacit.server.pairwise import Pairwise, SecureSum, Shape

WEIGHT = "num-examples"
FOREVER = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Terms:
    """What the server asks for and what the devices agree to."""

    protocol: SecureSum
    policy: Policy

    def shape(self, devices: int) -> Shape:
        """Graph and committee of a cohort that is the whole roster."""
        return self.protocol.shape(devices, devices)


def _asking(**settings: Any) -> Pairwise:
    return Pairwise(precision=16, bound=0.5, max_weight=HEAVIEST, metrics=1, **settings)


TERMS = {
    # As many neighbours and holders of shares as Flower is given, so that the two do the same work.
    # Neither is then safe from a server that picks who drops out: a device has to allow for it.
    "like": Terms(_asking(corrupt=0.0, degree=20, seats=21), Policy(corrupt=0.0, security=0)),
    # What a device insists on if its owner says nothing else.
    "default": Terms(_asking(), Policy()),
    # One in ten in league with the server, and the promise kept but for a chance of 2**-40.
    "crowd": Terms(_asking(corrupt=0.1, drop=0.2), Policy(corrupt=0.1)),
    # Nobody masks: a lattice key for each device, of which the same 11 of 21 open the sum.
    "lattice": Terms(
        Encrypted(bound=0.5, max_weight=HEAVIEST, metrics=1, corrupt=0.0, seats=21),
        Policy(corrupt=0.0, lattice=True),
    ),
    "three": Terms(_asking(corrupt=0.0, min_survivors=3), Policy(corrupt=0.0)),
}


def tacit_rounds(
    cohort: Cohort, meter: Meter, terms: Terms, rounds: int, alone: int = 1
) -> list[Layers]:
    """The means of `rounds` rounds in one run: its devices enrol, and agree on keys, in the first.

    Every `alone`-th device is treated as if it were on a machine of its own: see `is_alone`.
    Raises RuntimeError if a sum is not opened; what a device refuses is an error of its own.
    """
    devices = [
        _TacitDevice(number, cohort, meter, terms.policy, is_alone(number, alone))
        for number in range(cohort.devices)
    ]
    silent = cohort.silent
    inner = MeteredGrid(
        cohort.devices,
        meter,
        lambda device, message: devices[device].handle(message),
        lambda device, message: device in silent and message.metadata.message_type == "train",
    )
    grid = SecureGrid(
        inner, terms.protocol, roster=_roster(cohort.devices), weight_key=WEIGHT, on_event=_listen
    )
    model = _record(cohort.model())
    means = []
    with identity(RUN_ID):
        for number in range(1, rounds + 1):
            meter.round = number
            config = ConfigRecord({"server-round": number})
            content = RecordDict({"arrays": model, "config": config})
            with meter.exchange():
                messages = [Message(content, node, "train") for node in inner.nodes]
                (reply,) = grid.send_and_receive(messages)
            means.append(_layers(reply))
    return means


def committee(devices: int, terms: Terms) -> frozenset[int]:
    """The devices that open the sum of a whole roster."""
    seats = terms.shape(devices).seats
    return frozenset(n - 1 for n in _roster(devices).drawn(seats or devices))


def is_alone(device: int, every: int) -> bool:
    """Whether a device is treated as if it were on a machine of its own (`nothing_remembered`)."""
    return device % every == 0


class _TacitDevice:
    """A device whose training adds the cohort's update to the model."""

    def __init__(
        self, number: int, cohort: Cohort, meter: Meter, policy: Policy, alone: bool
    ) -> None:
        self._number = number
        self._alone = alone
        self._cohort = cohort
        self._meter = meter
        self._context = Context(RUN_ID, number, {}, RecordDict(), {})
        vault = ContextVault(self._context.state)
        device = Device(number + 1, _identity(number + 1), _identity(0).public, vault)
        self._app = SecureClientApp(policy, device_of=lambda context: device)
        self._app.train()(self._train)

    def handle(self, message: Message) -> Message:
        own = nothing_remembered() if self._alone else nullcontext()
        with own, self._meter.charge(self._number):
            return self._app(message, self._context)

    def _train(self, message: Message, context: Context) -> Message:
        with self._meter.charge(NOBODY):
            arrays = _record(self._cohort.update(self._number, self._meter.round))
            metrics = MetricRecord({WEIGHT: self._cohort.weights[self._number], "loss": 0.5})
            return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def _identity(number: int) -> Identity:
    """Device 1, 2, ...; 0 is the authority."""
    return Identity(number.to_bytes(KEY_BYTES, "little"))


@cache
def _roster(devices: int) -> Roster:
    members = [Member(d, _identity(d).public, FOREVER) for d in range(1, devices + 1)]
    return Roster.signed(_identity(0), 1, members, bytes(KEY_BYTES))


def _listen(event: Event) -> None:
    if isinstance(event, SumFailed):
        raise RuntimeError(f"the sum was not opened: {event.reason}")


def _record(layers: Layers) -> ArrayRecord:
    return ArrayRecord({f"layer {number}": Array(layer) for number, layer in enumerate(layers)})


def _layers(reply: Message) -> Layers:
    return [array.numpy() for array in cast(ArrayRecord, reply.content["arrays"]).values()]
