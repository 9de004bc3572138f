"""The benchmark of correlated noise: each way costs the epsilon that it is compared at."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.banded import CLIP, DELTA, DEVICES, ROUNDS, Way, on_grid, theory, train, ways
from benchmarks.shared.mean import Mean
from tacit.privacy.accountants import Adversary, compose
from tacit.privacy.mechanisms import Mechanism


@pytest.mark.parametrize("way", [*ways(2), *ways(10), *ways(50)], ids=lambda way: way.name)
def test_each_device_has_spent_the_epsilon(way: Way) -> None:
    """By the records that a ledger would keep, of the rounds that it is in."""
    _, plan = way.plan(4.0)
    rounds = list(way.members(np.random.default_rng(1)))
    assert len(rounds) == ROUNDS
    if way.is_drawn:
        release = plan.release(1, 1, DEVICES, DEVICES)
        drawn = replace(release, rate=1 / way.cohorts, is_count_hidden=True)
        assert compose([drawn] * ROUNDS, Adversary.OUTSIDER).epsilon(DELTA) == pytest.approx(
            4.0, rel=1e-5
        )
        return
    times = np.bincount(np.concatenate(rounds), minlength=DEVICES)
    assert set(times.tolist()) == {plan.participations}
    entry = plan.release(1, 1, len(rounds[0]), len(rounds[0]))
    spent = compose([entry] * plan.participations, Adversary.OUTSIDER)
    assert spent.epsilon(DELTA) == pytest.approx(4.0, rel=1e-5)


def test_a_sum_is_of_clipped_updates() -> None:
    grid = Mechanism(650, 10, 0, 0, CLIP, 2.0, 16, central=True)
    rng = np.random.default_rng(1)
    updates = rng.normal(size=(1, 650))
    total = on_grid(updates, grid, rng).view(np.int32).astype(np.int64)
    assert int((total**2).sum()) <= grid.bound
    wanted = updates[0] / np.linalg.norm(updates) * grid.radius
    assert np.abs(total - wanted).max() <= 1 + 0.01 * np.abs(wanted).max()


def test_figures() -> None:
    rows = {row.name: row.value for row in theory()}
    assert rows["1000 rounds, 20 of each device: 50 bands"] == pytest.approx(21.0, rel=0.003)
    assert rows["1000 rounds, 1000 of each device: ratio"] == 1.0
    mean = Mean.of(np.array([0.5, 0.6, 0.7]))
    assert str(mean) == "60.0 +- 24.8"  # 4.303 * 10 / sqrt(3)


def test_a_run_learns() -> None:
    pytest.importorskip("sklearn")
    assert train(ways(10)[0], 16.0, 1.0, 0.9, seed=1) > 0.85
