"""The privacy part of a report: what each attack got, next to what a blind guess gets."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import isnan

import numpy as np

from tacit.simulations.evaluate import Outcome
from tacit.simulations.report.pictures import Pair, picture_grid
from tacit.simulations.report.png import is_image
from tacit.simulations.report.words import capital, duration
from tacit.simulations.score import Score, at_floor, interval, pooled

MAX_IMAGES = 12
_PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Case:
    """All outcomes of one attack against one kind of update with the same grants."""

    attack: str
    outcomes: tuple[Outcome, ...]

    @property
    def first(self) -> Outcome:
        return self.outcomes[0]

    @property
    def summed(self) -> bool:
        return self.first.clients > 1

    @property
    def score(self) -> Score:
        return pooled([outcome.score for outcome in self.outcomes])

    @property
    def floor(self) -> Score:
        return pooled([outcome.floor for outcome in self.outcomes])

    @property
    def at_floor(self) -> bool:
        return at_floor(self.score, self.floor)

    @property
    def words(self) -> str:
        first = self.first
        kind = "plain" if first.protocol == _PLAIN else "secure"
        if self.summed:
            return f"the {kind} sum of {first.clients} devices"
        return "one device in the clear" if kind == "plain" else "a secure sum of one device"

    @property
    def measure(self) -> tuple[str, float, float]:
        """The headline measure: its name, the attack's mean, the floor's."""
        score, floor = self.score, self.floor
        if isnan(score.mean_ssim):
            return "PSNR", score.mean_psnr, floor.mean_psnr
        return "SSIM", score.mean_ssim, floor.mean_ssim


def cases(outcomes: Sequence[Outcome]) -> dict[str, list[Case]]:
    """Outcomes by attack, and for each attack by kind of update, fewest devices first."""
    groups: dict[tuple[str, str, int, int, int, float], list[Outcome]] = {}
    for one in outcomes:
        measured = (one.score.gallery, one.score.threshold)
        key = (one.attack, one.protocol, one.clients, one.knows.value, *measured)
        groups.setdefault(key, []).append(one)
    found: dict[str, list[Case]] = {}
    for members in groups.values():
        case = Case(members[0].attack, tuple(members))
        found.setdefault(case.attack, []).append(case)
    for several in found.values():
        several.sort(key=lambda case: (case.first.clients, case.first.protocol != _PLAIN))
    return found


def compared(outcomes: Sequence[Outcome]) -> tuple[Case, Case] | None:
    """One device in the clear and the secure sum, under the attack that gets most from the sum."""
    pairs = [
        (alone, summed)
        for several in cases(outcomes).values()
        for alone in several
        for summed in several
        if not alone.summed and alone.first.protocol == _PLAIN
        if summed.summed and summed.first.protocol != _PLAIN
    ]
    return max(pairs, key=lambda pair: pair[1].measure[1] - pair[1].measure[2], default=None)


def attack_section(attack: str, several: Sequence[Case]) -> str:
    """One attack: its cases side by side."""
    cards = "".join(_card(case) for case in several)
    return (
        f'<section class="attack"><h3>{escape(capital(attack))}</h3>'
        f'<div class="cards">{cards}</div></section>'
    )


def _card(case: Case) -> str:
    verdict, tone = ("at the floor", "calm") if case.at_floor else ("above the floor", "warm")
    return (
        f'<article class="card"><header><h4>{escape(capital(case.words))}</h4>'
        f'<span class="badge {tone}">{verdict}</span></header>'
        f'<p class="granted">Granted beyond what the server saw: '
        f"<b>{escape(case.first.knows.words())}</b></p>"
        f"{_pictures(case)}{_scores(case)}</article>"
    )


def _pictures(case: Case) -> str:
    pairs = [
        Pair(truth, guess, ssim)
        for outcome in case.outcomes
        for truth, guess, ssim in zip(outcome.truth, outcome.guess, outcome.score.ssim, strict=True)
        if is_image(truth.shape)
    ]
    if not pairs:
        return ""
    more = f" The first {MAX_IMAGES} of {len(pairs)}." if len(pairs) > MAX_IMAGES else ""
    grid = picture_grid(pairs[:MAX_IMAGES], f"by {case.attack} from {case.words}")
    return f'<p class="hint">Left the original, right what the attacker got.{more}</p>{grid}'


def _scores(case: Case) -> str:
    score, floor = case.score, case.floor
    recovered = f"Recovered, PSNR ≥ {score.threshold:g} dB"
    identified = f"Identified among {score.gallery:,}"
    rows = [
        _row(recovered, f"{score.recovered:.0%}", f"{floor.recovered:.0%}"),
        _row(identified, f"{score.identified:.0%}", f"{floor.identified:.1%}"),
        _row("PSNR in dB", _mean(score.psnr, 1), f"{floor.mean_psnr:.1f}"),
    ]
    if not isnan(score.mean_ssim):
        rows.insert(0, _row("SSIM", _mean(score.ssim, 2), f"{floor.mean_ssim:.2f}"))
        if len(score.ssim) > 1:  # a mean can hide the one input that came out
            best = _row("SSIM of the best", f"{max(score.ssim):.2f}", f"{max(floor.ssim):.2f}")
            rows.insert(1, best)
    images = len(score.mse)
    seconds = sum(outcome.seconds for outcome in case.outcomes)
    return (
        '<table class="scores"><thead><tr><th scope="col">Measure</th><th scope="col">Attack</th>'
        f'<th scope="col">Floor</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
        f'<p class="hint">{images} {"input" if images == 1 else "inputs"}, '
        f"{duration(seconds)} of attack.</p>"
    )


def _row(name: str, ours: str, floor: str) -> str:
    return f'<tr><th scope="row">{escape(name)}</th><td>{ours}</td><td>{floor}</td></tr>'


def _mean(values: Sequence[float], places: int) -> str:
    """The mean, with its 95 % interval over images where there are several."""
    # A fixed seed: the same outcomes give the same page, byte for byte.
    found = interval(values, np.random.default_rng(0))
    shown = f"{found.mean:.{places}f}"
    if len(values) == 1:
        return shown
    return f"{shown} <small>{found.low:.{places}f} to {found.high:.{places}f}</small>"
