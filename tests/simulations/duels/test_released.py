"""Attacks pointed at a release: they get what they get of any model, and say what they cannot."""

from dataclasses import replace

import numpy as np
import pytest

from tacit.client.trainer import Examples
from tacit.crypto.errors import ParameterError
from tacit.simulations.duels import released
from tacit.simulations.duels.base import Role, Scale
from tacit.simulations.duels.ground import ground, victim
from tacit.simulations.duels.registry import PROBES, probe
from tacit.simulations.duels.release import Release, divided

QUICK = Scale(quick=True)


@pytest.fixture(scope="module")
def release() -> Release:
    return Release("stock", ground("digits"), victim("digits"))


def test_others_are_halved() -> None:
    where = ground("digits")
    found = divided("digits", 10, where.trained, where.held)
    assert (len(found.held), len(found.owned)) == (200, 200)
    halves = np.concatenate([found.held.x, found.owned.x]).reshape(400, -1)
    whole = where.held.x.reshape(400, -1)
    assert np.array_equal(np.unique(halves, axis=0), np.unique(whole, axis=0))


def test_a_copy_agrees_more_for_more_answers_and_scores(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(released, "QUICK", (50, 1_000))
    fought = released.extraction(release, QUICK, lambda share: None)
    label, label_more, full, full_more = (line.figure.value for line in fought.lines)
    assert label < label_more < full_more
    assert full < full_more
    assert full_more > 0.7
    assert [line.role for line in fought.lines].count(Role.DEFENCE) == 1


def test_pictures_of_classes_come_out_of_scores_and_not_of_labels(release: Release) -> None:
    fought = released.inversion(release, QUICK, lambda share: None)
    label, full, _ = (line.figure.value for line in fought.lines)
    assert full >= 0.6
    assert label <= 0.4
    assert fought.lines[0].role is Role.DEFENCE


@pytest.mark.parametrize("name", PROBES)
def test_what_is_no_picture_is_refused(release: Release, name: str) -> None:
    flat = Examples(np.zeros((4, 30), np.float32), np.zeros(4, np.int64))
    table = replace(release, ground=replace(release.ground, trained=flat))
    with pytest.raises(ParameterError, match="of shape"):
        probe(name)(table, QUICK, lambda share: None)
