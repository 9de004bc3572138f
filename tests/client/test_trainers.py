"""Both trainers: what they promise alone, and that they agree with each other."""

import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from tacit.client.fitting import batches
from tacit.client.numpy_trainer import NumpyTrainer
from tacit.client.torch_trainer import TorchTrainer
from tacit.client.trainer import Arrays, Examples, LocalPlan, Trainer
from tacit.crypto.errors import ParameterError
from tacit.simulations.models import mlp, softmax

FEATURES, CLASSES = 20, 4
HIDDEN = (16, 8)
PLAN = LocalPlan(epochs=3, batch_size=16, learning_rate=0.05, seed=11)
FULL = replace(PLAN, momentum=0.9, weight_decay=0.01, proximal_mu=0.5)

TRAINERS: dict[str, Callable[[], Trainer]] = {
    "torch softmax": lambda: TorchTrainer(partial(softmax, (FEATURES,), CLASSES)),
    "torch mlp": lambda: TorchTrainer(partial(mlp, (FEATURES,), CLASSES, HIDDEN)),
    "numpy softmax": lambda: NumpyTrainer(FEATURES, CLASSES),
    "numpy mlp": lambda: NumpyTrainer(FEATURES, CLASSES, HIDDEN),
}


@pytest.fixture(params=TRAINERS)
def trainer(request: pytest.FixtureRequest) -> Trainer:
    return TRAINERS[request.param]()


def examples(count: int = 70, seed: int = 5) -> Examples:
    rng = np.random.default_rng(seed)
    y = rng.integers(CLASSES, size=count)
    centres = rng.uniform(-1, 1, (CLASSES, FEATURES))
    x = np.clip(centres[y] + rng.normal(0, 0.5, (count, FEATURES)), -1, 1)
    return Examples(x.astype(np.float32), y)


def same(a: Arrays, b: Arrays) -> bool:
    return list(a) == list(b) and all(np.array_equal(a[name], b[name]) for name in a)


def farthest(a: Arrays, b: Arrays) -> float:
    return max(float(np.abs(a[name].astype(np.float64) - b[name]).max()) for name in a)


# Each on its own


def test_initial_depends_on_the_seed_alone(trainer: Trainer) -> None:
    assert same(trainer.initial(3), trainer.initial(3))
    assert not same(trainer.initial(3), trainer.initial(4))
    assert all(array.dtype == np.float32 for array in trainer.initial(3).values())


def test_fit_is_deterministic_and_leaves_its_arguments_alone(trainer: Trainer) -> None:
    start = trainer.initial(0)
    before = {name: array.copy() for name, array in start.items()}
    first, loss = trainer.fit(start, examples(), FULL)
    trainer.fit(trainer.initial(9), examples(seed=8), PLAN)  # nothing of this may be remembered
    second, again = trainer.fit(start, examples(), FULL)
    assert same(first, second)
    assert loss == again
    assert same(start, before)
    assert list(first) == list(start)
    assert all(first[n].dtype == np.float32 and first[n].shape == start[n].shape for n in start)
    assert not same(first, trainer.fit(start, examples(), replace(FULL, seed=12))[0])


def test_fit_learns(trainer: Trainer) -> None:
    start, data = trainer.initial(0), examples(400)
    before, _ = trainer.evaluate(start, data)
    plan = LocalPlan(epochs=20, batch_size=20, learning_rate=0.1, momentum=0.9)
    trained, met = trainer.fit(start, data, plan)
    after, accuracy = trainer.evaluate(trained, data)
    assert after < met < before  # the mean on the way lies between start and end
    assert accuracy > 0.9


def test_loss_of_one_full_batch_is_the_loss_of_the_start(trainer: Trainer) -> None:
    start, data = trainer.initial(0), examples()
    plan = LocalPlan(batch_size=0, weight_decay=0.1, proximal_mu=3.0)
    _, met = trainer.fit(start, data, plan)
    assert met == pytest.approx(trainer.evaluate(start, data)[0], rel=1e-5)


def test_evaluation_does_not_depend_on_how_it_is_cut(trainer: Trainer) -> None:
    start, data = trainer.initial(0), examples(1300)  # three batches
    halves = [Examples(data.x[s], data.y[s]) for s in (slice(0, 650), slice(650, None))]
    loss, accuracy = trainer.evaluate(start, data)
    parts = [trainer.evaluate(start, half) for half in halves]
    assert loss == pytest.approx(sum(part[0] for part in parts) / 2, rel=1e-5)
    assert accuracy == pytest.approx(sum(part[1] for part in parts) / 2)


def test_proximal_term_holds_back(trainer: Trainer) -> None:
    start, data = trainer.initial(0), examples()
    free, _ = trainer.fit(start, data, PLAN)
    held, _ = trainer.fit(start, data, replace(PLAN, proximal_mu=5.0))
    assert farthest(held, start) < 0.7 * farthest(free, start)


