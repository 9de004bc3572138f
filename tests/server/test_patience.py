"""Real devices that are silent when a round begins: they may be on their way back."""

from collections.abc import Iterable

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from tacit.client.app import SecureClientApp
from tacit.client.device import simulated_device
from tacit.client.policy import Policy
from tacit.crypto.identity import Roster
from tacit.crypto.secagg import stages
from tacit.crypto.simulated import simulated_roster
from tacit.server import grid as module
from tacit.server.events import Event, SumFailed, SumOpened
from tacit.server.flower import identity
from tacit.server.grid import SecureGrid
from tacit.server.pairwise import Pairwise
from tacit.server.wrapped import WrappedGrid
from tacit.simulations.engine.device import FIRST_NODE_ID
from tacit.simulations.engine.grid import InProcessGrid
from tests.runtime import linear

DEVICES = 4


class Away(WrappedGrid):
    """All but the first device hear nothing of the first `times` requests to enrol."""

    def __init__(self, inner: Grid, times: int) -> None:
        super().__init__(inner)
        self.left, self.asked = times, 0

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        if sent[0].metadata.message_type == stages.ENROL:
            self.asked += 1
            if self.left:
                self.left -= 1
                there = [each for each in sent if each.metadata.dst_node_id == FIRST_NODE_ID]
                ids = iter(self.inner.push_messages(there))
                return [next(ids) if each in there else "" for each in sent]
        return self.inner.push_messages(sent)


class Silent(Away):
    """The same, so that they are heard to be silent: what could not be sent is an answer, too."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self.inner.pull_messages([each for each in message_ids if each != "lost"])

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return [each or "lost" for each in super().push_messages(messages)]


def app() -> ClientApp:
    return linear.register(SecureClientApp(Policy(), device_of=simulated_device))


def summed(away: int, roster: Roster | None) -> tuple[list[Event], int]:
    """What is told of one sum, and how many times devices were asked to enrol."""
    events: list[Event] = []
    with InProcessGrid(app, devices=DEVICES) as inner, identity(inner.run.run_id):
        silent = Silent(inner, away)
        protocol = Pairwise(stage_deadline=0.05)
        grid = SecureGrid(silent, protocol, roster=roster, on_event=events.append)
        content = RecordDict(
            {"arrays": linear.initial(), "config": ConfigRecord({"server-round": 1})}
        )
        grid.send_and_receive(
            [Message(content, node, "train") for node in inner.get_node_ids()], timeout=5.0
        )
    return [e for e in events if isinstance(e, SumOpened | SumFailed)], silent.asked


@pytest.mark.parametrize("away", [0, 1, 2])
def test_devices_that_come_back_are_in_the_round(
    away: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "pause", lambda seconds: iter(()))
    (opened,), asked = summed(away, simulated_roster(DEVICES))
    assert isinstance(opened, SumOpened)
    assert opened.survivors == DEVICES
    assert asked == away + 1


def test_a_round_is_given_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    monkeypatch.setattr(module, "pause", lambda seconds: iter(()))
    (failed,), asked = summed(1_000_000, simulated_roster(DEVICES))
    assert isinstance(failed, SumFailed)
    assert "a cohort of 1" in failed.reason
    assert asked > 1


def test_simulated_devices_that_are_silent_stay_so() -> None:
    (failed,), asked = summed(1, None)
    assert isinstance(failed, SumFailed)
    assert asked == 1
