"""`tacit audit dp`: what it prints, and that it fails where it should."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import pytest

from tacit.app.cli import auditing, main
from tacit.simulations.canaries import Cohort, honest
from tacit.simulations.controls import CONTROLS, half_sigma

QUICK = ("--devices", "4", "--runs", "40", "--alpha", "1e-9")


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    def result(self) -> dict[str, Any]:
        """The one line of JSON that was printed."""
        return json.loads(self.out)


Dp = Callable[..., Ended]


@pytest.fixture
def dp(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Dp:
    """Runs `tacit audit dp` in this process."""
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: str) -> Ended:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["tacit", "audit", "dp", *arguments])
        code: object = 0
        try:
            main.run()
        except SystemExit as end:
            code = end.code or 0
        out, err = capfd.readouterr()
        assert isinstance(code, int)
        return Ended(code, out, err)

    return call


def test_an_honest_mechanism_stands(dp: Dp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditing, "MASKED", 3)
    ended = dp(*QUICK, "--noise", "2", "--rounds", "2")
    assert (ended.code, ended.err) == (0, "")
    for part in (
        "2 sums of 4 devices, 1 of them missing; noise multiplier 2, clip 1",
        "in league with 1 device; it knows all updates but one",
        "Trials: 40 with the canary and 40 without",
        "Accounted: epsilon 2.9",
        "Bound: epsilon >= 0, 100 % sure",
        "Bug detector, not a bound",
        "Verdict: the accounted epsilon stands",
        "the last digits",
        "Replay: 20 vectors of noise",
        "3 runs of each kind went through secure sums",
        "Not covered:",
    ):
        assert part in ended.out


def test_one_run_with_many_canaries(dp: Dp) -> None:
    result = dp("--one-run", "--devices", "20", "--alpha", "1e-9", "--json").result()
    assert result["event"] == "Result"
    assert not result["contradicted"]
    assert result["one_run"]["canaries"] == 18
    assert result["accounted"] == pytest.approx(4.377, abs=1e-3)


def test_a_contradiction_is_a_failure(dp: Dp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the noise on each device, and a ledger that is not told: 6.7 deviations beyond."""
    monkeypatch.setattr(auditing, "Cohort", partial(Cohort, device=half_sigma))
    monkeypatch.setattr(auditing, "MASKED", 1)
    alone = ("--devices", "3", "--dropouts", "0", "--corrupt", "0")
    ended = dp(*alone, "--noise", "0.667", "--runs", "600", "--json")
    assert ended.code == 1
    assert "the accounted epsilon is contradicted" in ended.err
    result = ended.result()
    assert result["contradicted"]
    assert result["projection"]["detector"] > result["accounted"]
    assert not result["replay"]["contradicted"]


def test_controls_are_flagged(dp: Dp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditing, "CONTROLS", CONTROLS[:2])
    ended = dp("--controls", "--json")
    assert (ended.code, ended.err) == (0, "")
    result = ended.result()
    assert result["missed"] == []
    names = ["half sigma", "twice the sensitivity", "seeded noise", "float lattice"]
    assert list(result["controls"]) == names


def test_a_blind_auditor_fails(dp: Dp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditing, "CONTROLS", (replace(CONTROLS[0], device=honest),))
    ended = dp("--controls", "--alpha", "1e-9")
    assert ended.code == 1
    assert "MISSED" in ended.out
    assert ended.out.count("flagged") == 2
    assert "the auditor is blind to: half sigma" in ended.err


def test_quiet_says_nothing(dp: Dp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditing, "MASKED", 0)
    assert dp(*QUICK, "--quiet") == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--dropouts", "5"), "no honest one"),
        (("--noise", "0"), "above 0 and finite"),
        (("--delta", "0"), "delta=0"),
        (("--alpha", "1"), "alpha=1"),
        (("--controls", "--one-run"), "exclude each other"),
        (("--quiet", "--json"), "exclude each other"),
        (("--runs", "3"), "not in the range"),
        (("--devices", "2", "--corrupt", "0"), "min_survivors=1"),
        (("--one-run", "--devices", "9", "--length", "3"), "7 canaries in 3"),
    ],
)
def test_what_cannot_be_audited_is_a_mistake(dp: Dp, arguments: tuple[str], why: str) -> None:
    ended = dp(*arguments)
    assert ended.code == 2
    assert why in ended.err
