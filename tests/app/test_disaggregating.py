"""Each device's own update out of the secure sums of many rounds, in the real app."""

from functools import cache

import numpy as np
import pytest

from tacit.app.config import Settings
from tacit.app.simulation import simulate
from tacit.crypto.errors import ParameterError
from tacit.crypto.vector import Floats
from tacit.server.inbox import Seen
from tacit.simulations.attacks.disaggregation import Disaggregation
from tacit.simulations.evaluate import over_rounds
from tacit.simulations.measure import Measure
from tests.hostile.crowd import count_randomness

ROUNDS = 24  # as few as it takes for 20 devices, and some more
SLOW = ("train.learning_rate=0.001", "train.batch_size=0", "train.momentum=0.0", "train.epochs=1")
CLIP = "privacy.clip=0.0025"  # of updates at that rate: none is any longer
TRUSTED = ('privacy.mode="central"', "privacy.epsilon=8.0", CLIP, "policy.trust_server=true")


@cache
def measured(*changes: str) -> tuple[Measure, list[Seen]]:
    """Twenty devices that have digits, half of them drawn in each round, for a softmax."""
    settings = Settings().changed(
        [
            'data.name="digits"',
            "data.devices=20",
            'model.name="softmax"',
            "model.backend=numpy",
            f"run.rounds={ROUNDS}",
            "strategy.fraction_train=0.5",
            "strategy.fraction_evaluate=0.0",
            "secure.max_weight=400.0",
            "secure.precision=40",
            *changes,
        ]
    )
    inbox: list[Seen] = []
    updates: dict[tuple[int, int], Floats] = {}

    def trained(round: int, node: int, update: Floats) -> None:
        updates[round, node] = update

    finished = simulate(settings, tap=inbox.append, trained=trained)
    assert finished.oracle is not None
    assert finished.oracle.exact == ROUNDS == len(inbox)
    rng = np.random.default_rng(0)
    ((_, measure),) = over_rounds(Disaggregation(), inbox, updates, [ROUNDS], rng)
    return measure, inbox


def test_of_a_model_that_hardly_moves_each_update_is_known() -> None:
    measure, inbox = measured(*SLOW)
    assert [seen.clients for seen in inbox] == [10] * ROUNDS
    assert min(measure.values) > 0.99
    assert measure.mean_floor < 0.5


def test_of_one_that_moves_fast_hardly_anything_is() -> None:
    """The training as it is by default: two epochs in batches, with momentum, at a rate of 0.1."""
    measure, _ = measured("train.learning_rate=0.1")
    assert measure.mean < 0.4


def test_noise_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random direction of 650 dimensions has a cosine with any other that deviates by 650**-0.5;
    so does a mean of ten, at most, whatever they have in common."""
    count_randomness(monkeypatch)
    measure, _ = measured(*SLOW, 'privacy.mode="distributed"', "privacy.epsilon=8.0", CLIP)
    assert measure.mean < 5 / np.sqrt(650)


def test_a_server_that_is_to_add_the_noise_is_not_hindered_by_it() -> None:
    measure, _ = measured(*SLOW, *TRUSTED)
    assert measure.mean > 0.9


def test_cohorts_that_stay_together_are_never_told_apart() -> None:
    """The same, but that who is in which round is fixed: all that is known is the mean of ten."""
    turns = ("privacy.bands=2", "privacy.cohorts=2", "strategy.fraction_train=1.0")
    measure, inbox = measured(*SLOW, *TRUSTED, *turns)
    assert len({seen.members for seen in inbox}) == 2
    assert measure.values == pytest.approx(measure.floor, abs=0.01)


def test_what_devices_trained_is_told_of_secure_sums_alone() -> None:
    settings = Settings().changed(['secure.protocol="plain"'])
    with pytest.raises(ParameterError, match="only told of secure sums"):
        simulate(settings, trained=lambda *_: None)
