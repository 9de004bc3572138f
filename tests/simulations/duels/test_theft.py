"""Duels about copying and inverting: the attack succeeds, and takes the defence's part if that is
taken away."""

import pytest

from tacit.simulations.duels import extraction, inversion, layers, theft
from tacit.simulations.duels.base import Duel, Fought, Role, Scale

QUICK = Scale(quick=True)


def fought(duel: Duel) -> Fought:
    told: list[float] = []
    outcome = duel.fight(QUICK, told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert {Role.ATTACK, Role.DEFENCE, Role.PRICE} <= {line.role for line in outcome.lines}
    assert outcome.limits
    return outcome


def missed(outcome: Fought) -> list[tuple[str, Role]]:
    return [(line.setting, line.role) for line in outcome.lines if not line.holds]


def test_a_linear_model_is_copied_and_labels_alone_do_not_stop_it() -> None:
    """The budget does: beyond it, a fit finds most of the model from labels too."""
    outcome = fought(extraction.ExtractionLinear())
    assert outcome.holds
    (beyond,) = (line for line in outcome.lines if line.setting == "label, 650 answers")
    assert beyond.figure.value > 0.65
    again = extraction.ExtractionLinear().fight(QUICK, lambda _: None)
    assert [line.figure for line in again.lines] == [line.figure for line in outcome.lines]


def test_without_labels_the_linear_duel_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "LABEL", theft.FULL)
    outcome = extraction.ExtractionLinear().fight(QUICK, lambda _: None)
    assert ("label, 100 answers", Role.DEFENCE) in missed(outcome)


def test_pictures_of_classes_come_out_of_scores_and_not_of_labels() -> None:
    assert fought(inversion.Inversion()).holds


def test_every_duel_has_a_name_of_its_own() -> None:
    duels: list[Duel] = [
        extraction.ExtractionLinear(),
        extraction.ExtractionDeep(),
        extraction.ExtractionFloor(),
        inversion.Inversion(),
        layers.Layers(),
    ]
    assert len({duel.name for duel in duels}) == len(duels)
    assert all(duel.attack and duel.defence for duel in duels)
