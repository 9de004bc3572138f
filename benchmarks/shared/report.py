"""What a benchmark prints and writes, and how it measures: each time in a process of its own."""

import sys
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from benchmarks.shared.fresh import in_fresh_process
from benchmarks.shared.table import Row, print_table

PATIENCE_S = 1800


@dataclass(slots=True)
class Report:
    """Tables, printed as they come because the whole takes minutes, and notes for the end.

    `script` is the benchmark's own file, which measures when it is called with `--child`.
    """

    script: str
    tables: list[tuple[str, list[Row]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def table(self, title: str, rows: list[Row]) -> None:
        if rows:
            print_table(title, rows)
            self.keep(title, rows)

    def keep(self, title: str, rows: list[Row]) -> None:
        """Rows that were printed in another way."""
        self.tables.append((title, rows))
        sys.stdout.flush()

    def rows(self) -> list[Row]:
        """All rows, each named with its table."""
        return [
            replace(row, name=f"{title}: {row.name}") for title, rows in self.tables for row in rows
        ]

    def child(
        self, kind: str, task: Any, name: str, python: str = sys.executable
    ) -> dict[str, Any]:
        """What a fresh process finds of a task, a dataclass; nothing, and a note, if that fails."""
        asked = {"kind": kind, "task": asdict(task)}
        answer = in_fresh_process(self.script, asked, PATIENCE_S, python)
        if isinstance(answer, dict):
            return answer
        self.notes.append(f"{name}: {answer}.")
        return {}
