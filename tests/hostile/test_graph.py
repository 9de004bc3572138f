"""The sparse graph: who picks it, who bends it, who cuts it.

What hides a device here are the masks that it shares with honest devices. A server that chose the
graph, changed it afterwards, or dropped the right devices would take these away.
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tacit.client.policy import Policy
from tacit.crypto import labels
from tacit.crypto.errors import PolicyRefusal
from tacit.crypto.identity import RunKey, derive
from tacit.crypto.secagg import client, graph, hiding, messages, stages
from tacit.crypto.secagg.parameters import least_degree
from tacit.crypto.secagg.session import Session
from tacit.crypto.simulated import simulated_identity
from tacit.server.pairwise import Pairwise
from tests.hostile.adversary import read
from tests.hostile.attack import Attack, nothing, replaced, together, trial
from tests.hostile.crowd import Crowd, count_randomness
from tests.runtime.desk import NAMES, RUN

VICTIM = 3
ANY_GRAPH = Policy(security=0)  # an owner who does not look at the graph


@pytest.fixture(autouse=True)
def _same_luck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run keys are counted, so the graph of a session is the same in every run of a test."""
    count_randomness(monkeypatch)


def both(attack: Attack) -> pytest.MarkDecorator:
    cases = [
        pytest.param(attack, True, id="defended"),
        pytest.param(attack, False, id="undefended"),
    ]
    return pytest.mark.parametrize(("attack", "defended"), cases)


# Other neighbours than the dealer named


Devices = Sequence[int]


def bent(others: Devices, near: Devices, living: int, dropped: int) -> tuple[int, ...]:
    """As many of `others` as in `near`, such that the share of the pair with `living` is taken for
    that of the pair with `dropped`: both are at the same place of their list."""
    place = near.index(living)
    below = [d for d in others if d < dropped][:place]
    above = [d for d in others if d > dropped][: len(near) - 1 - place]
    return (*below, dropped, *above)


def alone(crowd: Crowd, session: Session, device: int) -> bool:
    """Whether a single report opens. (Not all sets of reports are tried: there are too many.)"""
    dealt = [one for one in crowd.adversary.dealt[session.id] if one.device == device]
    total = crowd.adversary.total(dealt)
    said = None if total is None else read(session, total, 1)
    return said is not None and said[device - 1] == sum(said) == 1


def other_neighbours() -> bool:
    """One device is missing. Of each living neighbour of the victim the members are told neighbours
    among which the missing one stands where the victim stands in truth."""
    crowd = Crowd(15, policy=ANY_GRAPH, protocol=Pairwise(degree=5, min_survivors=13))
    dropped = 5
    for round in range(1, 9):  # until the victim has enough neighbours
        session = crowd.session(round=round)
        crowd.heard(session)
        dealt = {one.device: one for one in crowd.adversary.dealt[session.id]}
        if len(dealt[VICTIM].report.neighbours) >= 5:
            break
    near = {
        peer: bent(
            [d for d in session.devices if d != peer],
            dealt[peer].report.neighbours,
            VICTIM,
            dropped,
        )
        for peer in dealt[VICTIM].report.neighbours
        if peer != dropped
    }
    assert all(len(near[peer]) == len(dealt[peer].report.neighbours) for peer in near)
    assert len(near) > len(session.devices) - session.min_survivors  # too many to drop them all
    crowd.opens(session, tuple(d for d in session.devices if d != dropped), near=near)
    return alone(crowd, session, VICTIM)


