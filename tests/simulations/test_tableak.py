"""TabLeak fills in cells where a read-out finds mixtures, and knows which; noise and sums stop it.

The rows are real tumours: ten measured numbers, and six more cut into quartiles, as the data that
are always there have no categories of their own.
"""

from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from tacit.client.torch_trainer import TorchTrainer
from tacit.client.trainer import Examples, LocalPlan
from tacit.crypto.errors import ParameterError
from tacit.server.inbox import Seen
from tacit.simulations.attacks.base import Knows, View, view_of
from tacit.simulations.attacks.linear import LinearReadout
from tacit.simulations.attacks.tableak import TabLeak
from tacit.simulations.data.sources import load
from tacit.simulations.data.table import FLAG, NUMBER, Table
from tacit.simulations.measure import WITHIN, Measure, of_rows
from tacit.simulations.models import mlp

Floats = NDArray[np.float32]


def in_quartiles(x: Floats) -> Floats:
    """Numbers (n, columns) -> one-hot inputs (n, 4 * columns)."""
    codes = (x > np.quantile(x, [0.25, 0.5, 0.75], axis=0)[:, None]).sum(axis=0)
    return np.eye(4, dtype=np.float32)[codes].reshape(len(x), -1)


TUMOURS = load("breast-cancer").train
X = np.hstack([TUMOURS.x[:, :10], in_quartiles(TUMOURS.x[:, 20:26])])
TABLE = Table((NUMBER,) * 10 + (4,) * 6)
ROWS = TABLE.rows(X)
BUILD = partial(mlp, (TABLE.inputs,), 2)
ATTACK = TabLeak(BUILD, TABLE, steps=500, restarts=8)
QUICK = replace(ATTACK, steps=200)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@cache
def summed(count: int, seed: int) -> tuple[View, NDArray[np.intp]]:
    """A sum over `count` rows, in float32, with their labels granted; and which rows."""
    trainer = TorchTrainer(BUILD)
    model = trainer.initial(seed)
    chosen = np.random.default_rng(seed).choice(len(X), count, replace=False)
    examples = Examples(X[chosen], TUMOURS.y[chosen])
    trained, _ = trainer.fit(model, examples, LocalPlan(batch_size=0))
    update = {name: trained[name] - model[name] for name in model}
    seen = Seen(1, model, update, count, float(count), "pairwise")
    return view_of(seen, knows=Knows.LABELS, labels=examples.y), chosen


def cells(guess: NDArray[np.float64], chosen: NDArray[np.intp]) -> tuple[Measure, ...]:
    return of_rows(guess, ROWS[chosen], np.delete(ROWS, chosen, axis=0), TABLE.categorical)


def found(view: View, attack: TabLeak = ATTACK, seed: int = 0) -> NDArray[np.float64]:
    return attack.reconstruct(view, np.random.default_rng(seed))


def noisy(view: View, times: float) -> View:
    """With noise in every coordinate, so many times the root mean square of the update."""
    rng = np.random.default_rng(5)
    whole = np.concatenate([value.ravel() for value in view.update.values()])
    noise = times * float(np.sqrt(np.square(whole).mean()))
    update = {name: v + rng.normal(0, noise, v.shape) for name, v in view.update.items()}
    return replace(view, update=update)


def clear(measure: Measure) -> bool:
    """Whether it stands out from the floor by more than two standard errors."""
    ahead = np.subtract(measure.values, measure.floor)
    return bool(ahead.mean() > 2 * ahead.std(ddof=1) / len(ahead) ** 0.5)


@cache
def guessed(count: int, seed: int) -> NDArray[np.float64]:
    return found(summed(count, seed)[0])


def read_out(view: View) -> NDArray[np.float64]:
    attack = LinearReadout("fc0", (TABLE.inputs,), low=-10, high=10)
    return TABLE.rows(attack.reconstruct(view, np.random.default_rng()))


def test_a_batch_that_a_read_out_mixes_up() -> None:
    view, chosen = summed(4, 0)
    ours, categories, numbers = cells(guessed(4, 0), chosen)
    assert min(ours.mean, categories.mean, numbers.mean) > 0.9
    mixed = cells(read_out(view), chosen)[0]
    assert max(mixed.mean, ours.mean_floor) < 0.75


def test_one_row_is_exact_either_way() -> None:
    view, chosen = summed(1, 0)
    assert cells(read_out(view), chosen)[0].mean == 1
    assert cells(found(view, replace(ATTACK, restarts=2)), chosen)[0].mean == 1


