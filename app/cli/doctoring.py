"""What `tacit doctor` does, once its arguments are read."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import typer

from tacit.app.cli.screen import Screen, complain
from tacit.app.deployment import doctor
from tacit.app.deployment.findings import Finding, Verdict
from tacit.app.deployment.probes import Target
from tacit.crypto.errors import ParameterError

FAILED = 1
STYLES = {
    Verdict.OK: "green",
    Verdict.CAREFUL: "yellow",
    Verdict.WRONG: "bold red",
    Verdict.UNKNOWN: "yellow",
}
SERVER = "server"  # in the folder of a local federation


def server(screen: Screen, folder: Path) -> None:
    """A server's folder, or that of a local federation."""
    inside = folder / SERVER
    _tell(screen, doctor.of_server(inside if inside.is_dir() else folder))


def address(screen: Screen, text: str, ca: Path) -> None:
    """A server, from outside."""
    try:
        target = Target.read(text, ca.read_bytes())
    except OSError as bad:
        raise ParameterError(f"{ca} cannot be read: {bad.strerror}") from None
    _tell(screen, doctor.of_address(target))


def device(screen: Screen, vault: Path) -> None:
    """A device's vault."""
    _tell(screen, doctor.of_device(vault))


def _tell(screen: Screen, findings: Iterator[Finding]) -> None:
    """Each as it is found. Ends with FAILED if one is wrong."""
    counted: Counter[Verdict] = Counter()
    for each in findings:
        counted[each.verdict] += 1
        line = f"{each.verdict:12}{each.what}{': ' if each.said else ''}{each.said}"
        if screen.is_quiet and each.verdict is Verdict.WRONG:
            complain(f"{each.what}: {each.said}")
        screen.say(line, style=STYLES[each.verdict])
        if each.remedy:
            screen.say(f"{'':12}  {each.remedy}")
        screen.fact(
            event="Finding", what=each.what, verdict=each.verdict.value, said=each.said,
            remedy=each.remedy,
        )  # fmt: skip
    counts = {verdict.value: counted[verdict] for verdict in Verdict}
    screen.say(", ".join(f"{number} {name}" for name, number in counts.items() if number))
    screen.result(**{name.replace(" ", "_"): number for name, number in counts.items()})
    if counted[Verdict.WRONG]:
        raise typer.Exit(FAILED)
