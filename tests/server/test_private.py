"""Private sums on the server: the mean and its noise, who pays, and where a run ends."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAdam, FedAvg

from tacit.app.slots import Slots
from tacit.client.app import SecureClientApp
from tacit.client.device import simulated_device
from tacit.client.policy import Policy
from tacit.crypto.errors import ParameterError
from tacit.crypto.secagg.noised import Noised
from tacit.privacy.accountants import Adversary, compose
from tacit.privacy.charges import releases_of
from tacit.privacy.gaussian import epsilon_of
from tacit.privacy.ledger import Budget
from tacit.privacy.mechanisms import Mechanism
from tacit.privacy.releases import Unit
from tacit.server.auto import Auto
from tacit.server.checkpoint import Checkpoint
from tacit.server.encrypted import Encrypted
from tacit.server.events import (
    BudgetSpent,
    EpsilonSpent,
    Event,
    LeftOut,
    RoundFinished,
    RunFinished,
    SumFailed,
    SumOpened,
)
from tacit.server.flower import identity
from tacit.server.grid import SecureGrid
from tacit.server.inbox import Seen
from tacit.server.loop import Plan, run_rounds
from tacit.server.pairwise import Pairwise, SecureSum
from tacit.server.private import (
    QUANTILE_NOISE,
    Adaptive,
    Central,
    Distributed,
    Local,
    Privacy,
    noise_for,
)
from tacit.server.private_sums import Memory, PrivateSums
from tacit.server.tenseal import TenSeal
from tacit.simulations.engine.faults import Drop, Fault
from tacit.simulations.engine.grid import InProcessGrid
from tacit.strategies.secure import Secure
from tests.runtime import linear

DEVICES, LEAST, CORRUPT = 7, 5, 2  # what `Pairwise` makes of seven
ALL = set(range(DEVICES))
DELTA = 1e-5
FREE = Policy(lattice=True, consortium=True, trust_server=True)
MODES = [Distributed, Local, Central]
SIGMAS = 7


@dataclass
class Pushed:
    """Device p adds norms[p] along axis p, counts five in `n`, and says things of itself."""

    norms: Sequence[float]

    def __call__(self, message: Message, context: Context) -> RecordDict:
        model = linear.arrays_of(message.content.array_records["arrays"])
        partition = int(context.node_config["partition-id"])
        w = model["w"].astype(np.float64)
        w[partition] += self.norms[partition]
        arrays = linear.record({"w": w.astype(model["w"].dtype), "n": model["n"] + 5})
        metrics = MetricRecord({linear.WEIGHT: 20 + partition, "loss": float(partition)})
        return RecordDict({"arrays": arrays, "metrics": metrics})


STILL = Pushed([0.0] * DEVICES)
SIX = Pushed([0.6] * DEVICES)


@dataclass
class Ran:
    private: PrivateSums
    events: list[Event] = field(default_factory=list)
    models: list[dict[str, np.ndarray]] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    kept: list[Checkpoint] = field(default_factory=list)
    metrics: dict[int, Any] = field(default_factory=dict)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def spent(self, device: int, against: Adversary = Adversary.SERVER) -> float:
        return self.private.ledger.epsilon(device, DELTA, against)

    @property
    def last(self) -> np.ndarray:
        return self.models[-1]["w"]


def run(
    privacy: Privacy,
    reply: linear.TrainReply = STILL,
    faults: Sequence[Fault] = (),
    *,
    rounds: int = 1,
    length: int = 64,
    protocol: SecureSum | None = None,
    policy: Policy = FREE,
    storage: Any = None,
    resume: Checkpoint | None = None,
    strategy: FedAvg | None = None,
    wrap: Callable[[Secure], None] = lambda secure: None,
) -> Ran:
    every: dict[str, Any] = {"min_train_nodes": DEVICES, "min_available_nodes": DEVICES}
    strategy = strategy or FedAvg(**every, fraction_evaluate=0.0)
    secure = Secure(strategy, protocol, privacy=privacy, storage=storage)
    assert secure.private is not None
    ran = Ran(secure.private)
    wrap(secure)
    initial = {"w": np.zeros(length, np.float32), "n": np.arange(3)}

    def look(number: int, arrays: ArrayRecord) -> None:
        ran.models.append(linear.arrays_of(arrays))

    def load() -> ClientApp:
        return linear.register(SecureClientApp(policy, device_of=simulated_device), reply)

    with InProcessGrid(load, devices=DEVICES, faults=faults) as inner, identity(inner.run.run_id):
        grid = secure.grid(inner, on_event=ran.events.append, tap=ran.seen.append)
        result = run_rounds(
            grid,
            strategy,
            ArrayRecord({name: Array(array) for name, array in initial.items()}),
            Plan(rounds, seed=1),
            evaluate_fn=look,
            on_event=ran.events.append,
            keep=ran.kept.append,
            resume=resume,
        )
    ran.metrics = result.train_metrics_clientapp
    if resume is None:
        np.testing.assert_array_equal(
            linear.arrays_of(result.arrays)["w"], ran.models[-1]["w"], "the model is not kept"
        )
    return ran


def agreed(privacy: Privacy, length: int = 64, clients: int = DEVICES) -> Noised:
    """What sessions of such a run say; the counters are three coordinates more."""
    protocol = Pairwise()
    found = privacy.noised(protocol.asked(length + 3, clients, DEVICES))
    assert found is not None
    return found


def closed(privacy: Privacy, survivors: Sequence[int] = (DEVICES,), length: int = 64) -> float:
    """Epsilon of sums over so many each, against whoever the budget is against."""
    codec, against = agreed(privacy, length), privacy.budget.against
    made = [r for s in survivors for r in releases_of(codec, 1, 1, s, codec.corrupt)]
    return compose(made, against).epsilon(DELTA)


# The mean


def shares(privacy: Privacy, survivors: int) -> Fraction:
    """The variance of the noise in a sum over so many, of what was promised."""
    if isinstance(privacy, Local):
        return Fraction(survivors)
    return Fraction(1) if isinstance(privacy, Central) else Fraction(survivors, LEAST - CORRUPT)


@pytest.mark.parametrize(
    ("protocol", "mode"),
    [
        pytest.param(Pairwise(), Distributed, id="pairwise-distributed"),
        pytest.param(Pairwise(), Local, id="pairwise-local"),
        pytest.param(Pairwise(), Central, id="pairwise-central"),
        pytest.param(Encrypted(), Distributed, id="lattice-distributed"),
        pytest.param(Encrypted(), Central, id="lattice-central"),
        pytest.param(Auto(), Distributed, id="auto-distributed"),
        pytest.param(None, Distributed, id="tenseal-distributed"),
        pytest.param(None, Local, id="tenseal-local"),
    ],
)
def test_the_mean_is_right_up_to_noise_of_the_right_variance(
    protocol: SecureSum | None, mode: type[Privacy]
) -> None:
    if protocol is None:
        pytest.importorskip("tenseal", reason="TenSEAL is not installed: pip install '.[he]'")
        if os.name != "posix":
            pytest.skip("needs POSIX pipes")
        protocol = TenSeal()
    length, privacy = 2000, mode(clip=0.5, noise=1.0, tolerance=0.1)
    ran = run(privacy, SIX, protocol=protocol, length=length)
    (opened,) = ran.of(SumOpened)
    assert (opened.survivors, opened.cohort) == (DEVICES, DEVICES)
    # Updates of 0.6 are clipped to 0.5; rounding has a variance of 1/4 steps for each device.
    mean = np.r_[np.full(DEVICES, 0.5 / DEVICES), np.zeros(length - DEVICES)]
    codec = privacy.noised(protocol.asked(length + 3, DEVICES, DEVICES))
    mechanism = Mechanism.of(codec)
    found = (ran.last - mean) * DEVICES * mechanism.scale
    variance = float(mechanism.variance * shares(privacy, DEVICES))
    ratio = float(np.mean(found**2)) / variance
    near = SIGMAS * math.sqrt(2.02 / length)
    assert 1 - near < ratio < 1 + near + DEVICES / 4 / variance
    assert near < 0.25
    assert not dict(ran.metrics[1])  # the weight aside, which strategies leave out


@pytest.mark.parametrize("mode", MODES)
def test_with_hardly_any_noise_the_mean_is_exact(mode: type[Privacy]) -> None:
    norms = [0.1, 0.2, 0.4, 0.7, 1.0, 3.0, 10.0]
    privacy = mode(clip=1.0, noise=0.001, tolerance=0.01)
    ran = run(privacy, Pushed(norms))
    wanted = np.minimum(norms, 1.0) / DEVICES
    steps = math.sqrt(64 + 3) / Mechanism.of(agreed(privacy)).scale
    noise = 0.001 * math.sqrt(float(shares(privacy, DEVICES))) / DEVICES
    assert np.abs(ran.last[:DEVICES] - wanted).max() < SIGMAS * noise + steps
    assert np.abs(ran.last[DEVICES:]).max() < SIGMAS * noise + steps


@pytest.mark.parametrize("mode", MODES)
def test_arrays_of_whole_numbers_do_not_move(mode: type[Privacy]) -> None:
    """Each device counts on; noise of many steps would be on them too."""
    ran = run(mode(clip=100.0, noise=10.0), rounds=2)
    for model in ran.models:
        assert model["n"].dtype == np.arange(3).dtype
        assert model["n"].tolist() == [0, 1, 2]
    assert ran.models[0]["w"].dtype == ran.last.dtype == np.float32
    assert np.abs(ran.last).max() > 10


def test_the_server_sees_a_central_sum_before_it_has_noise() -> None:
    ran = run(Central(noise=1.0), SIX)
    (seen,) = ran.seen
    step = 1 / Mechanism.of(agreed(Central(noise=1.0))).scale
    np.testing.assert_allclose(seen.update["w"][:DEVICES], 0.6 / DEVICES, rtol=0, atol=9 * step)
    assert np.abs(ran.last - seen.update["w"]).max() > 0.1
    ran = run(Distributed(noise=1.0), SIX)
    (seen,) = ran.seen
    np.testing.assert_array_equal(seen.update["w"].astype(np.float32), ran.last)


# Drop-outs


@pytest.mark.parametrize("mode", MODES)
def test_as_many_as_are_reckoned_with_may_drop(mode: type[Privacy]) -> None:
    length, privacy = 2000, mode(noise=1.0, tolerance=0.1)
    ran = run(privacy, faults=[Drop("report", {1, 4}, {1})], length=length)
    (opened,) = ran.of(SumOpened)
    assert opened.survivors == LEAST
    mechanism = Mechanism.of(agreed(privacy, length))
    found = float(np.mean((ran.last * LEAST * mechanism.scale) ** 2))
    variance = float(mechanism.variance * shares(privacy, LEAST))
    assert abs(found / variance - 1) < SIGMAS * math.sqrt(2.02 / length) + LEAST / 4 / variance
    against = privacy.budget.against
    for partition in ALL:
        paid = ran.spent(partition + 1, against)
        assert paid == (0.0 if partition in {1, 4} else closed(privacy, [LEAST], length))
    assert closed(privacy, [LEAST], length) == pytest.approx(epsilon_of(1.0, DELTA), rel=0.002)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stage", ["report", "attest"])
def test_one_more_and_nothing_is_released_or_charged(mode: type[Privacy], stage: str) -> None:
    ran = run(mode(noise=1.0), SIX, [Drop(stage, {1, 4, 6}, {1})], rounds=2)
    (failed,) = ran.of(SumFailed)
    assert failed.round == 1
    assert not ran.models[1]["w"].any()
    assert [seen.round for seen in ran.seen] == [2]
    assert ran.spent(1, ran.private.privacy.budget.against) == closed(ran.private.privacy)
    assert ran.private.statement().releases == 1


def test_what_is_asked_for_and_not_opened_is_charged_all_the_same() -> None:
    """Shares may have come that the server says it never got."""
    ran = run(Distributed(noise=1.0), SIX, [Drop("reveal", {1, 4, 6}, {1})])
    assert len(ran.of(SumFailed)) == 1
    assert not ran.last.any()
    assert ran.spent(1) == closed(Distributed(noise=1.0))


# The ledger


@pytest.mark.parametrize("mode", MODES)
def test_the_ledger_says_what_the_closed_form_does(mode: type[Privacy]) -> None:
    privacy = mode(noise=2.0)
    ran = run(privacy, faults=[Drop("report", {3}, {2})], rounds=3)
    against = privacy.budget.against
    everyone, absent = closed(privacy, [7, 6, 7]), closed(privacy, [7, 7])
    assert ran.spent(1, against) == pytest.approx(everyone, rel=1e-12)
    assert ran.spent(4, against) == pytest.approx(absent, rel=1e-12)
    assert ran.spent(0, against) == pytest.approx(everyone, rel=1e-12)
    statement = ran.private.statement()
    figure = statement.server if against is Adversary.SERVER else statement.outsider
    assert figure is not None
    assert (figure.worst, figure.median) == (ran.spent(1, against), ran.spent(2, against))
    assert (statement.devices, statement.releases, statement.unsettled) == (DEVICES, 3, 0)
    if mode is Central:
        assert math.isinf(ran.spent(1))
        assert math.isinf(statement.server.worst)


def test_noise_that_is_over_is_credited() -> None:
    privacy = Distributed(noise=1.0)
    complete, fewest = closed(privacy, [DEVICES]), closed(privacy, [LEAST])
    assert run(privacy).spent(1) == complete
    # Five shares that count in the place of three.
    assert complete == pytest.approx(epsilon_of(math.sqrt(3 / 5), DELTA), rel=0.002)
    assert complete < fewest * 0.8


def test_local_noise_is_credited_to_nobody() -> None:
    privacy = Local(noise=1.0)
    assert closed(privacy, [DEVICES]) == closed(privacy, [LEAST])


def test_a_ledger_that_cannot_be_written_keeps_a_sum_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    class Full(Memory):
        def write(self, slot: str, value: bytes) -> None:
            raise OSError("no space left")

    monkeypatch.setattr(SecureGrid, "_reveal", lambda *args: asked.append(1))
    with pytest.raises(OSError, match="no space"):
        run(Distributed(), storage=Full())
    assert not asked


def test_it_is_written_before_anybody_is_asked_to_open(monkeypatch: pytest.MonkeyPatch) -> None:
    storage, spent = Memory(), list[float]()
    reveal = SecureGrid._reveal

    def watched(grid: SecureGrid, *args: Any) -> Any:
        assert grid._private is not None
        spent.append(grid._private.ledger.epsilon(1, DELTA))
        return reveal(grid, *args)

    monkeypatch.setattr(SecureGrid, "_reveal", watched)
    privacy = Distributed()
    run(privacy, storage=storage, rounds=2)
    assert spent == [closed(privacy), pytest.approx(closed(privacy, [7, 7]), rel=1e-12)]


# Where it ends


def budgeted(rounds: float, **more: Any) -> Distributed:
    """For so many sums over the fewest there may be, and a hair."""
    privacy = Distributed(noise=4.0, **more)
    m = math.sqrt(rounds) / 4 * 1.0005
    return replace(privacy, budget=Budget(epsilon_of(m, DELTA), DELTA))


def test_a_run_ends_before_its_budget_breaks() -> None:
    """All seven are there each time, so each sum costs 3/5 of what it might; the next one has to
    fit as it might be: 1 + k 3/5 <= 3 for the sum after k."""
    privacy = budgeted(3)
    ran = run(privacy, SIX, rounds=9)
    (spent,) = ran.of(BudgetSpent)
    assert spent.round == 5
    assert "budget of 7 of 7 devices has no room" in spent.reason
    assert [event.round for event in ran.of(SumOpened)] == [1, 2, 3, 4]
    assert [event.round for event in ran.of(RoundFinished)] == [1, 2, 3, 4]
    assert ran.of(RunFinished)[0].rounds == 4
    assert isinstance(ran.events[-1], RunFinished)
    assert [checkpoint.round for checkpoint in ran.kept] == [1, 2, 3, 4]
    np.testing.assert_array_equal(ran.kept[-1].arrays["w"], ran.last)
    assert 0 < ran.spent(1) <= privacy.budget.epsilon
    assert ran.spent(1) == pytest.approx(closed(privacy, [7] * 4), rel=1e-12)


def test_what_the_ledger_says_is_told_after_each_charge() -> None:
    """Also for a sum that was charged for and not opened; a ledger set back says less."""
    storage, copies = Memory(), []
    privacy = budgeted(3)
    faults = [Drop("reveal", {1, 4, 6}, {2}), Drop("report", {1, 4, 6}, {3})]

    def keep(secure: Secure) -> None:
        assert secure.private is not None
        charge = secure.private.charge

        def charging(*given: Any) -> None:
            charge(*given)
            copies.append((dict(storage.slots), secure.private.statement()))

        secure.private.charge = charging

    ran = run(privacy, SIX, faults, rounds=4, storage=storage, wrap=keep)
    told = ran.of(EpsilonSpent)
    assert [event.round for event in told] == [1, 2, 4]
    assert [event.round for event in ran.of(SumFailed)] == [2, 3]
    assert told == [
        EpsilonSpent(event.round, said.worst, DELTA, "client", "server", said.releases)
        for event, (_, said) in zip(told, copies, strict=True)
    ]
    assert [event.releases for event in told] == [1, 2, 3]
    spent = [event.epsilon for event in told]
    assert spent == sorted(set(spent))
    back = PrivateSums(privacy, Memory(copies[1][0])).spent(4)
    assert back.releases < told[-1].releases
    assert back.epsilon < told[-1].epsilon
    opened = ran.events.index(ran.of(SumOpened)[0])
    assert ran.events.index(told[0]) < opened


def test_a_server_that_adds_the_noise_tells_what_it_is_against() -> None:
    ran = run(Central(noise=4.0))
    (told,) = ran.of(EpsilonSpent)
    assert (told.against, told.epsilon) == ("outsider", pytest.approx(closed(Central(noise=4.0))))
    ledger = ran.private.ledger
    ran.private.ledger = replace(ledger, budget=replace(ledger.budget, against=Adversary.SERVER))
    told = ran.private.spent(1)
    assert (told.against, told.epsilon) == ("server", None)  # no bound, and no 0


def test_a_budget_for_nothing_ends_a_run_before_it_begins() -> None:
    ran = run(budgeted(0.5), SIX, rounds=3)
    assert [event.round for event in ran.of(BudgetSpent)] == [1]
    assert not ran.of(SumOpened)
    assert ran.of(RunFinished)[0].rounds == 0
    assert not ran.last.any()
    assert ran.spent(1) == 0.0


def poorer(privacy: Privacy, devices: Sequence[int]) -> Memory:
    """Storage in which some devices have spent nearly all."""
    storage = Memory()
    sums = PrivateSums(privacy, storage)
    codec = agreed(privacy)
    once = releases_of(codec, 9, 1, LEAST, codec.corrupt)
    sums.ledger.spend(once * 2, devices)
    return storage


def test_devices_whose_budget_is_spent_are_left_out() -> None:
    privacy = budgeted(2.5)
    ran = run(privacy, SIX, storage=poorer(privacy, [3]))
    (left,) = ran.of(LeftOut)
    assert (left.stage, left.device, left.reason) == ("report", 3, "its budget is spent")
    (opened,) = ran.of(SumOpened)
    assert (opened.survivors, opened.cohort) == (6, 6)
    assert ran.spent(1) > 0
    assert ran.spent(3) <= privacy.budget.epsilon
    codec = agreed(privacy, clients=6)
    assert ran.spent(1) == compose(
        releases_of(codec, 1, 1, 6, codec.corrupt), Adversary.SERVER
    ).epsilon(DELTA)


def test_too_many_of_them_end_the_run() -> None:
    """One device by itself is no cohort."""
    privacy = budgeted(2.5)
    ran = run(privacy, SIX, storage=poorer(privacy, [2, 3, 4, 5, 6, 7]), rounds=2)
    assert [event.round for event in ran.of(BudgetSpent)] == [1]
    assert not ran.of(SumOpened)
    assert ran.spent(1) == 0.0


def test_devices_have_budgets_of_their_own() -> None:
    """The server has no limit. Devices count no survivor that they do not know of, and refuse: the
    run ends with the model it has."""
    privacy = Distributed(noise=4.0)
    m = math.sqrt(2) / 4 * 1.0005
    asks = replace(FREE, epsilon=epsilon_of(m, DELTA), delta=DELTA)
    ran = run(privacy, SIX, policy=asks, rounds=3)
    assert [event.round for event in ran.of(SumOpened)] == [1, 2]
    assert [event.round for event in ran.of(BudgetSpent)] == [3]
    reasons = {event.reason for event in ran.of(LeftOut)}
    assert len(reasons) == 1
    assert "owner allows no more" in reasons.pop()
    assert len(ran.models) == 3


def test_after_a_restart_the_account_goes_on(tmp_path: Path) -> None:
    privacy = budgeted(3)
    first = run(privacy, SIX, rounds=2, storage=Slots(tmp_path / "ledger"))
    assert not first.of(BudgetSpent)
    again = run(privacy, SIX, rounds=9, storage=Slots(tmp_path / "ledger"), resume=first.kept[-1])
    assert [event.round for event in again.of(BudgetSpent)] == [5]
    assert [event.round for event in again.of(SumOpened)] == [3, 4]
    assert again.spent(1) == pytest.approx(closed(privacy, [7] * 4), rel=1e-12)
    # A ledger that is elsewhere would have let it go on.
    other = run(privacy, SIX, rounds=6, storage=Memory(), resume=first.kept[-1])
    assert [event.round for event in other.of(SumOpened)] == [3, 4, 5, 6]


def test_noise_for_so_many_rounds_lasts_for_them() -> None:
    """At least: with all devices there it lasts longer."""
    for rounds, adaptive in ((3, False), (5, True)):
        noise = noise_for(2.0, DELTA, rounds, adaptive=adaptive)
        how = Adaptive() if adaptive else None
        privacy = Local(noise=noise, budget=Budget(2.0, DELTA), adaptive=how)
        ran = run(privacy, SIX, rounds=rounds + 1)
        assert [event.round for event in ran.of(BudgetSpent)] == [rounds + 1]
        assert 1.99 < ran.spent(1) <= 2.0
    for epsilon, count in ((math.inf, 1), (1.0, 0), (0.0, 1)):
        with pytest.raises(ParameterError):
            noise_for(epsilon, DELTA, count)


# The clip that follows


NORMS = Pushed([0.25, 0.5, 0.8, 1.0, 1.25, 2.0, 4.0])


@pytest.mark.parametrize(
    ("mode", "start"), [(Distributed, 0.1), (Distributed, 10.0), (Central, 10.0), (Local, 0.1)]
)
def test_a_clip_comes_to_the_quantile_from_either_side(mode: type[Privacy], start: float) -> None:
    """The median of the norms is 1. A step is 0.8 / 2 at most, so it takes 6 rounds from a tenth
    or ten times of it; near it, it moves by a seventh of a half of that, and noise."""
    noise = 0.02 if mode is not Local else 0.01
    ran = run(mode(clip=start, noise=noise, adaptive=Adaptive(0.5, 0.8)), NORMS, rounds=10)
    assert len(ran.of(SumOpened)) == 10
    # Where three are within it grows, where four are it shrinks: between 0.8 and 1.25.
    step = math.exp(0.8 * (0.5 / 7 + SIGMAS * noise * QUANTILE_NOISE / 2 * 7**-0.5))
    assert 1 / step < ran.private.clip < step


@pytest.mark.parametrize(("quantile", "low", "high"), [(0.2, 0.4, 0.7), (0.8, 1.2, 2.6)])
def test_another_quantile_is_another_clip(quantile: float, low: float, high: float) -> None:
    privacy = Distributed(clip=1.0, noise=0.01, adaptive=Adaptive(quantile, 0.4))
    assert low < run(privacy, NORMS, rounds=8).private.clip < high


def test_a_clip_that_stays_is_not_asked_about() -> None:
    ran = run(Distributed(clip=0.3, noise=0.1), NORMS, rounds=3)
    assert ran.private.clip == 0.3
    assert agreed(Distributed()).quantile == 0
    assert agreed(Distributed(noise=2.0, adaptive=Adaptive())).quantile == 2 * QUANTILE_NOISE


def test_asking_about_norms_is_charged() -> None:
    privacy = Distributed(noise=1.0, adaptive=Adaptive())
    paid = run(privacy).spent(1)
    assert paid == closed(privacy)
    plain = closed(Distributed(noise=1.0))
    assert paid == pytest.approx(epsilon_of(math.sqrt(3 / 5 * (1 + 1 / 25)), DELTA), rel=0.003)
    assert paid > 1.01 * plain


def test_a_clip_is_remembered(tmp_path: Path) -> None:
    privacy = Distributed(clip=10.0, noise=0.02, adaptive=Adaptive(0.5, 0.8))
    first = run(privacy, NORMS, rounds=3, storage=Slots(tmp_path / "ledger"))
    assert first.private.clip < 4
    again = PrivateSums(privacy, Slots(tmp_path / "ledger"))
    assert again.clip == first.private.clip
    assert PrivateSums(replace(privacy, adaptive=None), Slots(tmp_path / "ledger")).clip == 10.0


def test_how_a_clip_moves() -> None:
    move = Adaptive(0.5, 0.2).moved
    assert move(1.0, 0.5) == 1.0
    assert move(2.0, 1.0) == pytest.approx(2 * math.exp(-0.1))
    assert move(2.0, 0.0) == pytest.approx(2 * math.exp(0.1))
    assert move(2.0, 9.0) == move(2.0, 1.0)  # what noise makes of a share
    assert move(2.0, -9.0) == move(2.0, 0.0)
    assert Adaptive(0.5, 10).moved(2.0**60, 0.0) == 2.0**60
    assert Adaptive(0.5, 10).moved(2.0**-60, 1.0) == 2.0**-60
    for bad in ({"quantile": 0.0}, {"quantile": 1.0}, {"quantile": math.nan}, {"rate": 0.0}):
        with pytest.raises(ParameterError, match=next(iter(bad))):
            Adaptive(**bad)


# What cannot be


@pytest.mark.parametrize(
    "changed",
    [
        {"clip": 0.0},
        {"clip": math.nan},
        {"noise": 0.0},
        {"noise": math.inf},
        {"noise": -1.0},
        {"tolerance": 0.0},
        {"sketch": -1.0},
        {"records": -1},
        {"records": 4, "adaptive": Adaptive()},
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_what_cannot_be_private_is_not_built(mode: type[Privacy], changed: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        mode(**changed)


def test_a_strategy_that_has_devices_evaluate_is_refused() -> None:
    """It is Flower's default."""
    for strategy in (FedAvg(), FedAvg(fraction_evaluate=0.1), FedAdam()):
        with pytest.raises(ParameterError, match=r"fraction_evaluate=0\.0"):
            Secure(strategy, privacy=Distributed())
        Secure(strategy)
    Secure(FedAdam(fraction_evaluate=0.0), privacy=Distributed())


