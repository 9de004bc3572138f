"""`tacit explain privacy`: what a run would have and cost is what it then has and costs."""

import json
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tacit.app.cli.main import cli
from tacit.privacy.mechanisms import choose


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, ["explain", "privacy", *args])


def plan(*args: str) -> dict[str, Any]:
    told = run("--json", *args)
    assert told.exit_code == 0, told.output
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def test_what_it_says_is_what_is_chosen() -> None:
    told = plan("-n", "100", "--rounds", "50", "--epsilon", "4", "-d", "1e5")
    assert (told["least"], told["corrupt"]) == (70, 33)
    made = choose(100_000, 100, 30, 33, 1.0, told["noise"])
    assert told["bits"] == made.bits
    assert told["bytes_per_parameter"] == made.bits_per_parameter / 8
    # 100 shares, of which 37 make up the noise; rounding adds less than the tolerance.
    assert told["norm"] == pytest.approx(told["central_norm"] * (100 / 37) ** 0.5, rel=0.005)
    assert told["epsilon_round"] < told["epsilon_all"] < told["epsilon_least"] <= 4
    assert told["epsilon_least"] > 3.98
    assert told["epsilon_owner"] == told["epsilon_least"]  # they fear as many


def test_modes_differ_in_noise_and_in_what_is_credited() -> None:
    args = ("-n", "100", "--rounds", "50", "--epsilon", "4", "-d", "1e5", "--mode")
    local, central = plan(*args, "local"), plan(*args, "central")
    assert local["epsilon_all"] == local["epsilon_least"]
    assert central["norm"] == pytest.approx(central["central_norm"], rel=0.006)
    assert local["norm"] == pytest.approx(10 * local["central_norm"], rel=0.006)


def test_owners_who_fear_more_colluders_count_more() -> None:
    told = plan("-n", "10", "--gamma", "0", "-d", "650")
    assert told["corrupt"] == 0
    assert told["epsilon_owner"] > told["epsilon_least"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--mode", "loud"), "expected distributed, local, central"),
        (("-d", "0"), "expected a whole number"),
        (("-d", "1.5"), "expected a whole number"),
        (("--epsilon", "-1"), "epsilon=-1"),
        (("--delta", "2"), "delta=2"),
    ],
)
def test_what_cannot_be_is_refused(args: tuple[str, str], says: str) -> None:
    told = run("-n", "10", *args)
    assert told.exit_code != 0
    assert says in str(told.exception)


def test_a_person_is_told_in_words() -> None:
    told = run("-n", "40", "--rounds", "5").output
    for words in ("bits a coordinate", "as devices count", "owners allow it by", "holds against"):
        assert words in told
