"""What the inputs of a model mean, where they are the columns of a table."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.crypto.errors import ParameterError

NUMBER = 0
FLAG = 1


@dataclass(frozen=True, slots=True)
class Table:
    """Columns, in the order of the inputs that hold them.

    Each is NUMBER, one input; or FLAG, one input of 0 or 1; or a category of k >= 2 values, one-hot
    in k inputs, written as k. Raises ParameterError for anything else, and for no column at all.
    """

    columns: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.columns or min(self.columns) < NUMBER:
            raise ParameterError(
                f"columns={self.columns}: expected at least one, each {NUMBER} (a number), "
                f"{FLAG} (a flag), or how many values a category has"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """How many inputs each column is."""
        return tuple(max(1, values) for values in self.columns)

    @property
    def inputs(self) -> int:
        """How many inputs one row is."""
        return sum(self.widths)

    @property
    def categorical(self) -> NDArray[np.bool_]:
        """Which columns are categories or flags, shape (columns,)."""
        return np.asarray(np.array(self.columns) != NUMBER)

    @property
    def spans(self) -> tuple[slice, ...]:
        """Where the inputs of each column are."""
        ends = np.cumsum(self.widths).tolist()
        return tuple(slice(a, b) for a, b in zip([0, *ends], ends, strict=False))

    def rows(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Inputs (n, inputs) -> rows (n, columns), categories as whole numbers.

        Inputs need not be one-hot: the largest one counts, and a flag is set above a half.
        Raises ParameterError for another number of inputs.
        """
        if x.ndim != 2 or x.shape[1] != self.inputs:
            raise ParameterError(f"inputs {x.shape} are not rows of {self.inputs}")
        found = np.empty((len(x), len(self.columns)))
        for i, (values, span) in enumerate(zip(self.columns, self.spans, strict=True)):
            part = x[:, span]
            if values == NUMBER:
                found[:, i] = part[:, 0]
            else:
                found[:, i] = part[:, 0] > 0.5 if values == FLAG else part.argmax(axis=1)
        return found
