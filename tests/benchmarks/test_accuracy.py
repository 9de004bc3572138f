"""The benchmark of accuracy: noise and accounts are the product's, and a target can be missed."""

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.accuracy import (
    COUNTED,
    COUNTS,
    CURVES,
    POINTS,
    QUICK,
    Results,
    Task,
    counts,
    gap,
    panel,
    read,
    rows_of,
    table,
    written,
)
from benchmarks.shared import learners, private_rounds
from benchmarks.shared.curves import draw
from benchmarks.shared.learners import Labels, Parts, Reals
from benchmarks.shared.private_rounds import (
    CAREFUL,
    CENTRAL,
    DISTRIBUTED,
    LOCAL,
    WAYS,
    Choice,
    Found,
    Setting,
    Way,
    likely_mean,
    measure,
    private_mean,
    train,
)
from tacit.client.numpy_trainer import NumpyTrainer
from tacit.client.trainer import Examples, LocalPlan
from tacit.crypto.vector import Floats, Ring
from tacit.privacy.mechanisms import Mechanism

DEVICES = Setting("made-up", 40, 5, 1e-5, 5, (2, 4), (0.5,), (1.0,), 5)
SILOS = Setting("made-up", 10, 20, 1e-4, 0, (2, 4), (1.0,), (4.0,), 5)
CHOICE = Choice(3, 0.5, 1.0)


def made_up(_: str) -> tuple[Reals, Labels]:
    """Three classes, far apart, in twelve features and a bias."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 400)
    inputs = rng.normal(size=(400, 13)) + 3 * np.eye(3, 13)[labels]
    inputs[:, -1] = 1
    return inputs.astype(np.float32), labels


@pytest.fixture(autouse=True)
def _no_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(learners, "pool", made_up)
    private_rounds._parts.cache_clear()
    yield
    private_rounds._parts.cache_clear()


@pytest.mark.parametrize("setting", [DEVICES, SILOS], ids=["devices", "silos"])
@pytest.mark.parametrize("way", WAYS, ids=lambda each: each.name)
def test_each_way_spends_the_epsilon(way: Way, setting: Setting) -> None:
    """A device counts a thousandth less than was asked for, or two; the server no more than it."""
    mechanism = way.mechanism(setting, replace(CHOICE, clip=1.0), 4.0)
    device, server = way.spent(mechanism, CHOICE.rounds, setting.delta)
    assert 0.997 * 4.0 < device < 4.0
    if way is CAREFUL:
        assert mechanism.least < setting.devices
        assert mechanism.corrupt == setting.devices // 3
        assert server < 0.8 * device  # nobody was missing
    else:
        assert server == device


@pytest.mark.parametrize("setting", [DEVICES, SILOS], ids=["devices", "silos"])
def test_noise_is_that_of_the_mode(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the mean of zeros: one share, all devices' shares of one, or one of each device. And what
    settings are chosen by has the same. 4,000 numbers: a variance is within 7 deviations."""
    found = {}
    monkeypatch.setattr(Parts, "length", 4000)
    for way in WAYS:
        mechanism = way.mechanism(setting, replace(CHOICE, clip=1.0), 4.0)
        zeros = np.zeros((setting.devices, 4000), np.float32)
        likely = likely_mean(zeros, mechanism, np.random.default_rng(2))
        found[way] = float(private_mean(zeros, mechanism).var())
        tolerance = 7 * math.sqrt(2 / 4000)
        assert found[way] == pytest.approx(float(likely.var()), rel=2 * tolerance)
    assert found[DISTRIBUTED] == pytest.approx(found[CENTRAL], rel=2 * tolerance)
    assert found[LOCAL] == pytest.approx(setting.devices * found[CENTRAL], rel=2 * tolerance)
    shares = CAREFUL.mechanism(setting, replace(CHOICE, clip=1.0), 4.0).shares
    more = setting.devices / shares
    assert found[CAREFUL] == pytest.approx(more * found[CENTRAL], rel=2 * tolerance)


def test_gradients_are_clipped_one_by_one() -> None:
    parts = SILOS.parts(1)
    model = np.random.default_rng(3).normal(size=parts.model().shape).astype(np.float32)
    wanted = np.zeros((SILOS.devices, parts.length))
    clipped = 0
    for silo in range(SILOS.devices):
        for x, y in zip(parts.inputs[silo], parts.labels[silo], strict=True):
            chances = np.exp(x @ model - (x @ model).max())
            gradient = np.outer(x, np.eye(3)[y] - chances / chances.sum()).ravel()
            clipped += np.linalg.norm(gradient) > 1
            wanted[silo] += gradient / max(1.0, float(np.linalg.norm(gradient)))
    assert 0 < clipped < SILOS.devices * SILOS.examples
    assert np.abs(parts.gradients(model) - wanted).max() < 1e-4
    assert np.abs(parts.gradients(model, is_clipped=False) - wanted).max() > 0.1


