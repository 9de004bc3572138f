"""What `tacit up` and `tacit down` do, once their arguments are read."""

import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

from tacit.app.cli.screen import Screen, interruptible
from tacit.app.deployment import local, state
from tacit.app.deployment.environment import environment
from tacit.app.deployment.fleet import Fleet, found
from tacit.app.deployment.proc import is_alive
from tacit.app.deployment.supervisor import supervise
from tacit.app.server_folder import joined
from tacit.crypto.errors import ParameterError, TacitError

STARTS_WITHIN, ENDS_WITHIN = 120.0, 90.0
STEP = 0.2
LOG = "supervisor"


class NotUp(TacitError):
    """It did not come up, or not all of it."""


def up(screen: Screen, folder: Path, nodes: int | None, *, foreground: bool) -> None:
    """Start a federation; make it, where there is none."""
    fleet = _fleet(screen, folder, nodes)
    if state.is_up(fleet.places):
        raise ParameterError(f"{folder} is up already: tacit status --dir {folder}")
    joined(fleet.places.folder)  # or it cannot be: said here and not in a log
    if foreground:
        supervise(fleet, lambda line: screen.say(f"{datetime.now():%H:%M:%S} {line}"))
        return
    with interruptible(f"it may be up: tacit status --dir {folder}"):
        _start(screen, folder, fleet)
    online = len(fleet.vaults)
    where = f"--dir {folder}"
    screen.say(f"up: tacit run {where} --wait begins a run, tacit down {where} ends it all")
    screen.result(folder=str(folder), devices=online)


def down(screen: Screen, folder: Path) -> None:
    """End it."""
    places = found(folder).places
    state.require_up(places)
    now = state.read(places)
    if not is_alive(now.pid, now.start):
        raise NotUp(f"{folder} is only just starting: try again")
    os.kill(now.pid, signal.SIGTERM)
    end = time.monotonic() + ENDS_WITHIN
    while state.is_up(places) or is_alive(now.pid, now.start):
        if time.monotonic() >= end:
            raise NotUp(f"{folder} does not end: tacit logs supervisor --dir {folder}")
        time.sleep(STEP)
    screen.say(f"{folder} is down; its runs go on at the next tacit up")
    screen.result(folder=str(folder))


def _fleet(screen: Screen, folder: Path, nodes: int | None) -> Fleet:
    if local.is_empty(folder):
        return local.make(folder, nodes or local.NODES, int(time.time()), screen.say)
    fleet = found(folder)
    if nodes is not None and nodes != len(fleet.vaults):
        raise ParameterError(
            f"{folder} is there, with {len(fleet.vaults)} devices: leave out --nodes, or name an "
            "empty place with --dir"
        )
    return fleet


def _start(screen: Screen, folder: Path, fleet: Fleet) -> None:
    """Start the supervisor in a session of its own, and wait for it and its devices."""
    places = fleet.places
    places.logs.mkdir(mode=0o700, exist_ok=True)
    log = places.logs / f"{LOG}.log"
    command = [sys.executable, "-m", "tacit.app.cli.main", "up", "--foreground", "--dir"]
    begins = log.stat().st_size if log.exists() else 0
    with log.open("ab") as out:
        process = subprocess.Popen(  # noqa: S603
            [*command, str(folder.absolute())],
            env=environment(places.flwr.absolute(), os.environ),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    end = time.monotonic() + STARTS_WITHIN
    with screen.progress():
        bar = screen.bar("devices online" if fleet.vaults else "SuperLink")
        while True:
            now = state.read(places)
            is_its = now.pid == process.pid
            online = sum(each.is_online for each in now.nodes) if is_its else 0
            if fleet.vaults:
                begun = "" if is_its and now.is_ready else "SuperLink starts"
                bar(online, len(fleet.vaults), begun)
            else:  # a server's folder: its devices are on other machines and come when they do
                bar(int(is_its and now.is_ready), 1, "")
            if is_its and now.is_ready and online >= len(fleet.vaults):
                return
            if process.poll() is not None:
                said = log.read_bytes()[begins:].decode(errors="replace").strip()
                raise NotUp(f"it did not come up: {said.splitlines()[-1] if said else log}")
            if time.monotonic() >= end:
                failing = [f"; {each.name}: {each.ended}" for each in now.processes if each.ended]
                raise NotUp(
                    f"{online} of {len(fleet.vaults)} devices are online after {STARTS_WITHIN:g} s"
                    f"{''.join(failing)}: it goes on trying, tacit status --dir {folder}"
                )
            time.sleep(STEP)
