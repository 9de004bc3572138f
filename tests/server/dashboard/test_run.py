"""A run's lines come to rows, whatever they hold, and a viewer is told each change once."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.app import lines
from tacit.app.watching import house_of
from tacit.server.dashboard import run as run_module
from tacit.server.dashboard.board import Board, Version
from tacit.server.dashboard.rounds import MOST_NAMED, Course
from tacit.server.entries import LONGEST_REASON
from tacit.server.events import (
    BudgetSpent,
    CohortCommitted,
    EpsilonSpent,
    Event,
    LeftOut,
    RoundFinished,
    RoundStarted,
    RunFinished,
    RunStarted,
    SumFailed,
    SumOpened,
)
from tacit.server.kinds import Refused
from tests.server.dashboard import stage


def course(*events: Event) -> Course:
    made = Course()
    for event in events:
        made.hear(lines.fields_of(event))
    return made


def test_a_round_from_its_beginning_to_its_end() -> None:
    found = course(
        RunStarted(8),
        RoundStarted(1, 8),
        CohortCommitted(1, "train", 10, "ab"),
        LeftOut(1, "report", 3, "no answer"),
        LeftOut(1, "report", 2**64 - 1, "no answer"),
        EpsilonSpent(1, 0.5, 1e-5, "client", "server", 1),
        SumOpened(1, "train", 8, 10, 0.3, "pairwise"),
        CohortCommitted(1, "evaluate", 10, "cd"),
        LeftOut(1, "reveal", 4, "no answer"),
        SumOpened(1, "evaluate", 9, 10, 0.3, "pairwise"),
        RoundFinished(1, 8, 1.5, {"loss": 9.0}, {"accuracy": 0.4, "loss": 5.0}, {"accuracy": 0.6}),
        RunFinished(8, 2.5),
    )
    assert found.rows[1].row() == {
        "number": 1, "state": "done", "cohort": 10, "survivors": 8, "seconds": 1.5,
        "accuracy": 0.6, "loss": 5.0, "epsilon": 0.5, "reason": "",
        "stages": {"report": 2, "reveal": 1},
        "out": [["3", "report", "train"], [str(2**64 - 1), "report", "train"],
                ["4", "reveal", "evaluate"]],
    }  # fmt: skip
    assert (found.rounds, found.last, found.seconds) == (8, 1, 2.5)
    assert found.left_out == {"report": 2, "reveal": 1}


def test_a_lost_round_stays_lost_and_a_budget_ends_a_run() -> None:
    found = course(
        RoundStarted(2, 8), SumFailed(2, "train", "2 of 10"), RoundFinished(2, 8, 1.0),
        BudgetSpent(3, "epsilon 8.1 of 8"),
    )  # fmt: skip
    assert (found.rows[2].state, found.rows[2].reason) == ("lost", "2 of 10")
    assert found.ended == "epsilon 8.1 of 8"
    assert 3 not in found.rows


def test_what_a_class_of_device_spent_is_its_last() -> None:
    found = course(
        *(EpsilonSpent(n, 0.5 * n, 1e-5, "client", against, n)
          for n in (1, 2) for against in ("server", "outsider")),
        EpsilonSpent(3, None, 1e-5, "record", "server", 3),
    )  # fmt: skip
    assert {key: spent["epsilon"] for key, spent in found.spent.items()} == {
        ("client", "server"): 1.0, ("client", "outsider"): 1.0, ("record", "server"): None,
    }  # fmt: skip


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)  # fmt: skip
KINDS = ("RunStarted", "RoundStarted", "CohortCommitted", "LeftOut", "EpsilonSpent", "SumOpened",
         "SumFailed", "BudgetSpent", "RoundFinished", "RunFinished", "Nothing")  # fmt: skip
FIELDS = ("rounds", "purpose", "stage", "device", "reason", "epsilon", "unit", "survivors",
          "seconds", "server", "train")  # fmt: skip


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(-1, 3) | anything,
                          st.dictionaries(st.sampled_from(FIELDS), anything))))  # fmt: skip
def test_no_line_breaks_the_page(said: list[tuple[str, object, dict[str, object]]]) -> None:
    """JSON that a browser reads comes of it, numbers that it can hold, whatever was written."""
    found = Course()
    for event, number, fields in said:
        found.hear({"event": event, "round": number, "purpose": "train", **fields})
    rows = [row.row() for row in found.rows.values()]
    text = json.dumps([rows, list(found.spent.values()), found.rounds, found.seconds],
                      allow_nan=False)  # fmt: skip
    assert json.loads(text)[0] == rows
    for row in rows:
        assert all(row[name] is None or abs(row[name]) < math.inf for name in ("seconds", "loss"))


@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400, "true", '"1"']
)
def test_what_is_no_number_is_none(number: str) -> None:
    line = f'{{"event":"RoundFinished","round":1,"seconds":{number},"server":{{"loss":{number}}}}}'
    found = Course()
    found.hear(json.loads(line))
    assert (found.rows[1].seconds, found.rows[1].loss) == (None, None)


def test_a_cohort_of_thousands_is_counted_and_some_of_it_named() -> None:
    found = course(*(LeftOut(1, "report", n, "no answer") for n in range(5000)))
    assert found.rows[1].stages == {"report": 5000}
    assert len(found.rows[1].out) == MOST_NAMED


def test_rows_of_a_long_run_are_thinned_where_they_are_old() -> None:
    found = course(*(RoundStarted(n, 99) for n in range(1, 12)))
    assert found.thin(10)
    assert sorted(found.rows) == [2, 4, 6, 7, 8, 9, 10, 11]
    assert not found.thin(10)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), max_size=30),
       st.lists(st.booleans(), max_size=30))  # fmt: skip
def test_a_viewer_has_what_is_there_and_is_told_no_change_twice(
    puts: list[tuple[str, int]], looks: list[bool]
) -> None:
    version = Version()
    board, has, since, told = Board(version), {}, 0, []
    for (name, value), does_look in zip(puts, [*looks, *[True] * len(puts)], strict=False):
        board.put(name, value)
        if does_look:
            if (news := board.told(since)) is not None:
                has = news["values"] if news["anew"] else has | news["values"]
                told += [(name, version.now) for name in news["values"]]
            since = version.now
            assert has == board._values
            assert board.told(since) is None
    assert len(set(told)) == len(told)


def test_a_board_that_was_cleared_is_told_whole() -> None:
    version = Version()
    board = Board(version)
    board.put("a", 1)
    board.put("b", 2)
    since = version.now
    board.clear()
    board.put("b", 2)
    assert board.told(since) == {"anew": True, "values": {"b": 2}}


def look(path: Path):
    house = house_of(path)
    house.look()
    return house, next(iter(house.runs.values()))


def test_a_run_s_folder(tmp_path: Path) -> None:
    written = stage.run(tmp_path / "mine", rounds=5)
    written.note(Refused(5, "report", 4, stage.HOSTILE), at=stage.AT + 9)
    house, run = look(tmp_path / "mine")
    get = run.board.get
    assert house.deployed is None
    assert get("now")["status"] == "running"
    assert (get("now")["round"], get("now")["rounds"]) == (5, 8)
    assert get("privacy")["budget"] == 8.0
    assert get("privacy")["spent"][0]["epsilon"] == pytest.approx(3.5)
    assert get("refusals")["all"] == 7
    assert get("refusals")["lately"][0]["reason"] == stage.HOSTILE
    head = written.log.head.head
    assert get("log") == {"size": head.size, "root": head.root.hex(), "fault": ""}
    assert get("round 3")["stages"] == {"report": 2}


def test_a_resumed_run_loses_the_rounds_that_were_dropped(tmp_path: Path) -> None:
    written = stage.run(tmp_path, rounds=5)
    house, run = look(tmp_path)
    since = house.version.now
    metrics = tmp_path / "metrics.jsonl"
    kept = [each for each in metrics.read_bytes().splitlines(keepends=True)
            if 0 < json.loads(each).get("round", 0) <= 3]  # fmt: skip
    (tmp_path / "new").write_bytes(b"".join(kept))
    (tmp_path / "new").replace(metrics)
    written.tell(RunStarted(8, 3))
    house.look()
    told = run.board.told(since)
    assert told is not None
    assert told["anew"]
    assert {name for name in told["values"] if name.startswith("round")} == {
        "round 1", "round 2", "round 3",
    }  # fmt: skip
    assert run.course.rounds == 8


def test_nothing_is_read_again_that_has_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.run(tmp_path, rounds=2)
    house, _ = look(tmp_path)
    house.look()
    version = house.version.now
    monkeypatch.setattr(run_module.Run, "_take_in", lambda _: pytest.fail("it was read again"))
    house.look()
    assert house.version.now == version


@pytest.mark.parametrize("name", ["status.json", "config.toml"])
@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"status": 7}', b"a = "])
def test_files_that_are_torn_do_not_stop_it(tmp_path: Path, name: str, content: bytes) -> None:
    stage.run(tmp_path, rounds=2)
    (tmp_path / name).write_bytes(content)
    _, run = look(tmp_path)
    assert run.board.get("round 2")["state"] == "done"


def test_texts_have_one_line_and_a_bound() -> None:
    found = course(SumFailed(1, "train", "a\nb" + "x" * 9999))
    assert "\n" not in found.rows[1].reason
    assert len(found.rows[1].reason) <= LONGEST_REASON + 3
