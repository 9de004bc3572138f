"""What each command does, once its arguments are read."""

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace as with_
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path

import numpy as np
import typer
from rich.table import Table

from tacit.app import leakage, reporting
from tacit.app.cli.screen import Screen, complain
from tacit.app.config import Settings, keys, load
from tacit.app.demo import DEMO, QUICK_DEMO
from tacit.app.folder import RunFolder
from tacit.app.material import check
from tacit.app.simulation import Finished
from tacit.app.simulation import simulate as run_simulation
from tacit.server.checkpoint import Checkpoint
from tacit.simulations.evaluate import Outcome, save_outcomes
from tacit.simulations.partition import parse
from tacit.simulations.partition import partition as divide
from tacit.simulations.score import at_floor
from tacit.simulations.sources import EMBEDDED, FORMS, IN_FOLDER
from tacit.simulations.sources import load as load_data

INTERRUPTED = 130


def simulate(
    screen: Screen, config: Path | None, assign: list[str], out: Path, *, replace: bool
) -> None:
    """A fresh run. Everything that can be wrong with it is found before its folder is made."""
    settings = (load(config) if config else Settings()).changed(assign)
    check(settings)
    _simulate(screen, RunFolder.create(out, settings, replace=replace), None)


def resume(screen: Screen, out: Path) -> None:
    """Go on with an interrupted run."""
    folder = RunFolder.open(out)
    check(folder.settings)
    checkpoint = folder.resume()
    screen.say(f"going on after round {checkpoint.round if checkpoint else 0}")
    _simulate(screen, folder, checkpoint)


def _simulate(screen: Screen, folder: RunFolder, checkpoint: Checkpoint | None) -> None:
    title = _title(folder.settings)
    with _interruptible(folder.path), screen.progress():
        _run(screen, folder, title, checkpoint)
    page = reporting.write(folder.path)
    last = folder.rounds()[-1]["server"] if folder.rounds() else {}
    accuracy = last.get("accuracy")
    if accuracy is not None:
        screen.say(f"accuracy {accuracy:.3f} on the test set")
    screen.say(f"report: {page}")
    screen.result(folder=str(folder.path), report=str(page), **last)


def _run(
    screen: Screen, folder: RunFolder, title: str, checkpoint: Checkpoint | None = None
) -> Finished:
    with folder:
        finished = run_simulation(
            folder.settings, on_event=screen.hear(title), folder=folder, resume=checkpoint
        )
    oracle = finished.oracle
    if oracle is not None and oracle.checked:
        folder.note(exact_sums=oracle.exact, checked_sums=oracle.checked)
    return finished


def demo(screen: Screen, out: Path, *, quick: bool) -> None:
    """The same federation in the clear and under masks, the same attacks on both, one report."""
    began = time.monotonic()
    base = QUICK_DEMO if quick else DEMO
    screen.say("[bold]Ten devices learn digits they never show.[/]")
    plans = {
        "plain": base.changed(['secure.protocol="plain"']),
        "secure": base,
    }
    for settings in plans.values():
        check(settings)
    folders = {
        name: RunFolder.create(out / name, settings, replace=True)
        for name, settings in plans.items()
    }
    with _interruptible(out), screen.progress():
        for name, folder in folders.items():
            _run(screen, folder, _title(plans[name]))
        exposure = leakage.QUICK if quick else leakage.Exposure()
        _expose(screen, out / reporting.ATTACKS, exposure)
    page = reporting.write_comparison(out)
    _show_demo(screen, reporting.headline_numbers(out))
    seconds = time.monotonic() - began
    screen.say(f"done in {seconds:.0f} s; open [bold]{page}[/] in a browser")
    screen.result(report=str(page), seconds=seconds, **reporting.headline_numbers(out))


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
        complain(f"{target} holds attacks already: --replace makes them anew")
        raise typer.Exit(2)
    plan = with_(leakage.QUICK if quick else leakage.Exposure(), devices=devices, seed=seed)
    with _interruptible(out, resumable=False), screen.progress():
        outcomes = _expose(screen, target, plan)
    screen.console.print(_table(outcomes))
    page = reporting.write_attacks(out)
    screen.say(f"report: {page}")
    for outcome in outcomes:
        screen.result(
            attack=outcome.attack,
            protocol=outcome.protocol,
            clients=outcome.clients,
            ssim=outcome.score.mean_ssim,
            floor=outcome.floor.mean_ssim,
            at_floor=at_floor(outcome.score, outcome.floor),
        )


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
    table = Table("attack", "what the server saw", "SSIM", "floor", "recovered", "")
    for outcome in outcomes:
        saw = "one device" if outcome.clients == 1 else f"a sum of {outcome.clients}"
        table.add_row(
            outcome.attack,
            saw,
            f"{outcome.score.mean_ssim:.2f}",
            f"{outcome.floor.mean_ssim:.2f}",
            f"{100 * outcome.score.recovered:.0f} %",
            "at the floor" if at_floor(outcome.score, outcome.floor) else "leaks",
        )
    return table


