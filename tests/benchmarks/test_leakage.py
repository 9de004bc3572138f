"""The table of the survey says of each cell what its trials say."""

from dataclasses import replace

from benchmarks.leakage import table
from tacit.simulations.measure import Measure
from tacit.simulations.pooling import by_cell
from tacit.simulations.trial import Cell, Trial

CELL = Cell("imprint", "secure", "mlp", "digits", 16)
MEASURES = (
    Measure("SSIM", (0.75, 0.75), (0.25, 0.25)),
    Measure("identified", (0.5,), (0.01,)),
)
TRIAL = Trial(CELL, 0, "malicious", "public data", MEASURES, 1.0, "pairwise", hits=8, of=16)


def rows(*trials: Trial) -> list[list[str]]:
    head, rule, *lines = table(by_cell(trials))
    assert head.count("|") == rule.count("|")
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_cell_is_told_with_its_interval_its_floor_and_what_was_identified() -> None:
    ((attack, defence, where, found, floor, identified),) = rows(TRIAL, replace(TRIAL, seed=1))
    assert (attack, defence) == ("imprint", "secure")
    assert where == "16 devices, 1 example, 1 step at 0.1; mlp, digits"
    assert (found, floor) == ("**SSIM 0.75 (0.75 to 0.75)**", "0.25")
    assert identified == "16 of 32, 50.0%"


def test_noise_is_told_with_its_bound_and_cost() -> None:
    blind = (Measure("SSIM", (0.2, 0.2), (0.25, 0.25)), Measure("identified", (0.0,), (0.01,)))
    private = replace(TRIAL, measures=blind, hits=0, epsilon=0.804, bound=0.0143)
    ((*_, found, _, identified),) = rows(private)
    assert found == "SSIM 0.20 (0.20 to 0.20), at the floor"
    assert identified == "0 of 16, 0.0%, bound 1.4% at epsilon 0.8"


def test_what_was_stopped_is_told_in_the_devices_words() -> None:
    ((*_, found, floor, identified),) = rows(replace(TRIAL, stopped="not this model", of=0))
    assert (found, floor, identified) == ("stopped: not this model", "", "")
