"""What the commands around runs do, once their arguments are read."""

from pathlib import Path

import numpy as np
import typer
from rich.table import Table

from tacit.app import reporting
from tacit.app.check import check
from tacit.app.cli.screen import Screen, complain, interruptible
from tacit.app.config import Settings, load
from tacit.app.folder import DEVICE_LOG, RunFolder
from tacit.app.simulation import Finished
from tacit.app.simulation import simulate as run_simulation
from tacit.server.checkpoint import Checkpoint
from tacit.simulations.data.partition import parse
from tacit.simulations.data.partition import partition as divide
from tacit.simulations.data.sources import EMBEDDED, FORMS, IN_FOLDER
from tacit.simulations.data.sources import load as load_data

FAILED = 1
SHOWN_DEVICES, SHOWN_CLASSES = 50, 12
IN_WORDS = {
    "plain": "in the clear",
    "pairwise": "under masks",
    "lattice": "under lattice keys",
    "tenseal": "under one key",
    "auto": "under masks or lattice keys",
}


def simulate(
    screen: Screen, config: Path | None, assign: list[str], out: Path, *, replace: bool
) -> None:
    """A fresh run. Everything that can be wrong with it is found before its folder is made."""
    settings = (load(config) if config else Settings()).changed(assign)
    with interruptible("nothing was started"):
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
    path = folder.path
    with interruptible(f"tacit simulate --resume --out {path} goes on"), screen.progress():
        run(screen, folder, title_of(folder.settings), checkpoint)
    page = reporting.write(path)
    rounds = folder.rounds()
    last = rounds[-1]["server"] if rounds else {}
    if "accuracy" in last:
        screen.say(f"accuracy {last['accuracy']:.3f} on the test set")
    if (statement := reporting.statement_of(folder)) is not None:
        screen.say(statement.summary)
    if (path / DEVICE_LOG).exists():
        screen.say(f"why devices failed: {path / DEVICE_LOG}")
    screen.say(f"report: {page}")
    trained = reporting.trained_rounds(folder)
    spent = {} if statement is None else {"epsilon": statement.worst, "delta": statement.delta}
    screen.result(folder=str(path), report=str(page), trained_rounds=trained, **spent, **last)
    if not trained:
        complain("no round trained the model: in each, too few devices sent an update that counts")
        raise typer.Exit(FAILED)


def run(
    screen: Screen, folder: RunFolder, title: str, checkpoint: Checkpoint | None = None
) -> Finished:
    """Run a federation into its folder, and show how it goes."""
    with folder:
        finished = run_simulation(
            folder.settings, on_event=screen.hear(title), folder=folder, resume=checkpoint
        )
    oracle = finished.oracle
    if oracle is not None and oracle.checked:
        folder.note(
            exact_sums=oracle.exact, checked_sums=oracle.checked, working_seconds=oracle.working
        )
    return finished


def title_of(settings: Settings) -> str:
    """A run in few words."""
    return f"{settings.data.name}, {IN_WORDS[settings.secure.protocol]}"


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
    screen.say(f"{dataset.name}: {dataset.source}")
    screen.say(
        f"{len(dataset.train)} training and {len(dataset.test)} test examples of shape "
        f"{dataset.shape}, {dataset.classes} classes"
    )
    shown = range(min(dataset.classes, SHOWN_CLASSES))
    screen.say(f"training examples of each device ({how}), in all and by class:")
    table = Table("device", "all", *map(str, shown), padding=(0, 0))
    for device, share in enumerate(shares[:SHOWN_DEVICES]):
        counts = np.bincount(dataset.train.y[share], minlength=dataset.classes)
        table.add_row(str(device), str(len(share)), *map(str, counts[: len(shown)]))
    screen.console.print(table)
    if devices > SHOWN_DEVICES or dataset.classes > SHOWN_CLASSES:
        screen.say(f"shown: at most {SHOWN_DEVICES} devices and {SHOWN_CLASSES} classes")
    screen.result(name=dataset.name, train=len(dataset.train), shares=[len(s) for s in shares])
