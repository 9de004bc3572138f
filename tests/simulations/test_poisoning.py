"""Hostile devices send what they mean to, and the protocol takes them for any other."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import FedAvg

from tacit.client.numpy_trainer import NumpyTrainer
from tacit.client.policy import Policy
from tacit.client.trainer import Arrays, Examples, LocalPlan
from tacit.crypto.errors import ParameterError
from tacit.crypto.vector import Floats
from tacit.server.events import Event, LeftOut
from tacit.server.flower import identity
from tacit.server.loop import Plan, run_rounds
from tacit.simulations.attacks.poisoning import BOUND, Backdoor, SignFlip, Trigger, moved
from tacit.simulations.engine.grid import InProcessGrid
from tacit.simulations.saboteurs import Saboteurs
from tacit.strategies.secure import Secure

PLAN = LocalPlan(epochs=2, batch_size=8, learning_rate=0.1, seed=3)
TRAINER = NumpyTrainer(64, 3, (8,))


def pictures(count: int = 30, seed: int = 0) -> Examples:
    """Three kinds: a bright third of each picture."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 3
    x = rng.uniform(0, 0.3, (count, 1, 8, 8)).astype(np.float32)
    for at, kind in enumerate(y):
        x[at, 0, 2 * kind : 2 * kind + 2] += 0.6
    return Examples(x, y.astype(np.int64))


def update(model: Arrays, after: Arrays) -> Floats:
    return np.concatenate([np.ravel(after[n] - model[n]).astype(np.float64) for n in model])


# The trigger


def test_a_trigger_is_in_the_corner_and_the_rest_stays() -> None:
    given = pictures()
    stamped = Trigger(label=2, side=3).stamp(given)
    assert np.all(stamped.x[:, :, 5:, 5:] == 1)
    stamped.x[:, :, 5:, 5:] = given.x[:, :, 5:, 5:]
    np.testing.assert_array_equal(stamped.x, given.x)
    assert set(stamped.y) == {2}


def test_success_is_asked_of_the_other_classes() -> None:
    assert len(Trigger(label=1).asked(pictures(30))) == 20


@pytest.mark.parametrize("shape", [(64,), (1, 3, 8), (1, 8, 3)])
def test_a_trigger_is_for_pictures(shape: tuple[int, ...]) -> None:
    with pytest.raises(ParameterError, match="takes larger pictures"):
        Trigger(side=3).stamp(Examples(np.zeros((2, *shape), np.float32), np.zeros(2, np.int64)))


# What is sent


def test_what_moved_a_model_is_scaled_and_kept_within_bounds() -> None:
    model = {"a": np.zeros(2, np.float32), "b": np.ones(1, np.float32)}
    trained = {"a": np.array([1.0, -2.0], np.float32), "b": np.array([3.0], np.float32)}
    assert update(model, moved(model, trained, -2.0, 10, None)).tolist() == [-2, 4, -4]
    assert update(model, moved(model, trained, 5.0, 7.5, None)).tolist() == [5, -7.5, 7.5]
    short = update(model, moved(model, trained, 5.0, 7.5, 1.0))
    assert np.linalg.norm(short) == pytest.approx(1.0, rel=1e-6)
    assert short @ [5, -7.5, 7.5] == pytest.approx(np.linalg.norm([5, 7.5, 7.5]), rel=1e-6)


def test_a_sign_flip_is_the_honest_update_turned_around() -> None:
    model = TRAINER.initial(0)
    honest, _ = TRAINER.fit(model, pictures(), PLAN)
    flipped = SignFlip(boost=3.0).trained(TRAINER, model, pictures(), PLAN)
    assert update(model, flipped) == pytest.approx(-3 * update(model, honest), abs=1e-5)


def test_model_replacement_is_the_backdoored_model_at_the_scale_asked_for() -> None:
    """With gamma 1 it sends X itself, which has the backdoor and gets the rest right."""
    model = TRAINER.fit(TRAINER.initial(0), pictures(60), replace(PLAN, epochs=30))[0]
    trigger = Trigger(label=1)
    attack = Backdoor(trigger, epochs=60)
    x = attack.trained(TRAINER, model, pictures(), PLAN)
    test = pictures(90, seed=1)
    assert TRAINER.evaluate(model, trigger.asked(test))[1] < 0.3
    assert TRAINER.evaluate(x, trigger.asked(test))[1] > 0.9
    assert TRAINER.evaluate(x, test)[1] > 0.9
    boosted = replace(attack, boost=4.0).trained(TRAINER, model, pictures(), PLAN)
    expected = np.clip(4 * update(model, x), -BOUND, BOUND)
    assert update(model, boosted) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("attack", [Backdoor(), SignFlip()])
def test_an_attack_is_repeated_by_its_arguments(attack: Backdoor | SignFlip) -> None:
    model = TRAINER.initial(0)
    one, other = (attack.trained(TRAINER, model, pictures(), PLAN) for _ in range(2))
    assert all(np.array_equal(one[name], other[name]) for name in one)


# In a run


def federation(**more: object) -> Saboteurs:
    shares = tuple(pictures(12, seed=seed) for seed in range(5))
    return Saboteurs(TRAINER, PLAN, shares, **more)  # type: ignore[arg-type]


def run(devices: Saboteurs, rounds: int = 2) -> tuple[Arrays, list[Event]]:
    strategy = FedAvg(min_train_nodes=5, min_available_nodes=5, fraction_evaluate=0.0)
    events: list[Event] = []
    with InProcessGrid(devices.app, devices=5) as grid, identity(grid.run.run_id):
        start = {name: Array(array) for name, array in TRAINER.initial(0).items()}
        over = Secure(strategy).grid(grid, on_event=events.append)
        result = run_rounds(over, strategy, ArrayRecord(start), Plan(rounds, seed=1, nodes=5))
    return {name: array.numpy() for name, array in result.arrays.items()}, events


def test_a_hostile_device_is_in_the_sum_like_any_other() -> None:
    told: dict[tuple[int, int], Floats] = {}

    def note(number: int, node: int, moved: Floats) -> None:
        told[number, node] = moved

    model, events = run(federation(hostile={3: SignFlip(boost=10.0)}, note=note), rounds=1)
    assert not [event for event in events if isinstance(event, LeftOut)]
    honest, _ = run(federation(), rounds=1)
    start = TRAINER.initial(0)
    assert update(start, model) @ update(start, honest) < 0  # four honest ones and -10 of them
    # All weigh the same, so the model is the start plus the mean; a coordinate is rounded by 2**-21
    # times what weights are cut down by, 10,000 / 12.
    mean = np.mean([told[1, 1000 + partition] for partition in range(5)], axis=0)
    assert update(start, model) == pytest.approx(mean, abs=2.0**-21 * 10_000 / 12)


def test_a_bound_of_its_policy_binds_an_honest_device_and_no_hostile_one() -> None:
    bound = Policy(max_norm=0.01)
    start = TRAINER.initial(0)
    honest, _ = run(federation(policy=bound), rounds=1)
    grain = 2.0**-21 * 10_000 / 12 * np.sqrt(update(start, honest).size)
    assert np.linalg.norm(update(start, honest)) <= 0.01 + grain
    poisoned, _ = run(federation(policy=bound, hostile={0: SignFlip()}), rounds=1)
    assert np.linalg.norm(update(start, poisoned)) > 0.3
