"""The commands that attack: apart from the others, for they alone cannot do without torch."""

import time
from collections.abc import Callable
from dataclasses import replace as with_
from pathlib import Path

from rich.table import Table

from tacit.app import leakage, reporting
from tacit.app.check import check
from tacit.app.cli.commands import run, title_of
from tacit.app.cli.screen import Screen, interruptible
from tacit.app.demo import DEMO, QUICK_DEMO
from tacit.app.folder import RunFolder
from tacit.crypto.errors import ParameterError
from tacit.simulations.evaluate import Outcome, save_outcomes
from tacit.simulations.score import RECOVERED_DB, at_floor, pooled

LEGEND = (
    "SSIM: likeness to the original, 1 is the same. Floor: what guessing without an update gets.\n"
    f"Recovered: share of pictures with a PSNR of {RECOVERED_DB:g} dB or more."
)


def demo(screen: Screen, out: Path, *, quick: bool) -> None:
    """The same federation in the clear and under masks, the same attacks on both, one report."""
    began = time.monotonic()
    base = QUICK_DEMO if quick else DEMO
    screen.say("Ten devices learn digits they never show.", style="bold")
    plans = {
        "plain": base.changed(['secure.protocol="plain"']),
        "secure": base,
    }
    for settings in plans.values():
        check(settings)
    with interruptible("tacit demo starts over"), screen.progress():
        for name, settings in plans.items():
            run(screen, RunFolder.create(out / name, settings, replace=True), title_of(settings))
        exposure = leakage.QUICK if quick else leakage.Exposure()
        outcomes = _expose(screen, out / reporting.ATTACKS, exposure)
    page = reporting.write_comparison(out)
    numbers = reporting.headline_numbers(out)
    _show_demo(screen, numbers)
    screen.console.print(_table(outcomes))
    screen.say(LEGEND)
    seconds = time.monotonic() - began
    screen.say(f"done in {seconds:.0f} s; open {page} in a browser", style="bold")
    screen.result(report=str(page), seconds=seconds, **numbers)


def _show_demo(screen: Screen, numbers: dict[str, float]) -> None:
    screen.say(
        f"accuracy {numbers['accuracy_secure']:.3f} under masks, "
        f"{numbers['accuracy_plain']:.3f} in the clear; "
        f"{numbers['exact_sums']:.0f} of {numbers['checked_sums']:.0f} sums exact; "
        f"masks cost {100 * numbers['overhead']:.0f} % of a round"
    )


def attack(
    screen: Screen, out: Path, devices: int, seed: int, *, quick: bool, replace: bool
) -> None:
    """Faces out of updates: one device in the clear, and a secure sum."""
    target = out / reporting.ATTACKS
    if target.exists() and not replace:
        raise ParameterError(f"{target} holds attacks already: --replace makes them anew")
    plan = with_(leakage.QUICK if quick else leakage.Exposure(), devices=devices, seed=seed)
    with interruptible("tacit attack starts over"), screen.progress():
        outcomes = _expose(screen, target, plan)
    screen.console.print(_table(outcomes))
    screen.say(LEGEND)
    page = reporting.write_attacks(out)
    screen.say(f"report: {page}")
    screen.result(report=str(page), outcomes=[_summary(outcome) for outcome in outcomes])


def _expose(screen: Screen, target: Path, plan: leakage.Exposure) -> list[Outcome]:
    bars: dict[str, Callable[..., None]] = {}

    def step(what: str, done: int, total: int) -> None:
        if what not in bars:
            bars[what] = screen.bar(what)
        bars[what](done, total)

    outcomes = list(leakage.expose(plan, step))
    save_outcomes(target, outcomes)
    save_outcomes(target / reporting.CURVE, list(leakage.curve(plan, step)))
    return outcomes


def _table(outcomes: list[Outcome]) -> Table:
    """A row for each attack on each kind of view; several single devices are one row."""
    views: dict[tuple[str, int], list[Outcome]] = {}
    for outcome in outcomes:
        views.setdefault((outcome.attack, outcome.clients), []).append(outcome)
    table = Table("attack", "what the server saw", "SSIM", "floor", "recovered", "")
    for (attack, clients), several in views.items():
        found = pooled([outcome.score for outcome in several])
        floor = pooled([outcome.floor for outcome in several])
        table.add_row(
            attack,
            "one device" if clients == 1 else f"a sum of {clients}",
            f"{found.mean_ssim:.2f}",
            f"{floor.mean_ssim:.2f}",
            f"{100 * found.recovered:.0f} %",
            "at the floor" if at_floor(found, floor) else "leaks",
        )
    return table


def _summary(outcome: Outcome) -> dict[str, str | float | bool]:
    return {
        "attack": outcome.attack,
        "protocol": outcome.protocol,
        "clients": outcome.clients,
        "ssim": outcome.score.mean_ssim,
        "floor": outcome.floor.mean_ssim,
        "recovered": outcome.score.recovered,
        "at_floor": bool(at_floor(outcome.score, outcome.floor)),
    }