def test_what_restarts_agree_on_is_right_more_often() -> None:
    """The adversary's own certainty, of the surer half of the cells against the other."""
    view, chosen = summed(16, 2)
    rows, entropy = ATTACK.pooled(view, np.random.default_rng(0))
    deviation = np.delete(ROWS, chosen, axis=0).std(axis=0)
    within = np.where(TABLE.categorical, 0, WITHIN * deviation)
    right = np.abs(rows[:, None] - ROWS[chosen]) <= within
    guesses, truths = linear_sum_assignment(right.mean(axis=2), maximize=True)
    right = right[guesses, truths]
    for kind in (TABLE.categorical, ~TABLE.categorical):
        sure = entropy[:, kind] <= np.median(entropy[:, kind])
        assert right[:, kind][sure].mean() > right[:, kind][~sure].mean() + 0.1


def test_a_long_sum_hides_its_rows() -> None:
    view, chosen = summed(64, 0)
    assert not clear(cells(found(view, QUICK), chosen)[0])


def test_noise_brings_it_to_the_floor() -> None:
    view, chosen = summed(4, 0)
    assert clear(cells(guessed(4, 0), chosen)[0])
    assert not clear(cells(found(noisy(view, 10.0), QUICK), chosen)[0])


def test_the_view_and_the_draws_decide_all() -> None:
    view, _ = summed(4, 0)
    short = replace(ATTACK, steps=20, restarts=2)
    assert np.array_equal(found(view, short), found(view, short))
    assert not np.array_equal(found(view, short), found(view, short, seed=1))


def test_every_category_is_a_distribution() -> None:
    table = Table((NUMBER, FLAG, 3))
    attack = TabLeak(partial(mlp, (5,), 2), table)
    free = torch.tensor([[-3.0, 0.5, -10.0, 0.0, 10.0]], dtype=torch.float32)
    made = attack.relaxed(free)
    assert made[0, 0] == -3
    torch.testing.assert_close(made[0, 1], free[0, 1].sigmoid())
    torch.testing.assert_close(made[0, 2:], free[0, 2:].softmax(0))


def test_rows_of_a_table() -> None:
    table = Table((FLAG, NUMBER, 3))
    assert (table.inputs, table.categorical.tolist()) == (5, [True, False, True])
    made = table.rows(np.array([[0.6, -2.5, 0.2, 0.5, 0.3], [0.0, 1.0, 1.0, 0.0, 0.0]]))
    assert made.tolist() == [[1, -2.5, 1], [0, 1, 0]]
    with pytest.raises(ParameterError, match="not rows of 5"):
        table.rows(np.zeros((2, 4)))
    for columns in ((), (2, -1)):
        with pytest.raises(ParameterError, match="columns="):
            Table(columns)


def test_what_does_not_fit_is_named() -> None:
    view, _ = summed(2, 0)
    with pytest.raises(ParameterError, match="needs to know labels"):
        found(replace(view, knows=Knows.NOTHING))
    with pytest.raises(ParameterError, match="one label for each of 2"):
        found(replace(view, batch_size=2, labels=(0,)))
    with pytest.raises(ParameterError, match="is `build` the model"):
        found(view, replace(ATTACK, build=partial(mlp, (9,), 2)))
    with pytest.raises(ParameterError, match="does not take rows of 9 inputs"):
        found(view, replace(ATTACK, table=Table((NUMBER,) * 9)))
    still = {name: np.zeros_like(value) for name, value in view.update.items()}
    with pytest.raises(ParameterError, match="nothing to invert"):
        found(replace(view, update=still))


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"restarts": 0}, {"lr": 0.0}, {"reach": 41.0}])
def test_impossible_settings_cannot_be_built(wrong: dict[str, float]) -> None:
    with pytest.raises(ParameterError):
        replace(ATTACK, **wrong)  # type: ignore[arg-type]


@pytest.mark.needs_data
def test_patients_of_four_hospitals(data_folder: Path) -> None:
    data = load("heart-disease", root=data_folder)
    assert data.table is not None
    build = partial(mlp, data.shape, 2)
    trainer = TorchTrainer(build)
    model = trainer.initial(0)
    chosen = np.random.default_rng(0).choice(len(data.train), 4, replace=False)
    examples = Examples(data.train.x[chosen], data.train.y[chosen])
    trained, _ = trainer.fit(model, examples, LocalPlan(batch_size=0))
    seen = Seen(1, model, {n: trained[n] - model[n] for n in model}, 4, 4.0, "pairwise")
    view = view_of(seen, knows=Knows.LABELS, labels=examples.y)
    guess = found(view, TabLeak(build, data.table, steps=500, restarts=8))
    rows = data.table.rows(data.train.x)
    public = np.delete(rows, chosen, axis=0)
    whole, categories, _ = of_rows(guess, rows[chosen], public, data.table.categorical)
    assert whole.mean > 0.9 > 0.75 > whole.mean_floor
    assert categories.mean > 0.95
