"""Sums in groups and a median over them: exact in each, and no say for a few hostile devices."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Bulyan, FedAvg, FedMedian, FedTrimmedAvg, Krum
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tacit.client.app import SecureClientApp
from tacit.client.device import simulated_device
from tacit.client.policy import Policy
from tacit.crypto.errors import ParameterError, TooFewClients
from tacit.server.encrypted import Encrypted
from tacit.server.events import CohortCommitted, CohortDivided, Event, LeftOut, SumFailed, SumOpened
from tacit.server.flower import identity
from tacit.server.groups import Groups
from tacit.server.inbox import Seen
from tacit.server.loop import Plan, run_rounds
from tacit.server.pairwise import Pairwise, SecureSum
from tacit.server.wrapped import WrappedGrid
from tacit.simulations.engine.device import FIRST_NODE_ID
from tacit.simulations.engine.faults import Drop, Fault
from tacit.simulations.engine.grid import InProcessGrid
from tacit.strategies.robust import Robust, withstood
from tacit.strategies.secure import AboveSums, Secure
from tests.runtime import linear
from tests.server.test_grid import on_the_grid

TWO = Policy(2, 2)  # an owner who consents to groups of two
Partition = frozenset[int]


@dataclass
class Ran:
    events: list[Event] = field(default_factory=list)
    models: list[dict[str, NDArray[Any]]] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)

    def of(self, kind: type[Any], round: int = 1) -> list[Any]:
        return [e for e in self.events if isinstance(e, kind) and e.round == round]

    def groups(self, round: int = 1) -> set[Partition]:
        """Partitions of each group whose sum was opened."""
        return {
            frozenset(node - FIRST_NODE_ID for node in seen.members)
            for seen in self.seen
            if seen.round == round
        }


def everyone(devices: int) -> dict[str, Any]:
    return {"min_train_nodes": devices, "min_available_nodes": devices, "fraction_evaluate": 0.0}


def run(
    strategy: AboveSums,
    devices: int,
    faults: Sequence[Fault] = (),
    *,
    rounds: int = 1,
    policy: Policy = TWO,
    reply: linear.TrainReply = linear.train_reply,
    wrap: Callable[[InProcessGrid], Any] = lambda grid: grid,
) -> Ran:
    ran = Ran()

    def app() -> ClientApp:
        return linear.register(SecureClientApp(policy, device_of=simulated_device), reply)

    def keep(round: int, arrays: ArrayRecord) -> None:
        ran.models.append(linear.arrays_of(arrays))

    with InProcessGrid(app, devices=devices, faults=faults) as inner, identity(inner.run.run_id):
        run_rounds(
            strategy.grid(wrap(inner), on_event=ran.events.append, tap=ran.seen.append),
            strategy.inner,
            linear.initial(),
            Plan(rounds, seed=1, nodes=devices),
            evaluate_fn=keep,
            on_event=ran.events.append,
        )
    return ran


def robust(devices: int, groups: int, **more: Any) -> Robust:
    return Robust(FedMedian(**everyone(devices)), groups=groups, seed=1, **more)


# What a group's sum is


def test_each_groups_mean_is_exact_and_the_model_is_their_median() -> None:
    """On the codec's grid, bit for bit, by numpy alone; round after round in the same groups."""
    ran = run(robust(9, 3), 9, rounds=2)
    assert ran.groups(1) == ran.groups(2)
    assert sorted(p for group in ran.groups() for p in group) == list(range(9))
    for number in (1, 2):
        before, after = ran.models[number - 1], ran.models[number]
        means = {group: on_the_grid(before, group, number) for group in ran.groups()}
        for seen in (seen for seen in ran.seen if seen.round == number):
            group = frozenset(node - FIRST_NODE_ID for node in seen.members)
            np.testing.assert_array_equal(before["w"] + seen.update["w"], means[group])
            assert seen.weight == pytest.approx(sum(20 + 7 * p for p in group))
        median = np.median(np.stack(list(means.values())), axis=0)
        np.testing.assert_array_equal(after["w"], median)
        np.testing.assert_array_equal(after["seen"], before["seen"] + 1)


