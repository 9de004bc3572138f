"""MI-Face finds what a class looks like where scores are told, and stops where nothing is."""

import numpy as np
import pytest

from tacit.server.gate.model import Floats32, Scored
from tacit.server.gate.reveal import Detail, Reveal
from tacit.simulations.attacks.blackbox import BlackBox
from tacit.simulations.attacks.model_inversion import STEPS, mi_face
from tacit.simulations.duels.inversion import nearest

PIXELS = 16
PROTOTYPES = np.random.default_rng(0).random((3, 4, 4)).round().astype(np.float32)


class Prototypes:
    """The surer of a class, the nearer to its picture."""

    shape, classes = (4, 4), 3

    def scored(self, x: Floats32) -> Scored:
        away = np.square(x[:, None] - PROTOTYPES[None]).sum((2, 3))
        powers = np.exp(-(away - away.min(1, keepdims=True)))
        return Scored(powers / powers.sum(1, keepdims=True), x.reshape(len(x), -1))


def found(reveal: Reveal, target: int, budget: int | None = None) -> tuple[Floats32, int]:
    box = BlackBox(Prototypes(), reveal, budget)
    return mi_face(box, target, np.random.default_rng(target)), box.asked


@pytest.mark.parametrize("target", range(3))
def test_scores_lead_to_the_picture(target: int) -> None:
    picture, asked = found(Reveal(Detail.FULL), target)
    likeness = [nearest(picture, PROTOTYPES[k : k + 1]) for k in range(3)]
    assert int(np.argmax(likeness)) == target
    assert likeness[target] > 0.5  # by chance 16 pixels correlate by 0.25, as a deviation
    assert asked == STEPS * (PIXELS + 1)
    assert np.array_equal(picture, found(Reveal(Detail.FULL), target)[0])
    assert picture.min() >= 0
    assert picture.max() <= 1


def test_labels_lead_nowhere() -> None:
    """A grey picture has one label, and no pixel by itself changes it."""
    askings = [found(Reveal(Detail.LABEL), target)[1] for target in range(3)]
    assert min(askings) == PIXELS + 1
    assert sum(askings) < 3 * STEPS * (PIXELS + 1)


@pytest.mark.parametrize(("budget", "asked"), [(0, 0), (16, 0), (17, 17), (40, 34)])
def test_a_walk_ends_with_its_budget(budget: int, asked: int) -> None:
    picture, spent = found(Reveal(Detail.FULL), 0, budget)
    assert (picture.shape, spent) == ((4, 4), asked)


def test_likeness_does_not_see_brightness() -> None:
    x = np.random.default_rng(1).random((3, 8)).astype(np.float32)
    assert nearest(x[0], x) == pytest.approx(1)
    assert nearest(0.5 * x[0] + 0.2, x) == pytest.approx(1, abs=1e-6)
    assert nearest(-x[0], x[:1]) == pytest.approx(-1)
    assert nearest(np.zeros(8, np.float32), x) == 0
