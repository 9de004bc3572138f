"""Servers that send models of their own design, against the real devices over the real messages.

Each device has one digit, and each sum is the real one, or it says so.
"""

from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from numpy.typing import NDArray

import tacit.client.app
from tacit.app.config import Settings
from tacit.app.material import Material, material
from tacit.app.simulation import simulate
from tacit.crypto.errors import ParameterError
from tacit.server.broadcast import Broadcast
from tacit.server.events import Event, LeftOut, SumFailed, SumOpened
from tacit.server.inbox import Seen
from tacit.simulations.attacks.base import Attack, Knows, view_of
from tacit.simulations.attacks.fishing import ClassFishing, FeatureFishing
from tacit.simulations.attacks.imprint import Imprint
from tacit.simulations.attacks.inconsistency import Inconsistency
from tacit.simulations.attacks.linear import LinearReadout
from tacit.simulations.evaluate import Outcome, evaluate
from tacit.simulations.hostile import HostileServer, Malicious, ideal_sum
from tacit.simulations.score import at_floor, pooled
from tests.hostile.attack import nothing
from tests.hostile.crowd import count_randomness
from tests.planted import SHAPE, digits

EXACT_DB = 60.0
PUBLIC = digits().test.x
PLAIN = 'secure.protocol="plain"'
DISTRIBUTED = ('privacy.mode="distributed"', "privacy.epsilon=8.0")
REFUSED = "the model is not the one the session names"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def settings_for(devices: int, *changes: str) -> Settings:
    """One step of training on one digit, and a fine grid: the server chooses both."""
    return Settings().changed(
        [
            'data.name="tests.planted:digits"',
            'data.partition="iid"',
            f"data.devices={devices}",
            "data.limit=1",
            "data.min_examples=1",
            "data.hold_out=0.0",
            'model.name="mlp"',
            "train.epochs=1",
            "train.batch_size=0",
            "train.momentum=0.0",
            "run.rounds=1",
            "strategy.fraction_evaluate=0.0",
            "secure.max_weight=1.0",
            "secure.precision=40",
            *changes,
        ]
    )


@dataclass(frozen=True)
class Ran:
    """What is left of a run: what the server saw, what it was told, who had what."""

    held: Material
    inbox: list[Seen] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    @property
    def x(self) -> NDArray[np.float32]:
        """The digit of each device."""
        return np.concatenate([self.held.examples(d).x for d in range(len(self.held.shares))])

    @property
    def y(self) -> NDArray[np.int64]:
        return np.concatenate([self.held.examples(d).y for d in range(len(self.held.shares))])

    @property
    def refusals(self) -> list[str]:
        return [event.reason for event in self.events if isinstance(event, LeftOut)]


def ran(settings: Settings, attack: Malicious | None = None) -> Ran:
    run = Ran(material(settings.data, settings.run.seed))
    hostile = None if attack is None else HostileServer(attack, PUBLIC)
    simulate(settings, tap=run.inbox.append, on_event=run.events.append, hostile=hostile)
    return run


def outcome(attack: Attack, seen: Seen, run: Ran, truth: NDArray[np.float32]) -> Outcome:
    """Granted is what the attack needs, and no more."""
    public = PUBLIC if Knows.PUBLIC_DATA in attack.needs else None
    view = view_of(seen, knows=attack.needs, public_data=public)
    everyone, rng = run.held.dataset.train.x, np.random.default_rng(0)
    return evaluate(attack, view, truth, everyone, rng, public=PUBLIC)