def test_inputs_of_any_shape_are_flattened(trainer: Trainer) -> None:
    data = examples()
    folded = Examples(data.x.reshape(-1, 1, 4, 5), data.y)
    start = trainer.initial(0)
    assert same(trainer.fit(start, data, FULL)[0], trainer.fit(start, folded, FULL)[0])


def test_read_only_arrays_are_fine(trainer: Trainer) -> None:
    start, data = trainer.initial(0), examples()
    for array in (*start.values(), data.x, data.y):
        array.flags.writeable = False
    trained, _ = trainer.fit(start, data, PLAN)
    assert all(array.flags.writeable for array in trained.values())


def _without(model: Arrays, data: Examples) -> tuple[Arrays, Examples]:
    return dict(list(model.items())[1:]), data


def _extra(model: Arrays, data: Examples) -> tuple[Arrays, Examples]:
    return model | {"fc9.weight": np.zeros(3, np.float32)}, data


def _misshapen(model: Arrays, data: Examples) -> tuple[Arrays, Examples]:
    name = next(iter(model))
    return model | {name: model[name].T}, data


def _not_finite(model: Arrays, data: Examples) -> tuple[Arrays, Examples]:
    name = list(model)[-1]
    return model | {name: np.full_like(model[name], np.nan)}, data


def _nobody(model: Arrays, data: Examples) -> tuple[Arrays, Examples]:
    return model, Examples(data.x[:0], data.y[:0])


def _label_too_high(model: Arrays, data: Examples) -> tuple[Arrays, Examples]:
    return model, Examples(data.x, data.y + 1)


def _label_negative(model: Arrays, data: Examples) -> tuple[Arrays, Examples]:
    return model, Examples(data.x, data.y - 1)


def _too_wide(model: Arrays, data: Examples) -> tuple[Arrays, Examples]:
    return model, Examples(np.hstack([data.x, data.x]), data.y)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_without, r"no array 'fc0?\.weight'"),
        (_extra, r"unknown array 'fc9\.weight'"),
        (
            _misshapen,
            r"array 'fc0?\.weight' of the model has shape \(20, \d+\), expected \(\d+, 20",
        ),
        (_not_finite, r"array '(fc|head)\.bias' of the model is not finite"),
        (_nobody, "no examples"),
        (_label_too_high, "label 4 does not fit a model with 4 outputs"),
        (_label_negative, "label -1 is negative"),
        (_too_wide, r"cannot take .* shape \((16, |70, )?40,?\)"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    trainer: Trainer,
    spoil: Callable[[Arrays, Examples], tuple[Arrays, Examples]],
    says: str,
) -> None:
    model, data = spoil(trainer.initial(0), examples())
    with pytest.raises(ParameterError, match=says):
        trainer.fit(model, data, PLAN)
    with pytest.raises(ParameterError, match=says):
        trainer.evaluate(model, data)
    good = trainer.initial(0)
    assert same(trainer.fit(good, examples(), PLAN)[0], trainer.fit(good, examples(), PLAN)[0])


@pytest.mark.filterwarnings("error")
def test_diverging_says_what_to_change(trainer: Trainer) -> None:
    plan = LocalPlan(epochs=60, batch_size=8, learning_rate=1e20, weight_decay=1.0)
    with pytest.raises(ParameterError, match=r"training diverged.*learning_rate=1e\+20"):
        trainer.fit(trainer.initial(0), examples(), plan)


# Both together


@pytest.mark.parametrize("hidden", [(), (16,), HIDDEN])
@pytest.mark.parametrize(
    "plan",
    [
        PLAN,
        replace(PLAN, batch_size=0),
        replace(PLAN, momentum=0.9),
        replace(PLAN, weight_decay=0.05),
        replace(PLAN, proximal_mu=0.5),
        FULL,
    ],
    ids=["plain", "full batch", "momentum", "decay", "proximal", "all"],
)
def test_numpy_and_torch_reach_the_same_model(hidden: tuple[int, ...], plan: LocalPlan) -> None:
    ours = NumpyTrainer(FEATURES, CLASSES, hidden)
    net = partial(mlp, hidden=hidden) if hidden else softmax
    theirs = TorchTrainer(partial(net, (FEATURES,), CLASSES))
    start, data = theirs.initial(1), examples()
    assert [(n, a.shape) for n, a in start.items()] == [
        (n, a.shape) for n, a in ours.initial(1).items()
    ]
    by_torch, their_loss = theirs.fit(start, data, plan)
    by_numpy, our_loss = ours.fit(start, data, plan)
    tolerance = rounding(plan, len(data), (FEATURES, *hidden, CLASSES))
    assert farthest(by_torch, by_numpy) <= tolerance
    assert our_loss == pytest.approx(their_loss, abs=tolerance)
    assert theirs.evaluate(by_torch, data)[0] == pytest.approx(
        ours.evaluate(by_numpy, data)[0], abs=tolerance
    )
    other = ours.fit(start, data, replace(plan, seed=plan.seed + 1, learning_rate=0.0501))[0]
    assert farthest(other, by_numpy) > 5 * tolerance  # the tolerance tells 0.2 % apart


