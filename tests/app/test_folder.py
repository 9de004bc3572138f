"""A run's folder: whole files, the right status whatever happens, and never someone else's."""

import json
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from safetensors.numpy import load_file

from tacit.app.folder import FILES, RunFolder
from tacit.app.seen_files import load_seen, save_seen
from tacit.crypto.errors import ParameterError
from tacit.server.checkpoint import Checkpoint
from tacit.server.events import LeftOut, RoundFinished, RoundStarted, RunStarted
from tacit.server.inbox import Seen
from tests.app.small import SMALL, small

MODEL = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(3)}


def seen(round: int = 1) -> Seen:
    update = {name: array * 0.5 for name, array in MODEL.items()}
    return Seen(round, MODEL, update, 4, 12.5, "pairwise", (1000, 1002, 1003, 1007))


def test_a_run_leaves_all_of_itself(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "a" / "run", small("run.seed=5")) as folder:
        assert folder.status() == "running"
        folder.record(RunStarted(3))
        folder.saw(seen())
        folder.finish(ArrayRecord({name: Array(array) for name, array in MODEL.items()}))
    again = RunFolder.open(tmp_path / "a" / "run")
    assert again.status() == "finished"
    assert again.settings == small("run.seed=5")
    assert again.events() == [{"event": "RunStarted", "rounds": 3, "resumed_from": 0}]
    model = load_file(again.path / "model.safetensors")
    assert model.keys() == MODEL.keys()
    assert all(np.array_equal(model[name], MODEL[name]) for name in MODEL)
    assert not list(again.path.glob("*.new"))


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, "interrupted"), (ZeroDivisionError, "failed")]
)
def test_what_ended_a_run_is_its_status(
    tmp_path: Path, error: type[BaseException], status: str
) -> None:
    folder = RunFolder.create(tmp_path, SMALL)
    with pytest.raises(error), folder:
        raise error
    assert folder.status() == status


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for replace in (False, True):
        with pytest.raises(ParameterError, match="not a run's folder"):
            RunFolder.create(tmp_path, SMALL, replace=replace)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(("status", "offered"), [("finished", False), ("interrupted", True)])
def test_a_run_is_replaced_only_on_request(tmp_path: Path, status: str, offered: bool) -> None:
    folder = RunFolder.create(tmp_path, SMALL)
    (tmp_path / "status.json").write_text(json.dumps({"status": status}))
    with pytest.raises(ParameterError, match=f"holds a run \\({status}\\)") as wrong:
        RunFolder.create(tmp_path, SMALL)
    assert ("--resume continues it" in str(wrong.value)) == offered
    assert folder.status() == status


def test_replacing_removes_what_a_run_left_and_nothing_else(tmp_path: Path) -> None:
    old = RunFolder.create(tmp_path, SMALL)
    old.saw(seen())
    for name in FILES:
        if name not in ("config.toml", "status.json"):
            (tmp_path / name).write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    RunFolder.create(tmp_path, small("run.seed=9"), replace=True)
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"config.toml", "status.json", "run.lock", "notes.txt"}
    assert RunFolder.open(tmp_path).settings.run.seed == 9


def test_a_place_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ParameterError, match=f"no run's folder can be made at {path}"):
            RunFolder.create(path, SMALL)


def test_there_is_nothing_to_open_where_no_run_is(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="no run in"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", "{"])
def test_a_damaged_status_is_told(tmp_path: Path, content: str) -> None:
    folder = RunFolder.create(tmp_path, SMALL)
    (tmp_path / "status.json").write_text(content)
    with pytest.raises(ParameterError, match="damaged"):
        folder.status()


def test_resuming_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, SMALL)
    for number in (1, 2, 3):
        folder.record(RoundStarted(number, 3))
        folder.record(LeftOut(number, "report", 2, "no answer"))
    folder.keep(Checkpoint(2, MODEL))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "RoundFi')  # cut off by a crash
    checkpoint = RunFolder.open(tmp_path).resume()
    assert checkpoint is not None
    assert checkpoint.round == 2
    assert [event["round"] for event in folder.events()] == [1, 1, 2, 2]
    assert folder.status() == "running"


def test_before_the_first_round_there_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    assert RunFolder.create(tmp_path, SMALL).resume() is None


def test_a_finished_run_is_not_resumed(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, SMALL)
    folder.finish(ArrayRecord({"w": Array(MODEL["w"])}))
    with pytest.raises(ParameterError, match="is finished: nothing to resume"):
        folder.resume()


def test_a_number_that_is_not_finite_is_left_out_of_the_metrics(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, SMALL)
    folder.record(RoundFinished(1, 1, 0.5, server={"loss": float("nan"), "accuracy": 0.5}))

    def strict(constant: str) -> float:
        raise AssertionError(constant)

    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=strict)["server"] == {"accuracy": 0.5}


def test_an_update_comes_back_as_it_was_seen(tmp_path: Path) -> None:
    save_seen(tmp_path / "one.npz", seen())
    back = load_seen(tmp_path / "one.npz")
    for name in ("round", "clients", "weight", "protocol", "members"):
        assert getattr(back, name) == getattr(seen(), name)
    for kind in ("model", "update"):
        got, sent = getattr(back, kind), getattr(seen(), kind)
        assert got.keys() == sent.keys()
        assert all(np.array_equal(got[name], sent[name]) for name in sent)


def test_updates_are_kept_for_as_many_rounds_as_asked(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, small("run.keep_seen=2"))
    for round in (1, 1, 2, 3):
        folder.saw(seen(round))
    assert [update.round for update in folder.seen()] == [1, 1, 2]


def test_a_damaged_update_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    np.savez(tmp_path / "other.npz", x=np.zeros(2))
    for name in ("bad.npz", "other.npz", "none.npz"):
        with pytest.raises(ParameterError, match=name):
            load_seen(tmp_path / name)


def test_facts_add_up(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, SMALL)
    assert folder.facts() == {}
    folder.note(a=1)
    folder.note(b=2)
    assert folder.facts() == {"a": 1, "b": 2}


def test_a_new_start_takes_attacks_away_too(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, SMALL).saw(seen())
    (tmp_path / "attacks" / "curve").mkdir(parents=True)
    (tmp_path / "attacks" / "curve" / "outcomes.json").write_text("{}")
    folder = RunFolder.create(tmp_path, SMALL, replace=True)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["config.toml", "run.lock", "status.json"]
    with folder:
        assert folder.status() == "running"


def test_going_on_forgets_what_was_seen_of_unfinished_rounds(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, small("run.keep_seen=9"))
    for round in (1, 2, 2):
        folder.saw(seen(round))
    folder.keep(Checkpoint(1, MODEL))
    folder.resume()
    assert [each.round for each in folder.seen()] == [1]


@pytest.mark.parametrize("damage", ["", "[1]", '{"exact_sums": "many"}', "{"])
def test_damaged_facts_are_named(tmp_path: Path, damage: str) -> None:
    folder = RunFolder.create(tmp_path, SMALL)
    folder.note(exact_sums=3)
    assert folder.facts() == {"exact_sums": 3.0}
    (tmp_path / "facts.json").write_text(damage)
    with pytest.raises(ParameterError, match=r"facts\.json is damaged"):
        folder.facts()


def test_one_process_at_a_time_counts_what_a_run_costs(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    folder = RunFolder.create(tmp_path / "run", SMALL)
    with folder.storage.alone():
        other = (folder.path / "ledger" / "lock").open()
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it ends
    other.close()
