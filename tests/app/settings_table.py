"""The table of all settings in docs/configuration.md: `python -m tests.app.settings_table`
writes it again, a test holds it up to date."""

from pathlib import Path

from tacit.app.config import describe_range, keys

DOC = Path(__file__).parents[2] / "docs" / "configuration.md"
BEGIN, END = "<!-- settings -->", "<!-- /settings -->"


def table() -> str:
    """Every setting, a line each, under a heading for each section."""
    lines: list[str] = []
    section = ""
    for key, (default, purpose) in keys().items():
        if section != (section := key.partition(".")[0]):
            lines += ["", f"### [{section}]", "", "| key | default | values | what it is for |"]
            lines += ["|---|---|---|---|"]
        shown = f"{default:.6g}" if isinstance(default, float) else str(default).lower() or '""'
        name = key.partition(".")[2]
        lines.append(f"| `{name}` | `{shown}` | {describe_range(key)} | {purpose} |")
    return "\n".join([*lines, ""])


def between_marks(text: str) -> str:
    """What the document holds now."""
    return text.partition(BEGIN)[2].partition(END)[0]


def with_table(text: str) -> str:
    """The document with the table between its marks, and nothing else changed."""
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    DOC.write_text(with_table(DOC.read_text(encoding="utf-8")), encoding="utf-8")
