"""Cohorts in fixed rotation: everybody has one turn, and rests until all others had theirs."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.errors import ParameterError
from tacit.privacy.banded import Stream
from tacit.privacy.mechanisms import Mechanism
from tacit.server.pairwise import Asked
from tacit.server.private import Adaptive, Central
from tacit.server.private_sums import Memory, PrivateSums
from tacit.server.turns import Turns

CENTRAL = Central(turns=Turns(bands=2, cohorts=3, devices=9))


@given(st.integers(2, 9), st.integers(0, 40), st.integers(0, 5), st.integers(1, 100))
def test_every_device_has_one_turn_in_a_rotation(
    cohorts: int, more: int, late: int, number: int
) -> None:
    """But those who came after the run began: for them there is no room in the sums."""
    devices = 2 * cohorts + more
    turns = Turns(2, cohorts, devices)
    members = [7 * rank for rank in range(devices + late)]
    rounds = [turns.of(members, number + i) for i in range(cohorts + 1)]
    assert rounds[0] == rounds[cohorts]
    assert sorted(device for asked in rounds[:cohorts] for device in asked) == members[:devices]
    sizes = {len(asked) for asked in rounds}
    assert (min(sizes), max(sizes)) == (turns.least, turns.size)
    assert turns.most(cohorts * number) == number == turns.most(cohorts * number - cohorts + 1)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ((1, 3, 9), "Where all are in every round, noise that is independent is the most accurate"),
        ((2, 1, 9), "independent"),
        ((0, 0, 9), "independent"),
        ((4, 3, 9), "would overlap"),
        ((2, 5, 9), "a sum takes two"),
    ],
)
def test_turns_that_cost_more_or_are_of_no_use_are_refused(
    changed: tuple[int, int, int], why: str
) -> None:
    with pytest.raises(ParameterError, match=why):
        Turns(*changed)


@pytest.mark.parametrize(
    "moved", [{"adaptive": Adaptive()}, {"records": 4}, {"sketch": 0.1}], ids=str
)
def test_a_grid_that_moves_is_refused(moved: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="one grid for all"):
        Central(turns=CENTRAL.turns, **moved)


@given(st.integers(2, 3), st.integers(0, 1))
def test_the_grid_is_the_same_for_every_cohort(clients: int, missing: int) -> None:
    one = Mechanism.of(CENTRAL.noised(Asked(1000, clients, clients - missing, 1, 32)))
    other = Mechanism.of(CENTRAL.noised(Asked(1000, 3, 2, 0, 30)))
    assert (one.clients, one.dropouts) == (clients, missing)
    assert (one.radius, one.bits, one.divisor) == (other.radius, other.bits, 3)
    assert one.banded(3) == other.banded(3)
    total = np.append(np.full(1000, 7 * one.radius), clients).astype(np.uint32)
    assert one.decode(total, clients).update[0] == 7 * one.radius / 3


def test_a_cohort_that_is_too_large_for_the_grid_is_refused() -> None:
    with pytest.raises(ParameterError, match="divisor=3, expected 4"):
        CENTRAL.noised(Asked(1000, 4, 4, 0, 32))


def after(rounds: int, members: list[int], storage: Memory) -> PrivateSums:
    """Of a run that has had so many rounds."""
    turns = CENTRAL.turns
    assert turns is not None
    agreed = CENTRAL.noised(Asked(5, 3, 3, 0, 32))
    stream = Stream(Mechanism.of(agreed).banded(turns.cohorts))
    for i in range(rounds):
        total, key = np.zeros(5, np.uint32), i.to_bytes(32, "little")
        _, stream = stream.advance(total, turns.of(members, i + 1), key)
    storage.write("stream", stream.encode())
    return PrivateSums(CENTRAL, storage)


def test_whoever_rests_is_left_out_even_if_ranks_have_moved() -> None:
    """As where a roster was issued anew while a run was interrupted."""
    members = [*range(1, 10)]
    sums = after(1, members, Memory())
    assert sums.due(members) == {2, 5, 8}
    assert sums.due(members[3:]) == {5, 8}
    assert sums.due([0, *members]) == {1, 4, 7} - {1, 4, 7}
    assert after(3, members, Memory()).due(members) == {1, 4, 7}


def test_of_two_processes_from_one_state_one_is_refused() -> None:
    """Both would release a mixture of the same sums, and whoever was in these has paid once."""
    storage = Memory()
    for members in (frozenset({1, 4, 7}), frozenset({2, 5, 8})):  # with nothing kept, and after
        one, two = PrivateSums(CENTRAL, storage), PrivateSums(CENTRAL, storage)
        mechanism = Mechanism.of(one.noising(Asked(5, 3, 3, 0, 32)))
        total = np.array([1, 2, 3, 4, 5, 3], np.uint32)
        one._estimated(mechanism, mechanism.decode(total, 3), members)
        before = storage.slots["stream"]
        with pytest.raises(ParameterError, match="another process goes on"):
            two._estimated(mechanism, mechanism.decode(total, 3), members)
        assert storage.slots["stream"] == before


def test_one_rotation_lasts_for_a_run_and_sums_go_when_it_is_over() -> None:
    storage = Memory()
    sums = after(2, [*range(1, 10)], storage)
    seeds = {sums.noising(Asked(5, n, n, 0, 32)).rotation for n in (2, 3)}
    assert {PrivateSums(CENTRAL, storage).noising(Asked(5, 3, 3, 0, 32)).rotation} == seeds
    (seed,) = seeds
    sums.end()
    assert not storage.slots["stream"]
    assert sums.due([*range(1, 10)]) == {1, 4, 7}
    again = PrivateSums(CENTRAL, storage)
    assert again.due([*range(1, 10)]) == {1, 4, 7}
    assert again.noising(Asked(5, 3, 3, 0, 32)).rotation != seed


def test_without_turns_everybody_is_asked_and_each_sum_has_its_own_rotation() -> None:
    sums = PrivateSums(Central(), Memory())
    assert sums.due([1, 2, 3]) == {1, 2, 3}
    assert sums.noising(Asked(5, 3, 3, 0, 32)).rotation == b""
