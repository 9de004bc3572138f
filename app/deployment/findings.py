"""What a doctor says: one line for each thing that was looked at."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from tacit.crypto.errors import TacitError


class Verdict(StrEnum):
    """`CAREFUL` is no fault, and something to know."""

    OK = "ok"
    CAREFUL = "careful"
    WRONG = "not ok"
    UNKNOWN = "cannot tell"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, what was found, and what to do about it ("" if there is nothing)."""

    what: str
    verdict: Verdict
    said: str = ""
    remedy: str = ""


def ok(what: str, said: str = "") -> Finding:
    return Finding(what, Verdict.OK, said)


def wrong(what: str, said: str, remedy: str) -> Finding:
    return Finding(what, Verdict.WRONG, said, remedy)


def careful(what: str, said: str, remedy: str) -> Finding:
    return Finding(what, Verdict.CAREFUL, said, remedy)


def unknown(what: str, said: str, remedy: str = "") -> Finding:
    return Finding(what, Verdict.UNKNOWN, said, remedy)


def each(
    what: str, faults: list[str], fine: str = "", remedy: str = "", most: int = 20
) -> Iterator[Finding]:
    """A line for each fault, up to so many; one that all is well if there is none."""
    for fault in faults[:most]:
        yield wrong(what, fault, remedy)
    if len(faults) > most:
        yield wrong(what, f"and {len(faults) - most} more like these", remedy)
    if not faults:
        yield ok(what, fine)


def looked(what: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What a look finds. One that fails is a finding, too, and the others go on."""
    try:
        yield from look()
    except (OSError, TacitError) as failed:
        yield unknown(what, f"{failed}" or type(failed).__name__)
