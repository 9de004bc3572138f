"""The round loop: Flower's own, around a strategy's four methods, with what Flower leaves out.

A start round and checkpoints, so that a run goes on where it was interrupted; events as they
happen; a wait for nodes that ends; early stopping; node sampling that a seed repeats.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from tacit.crypto.errors import BudgetExceeded, TooFewClients
from tacit.server.checkpoint import Checkpoint, innermost
from tacit.server.events import (
    BudgetSpent,
    Metrics,
    OnEvent,
    RoundFinished,
    RoundStarted,
    RunFinished,
    RunStarted,
    unheard,
)

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]
Keep = Callable[[Checkpoint], None]
Stop = Callable[[RoundFinished], bool]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long a run goes on and how long it waits.

    rounds      rounds in all, those before a resumption included
    timeout     seconds for the devices' training in one round
    seed        repeats which nodes a strategy samples; None: as the system's randomness has it
    nodes       nodes to wait for before the first round; later, those that the strategy needs
    node_wait   seconds to wait for them before the run is given up
    least       or begun with those that are there, if they are so many; None: all of `nodes`
    """

    rounds: int
    timeout: float = 3600.0
    seed: int | None = None
    nodes: int = 1
    node_wait: float = 120.0
    least: int | None = None


def run_rounds(
    grid: Grid,
    strategy: Strategy,
    initial: ArrayRecord,
    plan: Plan,
    *,
    train_config: ConfigRecord | None = None,
    evaluate_config: ConfigRecord | None = None,
    evaluate_fn: EvaluateFn | None = None,
    on_event: OnEvent | None = None,
    keep: Keep | None = None,
    resume: Checkpoint | None = None,
    stop: Stop | None = None,
) -> Result:
    """Run `strategy` to the end of the plan, or until `stop` says so after a round.

    `keep` is handed a checkpoint after every round, before the round counts as finished; `resume`
    is one of those. The model keeps the dtypes it has. Where a round would cost more privacy than
    is left, the run ends before it, with the model that it has. Raises TooFewClients if the nodes
    do not come.
    """
    tell = on_event or unheard
    began = time.monotonic()
    arrays, first = initial, 1
    if resume is not None:
        arrays, first = resume.restore(strategy), resume.round + 1
    result = Result()
    result.arrays = arrays
    needed = _needed(strategy)
    least = plan.nodes if plan.least is None else plan.least
    _wait_for_nodes(grid, max(plan.nodes, needed), plan.node_wait, max(least, needed))
    tell(RunStarted(plan.rounds, first - 1))
    if evaluate_fn is not None and first == 1:
        _record(result.evaluate_metrics_serverapp, 0, evaluate_fn(0, arrays))
    number = first - 1
    for number in range(first, plan.rounds + 1):
        started = time.monotonic()
        tell(RoundStarted(number, plan.rounds))
        _wait_for_nodes(grid, needed, plan.node_wait)
        if plan.seed is not None:
            random.seed(f"tacit {plan.seed} {number}")  # strategies sample with `random`
        asked = strategy.configure_train(number, arrays, _copy(train_config), grid)
        try:
            replies = grid.send_and_receive(list(asked), timeout=plan.timeout)
        except BudgetExceeded as spent:
            tell(BudgetSpent(number, str(spent)))
            number -= 1
            break
        trained, train_metrics = strategy.aggregate_train(number, list(replies))
        arrays = in_its_dtypes(trained, arrays) if trained is not None else arrays
        result.arrays = arrays
        _record(result.train_metrics_clientapp, number, train_metrics)

        _wait_for_nodes(grid, needed, plan.node_wait)
        asked = strategy.configure_evaluate(number, arrays, _copy(evaluate_config), grid)
        replies = grid.send_and_receive(list(asked), timeout=plan.timeout)
        evaluate_metrics = strategy.aggregate_evaluate(number, list(replies))
        _record(result.evaluate_metrics_clientapp, number, evaluate_metrics)

        server_metrics = evaluate_fn(number, arrays) if evaluate_fn is not None else None
        _record(result.evaluate_metrics_serverapp, number, server_metrics)
        finished = RoundFinished(
            number,
            plan.rounds,
            time.monotonic() - started,
            _numbers(train_metrics),
            _numbers(evaluate_metrics),
            _numbers(server_metrics),
        )
        if keep is not None:
            keep(Checkpoint.of(number, arrays, strategy, finished))
        tell(finished)
        if stop is not None and stop(finished):
            break
    tell(RunFinished(number, time.monotonic() - began))
    return result


def _needed(strategy: Strategy) -> int:
    """The nodes without which one of Flower's strategies does not send anything."""
    names = ("min_available_nodes", "min_train_nodes", "min_evaluate_nodes")
    inner = innermost(strategy)
    return max(int(getattr(inner, name, 0)) for name in names)


def _wait_for_nodes(grid: Grid, nodes: int, seconds: float, least: int | None = None) -> None:
    """Strategies wait for their nodes for ever; this wait ends. Raises TooFewClients if they are
    fewer than `least` (all of them) by then."""
    end = time.monotonic() + seconds
    while (online := len(list(grid.get_node_ids()))) < nodes:
        if time.monotonic() >= end:
            if least is not None and online >= least:
                return
            raise TooFewClients(
                f"{online} of {nodes} devices are online after {seconds:g} s: "
                "start the others, or lower the number of devices"
            )
        time.sleep(min(0.5, seconds))


def in_its_dtypes(new: ArrayRecord, old: ArrayRecord) -> ArrayRecord:
    """`new` in the dtypes of `old`, integers rounded to the nearest.

    Strategies average in float64: a float32 model would double on the wire, and a counter become a
    fraction that no device's own model holds.
    """
    out = {}
    for name, array in new.items():
        if name in old and array.dtype != old[name].dtype:
            dtype = np.dtype(old[name].dtype)
            value = array.numpy()
            array = Array(np.asarray((np.rint(value) if dtype.kind in "iu" else value), dtype))
        out[name] = array
    return ArrayRecord(out)


def _copy(config: ConfigRecord | None) -> ConfigRecord:
    # Strategies write the round into the configuration they are given.
    return ConfigRecord(dict(config or {}))


def _record(into: dict[int, MetricRecord], number: int, metrics: MetricRecord | None) -> None:
    if metrics is not None:
        into[number] = metrics


def _numbers(metrics: MetricRecord | None) -> Metrics:
    if metrics is None:
        return {}
    return {name: float(v) for name, v in metrics.items() if isinstance(v, int | float)}
