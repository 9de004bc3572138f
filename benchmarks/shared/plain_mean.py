"""One round of averaging without any protection, for scale."""

from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from benchmarks.shared.cohort import Cohort, Layers
from benchmarks.shared.meter import Meter
from benchmarks.shared.metered_grid import RUN_ID, MeteredGrid
from tacit.server.flower import identity


def plain_round(cohort: Cohort, meter: Meter) -> list[Layers]:
    """The mean after one round: float32 goes up, and the server keeps a running weighted sum."""
    silent = cohort.silent

    def handle(device: int, message: Message) -> Message:
        update, weight = cohort.update(device, 1), cohort.weights[device]
        with meter.charge(device):
            content = RecordDict(
                {"arrays": _record(update), "metrics": MetricRecord({"n": weight})}
            )
            return Message(content, reply_to=message)

    grid = MeteredGrid(cohort.devices, meter, handle, lambda device, _: device in silent)
    model = _record(cohort.model())
    with identity(RUN_ID), meter.exchange():
        content = RecordDict({"arrays": model})
        ids = grid.push_messages([Message(content, node, "train") for node in grid.nodes])
        total = [np.zeros(layer.shape) for layer in model_layers(model)]
        weights = 0
        for reply in grid.pull_messages(ids):
            if reply.has_error():
                continue
            weight = cast(int, cast(MetricRecord, reply.content["metrics"])["n"])
            weights += weight
            layers = model_layers(cast(ArrayRecord, reply.content["arrays"]))
            for part, layer in zip(total, layers, strict=True):
                part += layer * np.float32(weight)
        return [[(part / weights).astype(np.float32) for part in total]]


def model_layers(record: ArrayRecord) -> Layers:
    """The arrays of a record, in its order."""
    return [array.numpy() for array in record.values()]


def _record(layers: Layers) -> ArrayRecord:
    return ArrayRecord({f"layer {number}": Array(layer) for number, layer in enumerate(layers)})