class TestInconsistency:
    DEVICES = 64
    VICTIMS = (0, 17, 40, 63)

    @staticmethod
    def attack(victim: int) -> Inconsistency:
        return Inconsistency("fc0", SHAPE, victim)

    @pytest.mark.parametrize("victim", VICTIMS)
    def test_where_updates_are_only_summed_the_victim_is_read(self, victim: int) -> None:
        """An ideal sum: nobody sees a single update, and nobody is bound to anything."""
        run = ran(settings_for(self.DEVICES, PLAIN), self.attack(victim))
        whole = ideal_sum(run.inbox)
        assert whole.clients == self.DEVICES
        found = outcome(self.attack(victim), whole, run, run.x[victim : victim + 1])
        assert min(found.score.psnr) >= EXACT_DB
        assert found.score.identified == 1

    def test_of_one_model_for_all_such_a_sum_says_nothing_of_them(self) -> None:
        run = ran(settings_for(self.DEVICES, PLAIN))
        whole = ideal_sum(run.inbox)
        outcomes = [
            outcome(self.attack(v), whole, run, run.x[v : v + 1]) for v in range(self.DEVICES)
        ]
        score, floor = (
            pooled([getattr(o, which) for o in outcomes]) for which in ("score", "floor")
        )
        assert at_floor(score, floor)

    @pytest.mark.parametrize("devices", [4, DEVICES])
    def test_devices_refuse_what_their_session_does_not_name(self, devices: int) -> None:
        """All but the victim, which got what was named: one report is no sum."""
        run = ran(settings_for(devices), self.attack(1))
        assert run.inbox == []
        assert len(run.refusals) == devices - 1
        assert all(REFUSED in reason for reason in run.refusals)
        failed = [event for event in run.events if isinstance(event, SumFailed)]
        assert [event.reason.split(",")[0] for event in failed] == [
            f"1 of {devices} devices reported"
        ]

    def test_nothing_else_stands_in_its_way(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Devices that do not look are summed, and the sum is the victim's update."""
        monkeypatch.setattr(tacit.client.app, "check_binding", nothing)
        run = ran(settings_for(self.DEVICES), self.attack(17))
        (seen,) = run.inbox
        assert (seen.protocol, seen.clients) == ("pairwise", self.DEVICES)
        found = outcome(self.attack(17), seen, run, run.x[17:18])
        assert min(found.score.psnr) >= EXACT_DB

    def test_an_evaluation_is_left_as_it_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Devices evaluate what their session names, whatever became of the training."""
        designed: list[Broadcast] = []
        design = HostileServer.design

        def counting(server: HostileServer, broadcast: Broadcast) -> RecordDict:
            designed.append(broadcast)
            return design(server, broadcast)

        monkeypatch.setattr(HostileServer, "design", counting)
        changes = ("data.limit=8", "data.hold_out=0.5", "secure.max_weight=8.0")
        run = ran(settings_for(4, *changes, "strategy.fraction_evaluate=1.0"), self.attack(0))
        opened = [event.purpose for event in run.events if isinstance(event, SumOpened)]
        assert opened == ["evaluate"]
        assert [broadcast.kind for broadcast in designed] == ["train"]

    def test_a_single_update_is_taken_for_what_it_is(self) -> None:
        """The server knows what it sent to whom: of a dead layer it sees no move, in the clear."""
        run = ran(settings_for(4, PLAIN), self.attack(2))
        still = [not seen.update["fc0.weight"].any() for seen in run.inbox]
        assert still == [True, True, False, True]


@cache
def sixteen() -> Ran:
    """An honest run of sixteen devices, for what they have."""
    return ran(settings_for(16, PLAIN))


def alone() -> int:
    """A class that one device of the sixteen has."""
    counts = np.bincount(sixteen().y, minlength=10)
    return int(np.flatnonzero(counts == 1)[0])


class TestFishing:
    def test_one_of_its_class_is_read_out_of_a_secure_sum(self) -> None:
        """All devices have the one model that the session names, so all report."""
        attack = ClassFishing(alone(), SHAPE)
        run = ran(settings_for(16), attack)
        (seen,) = run.inbox
        assert (seen.protocol, seen.clients) == ("pairwise", 16)
        assert run.refusals == []
        found = outcome(attack, seen, run, run.x[run.y == attack.label])
        assert min(found.score.psnr) >= EXACT_DB
        # The same reader, had the server been honest:
        honest = ran(settings_for(16))
        missed = outcome(LinearReadout("fc0", SHAPE), honest.inbox[0], run, found.truth)
        assert max(missed.score.psnr) < EXACT_DB

    def test_one_of_several_in_its_class_is_read(self) -> None:
        label = int(np.bincount(sixteen().y).argmax())
        several = sixteen().y == label
        assert several.sum() > 2
        best = []
        for feature in range(8):
            attack = FeatureFishing(label, SHAPE, among=int(several.sum()), feature=feature)
            run = ran(settings_for(16), attack)
            guess = outcome(attack, run.inbox[0], run, run.x[several])
            best.append(max(guess.score.psnr))
        assert max(best) >= EXACT_DB

    def test_noise_stops_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The best case for the adversary: one input a device, and one round for all of epsilon."""
        count_randomness(monkeypatch)
        attack = ClassFishing(alone(), SHAPE)
        run = ran(settings_for(16, *DISTRIBUTED), attack)
        (seen,) = run.inbox
        found = outcome(attack, seen, run, run.x[run.y == attack.label])
        assert at_floor(found.score, found.floor)


class TestImprint:
    def test_it_plants_and_reads(self) -> None:
        """With a bin to each of 64 neurons, nearly all of eight inputs are alone."""
        run = ran(settings_for(8), Imprint(SHAPE))
        (seen,) = run.inbox
        assert run.refusals == []
        found = outcome(Imprint(SHAPE), seen, run, run.x)
        exact = np.array(found.score.psnr) >= EXACT_DB
        # Each is alone with (1 - 1/64)**7 = 0.9; five of eight would be three deviations below.
        assert exact.sum() > 5
        assert found.score.identified >= exact.mean()

    def test_it_plants_in_every_round(self) -> None:
        run = ran(settings_for(4, "run.rounds=2"), Imprint(SHAPE))
        for seen in run.inbox:
            assert np.ptp(seen.model["fc0.weight"], axis=0).max() == 0

    def test_noise_stops_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        count_randomness(monkeypatch)
        run = ran(settings_for(16, *DISTRIBUTED), Imprint(SHAPE))
        found = outcome(Imprint(SHAPE), run.inbox[0], run, run.x)
        assert at_floor(found.score, found.floor)

    def test_without_public_data_nothing_is_sent(self) -> None:
        with pytest.raises(ParameterError, match="needs to know public data"):
            HostileServer(Imprint(SHAPE))
