"""Originals and what an attacker made of them, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from math import isnan

from tacit.simulations.report.png import data_uri
from tacit.simulations.score import GREY, Floats


@dataclass(frozen=True, slots=True)
class Pair:
    """An original and the guess at it, images as `png.is_image` says; `ssim` NaN if unknown."""

    truth: Floats = field(repr=False)
    guess: Floats = field(repr=False)
    ssim: float

    @property
    def words(self) -> str:
        if (self.guess == GREY).all():
            return "no guess"
        return "" if isnan(self.ssim) else f"SSIM {self.ssim:.2f}"


def picture_grid(pairs: Sequence[Pair], origin: str) -> str:
    """The pairs as figures; `origin` says in the alt texts how the guesses came about."""
    figures = []
    for number, pair in enumerate(pairs, start=1):
        got = f"reconstruction {number} {origin}, {pair.words}".rstrip(", ")
        figures.append(
            f'<figure class="pair"><img src="{data_uri(pair.truth)}" alt="original {number}">'
            f'<img src="{data_uri(pair.guess)}" alt="{escape(got)}">'
            f"<figcaption>{pair.words}</figcaption></figure>"
        )
    size = "large" if len(pairs) == 1 else "small"
    return f'<div class="pictures {size}">{"".join(figures)}</div>'
