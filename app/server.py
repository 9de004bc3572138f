"""The ready-made Flower ServerApp: runs the configured strategy over the configured sum.

`flwr run` loads `tacit.app.server:app`. Where the federation has an authority, the environment
variable TACIT_ROSTER names its signed roster; without it the devices are simulated ones. TACIT_RUNS
names a folder for the run's own folder, in which a run that has a name goes on where it was. With
TACIT_ORDERED, no run is served but one that the supervisor of that folder has begun.
"""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Result,
)

from tacit.app.client import WEIGHT
from tacit.app.config import Settings
from tacit.app.deployment import ticket as tickets
from tacit.app.folder import RunFolder, is_run
from tacit.app.marking import commitments, embed_for
from tacit.app.material import material, trainer_for
from tacit.app.sections import StrategySettings
from tacit.crypto.errors import ParameterError, PolicyRefusal
from tacit.crypto.identity import Roster
from tacit.privacy.ledger import Storage
from tacit.server.ahead import Ahead
from tacit.server.checkpoint import Checkpoint
from tacit.server.events import OnEvent, unheard
from tacit.server.filter import ReplyFilter
from tacit.server.inbox import Tap
from tacit.server.loop import Keep, Plan, run_rounds
from tacit.server.plain import PlainGrid
from tacit.strategies.robust import Robust
from tacit.strategies.secure import AboveSums, Secure
from tacit.strategies.watermark import Watermarked

log = logging.getLogger("tacit.server")

ROSTER = "TACIT_ROSTER"
RUNS = "TACIT_RUNS"
ORDERED = "TACIT_ORDERED"
_SOON, _STEP = 15.0, 0.1  # seconds that a supervisor has to write down what it began


def coordinate(
    grid: Grid,
    settings: Settings,
    *,
    roster: Roster | None = None,
    on_event: OnEvent = unheard,
    tap: Tap | None = None,
    keep: Keep | None = None,
    resume: Checkpoint | None = None,
    storage: Storage | None = None,
    ahead: Ahead | None = None,
    around: Callable[[Grid], Grid] | None = None,
) -> Result:
    """Run the federation that `settings` describe, over `grid`, to its end.

    `storage` is where a private run keeps its ledger, and what it must not lose; in memory by
    default. `ahead` is where sums are written before they are opened and before they are used:
    without it devices are asked again in a round that was interrupted. `around` may put something
    between the strategy and the sum.
    """
    strategy = strategy_for(settings.strategy, evaluates=settings.private is None)
    over: Grid
    private = None
    if settings.secure.protocol == "plain":
        checks = ReplyFilter(WEIGHT, settings.secure.max_weight)
        over = PlainGrid(grid, checks, on_event=on_event, tap=tap)
    else:
        secure = above_sums(strategy, settings, roster, storage)
        over = secure.grid(grid, on_event=on_event, tap=tap, ahead=ahead)
        private = secure.private
    if around is not None:
        over = around(over)
    run, data = settings.run, settings.data
    trainer = trainer_for(settings.model, data, run.seed)
    test = material(data, run.seed).dataset.test

    def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord:
        model = {name: array.numpy() for name, array in arrays.items()}
        loss, accuracy = trainer.evaluate(model, test)
        return MetricRecord({"loss": loss, "accuracy": accuracy})

    initial = {name: Array(np.asarray(array)) for name, array in trainer.initial(run.seed).items()}
    embed = embed_for(settings)
    enough = None if roster is None else settings.enough
    result = run_rounds(
        over,
        strategy if embed is None else Watermarked(strategy, embed),
        ArrayRecord(initial),
        Plan(run.rounds, run.timeout, run.seed, nodes=data.devices, least=enough),
        evaluate_fn=evaluate,
        on_event=on_event,
        keep=keep,
        resume=resume,
    )
    if private is not None:
        private.end()
    return result


def above_sums(
    strategy: FedAvg, settings: Settings, roster: Roster | None, storage: Storage | None
) -> AboveSums:
    """`strategy` over the secure sums that `settings` name. Raises ParameterError where the two do
    not go together."""
    secure, privacy = settings.secure, settings.private
    if not secure.groups:
        return Secure(strategy, settings.sum(), roster=roster, privacy=privacy, storage=storage)
    if privacy is not None:
        raise ParameterError(
            f"secure.groups = {secure.groups} with privacy.mode = {settings.privacy.mode}: noise "
            "is accounted for in one sum a round, and each group's would have to have its own: "
            "leave out one of them"
        )
    return Robust(
        strategy,
        settings.sum(),
        groups=secure.groups,
        hostile=secure.hostile or None,
        anew=secure.regroup,
        roster=roster,
        seed=settings.run.seed,
    )


def strategy_for(settings: StrategySettings, *, evaluates: bool = True) -> FedAvg:
    """One of Flower's strategies, unchanged. A server step size of 0 leaves its own default. Where
    devices have to add noise to all they send, none `evaluates`."""
    everyone: dict[str, Any] = {
        "fraction_train": settings.fraction_train,
        "fraction_evaluate": settings.fraction_evaluate if evaluates else 0.0,
        "weighted_by_key": WEIGHT,
    }
    step: dict[str, Any] = {"eta": settings.learning_rate} if settings.learning_rate else {}
    match settings.name:
        case "fedavg":
            return FedAvg(**everyone)
        case "fedprox":
            return FedProx(**everyone, proximal_mu=settings.proximal_mu)
        case "fedavgm":
            rate = settings.learning_rate or 1.0
            return FedAvgM(**everyone, server_learning_rate=rate, server_momentum=settings.momentum)
        case "fedadam":
            return FedAdam(**everyone, **step)
        case "fedyogi":
            return FedYogi(**everyone, **step)
        case "fedadagrad":
            return FedAdagrad(**everyone, **step)
        case "fedmedian":
            return FedMedian(**everyone)
        case "fedtrimmedavg":
            return FedTrimmedAvg(**everyone, beta=settings.trim)


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation of the run configuration and keep its model."""
    settings = Settings.from_flat(context.run_config)
    path = os.environ.get(ROSTER)
    roster = Roster.decode(Path(path).read_bytes()) if path else None
    runs = os.environ.get(RUNS)
    if runs is None:
        coordinate(grid, settings, roster=roster, on_event=lambda event: log.info("%s", event))
        return
    place = Path(runs) / (settings.run.name or f"run-{context.run_id}")
    if ORDERED in os.environ:
        check_ordered(place, context.run_id)
    is_there = is_run(place)
    folder = RunFolder.open(place) if is_there else RunFolder.create(place, settings)
    resume = folder.resume() if is_there else None  # outside: what is finished stays finished
    with folder:
        if resume is None:
            for each in commitments(settings, simulated=roster is None):
                folder.journal.note(each)
        result = coordinate(
            grid,
            settings,
            roster=roster,
            on_event=folder.record,
            tap=folder.saw,
            keep=folder.keep,
            resume=resume,
            storage=folder.storage,
            ahead=folder.ahead,
        )
        folder.finish(result.arrays)


def check_ordered(place: Path, number: int) -> None:
    """Raises PolicyRefusal unless the run in this folder is the one that Flower calls `number`.

    Whoever is on the server's machine can ask SuperLink for a run, with settings of his choice: it
    writes nothing into a run's folder, asks no device for anything, and reads no data.
    """
    end = time.monotonic() + _SOON
    while (held := tickets.read(place)) is None or held.how or held.number != number:
        if time.monotonic() >= end:
            raise PolicyRefusal(f"nobody ordered Flower's run {number} of this server")
        time.sleep(_STEP)
