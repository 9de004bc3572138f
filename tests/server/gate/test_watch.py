"""A thief is flagged and honest users are not; a bounded memory that no crowd can flush."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import shapiro

from tacit.crypto.errors import ParameterError
from tacit.server.gate import scores
from tacit.server.gate.baseline import FIGURES
from tacit.server.gate.fitting import fit
from tacit.server.gate.recent import MEMORY, STRIDE, WINDOW, Recent, Seen, normality
from tacit.server.gate.scores import ACTING, WEIGHT, Forest, judged, rated
from tacit.server.gate.watch import KeyWatch
from tests.server.gate.blobs import Blobs, drawn, grant

BASELINE = fit(Blobs(), drawn(400), np.random.default_rng(0), streams=30, length=300)
HABITS = {"rate": 0.5, "spread": 0.5, "changes": 0.5, "distance": 0.5, "near": 0.0}


def ask(watch, x, key="k", at=0.0):
    return watch.saw(grant(key), x, Blobs().scored(x), at)


def test_honest_keys_are_not_flagged_and_odd_ones_are_at_the_first_window():
    watch = KeyWatch(BASELINE)
    for i in range(30):
        assert not ask(watch, drawn(500, 100 + i), f"honest {i}").is_flagged
    for i, off in enumerate((1.5, 3.0, 6.0)):
        found = [ask(watch, x, f"odd {i}") for x in np.split(drawn(50, i, off=off), 2)]
        assert [each.is_flagged for each in found] == [False, True]
        assert found[1].risk >= 0.5


def test_without_distance_and_shift_nobody_is_flagged(monkeypatch):
    """What makes the test above pass is the two of them."""
    monkeypatch.setattr(scores, "ACTING", ("coverage",))
    assert not ask(KeyWatch(BASELINE), drawn(100, off=6.0)).is_flagged


def test_nothing_is_said_before_a_window_is_full():
    watch = KeyWatch(BASELINE)
    assert ask(watch, drawn(WINDOW - 1, off=6.0)).figures == {}
    assert ask(watch, drawn(1, 1, off=6.0)).is_flagged


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(0, 3))
def test_how_queries_are_batched_makes_no_difference(sizes, seed):
    x = drawn(sum(sizes), seed)
    whole, parts = KeyWatch(BASELINE), KeyWatch(BASELINE)
    ask(whole, x)
    for part in np.split(x, np.cumsum(sizes)[:-1]):
        ask(parts, part)
    assert parts.suspicion_of("k") == whole.suspicion_of("k")


def test_odd_queries_cannot_hide_in_a_large_request():
    x = np.concatenate([drawn(100, 1), drawn(50, 2, off=6.0), drawn(500, 3)])
    assert ask(KeyWatch(BASELINE), x).is_flagged


def test_the_watch_is_deterministic():
    def run():
        watch = KeyWatch(BASELINE)
        return [ask(watch, drawn(30, i), f"key {i % 7}", float(i)) for i in range(300)]

    assert run() == run()


def test_a_question_asked_again_and_a_static_scene_are_no_shift():
    """One scene far from its class's mean, but not farther than honest ones are."""
    scene = drawn(1)
    noise = np.random.default_rng(1).normal(0, BASELINE.nearest / 100, (400, 8))
    for x in (np.repeat(scene, 400, 0), (scene + noise).astype(np.float32)):
        found = ask(KeyWatch(BASELINE), x)
        assert not found.is_flagged
        assert found.figures["shift"] == 0.0
    assert found.figures["near"] == 1.0  # and shots of one scene are near each other


def test_who_asks_as_others_do_again_is_not_flagged_for_ever():
    """What he did is in the records: here it would flag a key that a person has restored."""
    watch = KeyWatch(BASELINE)
    assert ask(watch, drawn(100, off=6.0)).is_flagged
    assert not [ask(watch, drawn(25, i)) for i in range(20)][-1].is_flagged


def seen(**figures):
    typical = dict(zip(FIGURES, BASELINE.typical.tolist(), strict=True))
    return Seen({**typical, **figures}, HABITS)


@given(st.lists(st.floats(0, 1e6), min_size=6, max_size=6))
def test_risk_is_a_share_and_half_at_a_flag(values):
    found = judged(seen(**dict(zip(FIGURES, values, strict=True))), BASELINE, Forest())
    assert 0 <= found.risk <= 1
    if found.is_flagged:
        assert found.risk >= 0.5
    acting = max(BASELINE.excess(found.figures)[name] for name in ACTING)
    assert found.is_flagged == (acting > 1)


