"""The demo: apart from the other commands, as it cannot do without torch."""

import time
from pathlib import Path

from rich.table import Table

from tacit.app import reporting
from tacit.app.check import check
from tacit.app.cli.commands import run, title_of
from tacit.app.cli.screen import Screen, interruptible
from tacit.app.demo import DEMO, EXPOSURE, QUICK_DEMO, QUICK_EXPOSURE, Exposure
from tacit.app.folder import RunFolder
from tacit.app.lab.attempt import attempt
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
        exposure = QUICK_EXPOSURE if quick else EXPOSURE
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


def _expose(screen: Screen, target: Path, plan: Exposure) -> list[Outcome]:
    """Both attacks, and the curve; each is kept once all of it is done."""
    found = []
    for name, path, trials in (
        ("attacks", target, plan.trials()),
        ("sums of growing size", target / reporting.CURVE, plan.growing()),
    ):
        bar, outcomes = screen.bar(name), []
        for done, (cell, seed) in enumerate(trials):
            bar(done, len(trials))
            if (outcome := attempt(cell, seed).outcome) is not None:
                outcomes.append(outcome)
        bar(len(trials), len(trials))
        save_outcomes(path, outcomes)
        found.append(outcomes)
    return found[0]


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
