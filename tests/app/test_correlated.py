"""Correlated noise through a whole federation: cohorts take turns, and what comes out of their sums
is the mechanism, over interruptions and failures too."""

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg

from tacit.app import reporting
from tacit.app.check import check
from tacit.app.config import Settings
from tacit.app.folder import RunFolder
from tacit.app.simulation import Finished, simulate
from tacit.crypto.errors import ParameterError
from tacit.crypto.vector import Floats, Layout
from tacit.privacy.banded import Banded, Stream
from tacit.privacy.gaussian import epsilon_of
from tacit.privacy.mechanisms import Mechanism
from tacit.privacy.samplers import Sampler, Skellam
from tacit.server.events import BudgetSpent, Event, LeftOut, RoundFinished, SumFailed, SumOpened
from tacit.server.inbox import Seen
from tacit.server.pairwise import Asked
from tacit.server.private import Central, noise_for
from tacit.server.private_sums import Memory, PrivateSums
from tacit.server.turns import Turns
from tacit.strategies.secure import Secure
from tests.app.small import small

COHORTS, BANDS = 3, 2
TURN = [{1, 4, 7, 10}, {2, 5, 8}, {3, 6, 9}]
BANDED = small(
    "data.devices=10",
    "run.rounds=7",
    "privacy.mode=central",
    "privacy.bands=2",
    "privacy.cohorts=3",
    "privacy.noise=2",
)
SIGMAS = 7


@dataclass
class Ran:
    events: list[Event] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    finished: Finished | None = None

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@dataclass(frozen=True)
class Step:
    """A round of a stream, as it was."""

    banded: Banded
    total: Any
    members: frozenset[int]
    rand: bytes
    estimate: Floats


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """All that any stream does."""
    told: list[Step] = []
    advance = Stream.advance

    def telling(
        stream: Stream, total: Any, members: frozenset[int], rand: bytes
    ) -> tuple[Floats, Stream]:
        estimate, after = advance(stream, total, members, rand)
        told.append(Step(stream.banded, total.copy(), members, rand, estimate.copy()))
        return estimate, after

    monkeypatch.setattr(Stream, "advance", telling)
    return told


def run(settings: Settings, folder: RunFolder | None = None, **more: Any) -> Ran:
    check(settings)
    ran = Ran()
    ran.finished = simulate(
        settings, on_event=ran.events.append, tap=ran.seen.append, folder=folder, **more
    )
    return ran


def matrix(banded: Banded, rounds: int) -> Any:
    """C."""
    a = [*banded.coefficients, *[0] * rounds]
    return np.array([[a[t - s] if t >= s else 0 for s in range(rounds)] for t in range(rounds)])


def is_the_mechanism(steps: list[Step]) -> None:
    """y_t is C x and noise of what was drawn for round t alone, mod 2**bits; estimates say y."""
    banded, rounds = steps[0].banded, len(steps)
    c = matrix(banded, rounds)
    said = np.rint(c @ np.array([step.estimate for step in steps])).astype(np.int64)
    sums = np.array([step.total for step in steps]).astype(np.int64)
    law = Skellam(banded.variance)
    noise = [Sampler(law, step.rand, banded.coordinates).draw(banded.coordinates) for step in steps]
    assert not ((c @ sums + np.array(noise) - said) % (1 << banded.bits)).any()
    assert all(step.banded == banded for step in steps)
    assert len({step.rand for step in steps}) == rounds


def flat(arrays: Any) -> Floats:
    return np.concatenate([np.ravel(array).astype(np.float64) for array in arrays.values()])


def test_what_is_released_is_the_mechanism(steps: list[Step]) -> None:
    ran = run(BANDED)
    assert ran.finished is not None
    assert ran.finished.oracle is not None
    assert (ran.finished.oracle.exact, ran.finished.oracle.checked) == (7, 7)
    assert [step.members for step in steps] == [TURN[t % 3] for t in range(7)]
    assert [event.cohort for event in ran.of(SumOpened)] == [4, 3, 3, 4, 3, 3, 4]
    banded = steps[0].banded
    assert (banded.bands, banded.separation, banded.noise) == (BANDS, COHORTS, 2.0)
    is_the_mechanism(steps)