def rounding(plan: LocalPlan, count: int, sizes: tuple[int, ...]) -> float:
    """How far two float32 computations of one fit may drift apart.

    A gradient is a chain of dot products over the batch and the layers' inputs. Its error relative
    to its terms, each at most about 1 here (inputs and probabilities are, weights and decay
    smaller), is at most the number of terms times 2^-24, and typically its square root (Higham
    2002): rounding errors behave as a random walk. A step takes rate / (1 - momentum)
    of it; steps add up; and two computations may err in opposite directions.
    """
    batch = plan.batch_size or count
    steps = plan.epochs * -(-count // batch)
    terms = batch + sum(sizes)
    return 2 * steps * plan.learning_rate / (1 - plan.momentum) * terms**0.5 * 2.0**-24


def test_numpy_in_double_precision_is_what_float32_rounds() -> None:
    start, data = NumpyTrainer(FEATURES, CLASSES, HIDDEN).initial(0), examples()
    single, _ = NumpyTrainer(FEATURES, CLASSES, HIDDEN).fit(start, data, FULL)
    double, _ = NumpyTrainer(FEATURES, CLASSES, HIDDEN, np.float64).fit(start, data, FULL)
    assert all(array.dtype == np.float32 for array in double.values())
    assert farthest(single, double) <= rounding(FULL, len(data), (FEATURES, *HIDDEN, CLASSES))


def test_numpy_gradient_is_the_slope_of_the_loss() -> None:
    net = NumpyTrainer(FEATURES, CLASSES, HIDDEN, np.float64)
    start, data = net.initial(0), examples()
    rate, step = 1e-3, 1e-2
    trained, _ = net.fit(start, data, LocalPlan(batch_size=0, learning_rate=rate))
    rng = np.random.default_rng(0)
    for name in start:
        where = tuple(rng.integers(start[name].shape))
        losses = []
        for sign in (1, -1):
            moved = {n: a.copy() for n, a in start.items()}
            moved[name][where] += sign * step
            losses.append(net.evaluate(moved, data)[0])
        slope = (losses[0] - losses[1]) / (2 * step)
        taken = float(start[name][where] - trained[name][where]) / rate
        assert taken == pytest.approx(slope, abs=1e-3)  # third derivative, and kinks of the ReLU


def test_every_epoch_takes_every_example_once() -> None:
    plan = LocalPlan(epochs=4, batch_size=7, seed=2)
    walk = list(batches(23, plan))
    assert [len(chosen) for chosen in walk] == [7, 7, 7, 2] * 4
    epochs = [np.concatenate(walk[i : i + 4]) for i in range(0, 16, 4)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_the_device_package_and_numpy_trainer_work_without_torch() -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from tacit.client.numpy_trainer import NumpyTrainer\n"
        "NumpyTrainer(3, 2).initial(0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("sizes", [(0, 2, ()), (3, 0, ()), (3, 2, (0,))])
def test_numpy_sizes(sizes: tuple[int, int, tuple[int, ...]]) -> None:
    with pytest.raises(ParameterError, match="at least 1"):
        NumpyTrainer(*sizes)


# What only torch has


def noisy() -> nn.Module:
    """Dropout draws from torch's global state; batch normalisation has buffers of two dtypes."""
    return nn.Sequential(
        nn.Linear(FEATURES, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(), nn.Linear(12, CLASSES)
    )


def test_dropout_follows_the_seed_and_the_global_state_is_left_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    trainer = TorchTrainer(noisy)
    start = trainer.initial(0)
    first, _ = trainer.fit(start, examples(), PLAN)
    trainer.evaluate(first, examples())
    assert same(
        first, trainer.fit(start, examples(), PLAN)[0]
    )  # builds no module, unlike the first
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(first, TorchTrainer(noisy).fit(start, examples(), PLAN)[0])


def test_buffers_travel_with_the_model() -> None:
    trainer = TorchTrainer(noisy)
    start, data = trainer.initial(0), examples()
    trained, _ = trainer.fit(start, data, PLAN)
    assert trained["1.num_batches_tracked"] == PLAN.epochs * -(-len(data) // PLAN.batch_size)
    assert trained["1.num_batches_tracked"].dtype == np.int64
    assert trained["1.running_mean"].dtype == np.float32
    assert not np.array_equal(trained["1.running_mean"], start["1.running_mean"])


def test_evaluation_drops_nothing_and_normalises_by_the_buffers() -> None:
    trainer = TorchTrainer(noisy)
    model, data = trainer.initial(0), examples()
    alone = [trainer.evaluate(model, Examples(data.x[[i]], data.y[[i]]))[0] for i in range(70)]
    assert trainer.evaluate(model, data)[0] == pytest.approx(np.mean(alone), rel=1e-5)


def test_threads_do_not_disturb_one_another() -> None:
    from concurrent.futures import ThreadPoolExecutor

    shared = TorchTrainer(noisy)
    start, data = shared.initial(0), examples()
    alone = [shared.fit(start, data, replace(PLAN, seed=seed))[0] for seed in range(6)]
    with ThreadPoolExecutor(4) as pool:
        together = list(
            pool.map(lambda s: shared.fit(start, data, replace(PLAN, seed=s))[0], range(6))
        )
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))


def test_one_module_serves_every_message() -> None:
    built = []

    def build() -> nn.Module:
        built.append(1)
        return softmax((FEATURES,), CLASSES)

    trainer = TorchTrainer(build)
    model = trainer.initial(0)
    for seed in range(5):
        model, _ = trainer.fit(model, examples(), replace(PLAN, seed=seed))
        trainer.evaluate(model, examples())
    assert len(built) == 2  # one for `initial`, one for all the rest


def test_the_trained_arrays_are_copies_without_autograd() -> None:
    trainer = TorchTrainer(partial(softmax, (FEATURES,), CLASSES))
    first, _ = trainer.fit(trainer.initial(0), examples(), PLAN)
    kept = {name: array.copy() for name, array in first.items()}
    trainer.fit(trainer.initial(1), examples(), PLAN)
    assert same(first, kept)
    assert all(type(array) is np.ndarray for array in first.values())


def test_frozen_and_unused_weights_stay() -> None:
    def build() -> nn.Module:
        net = nn.Sequential(nn.Linear(FEATURES, 8), nn.Linear(8, CLASSES))
        net[0].requires_grad_(False)
        net[1].register_parameter("spare", nn.Parameter(torch.ones(3)))
        return net

    trainer = TorchTrainer(build)
    start = trainer.initial(0)
    trained, _ = trainer.fit(start, examples(), FULL)
    moved = {name for name in start if not np.array_equal(start[name], trained[name])}
    assert moved == {"1.weight", "1.bias"}


def test_descent_is_that_of_torch_optim() -> None:
    plan = replace(FULL, proximal_mu=0.0)
    trainer = TorchTrainer(partial(mlp, (FEATURES,), CLASSES, HIDDEN))
    start, data = trainer.initial(0), examples()
    net = mlp((FEATURES,), CLASSES, HIDDEN)
    net.load_state_dict({name: torch.from_numpy(array) for name, array in start.items()})
    optimiser = torch.optim.SGD(
        net.parameters(), lr=plan.learning_rate, momentum=0.9, weight_decay=plan.weight_decay
    )
    for chosen in batches(len(data), plan):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(
            net(torch.from_numpy(data.x[chosen])), torch.from_numpy(data.y[chosen])
        )
        loss.backward()
        optimiser.step()
    expected: dict[str, NDArray[Any]] = {n: t.detach().numpy() for n, t in net.state_dict().items()}
    assert same(trainer.fit(start, data, plan)[0], expected)  # to the last bit


def test_a_pickled_trainer_is_the_same_trainer() -> None:
    trainer = TorchTrainer(partial(softmax, (FEATURES,), CLASSES))
    start = trainer.initial(0)
    expected, _ = trainer.fit(start, examples(), PLAN)
    sent = pickle.dumps(trainer)
    assert len(sent) < 1000  # the recipe, not the module
    assert same(pickle.loads(sent).fit(start, examples(), PLAN)[0], expected)


@pytest.mark.parametrize(
    ("build", "device", "says"),
    [
        (lambda: "no module", "cpu", "returned str, expected a torch.nn.Module"),
        (lambda: nn.Flatten(0), "cpu", "one row of class scores"),
        (noisy, "abacus", "'abacus' is not a torch device"),
        pytest.param(
            noisy,
            "cuda",
            "no CUDA device: use 'cpu'",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
    ],
)
def test_a_wrong_module_or_device(build: Callable[[], Any], device: str, says: str) -> None:
    def attempt() -> None:
        trainer = TorchTrainer(build, device)
        trainer.fit(trainer.initial(0), examples(), PLAN)

    with pytest.raises(ParameterError, match=says):
        attempt()
