"""Who is asked to enrol: the sampled, and those who have a seat; not all that are online."""

from collections.abc import Iterable, Sequence

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from tacit.client.app import SecureClientApp
from tacit.client.device import simulated_device
from tacit.client.policy import Policy
from tacit.crypto.secagg import stages
from tacit.crypto.simulated import simulated_roster
from tacit.server.events import Event, KeyChanged, SumFailed, SumOpened
from tacit.server.flower import NodeInfo, identity, node_info
from tacit.server.grid import SecureGrid, node_name
from tacit.server.pairwise import Pairwise
from tacit.server.wrapped import WrappedGrid
from tacit.simulations.engine.grid import InProcessGrid
from tests.runtime import linear

DEVICES, COHORT, SEATS = 60, 4, 5
FIRST = 1000


class Watched(WrappedGrid):
    """Notes who is asked to enrol; `names` are those of the nodes, in place of the engine's."""

    def __init__(self, inner: Grid, names: Sequence[str]) -> None:
        super().__init__(inner)
        self.asked: set[int] = set()
        self._names = names

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [node_info(FIRST + at, name) for at, name in enumerate(self._names)]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        enrol = (m.metadata for m in sent if m.metadata.message_type == stages.ENROL)
        self.asked |= {each.dst_node_id for each in enrol}
        return self.inner.push_messages(sent)


def app() -> ClientApp:
    return linear.register(SecureClientApp(Policy(corrupt=0.0), device_of=simulated_device))


def summed(names: Sequence[str], sums: int = 1) -> tuple[set[int], list[Event]]:
    """The nodes that were asked to enrol for sums over the first COHORT of them, and events."""
    events: list[Event] = []
    with InProcessGrid(app, devices=DEVICES) as inner, identity(inner.run.run_id):
        watched = Watched(inner, names)
        grid = SecureGrid(watched, Pairwise(corrupt=0.0, seats=SEATS), on_event=events.append)
        for number in range(1, sums + 1):
            content = RecordDict(
                {"arrays": linear.initial(), "config": ConfigRecord({"server-round": number})}
            )
            nodes = range(FIRST, FIRST + COHORT)
            grid.send_and_receive([Message(content, node, "train") for node in nodes])
    return watched.asked, events


def named(shift: int = 0) -> list[str]:
    return [node_name((at + shift) % DEVICES + 1) for at in range(DEVICES)]


def test_the_sampled_and_the_seated_are_asked_and_nobody_else() -> None:
    with InProcessGrid(app, devices=DEVICES) as inner:
        names = [node.name for node in inner.get_nodes()]
    assert names == named()
    asked, events = summed(names)
    seated = {FIRST + device - 1 for device in simulated_roster(DEVICES).drawn(SEATS)}
    assert asked == set(range(FIRST, FIRST + COHORT)) | seated
    assert len(asked) <= COHORT + SEATS < DEVICES
    assert [event.survivors for event in events if isinstance(event, SumOpened)] == [COHORT]
    assert sum(isinstance(e, KeyChanged) and e.kind == "run" for e in events) == len(asked)


def test_without_names_all_are_asked() -> None:
    for names in ([""] * DEVICES, ["edge", *named()[1:]]):
        asked, events = summed(names)
        assert asked == set(range(FIRST, FIRST + DEVICES))
        assert any(isinstance(event, SumOpened) for event in events)


def test_names_that_were_wrong_cost_a_sum_and_no_more() -> None:
    asked, events = summed(named(shift=7), sums=2)
    kinds = [type(event) for event in events if isinstance(event, SumFailed | SumOpened)]
    assert kinds == [SumFailed, SumOpened]
    assert asked == set(range(FIRST, FIRST + DEVICES))
