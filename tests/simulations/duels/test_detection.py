"""The watch against streams that it has not seen: what holds, and what makes it hold."""

import numpy as np
import pytest

from tacit.server.gate import scores
from tacit.server.gate.fitting import fit
from tacit.simulations.duels import detection
from tacit.simulations.duels.base import Role, Scale
from tacit.simulations.duels.detection import Detection, follow
from tacit.simulations.duels.ground import ground, patches, victim
from tacit.simulations.duels.streams import Asked, inversion, mixed, off_by_one, shots


@pytest.fixture(scope="module")
def fought():
    done = []
    found = Detection().fight(Scale(quick=True), done.append)
    assert done[-1] == 1.0
    return found


def test_the_duel_holds_on_digits(fought):
    assert fought.holds, [line for line in fought.lines if not line.holds]
    assert {line.role for line in fought.lines} == set(Role)


def line(fought, setting, what="flagged"):
    return next(one for one in fought.lines if (one.setting, one.what) == (setting, what))


def test_what_the_watch_misses_and_whom_it_flags_wrongly_is_listed(fought):
    assert line(fought, "the thief's own real inputs").figure.value == 0
    assert line(fought, "nine real inputs for each patch").figure.value < 0.95
    assert line(fought, "an honest camera one pixel off").figure.value == 1
    shot = "honest scenes, each shot three times"
    assert line(fought, shot).figure.value == 0
    for figure in ("near-duplicates", "PRADA"):
        assert line(fought, shot, f"would be flagged by {figure}").figure.value == 1


def test_the_watch_costs_a_thief_most_of_his_copy(fought):
    agreed = "copy agrees with the victim"
    free = line(fought, "1000 patches, labels, no watch", agreed).figure.value
    cut = line(fought, "answers before the flag alone", agreed).figure.value
    assert free - cut > 0.1


def test_without_what_acts_the_duel_is_lost(monkeypatch):
    monkeypatch.setattr(scores, "ACTING", ("coverage",))
    monkeypatch.setattr(detection, "_QUICK", detection._Sizes((0,), 3, 100, 5, 12))
    found = Detection().fight(Scale(quick=True), lambda _: None)
    lost = [one for one in found.lines if one.role is Role.DEFENCE and not one.holds]
    assert len(lost) == 6


def test_inversion_climbs_towards_its_target():
    """Two rounds of differences, and what it then asks about is more surely of its class."""
    model = victim("digits")
    asked = inversion(model, 3, 0.1, 129)
    told = model.scored(asked[[0, 128]]).probabilities[:, 3]
    assert len(asked) == 129
    assert told[1] > told[0]


def test_a_mix_has_so_many_covers_for_each_patch():
    where, model = ground("digits"), victim("digits")
    bad = Asked.of(model, patches(where.shape, 20))
    good = Asked.of(model, where.owned.x[:20])
    stream = mixed(bad, good, 2, 30, np.random.default_rng(0))
    kinds = [
        next(p for p, pool in enumerate((bad, good)) if (pool.x == x).all((1, 2, 3)).any())
        for x in stream.x
    ]
    assert kinds == [0, 1, 1] * 10


def test_cameras():
    x = ground("digits").owned.x[:3]
    assert np.array_equal(off_by_one(x)[..., 1:], x[..., :-1])
    seen = shots(x, 0.05, np.random.default_rng(0))
    assert 0 <= seen.min() <= seen.max() <= 1
    assert not np.array_equal(seen, x)


def test_follow_says_when():
    where, model = ground("digits"), victim("digits")
    baseline = fit(model, where.held.x, np.random.default_rng(0), streams=12, length=100)
    found = follow(baseline, Asked.of(model, patches(where.shape, 100)))
    assert found.flagged == 50
    assert found.risk > 0.5
