"""What a thief does to a model does what it says, and it works where a mark is weak."""

from functools import partial

import numpy as np
import torch

from tacit.client.torch_trainer import TorchTrainer
from tacit.client.trainer import LocalPlan
from tacit.crypto.mark import MarkKey, Triggers
from tacit.simulations.attacks import removal
from tacit.simulations.duels.ground import ground
from tacit.simulations.duels.marked import arrays_of
from tacit.simulations.models import mlp
from tacit.simulations.ownership import embedding, examples_of

WHERE = ground("digits")
BUILD = partial(mlp, WHERE.shape, WHERE.classes, (128,))
TRAINER = TorchTrainer(BUILD)
TRIGGERS = examples_of(Triggers(30), MarkKey(bytes(range(32))), WHERE.shape, WHERE.classes)


def stolen():
    model, _ = TRAINER.fit(TRAINER.initial(0), WHERE.trained, LocalPlan(10, momentum=0.9))
    embed = embedding(TRAINER, TRIGGERS)
    for _ in range(6):  # an mlp learns noise slowly
        model = embed(model)
    return model


MODEL = stolen()


def module(model=MODEL) -> torch.nn.Module:
    made = BUILD()
    made.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in model.items()})
    return made


def found(model) -> tuple[float, float]:
    """Triggers that are left, and accuracy."""
    return TRAINER.evaluate(model, TRIGGERS)[1], TRAINER.evaluate(model, WHERE.held)[1]


def test_the_mark_is_there_before() -> None:
    triggers, accuracy = found(MODEL)
    assert triggers > 0.9
    assert accuracy > 0.85


def test_pruning_takes_the_smallest() -> None:
    for prune in (removal.pruned, removal.pruned_by_array):
        left = prune(MODEL, 0.6)
        weights = [name for name, a in MODEL.items() if a.ndim > 1]
        size = sum(MODEL[name].size for name in weights)
        zero = sum(int((left[name] == 0).sum()) for name in weights)
        assert abs(zero / size - 0.6) < 0.01
        for name, a in MODEL.items():
            kept = left[name] != 0
            np.testing.assert_array_equal(left[name][kept], a[kept])
            if a.ndim == 1:
                np.testing.assert_array_equal(left[name], a)
    assert (removal.pruned_by_array(MODEL, 0.6)["head.weight"] == 0).mean() >= 0.59
    assert found(removal.pruned(MODEL, 0.97))[0] < 0.5


def test_quantising_leaves_so_many_levels() -> None:
    for bits in (2, 4, 8):
        left = removal.quantised(MODEL, bits)
        for name, a in MODEL.items():
            step = np.abs(a).max() / (2 ** (bits - 1) - 1)
            if a.ndim > 1:
                assert len(np.unique(left[name])) <= 2**bits - 1
                assert np.abs(left[name] - a).max() <= step / 2 * 1.001
            assert left[name].dtype == a.dtype
    zeros = {"w": np.zeros((2, 2), np.float32)}
    np.testing.assert_array_equal(removal.quantised(zeros, 4)["w"], zeros["w"])
    assert found(removal.quantised(MODEL, 2))[0] < 0.5


def test_hard_fine_tuning_takes_triggers_and_leaves_the_model_its_worth() -> None:
    tuned = module()
    removal.fine_tuned(tuned, WHERE.owned, epochs=60, rate=1e-2, seed=0)
    triggers, accuracy = found(arrays_of(tuned))
    assert triggers < 0.5
    assert accuracy > 0.85


def test_a_new_head_takes_triggers() -> None:
    tuned = module()
    removal.forgets(tuned, ["head"], seed=0)
    drawn = arrays_of(tuned)
    np.testing.assert_array_equal(drawn["fc0.weight"], MODEL["fc0.weight"])
    assert not np.array_equal(drawn["head.weight"], MODEL["head.weight"])
    removal.fine_tuned(tuned, WHERE.owned, epochs=20, rate=1e-3, seed=0)
    triggers, accuracy = found(arrays_of(tuned))
    assert triggers < 0.5
    assert accuracy > 0.85


def test_distillation_copies_the_task_and_no_mark() -> None:
    fresh = module(TRAINER.initial(9))
    removal.distilled(module(), fresh, WHERE.owned.x, epochs=60, rate=2e-3, seed=0)
    triggers, accuracy = found(arrays_of(fresh))
    assert triggers < 0.4
    assert accuracy > 0.85  # 397 examples make no better one


def test_the_thief_is_the_same_every_time() -> None:
    made = []
    for _ in range(2):
        tuned = module()
        removal.forgets(tuned, ["head"], seed=3)
        removal.fine_tuned(tuned, WHERE.owned, epochs=1, rate=1e-3, seed=3)
        made.append(arrays_of(tuned))
    assert all(np.array_equal(made[0][name], made[1][name]) for name in MODEL)
