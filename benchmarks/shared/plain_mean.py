"""One round of averaging without any protection, for scale: as lean as it gets, and as Flower's own
FedAvg does it."""

from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from benchmarks.shared.cohort import Cohort, Layers
from benchmarks.shared.meter import Meter
from benchmarks.shared.metered_grid import RUN_ID, MeteredGrid
from tacit.server.flower import identity

WEIGHT = "num-examples"


def plain_round(cohort: Cohort, meter: Meter) -> list[Layers]:
    """The mean after one round: float32 goes up, and the server keeps a running weighted sum."""
    grid, model = _grid(cohort, meter), _record(cohort.model())
    with identity(RUN_ID), meter.exchange():
        ids = grid.push_messages(_messages(grid, model))
        total = [np.zeros(layer.shape) for layer in model_layers(model)]
        weights = 0
        for reply in grid.pull_messages(ids):
            if reply.has_error():
                continue
            weight = cast(int, cast(MetricRecord, reply.content["metrics"])[WEIGHT])
            weights += weight
            layers = model_layers(cast(ArrayRecord, reply.content["arrays"]))
            for part, layer in zip(total, layers, strict=True):
                part += layer * np.float32(weight)
        return [[(part / weights).astype(np.float32) for part in total]]


def fedavg_round(cohort: Cohort, meter: Meter) -> list[Layers]:
    """The same by the strategy that Flower comes with, which takes all replies at once."""
    grid, model, strategy = _grid(cohort, meter), _record(cohort.model()), FedAvg()
    with identity(RUN_ID), meter.exchange():
        replies = grid.send_and_receive(_messages(grid, model))
        arrays, _ = strategy.aggregate_train(1, replies)
    if arrays is None:
        raise RuntimeError("Flower's FedAvg gave no model")
    return [model_layers(arrays)]


def _grid(cohort: Cohort, meter: Meter) -> MeteredGrid:
    """Devices that answer with their update."""
    silent = cohort.silent

    def handle(device: int, message: Message) -> Message:
        update, weight = cohort.update(device, 1), cohort.weights[device]
        with meter.charge(device):
            content = RecordDict(
                {"arrays": _record(update), "metrics": MetricRecord({WEIGHT: weight})}
            )
            return Message(content, reply_to=message)

    return MeteredGrid(cohort.devices, meter, handle, lambda device, _: device in silent)


def _messages(grid: MeteredGrid, model: ArrayRecord) -> list[Message]:
    content = RecordDict({"arrays": model})
    return [Message(content, node, "train") for node in grid.nodes]


def model_layers(record: ArrayRecord) -> Layers:
    """The arrays of a record, in its order."""
    return [array.numpy() for array in record.values()]


def _record(layers: Layers) -> ArrayRecord:
    return ArrayRecord({f"layer {number}": Array(layer) for number, layer in enumerate(layers)})