@both(Attack(other_neighbours, replaced(client, "to_bits", lambda *_: b"")))
def test_a_server_that_names_other_neighbours(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sealed box is bound to the neighbours that its dealer named, so it does not open for
    others. Where it does, the keys of living pairs are opened as those of missing ones."""
    trial(attack, defended, monkeypatch)


# Grinding


def test_without_the_pairs_secret_an_edge_is_a_coin() -> None:
    """A server that guesses edges from all it knows, over many sessions, is right half of the time.

    At degree (n - 1) / 2 an edge is there with probability 1/2, so N guesses made without its
    secret are right Bin(N, 1/2) times: by Hoeffding's inequality more than sqrt(N ln(2/p) / 2) off
    the mean with probability p at most, here 1e-9.
    """
    crowd = Crowd(11, policy=ANY_GRAPH, protocol=Pairwise(degree=5))
    honest, right, total = crowd.session(), 0, 0
    for number in range(200):
        session = replace(honest, config=number.to_bytes(32, "little"))
        agreed = client.agree_all(crowd.secrets(VICTIM), session)
        near = graph.neighbours(session, VICTIM, agreed)
        public = {key.device: key.public for key in session.cohort}
        guessed = graph.neighbours(session, VICTIM, public)  # a coin of what it does know
        others = set(session.devices) - {VICTIM}
        right += sum((other in near) == (other in guessed) for other in others)
        total += len(others)
    assert abs(right - total / 2) <= math.sqrt(total * math.log(2e9) / 2)
    assert near == graph.neighbours(session, VICTIM, agreed)  # the victim itself is always right


LIARS = (12, 13, 14, 15, 16)


def public_coin(session: bytes, secret: bytes, one: int, other: int) -> int:
    """An edge that anybody can work out: a coin of the session alone."""
    ids = b"".join(device.to_bytes(8, "little") for device in sorted((one, other)))
    return int.from_bytes(derive(b"public", labels.EDGE, session, ids)[:8], "little")


def ground() -> bool:
    """Try settings until the victim's honest neighbours come out so few that all can be dropped.

    The adversary predicts with the coin that a server can toss: the public one. Where edges are
    made with it, the prediction holds. Where they are not, they are as they are.
    """
    protocol = Pairwise(degree=9, min_survivors=14)
    crowd = Crowd(16, policy=ANY_GRAPH, protocol=protocol, corrupt=LIARS)
    session, honest = crowd.session(), [d for d in crowd.keys if d not in LIARS]
    removable = len(crowd.keys) - session.min_survivors
    most = (session.degree << 64) // (len(crowd.keys) - 1)
    for number in range(20_000):
        crowd.settings = {"trial": number}
        config = stages.config_digest(crowd.config(1), "num-examples", "train", NAMES)
        tried = replace(session, config=config)
        near = [d for d in honest if public_coin(tried.id, b"", VICTIM, d) < most and d != VICTIM]
        if len(near) <= removable:
            break
    else:
        raise AssertionError("no settings found")
    crowd.heard(tried)
    survivors = tuple(d for d in tried.devices if d not in near)
    crowd.opens(tried, survivors)
    return alone(crowd, tried, VICTIM)


@both(Attack(ground, replaced(graph, "_coin", public_coin)))
def test_a_server_that_tries_until_the_graph_suits_it(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial(attack, defended, monkeypatch)


# Cutting

CUT = Policy(corrupt=0.1)
SPARSE = 3


def cut_off() -> bool:
    """The server asks for the sparsest graph that it gets, sees all neighbour lists, and drops all
    honest neighbours of the device that has the fewest."""
    size = 40
    protocol = Pairwise(degree=SPARSE, seats=0, corrupt=0.1, min_survivors=34)
    crowd = Crowd(size, policy=CUT, protocol=protocol, corrupt=(37, 38, 39, 40))
    session = crowd.session()
    removable = size - session.min_survivors
    with contextlib.suppress(PolicyRefusal):
        crowd.heard(session)
    if not crowd.adversary.dealt[session.id]:  # refused: then as sparse as the policy allows
        session = crowd.session(degree=least_degree(size, 4, removable))
        assert not session.is_complete  # or there would be nothing to cut
        crowd.heard(session)
    near = {
        one.device: set(one.report.neighbours) - set(crowd.adversary.secrets)
        for one in crowd.adversary.dealt[session.id]
        if one.device not in crowd.adversary.secrets
    }
    victim = min(near, key=lambda device: len(near[device]))
    if len(near[victim]) > removable:
        return smallest_boundary(near) <= removable
    crowd.opens(session, tuple(d for d in session.devices if d not in near[victim]))
    return alone(crowd, session, victim)


def smallest_boundary(near: dict[int, set[int]]) -> int:
    """How many devices have to go for a set to be cut off: greedily grown from each device, always
    by the neighbour that adds the fewest new ones."""
    fewest = len(near)
    for start in near:
        inside = {start}
        boundary = set(near[start])
        while boundary and len(inside) + len(boundary) < len(near):
            fewest = min(fewest, len(boundary))
            step = min(boundary, key=lambda d: len(near[d] - inside - boundary))
            inside.add(step)
            boundary = (boundary | near[step]) - inside
    return fewest


@both(Attack(cut_off, replaced(Policy, "_check_graph", nothing)))
def test_a_server_that_drops_all_of_a_devices_neighbours(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial(attack, defended, monkeypatch)


# Twins


def twin(of: RunKey, device: int) -> RunKey:
    """The run key of another in another encoding, signed by a corrupt device as its own.

    X25519 ignores the top bit: every third device shares one secret with both.
    """
    same_point = of.public[:31] + bytes([of.public[31] ^ 0x80])
    identity = simulated_identity(device)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tacit.crypto.identity.run_public", lambda secret: same_point)
        return RunKey.signed(identity, RUN, device, bytes(32))


def twins() -> bool:
    """The twin drops out. Keys of its pairs are opened: they would be the victim's as well."""
    corrupt = 9
    crowd = Crowd(11, policy=ANY_GRAPH, protocol=Pairwise(degree=6))
    crowd.keys[corrupt] = twin(crowd.keys[VICTIM], corrupt)
    session = crowd.session()
    survivors = tuple(d for d in session.devices if d != corrupt)
    crowd.heard(session, survivors)
    crowd.opens(session, survivors, survivors)
    adversary = crowd.adversary
    dealt = {one.device: one for one in adversary.dealt[session.id]}
    for peer in dealt[VICTIM].report.neighbours:
        if peer != corrupt and corrupt in dealt[peer].report.neighbours:
            # What the peer shares with the twin, for what it shares with the victim.
            number = dealt[peer].report.neighbours.index(corrupt)
            key = dealt[peer].key(1 + number)
            assert key is not None
            at = 1 + dealt[peer].report.neighbours.index(VICTIM)
            dealt[peer].keys[at] = key
    return alone(crowd, session, VICTIM)


def pair_of_nobody(session: bytes, setup: bytes, one: int, other: int) -> bytes:
    return session + setup


def coin_of_nobody(session: bytes, secret: bytes, one: int, other: int) -> int:
    return int.from_bytes(derive(secret, labels.EDGE, session)[:8], "little")


@both(
    Attack(
        twins,
        together(
            replaced(hiding, "pair_context", pair_of_nobody),
            replaced(messages, "pair_context", pair_of_nobody),
            replaced(graph, "_coin", coin_of_nobody),
        ),
    )
)
def test_a_twin_of_a_run_key(
    attack: Attack, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks and edges are bound to the two devices, so the twin's are others than the victim's."""
    trial(attack, defended, monkeypatch)
