"""A released model as its users have it: they ask, and it answers as far as it is told to.

What an attack may do to such a model it does through a `BlackBox`, which counts. It answers by the
gate's own `Reveal`, so that an attack that fails here fails against what is served.
"""

from dataclasses import dataclass, field

import numpy as np

from tacit.crypto.errors import BudgetExceeded
from tacit.server.gate.model import Floats32, Model
from tacit.server.gate.reveal import BANDS, Floats, Reveal, Shown


@dataclass(slots=True)
class BlackBox:
    """Answers `budget` queries about `model`, each input one; None: any number. `asked` counts."""

    model: Model
    reveal: Reveal = field(default_factory=Reveal)
    budget: int | None = None
    asked: int = 0

    @property
    def left(self) -> int | None:
        """How many more it answers; None: any number."""
        return None if self.budget is None else self.budget - self.asked

    def ask(self, x: Floats32) -> Floats:
        """What is told of `x` (n, *shape), as rows of probabilities: see `as_rows`.

        Raises BudgetExceeded, and answers nothing, if that is more than is left.
        """
        if self.left is not None and len(x) > self.left:
            raise BudgetExceeded(f"{len(x)} queries, and {self.left} are left")
        self.asked += len(x)
        return as_rows(self.reveal.shown(self.model.scored(x).probabilities), self.model.classes)


def as_rows(shown: Shown, classes: int) -> Floats:
    """(n, classes), the best guess at the probabilities behind an answer: what was told of them;
    of a band its middle, and the rest of it evenly on the others; of a label all on that."""
    if shown.scores is not None:
        return shown.scores
    first = np.ones(len(shown.labels))
    if shown.bands is not None:
        edges = np.array((0.0, *BANDS, 1.0))
        first = ((edges[1:] + edges[:-1]) / 2)[shown.bands]
    rows = np.repeat(((1 - first) / (classes - 1))[:, None], classes, axis=1)
    rows[np.arange(len(rows)), shown.labels] = first
    return rows