def test_an_evaluation_that_is_asked_for_all_the_same_is_none() -> None:
    """A strategy that changes its mind: no device is asked."""
    strategy = FedAvg(min_train_nodes=DEVICES, min_available_nodes=DEVICES, fraction_evaluate=0.0)

    def change(secure: Secure) -> None:
        strategy.fraction_evaluate = 1.0

    ran = run(Distributed(), strategy=strategy, wrap=change)
    assert [(e.purpose, e.round) for e in ran.of(SumFailed)] == [("evaluate", 1)]
    assert [e.purpose for e in ran.of(SumOpened)] == ["train"]


def test_a_central_budget_is_against_those_who_do_not_run_the_server() -> None:
    privacy = Central(budget=Budget(1.0, DELTA))
    assert privacy.budget.against is Adversary.OUTSIDER
    assert Distributed(budget=Budget(1.0, DELTA)).budget.against is Adversary.SERVER
    assert Distributed(records=4).unit is Unit.RECORD
    assert Distributed().unit is Unit.CLIENT


def test_other_strategies_step_from_a_private_mean() -> None:
    strategy = FedAdam(
        min_train_nodes=DEVICES, min_available_nodes=DEVICES, fraction_evaluate=0.0, eta=0.1
    )
    ran = run(Distributed(noise=0.01), SIX, strategy=strategy, rounds=3)
    assert len(ran.of(SumOpened)) == 3
    assert ran.last[:DEVICES].min() > 0.05
