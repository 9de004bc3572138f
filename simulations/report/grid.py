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
    """Who attacks how, and what is trained how."""

    conduct: str
    attack: str
    model: str
    data: str
    examples: int
    steps: int
    rate: float
    rounds: int


@dataclass(frozen=True, slots=True)
class Column:
    """What stands in its way, and how many devices are summed."""

    defence: str
    devices: int


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

    def sheets(self) -> tuple[tuple[tuple[Row, ...], tuple[Column, ...]], ...]:
        """Rows that were tried under the same columns, or under some of them, with these: what is
        side by side can be compared, and what was never tried takes no room."""
        tried = {
            row: frozenset(map(column_of, (t.cell for t in self.row(row)))) for row in self.rows
        }
        sets: list[frozenset[Column]] = []
        for columns in sorted(dict.fromkeys(tried.values()), key=len, reverse=True):
            if not any(columns <= other for other in sets):
                sets.append(columns)
        home = {row: next(s for s in sets if columns <= s) for row, columns in tried.items()}
        return tuple(
            (
                tuple(row for row in self.rows if home[row] == columns),
                tuple(column for column in self.columns if column in columns),
            )
            for columns in dict.fromkeys(home.values())
        )

    @cached_property
    def drawn(self) -> list[str]:
        """The defences, those first that were tried on several sizes of sum, and what there is
        without one: they are what curves are drawn of."""
        sizes: dict[str, set[int]] = {}
        for column in self.columns:
            sizes.setdefault(column.defence, set()).add(column.devices)
        return sorted(sizes, key=lambda name: len(sizes[name]) < 2 and name not in _UNDEFENDED)

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
    return Column(cell.defence, cell.devices)


def row_of(tried: Tried) -> Row:
    cell = tried.cell
    trained = (cell.examples, cell.steps, cell.rate, cell.rounds)
    return Row(tried.first.conduct, cell.attack, cell.model, cell.data, *trained)


def grid_of(cells: Sequence[Tried]) -> Grid:
    private = {tried.cell.defence for tried in cells if tried.epsilon is not None}
    columns = {column_of(tried.cell) for tried in cells}
    return Grid(
        tuple(sorted({row_of(tried) for tried in cells}, key=_row_order)),
        tuple(sorted(columns, key=lambda column: _defence_order(column, private))),
        {(row_of(tried), column_of(tried.cell)): tried for tried in cells},
    )


def _row_order(row: Row) -> tuple[object, ...]:
    trained = (row.examples, row.steps, row.rate, row.rounds)
    return (row.conduct, _numbers(row.attack), row.attack, row.model, row.data, *trained)


def _defence_order(column: Column, private: set[str]) -> tuple[object, ...]:
    name = column.defence
    known = (name.lower() not in _UNDEFENDED, name in private, _numbers(name), name)
    return (*known, column.devices)


def _numbers(name: str) -> list[str | float]:
    """A key that sorts "sum 9" before "sum 10": text and numbers in turn."""
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    return [float(part) if place % 2 else part for place, part in enumerate(parts)]