def test_the_model_moves_by_the_mean_on_average_under_one_rotation() -> None:
    """What it is off by is noise that `C` makes white again, of the variance that was promised:
    only if all rounds have one rotation, one grid and one divisor. Were rotations independent, it
    would have 1.5 V and more.

    A squared coordinate of the noise has 2 V**2 of variance, so the mean of N is within
    SIGMAS * sqrt(2 / N), and the mean of N coordinates is within SIGMAS * sqrt(V / N).
    """
    rounds = 40
    settings = BANDED.changed([f"run.rounds={rounds}", "privacy.epsilon=700"])
    ran = run(settings)
    assert ran.finished is not None
    models = [flat(seen.model) for seen in ran.seen]
    last = {name: array.numpy() for name, array in ran.finished.result.arrays.items()}
    moves = np.diff([*models, flat(last)], axis=0)
    off = moves - np.array([flat(seen.update) for seen in ran.seen])
    central, layout = settings.private, Layout.of(ran.seen[0].model)
    assert isinstance(central, Central)
    mechanism = mechanism_for(central, layout.size)
    noise = matrix(mechanism.banded(COHORTS), rounds) @ off * mechanism.scale * 4
    variance, count = float(mechanism.variance), noise.size
    assert abs(noise.mean()) < SIGMAS * np.sqrt(variance / count)
    assert abs(np.mean(noise**2) / variance - 1) < SIGMAS * np.sqrt(2 / count) < 0.25


def mechanism_for(central: Central, length: int) -> Mechanism:
    return Mechanism.of(central.noised(Asked(length, 4, 3, 1, 32)))


class Interrupted(Exception):
    pass


