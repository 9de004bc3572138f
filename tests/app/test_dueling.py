"""`tacit duel`: who is fought, what is told and written of it, and what its exit code says."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tacit import __version__
from tacit.app import duels
from tacit.app.cli import dueling, main
from tacit.app.duels import Ended, News, Progress, all_hold, as_json, fight
from tacit.simulations.duels.base import Figure, Fought, Line, Role, Scale
from tacit.simulations.duels.registry import DUELS, duel
from tests.app.fake_duels import Fake, find

QUICK = Scale(quick=True)
ROOT = Path(__file__).resolve().parents[2]


def ended(*names: str, workers: int = 2, scale: Scale = QUICK) -> dict[str, Ended]:
    news = fight(names, scale, workers, find)
    return {each.name: each for each in news if isinstance(each, Ended)}


def here(names: Sequence[str], scale: Scale, workers: int) -> Iterator[News]:
    """As `fight`, without the seconds that processes take to start."""
    for name in names:
        yield Progress(name, 0.5)
        match name:
            case "wanting":
                yield Ended(name, skipped="no file anywhere")
            case "broken":
                yield Ended(name, failed="ZeroDivisionError: by nothing")
            case _:
                yield Ended(name, Fake(name).fight(scale, lambda share: None))


def test_each_is_fought_in_some_process() -> None:
    news = list(fight(("a", "b", "c"), QUICK, 2, find))
    assert {each.name for each in news if isinstance(each, Ended)} == {"a", "b", "c"}
    assert [each.share for each in news if isinstance(each, Progress)] == [0.5] * 3


def test_one_that_cannot_be_fought_keeps_no_other_back() -> None:
    elsewhere = Scale(quick=True, data="fashion-mnist")
    got = ended("wanting", "broken", "unread", "dying", "a", workers=1, scale=elsewhere)
    assert got["wanting"].skipped == "no file anywhere: set TACIT_DATA"
    assert got["broken"].failed == "ZeroDivisionError: by nothing"
    assert got["unread"].failed == "FileNotFoundError: no such picture"
    assert "exit code 3" in got["dying"].failed
    assert got["a"].fought is not None


def test_nothing_is_skipped_where_nothing_can_be_missing() -> None:
    assert ended("wanting", workers=1)["wanting"].failed == "no file anywhere: set TACIT_DATA"


def test_who_stops_listening_stops_the_work() -> None:
    news = fight(("slow",), QUICK, 1, find)
    assert next(news) == Progress("slow", 0.5)
    news.close()  # a minute later, if nobody killed it: the suite would show


WAITING = """
from tacit.app.duels import fight
from tacit.simulations.duels.base import Scale
from tests.app.fake_duels import find
try:
    for news in fight(("slow", "slow"), Scale(), 2, find):
        print("begun", flush=True)
except KeyboardInterrupt:
    print("ended", flush=True)
"""


def test_ctrl_c_reaches_one_process_alone() -> None:
    """A terminal sends it to all of them, and each would print a traceback of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    assert process.stdout.readline() == "begun\n"
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (out, err) == ("ended\n", "")


def test_what_is_written_has_one_form() -> None:
    """Programs read it: a field may be added, and none goes or changes its meaning."""
    fought = Fake("a").fight(QUICK, lambda share: None)
    got = as_json([Ended("a", fought), Ended("b", skipped="why"), Ended("c", failed="so")], QUICK)
    line = {"setting": "closed", "what": "told", "value": 0.05, "low": 0.0, "high": 0.05,
            "trials": 10, "role": "defence", "target": 0.1, "at_most": True,
            "holds": True}  # fmt: skip
    assert {**got, "duels": []} == {
        "format": 1, "tacit": __version__, "data": "digits", "quick": True, "holds": False,
        "duels": [], "skipped": {"b": "why"}, "failed": {"c": "so"},
    }  # fmt: skip
    (written,) = got["duels"]
    assert written["lines"][1] == line
    assert {**written, "lines": []} == {
        "name": "a", "attack": "asking", "defence": "saying nothing", "data": "digits",
        "holds": True, "seconds": 0.0, "lines": [], "limits": ["much"],
    }  # fmt: skip
    never = written["lines"][3]
    assert (never["value"], never["low"], never["target"]) == (None, None, None)
    assert json.loads(json.dumps(got, allow_nan=False)) == got


