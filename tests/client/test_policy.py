"""The owner's last word: what a device agrees to, and that it is enough."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tacit.client.policy import Policy
from tacit.crypto.codec import Codec
from tacit.crypto.errors import ParameterError, PolicyRefusal
from tacit.crypto.identity import NO_KEM, Roster, RunKey
from tacit.crypto.secagg.parameters import COMPLETE
from tacit.crypto.secagg.session import Purpose, Session, threshold_for
from tacit.crypto.simulated import simulated_roster
from tacit.crypto.vector import Layout
from tacit.server.encrypted import Encrypted
from tacit.server.pairwise import Binding, Pairwise, SecureSum
from tacit.server.tenseal import TenSeal

DIGEST = bytes(32)


def keys(devices: int) -> tuple[RunKey, ...]:
    return tuple(
        RunKey(d, d.to_bytes(32, "little"), NO_KEM, bytes(64)) for d in range(1, devices + 1)
    )


def session(
    devices: int = 10,
    protocol: SecureSum | None = None,
    roster: Roster | None = None,
    **changes: Any,
) -> Session:
    """What an honest server asks for, but for `changes`."""
    asked = protocol or Pairwise()
    honest = asked.session(
        1,
        1,
        Purpose.TRAIN,
        keys(devices),
        roster or simulated_roster(devices),
        {},
        4,
        Binding(DIGEST, DIGEST),
        DIGEST if asked.he else b"",
    )
    return replace(honest, **changes)


def check(policy: Policy, asked: Session) -> None:
    """Against the roster of a federation that is all in the cohort."""
    policy.check(asked, simulated_roster(len(asked.cohort)))


@pytest.mark.parametrize("devices", range(3, 60))
def test_the_default_policy_takes_what_the_default_server_asks_for(devices: int) -> None:
    check(Policy(), session(devices))


@pytest.mark.parametrize("devices", [33, 64, 100, 300])
@pytest.mark.parametrize(("corrupt", "drop"), [(0.1, 0.2), (0.05, 0.1), (0.2, 0.2), (0, 0.1)])
def test_a_policy_takes_the_graph_and_committee_found_for_its_own_assumptions(
    devices: int, corrupt: float, drop: float
) -> None:
    policy = Policy(corrupt=corrupt)
    asked = session(devices, Pairwise(corrupt=corrupt, drop=drop))
    check(policy, asked)
    assert devices <= 100 or (asked.degree < devices - 1 and 0 < asked.seats < devices)
    if asked.degree < devices - 1:
        with pytest.raises(PolicyRefusal, match="this device asks for"):
            check(policy, replace(asked, degree=asked.degree // 2))
        # The server would rather drop more of them, to cut the graph.
        with pytest.raises(PolicyRefusal, match="this device asks for"):
            check(policy, replace(asked, min_survivors=int(asked.min_survivors * 0.8)))
        check(replace(policy, security=0), replace(asked, degree=2))


def test_a_drawn_committee_is_the_beacons() -> None:
    """Members that the server chose, a seat more, a threshold as if all seats were there."""
    policy, roster = Policy(corrupt=0.1), simulated_roster(300)
    asked = session(300, Pairwise(corrupt=0.1, drop=0.2), roster)
    outside = next(d for d in asked.devices if d not in asked.committee)
    swapped = tuple(sorted((*asked.committee[1:], outside)))
    with pytest.raises(PolicyRefusal, match="a committee that the roster's beacon did not draw"):
        policy.check(replace(asked, committee=swapped), roster)
    with pytest.raises(PolicyRefusal, match=r"threshold \d+ of \d+ falls to"):
        policy.check(replace(asked, threshold=asked.seats // 2 + 1), roster)
    absent = replace(asked, committee=asked.committee[2:])
    policy.check(absent, roster)  # two seats are empty: the threshold is that of the full committee
    with pytest.raises(PolicyRefusal, match=r"threshold \d+ of \d+ falls to"):
        # The same members as a committee of the server's choice: all corrupt ones may be on it.
        policy.check(replace(asked, seats=0), roster)


@pytest.mark.parametrize(
    ("policy", "asked", "reason"),
    [
        (Policy(), session(2), "a cohort of 2"),
        (Policy(min_cohort=11), session(10), "a cohort of 10, this device asks for 11"),
        (Policy(), session(10, min_survivors=2), "a sum over 2"),
        (Policy(min_survivors=8), session(10), "a sum over 7, this device asks for 8"),
        # Three of ten may be the server's own: a sum over four of them holds one input.
        (Policy(), session(10, min_survivors=4), "asks for 5"),
        (Policy(corrupt=0.5), session(10, min_survivors=6), "asks for 7"),
        (Policy(), session(10, threshold=6), "threshold 6 of 10"),
        (Policy(corrupt=0.5), session(10), "threshold 7 of 10"),
        # A committee of the server's choice: its own devices and no others.
        (Policy(), session(10, committee=(4,), threshold=1), "threshold 1 of 1"),
        (Policy(), session(10, committee=(4, 5), threshold=2), "threshold 2 of 2"),
        (Policy(), session(10, committee=(4, 5, 6), threshold=3), "threshold 3 of 3"),
        (Policy(min_bits=33), session(10), "a ring of 29 bits"),
        (Policy(hybrid=True), session(10), r"under X25519 alone.*ML-KEM.*\(policy\.hybrid\)"),
        (Policy(), session(10, codec=Codec(4, 10, 0, 1.0, 1.0, 1.0, bits=12)), "a ring of 12"),
    ],
)
def test_what_is_refused(policy: Policy, asked: Session, reason: str) -> None:
    with pytest.raises(PolicyRefusal, match=reason):
        check(policy, asked)


@given(data=st.data(), devices=st.integers(3, COMPLETE), corrupt=st.floats(0, 0.9))
def test_whatever_passes_holds_against_the_worst_cohort(
    data: st.DataObject, devices: int, corrupt: float
) -> None:
    """All corrupt devices on the committee, all of them survivors, the rest as the server likes."""
    committee = data.draw(st.integers(1, devices))
    threshold = data.draw(st.integers(committee // 2 + 1, committee))
    least = data.draw(st.integers(2, devices))
    asked = session(
        devices,
        committee=tuple(range(1, committee + 1)),
        threshold=threshold,
        min_survivors=least,
    )
    policy = Policy(min_cohort=2, min_survivors=2, corrupt=corrupt)
    try:
        check(policy, asked)
    except PolicyRefusal:
        assume(False)
    traitors = int(corrupt * devices)
    on_committee = min(traitors, committee)
    assert on_committee < threshold, "the corrupt can open everything by themselves"
    # Two sets of survivors need 2t signatures; honest members sign one each, the corrupt both.
    assert 2 * threshold > (committee - on_committee) + 2 * on_committee
    assert least - traitors >= 2, "an honest survivor may stand alone"


def test_the_check_is_no_stricter_than_it_has_to_be() -> None:
    """One less is refused, so the smallest session that passes is the smallest that is safe."""
    for devices in range(3, COMPLETE + 1):
        corrupt = devices // 3
        least = max(3, corrupt + 2)
        threshold = threshold_for(devices, corrupt)
        check(Policy(), session(devices, min_survivors=least, threshold=threshold))
        # For a few devices it is not even a session: half of the committee is no threshold.
        with pytest.raises((PolicyRefusal, ParameterError)):
            check(Policy(), session(devices, min_survivors=least, threshold=threshold - 1))


def test_of_two_policies_the_stricter_decides_in_every_field() -> None:
    ours = Policy(5, 4, 0.2, 30, 20, 2.0, plain=True, hybrid=False, lattice=True)
    owners = Policy(3, 6, 0.5, 40, 16, None, plain=False, hybrid=True)
    both = Policy(5, 6, 0.5, 40, 20, 2.0, plain=False, hybrid=True)
    assert ours.stricter(owners) == owners.stricter(ours) == both
    assert ours.stricter(ours) == ours
    assert ours.stricter(replace(owners, lattice=True)) == replace(both, lattice=True)
    sharing = replace(ours, consortium=True)
    assert not sharing.stricter(owners).consortium
    assert not owners.stricter(sharing).consortium
    assert sharing.stricter(replace(owners, consortium=True)).consortium
    norms = [None, 3.0, 1.0]
    for loose, tight in pairwise(norms):
        of_two = Policy(max_norm=loose).stricter(Policy(max_norm=tight))
        assert of_two.max_norm == tight
    for one, other in ((0.1, 1.0), (1.0, 0.1)):
        assert Policy(keep=one).stricter(Policy(keep=other)).keep == 0.1


def test_encrypted_sums_are_refused_unless_the_owner_allows_them() -> None:
    asked = session(10, Encrypted())
    with pytest.raises(PolicyRefusal, match=r"under lattice keys.*policy\.lattice"):
        check(Policy(), asked)
    check(Policy(lattice=True), asked)
    check(Policy(lattice=True), session(10))


def test_sums_under_a_shared_key_are_refused_unless_the_owner_allows_them() -> None:
    pytest.importorskip("tenseal", reason="TenSEAL is not installed: pip install '.[he]'")
    asked = session(10, TenSeal())
    for policy in (Policy(), Policy(lattice=True)):
        with pytest.raises(PolicyRefusal, match=r"all devices hold.*policy\.consortium"):
            check(policy, asked)
        with pytest.raises(PolicyRefusal, match=r"policy\.consortium"):
            policy.check_consortium()
    agreed = Policy(consortium=True)
    agreed.check_consortium()
    check(agreed, asked)
    check(agreed, session(10))
    with pytest.raises(PolicyRefusal, match=r"policy\.lattice"):
        check(agreed, session(10, Encrypted()))
    # All else that a policy asks for holds here too.
    for policy, reason in (
        (replace(agreed, min_cohort=11), "a cohort of 10"),
        (replace(agreed, min_survivors=8), "a sum over 7"),
        (replace(agreed, corrupt=0.5), "threshold 7 of 10|a sum over 7"),
        (replace(agreed, min_bits=22), "a ring of 21 bits"),
        (replace(agreed, hybrid=True), r"policy\.hybrid"),
    ):
        with pytest.raises(PolicyRefusal, match=reason):
            check(policy, asked)
    with pytest.raises(PolicyRefusal, match="threshold 6 of 10"):
        check(agreed, replace(asked, threshold=6))


MODEL = {"w": np.zeros(3)}
SLIPPED_IN = {"planted": np.zeros((9, 3)), **MODEL}
ONE, OTHER = Layout.of(MODEL).fingerprint, Layout.of(SLIPPED_IN).fingerprint


def test_a_model_that_the_owner_does_not_list_is_refused() -> None:
    for model in (MODEL, SLIPPED_IN):
        Policy().check_model(model)
        Policy(models=(ONE, OTHER)).check_model(model)
    Policy(models=(ONE,)).check_model({"w": np.full(3, 7.0)})  # it is not about values
    with pytest.raises(PolicyRefusal, match=rf"another structure.*{OTHER}.*\(policy\.models\)"):
        Policy(models=(ONE,)).check_model(SLIPPED_IN)


def test_two_lists_of_models_leave_what_is_in_both_and_never_any() -> None:
    none, one, both = (Policy(models=models) for models in ((), (ONE,), (OTHER, ONE)))
    assert none.stricter(one) == one.stricter(none) == one.stricter(both) == both.stricter(one)
    assert one.stricter(both).models == (ONE,)
    assert none.stricter(none).models == ()
    assert set(both.stricter(both).models) == {ONE, OTHER}
    # With nothing in common an empty list would be left, which means any.
    for policy, other in ((one, Policy(models=(OTHER,))), (Policy(models=(OTHER,)), one)):
        with pytest.raises(PolicyRefusal, match=r"no model that.*policy\.models"):
            policy.stricter(other)


def test_plain_requests_are_refused_unless_the_owner_allows_them() -> None:
    with pytest.raises(PolicyRefusal, match=r"train outside a secure sum.*policy\.plain"):
        Policy().check_plain("train")
    Policy(plain=True).check_plain("train")


@pytest.mark.parametrize(
    "bad",
    [
        {"min_cohort": 1},
        {"min_survivors": 1},
        {"corrupt": 1.0},
        {"corrupt": -0.1},
        {"corrupt": float("nan")},
        {"security": -1},
        {"max_norm": 0.0},
        {"max_norm": float("nan")},
        {"keep": 0.0},
        {"keep": 1.1},
        {"models": ("mlp",)},
        {"models": (ONE.upper(),)},
        {"models": (ONE[:-1],)},
        {"models": ONE},  # its digits, one by one
    ],
)
def test_a_policy_that_protects_nobody_cannot_be_written(bad: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        Policy(**bad)
