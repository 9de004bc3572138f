"""Numbers and names as a reader wants them."""

from collections.abc import Sequence

from tacit.simulations.score import Interval

_DECIMAL = ("SSIM", "cosine")


def count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def duration(seconds: float) -> str:
    if seconds < 0.1:
        return "under 0.1 s"
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def listed(words: Sequence[str], most: int = 3) -> str:
    """ "a", "a and b", "a, b and c", "a, b and 4 others"."""
    shown = words if len(words) <= most else [*words[: most - 1], f"{len(words) - most + 1} others"]
    return " and ".join(part for part in (", ".join(shown[:-1]), shown[-1]) if part)


def figure(measure: str, value: float) -> str:
    """A value of this measure: decibels, a decimal fraction, or a share in per cent."""
    if measure == "PSNR":
        return f"{value:.1f} dB"
    if measure in _DECIMAL:
        return f"{value:.2f}"
    small = 0 < value < 0.0995
    return f"{value:.1%}" if small else f"{value:.0%}"


def span(measure: str, score: Interval) -> str:
    """ "0.83 to 0.91", the unit once."""
    low = figure(measure, score.low).removesuffix(" dB")
    return f"{low} to {figure(measure, score.high)}"
