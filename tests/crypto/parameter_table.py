"""The table of parameters in docs/security.md: `python -m tests.crypto.parameter_table` writes it
again, a test holds it up to date."""

from pathlib import Path

from tacit.crypto.errors import ParameterError
from tacit.crypto.secagg.parameters import choose

DOC = Path(__file__).parents[2] / "docs" / "security.md"
BEGIN, END = "<!-- parameters -->", "<!-- /parameters -->"
FRACTIONS = ((0.05, 0.1), (0.1, 0.1), (0.1, 0.2), (0.2, 0.2), (0.33, 0.3))
SIZES = (10, 32, 50, 100, 200, 500, 1000)


def cell(devices: int, gamma: float, drop: float) -> str:
    """Neighbours, committee and threshold."""
    try:
        found = choose(devices, gamma, drop)
    except ParameterError:
        return "none is safe"
    return f"{found.degree}; {found.threshold} of {found.seats or devices}"


def table() -> str:
    heads = [f"{gamma:.0%} corrupt, {drop:.0%} missing" for gamma, drop in FRACTIONS]
    lines = ["| devices | " + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|"]
    for devices in SIZES:
        cells = [cell(devices, *fractions) for fractions in FRACTIONS]
        lines.append(f"| {devices} | " + " | ".join(cells) + " |")
    return "\n".join(["", *lines, "", "Neighbours; threshold of committee members.", ""])


def between_marks(text: str) -> str:
    """What the document holds now."""
    return text.partition(BEGIN)[2].partition(END)[0]


def with_table(text: str) -> str:
    """The document with the table between its marks, and nothing else changed."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    DOC.write_text(with_table(DOC.read_text(encoding="utf-8")), encoding="utf-8")
