"""What is on the wire in a round: nothing that depends on a single device's numbers.

First by search: no encoding of any device's weight, loss or update is in any byte that travels.
Then by comparison: with the same luck, a device whose numbers are others sends the same bytes, all
but the masked vector, or the ciphertext.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from tacit.client import app as client_app
from tacit.client.app import SecureClientApp
from tacit.client.device import simulated_device
from tacit.client.pipeline import Contribution, contribution
from tacit.crypto.secagg import stages
from tacit.crypto.secagg.messages import Report
from tacit.crypto.secagg.session import Session
from tacit.server.flower import identity
from tacit.server.loop import Plan, run_rounds
from tacit.server.pairwise import Pairwise
from tacit.server.wrapped import WrappedGrid
from tacit.simulations.engine.grid import InProcessGrid
from tacit.strategies.secure import Secure
from tests.hostile.attack import Attack, replaced, trial
from tests.hostile.crowd import count_randomness
from tests.hostile.kinds import KINDS, LATTICE, PAIRS, current
from tests.runtime import linear

pytestmark = pytest.mark.kinds(PAIRS, LATTICE)
DEVICES, LENGTH = 5, 64
RUN_ID = 77


@dataclass
class Numbers:
    """What one device's training comes to."""

    weight: float
    loss: float
    step: float

    @classmethod
    def of(cls, partition: int) -> "Numbers":
        """Numbers without zeros in any of their bytes, which whole ones would have many of."""
        root = np.sqrt(2 + 3 * partition)
        return cls(7001.3 + root, 0.7320508075688772 + root / 7, 0.61803398874989 + root)


@dataclass
class Tapped(WrappedGrid):
    """A grid that keeps all that goes through it, in order: kind, direction, content."""

    inner: Any
    kept: list[tuple[str, int, RecordDict]] = field(default_factory=list)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        self.kept += [(m.metadata.message_type, m.metadata.dst_node_id, m.content) for m in sent]
        return self.inner.push_messages(sent)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        for reply in self.inner.pull_messages(message_ids):
            if reply.has_content():
                kind = "reply to " + reply.metadata.message_type
                self.kept.append((kind, reply.metadata.src_node_id, reply.content))
            yield reply

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        replies = list(self.inner.send_and_receive(messages, timeout=timeout))
        self.kept += [
            ("reply", m.metadata.src_node_id, m.content) for m in replies if m.has_content()
        ]
        return replies


def learn(numbers: dict[int, Numbers]) -> linear.TrainReply:
    """A train function that comes to the numbers given."""

    def train(message: Message, context: Context) -> RecordDict:
        mine = numbers[int(context.node_config["partition-id"])]
        model = linear.arrays_of(message.content.array_records["arrays"])
        metrics = MetricRecord({linear.WEIGHT: mine.weight, "loss": mine.loss})
        return RecordDict(
            {"arrays": linear.record({"w": model["w"] + mine.step}), "metrics": metrics}
        )

    return train


def a_round(numbers: dict[int, Numbers], plain: bool = False) -> list[tuple[str, int, RecordDict]]:
    """All messages of one round."""

    def load() -> ClientApp:
        secure = SecureClientApp(current().joined(None), simulated_device)
        return linear.register(ClientApp() if plain else secure, learn(numbers))

    every: dict[str, Any] = {"min_train_nodes": DEVICES, "min_available_nodes": DEVICES}
    strategy = FedAvg(**every, fraction_evaluate=0.0)
    protocol = current().sum(Pairwise())
    with InProcessGrid(load, devices=DEVICES, run_id=RUN_ID) as inner, identity(RUN_ID):
        grid = Tapped(inner)
        through = grid if plain else Secure(strategy, protocol).grid(grid)
        initial = linear.record({"w": np.zeros(LENGTH)})
        result = run_rounds(through, strategy, initial, Plan(1, seed=1))
    assert result.train_metrics_clientapp, "the round was not opened"
    return grid.kept


def octets(content: RecordDict) -> bytes:
    """All bytes of a message's content, numbers as Flower's protocol buffers hold them."""
    parts = []
    for name, record in content.items():
        parts.append(name.encode())
        for key, value in record.items():
            parts.append(key.encode())
            parts += [plain_bytes(one) for one in (value if isinstance(value, list) else [value])]
    return b"\x00".join(parts)


