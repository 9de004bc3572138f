"""What `tacit status` and `tacit logs` do, once their arguments are read."""

import sys
import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import typer
from rich.table import Table

from tacit.app.cli.screen import Screen, interruptible
from tacit.app.deployment import state, ticket
from tacit.app.deployment.fleet import found
from tacit.app.deployment.places import Places
from tacit.app.deployment.state import State
from tacit.app.folder import RunFolder
from tacit.app.journal import LOG
from tacit.app.losses import Losses, losses
from tacit.crypto.errors import ParameterError, TacitError
from tacit.server.auditlog import verify

FAILED = 1  # exit code
SHOWN_RUNS, SHOWN_NODES, SHOWN_REFUSED = 20, 20, 5
FOLLOW = 0.3


def status(screen: Screen, folder: Path) -> None:
    """Everything there is to see. Ends with FAILED if something is wrong."""
    places = found(folder).places
    is_up, now = state.is_up(places), state.read(places)
    if is_up:
        screen.say(f"{folder} is up" if now.is_ready else f"{folder} is starting")
        _processes(screen, now)
        _nodes(screen, now)
    else:
        screen.say(f"{folder} is not up: tacit up --dir {folder}")
    came_to_nothing = _runs(screen, places)
    for refused in now.refused[-SHOWN_REFUSED:]:
        by = f" by {refused.by}" if refused.by else ""
        screen.say(f"refused {_time(refused.at)}: {refused.order}{by}: {refused.reason}")
        screen.fact(refused=refused.order, at=refused.at, by=refused.by, reason=refused.reason)
    for trouble in now.troubles if is_up else ():
        screen.say(f"trouble: {trouble}", style="red")
        screen.fact(trouble=trouble)
    head = _head(places)
    if head:
        screen.say(f"log: {head}")
    is_well = is_up and now.is_ready and not now.troubles and not came_to_nothing
    screen.result(
        folder=str(folder),
        up=is_up,
        ready=is_up and now.is_ready,
        online=sum(each.is_online for each in now.nodes) if is_up else 0,
        registered=len(now.nodes),
        log=head,
    )
    if not is_well:
        raise typer.Exit(FAILED)


def _processes(screen: Screen, now: State) -> None:
    table = Table("process", "state", "pid", "since", "restarts")
    for each in now.processes:
        table.add_row(
            each.name,
            each.state,
            str(each.pid or ""),
            _time(each.since) if each.pid else "",
            str(each.restarts),
        )
        screen.fact(
            process=each.name,
            state=each.state,
            pid=each.pid,
            restarts=each.restarts,
            ended=each.ended,
        )
    screen.console.print(table)
    for each in now.processes:
        if each.ended:
            screen.say(f"{each.name} ended last with {each.ended}")


def _nodes(screen: Screen, now: State) -> None:
    online = sum(each.is_online for each in now.nodes)
    screen.say(f"devices online: {online} of {len(now.nodes)}")
    away = [each.name for each in now.nodes if not each.is_online]
    if away:
        more = f" and {len(away) - SHOWN_NODES} more" if len(away) > SHOWN_NODES else ""
        screen.say(f"  not online: {', '.join(away[:SHOWN_NODES])}{more}")
    for each in now.nodes:
        screen.fact(device=each.name, online=each.is_online)


def _runs(screen: Screen, places: Places) -> bool:
    """Whether the newest run has not learnt anything in any of its rounds."""
    folders = sorted(places.runs.glob("*"), key=_ordered)[-SHOWN_RUNS:]
    if not folders:
        return False
    table = Table("run", "status", "round", "accuracy", "begun", "why")
    came = dict[str, Losses]()
    for folder in folders:
        try:
            run, held = RunFolder.open(folder), ticket.read(folder)
            rounds, said, lost = run.rounds(), run.status(), losses(run.events())
        except TacitError as bad:
            table.add_row(folder.name, "damaged", "", "", "", str(bad))
            continue
        accuracy = rounds[-1]["server"].get("accuracy") if rounds else None
        shown = "" if accuracy is None else f"{accuracy:.3f}"
        why, begun = (held.reason, held.begun) if held is not None else ("", 0)
        how = _how(said, held)
        table.add_row(
            folder.name, how, f"{len(rounds)}/{run.settings.run.rounds}", shown, str(begun), why
        )
        came[folder.name] = lost
        screen.fact(
            run=folder.name,
            status=how,
            round=len(rounds),
            rounds=run.settings.run.rounds,
            accuracy=accuracy,
            begun=begun,
            reason=why,
            lost=lost.lost,
            lost_why=lost.why,
        )
    screen.console.print(table)
    for name, each in came.items():
        if each.lost:
            style = "red" if each.is_all else ""
            screen.say(
                f"run {name}: {each.lost} of {each.rounds} rounds lost: {each.why}", style=style
            )
    newest = came.get(folders[-1].name)
    return newest is not None and newest.is_all


def _how(said: str, held: ticket.Ticket | None) -> str:
    """A run that is not over is begun again, whatever became of it the last time."""
    if held is None:
        return said
    return held.how or ("waits" if said in ("failed", "interrupted") else said)


def logs(folder: Path, what: str, lines: int, *, follow: bool) -> None:
    """Print the end of a log, and what comes after."""
    path = _log(found(folder).places, what)
    with interruptible("the processes go on"):
        for line in _lines(path, lines, follow):
            sys.stdout.write(line)
            sys.stdout.flush()


def _log(places: Places, what: str) -> Path:
    path = places.logs / f"{what}.log"
    if path.parent == places.logs and path.is_file():
        return path
    events = places.runs / what / "metrics.jsonl"
    if events.parent.parent == places.runs and events.is_file():
        return events
    known = sorted(each.stem for each in places.logs.glob("*.log"))
    known += sorted(each.parent.name for each in places.runs.glob("*/metrics.jsonl"))
    raise ParameterError(f"no log of {what}: there are {', '.join(known) or 'none yet'}")


def _lines(path: Path, last: int, follow: bool) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from deque(file, maxlen=last)
        while follow:
            line = file.readline()
            if line:
                yield line
            elif path.stat().st_size < file.tell():  # it was turned over
                file.seek(0)
            else:
                time.sleep(FOLLOW)


def _head(places: Places) -> str:
    path = places.folder / LOG
    if not path.exists():
        return ""
    try:
        whole = verify(path)
    except TacitError as bad:
        return f"{path}: {bad}"
    return f"{whole.head.head.size} entries, root {whole.head.head.root.hex()}"


def _ordered(folder: Path) -> float:
    try:
        held = ticket.read(folder)
    except TacitError:
        held = None
    return held.ordered if held is not None else folder.stat().st_mtime


def _time(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
