"""What `tacit run` and `tacit stop` do, once their arguments are read."""

import os
import time
from pathlib import Path

import typer

from tacit.app import reporting, server_folder
from tacit.app.check import check
from tacit.app.cli.commands import FAILED, title_of
from tacit.app.cli.screen import Screen, complain, interruptible
from tacit.app.config import Settings, load
from tacit.app.deployment import state, ticket
from tacit.app.deployment.fleet import found
from tacit.app.deployment.history import refusal
from tacit.app.deployment.ordered import check_confined
from tacit.app.deployment.orders import place
from tacit.app.deployment.places import Places, server_in
from tacit.app.folder import RunFolder
from tacit.app.losses import losses
from tacit.crypto.errors import ParameterError, TacitError
from tacit.crypto.order import Act
from tacit.server.entries import encode, read

TAKEN_WITHIN = 30.0
STEP = 0.3


class OrderNotTaken(TacitError):
    """The supervisor refused an order, or did not look at it."""


def run(
    screen: Screen,
    folder: Path,
    config: Path | None,
    assign: list[str],
    name: str,
    key: Path | None,
    *,
    wait: bool,
) -> None:
    """Order a run. Everything that can be wrong with it is found before."""
    if not _is_ours(folder):
        return _run_elsewhere(screen, folder, config, assign, name, key)
    places = _up(folder)
    name = name or _free_name(places)
    if (places.runs / name).exists():
        raise ParameterError(f"there is a run {name} already: choose another --name")
    settings = _settings(places, config, [*assign, f'run.name="{name}"'])
    with interruptible("nothing was ordered"):
        check_confined(settings, os.environ)
        check(settings)
    _order(places, key, Act.RUN, name, settings.toml())
    screen.say(
        f"run {name} is ordered: {settings.data.devices} devices, {settings.run.rounds} rounds"
    )
    return _then(screen, folder, places, name, wait=wait)


def _run_elsewhere(
    screen: Screen,
    folder: Path,
    config: Path | None,
    assign: list[str],
    name: str,
    key: Path | None,
) -> None:
    """At another user's server, after tacit server share: orders go in, runs are not seen."""
    given = load(config) if config else Settings()
    if not name or not _says_devices(given, assign):
        raise ParameterError(
            f"{folder} is another user's, and shows neither runs nor devices: say --name, and "
            "--set data.devices=N"
        )
    settings = given.changed([*assign, f'run.name="{name}"'])
    with interruptible("nothing was ordered"):
        check(settings)
    _order_elsewhere(screen, folder, key, Act.RUN, name, settings.toml())


def _order_elsewhere(
    screen: Screen, folder: Path, key: Path | None, act: Act, name: str, settings: str = ""
) -> None:
    _order(server_in(folder), key, act, name, settings)
    screen.say(f"the order was taken: {act} {name}; tacit dashboard, by a viewer's token, shows it")
    screen.result(run=name)


def resume(screen: Screen, folder: Path, name: str, key: Path | None, *, wait: bool) -> None:
    """Order that a run goes on."""
    if not _is_ours(folder):
        return _order_elsewhere(screen, folder, key, Act.RESUME, name)
    places = _up(folder)
    status = _opened(places, name).status()
    if status == "finished":
        raise ParameterError(f"run {name} is finished: nothing to resume")
    _order(places, key, Act.RESUME, name)
    screen.say(f"run {name} goes on after round {len(_opened(places, name).rounds())}")
    return _then(screen, folder, places, name, wait=wait)


def stop(screen: Screen, folder: Path, name: str, key: Path | None) -> None:
    """Order that a run ends."""
    if not _is_ours(folder):
        return _order_elsewhere(screen, folder, key, Act.STOP, name)
    places = _up(folder)
    _opened(places, name)
    _order(places, key, Act.STOP, name)
    end = time.monotonic() + TAKEN_WITHIN
    while (held := ticket.read(places.runs / name)) is not None and not held.how:
        if time.monotonic() >= end:
            raise OrderNotTaken(f"run {name} is ending: tacit status --dir {folder}")
        time.sleep(STEP)
    screen.say(f"run {name} is stopped: tacit run --resume {name} --dir {folder} goes on with it")
    return screen.result(run=name)


