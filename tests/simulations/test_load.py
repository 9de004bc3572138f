"""What many devices cost a server: the formula has every message in it, and playing agrees."""

from dataclasses import fields, replace
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.crypto.codec import Codec
from tacit.crypto.errors import ParameterError
from tacit.crypto.secagg import client
from tacit.crypto.secagg.memory import Contribution
from tacit.crypto.secagg.messages import AttestRequest, RevealRequest
from tacit.crypto.secagg.server import Collecting
from tacit.crypto.secagg.session import threshold_for
from tacit.simulations import load
from tacit.simulations.checkins import play
from tacit.simulations.load import (
    MEMBER_BYTES,
    ROSTER_BYTES,
    Demand,
    Fleet,
    Machine,
    Sum,
    links,
    machines,
    most_devices,
    on_paper,
)
from tests.crypto.federation import Federation

ROUNDS = 60
BIG = Machine(cores=1e6, line=1e12)


def test_bytes_of_stages_are_those_of_real_messages() -> None:
    """A cohort of twelve that is its own committee, all of whom answer: to the byte, but for
    headers."""
    devices, length = 12, 1000
    fleet = Fleet(devices, cohort=devices, length=length, drop=0.0, gamma=0.1)
    plan, crew = Sum.of(fleet), Federation(devices)
    assert (plan.members, plan.witnesses, plan.degree) == (devices, 0, devices - 1)
    bits = fleet.precision + devices.bit_length()
    codec = Codec(length, devices, bits=bits, max_weight=100.0)
    threshold = threshold_for(devices, int(0.1 * devices))
    session = crew.session(codec, threshold=threshold)
    assert len(crew.roster.encode()) == ROSTER_BYTES + MEMBER_BYTES * devices == plan.enrol.down
    collecting, states, reports = Collecting(session, crew.roster), {}, []
    agreed = {d: client.agree_all(crew.enrolled[d], session) for d in crew.devices}
    for d in crew.devices:
        given_ = Contribution(np.zeros(length), np.zeros(codec.metrics), 1.0)
        encoded = codec.encode(given_.update, given_.metrics, given_.weight, crew.rand(32))
        state, report = client.report(
            crew.enrolled[d],
            crew.identities[d],
            session,
            agreed[d],
            encoded,
            (),
            bytes(32),
            crew.rand(client.REPORT_RAND_BYTES),
        )
        states[d] = state
        reports.append(len(report.encode(session)))
        collecting.add(report.encode(session), sender=d)
    model = 4 * length  # float32
    assert abs(reports[0] - plan.report.up) < 200
    assert abs(model + len(session.encode()) - plan.report.down) < 300
    attesting = collecting.close()
    request = attesting.request(1).encode(session)
    assert len(request) == plan.attest.down
    attested = {}
    for d, state in states.items():
        asked = AttestRequest.decode(attesting.request(d).encode(session), session)
        attested[d], answer = client.attest(state, crew.identities[d], agreed[d], bytes(32), asked)
        assert len(answer.encode()) == plan.attest.up
        attesting.add(answer.encode(), sender=d)
    revealing = attesting.close()
    request_ = revealing.request().encode()
    signed = len(RevealRequest.decode(request_, session).signatures)
    assert len(request_) - 72 * signed == plan.reveal.down - 72 * threshold
    answer_ = client.reveal(attested[1], crew.roster, RevealRequest.decode(request_, session))
    assert len(answer_.encode()) == plan.reveal.up


def tolerance(fleet: Fleet, rounds: int) -> float:
    """Five standard deviations of the number of devices that answer, relative to its mean; what
    costs more with each, costs at most so much more. A run without chance leaves the rounding of
    witnesses to whole devices."""
    answers = fleet.cohort * rounds * (1 - fleet.drop)
    return 5 * sqrt(fleet.drop / answers) + 1 / fleet.cohort


@pytest.mark.parametrize("devices", [200, 5_000, 100_000])
@pytest.mark.parametrize("cohort", [60, 200])
@pytest.mark.parametrize("drop", [0.0, 0.1])
def test_played_comes_to_what_the_formula_says(devices: int, cohort: int, drop: float) -> None:
    fleet = Fleet(devices, cohort=cohort, length=10_000, drop=drop)
    paper, played = on_paper(fleet, ROUNDS), play(fleet, BIG, ROUNDS, seed=3).demand
    for each in fields(Demand):
        one, other = getattr(paper, each.name), getattr(played, each.name)
        assert other == pytest.approx(one, rel=tolerance(fleet, ROUNDS)), each.name