def test_an_interrupted_run_goes_on_with_its_noise(
    steps: list[Step], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a round was released, and the interruption came before its model was kept: it is
    not released anew, but used as it is."""
    folder = RunFolder.create(tmp_path / "run", BANDED)

    def stop(event: Event) -> None:
        if isinstance(event, RoundFinished) and event.round == 3:
            raise Interrupted

    def lose(folder: RunFolder, checkpoint: Any) -> None:
        raise Interrupted

    with pytest.raises(Interrupted), folder:
        simulate(BANDED, on_event=stop, folder=folder)
    assert len(steps) == 3
    rotation = folder.storage.read("rotation")
    assert folder.storage.read("stream")
    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "keep", lose)
        with pytest.raises(Interrupted), folder:
            simulate(BANDED, folder=folder, resume=folder.resume())
    assert len(steps) == 4
    seeds: list[bytes | None] = []

    def listen(event: Event) -> None:
        if isinstance(event, SumOpened):
            seeds.append(folder.storage.read("rotation"))

    with folder:
        simulate(BANDED, on_event=listen, folder=folder, resume=folder.resume())
    assert seeds == [rotation] * 4  # rounds 4 to 7, 4 as it was
    assert [step.members for step in steps] == [TURN[t % 3] for t in range(7)]
    is_the_mechanism(steps)
    assert folder.storage.read("stream") == b""  # sums as they were: of no more use


def test_a_failed_round_does_not_advance(steps: list[Step]) -> None:
    """Its cohort is asked again; nobody is asked twice without the rest that is counted on."""
    ran = run(BANDED.changed(['faults=["drop report 1,4 @2-3"]']))
    assert [event.round for event in ran.of(SumFailed)] == [2, 3]
    assert {event.device for event in ran.of(LeftOut)} == {1, 4}  # partitions of devices 2 and 5
    assert [event.round for event in ran.of(SumOpened)] == [1, 4, 5, 6, 7]
    assert [step.members for step in steps] == [TURN[t % 3] for t in range(5)]
    is_the_mechanism(steps)


def test_a_cohort_that_is_gone_does_not_hold_up_the_others(steps: list[Step]) -> None:
    """After three failures its turn passes, as a round that nobody was in."""
    ran = run(BANDED.changed(['faults=["drop report 1,4"]']))
    assert [event.round for event in ran.of(SumFailed)] == [2, 3, 4, 7]
    assert [event.round for event in ran.of(SumOpened)] == [1, 5, 6]
    assert [step.members for step in steps] == [TURN[0], frozenset(), TURN[2], TURN[0]]
    is_the_mechanism(steps)


def test_whoever_drops_out_leaves_the_divisor_as_it_is(steps: list[Step]) -> None:
    ran = run(BANDED.changed(['faults=["drop report 0 @1"]', "run.rounds=3"]))
    assert steps[0].members == TURN[0] - {1}
    is_the_mechanism(steps)
    central = BANDED.private
    assert isinstance(central, Central)
    move = flat(ran.seen[1].model) - flat(ran.seen[0].model)
    mechanism = mechanism_for(central, move.size)
    assert mechanism.divisor == 4
    # A rotation is an isometry, but for float32, in which models are, too.
    norm = np.linalg.norm(steps[0].estimate) / mechanism.scale
    assert np.linalg.norm(move) == pytest.approx(norm / 4, rel=1e-4)


def test_the_ledger_is_the_closed_form(steps: list[Step], tmp_path: Path) -> None:
    """Whoever is in a round pays for all that it does to later ones, and nobody else does."""
    folder = RunFolder.create(tmp_path / "run", BANDED)
    with folder:
        run(BANDED, folder)
    central = BANDED.private
    assert central is not None
    ledger = PrivateSums(central, folder.storage).ledger
    times = Counter(device for step in steps for device in step.members)
    assert times == {device: 3 if device in TURN[0] else 2 for device in range(1, 11)}
    for device, often in times.items():
        epsilon = ledger.epsilon(device, 1e-5, central.budget.against)
        assert epsilon == pytest.approx(epsilon_of(often**0.5 / 2, 1e-5), rel=1e-3)
    statement = reporting.statement_of(folder)
    assert statement is not None
    assert statement.server.worst == float("inf")
    assert statement.worst == pytest.approx(epsilon_of(3**0.5 / 2, 1e-5), rel=1e-3)


def test_what_is_charged_is_charged_before_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    charge, advance, write = PrivateSums.charge, Stream.advance, Memory.write

    def told(name: str, function: Any) -> Any:
        def wrapped(*args: Any) -> Any:
            order.append(name if function is not write else args[1])
            return function(*args)

        return wrapped

    monkeypatch.setattr(PrivateSums, "charge", told("charge", charge))
    monkeypatch.setattr(Stream, "advance", told("advance", advance))
    monkeypatch.setattr(Memory, "write", told("", write))
    run(BANDED.changed(["run.rounds=3"]))
    one = ["charge", "ledger_client_zero_out", "advance", "stream"]
    assert order == ["rotation", *one * 3, "stream", "rotation"]


def test_noise_is_for_the_rounds_that_a_device_is_in() -> None:
    settings = BANDED.changed(["privacy.noise=0", "privacy.epsilon=4"])
    central = settings.private
    assert central is not None
    assert central.noise == noise_for(4, 1e-5, 3)
    more = settings.changed(["privacy.cohorts=5"]).private
    assert isinstance(more, Central)
    assert more.turns == Turns(2, 5, 10)
    assert more.noise == noise_for(4, 1e-5, 2)


def test_a_run_ends_where_the_owners_of_a_cohort_allow_no_more() -> None:
    """The others rest, and say nothing of their budgets."""
    settings = BANDED.changed(["policy.epsilon=3", "policy.trust_server=true"])
    ran = Ran()
    simulate(settings, on_event=ran.events.append)
    (spent,) = ran.of(BudgetSpent)
    assert "4 of 4 devices have spent their budgets" in spent.reason
    assert len(ran.of(SumOpened)) == spent.round - 1


MISTAKES = {
    "full participation": (
        ["privacy.bands=1", "privacy.cohorts=1"],
        "independent is the most accurate",
    ),
    "turns without bands": (["privacy.bands=0"], "leave bands out"),
    "no rest": (["privacy.bands=4"], "a device's rounds would overlap"),
    "drawn at random": (["strategy.fraction_train=0.5"], "nobody is drawn at random"),
    "a clip that moves": (["privacy.quantile=0.5"], "leave out sketch, records and adaptive"),
    "a sketch": (["privacy.sketch=0.1"], "leave out sketch, records and adaptive"),
    "examples": (["privacy.unit=record"], "leave out sketch, records and adaptive"),
    "noise of the devices": (["privacy.mode=distributed"], "only a server that adds the noise"),
    "more bands than rounds": (["privacy.bands=3", "run.rounds=2"], "more bands than rounds"),
    "cohorts too small": (["privacy.cohorts=5"], "lower privacy.cohorts"),
}


@pytest.mark.parametrize("name", list(MISTAKES))
def test_mistakes_are_told_before_a_run_starts(name: str) -> None:
    changed, says = MISTAKES[name]
    with pytest.raises(ParameterError, match=re.escape(says)):
        check(BANDED.changed(changed))


def test_a_strategy_that_draws_devices_is_refused() -> None:
    central = Central(turns=Turns(2, 3, 9))
    Secure(FedAvg(fraction_evaluate=0.0), privacy=central)
    with pytest.raises(ParameterError, match="no devices are drawn at random"):
        Secure(FedAvg(fraction_evaluate=0.0, fraction_train=0.5), privacy=central)


def test_rounds_of_another_plan_are_not_gone_on_with(steps: list[Step], tmp_path: Path) -> None:
    """Nothing is opened, nor charged."""
    folder = RunFolder.create(tmp_path / "run", BANDED)

    def stop(event: Event) -> None:
        if isinstance(event, RoundFinished):
            raise Interrupted

    with pytest.raises(Interrupted), folder:
        simulate(BANDED, on_event=stop, folder=folder)
    before = folder.storage.read("ledger_client_zero_out")
    other = replace(folder, settings=BANDED.changed(["privacy.noise=3"]))
    with pytest.raises(ParameterError, match="rounds of another run"):
        simulate(other.settings, folder=other, resume=other.resume())
    assert folder.storage.read("ledger_client_zero_out") == before
    assert len(steps) == 1
