"""What a report says: every figure with what it is of."""

import math
from dataclasses import replace

import pytest

from tacit.privacy.accountants import Adversary
from tacit.privacy.releases import Neighbours, Unit
from tacit.privacy.statement import RELATIONS, UNITS, Figure, Statement

ONE = Statement(
    unit=Unit.CLIENT,
    neighbours=Neighbours.ZERO_OUT,
    delta=1e-5,
    budget=8.0,
    budget_against=Adversary.SERVER,
    devices=100,
    releases=40,
    unsettled=1,
    corrupt=1 / 3,
    distance=9e-25,
    server=Figure(worst=1.8423, median=1.2034, everyone=2.5, is_renyi=False, guessed=0.0312),
    outsider=None,
    loss=None,
    is_real=False,
    is_drawn=False,
)


def test_all_of_it_is_said() -> None:
    assert ONE.text().splitlines() == [
        "Differential privacy at delta 1e-05",
        "Unit: all that one device sends, or zeros in its place",
        "Adversary: a server that keeps to the protocol, in league with at most 0.333 of the "
        "devices in a sum, and anybody who sees less",
        "  epsilon of the worst of 100 devices: 1.843; of the median one: 1.204; in every "
        "release: 2.5",
        "  by Gaussian differential privacy, in closed form",
        "  a guess among 100 candidates, as likely as each other: right in 1 % of cases without "
        "all this, and in 3.2 % with it, at most",
        "Releases: 40; sums not settled, which count in full: 1",
        "Budget: epsilon 8 for each device, against the server",
        "Sampler: noise is at most 9e-25 from its law, over all releases; delta includes it",
        "Not covered: what was tried to choose settings; time, power and traffic",
    ]


def test_with_drawing_both_figures_are_said() -> None:
    outsider = Figure(0.5, 0.4, 0.6, is_renyi=True)
    lines = replace(ONE, outsider=outsider, loss=0.55, is_drawn=True).text().splitlines()
    adversaries = [line for line in lines if line.startswith("Adversary")]
    assert len(adversaries) == 2
    assert "sees less" not in adversaries[0]
    assert adversaries[1].endswith("not who was drawn, nor how many where drawing counts")
    told = [line for line in lines if line.startswith("  ")]
    assert ["1.843" in told[0], "0.5;" in told[3]] == [True, True]
    assert "orders, 1.125 to 513" in told[4]
    assert told[5] == "  epsilon in every release: 0.55, by privacy loss distributions"
    assert "not proven" not in lines[-1]


def test_no_guarantee_is_said_as_such() -> None:
    nothing = Figure(math.inf, math.inf, math.inf, is_renyi=False)
    text = replace(ONE, server=nothing, outsider=ONE.server).text()
    assert "epsilon of the worst of 100 devices: no bound" in text
    assert "inf" not in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"is_real": True}, "floating-point noise"),
        ({"is_drawn": True}, "drawing at random, which is not proven to help here"),
    ],
)
def test_what_is_not_covered_is_said(changes: dict[str, bool], said: str) -> None:
    assert said in replace(ONE, **changes).text()
    assert said not in ONE.text()


def test_nobody_corrupt_is_counted_only_where_somebody_shares() -> None:
    assert "in league" not in replace(ONE, corrupt=1.0).text()
    assert "at most 0 of the devices" in replace(ONE, corrupt=0.0).text()


def test_no_figure_claims_more_than_what_was_counted() -> None:
    """To the nearest, 1.0001 would be 1, and two thirds 0.667."""
    spent = Figure(1.0001, 0.55, 1e-9, is_renyi=False)
    said = replace(ONE, delta=1.0000001e-5, server=spent, corrupt=2 / 3, distance=2.1e-25).text()
    for number in ("1.001;", "0.55;", "release: 1e-09", "1.0000001e-05", "0.666 of", "most 3e-25"):
        assert number in said


def test_each_unit_and_relation_has_words() -> None:
    assert UNITS.keys() == set(Unit)
    assert RELATIONS.keys() == set(Neighbours)
