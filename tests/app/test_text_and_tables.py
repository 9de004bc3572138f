"""Texts and tables of devices that train through the real apps: plain, summed, under noise."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from tacit.app.config import Settings
from tacit.app.material import Material, material
from tacit.app.simulation import simulate
from tacit.client.trainer import Examples
from tacit.server.inbox import Seen
from tacit.simulations.attacks.base import Knows, Target, view_of
from tacit.simulations.attacks.dager import Dager
from tacit.simulations.attacks.tableak import TabLeak
from tacit.simulations.data.dataset import Dataset, divided
from tacit.simulations.engine.device import FIRST_NODE_ID
from tacit.simulations.measure import Measure, of_rows, of_tokens
from tacit.simulations.models import mlp, transformer
from tests.simulations.test_dager import CHARACTERS, LENGTH, PASSAGES, WIDTH
from tests.simulations.test_tableak import QUICK, TABLE, TUMOURS, X, clear


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def licence() -> Dataset:
    return divided("licence", PASSAGES, CHARACTERS, "the licence of this repository")


def tumours() -> Dataset:
    return divided("tumours", Examples(X, TUMOURS.y), ("malignant", "benign"), "scikit-learn")


def small(shape: tuple[int, ...], classes: int) -> nn.Module:
    return transformer(shape, classes, width=WIDTH)


def ran(data: str, model: str, devices: int, *changes: str) -> tuple[list[Seen], Material]:
    """What the server saw of one step over one example on each device."""
    settings = Settings().changed(
        [
            f'data.name="tests.app.test_text_and_tables:{data}"',
            'data.partition="iid"',
            f"data.devices={devices}",
            "data.limit=1",
            "data.min_examples=1",
            "data.hold_out=0.0",
            f'model.name="{model}"',
            "train.epochs=1",
            "train.batch_size=0",
            "train.momentum=0.0",
            "run.rounds=1",
            "strategy.fraction_evaluate=0.0",
            "secure.max_weight=1.0",
            "secure.precision=32",
            *changes,
        ]
    )
    inbox: list[Seen] = []
    simulate(settings, tap=inbox.append)
    return inbox, material(settings.data, settings.run.seed)


def examples(seen: Seen, held: Material) -> Examples:
    parts = [held.examples(member - FIRST_NODE_ID) for member in seen.members]
    return Examples(np.concatenate([p.x for p in parts]), np.concatenate([p.y for p in parts]))


def tokens(seen: Seen, held: Material) -> tuple[Measure, ...]:
    build = partial(small, (LENGTH,), len(CHARACTERS))
    attack = Dager(build, LENGTH, len(CHARACTERS))
    assert attack.target is Target.TOKENS
    truth = examples(seen, held).x.astype(np.int64)
    guess = attack.reconstruct(view_of(seen), np.random.default_rng(0))
    return of_tokens(guess, truth, held.dataset.test.x.astype(np.int64))


def cells(seen: Seen, held: Material) -> tuple[Measure, ...]:
    attack = TabLeak(partial(mlp, (TABLE.inputs,), 2), TABLE, QUICK.steps, QUICK.restarts)
    there = examples(seen, held)
    view = view_of(seen, knows=Knows.LABELS, labels=there.y)
    guess = attack.reconstruct(view, np.random.default_rng(0))
    public = TABLE.rows(held.dataset.test.x)
    return of_rows(guess, TABLE.rows(there.x), public, TABLE.categorical)


MODEL = "tests.app.test_text_and_tables:small"
PLAIN, PAIRWISE = ('secure.protocol="plain"',), ('secure.protocol="pairwise"',)
NOISE = ('privacy.mode="distributed"', "privacy.epsilon=8.0", "privacy.clip=1.0")


@pytest.mark.parametrize("protocol", [PLAIN, PAIRWISE])
def test_texts_come_out_of_one_device_and_of_a_small_sum(protocol: tuple[str, ...]) -> None:
    """The sum of four devices is no defence: it holds fewer tokens than the layers are wide."""
    inbox, held = ran("licence", MODEL, 4, *protocol)
    assert len(inbox) == (4 if protocol is PLAIN else 1)
    for seen in inbox:
        right, whole = tokens(seen, held)
        assert right.mean == whole.mean == 1


def test_texts_do_not_come_out_of_a_long_sum_or_from_under_noise() -> None:
    for devices, more in ((16, ()), (4, NOISE)):
        inbox, held = ran("licence", MODEL, devices, *PAIRWISE, *more)
        right, whole = tokens(inbox[0], held)
        assert not clear(right)
        assert whole.mean == 0


def test_cells_come_out_of_a_small_sum_and_not_from_under_noise() -> None:
    for more, leaks in (((), True), (NOISE, False)):
        inbox, held = ran("tumours", "mlp", 4, *PAIRWISE, *more)
        assert clear(cells(inbox[0], held)[0]) is leaks
