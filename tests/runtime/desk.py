"""A server played by hand: every message is built here, sent to a real device, and looked at.

A test changes one thing on the way and sees what the device makes of it. Devices are those of a
simulation: device d is partition d - 1, its identity is `simulated_identity(d)`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
    UserConfig,
)

from tacit.client.app import SecureClientApp
from tacit.client.device import DeviceOf, simulated_device
from tacit.client.policy import Policy
from tacit.crypto.codec import Mean
from tacit.crypto.identity import Roster, RunKey
from tacit.crypto.secagg import stages
from tacit.crypto.secagg.hybrid import (
    Capsule,
    DecapsulateRequest,
    Encapsulated,
    EncapsulateRequest,
    Peer,
)
from tacit.crypto.secagg.messages import AttestRequest, RevealRequest
from tacit.crypto.secagg.revealing import Revealing
from tacit.crypto.secagg.server import Attesting, Collecting
from tacit.crypto.secagg.session import Purpose, Session
from tacit.crypto.simulated import simulated_roster
from tacit.crypto.vector import Layout, model_digest
from tacit.crypto.wire import Reader
from tacit.server.flower import assign_message_id
from tacit.server.pairwise import Binding, Pairwise, SecureSum
from tacit.simulations.engine.device import handle
from tests.runtime import linear
from tests.runtime.linear import TrainReply

RUN = 7
NAMES = ("arrays", "config")  # the records of a strategy's message


def context(partition: int, run: int = RUN, run_config: Mapping[str, Any] | None = None) -> Context:
    config: UserConfig = {"partition-id": partition}
    return Context(run, 1000 + partition, config, RecordDict(), dict(run_config or {}))


def message(content: RecordDict, kind: str, node: int = 1000) -> Message:
    built = Message(content, node, kind)
    assign_message_id(built, "a message")
    return built


def stage(**fields: bytes | str | bool) -> RecordDict:
    """The content of a stage message; `run_key` stands for the field "run-key"."""
    named = ConfigRecord({name.replace("_", "-"): value for name, value in fields.items()})
    return RecordDict({stages.RECORD: named})


def answer(app: SecureClientApp, message: Message, context: Context) -> Message | Error:
    """The device's reply as it travels: an exception is an error with the text Flower gives it."""
    reply = handle(app, message, context).reply
    return reply.error if reply.has_error() else reply


