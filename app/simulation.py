"""A whole federation on this machine: from settings to a finished run folder."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Result

from tacit.app.client import make_app, register
from tacit.app.config import Settings
from tacit.app.folder import DEVICE_LOG, RunFolder
from tacit.app.marking import commitments
from tacit.app.server import coordinate
from tacit.client.device import simulated_device
from tacit.client.policy import Policy
from tacit.crypto.errors import ParameterError
from tacit.privacy.ledger import Storage
from tacit.server.checkpoint import Checkpoint
from tacit.server.events import Event, KeyChanged, LeftOut, OnEvent, unheard
from tacit.server.inbox import Seen, Tap
from tacit.simulations.engine.device import FIRST_NODE_ID
from tacit.simulations.engine.grid import Mode, run_in_process
from tacit.simulations.hostile import HostileServer
from tacit.simulations.oracle import ObservedClientApp, Oracle, Trained

_DEVICE_LOGGER = logging.getLogger("tacit.client")


@dataclass(frozen=True, slots=True)
class Finished:
    """What a simulation leaves in memory. `oracle` is None where sums could not be checked."""

    result: Result
    oracle: Oracle | None


def simulate(
    settings: Settings,
    *,
    on_event: OnEvent = unheard,
    tap: Tap | None = None,
    folder: RunFolder | None = None,
    resume: Checkpoint | None = None,
    hostile: HostileServer | None = None,
    trained: Trained | None = None,
    storage: Storage | None = None,
) -> Finished:
    """Run the federation that `settings` describe in this process.

    Every event goes to `on_event`, every update the server could read to `tap`, and both, with a
    checkpoint per round, the devices' log and the model at the end, into `folder`. Events name
    devices 0, 1, ... as faults and partitions do. With secure sums and without worker processes
    an oracle checks each opened sum.

    Without a folder, `storage` is where a private run keeps its ledger. A `hostile` server sends
    models of its own design; where devices refuse them, events have their reasons. `trained` is
    told what each device made of the model, before anything was done to it: the truth that a
    scorer needs. Like the oracle it takes secure sums without worker processes.
    """
    mode = Mode[settings.run.mode.upper()]
    watched = settings.secure.protocol != "plain" and mode is not Mode.PROCESSES
    oracle = Oracle(trained) if watched else None
    if trained is not None and oracle is None:
        raise ParameterError("what devices trained is only told of secure sums in this process")
    taps: list[Tap] = [t for t in (tap, folder and folder.saw, oracle and oracle.saw) if t]
    ears: list[OnEvent] = [e for e in (folder and folder.record, on_event) if e]

    def tell(event: Event) -> None:
        if oracle is not None:
            oracle.heard(event)  # it knows devices by the roster's numbers
        if isinstance(event, LeftOut):
            event = _by_partition(event, settings)
        if isinstance(event, KeyChanged) and event.device is not None:
            event = replace(event, device=event.device - 1)
        for ear in ears:
            ear(event)

    def show(seen: Seen) -> None:
        for each in taps:
            each(seen)

    results: list[Result] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        around = None if hostile is None else hostile.above
        results.append(
            coordinate(
                grid if hostile is None else hostile.beneath(grid),
                settings,
                on_event=tell,
                tap=show,
                keep=folder.keep if folder else None,
                resume=resume,
                storage=folder.storage if folder else storage,
                ahead=folder.ahead if folder else None,
                around=around,
            )
        )

    if folder is not None and resume is None:
        for each in commitments(settings, simulated=True):
            folder.journal.note(each)
    log_path = folder.path / DEVICE_LOG if folder else None
    with _logged(log_path):
        run_in_process(
            server,
            _loader(settings, oracle, log_path),
            devices=settings.data.devices,
            run_config=settings.flat(),
            mode=mode,
            workers=settings.run.workers or None,
            faults=settings.fault_plan,
        )
    result = results[0]
    if folder is not None:
        folder.finish(result.arrays)
    return Finished(result, oracle)


def _by_partition(event: LeftOut, settings: Settings) -> LeftOut:
    """The event with its device as faults and partitions name it: from 0.

    A secure sum numbers the enrolled as the roster does, from 1; a device that has not enrolled,
    or answers in the clear, goes by its node's number.
    """
    by_node = settings.secure.protocol == "plain" or event.stage == "enrol"
    first = FIRST_NODE_ID if by_node else 1
    reason = event.reason.removeprefix(f"{event.stage}: device {event.device}: ")
    return replace(event, device=event.device - first, reason=reason)


@contextmanager
def _logged(path: Path | None) -> Iterator[None]:
    """Inside the block the devices' log goes to this file, which is made when there is something
    to tell; without one, wherever logging is set up to go."""
    if path is None:
        yield
        return
    handler = _log_to(path)
    try:
        yield
    finally:
        _DEVICE_LOGGER.removeHandler(handler)
        _DEVICE_LOGGER.propagate = True
        handler.close()


def _log_to(path: Path) -> logging.Handler:
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    _DEVICE_LOGGER.addHandler(handler)
    _DEVICE_LOGGER.propagate = False
    return handler


def _loader(
    settings: Settings, oracle: Oracle | None, log_path: Path | None
) -> Callable[[], ClientApp]:
    policy = settings.policy.policy(plain=settings.secure.protocol == "plain")
    if oracle is not None:
        return lambda: register(ObservedClientApp(oracle, policy))
    in_worker = log_path if settings.run.mode == "processes" else None
    return partial(_load, policy, in_worker)


def _load(policy: Policy, log_path: Path | None) -> ClientApp:
    """Also called in worker processes, which live as long as the run: there the log stays."""
    if log_path is not None:
        _log_to(log_path)
    return make_app(policy, simulated_device)