@pytest.mark.parametrize(
    ("names", "holds"),
    [(("a",), True), (("a", "losing"), False), (("a", "wanting"), True), (("wanting",), False),
     (("a", "broken"), False), ((), False)],
)  # fmt: skip
def test_what_holds(names: tuple[str, ...], holds: bool) -> None:
    assert all_hold([each for each in here(names, QUICK, 1) if isinstance(each, Ended)]) is holds


@pytest.mark.parametrize("name", DUELS)
def test_the_list_holds_duels_by_their_names(name: str) -> None:
    found = duel(name)
    assert found.name == name
    assert found.attack
    assert found.defence
    assert callable(found.fight)


# The command


@pytest.fixture
def tacit(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Runs `tacit` in this process, with fakes for duels."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(dueling, "fight", here)

    def call(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["tacit", *arguments])
        code: object = 0
        try:
            main.run()
        except SystemExit as end:
            code = end.code or 0
        out, err = capfd.readouterr()
        assert isinstance(code, int)
        return code, out, err

    return call


def test_the_ablation_is_shown_and_written(tacit, tmp_path: Path) -> None:
    file = tmp_path / "duels.json"
    code, out, err = tacit("duel", "log", "--quick", "--json", str(file), "--workers", "1")
    assert (code, err) == (0, "")
    told = ("log, on digits", "saying nothing", "at most 0.1", "0.05 [0, 0.05]", "not measurable",
            "not shown: much", "what it buys", "1 answers lost")  # fmt: skip
    assert [part for part in told if part not in out] == []
    assert json.loads(file.read_text())["holds"] is True


def test_a_line_that_does_not_hold_is_a_failure(tacit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dueling, "chosen", lambda names: ("losing", "wanting", "broken"))
    code, out, err = tacit("duel")
    assert code == 1
    assert "DOES NOT HOLD" in out
    assert "skipped: wanting: no file anywhere" in out
    assert "losing: closed: told is 0.9, and had to be at most 0.1" in err
    assert "broken was not fought to its end" in err


def test_ctrl_c_is_a_clean_end(tacit, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(dueling, "fight", interrupted)
    code, _, err = tacit("duel", "log")
    assert code == 130
    assert "interrupted: tacit duel starts over" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("duel", "membrship"), "did you mean 'membership'?"),
        (("duel", "--data", "letters"), "digits or fashion-mnist"),
        (("duel", "--json", "/nowhere/at/all.json"), "no folder /nowhere/at"),
        (("duel", "--workers", "-1"), "not in the range"),
    ],
)
def test_mistakes_are_told_before_anything_is_fought(tacit, arguments, why) -> None:
    code, _, err = tacit(*arguments)
    assert code == 2
    assert why in err


def test_the_list(tacit) -> None:
    code, out, _ = tacit("duel", "--list")
    assert code == 0
    assert all(name in out for name in DUELS)


def test_the_summary_sets_like_beside_like() -> None:
    like = (
        Line("open", "b", Figure(0.9), Role.ATTACK),
        Line("closed", "b", Figure(0.1), Role.DEFENCE),
    )
    other = Line("closed", "a", Figure(0.5), Role.DEFENCE)
    fought = Fought("d", "", "", "", (other, *like), 0.0)
    before, after, price = dueling.headline(fought)
    assert (before, after, price) == (*like, None)
    before, after, _ = dueling.headline(replace(fought, lines=(other, like[0])))
    assert dueling._without(before, after) == "0.9 b"
    assert dueling._without(*like) == "0.9"
    assert dueling._without(None, other) == ""


def test_numbers_are_told_to_three_digits() -> None:
    assert [dueling.number(v) for v in (0.018949, 1.0, 70731.4, float("nan"))] == [
        "0.0189", "1", "70,731", "not measurable",
    ]  # fmt: skip


def test_the_format_is_pinned() -> None:
    assert duels.FORMAT == 1
