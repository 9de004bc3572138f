"""`tacit explain`: what it says is what would be chosen, and it says it at once."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

import pytest

from tacit.app.cli import main
from tacit.crypto.secagg.parameters import choose

LARGE = ("-n", "1000", "--gamma", "0.1", "--drop", "0.2")


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    def result(self) -> dict[str, Any]:
        """The one line of JSON that was printed."""
        return json.loads(self.out)


Secagg = Callable[..., Ended]


@pytest.fixture
def secagg(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Secagg:
    """Runs `tacit explain secagg` in this process, 80 columns wide."""
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: str) -> Ended:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["tacit", "explain", "secagg", *arguments])
        code: object = 0
        try:
            main.run()
        except SystemExit as end:
            code = end.code or 0
        out, err = capfd.readouterr()
        assert isinstance(code, int)
        return Ended(code, out, err)

    return call


def words(ended: Ended) -> str:
    """What was said, without the tables' lines and breaks."""
    assert (ended.code, ended.err) == (0, "")
    assert max(map(len, ended.out.splitlines())) <= 80
    return " ".join(ended.out.translate(dict.fromkeys(map(ord, "│┃━─"), " ")).split())


def test_a_large_cohort_is_explained(secagg: Secagg) -> None:
    said = words(secagg(*LARGE))
    for part in (
        "1000 devices, of which 100 may collude with the server and 200 may be missing.",
        "neighbours 346 each device masks with so many others on average",
        "committee 155 drawn by lot from a roster of 1000",
        "threshold 101 so many of them open a sum; 46 corrupt ones",
        "fewest survivors 800",
        "graph, each sum 2^-41",
        "committee, each roster 2^-41",
        "answers, each sum 2^-20",
        "a device sends 3.2 MB its masked vector, 26 bits for each of 1,000,000 parameters",
        "2.6 MB sealed shares",
        "Not covered (docs/security.md",
    ):
        assert part in said


def test_a_small_cohort_leaves_nothing_to_chance(secagg: Secagg) -> None:
    said = words(secagg("-n", "20", "-d", "1000"))
    for part in (
        "20 devices, of which 6 may collude with the server and 2 may be missing.",
        "neighbours 19 each device masks with all others",
        "committee 20 all of the cohort",
        "threshold 14 so many of them open a sum; 6 corrupt ones",
        "graph, each sum none",
        "committee, each roster none",
        "answers, each sum none",
    ):
        assert part in said


def test_programs_get_the_numbers(secagg: Secagg) -> None:
    result = secagg(*LARGE, "--roster", "4000", "--length", "2e6", "--json").result()
    chosen = choose(1000, 0.1, 0.2, 4000)
    assert result.items() >= asdict(chosen).items()
    masks, seats = chosen.degree + 1, chosen.seats
    assert result["masked_bytes"] == 2_000_000 * (16 + 10) // 8
    assert result["sealed_bytes"] == seats * masks * 48
    assert result["member_bytes"] == 1000 * masks * 48
    assert result["server_bytes"] == 8 * 2_000_000 + 1000 * seats * masks * 48
    assert result["device_seconds"] == pytest.approx(0.001 * masks)
    assert result["server_seconds"] == pytest.approx(0.001 * (800 + 200 * chosen.degree))
    assert chosen.threshold == (seats + result["corrupt_seats"]) // 2 + 1


def test_what_cannot_happen_has_no_logarithm(secagg: Secagg) -> None:
    result = secagg("-n", "10", "--json").result()
    assert not result.keys() & {"cut_risk", "stall_risk"}
    assert choose(10, 1 / 3, 0.1).cut_risk == -math.inf


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("-n 2 --gamma 0.9", "fewer than two honest ones would be left"),
        ("-n 1000 --drop 0.3333333333333333", "or take a cohort of at most 255"),
        ("-n 100 --gamma 0.1 --roster 50", "100 devices of a roster of 50"),
        ("-n 100 --gamma 10", "gamma=10"),
        ("-n 100 --gamma nan", "gamma=nan"),
        ("-n 100 --length nan", "expected 1 to 1e12 parameters"),
        ("-n 100 --length inf", "expected 1 to 1e12 parameters"),
        ("-n 0", "not in the range"),
        ("-n many", "not a valid int"),
        ("--gamma 0.1", "Missing option"),
        ("-n 10 --quiet --json", "exclude each other"),
    ],
)
def test_a_mistake_ends_in_one_message(secagg: Secagg, arguments: str, said: str) -> None:
    ended = secagg(*arguments.split())
    assert (ended.code, ended.out) == (2, "")
    assert said in " ".join(ended.err.replace("│", " ").split())
    assert "Traceback" not in ended.err


def test_help_explains_every_option(secagg: Secagg) -> None:
    said = words(secagg("--help"))
    for part in ("tacit explain secagg -n 1000", "collude with the server", "may be missing"):
        assert part in said


def test_nothing_heavy_is_loaded() -> None:
    """In a process of its own: names of modules, not seconds."""
    code = (
        "import sys; from tacit.app.cli.main import cli\n"
        f"try: cli(['explain', 'secagg', *{LARGE}])\n"
        "finally: print(*sorted({'flwr', 'pydantic', 'scipy', 'torch'} & sys.modules.keys()))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    *said, loaded = ran.stdout.splitlines()
    assert any("neighbours" in line for line in said)
    assert not loaded