def test_one_group_is_one_sum() -> None:
    ours = run(Robust(FedMedian(**everyone(5)), groups=1), 5, rounds=3, policy=Policy())
    theirs = run(Secure(FedAvg(**everyone(5))), 5, rounds=3, policy=Policy())
    for one, other in zip(ours.models, theirs.models, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize(
    "protocol",
    [Pairwise(hybrid=True), Encrypted(), Pairwise(clear=("b",))],
    ids=["hybrid", "lattice", "clear"],
)
def test_any_protocol_can_be_in_groups(protocol: SecureSum) -> None:
    policy = Policy(2, 2, lattice=True, clear_epsilon=700)
    ran = run(robust(6, 3, protocol=protocol), 6, rounds=2, policy=policy)
    assert [len(ran.of(SumOpened, number)) for number in (1, 2)] == [3, 3]
    assert not [e for e in ran.events if isinstance(e, LeftOut)]


def test_an_evaluation_is_one_sum_of_all() -> None:
    strategy = Robust(FedMedian(min_train_nodes=6, min_available_nodes=6), groups=3, seed=1)
    ran = run(strategy, 6)
    assert [(e.purpose, e.cohort) for e in ran.of(SumOpened)] == [("train", 2)] * 3 + [
        ("evaluate", 6)
    ]


# What is missing


@pytest.mark.parametrize("stage", ["report", "attest", "reveal"])
def test_a_group_goes_on_without_a_device(stage: str) -> None:
    """Of four, one may be missing: see `threshold_for`."""
    whole = run(robust(8, 2), 8)
    (group,) = (group for group in whole.groups() if 0 in group)
    ran = run(robust(8, 2), 8, [Drop(stage, {0})])
    left = group - {0} if stage == "report" else group
    assert ran.groups() == whole.groups() - {group} | {left}
    means = [on_the_grid(ran.models[0], g, 1) for g in ran.groups()]
    np.testing.assert_array_equal(ran.models[1]["w"], np.median(means, axis=0))


def test_a_group_that_is_gone_is_left_out_and_told_of() -> None:
    whole = run(robust(10, 5, hostile=1), 10)
    (gone,) = (group for group in whole.groups() if 0 in group)
    ran = run(robust(10, 5, hostile=1), 10, [Drop("report", gone)])
    assert ran.groups() == whole.groups() - {gone}
    (failed,) = ran.of(SumFailed)
    assert failed.reason.startswith("group ")
    assert "of 5: 0 of 2 devices reported" in failed.reason
    means = [on_the_grid(ran.models[0], g, 1) for g in ran.groups()]
    np.testing.assert_array_equal(ran.models[1]["w"], np.median(means, axis=0))


def test_too_few_groups_are_no_round() -> None:
    """Two hostile devices take five of these groups: with one gone the rest could be outvoted."""
    ran = run(robust(10, 5, hostile=2), 10, [Drop("report", {0}, {1})], rounds=2)
    assert ran.of(SumFailed)[-1].reason == "4 of 5 groups were opened, 5 needed"
    for name, array in ran.models[0].items():
        assert array.tobytes() == ran.models[1][name].tobytes()
    assert len(ran.of(SumOpened, 2)) == 5
    assert not np.array_equal(ran.models[2]["w"], ran.models[1]["w"])


def test_a_device_that_never_enrols_leaves_its_group_smaller() -> None:
    ran = run(robust(8, 2), 8, [Drop("enrol", {3})])
    assert sorted(len(group) for group in ran.groups()) == [3, 4]
    (divided,) = ran.of(CohortDivided)
    assert (divided.devices, divided.groups, divided.smallest) == (7, 2, 3)


def test_owners_who_ask_for_three_are_in_no_group_of_two() -> None:
    ran = run(robust(6, 3), 6, policy=Policy())
    reasons = {e.reason for e in ran.of(LeftOut)}
    assert reasons == {"PolicyRefusal: a cohort of 2, this device asks for 3"}
    assert len(ran.of(SumFailed)) == 4  # the groups, and the round
    assert ran.seen == []


# Who is hostile


def spoilt(hostile: set[int], by: float) -> linear.TrainReply:
    """What those devices answer: the honest weights and `by`, within the codec's bound."""

    def reply(message: Message, context: Context) -> RecordDict:
        content = linear.train_reply(message, context)
        if int(str(context.node_config["partition-id"])) in hostile:
            arrays = linear.arrays_of(content.array_records["arrays"])
            arrays["w"] = arrays["w"] + by
            content["arrays"] = linear.record(arrays)
        return content

    return reply


@pytest.mark.parametrize(("hostile", "by"), [(0, 5.0), (4, -5.0), (8, 5.0)])
def test_wherever_a_hostile_device_is_it_moves_the_model_within_the_others(
    hostile: int, by: float
) -> None:
    ran = run(robust(9, 3), 9, reply=spoilt({hostile}, by))
    honest = [on_the_grid(ran.models[0], g, 1) for g in ran.groups() if hostile not in g]
    assert len(honest) == 2
    after = ran.models[1]["w"]
    assert np.all(np.min(honest, axis=0) <= after)
    assert np.all(after <= np.max(honest, axis=0))
    mean = run(Secure(FedAvg(**everyone(9))), 9, reply=spoilt({hostile}, by))
    moved = mean.models[1]["w"]
    out = (moved < np.min(honest, axis=0)) | (moved > np.max(honest, axis=0))
    assert np.mean(out) > 0.9  # of the coordinates: there is nothing in its way


def test_as_many_as_half_the_groups_are_too_many() -> None:
    groups = run(robust(9, 3), 9).groups()
    hostile = {min(group) for group in sorted(groups, key=min)[:2]}
    ran = run(robust(9, 3), 9, reply=spoilt(hostile, 5.0))
    assert np.all(ran.models[1]["w"] > 0.5)


RULES = st.sampled_from([FedMedian(), *(FedTrimmedAvg(beta=b) for b in (0.1, 0.2, 0.3, 0.45))])
WHATEVER = st.floats(-1e6, 1e6, width=32)


@given(RULES, st.integers(1, 12), st.data())
@settings(max_examples=60, deadline=None)
def test_a_rule_keeps_to_the_range_of_the_means_that_are_not_spoilt(
    rule: FedAvg, groups: int, data: st.DataObject
) -> None:
    most = withstood(rule, groups)
    honest = data.draw(st.lists(WHATEVER, min_size=groups - most, max_size=groups - most))
    hostile = data.draw(st.lists(WHATEVER, min_size=most, max_size=most))
    values = data.draw(st.permutations([*honest, *hostile]))
    got = aggregated(rule, values)
    slack = 1e-6 * max(map(abs, honest), default=0.0)  # a mean of float64, in its last digits
    assert min(honest) - slack <= got <= max(honest) + slack


@given(RULES, st.integers(2, 12))
@settings(max_examples=30, deadline=None)
def test_one_more_than_it_stands_up_to_is_one_too_many(rule: FedAvg, groups: int) -> None:
    more = withstood(rule, groups) + 1
    assert aggregated(rule, [0.0] * (groups - more) + [1e6] * more) > 0


def aggregated(rule: FedAvg, values: Sequence[float]) -> float:
    def content(value: float) -> RecordDict:
        arrays = ArrayRecord({"w": Array(np.array([value]))})
        return RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})})

    with identity(1):
        replies = [Message(content(value), 1, "train") for value in values]
        arrays, _ = rule.aggregate_train(1, replies)
    assert arrays is not None
    return float(arrays["w"].numpy()[0])