@pytest.mark.parametrize("stage", ["enrol", "report", "attest", "reveal"])
def test_a_stage_that_one_of_them_forgot_would_show(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(5_000, cohort=60, length=1000, poll=100.0)
    paper = on_paper(fleet, ROUNDS)
    plan = Sum.of(fleet)
    without = replace(getattr(plan, stage), down=0.0, up=0.0, seconds=0.0)
    changed = replace(plan, **{stage: without})
    monkeypatch.setattr(Sum, "of", lambda fleet: changed)
    played = play(fleet, BIG, ROUNDS, seed=3).demand
    off = max(
        abs(getattr(played, name) / getattr(paper, name) - 1)
        for name in ("up", "down", "own_cores")
    )
    assert off > tolerance(fleet, ROUNDS)


def test_a_seed_repeats_a_run() -> None:
    fleet = Fleet(2_000, cohort=50, length=1000)
    one, same, other = (play(fleet, BIG, 5, seed=seed) for seed in (1, 1, 2))
    assert one.demand == same.demand
    assert np.array_equal(one.rounds, same.rounds)
    assert not np.array_equal(one.rounds, other.rounds)


def test_a_round_takes_at_least_its_training_and_at_most_its_deadlines() -> None:
    fleet = Fleet(2_000, cohort=50, length=1000, drop=0.0, poll=10.0)
    played = play(fleet, BIG, 20, seed=1)
    assert all(fleet.train < each < 4 * fleet.deadline + fleet.timeout for each in played.rounds)
    silent = play(replace(fleet, drop=0.2), BIG, 20, seed=1)
    assert min(silent.rounds) >= fleet.timeout


def test_messages_wait_where_there_is_little_of_a_machine() -> None:
    fleet = Fleet(2_000, cohort=100, length=1_000_000, drop=0.0)
    cores = load.polling(fleet)[2]
    small = play(fleet, Machine(cores + 0.3, 1e12), 3, seed=1)
    assert small.longest_wait > 10 * play(fleet, BIG, 3, seed=1).longest_wait
    with pytest.raises(ParameterError, match="polls alone take"):
        play(fleet, Machine(cores * 0.99, 1e12), 3)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.floats(1.0, 100.0))
def test_more_devices_and_more_polls_cost_more(size: int, poll: float) -> None:
    fleet = Fleet(100 * 10 ** (size // 2), cohort=40, poll=poll)
    less = on_paper(fleet, 10)
    for more in (replace(fleet, devices=2 * fleet.devices), replace(fleet, poll=poll / 2)):
        assert on_paper(more, 10).cores > less.cores
        assert on_paper(more, 10).up > less.up


@pytest.mark.parametrize("one_link", [True, False])
def test_where_one_ends_the_next_device_is_one_too_many(one_link: bool) -> None:
    fleet, machine = Fleet(1000, cohort=40, every=3600.0), Machine()
    most = most_devices(fleet, machine, 10, one_link=one_link)
    for devices, is_enough in ((most, True), (most + 1, False)):
        demand = on_paper(replace(fleet, devices=devices), 10)
        assert (
            machines(demand, machine) == 1 and (not one_link or links(demand) == 1)
        ) is is_enough
    assert most_devices(replace(fleet, every=1.0), machine, 10, one_link=True) == 0


def test_what_no_fleet_can_be_is_refused() -> None:
    for changed in ({"poll": 0.0}, {"poll": 500.0}, {"cohort": 2000}, {"drop": 1.0}):
        with pytest.raises(ParameterError):
            Fleet(1000, **changed)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="miss stages"):
        Fleet(1000, poll=121.0)
    for machine in ({"cores": 0.0}, {"line": -1.0}):
        with pytest.raises(ParameterError):
            Machine(**machine)
    with pytest.raises(ParameterError, match="rounds"):
        play(Fleet(1000), BIG, 0)
