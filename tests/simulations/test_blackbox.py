"""A black box answers as far as it is told to, counts, and stops."""

import numpy as np
import pytest

from tacit.crypto.errors import BudgetExceeded
from tacit.server.gate.model import Scored
from tacit.server.gate.reveal import Detail, Reveal
from tacit.simulations.attacks.blackbox import BlackBox


class Constant:
    shape, classes = (2,), 4

    def scored(self, x: np.ndarray) -> Scored:
        row = np.array([[0.1, 0.6, 0.2, 0.1]], np.float32)
        return Scored(np.repeat(row, len(x), 0), x)


X = np.zeros((2, 2), np.float32)


@pytest.mark.parametrize(
    ("detail", "row"),
    [
        (Detail.LABEL, [0, 1, 0, 0]),
        (Detail.TOP1, [0.35 / 3, 0.65, 0.35 / 3, 0.35 / 3]),
        (Detail.ROUNDED, [0.1, 0.6, 0.2, 0.1]),
        (Detail.FULL, [0.1, 0.6, 0.2, 0.1]),
    ],
)
def test_answers_become_rows(detail: Detail, row: list[float]) -> None:
    got = BlackBox(Constant(), Reveal(detail, 1)).ask(X)
    assert np.allclose(got, [row, row])


def test_a_budget_is_not_passed_by_a_single_query() -> None:
    box = BlackBox(Constant(), budget=3)
    box.ask(X)
    with pytest.raises(BudgetExceeded, match="1 are left"):
        box.ask(X)
    assert (box.asked, box.left) == (2, 1)
    box.ask(X[:1])
    assert box.left == 0