@pytest.mark.parametrize(
    ("rule", "groups", "most", "least"),
    [
        (FedMedian(), 10, 4, 9),
        (FedMedian(), 5, 2, 5),
        (FedMedian(), 2, 0, 1),
        (FedMedian(), 1, 0, 1),
        (FedTrimmedAvg(beta=0.2), 10, 2, 10),
        (FedTrimmedAvg(beta=0.2), 4, 0, 1),
        (FedTrimmedAvg(beta=0.0), 10, 0, 1),
        (FedTrimmedAvg(beta=0.49), 10, 4, 9),
    ],
)
def test_what_is_stood_up_to_by_default(rule: FedAvg, groups: int, most: int, least: int) -> None:
    made = Robust(rule, groups=groups)
    assert (made.hostile, made.groups.least) == (most, least)


def test_three_hostile_devices_take_seven_groups() -> None:
    assert Robust(FedMedian(), groups=10, hostile=3).groups.least == 7


# Side by side


def test_a_round_takes_no_longer_than_one_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each answer takes ten seconds, and nothing else takes any time."""
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    clock = SimpleNamespace(monotonic=lambda: now, sleep=sleep)
    monkeypatch.setattr("tacit.server.legs.time", clock)

    class Slow(WrappedGrid):
        """Answers come ten seconds after they were asked for."""

        def __init__(self, inner: InProcessGrid) -> None:
            super().__init__(inner)
            self.due: dict[str, float] = {}

        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            ids = list(self.inner.push_messages(messages))
            self.due |= dict.fromkeys(ids, now + 10)
            return ids

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            return self.inner.pull_messages([i for i in message_ids if self.due[i] <= now])

    def seconds(strategy: AboveSums) -> float:
        nonlocal now
        now = 0.0
        ran = run(strategy, 9, wrap=Slow)
        assert not [e for e in ran.events if isinstance(e, SumFailed | LeftOut)]
        return now

    single, grouped = seconds(Secure(FedAvg(**everyone(9)))), seconds(robust(9, 3))
    assert 40 <= single < 42  # enrol, report, attest, reveal; pauses are up to 0.25 s
    assert 40 <= grouped < 42


# Who is in which group


@given(
    st.integers(1, 8),
    st.sets(st.integers(1, 60), min_size=1),
    st.sets(st.integers(1, 60)),
    st.integers(0, 3),
    st.booleans(),
)
def test_groups_are_even_and_who_was_in_one_stays(
    count: int, devices: set[int], placed: set[int], seed: int, anew: bool
) -> None:
    groups = Groups(count, 1, 0, anew, seed)
    first = groups.divide(devices, {}, 1)
    sizes = [list(first.values()).count(group) for group in range(count)]
    assert first.keys() == devices
    assert max(sizes) - min(sizes) <= 1
    assert first == groups.divide(sorted(devices, reverse=True), {}, 1)
    places = groups.divide(placed, {}, 1)
    later = groups.divide(devices, places, 2)
    assert later.keys() == devices
    assert all(later[device] == places[device] for device in devices & placed)


def test_a_newcomer_goes_where_fewest_are() -> None:
    assert Groups(3, 1, 0, seed=0).divide({1, 2, 3, 9}, {1: 0, 2: 1, 3: 1}, 5)[9] == 2


def test_a_seed_repeats_the_groups_and_without_one_chance_has_them() -> None:
    def places(**more: Any) -> list[int]:
        return list(Groups(10, 1, 0, **more).divide(range(40), {}, 1).items())  # type: ignore[arg-type]

    assert places(seed=1) == places(seed=1) != places(seed=2)
    assert places() != places()


def test_a_seed_repeats_a_run() -> None:
    one, other = run(robust(6, 3), 6, rounds=2), run(robust(6, 3), 6, rounds=2)
    assert one.groups(2) == other.groups(2)
    assert one.models[2]["w"].tobytes() == other.models[2]["w"].tobytes()


def test_drawn_anew_they_are_others_in_each_round() -> None:
    ran, again = (run(robust(9, 3, anew=True), 9, rounds=3) for _ in range(2))
    drawn = [frozenset(ran.groups(number)) for number in (1, 2, 3)]
    assert len(set(drawn)) == 3  # of 280 divisions
    assert [frozenset(again.groups(number)) for number in (1, 2, 3)] == drawn


def test_what_is_told() -> None:
    ran = run(robust(6, 3), 6)
    (divided,) = ran.of(CohortDivided)
    assert divided == CohortDivided(1, 6, 3, 2, 1)
    assert divided.words == (
        "3 groups of 2 or more: an update hides among 2, not 6; hostile devices withstood: 1"
    )
    committed = ran.of(CohortCommitted)
    assert [e.devices for e in committed] == [2, 2, 2]
    assert len({e.session for e in committed}) == 3
    first = min(i for i, e in enumerate(ran.events) if isinstance(e, SumOpened))
    assert all(ran.events.index(e) < first for e in [divided, *committed])


# What cannot be


@pytest.mark.parametrize("inner", [FedAvg(), Krum(), Bulyan()], ids=lambda s: type(s).__name__)
def test_other_rules_are_refused(inner: FedAvg) -> None:
    with pytest.raises(ParameterError, match="use one of FedMedian, FedTrimmedAvg"):
        Robust(inner, groups=5)


def test_a_rule_of_ones_own_is_not_taken_for_a_median() -> None:
    class Own(FedMedian):
        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
            return FedAvg.aggregate_train(self, server_round, replies)

    class Same(FedMedian):
        pass

    with pytest.raises(ParameterError, match="Own does not bound"):
        Robust(Own(), groups=5)
    Robust(Same(), groups=5)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"groups": 0}, "groups=0"),
        ({"groups": 10, "hostile": 5}, "stands up to 4 hostile devices at most"),
        ({"groups": 10, "hostile": -1}, "hostile=-1"),
        ({"groups": 5, "protocol": Pairwise(seats=4)}, "seats=4: a committee drawn"),
    ],
)
def test_impossible_groups_cannot_be_built(more: dict[str, Any], reason: str) -> None:
    with pytest.raises(ParameterError, match=reason):
        Robust(FedMedian(), **more)


def test_groups_that_stay_are_of_all_devices() -> None:
    with pytest.raises(ParameterError, match=r"fraction_train=1\.0, or draw groups anew"):
        Robust(FedMedian(fraction_train=0.5), groups=5)
    Robust(FedMedian(fraction_train=0.5), groups=5, anew=True)


def test_a_run_waits_for_two_devices_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = Robust(FedMedian(), groups=4)
    assert strategy.nodes == 8
    monkeypatch.setattr("tacit.server.loop.time.sleep", lambda seconds: None)
    clock = iter(range(0, 10_000, 50))
    monkeypatch.setattr("tacit.server.loop.time.monotonic", lambda: next(clock))

    def app() -> ClientApp:
        return linear.secure_app(TWO, simulated_device)

    with (
        InProcessGrid(app, devices=7) as grid,
        identity(grid.run.run_id),
        pytest.raises(TooFewClients, match="7 of 8 devices are online"),
    ):
        strategy.start(grid, linear.initial(), 1)
