"""Rows of a table found by optimisation, categories and all, by a vote of many restarts.

Vero, Balunović, Dimitrov and Vechev 2023, "TabLeak: Tabular Data Leakage in Federated Learning"
(ICML, arXiv:2210.01785), section 4:

- softmax structural prior: a category is searched for as logits whose softmax goes into the model,
  so that every point on the way is a distribution over its values (a flag: a sigmoid);
- pooled ensembling: restarts end in different places, each wrong in other cells. Their rows are
  matched with those of the restart of lowest objective, then the median of a number and the mean
  distribution of a category are taken;
- entropy: where the restarts agree, the cell is likely right, and an adversary can tell so without
  the truth. The rows come out in the order of it.

The objective is the cosine between gradients, as in Inverting Gradients, whose descent runs all
restarts at once. Labels are granted, and a row is only matched with rows of its own label.

The update of one lone row gives the row away in closed form (see `LinearReadout`): this is for
batches. Several local steps are attacked as if they were one.
"""

from dataclasses import dataclass, field
from math import e, pi

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tacit.crypto.errors import ParameterError
from tacit.simulations.attacks.base import Conduct, Knows, Target, View, require
from tacit.simulations.attacks.descent import Descent, OnStep, slope_of
from tacit.simulations.attacks.surrogate import Build, Surrogate, cosine, matching
from tacit.simulations.attacks.traced import device_of
from tacit.simulations.data.table import FLAG, NUMBER, Table

Floats = NDArray[np.float64]

_REACH = 40.0  # the exponential of it is no trouble to float32
_LEAST = 1e-6  # standard deviations: restarts that agree better than this agree


@dataclass(frozen=True, slots=True)
class TabLeak:
    """Finds rows of `table` behind the update of the model that `build` makes.

    Numbers are standardised: `reach` bounds them, in standard deviations, and the logits of
    categories. `lr` is the first step size. It runs on `device`, by default on a GPU if there is
    one. `on_step(done, total)` is called after every step.
    """

    build: Build = field(repr=False)
    table: Table
    steps: int = 1000
    restarts: int = 30
    lr: float = 0.1
    reach: float = 10.0
    dtype: torch.dtype = torch.float32
    device: str | None = None
    on_step: OnStep | None = field(default=None, repr=False, compare=False)
    name: str = "TabLeak"
    needs: Knows = Knows.LABELS
    conduct: Conduct = Conduct.HONEST
    target: Target = Target.ROWS

    def __post_init__(self) -> None:
        if self.restarts < 1:
            raise ParameterError(f"restarts={self.restarts}, expected at least 1")
        if self.reach > _REACH:
            raise ParameterError(
                f"reach={self.reach}, expected at most {_REACH}: exp of it is used"
            )
        self._descent()

    def reconstruct(self, view: View, rng: np.random.Generator) -> Floats:
        """Shape (inputs, columns), the surest row first.

        Raises ParameterError if labels are missing, the arrays do not fit the model, or the update
        is zero.
        """
        rows, entropy = self.pooled(view, rng)
        return rows[np.argsort(entropy.sum(axis=1), kind="stable")]

    def pooled(self, view: View, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Rows in the order of the granted labels, and the entropy of each cell in nats.

        Both (inputs, columns). The entropy of a category is that of its pooled distribution, that
        of a number is a normal's with the deviation that restarts show; the sum over a row is that
        of the row, as far as cells vary on their own. Raises as `reconstruct`.
        """
        found, best = self._restarts(view, rng)
        labels = np.array(view.labels)
        for i in range(len(found)):
            found[i] = found[i][_order(found[i], found[best], labels)]
        pooled = found.mean(axis=0)
        numbers = [span.start for span in self._spans(NUMBER)]
        pooled[:, numbers] = np.median(found[:, :, numbers], axis=0)
        return self.table.rows(pooled), self._entropy(found, pooled)

    def _restarts(self, view: View, rng: np.random.Generator) -> tuple[Floats, int]:
        """Model inputs of all restarts, (restarts, inputs, table.inputs), and which is best."""
        require(view, self.needs, self.name)
        if view.labels is None or len(view.labels) != view.inputs:
            raise ParameterError(f"{self.name} needs one label for each of {view.inputs} inputs")
        device = device_of(self.device)
        surrogate = Surrogate.of(self.build, view, view.labels, dtype=self.dtype, device=device)
        starts = rng.normal(size=(self.restarts, view.inputs, self.table.inputs))
        begun = torch.tensor(starts, dtype=self.dtype, device=device)
        begun = begun.clamp(-self.reach, self.reach)
        _require_fit(surrogate, begun[0])
        objective = matching(
            lambda free: surrogate.one_step(self.relaxed(free)), cosine(surrogate.target)
        )
        found, value = self._descent().follow(slope_of(objective), begun)
        return self.relaxed(found).cpu().numpy().astype(np.float64), int(value.argmin())

    def relaxed(self, free: Tensor) -> Tensor:
        """What is searched for -> what goes into the model, both (..., table.inputs).

        All softmaxes at once: exp(z) over the sum of it in the same column. `reach` keeps exp small
        enough. A sigmoid is a softmax whose other logit is 0.
        """
        column = np.repeat(np.arange(len(self.table.columns)), self.table.widths)
        kind = np.array(self.table.columns)[column]
        together, flag = (
            torch.tensor(ones, dtype=free.dtype, device=free.device)
            for ones in (column[:, None] == column, kind == FLAG)
        )
        raised = free.exp()
        shares = raised / (raised @ together + flag)
        return torch.where(torch.tensor(kind == NUMBER, device=free.device), free, shares)

    def _descent(self) -> Descent:
        return Descent(self.steps, self.lr, -self.reach, self.reach, self.on_step)

    def _spans(self, kind: int) -> list[slice]:
        pairs = zip(self.table.columns, self.table.spans, strict=True)
        return [span for values, span in pairs if values == kind]

    def _entropy(self, found: Floats, pooled: Floats) -> Floats:
        cells = []
        for values, span in zip(self.table.columns, self.table.spans, strict=True):
            if values == NUMBER:
                spread = found[:, :, span.start].std(axis=0)
                cells.append(0.5 * np.log(2 * pi * e * np.maximum(spread, _LEAST) ** 2))
            else:
                p = pooled[:, span]
                p = np.hstack([p, 1 - p]) if values == FLAG else p
                cells.append(-(p * np.log(np.maximum(p, _LEAST))).sum(axis=1))
        return np.column_stack(cells)


def _require_fit(surrogate: Surrogate, x: Tensor) -> None:
    try:
        surrogate.loss(surrogate.moving, x)
    except RuntimeError as refused:
        raise ParameterError(
            f"the model does not take rows of {x.shape[1]} inputs: {refused}"
        ) from refused


def _order(rows: Floats, others: Floats, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which of `rows` goes with each of `others`, among those of the same label: nearest in all."""
    order = np.arange(len(rows))
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        apart = np.square(others[places][:, None] - rows[places]).sum(axis=2)
        order[places] = places[linear_sum_assignment(apart)[1]]
    return order
