"""Attacks on a run that has ended: what is tried, and what is refused before anything is."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tacit.app.config import Settings
from tacit.app.folder import RunFolder
from tacit.app.lab.finished import attack_run, fitting
from tacit.app.seen_files import load_seen, save_seen
from tacit.app.simulation import simulate
from tacit.crypto.errors import ParameterError

FEW = ("data.devices=5", "data.limit=2", "data.min_examples=2", 'data.name="digits"')


def ran(path: Path, *changes: str) -> RunFolder:
    settings = Settings().changed(
        [*FEW, "run.rounds=1", "run.keep_seen=1", "strategy.fraction_evaluate=0.0", *changes]
    )
    with RunFolder.create(path, settings) as folder:
        simulate(settings, folder=folder)
    return folder


@pytest.fixture(scope="module")
def summed(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return ran(tmp_path_factory.mktemp("lab") / "summed", "data.hold_out=0.0")


def test_the_truth_is_that_of_the_devices_in_the_sum(tmp_path: Path) -> None:
    folder = ran(tmp_path / "r", "data.hold_out=0.0", 'faults=["drop report 3 @1"]')
    (trial,) = attack_run(folder, ("label-counts",))[1]
    assert (trial.cell.devices, trial.cell.examples) == (4, 2)
    assert trial.measures[0].mean == 1


def test_a_private_run_hides_how_many_inputs_there_are_and_they_count(tmp_path: Path) -> None:
    folder = ran(tmp_path / "r", 'privacy.mode="distributed"', "data.limit=50")
    fit, unfit = fitting(folder)
    assert "inverting-gradients" not in fit
    assert "inputs in one update are too many" in unfit[-1]
    (trial,) = attack_run(folder, ("label-counts",))[1]
    assert trial.cell.examples > 20


def test_a_sum_is_attacked_beside_what_was_in_the_clear(tmp_path: Path) -> None:
    clear = ('secure.clear="head.*"', "policy.clear_epsilon=8.0")
    found = list(attack_run(ran(tmp_path / "r", *clear), ("label-counts",))[1])
    assert [trial.cell.devices for trial in found] == [1, 1, 1, 5]


@pytest.mark.parametrize(
    ("attack", "reason"),
    [("imprint", "takes a malicious server"), ("disaggregation", "guesses at updates")],
)
def test_what_cannot_be_is_refused_at_once(summed: RunFolder, attack: str, reason: str) -> None:
    with pytest.raises(ParameterError, match=reason):
        attack_run(summed, ("label-counts", attack))


def test_what_real_devices_hold_is_not_known(summed: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(summed.path, tmp_path / "r")
    (kept,) = (tmp_path / "r" / "seen").iterdir()
    save_seen(kept, replace(load_seen(kept), members=(2**62, 2**62 + 1, 2**62 + 2)))
    with pytest.raises(ParameterError, match="of real devices"):
        attack_run(RunFolder.open(tmp_path / "r"), ("label-counts",))
