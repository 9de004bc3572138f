"""Trackers are told what happens, are offline unless their owner says so, and stop no run.

None of the three is installed here: stand-ins have those of their calls that we make, with the
signatures that their documentation gives.
"""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tacit.app.config import Settings
from tacit.app.folder import RunFolder
from tacit.app.trackers import KEPT, TRACKERS, Start, Tracking, parse
from tacit.crypto.errors import ParameterError
from tacit.server.events import (
    EpsilonSpent,
    Event,
    LeftOut,
    RoundFinished,
    RoundStarted,
    RunFinished,
    RunStarted,
    SumOpened,
)
from tests.app.small import small

ALL = "tensorboard:boards, mlflow:lab, wandb:tacit"


class Said(list[tuple[str, Any]]):
    def of(self, name: str) -> list[Any]:
        return [given for call, given in self if call == name]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Said:
    """What the three are told, in order."""
    told = Said()

    class SummaryWriter:
        def __init__(self, log_dir=None, comment="", purge_step=None, max_queue=10, flush_secs=120,
                     filename_suffix=""):  # fmt: skip
            told.append(("tensorboard", (log_dir, purge_step)))

        def add_scalar(self, tag, scalar_value, global_step=None, walltime=None, new_style=False,
                       double_precision=False):  # fmt: skip
            told.append(("add_scalar", (tag, scalar_value, global_step)))

        def flush(self):
            told.append(("flush", None))

        def close(self):
            told.append(("closed", "tensorboard"))

    class MlflowClient:
        def __init__(self, tracking_uri=None, registry_uri=None):
            told.append(("mlflow", tracking_uri))

        def get_experiment_by_name(self, name):
            return None

        def create_experiment(self, name, artifact_location=None, tags=None):
            told.append(("create_experiment", (name, artifact_location)))
            return "1"

        def create_run(self, experiment_id, start_time=None, tags=None, run_name=None):
            told.append(("create_run", (experiment_id, run_name)))
            return SimpleNamespace(info=SimpleNamespace(run_id="f00d"))

        def update_run(self, run_id, status=None, name=None):
            told.append(("update_run", (run_id, status)))

        def log_batch(self, run_id, metrics=(), params=(), tags=(), synchronous=None):
            assert len(params) <= 100
            told.append(("params", dict(params)))

        def log_metric(self, run_id, key, value, timestamp=None, step=None):
            told.append(("log_metric", (run_id, key, value, step)))

        def set_terminated(self, run_id, status=None, end_time=None):
            told.append(("closed", f"mlflow {run_id} {status}"))

    class Run:
        def log(self, data, step=None, commit=None):
            told.append(("log", (data, step)))

        def finish(self, exit_code=None, quiet=None):
            told.append(("closed", f"wandb {exit_code}"))

    def init(**given):
        assert given.keys() == {"project", "id", "name", "mode", "resume", "config"}
        told.append(("wandb", given))
        return Run()

    modules: dict[str, dict[str, Any]] = {
        "torch.utils.tensorboard": {"SummaryWriter": SummaryWriter},
        "mlflow": {"MlflowClient": MlflowClient},
        "mlflow.entities": {"Param": lambda key, value: (key, value)},
        "wandb": {"init": init},
    }
    for name, content in modules.items():
        made = ModuleType(name)
        made.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, made)
    for name in ("WANDB_MODE", "WANDB_SILENT", "WANDB_ERROR_REPORTING", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return told


def round_of(number: int) -> list[Event]:
    return [
        RoundStarted(number, 3),
        LeftOut(number, "report", 3, "no answer"),
        LeftOut(number, "report", 4, "no answer"),
        EpsilonSpent(number, 0.5, 1e-5, "client", "server", number),
        SumOpened(number, "train", 8, 10, 0.3, "pairwise"),
        SumOpened(number, "evaluate", 9, 10, 0.3, "pairwise"),
        RoundFinished(number, 3, 1.5, {"loss": 0.25}, {}, {"accuracy": 0.75, "f1: \u03b1?": 0.5}),
    ]


def hear(track: str, *events: Event, folder: Path, name: str = "") -> Tracking:
    tracking, settings = Tracking(), small(f"run.track={track}", f"run.name={name}")
    folder.mkdir(exist_ok=True)
    for event in events:
        tracking.hear(event, settings, folder)
    return tracking


VALUES = {
    "devices/cohort": 10, "devices/survivors": 8, "epsilon/client against server": 0.5,
    "evaluate": None, "left out/report": 2.0, "seconds": 1.5, "server/accuracy": 0.75,
    "server/f1_ __": 0.5, "train/loss": 0.25,
}  # fmt: skip
del VALUES["evaluate"]


def test_all_are_told_the_same(said: Said, tmp_path: Path) -> None:
    tracking = hear(ALL, RunStarted(3), *round_of(1), *round_of(2), RunFinished(3, 9.0),
                    folder=tmp_path / "mine")  # fmt: skip
    tracking.close(None)
    for number in (1, 2):
        assert {tag: v for tag, v, step in said.of("add_scalar") if step == number} == VALUES
        assert {k: v for _, k, v, step in said.of("log_metric") if step == number} == VALUES
        assert [data for data, step in said.of("log") if step == number] == [VALUES]
    assert said.of("tensorboard") == [("boards/mine", None)]
    assert said.of("mlflow") == [f"sqlite:///{tmp_path.resolve()}/lab/mlflow.db"]
    assert said.of("create_run") == [("1", "mine")]
    assert said.of("create_experiment")[0][1] == (tmp_path / "lab" / "artifacts").as_uri()
    params = {key: value for batch in said.of("params") for key, value in batch.items()}
    assert params["data.name"] == "breast-cancer"
    assert said.of("wandb")[0]["config"]["data.name"] == "breast-cancer"
    assert said.of("closed") == ["tensorboard", "mlflow f00d FINISHED", "wandb 0"]


@pytest.mark.parametrize(
    ("error", "ends"),
    [(RuntimeError, ["tensorboard", "mlflow f00d FAILED", "wandb 1"]),
     (KeyboardInterrupt, ["tensorboard", "mlflow f00d KILLED", "wandb 1"])],
)  # fmt: skip
def test_how_a_run_ends_is_told(
    said: Said, tmp_path: Path, error: type[BaseException], ends: list[str]
) -> None:
    folder = RunFolder.create(tmp_path / "run", small(f"run.track={ALL}"))
    with pytest.raises(error), folder:  # noqa: PT012 the folder is what is tried
        folder.record(RunStarted(3))
        raise error
    assert said.of("closed") == ends


def test_nothing_leaves_the_house_unless_its_owner_says_so(
    said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear(ALL, RunStarted(3), folder=tmp_path / "mine")
    assert said.of("wandb")[0]["mode"] == "offline"
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert said.of("mlflow")[0].startswith("sqlite:///")
    monkeypatch.setenv("WANDB_MODE", "online")
    hear(ALL, RunStarted(3), folder=tmp_path / "mine")
    assert said.of("wandb")[1]["mode"] == "online"


def test_a_run_that_goes_on_is_the_same_run(said: Said, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    hear(ALL, RunStarted(3), *round_of(1), folder=mine)
    hear(ALL, RunStarted(3, 1), *round_of(2), folder=mine)
    assert said.of("tensorboard") == [("boards/mine", None), ("boards/mine", 2)]
    assert said.of("create_run") == [("1", "mine")]
    assert said.of("update_run") == [("f00d", "RUNNING")]
    first, second = (each["id"] for each in said.of("wandb"))
    assert first == second
    hear(ALL, RunStarted(3), folder=mine)  # it was replaced
    assert len(said.of("create_run")) == 2
    assert said.of("wandb")[2]["id"] != first


@pytest.mark.parametrize("content", ["", "{", "[]", '{"wandb": 7}'])
def test_names_that_cannot_be_read_make_it_a_new_run(
    said: Said, tmp_path: Path, content: str
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / KEPT).write_text(content)
    hear("mlflow:lab", RunStarted(3, 1), folder=mine)
    assert len(said.of("create_run")) == 1


def breaks(where: str) -> Callable[..., Any]:
    class Broken:
        known_as = "x"

        def __init__(self, target: str, start: Start) -> None:
            if where == "begin":
                raise RuntimeError("no server")

        def log(self, round: int, values: Any) -> None:
            if where == "log":
                raise OSError("disk full")

        def close(self, status: str) -> None:
            raise ValueError(where)

    return Broken


@pytest.mark.parametrize("where", ["begin", "log", "close"])
def test_one_that_fails_is_told_of_once_and_stops_nothing(
    said: Said, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setitem(TRACKERS, "mlflow", breaks(where))
    with caplog.at_level(logging.WARNING, "tacit.trackers"):
        tracking = hear(ALL, RunStarted(3), *round_of(1), *round_of(2), folder=tmp_path / "mine")
        tracking.close(None)
    assert len(caplog.records) == 1
    assert "mlflow tracks this run no more" in caplog.text
    assert len(said.of("log")) == 2
    assert said.of("closed") == ["tensorboard", "wandb 0"]


def test_those_that_are_not_installed_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("torch.utils.tensorboard", "mlflow", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
    folder = RunFolder.create(tmp_path / "run", small(f"run.track={ALL}"))
    with caplog.at_level(logging.WARNING, "tacit.trackers"), folder:
        for event in (RunStarted(3), *round_of(1)):
            folder.record(event)
    assert len(caplog.records) == 3
    assert len(folder.rounds()) == 1
    assert not (folder.path / KEPT).exists()


def test_none_is_loaded_that_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch.utils.tensorboard", "mlflow", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it would raise
    hear("", RunStarted(3), *round_of(1), folder=tmp_path / "mine").close(None)
    assert not (tmp_path / "mine" / KEPT).exists()


def test_a_replaced_run_leaves_no_name(said: Said, tmp_path: Path) -> None:
    settings = small("run.track=mlflow:lab")
    with RunFolder.create(tmp_path / "run", settings) as folder:
        folder.record(RunStarted(3))
    assert (folder.path / KEPT).exists()
    RunFolder.create(tmp_path / "run", settings, replace=True)
    assert not (folder.path / KEPT).exists()


def test_a_setting_says_which() -> None:
    assert parse("") == ()
    assert parse("tensorboard:a b, wandb:p:q ,") == (("tensorboard", "a b"), ("wandb", "p:q"))
    for wrong in ("tensorboard", "tensorboard:", "comet:x", ":", "wandb:a,wandb:b"):
        with pytest.raises(ParameterError):
            parse(wrong)
        with pytest.raises(ParameterError, match=r"run\.track"):
            Settings().changed([f"run.track={wrong}"])