def report(screen: Screen, run: Path) -> None:
    """Write the report again."""
    page = reporting.rewrite(run)
    screen.say(f"report: {page}")
    screen.result(report=str(page))


def data(screen: Screen, name: str | None, devices: int, partition: str, seed: int) -> None:
    """List the data sets, or show one and its partition."""
    if name is None:
        for known in EMBEDDED:
            screen.say(f"{known:15} ships with what is installed")
        for known in IN_FOLDER:
            screen.say(f"{known:15} by path: --set data.root=DIR, or the variable TACIT_DATA")
        screen.say(f"{'your own':15} {FORMS}")
        screen.result(embedded=list(EMBEDDED), in_folder=list(IN_FOLDER))
        return
    how = parse(partition)
    dataset = load_data(name)
    shares = divide(dataset, devices, how, seed)
    screen.say(f"[bold]{dataset.name}[/]: {dataset.source}")
    screen.say(
        f"{len(dataset.train)} training and {len(dataset.test)} test examples of shape "
        f"{dataset.shape}, {dataset.classes} classes"
    )
    table = Table("device", "examples", *(f"class {c}" for c in range(min(dataset.classes, 12))))
    for device, share in enumerate(shares[:50]):
        counts = np.bincount(dataset.train.y[share], minlength=dataset.classes)
        table.add_row(str(device), str(len(share)), *map(str, counts[:12]))
    screen.console.print(table)
    screen.result(name=dataset.name, train=len(dataset.train), shares=[len(s) for s in shares])


def list_keys(screen: Screen) -> None:
    """Every setting with its default and what it is for."""
    table = Table("setting", "default", "what it is for")
    for key, (default, purpose) in keys().items():
        table.add_row(key, repr(default), purpose)
    table.add_row("faults", "[]", "list of texts such as 'drop report 3,7 @2-4'")
    screen.console.print(table)
    screen.result(keys={key: default for key, (default, _) in keys().items()})


def version(screen: Screen, own: str) -> None:
    """Versions of Tacit and of what it stands on."""
    names = ("flwr", "numpy", "cryptography", "torch")
    found = {"tacit": own, "python": platform.python_version()}
    found |= {name: _version_of(name) for name in names}
    for name, number in found.items():
        screen.say(f"{name:13} {number}")
    screen.result(**found)


def _version_of(name: str) -> str:
    try:
        return installed(name)
    except PackageNotFoundError:
        return "not installed"


def _title(settings: Settings) -> str:
    protocol = "in the clear" if settings.secure.protocol == "plain" else "under masks"
    return f"{settings.data.name}, {protocol}"


@contextmanager
def _interruptible(path: Path, *, resumable: bool = True) -> Iterator[None]:
    """Ctrl-C ends with a word on what to do, not with a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        remedy = f": tacit simulate --resume --out {path} goes on" if resumable else ""
        complain(f"interrupted{remedy}")
        raise typer.Exit(INTERRUPTED) from None
