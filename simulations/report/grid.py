"""The cells of a matrix in rows and columns, in an order that a reader can find things in."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from tacit.simulations.pooling import Tried
from tacit.simulations.trial import Cell

_UNDEFENDED = ("none", "plain")


@dataclass(frozen=True, slots=True)
class Row:
    """Who attacks how, and what was trained."""

    conduct: str
    attack: str
    model: str
    data: str


@dataclass(frozen=True, slots=True)
class Column:
    """What stands in its way, and the threat."""

    defence: str
    devices: int
    examples: int
    steps: int
    rate: float
    rounds: int

    @property
    def setting(self) -> tuple[int, int, float, int]:
        """How each device trains: all of the threat but how many devices there are."""
        return self.examples, self.steps, self.rate, self.rounds


@dataclass(frozen=True)
class Grid:
    """Rows: honest servers first, then by name. Columns: no defence first, private ones last."""

    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    cells: Mapping[tuple[Row, Column], Tried] = field(repr=False)

    def row(self, row: Row) -> tuple[Tried, ...]:
        """The cells of a row that were tried, in the order of the columns."""
        found = (self.cells.get((row, column)) for column in self.columns)
        return tuple(cell for cell in found if cell is not None)

    def about(self, row: Row) -> tuple[str, ...]:
        """Model and data, each only where the matrix has several."""
        several = (len({getattr(each, name) for each in self.rows}) for name in ("model", "data"))
        return tuple(
            name for name, many in zip((row.model, row.data), several, strict=True) if many > 1
        )

    def training(self, cell: Cell) -> tuple[str, ...]:
        """How the devices train, in words, without what is so in every cell."""
        common, rates = self._common
        told = tuple(part for part in cell.training if part not in common)
        # With one step the words do not tell the rate, and it may be all that differs.
        return told if cell.steps > 1 or len(rates) < 2 else (*told, f"rate {cell.rate:g}")

    @cached_property
    def _common(self) -> tuple[set[str], set[float]]:
        """What every cell says of its training, and the rates of those with one step."""
        cells = [tried.cell for tried in self.cells.values()]
        rates = {cell.rate for cell in cells if cell.steps == 1}
        return set.intersection(*(set(cell.training) for cell in cells)), rates


def column_of(cell: Cell) -> Column:
    return Column(cell.defence, cell.devices, cell.examples, cell.steps, cell.rate, cell.rounds)


def row_of(tried: Tried) -> Row:
    cell = tried.cell
    return Row(tried.first.conduct, cell.attack, cell.model, cell.data)


def grid_of(cells: Sequence[Tried]) -> Grid:
    private = {tried.cell.defence for tried in cells if tried.epsilon is not None}
    columns = {column_of(tried.cell) for tried in cells}
    return Grid(
        tuple(sorted({row_of(tried) for tried in cells}, key=_row_order)),
        tuple(sorted(columns, key=lambda column: _defence_order(column, private))),
        {(row_of(tried), column_of(tried.cell)): tried for tried in cells},
    )


def _row_order(row: Row) -> tuple[object, ...]:
    return (row.conduct, _numbers(row.attack), row.attack, row.model, row.data)


def _defence_order(column: Column, private: set[str]) -> tuple[object, ...]:
    name = column.defence
    known = (name.lower() not in _UNDEFENDED, name in private, _numbers(name), name)
    return (*known, *column.setting, column.devices)


def _numbers(name: str) -> list[str | float]:
    """A key that sorts "sum 9" before "sum 10": text and numbers in turn."""
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    return [float(part) if place % 2 else part for place, part in enumerate(parts)]
