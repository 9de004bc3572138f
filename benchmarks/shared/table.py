"""What every benchmark hands over: rows, as a table to read and as JSON to compare."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One number. `target` is its goal in words ("" if it has none), `ok` whether it is met."""

    name: str
    value: float
    unit: str
    target: str = ""
    ok: bool | None = None


def at_least(name: str, value: float, unit: str, goal: float) -> Row:
    """A row whose value should be `goal` or more."""
    return Row(name, value, unit, f">= {goal:g}", value >= goal)


def at_most(name: str, value: float, unit: str, goal: float) -> Row:
    """A row whose value should be `goal` or less."""
    return Row(name, value, unit, f"<= {goal:g}", value <= goal)


def print_table(title: str, rows: Sequence[Row], notes: Sequence[str] = ()) -> None:
    """Print rows in aligned columns, then the notes."""
    verdicts = {True: "ok", False: "MISSED", None: ""}
    cells = [("", "value", "unit", "target", "")]
    cells += [
        (row.name, f"{row.value:.4g}", row.unit, row.target, verdicts[row.ok]) for row in rows
    ]
    name, value, unit, target, _ = (max(map(len, each)) for each in zip(*cells, strict=True))
    print(f"\n{title}\n")
    for a, b, c, d, e in cells:
        line = f"{a:<{name}}  {b:>{value}} {c:<{unit}}  {d:<{target}}  {e}"
        print(line.rstrip())
    for note in notes:
        print(f"\n{note}")


def print_grid(
    title: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]
) -> None:
    """Print named rows of cells, each below the name of its column."""
    cells = [("", *columns), *((name, *row) for name, row in rows)]
    first, *widths = (max(map(len, column)) for column in zip(*cells, strict=True))
    print(f"\n{title}\n")
    for name, *row in cells:
        pairs = zip(row, widths, strict=True)
        print(
            "  ".join([f"{name:<{first}}", *(f"{cell:>{width}}" for cell, width in pairs)]).rstrip()
        )


def write_json(path: Path, name: str, rows: Sequence[Row]) -> None:
    """Write {"benchmark": name, "rows": [...]}."""
    content = {"benchmark": name, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(content, indent=2) + "\n")
