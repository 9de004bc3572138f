"""The parameters of a pairwise sum, and the session made of them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from hypothesis import given
from hypothesis import strategies as st

from tacit.client.policy import Policy
from tacit.crypto.errors import ParameterError, TooFewClients
from tacit.crypto.identity import NO_KEM, RunKey
from tacit.crypto.secagg import hybrid, parameters
from tacit.crypto.secagg.parameters import COMPLETE, choose
from tacit.crypto.secagg.session import Purpose, Session
from tacit.crypto.simulated import simulated_roster
from tacit.server.encrypted import Encrypted
from tacit.server.pairwise import Binding, Pairwise, SecureSum

BINDING = Binding(b"m" * 32, b"c" * 32)


def key(device: int) -> RunKey:
    return RunKey(device, device.to_bytes(32, "big"), NO_KEM, bytes(64))


def session(
    devices: int, protocol: SecureSum | None = None, length: int = 10, others: Sequence[int] = ()
) -> Session:
    # Not in order: a server hears its devices as they come.
    keys = [key(d) for d in range(devices, 0, -1)]
    roster = simulated_roster(max(devices, *others, 1))
    known = {device: key(device) for device in others}
    return (protocol or Pairwise()).session(
        3, 2, Purpose.TRAIN, keys, roster, known, length, BINDING
    )


@given(devices=st.integers(3, COMPLETE), corrupt=st.floats(0, 0.6))
def test_its_sessions_pass_the_policy_that_assumes_the_same(devices: int, corrupt: float) -> None:
    made = session(devices, Pairwise(corrupt=corrupt))
    assert made.devices == tuple(range(1, devices + 1)) == made.committee
    traitors = int(corrupt * devices)
    # The smallest threshold for which two sets can never both be attested.
    assert 2 * made.threshold > devices + traitors >= 2 * (made.threshold - 1)
    if made.min_survivors - traitors >= 2:
        Policy(corrupt=corrupt, min_survivors=2).check(made, simulated_roster(devices))


def test_a_session_is_about_what_it_is_bound_to() -> None:
    made = session(5)
    assert (made.run, made.round, made.purpose) == (3, 2, Purpose.TRAIN)
    digest = simulated_roster(5).digest()
    assert (made.roster, made.model, made.config) == (digest, b"m" * 32, b"c" * 32)
    assert (made.codec.length, made.codec.clients) == (10, 5)


def test_fewer_survivors_than_the_threshold_can_be_asked_for() -> None:
    assert session(10).min_survivors == session(10).threshold == 7
    assert session(10, Pairwise(min_survivors=5)).min_survivors == 5
    assert session(10, Pairwise(min_survivors=9)).min_survivors == 9


@pytest.mark.parametrize(("devices", "least"), [(0, None), (1, None), (4, 5), (35, 40)])
def test_too_few(devices: int, least: int | None) -> None:
    with pytest.raises(TooFewClients, match=f"a cohort of {devices}, at least"):
        session(devices, Pairwise(min_survivors=least))


def test_a_small_cohort_is_its_own_committee_and_a_large_one_gets_a_graph() -> None:
    small, large = session(COMPLETE), session(300, Pairwise(corrupt=0.1, drop=0.2))
    assert (small.is_complete, small.seats, small.committee) == (True, 0, small.devices)
    assert not large.is_complete
    assert large.committee == simulated_roster(300).drawn(large.seats)
    assert large.min_survivors == 240
    found = choose(300, 0.1, 0.2)
    shape = (large.degree, large.seats, large.threshold, large.min_survivors)
    assert shape == (found.degree, found.seats, found.threshold, found.min_survivors)


def test_what_is_set_is_not_looked_for() -> None:
    protocol = Pairwise(corrupt=0.0, degree=20, seats=21, min_survivors=50)
    made = session(100, protocol)
    assert (made.degree, made.seats, made.threshold, made.min_survivors) == (20, 21, 11, 50)
    made = session(10, protocol=replace(protocol, min_survivors=None))
    assert (made.degree, made.seats, made.threshold) == (9, 10, 6)  # no more than there are
    assert session(100, Pairwise(corrupt=0.1, drop=0.1, seats=0)).committee == tuple(range(1, 101))


def test_an_encrypted_sum_has_the_committee_of_a_masked_one_and_no_graph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    masked = session(300, Pairwise(corrupt=0.1, drop=0.2))

    def no_graph(*asked: int) -> float:
        raise AssertionError("a graph is looked for")

    monkeypatch.setattr(parameters, "cut_risk", no_graph)
    with pytest.raises(AssertionError, match="a graph"):
        session(300, Pairwise(corrupt=0.1, drop=0.2))
    made = session(300, Encrypted(corrupt=0.1, drop=0.2))
    assert (made.degree, made.seats) == (0, masked.seats)
    assert (made.threshold, made.min_survivors) == (masked.threshold, masked.min_survivors)
    assert made.committee == masked.committee
    assert session(300, Pairwise(corrupt=0.1, drop=0.2, degree=30)).seats == masked.seats


def test_fewer_survivors_take_more_neighbours() -> None:
    by_default = session(300, Pairwise(corrupt=0.1, drop=0.1))
    fewer = session(300, Pairwise(corrupt=0.1, drop=0.1, min_survivors=200))
    assert fewer.min_survivors == 200
    assert fewer.degree > by_default.degree


def test_hybrid_sums_need_a_library_that_has_ml_kem(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Pairwise(hybrid=True).hybrid
    assert not session(10).hybrid
    with pytest.raises(ParameterError, match="device 1 has no ML-KEM key"):
        session(10, Pairwise(hybrid=True))

    def lacking(seed: bytes) -> None:
        raise UnsupportedAlgorithm("no ML-KEM")

    class Lacking:
        from_seed_bytes = staticmethod(lacking)

    monkeypatch.setattr(hybrid, "MLKEM768PrivateKey", Lacking)
    with pytest.raises(ParameterError, match="this `cryptography` lacks"):
        Pairwise(hybrid=True)
    Pairwise()


def test_seats_of_devices_outside_the_cohort_are_witnesses() -> None:
    protocol = Pairwise(corrupt=0.0, degree=20, seats=15)
    drawn = simulated_roster(60).drawn(15)
    inside, outside = [d for d in drawn if d <= 40], [d for d in drawn if d > 40]
    made = session(40, protocol, others=range(41, 61))
    assert inside
    assert [key.device for key in made.witnesses] == outside != []
    assert made.committee == drawn
    few = session(40, protocol, others=[*outside[:2], 60])  # the others are not there
    assert set(few.committee) == {*inside, *outside[:2]} | ({60} & set(drawn))
    assert few.threshold == made.threshold
    with pytest.raises(TooFewClients, match="committee members are there, 8 needed"):
        session(7, protocol, others=[60])


@pytest.mark.parametrize("protocol", [Pairwise(), Encrypted()])
def test_a_cohort_that_nothing_protects_says_what_to_do(protocol: SecureSum) -> None:
    with pytest.raises(ParameterError, match="Lower gamma or drop"):
        session(1000, protocol)


def test_the_ring_is_as_wide_as_the_cohort_needs() -> None:
    """And not a bit more: with one bit less, the same values would not fit."""
    for devices in (3, 4, 7, 8, 100, 127, 128):
        codec = session(devices, Pairwise(corrupt=0.0, precision=20, seats=0, degree=9)).codec
        assert codec.bits == 20 + devices.bit_length()
        assert codec.scale * codec.bound == 2.0**19  # 20 bits, one of them the sign
        assert replace(codec, bits=codec.bits - 1).scale < codec.scale


def test_no_room_in_the_ring_says_what_to_do() -> None:
    with pytest.raises(ParameterError, match="no room in 14 bits: raise bits or lower"):
        session(30, Pairwise(precision=12, max_weight=4096.0))


@pytest.mark.parametrize(
    "bad",
    [
        {"corrupt": 1.0},
        {"corrupt": -0.1},
        {"corrupt": float("nan")},
        {"stage_deadline": 0.0},
        {"stage_deadline": float("nan")},
        {"min_survivors": 1},
        {"drop": 1.0},
        {"drop": -0.1},
        {"precision": 5},
        {"precision": 61},
        {"bound": 0.0},
        {"bound": float("inf")},
        {"max_weight": -1.0},
        {"metrics": 256},
        {"clear_norm": 0.0},
        {"clear_noise": 0.0},
        {"clear_noise": float("nan")},
    ],
)
def test_impossible_parameters_are_refused_before_the_first_round(bad: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        replace(Pairwise(), **bad)
