"""A federation small enough to follow by hand: logistic regression by full-batch descent.

The same ServerApp and ClientApp run in this process, under Ray, and on SuperLink and SuperNodes:
`app` and `server` are what their bundles name. The model holds what models hold: an array, a
number (0-d), and a counter of integers.

Rows have norm at most 1, the constant for the bias included, so the loss of a device is convex
and 1/4-smooth, and a step of descent of length at most 8 moves no two models further apart. That
is what the tolerances of tests/server/test_secure.py are built on.
"""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer

from tacit.client.app import SecureClientApp
from tacit.client.device import DeviceOf, enrolled_device
from tacit.client.policy import Policy
from tacit.crypto.identity import Roster
from tacit.server.loop import Plan, run_rounds
from tacit.strategies.secure import Secure

Floats = NDArray[np.float64]
TrainReply = Callable[[Message, Context], RecordDict]

STEPS = 2
RATE = 4.0
WEIGHT = "num-examples"
OUT, ROSTER = "TACIT_TEST_OUT", "TACIT_TEST_ROSTER"


@cache
def rows() -> tuple[Floats, Floats]:
    """Features (569, 31) with a constant last, norms at most 1; labels -1 or 1."""
    data = load_breast_cancer()
    x = (data.data - data.data.mean(0)) / data.data.std(0)
    x = np.hstack([x, np.ones((len(x), 1))])
    return x / np.linalg.norm(x, axis=1).max(), 2.0 * data.target - 1


def part(partition: int) -> tuple[Floats, Floats]:
    """The examples of one device: 20 for the first, 7 more for each that follows."""
    size = 20 + 7 * partition
    start = 20 * partition + 7 * partition * (partition - 1) // 2
    x, y = rows()
    return x[start : start + size], y[start : start + size]


def initial(dtype: type[np.floating[Any]] = np.float64) -> ArrayRecord:
    arrays = {"w": np.zeros(30, dtype), "b": np.zeros((), dtype), "seen": np.zeros(2, np.int64)}
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def fit(model: dict[str, NDArray[Any]], partition: int, mu: float = 0.0) -> dict[str, NDArray[Any]]:
    """What one device makes of a model: STEPS steps of descent, pulled back by mu/2 |w - model|^2.

    Sums are written with einsum: it adds in one order on every machine and in every process.
    """
    x, y = part(partition)
    start = np.append(model["w"], model["b"]).astype(np.float64)
    w = start.copy()
    for _ in range(STEPS):
        margins = y * np.einsum("ij,j->i", x, w)
        slope = -y / (1 + np.exp(margins))
        w -= RATE * (np.einsum("i,ij->j", slope, x) / len(y) + mu * (w - start))
    dtype = model["w"].dtype
    return {"w": w[:-1].astype(dtype), "b": w[-1].astype(dtype), "seen": model["seen"] + 1}


def record(arrays: dict[str, NDArray[Any]]) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(array)) for name, array in arrays.items()})


def arrays_of(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    return {name: array.numpy() for name, array in record.items()}


def train_reply(message: Message, context: Context) -> RecordDict:
    """What an honest device answers to a train message."""
    partition = int(context.node_config["partition-id"])
    mu = message.content.config_records["config"].get("proximal-mu", 0.0)
    assert isinstance(mu, float)
    trained = record(fit(arrays_of(message.content.array_records["arrays"]), partition, mu))
    metrics = MetricRecord({WEIGHT: len(part(partition)[0]), "loss": 1.0 + partition})
    return RecordDict({"arrays": trained, "metrics": metrics})


def register(app: ClientApp, reply: TrainReply = train_reply) -> ClientApp:
    """Give any ClientApp this federation's training and evaluation; `reply` spoils the training."""

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(reply(message, context), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        model = arrays_of(message.content.array_records["arrays"])
        x, y = part(partition)
        hits = y * (np.einsum("ij,j->i", x[:, :-1], model["w"]) + x[:, -1] * model["b"]) > 0
        metrics = MetricRecord({WEIGHT: len(y), "accuracy": float(hits.mean())})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def secure_app(policy: Policy | None = None, device_of: DeviceOf = enrolled_device) -> ClientApp:
    return register(SecureClientApp(policy, device_of))


def coordinate(grid: Grid, rounds: int, devices: int, roster: Roster | None = None) -> ArrayRecord:
    """Train securely with FedAvg; raises if a round brings no sum."""
    secure = Secure(FedAvg(fraction_evaluate=0.0, min_available_nodes=devices), roster=roster)
    plan = Plan(rounds, timeout=90, seed=1, nodes=devices, node_wait=60)
    result = run_rounds(secure.grid(grid), secure.inner, initial(), plan)
    assert len(result.train_metrics_clientapp) == rounds, "a round was not opened"
    return result.arrays


app = secure_app()
server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """One round; the model goes to the file that TACIT_TEST_OUT names."""
    path = os.environ.get(ROSTER)
    roster = Roster.decode(Path(path).read_bytes()) if path else None
    out = Path(os.environ[OUT])
    model = arrays_of(coordinate(grid, 1, int(os.environ.get("TACIT_TEST_DEVICES", "3")), roster))
    fresh = out.with_suffix(".part.npz")
    np.savez(fresh, **model)  # type: ignore[arg-type]  # numpy types **kwds as bool
    fresh.replace(out)
