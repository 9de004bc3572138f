"""`tacit explain scale`: the formula beside what was played, and where one machine ends."""

import json
import sys

import pytest

from tacit.app.cli import main

Ran = tuple[int, str, str]


def explain(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: str
) -> Ran:
    monkeypatch.setenv("COLUMNS", "80")
    capfd.readouterr()
    monkeypatch.setattr(sys, "argv", ["tacit", "explain", "scale", *arguments])
    code: object = 0
    try:
        main.run()
    except SystemExit as end:
        code = end.code or 0
    out, err = capfd.readouterr()
    assert isinstance(code, int)
    return code, out, err


def test_a_million_devices_are_more_than_one_machine(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = explain(
        monkeypatch, capfd, "-n", "1e6", "--poll", "100", "--rounds", "10", "--json"
    )
    assert (code, err) == (0, "")
    found = json.loads(out.splitlines()[-1])
    assert found["machines"] > 1
    assert found["superlinks"] > found["machines"]
    assert found["one_superlink"] < found["one_machine"] < 1e6
    assert found["played"]["down"] == pytest.approx(found["down"], rel=0.05)
    assert found["round_seconds"] == sorted(found["round_seconds"])


def test_tables_fit_and_say_what_then(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = explain(monkeypatch, capfd, "-n", "1000", "--rounds", "5")
    assert (code, err) == (0, "")
    for part in ("on paper", "played", "SuperLinks", "machines", "A round takes", "SQLite"):
        assert part in out
    assert "A round takes" not in explain(monkeypatch, capfd, "-n", "1000", "--paper")[1]


def test_a_fleet_that_cannot_be_says_why(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = explain(monkeypatch, capfd, "-n", "1000", "--poll", "500")
    assert code != 0
    assert out == ""
    assert "miss stages of 120 s" in err
