"""A whole federation under a server that sends anything to anybody in any order.

Random moves: stages of several sessions to whoever, with whatever survivors, replays of recorded
messages to any device, restarts, garbage, honest rounds in between. See `world`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, seed, settings
from hypothesis import strategies as st

from tacit.client.policy import Policy
from tacit.crypto.secagg import client, messages, stages
from tacit.crypto.shamir import Octets
from tests.hostile.attack import Removal, nothing, replaced, together
from tests.hostile.kinds import HYBRID, KINDS, LATTICE, PAIRS, Kind, under
from tests.hostile.test_rounds import BACKWARDS, FORGETFUL, ONCE
from tests.hostile.world import (
    ALL,
    LIAR,
    Again,
    Attest,
    Enrol,
    Garbage,
    Halves,
    Honest,
    Move,
    Open,
    Replay,
    Report,
    Restart,
    Reveal,
    Seal,
    Spoil,
    Violation,
    Whole,
    World,
    follow,
)

pytestmark = pytest.mark.kinds(*KINDS)
SETS = (ALL, (1, 2, 3, 4), (1, 2, 3, 5), (2, 3, 4), (2, 3, 4, 5), (3, 5), (3,))

# What brings a server furthest comes more often: whole stages, of few sessions.
DEVICES, SESSIONS = st.sampled_from(ALL), st.sampled_from([0, 0, 0, 0, 1, 2, 3, 4, 4, 4, 5])
CHOSEN = st.sampled_from(SETS)
BOLD: list[st.SearchStrategy[Move]] = [
    st.builds(Whole, SESSIONS, CHOSEN),
    st.builds(Open, SESSIONS, CHOSEN),
    st.builds(Again, SESSIONS, CHOSEN, CHOSEN),
    st.builds(Spoil, SESSIONS, CHOSEN, CHOSEN),
    st.builds(Halves, SESSIONS, CHOSEN, CHOSEN),
]
STAGES = st.sampled_from([stages.ATTEST, stages.REVEAL, "train", stages.ENROL])
SILENT = st.dictionaries(DEVICES, st.integers(0, 2), max_size=2).map(lambda d: tuple(d.items()))
SHY: list[st.SearchStrategy[Move]] = [
    st.builds(Report, SESSIONS, DEVICES),
    st.builds(Attest, SESSIONS, DEVICES, CHOSEN),
    st.builds(Reveal, SESSIONS, DEVICES, CHOSEN),
    st.builds(Replay, st.integers(0, 60), DEVICES),
    st.builds(Restart, DEVICES),
    st.builds(Garbage, DEVICES, STAGES),
    st.builds(Enrol, DEVICES),
    st.builds(Honest, SILENT),
]
OF_HYBRID: list[st.SearchStrategy[Move]] = [st.builds(Seal, DEVICES, DEVICES, st.booleans())]


def moves(*kinds: st.SearchStrategy[Move]) -> st.SearchStrategy[list[Move]]:
    """Not `one_of`: that takes what it is given three times for one."""
    return st.lists(st.sampled_from(kinds).flatmap(lambda kind: kind), max_size=10)


MOVES = moves(*BOLD, *BOLD, *BOLD, *SHY)
HYBRID_MOVES = moves(*BOLD, *BOLD, *BOLD, *SHY, *OF_HYBRID, *OF_HYBRID)


@pytest.mark.kinds(PAIRS, LATTICE)
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(made=MOVES)
@example([Whole(0, ALL), Whole(0, (1, 2, 3, 4)), Whole(1, ALL)])
@example([Halves(0, ALL, (1, 2, 3, 4)), Open(0, ALL)])
@example([Whole(5, ALL), Whole(0, (1, 2, 3, 4))])
@example([Spoil(0, ALL, (3,)), Open(0, ALL), Whole(1, ALL)])
@example([Honest(((2, 0), (4, 2))), Whole(0, ALL), Honest(())])
def test_any_server(made: list[Move]) -> None:
    follow(made)


@pytest.mark.kinds(HYBRID)
@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(made=HYBRID_MOVES)
@example([Whole(0, ALL), Seal(1, 2, True), Seal(1, 3, False), Whole(1, ALL)])
def test_any_server_of_a_hybrid_run(made: list[Move]) -> None:
    follow(made)


def test_a_server_that_plays_along_does_open_its_sums() -> None:
    """Or the invariants would hold of a federation that never answers."""
    world = follow([Whole(0, (1, 2, 3, 5)), Honest(()), Honest(((1, 0),)), Restart(2)])
    session = world.shown[0].session
    adversary = world.crowd.adversary
    opened = {devices for devices, _ in adversary.readings(session.id)}
    assert (1, 2, 3, 5) in opened
    honest = {tuple(d for d in devices if d != LIAR) for devices in opened}
    assert honest - {()} == {(1, 2, 3)}  # the liar's own sum is not worth a word


# Each invariant breaks when a defence does


def everything(near: tuple[int, ...], dropped: frozenset[int]) -> tuple[list[int], tuple[int, ...]]:
    """`wanted` of a device that opens all that it was dealt."""
    return list(range(len(near) + 1)), near


def summed_up(shares: Octets, bad: Sequence[int], summed: Any = client._summed) -> Octets:
    """`_summed` of a device that opens the sum of what it has."""
    return summed(shares, ())


DEFECTS: dict[str, Removal] = {
    "rounds are not counted": ONCE,
    "the count is lost in a restart": FORGETFUL,
    "states are kept": BACKWARDS,
    "any survivors": replaced(client, "_check_survivors", nothing),
    "any threshold": replaced(Policy, "_check_committee", nothing),
}


DEFECTS_OF: dict[Kind, dict[str, Removal]] = {
    PAIRS: {
        "all shares are opened": together(
            replaced(client, "wanted", everything), replaced(messages, "wanted", everything)
        )
    },
    LATTICE: {"what does not open is left out": replaced(client, "_summed", summed_up)},
}
BY_KIND = {
    f"{kind}-{name}": (kind, defect)
    for kind, of_kind in DEFECTS_OF.items()
    for name, defect in (DEFECTS | of_kind).items()
}


@pytest.mark.kinds
@pytest.mark.parametrize(("kind", "defect"), BY_KIND.values(), ids=BY_KIND)
def test_a_defect_is_found(kind: Kind, defect: Removal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within as many examples as the test above has, and a few times more to spare."""
    defect(monkeypatch)
    monkeypatch.setattr(World, "honest_round", nothing)  # its own asserts would be found first
    with under(kind):
        find(follow)


def find(play: Callable[[list[Move]], World]) -> None:
    """Asserts that some list of moves is a violation."""

    @seed(2)
    @settings(
        max_examples=400,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(made=MOVES)
    def search(made: list[Move]) -> None:
        play(made)

    with pytest.raises(Violation):
        search()
