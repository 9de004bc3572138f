"""What settings name is loaded as they say, and what cannot run is found before it starts."""

import numpy as np
import pytest

from tacit.app.check import check
from tacit.app.material import device_data, material, trainer_for
from tacit.client.trainer import Arrays, Examples
from tacit.crypto.errors import ParameterError
from tests.app.small import small
from tests.app.test_simulation import Own, run


def test_devices_share_the_training_half_and_nothing_twice() -> None:
    settings = small()
    held = material(settings.data, 0)
    indices = [index for share in held.shares for index in share]
    assert sorted(indices) == list(range(len(held.dataset.train)))
    assert np.array_equal(held.examples(2).x, held.dataset.train.x[list(held.shares[2])])


def test_a_device_keeps_a_share_for_its_evaluation() -> None:
    data = small("data.hold_out=0.25").data
    train, held = device_data(data, 0, 1)
    assert len(held) == round(0.25 * len(material(data, 0).examples(1)))
    assert len(train) + len(held) == len(material(data, 0).examples(1))


def test_a_limit_takes_a_sample_of_what_a_device_has() -> None:
    everything, few = (material(small(f"data.limit={n}").data, 0).shares for n in (0, 10))
    for whole, part in zip(everything, few, strict=True):
        assert len(part) == 10
        assert set(part) < set(whole)
        assert part != whole[:10]


def test_there_are_as_many_devices_as_shares() -> None:
    held = material(small().data, 0)
    for device in (-1, 4):
        with pytest.raises(ParameterError, match=r"data\.devices"):
            held.examples(device)


def test_a_seed_repeats_data_and_model() -> None:
    settings = small("data.partition=dirichlet:1")
    assert material(settings.data, 1).shares != material(settings.data, 2).shares
    material.cache_clear()
    one = material(settings.data, 1).shares
    material.cache_clear()
    assert material(settings.data, 1).shares == one
    models = [trainer_for(settings.model, settings.data, 1).initial(3) for _ in range(2)]
    assert all(np.array_equal(models[0][name], models[1][name]) for name in models[0])


class NeverBuilt(Own):
    def initial(self, seed: int) -> Arrays:
        raise RuntimeError("no initial model")


class BornBroken(Own):
    def initial(self, seed: int) -> Arrays:
        return {name: array * np.nan for name, array in super().initial(seed).items()}

    def evaluate(self, model: Arrays, examples: Examples) -> tuple[float, float]:
        return 0.0, 0.0  # its NaN would go unnoticed


class NotEvaluated(Own):
    def evaluate(self, model: Arrays, examples: Examples) -> tuple[float, float]:
        raise ZeroDivisionError("no examples")


def refuses(shape: tuple[int, ...], classes: int) -> Own:
    raise KeyError("shape")


def no_data() -> None:
    raise OSError("the disk is gone")


def own(name: str) -> str:
    return f'model.name="tests.app.test_material:{name}"'


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (['data.name="digts"'], "did you mean 'digits'?"),
        (['data.name="npz:none.npz"'], "none.npz"),
        (['data.name="nowhere:data"'], "no module 'nowhere'"),
        (['data.name="tests.app.test_material:no_data"'], "OSError: the disk is gone"),
        (['data.name="tests.app.test_material:refuses"'], "missing 2 required"),
        (['data.name="fashion-mnist"', 'data.root="nowhere"'], "fashion_mnist.npz"),
        (['model.name="mpl"'], "did you mean 'mlp'?"),
        (['model.name="cnn"'], "needs torch"),
        (['model.name="cnn"', "model.backend=torch"], "use softmax or mlp"),
        ([own("refuse")], "did you mean 'refuses'?"),
        ([own("refuses")], "KeyError: 'shape'"),
        ([own("NeverBuilt")], "RuntimeError: no initial model"),
        ([own("BornBroken")], "is not finite when it is built"),
        ([own("NotEvaluated")], "ZeroDivisionError: no examples"),
        (['data.partition="sites"'], "does not say which site"),
        (["data.min_examples=115"], "use fewer devices"),
        (
            ["data.devices=400", "data.min_examples=1"],
            "(strategy.fraction_train): no committee for 400 devices is both safe",
        ),
        (["data.devices=120"], "120 devices with at least 4 examples each need 480"),
        (['data.partition="dirichlet:0.001"', "data.min_examples=50"], "an alpha above 0.001"),
        (["data.devices=2"], "each asks for 3 (policy.min_cohort)"),
        (["strategy.fraction_train=0.5"], "raise strategy.fraction_train"),
        (["strategy.fraction_evaluate=0.5"], "raise strategy.fraction_evaluate"),
        (["data.hold_out=0.0"], "set strategy.fraction_evaluate to 0"),
        (["data.limit=1", "data.min_examples=1"], "data.limit = 1 leaves devices nothing"),
        (["secure.precision=9"], "no room in 11 bits"),
        (["secure.min_survivors=1"], "min_survivors=1, expected at least 2"),
        (["secure.min_survivors=2"], "every device would refuse: a sum over 2"),
        (["secure.min_survivors=5"], "use more devices, or lower it"),
        (["data.devices=9", "secure.corrupt=0.0"], "every device would refuse: threshold"),
        (['faults=["drop report 4"]'], "names device 4, but the devices are 0 to 3"),
    ],
)
def test_what_cannot_run_is_told_beforehand(changes: list[str], said: str) -> None:
    with pytest.raises(ParameterError) as wrong:
        check(small(*changes))
    assert said in str(wrong.value)


def test_a_sum_is_tried_at_the_size_of_the_model() -> None:
    """A longer vector leaves less room for noise: eleven of softmax's 62 coordinates have 24 bits,
    of the mlp's 23, in which as many weights have no room."""
    edge = small(
        "data.devices=11",
        "secure.protocol=lattice",
        "secure.parameters=2048-32-1",
        "secure.max_weight=5e5",
        "policy.lattice=true",
        "run.rounds=1",
    )
    check(edge)
    large = edge.changed(["model.name=mlp"])
    with pytest.raises(ParameterError, match=r"fraction_train.* leave no room in 23 bits"):
        check(large)
    assert [len(run(each)[0].result.train_metrics_clientapp) for each in (edge, large)] == [1, 0]


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["data.devices=2", "policy.min_cohort=2", "policy.min_survivors=2"],
        ["data.devices=2", 'secure.protocol="plain"'],
        ["data.hold_out=0.0", "strategy.fraction_evaluate=0.0"],
        ["data.devices=9", "secure.corrupt=0.45"],
        ["secure.precision=13", "secure.max_weight=200.0"],
        [own("Own")],
    ],
)
def test_what_can_run_is_let_through(changes: list[str]) -> None:
    check(small(*changes))