def test_steps_are_those_of_the_products_trainer() -> None:
    parts = DEVICES.parts(1)
    model = np.random.default_rng(3).normal(size=parts.model().shape).astype(np.float32)
    steps = parts.steps(model, 0.5, DEVICES.examples, np.random.default_rng(4))
    trainer = NumpyTrainer(12, 3)
    arrays = {"fc.weight": model[:-1].T, "fc.bias": model[-1]}
    plan = LocalPlan(epochs=1, batch_size=0, learning_rate=0.5, momentum=0.0, seed=0)
    for device in (0, 7):
        examples = Examples(parts.inputs[device, :, :-1], parts.labels[device])
        fitted, _ = trainer.fit(arrays, examples, plan)
        moved = np.vstack([fitted["fc.weight"].T, fitted["fc.bias"]]) - model
        assert np.abs(steps[device].reshape(model.shape) - moved).max() < 1e-5


def test_splits_do_not_overlap_and_differ() -> None:
    parts, other = DEVICES.parts(1), DEVICES.parts(2)
    train_rows = {row.tobytes() for row in parts.inputs.reshape(-1, 13)}
    assert len(train_rows) == DEVICES.devices * DEVICES.examples
    assert train_rows.isdisjoint(row.tobytes() for row in parts.test_inputs)
    assert len(train_rows) + len(parts.test_labels) == 400
    assert train_rows != {row.tobytes() for row in other.inputs.reshape(-1, 13)}


@pytest.mark.parametrize("setting", [DEVICES, SILOS], ids=["devices", "silos"])
def test_runs_learn_and_noise_costs(setting: Setting) -> None:
    found = measure(setting, 20.0, seeds=2, splits=1)
    assert list(found) == [way.name for way in WAYS]
    assert found[CENTRAL.name].choice == found[DISTRIBUTED.name].choice
    assert min(found[DISTRIBUTED.name].accuracies) > 0.9
    mechanism = LOCAL.mechanism(setting, CHOICE, 0.01)
    assert train(setting, CHOICE, mechanism, seed=0) < 0.9


def test_figures_are_of_real_encodings(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    real = Mechanism.encode

    def counted(self: Mechanism, update: Floats, session: bytes, rand: bytes) -> Ring:
        encoded.append(rand)
        return real(self, update, session, rand)

    monkeypatch.setattr(Mechanism, "encode", counted)
    found = measure(DEVICES, 4.0, seeds=2, splits=1, ways=(DISTRIBUTED,))
    rounds = found[DISTRIBUTED.name].choice.rounds
    assert len(set(encoded)) == len(encoded) == 2 * rounds * DEVICES.devices


def found_of(task: Task, lost: float) -> Results:
    """Made up: distributed worse than central by so much, on each split."""
    results: dict[str, dict[str, Found]] = {"": {"none": Found(CHOICE, (0.95, 0.97))}}
    for epsilon in task.epsilons:
        each = Found(CHOICE, (0.9, 0.92), (4.0, 3.0), 16.0)
        here = {way.name: each for way in WAYS}
        here[DISTRIBUTED.name] = replace(each, accuracies=(0.9 - lost, 0.92 - lost))
        here[LOCAL.name] = replace(each, accuracies=(0.5, 0.52))
        results[f"{epsilon:g}"] = here
    return results


def test_a_target_is_missed() -> None:
    title, task = next(iter(CURVES.items()))
    for lost, is_ok in ((0.01, True), (0.02, False)):
        found = found_of(task, lost)
        rows = [row for row in rows_of(title, task, found) if row.ok is not None]
        assert [row.ok for row in rows] == [is_ok] * 4  # epsilon 0.5 has no target
        assert rows[0].value == pytest.approx(-100 * lost)
        assert rows[0].target == f">= {POINTS:g}"
    assert gap(found["8"], DISTRIBUTED).half == pytest.approx(0, abs=1e-9)
    few = replace(task, seeds=2)
    assert [row for row in rows_of(title, few, found) if row.ok is not None] == []


def test_tables_and_curves() -> None:
    assert COUNTED in CURVES
    title, task = next(iter(QUICK.items()))
    found = read(written(found_of(task, 0.01)))
    assert found == found_of(task, 0.01)
    lines = table(task, found).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| 1 | 91.0 +- 12.7 | 90.0 +- 12.7 | 91.0 +- 12.7 |")
    assert lines[2].endswith("| -1.0 +- 0.0 | -40.0 +- 0.0 | 4.00, 3.00 |")
    by_count = counts({100: found_of(next(iter(COUNTS.values())), 0.01), 50: found}).splitlines()
    assert by_count[2] == "| 50 | " + "90.0 +- 12.7 | 91.0 +- 12.7 | " * 2 + "96.0 +- 12.7 |"
    assert by_count[3].startswith("| 100 | ")
    drawn = panel(title, task, found)
    assert all(0 <= low <= high <= 100 for line in drawn.lines for _, low, high in line.band)
    root = ET.fromstring(draw("made up", [drawn, drawn]))
    charts = [each for each in root.iter("{http://www.w3.org/2000/svg}svg") if each.get("class")]
    tops = [float(each.attrib["y"]) + float(each.attrib["height"]) for each in charts]
    assert len(charts) == 2
    assert tops[0] < float(charts[1].attrib["y"]) < tops[1] <= float(root.attrib["height"])
