"""A whole federation on this machine: from settings to a finished run folder."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Result

from tacit.app.client import make_app, register
from tacit.app.config import Settings
from tacit.app.folder import RunFolder
from tacit.app.server import coordinate
from tacit.client.device import simulated_device
from tacit.server.checkpoint import Checkpoint
from tacit.server.events import Event, LeftOut, OnEvent, unheard
from tacit.server.inbox import Seen, Tap
from tacit.simulations.device import FIRST_NODE_ID
from tacit.simulations.engine import Mode, run_in_process
from tacit.simulations.oracle import ObservedClientApp, Oracle


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
) -> Finished:
    """Run the federation that `settings` describe in this process.

    Every event goes to `on_event`, every update the server could read to `tap`, and both, with a
    checkpoint per round and the model at the end, into `folder`. With secure sums and without
    worker processes an oracle checks each opened sum.
    """
    mode = Mode[settings.run.mode.upper()]
    watched = settings.secure.protocol != "plain" and mode is not Mode.PROCESSES
    oracle = Oracle() if watched else None
    taps: list[Tap] = [t for t in (tap, folder and folder.saw, oracle and oracle.saw) if t]
    ears: list[OnEvent] = [
        e for e in (oracle and oracle.heard, folder and folder.record, on_event) if e
    ]

    def tell(event: Event) -> None:
        if isinstance(event, LeftOut) and event.device >= FIRST_NODE_ID:
            # Not enrolled, or in the clear, a device goes by its node's number: name it as the
            # roster does, so that both kinds of run tell of the same devices.
            event = replace(event, device=event.device - FIRST_NODE_ID + 1)
        for ear in ears:
            ear(event)

    def show(seen: Seen) -> None:
        for each in taps:
            each(seen)

    results: list[Result] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        keep = folder.keep if folder else None
        results.append(
            coordinate(grid, settings, on_event=tell, tap=show, keep=keep, resume=resume)
        )

    run_in_process(
        server,
        _loader(settings, oracle),
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


def _loader(settings: Settings, oracle: Oracle | None) -> Callable[[], ClientApp]:
    policy = settings.policy.policy(plain=settings.secure.protocol == "plain")
    if oracle is not None:
        return lambda: register(ObservedClientApp(oracle, policy))
    return partial(make_app, policy, simulated_device)