def plain_bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, int | float):
        return struct.pack("<q" if isinstance(value, int) else "<d", value)
    data: bytes = value.data  # an Array
    return data


def encodings(numbers: Numbers) -> Iterator[bytes]:
    """Eight bytes or more each, so that a hit among 2**20 random ones has a chance below 2**-40."""
    for value in (numbers.loss, numbers.step, numbers.weight):
        yield struct.pack("<d", value)
        yield struct.pack(">d", value)
        yield struct.pack("<d", value * numbers.weight)
        yield repr(float(value)).encode()


def found(messages: list[tuple[str, int, RecordDict]]) -> set[int]:
    """Partitions of which some number is in some byte of the messages."""
    wire = [octets(content) for _, _, content in messages]
    return {
        partition
        for partition in range(DEVICES)
        for pattern in encodings(Numbers.of(partition))
        if any(pattern in data for data in wire)
    }


NUMBERS = {partition: Numbers.of(partition) for partition in range(DEVICES)}


@pytest.mark.kinds(*KINDS)
def test_no_number_of_a_single_device_is_on_the_wire() -> None:
    assert found(a_round(NUMBERS)) == set()


@pytest.mark.kinds(PAIRS)
def test_the_same_search_finds_them_where_nothing_protects() -> None:
    assert found(a_round(NUMBERS, plain=True)) == set(range(DEVICES))


# Non-interference


def vector_free(content: RecordDict, session: Session | None) -> RecordDict:
    """A report without its vector and the signature, which is over a digest of that."""
    if session is None or stages.MESSAGE not in content.config_records.get(stages.RECORD, {}):
        return content
    data = content.config_records[stages.RECORD][stages.MESSAGE]
    assert isinstance(data, bytes)
    header = Report.decode(data, session, sender=0).header(session)
    return RecordDict({stages.RECORD: ConfigRecord({stages.MESSAGE: header})})


def told_apart(patch: pytest.MonkeyPatch) -> bool:
    """Whether any message says, by its bytes or its length, that one device's numbers changed."""
    others = {**NUMBERS, 2: Numbers(3, 123.456, -7.0)}
    rounds = []
    for numbers in (NUMBERS, others):
        count_randomness(patch)
        rounds.append(a_round(numbers))
    session = None
    for (kind, node, one), (other_kind, other_node, other) in zip(*rounds, strict=True):
        assert (kind, node) == (other_kind, other_node)
        if kind == "train":
            data = one.config_records[stages.RECORD][stages.SESSION]
            assert isinstance(data, bytes)
            session = Session.decode(data)
        of_report = session if kind == "reply to train" else None
        if len(octets(one)) != len(octets(other)):
            return True
        if octets(vector_free(one, of_report)) != octets(vector_free(other, of_report)):
            return True
    return False


def chatty(*args: Any, **more: Any) -> Contribution:
    """A device that names its metrics by what they are."""
    given = contribution(*args, **more)
    names = tuple(
        f"{name} about {value:.0f}" for name, value in zip(given.names, given.metrics, strict=True)
    )
    return Contribution(given.update, names, given.metrics, given.weight)


@pytest.mark.parametrize("defended", [True, False], ids=["defended", "undefended"])
def test_a_devices_numbers_change_its_masked_vector_and_nothing_else(
    defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same luck twice, the numbers of one device changed in between."""
    remove = replaced(client_app, "contribution", chatty)
    trial(Attack(lambda: told_apart(monkeypatch), remove), defended, monkeypatch)


def test_the_masked_vector_does_change() -> None:
    """Or the comparison above would be of nothing."""
    with pytest.MonkeyPatch.context() as patch:
        count_randomness(patch)
        first = a_round(NUMBERS)
        count_randomness(patch)
        second = a_round({**NUMBERS, 2: Numbers(3, 123.456, -7.0)})
    changed = [
        node
        for (kind, node, one), (_, _, other) in zip(first, second, strict=True)
        if kind == "reply to train" and octets(one) != octets(other)
    ]
    assert len(changed) == 1