@given(st.sampled_from(FIGURES), st.floats(0, 50), st.floats(0, 50))
def test_risk_never_falls_when_a_figure_rises(name, one, other):
    low, high = sorted((one, other))
    risks = [judged(seen(**{name: x}), BASELINE, Forest()).risk for x in (low, high)]
    assert risks[0] <= risks[1]


@given(st.floats(0, 1e9))
def test_what_may_not_act_takes_a_quarter_at_most(value):
    names = [name for name in FIGURES if name not in ACTING]
    found = judged(seen(**dict.fromkeys(names, value)), BASELINE, Forest())
    assert found.risk <= WEIGHT
    assert not found.is_flagged


def test_rated_is_a_half_at_the_limit():
    assert rated(-1) == rated(0) == 0.0
    assert rated(0.5) == pytest.approx(1 / 17)
    assert rated(1) == 0.5
    assert rated(1e300) <= 1


def held(watch):
    """Bytes of arrays that are kept, with those that they are views of."""
    kept = [*watch._clear.values(), *watch._flagged.values()]
    arrays = [value for one in kept for value in vars(one.recent).values()]
    return sum(
        (a if a.base is None else a.base).nbytes for a in arrays if isinstance(a, np.ndarray)
    )


def test_memory_is_bounded_over_many_keys():
    """10^5 queries from 250 keys, in room for 50: what is held stays as it was half way."""
    watch, x, sizes = KeyWatch(BASELINE, most_keys=50), drawn(200), []
    for turn in range(500):
        ask(watch, x, f"key {turn % 250}", float(turn))
        if turn in (249, 499):
            sizes.append(held(watch))
    assert len(watch) == 50
    assert sizes[1] == sizes[0] < 50 * 40_000


def test_one_large_request_is_not_kept():
    recent = Recent(BASELINE)
    x = drawn(20_010)
    recent.add(BASELINE.space.placed(x, Blobs().scored(x)), 0.0)
    ((rest, times),) = recent._waiting
    assert len(rest) == len(times) == 20_010 % STRIDE
    assert all(part.base is None for part in (rest.points, rest.sketch, times))
    assert len(recent._things) == len(recent._labels) == MEMORY


def test_no_crowd_of_keys_makes_the_watch_forget_a_suspect():
    watch = KeyWatch(BASELINE, most_keys=5)
    ask(watch, drawn(50, off=6.0), "suspect")
    for i in range(50):
        ask(watch, drawn(50, i), f"key {i}")
    assert watch.suspicion_of("suspect").is_flagged
    assert not watch.suspicion_of("key 0").figures  # of the others the oldest are forgotten
    assert watch.suspicion_of("key 49").figures
    for i in range(50):
        ask(watch, drawn(50, i, off=6.0), f"odd {i}")
    assert len(watch) == 2 * watch.most_keys


def test_a_watch_of_nobody_is_refused():
    with pytest.raises(ParameterError, match="most_keys=0"):
        KeyWatch(BASELINE, most_keys=0)


@given(st.integers(12, 200), st.integers(0, 1000))
def test_normality_is_shapiro_and_wilks(count, seed):
    """scipy's is the same algorithm in single precision here and there."""
    values = np.random.default_rng(seed).gamma(1 + seed % 5, size=count)
    kept = values[np.abs(values - values.mean()) <= 3 * values.std()]
    assert normality(values) == pytest.approx(shapiro(kept).statistic, abs=1e-5)


def test_equal_values_are_not_odd():
    assert normality(np.full(100, 0.3)) == 1.0


def test_the_trees_tell_odd_habits_from_those_they_learnt():
    forest, rng = Forest(), np.random.default_rng(0)

    def habits(middle):
        return {name: float(np.clip(rng.normal(middle, 0.05), 0, 1)) for name in HABITS}

    for _ in range(300):
        forest.oddness(habits(0.3), learn=True)
    usual = [forest.oddness(habits(0.3), learn=False) for _ in range(50)]
    odd = [forest.oddness(habits(0.9), learn=False) for _ in range(50)]
    assert max(usual) < min(odd)


def test_the_trees_do_not_learn_from_flagged_windows():
    watch = KeyWatch(BASELINE)
    before = watch.forest._trees.counter
    ask(watch, drawn(100, off=6.0))
    assert watch.forest._trees.counter == before
    ask(watch, drawn(100), "other")
    assert watch.forest._trees.counter == before + 3
