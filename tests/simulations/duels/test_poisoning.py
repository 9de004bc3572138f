"""The duel holds, and does not where the defence is taken away."""

from dataclasses import replace

import pytest
from flwr.serverapp.strategy import FedAvg, FedMedian

from tacit.server.groups import Groups
from tacit.simulations.duels import rules
from tacit.simulations.duels.base import Role, Scale
from tacit.simulations.duels.poisoning import BACKDOOR, LIMITS, Poisoning
from tacit.simulations.duels.rules import ANEW, DEVICES, FIVE, HOSTILE, MEAN, TEN, Federation


@pytest.fixture(scope="module")
def federation() -> Federation:
    return Federation("digits", seed=0, rounds=2)


def test_a_quick_duel_holds() -> None:
    done: list[float] = []
    fought = Poisoning().fight(Scale(quick=True), done.append)
    assert [line for line in fought.lines if not line.holds] == []
    assert {line.role for line in fought.lines} == set(Role)
    assert done == sorted(done)
    assert done[-1] == 1.0
    assert fought.limits == LIMITS
    hides = {line.setting: line.figure.value for line in fought.lines if "hides" in line.what}
    assert hides == {
        "mean": 20,
        "median of 10 groups": 2,
        "median of 5 groups": 4,
        "median, in the clear": 1,
    }


def test_groups_with_a_mean_over_them_do_not_hold(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutation: the median becomes a mean, and the backdoor is in."""

    class Mutant(FedMedian):
        aggregate_train = FedAvg.aggregate_train

    monkeypatch.setattr("tacit.strategies.robust.aggregates_as", lambda strategy, kinds: True)
    mutant = replace(TEN, words="mutant", strategy=lambda: Mutant(**rules.EVERYONE))
    assert federation.outcome(TEN, BACKDOOR).success <= 0.05
    assert federation.outcome(mutant, BACKDOOR).success >= 0.95


def test_hostile_devices_are_each_in_a_group_of_their_own(federation: Federation) -> None:
    for rule in (TEN, FIVE):
        groups = Groups(rule.groups, 1, 0, seed=0).divide(range(1, DEVICES + 1), {}, 1)
        hostile = federation.hostile(rule)
        assert len({groups[device + 1] for device in hostile}) == len(set(hostile)) == HOSTILE


def test_a_federation_repeats_itself() -> None:
    one, other = (Federation("digits", 1, 1).outcome(TEN, BACKDOOR) for _ in range(2))
    assert one == other


def test_groups_drawn_anew_give_devices_away() -> None:
    """Twenty devices, ten sums a round: three rounds are 30 equations. In groups that stay a device
    is known as well as its partner, whose update has as large a part in the sum."""
    federation = Federation("digits", 0, 3)
    mean, stay, anew = (federation.exposed(rule) for rule in (MEAN, TEN, ANEW))
    assert mean + 0.1 < stay < anew - 0.05
    assert anew > 0.7
