"""Trials on disk: they come back as they were, and a kill costs no more than the last of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tacit.crypto.errors import ParameterError
from tacit.simulations.measure import Measure
from tacit.simulations.trial import TRIALS, Cell, Trial, TrialLog, key_of, table

CELL = Cell("linear-readout", "secure", "mlp", "digits", devices=16)
TRIAL = Trial(
    CELL,
    3,
    "honest but curious",
    "labels",
    (Measure("SSIM", (0.5, 0.7), (0.1, 0.1)), Measure("identified", (0.5,), (0.01,))),
    1.5,
    "pairwise",
    epsilon=8.0,
    bound=0.25,
    hits=1,
    of=2,
    pictures=(np.zeros((2, 1, 3, 3)), np.ones((2, 1, 3, 3))),
)


def test_a_trial_comes_back_as_it_was(tmp_path: Path) -> None:
    log = TrialLog(tmp_path)
    other = replace(TRIAL, seed=4, stopped="device 3: refused", pictures=None)
    log.add(TRIAL)
    log.add(other)
    back = list(log.trials())
    assert back == [TRIAL, other]
    assert back[0].pictures is not None
    assert TRIAL.pictures is not None
    np.testing.assert_array_equal(back[0].pictures, TRIAL.pictures)
    assert back[1].pictures is None


def test_no_folder_is_no_trials(tmp_path: Path) -> None:
    assert not list(TrialLog(tmp_path / "none").trials())


def test_a_kill_at_any_byte_loses_the_last_trial_at_most(tmp_path: Path) -> None:
    log, second = TrialLog(tmp_path), replace(TRIAL, seed=4)
    log.add(TRIAL)
    whole = (tmp_path / TRIALS).read_bytes()
    log.add(second)
    both = (tmp_path / TRIALS).read_bytes()
    for cut in range(len(whole), len(both), 7):
        (tmp_path / TRIALS).write_bytes(both[:cut])
        assert list(log.trials()) == [TRIAL]
        log.add(second)
        assert list(log.trials()) == [TRIAL, second]


def test_a_line_of_something_else(tmp_path: Path) -> None:
    (tmp_path / TRIALS).write_text('{"cell": {"attack": "x"}}\n')
    with pytest.raises(ParameterError, match="no trial"):
        list(TrialLog(tmp_path).trials())


def test_keys_tell_cells_and_seeds_apart() -> None:
    cells = [CELL, replace(CELL, attack="spear"), replace(CELL, rate=0.2), replace(CELL, rounds=2)]
    assert len({key_of(cell, seed) for cell in cells for seed in (0, 1)}) == 8


def test_words_for_a_threat() -> None:
    assert CELL.threat == "16 devices, 1 example, 1 step"
    many = replace(CELL, devices=1, examples=8, steps=5, rounds=40)
    assert many.threat == "1 device, 8 examples, 5 steps at 0.1, 40 rounds"


def test_the_table_has_a_row_for_every_figure() -> None:
    head, first, second = table([TRIAL])
    assert len(head) == len(first) == len(second)
    row = dict(zip(head, second, strict=True))
    assert (row["devices"], row["measure"], row["mean"], row["floor"]) == (
        "16", "identified", "0.5", "0.01",
    )  # fmt: skip