class Desk:
    """A server, and `devices` devices that run the linear federation.

    `train`, if given, is what their train function returns instead.
    """

    def __init__(
        self,
        devices: int = 4,
        *,
        policy: Policy | None = None,
        device_of: DeviceOf = simulated_device,
        train: TrainReply = linear.train_reply,
        protocol: SecureSum | None = None,
    ) -> None:
        self.app = SecureClientApp(policy, device_of)
        linear.register(self.app, train)
        self.roster: Roster = simulated_roster(devices)
        self.protocol = protocol or Pairwise()
        self.contexts = {device: context(device - 1) for device in range(1, devices + 1)}
        self.model: ArrayRecord = linear.initial()
        self.keys: dict[int, RunKey] = {}
        self.kem: dict[int, bytes] = {}  # ML-KEM keys, in a hybrid run

    def ask(self, device: int, kind: str, content: RecordDict) -> RecordDict:
        """Raises what the device raises."""
        return self.app(message(content, kind), self.contexts[device]).content

    def hear(self, device: int, kind: str, content: RecordDict) -> str:
        """What travels back as the reason of an error; empty if a reply does."""
        reply = answer(self.app, message(content, kind), self.contexts[device])
        return (reply.reason or "no reason") if isinstance(reply, Error) else ""

    def enrol(self, devices: Sequence[int] | None = None) -> "Desk":
        for device in devices or self.contexts:
            hybrid = {"hybrid": True} if self.protocol.hybrid else {}
            reply = self.ask(device, stages.ENROL, stage(roster=self.roster.encode(), **hybrid))
            data = field(reply, stages.RUN_KEY)
            self.keys[device] = RunKey.read(Reader(data, sender=device, stage="enrol"))
            if self.protocol.hybrid:
                self.kem[device] = field(reply, stages.KEM_KEY)
        return self

    def capsules(self, device: int, peers: Iterable[int]) -> dict[int, Capsule]:
        """Stage encapsulate: what `device` seals for `peers`."""
        asked = EncapsulateRequest(tuple(Peer(self.keys[d], self.kem[d]) for d in peers))
        reply = self.ask(device, stages.ENCAPSULATE, stage(message=asked.encode()))
        return dict(Encapsulated.decode(field(reply), sender=device).capsules)

    def open(self, device: int, capsules: Mapping[int, Capsule]) -> None:
        """Stage decapsulate: `device` is given capsules, by dealer."""
        told = DecapsulateRequest(tuple((self.keys[d], capsules[d]) for d in sorted(capsules)))
        reply = self.ask(device, stages.DECAPSULATE, stage(message=told.encode()))
        assert not reply.config_records[stages.RECORD]

    def exchange(self) -> "Desk":
        """Both stages, everyone answering."""
        sealed = {d: self.capsules(d, (p for p in self.keys if p > d)) for d in self.keys}
        for device in self.keys:
            self.open(device, {d: sealed[d][device] for d in self.keys if d < device})
        return self

    def config(self, round: int) -> dict[str, Any]:
        return {"server-round": round}

    def session(
        self,
        round: int = 1,
        purpose: Purpose = Purpose.TRAIN,
        kind: str | None = None,
        cohort: Sequence[int] | None = None,
        cohort_keys: Sequence[RunKey] = (),
        **changes: Any,
    ) -> Session:
        """The session of an honest server, but for `changes` to its fields."""
        model = linear.arrays_of(self.model)
        kind = kind or purpose.name.lower()
        session = self.protocol.session(
            RUN,
            round,
            purpose,
            asked := cohort_keys or [self.keys[device] for device in cohort or self.keys],
            self.roster,
            {d: key for d, key in self.keys.items() if d not in {k.device for k in asked}},
            Layout.of(model).size if purpose is Purpose.TRAIN else 0,
            Binding(
                model_digest(model),
                stages.config_digest(self.config(round), linear.WEIGHT, kind, NAMES),
            ),
        )
        return replace(session, **changes)

    def request(self, session: Session, **extra: Any) -> RecordDict:
        """The message of stage report: the strategy's own content, and the session beside it."""
        ours = stage(session=session.encode(), weight_key=linear.WEIGHT)
        config = ConfigRecord(self.config(session.round))
        content = {"arrays": self.model, "config": config, **ours, **extra}
        return RecordDict(content)

    def report(self, device: int, session: Session) -> bytes:
        kind = session.purpose.name.lower()
        return field(self.ask(device, kind, self.request(session)))

    def collected(self, session: Session, devices: Sequence[int] | None = None) -> Attesting:
        collecting = Collecting(session, self.roster)
        for device in devices or session.devices:
            collecting.add(self.report(device, session), sender=device)
        return collecting.close()

    def attest(self, device: int, request: AttestRequest, session: Session) -> bytes:
        """As an honest server asks: a witness is told the session along with the survivors."""
        fields = {"message": request.encode(session)}
        if device in {key.device for key in session.witnesses}:
            fields["session"] = session.encode()
        return field(self.ask(device, stages.ATTEST, stage(**fields)))

    def reveal(self, device: int, request: RevealRequest) -> bytes:
        return field(self.ask(device, stages.REVEAL, stage(message=request.encode())))

    def attested(self, attesting: Attesting) -> Revealing:
        closed = attesting.closed
        for device in closed.members:
            said = self.attest(device, attesting.request(device), closed.session)
            attesting.add(said, sender=device)
        return attesting.close()

    def opened(self, revealing: Revealing) -> Mean:
        for device in revealing.members:
            revealing.add(self.reveal(device, revealing.request()), sender=device)
        return revealing.open(bytes(32)).mean

    def sum(self, session: Session) -> Mean:
        """A whole sum, everyone answering."""
        return self.opened(self.attested(self.collected(session)))


def field(content: RecordDict, name: str = stages.MESSAGE) -> bytes:
    value = content.config_records[stages.RECORD][name]
    assert isinstance(value, bytes)
    return value


def trained(arrays: Mapping[str, Any] | None = None, **metrics: float | list[float]) -> TrainReply:
    """A train function's reply: the model as it came (but for `arrays`), and these metrics."""

    named = {name.replace("_", "-"): value for name, value in metrics.items()}

    def train(message: Message, context: Context) -> RecordDict:
        model = linear.arrays_of(message.content.array_records["arrays"])
        changed = linear.record({**model, **(arrays or {})})
        return RecordDict(
            {"arrays": changed, "metrics": MetricRecord({linear.WEIGHT: 10, **named})}
        )

    return train
