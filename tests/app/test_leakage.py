"""The attacks get what the server saw in a run of the real apps: one update, or one sum."""

import numpy as np
import pytest

from tacit.app import leakage
from tacit.app.leakage import Exposure, curve, expose, portraits, settings_for
from tacit.app.material import material
from tacit.simulations.attacks.base import Knows
from tacit.simulations.attacks.inverting import InvertingGradients
from tacit.simulations.evaluate import Outcome

TINY = Exposure(devices=4, victims=2, steps=2, restarts=1, curve=(3, 5))


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return list(expose(TINY))


def test_every_device_holds_one_face_of_its_own() -> None:
    held = material(settings_for("mlp", 20, "pairwise", 0).data, 0)
    assert [len(share) for share in held.shares] == [1] * 20
    assert len({index for share in held.shares for index in share}) == 20
    assert set(portraits().train.y.tolist()) == {leakage.FACE}


def test_the_same_attacks_in_the_clear_and_on_the_sum(outcomes: list[Outcome]) -> None:
    seen = [(outcome.attack, outcome.protocol, outcome.clients) for outcome in outcomes]
    single, whole = ("plain", 1), ("pairwise", 4)
    expected = [(name, *what) for name in ("inverting gradients", "linear read-out")
                for what in (single, single, whole)]  # fmt: skip
    assert seen == expected


def test_attacks_are_granted_labels_and_batch_size_and_no_more(outcomes: list[Outcome]) -> None:
    assert {outcome.knows for outcome in outcomes} == {Knows.LABELS | Knows.BATCH_SIZE}


def test_one_update_in_the_clear_gives_the_face_away(outcomes: list[Outcome]) -> None:
    alone = [o for o in outcomes if o.attack == "linear read-out" and o.clients == 1]
    assert [o.score.mean_ssim for o in alone] == pytest.approx([1, 1], abs=1e-3)
    assert not np.array_equal(alone[0].truth, alone[1].truth)


def test_a_sum_is_scored_against_everyone_in_it(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        assert len(outcome.truth) == outcome.clients


def test_the_floor_knows_no_face_that_a_device_holds(outcomes: list[Outcome]) -> None:
    held = material(settings_for("mlp", 4, "plain", 0).data, 0)
    everyone = held.dataset.train.x
    public = leakage._unused(held, everyone)
    assert len(public) == len(everyone) - 4
    for device in range(4):
        assert not (public == held.examples(device).x).all(axis=(1, 2, 3)).any()


def test_the_curve_grows_with_the_sum() -> None:
    steps: list[tuple[str, int, int]] = []
    found = list(curve(TINY, lambda *step: steps.append(step)))
    assert [outcome.clients for outcome in found] == [3, 5]
    assert [step[1:] for step in steps] == [(1, 2), (2, 2)]


def test_another_seed_is_another_experiment(outcomes: list[Outcome]) -> None:
    other = next(iter(expose(Exposure(4, 1, 2, 1, seed=1))))
    assert not np.array_equal(other.truth, outcomes[0].truth)
    again = next(iter(expose(TINY)))
    assert np.array_equal(again.guess, outcomes[0].guess)


def test_a_sum_is_attacked_as_hard_as_a_single_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer restarts or steps against the sum would make it look better than it is."""
    tried: list[tuple[object, ...]] = []

    class Noting(InvertingGradients):
        def reconstruct(self, view, rng):
            tried.append((view.protocol, self.restarts, self.steps, self.tv, self.lr))
            return np.full((1, *self.shape), 0.5)

    monkeypatch.setattr(leakage, "InvertingGradients", Noting)
    list(expose(Exposure(devices=4, victims=1, steps=7, restarts=3, curve=())))
    plain, secure = tried
    assert (plain[0], secure[0]) == ("plain", "pairwise")
    assert plain[1:] == secure[1:]
    assert plain[1:3] == (3, 7)