def _is_ours(folder: Path) -> bool:
    """Whether all of it is there to be read; else it is somebody's who shares it, if it is."""
    return not folder.is_dir() or os.access(server_in(folder).folder, os.R_OK)


def _up(folder: Path) -> Places:
    places = found(folder).places
    if not state.is_up(places):
        raise ParameterError(f"{folder} is not up: tacit up --dir {folder}")
    return places


def _settings(places: Places, config: Path | None, assign: list[str]) -> Settings:
    """The device count is that of the roster, unless it is said."""
    registered = len(server_folder.joined(places.folder).nodes)
    settings = load(config) if config else Settings()
    if not _says_devices(settings, assign):
        assign = [f"data.devices={registered}", *assign]
    settings = settings.changed(assign)
    if settings.faults:
        raise ParameterError("faults are for tacit simulate: here devices drop out by themselves")
    if settings.data.devices > registered:
        raise ParameterError(
            f"data.devices = {settings.data.devices}, and {registered} devices are enrolled: "
            "enrol more, or lower it"
        )
    return settings


def _says_devices(settings: Settings, assign: list[str]) -> bool:
    is_assigned = any(each.partition("=")[0].strip() == "data.devices" for each in assign)
    return is_assigned or "devices" in settings.data.model_fields_set


def _free_name(places: Places) -> str:
    number = 1
    while (places.runs / f"run-{number}").exists():
        number += 1
    return f"run-{number}"


def _opened(places: Places, name: str) -> RunFolder:
    if not (places.runs / name).is_dir():
        raise ParameterError(f"no run {name}: tacit status lists them")
    return RunFolder.open(places.runs / name)


def _order(places: Places, key: Path | None, act: Act, name: str, settings: str = "") -> None:
    """Place an order, and wait until it was taken. Raises OrderNotTaken with the reason if it was
    refused."""
    began = time.time()
    file = place(places, key, act, name, settings)
    end = time.monotonic() + TAKEN_WITHIN
    while file.exists():
        if time.monotonic() >= end:
            raise OrderNotTaken(f"the order waits in {file}: tacit status says what is wrong")
        time.sleep(STEP)
    time.sleep(2 * STEP)  # until it says what it did
    if (why := refusal(places, f"{act} {name}", began - 1.0)) is not None:
        raise OrderNotTaken(f"{act} {name} was refused: {why}")


def _then(screen: Screen, folder: Path, places: Places, name: str, *, wait: bool) -> None:
    if not wait:
        screen.say(f"tacit status --dir {folder} shows how far it is")
        screen.result(run=name, folder=str(places.runs / name))
        return
    with interruptible(f"run {name} goes on: tacit stop {name} --dir {folder} stops it"):
        how, reason = _watch(screen, places, name)
    run = RunFolder.open(places.runs / name)
    if how != "finished":
        complain(f"run {name} {how}: {reason}")
        raise typer.Exit(FAILED)
    page, rounds = reporting.write(run.path), run.rounds()
    last = rounds[-1]["server"] if rounds else {}
    if "accuracy" in last:
        screen.say(f"accuracy {last['accuracy']:.3f} on the test set")
    came = losses(run.events())
    if came.lost:
        screen.say(f"{came.lost} of {came.rounds} rounds lost: {came.why}")
    screen.say(f"report: {page}")
    screen.result(run=name, folder=str(run.path), report=str(page), rounds=len(rounds), **last)
    if came.is_all:
        complain(f"run {name} learnt nothing: no round had a sum")
        raise typer.Exit(FAILED)


def _watch(screen: Screen, places: Places, name: str) -> tuple[str, str]:
    """Show a run's events as they come, until it is over; how it ended, and why."""
    folder = RunFolder.open(places.runs / name)
    said = ""
    with screen.progress():
        hear, seen = screen.hear(title_of(folder.settings)), 0
        while True:
            held = ticket.read(folder.path)
            events = folder.events()
            for event in events[seen:]:
                hear(read(encode({**event, "at": 0.0})).entry)  # type: ignore[arg-type]
            seen = len(events)
            if held is not None and held.how:
                return held.how, held.reason
            if held is not None and held.reason != said:
                said = held.reason
                if said:
                    screen.say(f"  waits: {said}")
            if not state.is_up(places):
                return "waits", "the federation is down, and the run goes on at the next tacit up"
            time.sleep(STEP)
